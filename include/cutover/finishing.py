"""What makes a loaded schema whole: foreign keys validated, sequences past the keys, statistics. And its taking back.

Every transaction that changes something calls the guard first, and all of a function's changes of one object commit or
roll back together: a process that is killed leaves a state from which the same call goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from include.cutover import catalog
from include.cutover.catalog import ForeignKey, Sequence, session
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, Refused, StepFailed, WrongData
from include.cutover.migrations import RECORD_TABLE, Guard, applied, hold_runner_lock, objects

log = logging.getLogger(__name__)

SHOWN_KEYS = 5

# It is needed by something else, it went with something else, or DROP has no such word: a "statistics object" goes with its
# table.
_NOT_YET = (
    errors.DependentObjectsStillExist,
    errors.UndefinedObject,
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.SyntaxError,
)

_LARGEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


@dataclass(frozen=True)
class SequenceState:
    """Where a sequence stands.

    Attributes:
        max_value: Greatest key in the column; None where the table is empty.
        source_value: What SQLite had given away for the table; None where it kept no record.
        next_value: What the sequence gives next; greater than both.
    """

    name: str
    table: str
    column: str
    max_value: int | None
    source_value: int | None
    next_value: int


def row_counts(conninfo: str, schema: str, tables: Iterable[str]) -> dict[str, int]:
    """Rows of each of these tables, counted in one snapshot."""
    with session(conninfo, schema) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            counts = {}
            for table in tables:
                query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
                row = connection.execute(query).fetchone()
                counts[table] = int(row[0]) if row else 0
            return counts


def validate_foreign_keys(conninfo: str, schema: str, guard: Guard | None = None) -> list[ForeignKey]:
    """Let PostgreSQL hold the loaded rows to every constraint that is NOT VALID, and return the foreign keys.

    Reads and writes go on meanwhile. Safe to run twice: what is valid is not validated again. Each constraint is a
    transaction of its own, and one that does not hold does not keep the others from being tried.

    Raises:
        WrongData: Naming every constraint that rows violate, with their number and the first of their primary keys.
        StepFailed: When PostgreSQL refuses for another reason, or a constraint is still NOT VALID afterwards.
    """
    violated = []
    with session(conninfo, schema) as connection:
        keys = {(key.table, key.name): key for key in catalog.foreign_keys(connection, schema)}
        for table, name in catalog.not_valid(connection, schema):
            try:
                with connection.transaction():
                    if guard is not None:
                        guard(connection)
                    connection.execute(
                        sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
                            sql.Identifier(schema, table), sql.Identifier(name)
                        )
                    )
            except errors.ForeignKeyViolation:
                violated.append(_orphans(connection, schema, keys[table, name]))
            except (errors.CheckViolation, errors.NotNullViolation):
                violated.append(f"{name} of {table}: rows that do not hold to it")
            except psycopg.Error as error:
                raise catalog.as_cutover_error(error, f"{table}.{name}") from None
        if violated:
            raise WrongData(
                "rows violate constraints of the target",
                where=f"schema {schema}",
                found="; ".join(violated),
                do="Do not go live. Decide about these rows in the source or in the plan, then run the cutover again.",
            )
        left = catalog.unvalidated_constraints(connection, schema)
        if left:
            raise StepFailed("constraints are still NOT VALID", where=f"schema {schema}", found=", ".join(left))
        return catalog.foreign_keys(connection, schema)


def _orphans(connection: psycopg.Connection, schema: str, key: ForeignKey) -> str:
    """One clause about the orphans of a foreign key: their number, and primary keys; nothing else of the rows."""
    child, parent = sql.Identifier(schema, key.table), sql.Identifier(schema, key.referenced_table)
    orphaned = sql.SQL("FROM {} AS child WHERE {} AND NOT EXISTS (SELECT FROM {} AS parent WHERE {})").format(
        child,
        sql.SQL(" AND ").join(sql.SQL("child.{} IS NOT NULL").format(sql.Identifier(column)) for column in key.columns),
        parent,
        sql.SQL(" AND ").join(
            sql.SQL("parent.{} = child.{}").format(sql.Identifier(theirs), sql.Identifier(ours))
            for ours, theirs in zip(key.columns, key.referenced_columns, strict=True)
        ),
    )
    row = connection.execute(sql.SQL("SELECT count(*) ") + orphaned).fetchone()
    count = row[0] if row else 0
    text = f"{key.name}: {count:,} orphan{'' if count == 1 else 's'} in {key.table} ({', '.join(key.columns)})"
    primary = catalog.primary_key(connection, schema, key.table)
    if not primary:
        return text
    columns = sql.SQL(", ").join(sql.SQL("child.{}::text").format(sql.Identifier(column)) for column in primary)
    order = sql.SQL(", ").join(sql.SQL("child.{}").format(sql.Identifier(column)) for column in primary)
    query = sql.SQL("SELECT {} ").format(columns) + orphaned + sql.SQL(" ORDER BY {} LIMIT {}").format(order, SHOWN_KEYS)
    shown = [
        ", ".join(f"{column}={value}" for column, value in zip(primary, values, strict=True))
        for values in connection.execute(query)
    ]
    return f"{text}, {'first ' if count > len(shown) else ''}with {' / '.join(shown)}" if shown else text


def set_sequences(
    conninfo: str, schema: str, sqlite_sequence: Mapping[str, int], guard: Guard | None = None
) -> list[SequenceState]:
    """Set every sequence of the schema past the greatest key of its columns and past ``sqlite_sequence``.

    An empty table that SQLite kept no record of starts where its sequence is declared to start. All sequences are set in
    one transaction, with ALTER SEQUENCE: unlike setval it rolls back, so a run without the lease moves none of them. Safe
    to run twice; writers of these tables are kept out meanwhile.

    Args:
        sqlite_sequence: Table to the last key given away, as the source has it.

    Raises:
        WrongData: When there is no number left for the next key.
        CannotCheck: When a sequence is not one of ascending integers.
    """
    with session(conninfo, schema) as connection, connection.transaction():
        if guard is not None:
            guard(connection)
        uses = catalog.sequences(connection, schema)
        for table in sorted({use.table for use in uses}):
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(schema, table)))
        states = []
        for name, columns in _by_sequence(uses).items():
            taken = [_taken(connection, schema, use, sqlite_sequence) for use in columns]
            following = _following(connection, schema, columns, taken)
            connection.execute(
                sql.SQL("ALTER SEQUENCE {} RESTART WITH {}").format(sql.Identifier(schema, name), sql.Literal(following))
            )
            states += [
                SequenceState(name, use.table, use.column, greatest, source, following)
                for use, (greatest, source) in zip(columns, taken, strict=True)
            ]
        return states


def check_sequences(conninfo: str, schema: str, sqlite_sequence: Mapping[str, int], *, draw: bool = True) -> list[Check]:
    """Draw the next value of every sequence and compare it with the greatest key and with ``sqlite_sequence``.

    The proof leaves no trace: ALTER SEQUENCE first gives the sequence a new file and keeps others from drawing, then the
    transaction with the draw is rolled back, and the old file is there again. A table of the schema that SQLite counted
    keys for must have a sequence.

    Args:
        draw: False only reads where each sequence stands: nobody who draws has to wait, and no right is needed but to read.

    Raises:
        CannotCheck: When a sequence is not one of ascending integers.
    """
    with session(conninfo, schema) as connection:
        checks = []
        with connection.transaction(force_rollback=True):
            uses = catalog.sequences(connection, schema)
            for name, columns in _by_sequence(uses).items():
                drawn = _draw(connection, schema, name) if draw else None
                taken = [_taken(connection, schema, use, sqlite_sequence) for use in columns]
                if not draw:  # after the keys: a sequence that others draw from only moves on
                    drawn = _standing(connection, schema, name)
                checks += [_ahead(use, drawn, *last) for use, last in zip(columns, taken, strict=True)]
            there = set(catalog.tables(connection, schema))
    for table in sorted(there & set(sqlite_sequence) - {use.table for use in uses}):
        checks.append(
            Check(
                name=f"sequence_{table}",
                title=f"{table} has a sequence for its keys",
                outcome="failed",
                expected=f"a sequence, because SQLite counted keys up to {sqlite_sequence[table]}",
                found="no column of such a table takes its values from a sequence",
                do="Declare the key GENERATED BY DEFAULT AS IDENTITY in the plan's pre_data.",
                where=table,
            )
        )
    return checks


def _ahead(use: Sequence, drawn: int | None, greatest: int | None, source: int | None) -> Check:
    last = max((value for value in (greatest, source) if value is not None), default=None)
    expected = "a first value" if last is None else f"more than {last}"
    if drawn is None:
        found, passed = "the sequence is used up", False
    else:
        found, passed = f"the next value is {drawn}", last is None or drawn > last
    return Check(
        name=f"sequence_{use.table}_{use.column}",
        title=f"the next {use.column} of {use.table} is free",
        outcome="passed" if passed else "failed",
        expected=expected,
        found=found,
        do="" if passed else "Do not go live: new rows would collide with old ones. Set the sequences again.",
        where=f"{use.table}.{use.column}",
    )


def _by_sequence(uses: Iterable[Sequence]) -> dict[str, list[Sequence]]:
    grouped: dict[str, list[Sequence]] = {}
    for use in uses:
        grouped.setdefault(use.name, []).append(use)
    return grouped


def _draw(connection: psycopg.Connection, schema: str, name: str) -> int | None:
    """The next value of a sequence, None where there is none left. Only for a transaction that is rolled back."""
    increment = _properties(connection, schema, name)[1]
    sequence = sql.Identifier(schema, name)
    # Says what it already says; the point is the new file and the lock against others who draw.
    connection.execute(sql.SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(sequence, sql.Literal(increment)))
    try:
        with connection.transaction():
            row = connection.execute("SELECT nextval(%s::regclass)", [sequence.as_string(connection)]).fetchone()
    except errors.SequenceGeneratorLimitExceeded:
        return None
    return None if row is None else int(row[0])


def _standing(connection: psycopg.Connection, schema: str, name: str) -> int | None:
    """The value that a sequence gives next, read and not drawn; None where there is none left."""
    _, increment, largest = _properties(connection, schema, name)
    row = connection.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))).fetchone()
    if row is None:
        raise CannotCheck("the sequence is gone", where=f"{schema}.{name}")
    following = int(row[0]) + (increment if row[1] else 0)
    return following if following <= largest else None


def _taken(
    connection: psycopg.Connection, schema: str, use: Sequence, sqlite_sequence: Mapping[str, int]
) -> tuple[int | None, int | None]:
    """The greatest key of a column, and the last key that SQLite gave away for it."""
    row = connection.execute(
        sql.SQL("SELECT max({}) FROM {}").format(sql.Identifier(use.column), sql.Identifier(schema, use.table))
    ).fetchone()
    greatest = row[0] if row else None
    if greatest is not None and greatest != int(greatest):
        raise CannotCheck("a key that a sequence fills is not an integer", where=f"{use.table}.{use.column}")
    # SQLite counts for the INTEGER PRIMARY KEY alone; another column with a sequence has nothing to do with it.
    primary = catalog.primary_key(connection, schema, use.table)
    counted = use.table in sqlite_sequence and (not primary or use.column in primary)
    return None if greatest is None else int(greatest), int(sqlite_sequence[use.table]) if counted else None


def _following(
    connection: psycopg.Connection,
    schema: str,
    uses: list[Sequence],
    taken: list[tuple[int | None, int | None]],
) -> int:
    name, where = uses[0].name, ", ".join(f"{use.table}.{use.column}" for use in uses)
    start, increment, largest = _properties(connection, schema, name)
    for use in uses:
        kind = next(item.stored_type for item in catalog.columns(connection, schema)[use.table] if item.name == use.column)
        if kind not in _LARGEST or increment < 1:
            raise CannotCheck(
                "a sequence is not one of ascending integers",
                where=f"{use.table}.{use.column}",
                expected="smallint, integer or bigint, and an increment above 0",
                found=f"{kind}, increment {increment}",
                do="Set this sequence by hand and leave it out of the schema's files.",
            )
        largest = min(largest, _LARGEST[kind])
    last = max((value for pair in taken for value in pair if value is not None), default=None)
    following = start if last is None else max(start, last + 1)
    if following > largest:
        raise WrongData(
            "there is no number left for the next key",
            where=where,
            expected=f"at most {largest}",
            found=f"{last} is taken",
            do="Make the column bigint in the plan's pre_data.",
        )
    return following


def _properties(connection: psycopg.Connection, schema: str, name: str) -> tuple[int, int, int]:
    """Declared start, increment and greatest value of a sequence."""
    row = connection.execute(
        "SELECT seqstart, seqincrement, seqmax FROM pg_sequence WHERE seqrelid = %s::regclass",
        [sql.Identifier(schema, name).as_string(connection)],
    ).fetchone()
    if row is None:
        raise CannotCheck("the sequence is gone", where=f"{schema}.{name}")
    return int(row[0]), int(row[1]), int(row[2])


def analyze(conninfo: str, schema: str, guard: Guard | None = None) -> None:
    """Gather the planner's statistics of every table, each in a transaction of its own. Safe to run twice.

    Raises:
        StepFailed: When PostgreSQL left a table out; it only warns about that.
    """
    warnings: list[str] = []
    with session(conninfo, schema) as connection:
        connection.add_notice_handler(
            lambda notice: (
                warnings.append(notice.message_primary or "") if notice.severity_nonlocalized == "WARNING" else None
            )
        )
        for table in catalog.tables(connection, schema):
            with connection.transaction():
                if guard is not None:
                    guard(connection)
                connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table)))
    if warnings:
        raise StepFailed("statistics were not gathered for every table", where=f"schema {schema}", found="; ".join(warnings))


def drop_empty_schema_objects(conninfo: str, schema: str, run_id: str, guard: Guard | None = None) -> list[str]:
    """Take back what the run's SQL files made in the schema, and return the names of the dropped tables.

    Only a schema that this run made from the first file on: where an earlier run has a part in it, nothing is dropped and
    the list is empty; those tables are as good for the next run as they are. All or nothing, in one transaction. Safe to
    run twice: what is gone is gone.

    Raises:
        Refused: When one of the tables holds a row, or something of somebody else depends on one. Nothing was dropped.
    """
    with session(conninfo, schema) as connection, connection.transaction():
        if guard is not None:
            guard(connection)
        hold_runner_lock(connection, schema)
        records = applied(connection, schema)
        others = sorted({record.run_id for record in records if record.run_id != run_id})
        if others or not records:
            log.info("nothing to drop in schema %s: its tables were made by %s", schema, ", ".join(others) or "nobody")
            return []
        record_table = sql.Identifier(schema, RECORD_TABLE)
        made = {
            text
            for (text,) in connection.execute(
                sql.SQL("SELECT DISTINCT unnest(made) FROM {}").format(record_table)
            ).fetchall()
        }
        tables = [table for table in catalog.tables(connection, schema) if _as_object(connection, schema, table) in made]
        _refuse_rows(connection, schema, tables)
        _drop(connection, schema, made)
        connection.execute(sql.SQL("DROP TABLE {}").format(record_table))
        return tables


def _as_object(connection: psycopg.Connection, schema: str, table: str) -> str:
    row = connection.execute(
        "SELECT type || ' ' || identity FROM pg_identify_object('pg_class'::regclass, %s::regclass, 0)",
        [sql.Identifier(schema, table).as_string(connection)],
    ).fetchone()
    return "" if row is None else str(row[0])


def _refuse_rows(connection: psycopg.Connection, schema: str, tables: list[str]) -> None:
    """Lock the tables, so that no row can come after the look, and refuse when there is one."""
    filled = []
    for table in tables:
        name = sql.Identifier(schema, table)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(name))
        if connection.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(name)).fetchone() is not None:
            filled.append(table)
    if filled:
        raise Refused(
            "tables that this run made hold rows",
            where=f"schema {schema}",
            expected="empty tables",
            found=f"rows in {', '.join(filled)}",
            do="Look at the rows; drop the tables by hand if nobody needs them.",
        )


def _drop(connection: psycopg.Connection, schema: str, made: set[str]) -> None:
    """Drop these objects, never with CASCADE: in rounds, because one may have to go before another can."""
    while left := objects(connection, schema) & made:
        tables = sorted(item.removeprefix("table ") for item in left if item.startswith("table "))
        # Tables go together: foreign keys may run in circles. The texts come from PostgreSQL's catalog, quoted.
        rest = sorted(item for item in left if not item.startswith("table "))
        statements = [f"DROP TABLE {', '.join(tables)}"] if tables else []
        statements += [f"DROP {item}" for item in rest]
        problems = []
        for statement in statements:
            try:
                with connection.transaction():
                    connection.execute(statement.encode())
            except _NOT_YET as error:
                # Its DETAIL names the dependent objects, not rows.
                problems.append((error.diag.message_detail or catalog.primary_message(error)).replace("\n", ", "))
        if objects(connection, schema) & made == left:
            raise Refused(
                "something else depends on what this run made",
                where=f"schema {schema}",
                found=problems[0],
                do="Find in psql (\\d+) what depends on it; drop that first, or leave the tables.",
            )
