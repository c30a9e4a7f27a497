"""Verification by plain SQL: row counts against the snapshot, orphans of every foreign key, and the plan's smoke tests.

Everything here reads only. Each function opens one transaction, READ ONLY and REPEATABLE READ, so that all its figures are
of one moment, and none of its queries can change the target. Wrong data is a result; what could not be looked at is
``unknown`` or an error, never a pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.target import catalog
from include.cutover.target.catalog import ForeignKey

log = logging.getLogger(__name__)

SNAPSHOT = "snapshot"
REFERENCE_DATA = "reference data"
SHOWN_KEYS = 20
SMOKE_COLUMNS = ("name", "passed", "found")

_RELATIONS = """
SELECT c.relname, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_BOOLEAN = 16  # type oid of PostgreSQL's boolean


@dataclass(frozen=True)
class ExpectedCount:
    """Rows that a table must hold, and where that number comes from, e.g. ``snapshot`` or ``reference data``."""

    rows: int
    origin: str = SNAPSHOT


@dataclass(frozen=True)
class Reconciliation:
    """Both sides of one table.

    Attributes:
        source_rows: What the table must hold.
        target_rows: What the target holds; None where it could not be counted.
        origin: Where ``source_rows`` comes from.
        problem: Why it could not be counted; empty otherwise.
    """

    table: str
    source_rows: int
    target_rows: int | None
    origin: str = SNAPSHOT
    problem: str = ""

    @property
    def delta(self) -> int | None:
        """Rows too many (positive) or missing (negative); None where the target could not be counted."""
        return None if self.target_rows is None else self.target_rows - self.source_rows

    def check(self, schema: str) -> Check:
        """The same as a check for the observer."""
        return Check(
            name=f"row_count_{identifier(self.table)}",
            title=f"rows of {self.table} are as many as expected",
            outcome="unknown" if self.delta is None else "passed" if self.delta == 0 else "failed",
            expected=count_text(self.source_rows, self.origin),
            found=self.problem if self.target_rows is None else count_text(self.target_rows, delta=self.delta),
            do="" if self.delta == 0 else UNCOUNTED if self.delta is None else MISMATCH,
            where=f"{schema}.{self.table}",
        )


@dataclass(frozen=True)
class OrphanResult:
    """Rows whose foreign key points to nothing.

    Attributes:
        count: All of them; None where they could not be counted.
        keys: The first ``SHOWN_KEYS`` in the order of the primary key: primary key and referencing value of each, as text.
        problem: Why they could not be counted; empty otherwise.
    """

    foreign_key: ForeignKey
    count: int | None
    keys: tuple[Mapping[str, str], ...] = ()
    problem: str = ""

    def check(self, schema: str) -> Check:
        """The same as a check for the observer."""
        key = self.foreign_key
        return Check(
            name=orphans_name(key),
            title=orphan_title(key),
            outcome="unknown" if self.count is None else "failed" if self.count else "passed",
            expected="no orphan",
            found=self.problem if self.count is None else orphan_text(self.count, self.keys),
            do="" if self.count == 0 else UNCOUNTED if self.count is None else ORPHANS,
            where=f"{schema}.{key.table}",
        )


MISMATCH = "Do not go live. Compare the table's chunks in the ledger with the snapshot, correct the cause and start again."
ORPHANS = "Do not go live. Correct these rows in the source application and start again; they are there as well."
UNCOUNTED = "Do not go live on a guess. Remove the reason why it could not be looked at and run the step again."


def identifier(text: str) -> str:
    """A name as part of a check's stable identifier; one that had to be changed keeps apart from others by a digest."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return plain if plain == text else f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("_")


def rows_text(rows: int) -> str:
    """``1 row``, ``12,345 rows``."""
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def count_text(rows: int, origin: str = "", delta: int | None = None) -> str:
    """A number of rows with its origin, or with how far it is off."""
    if origin:
        return f"{rows_text(rows)} ({origin})"
    return f"{rows_text(rows)} ({delta:+,})" if delta else rows_text(rows)


def orphans_name(key: ForeignKey) -> str:
    """Stable identifier of the check for a foreign key, whose own name is unique in its table only."""
    return f"orphans_{identifier(key.table)}_{identifier(key.name)}"


def orphan_title(key: ForeignKey) -> str:
    """What a foreign key demands, in plain words."""
    columns = ", ".join(key.columns)
    return f"every {key.table}.{columns} refers to an existing row of {key.referenced_table}"


def key_text(key: Mapping[str, str]) -> str:
    """``id=5, device_id=17``."""
    return ", ".join(f"{column}={value}" for column, value in key.items())


def orphan_text(count: int, keys: Collection[Mapping[str, str]]) -> str:
    """The number of orphans and the keys that are known."""
    if not count:
        return "no orphan"
    shown = "; ".join(key_text(key) for key in keys if key)
    more = f"; and {count - len(keys):,} more" if count > len(keys) and shown else ""
    return f"{count:,} orphan{'' if count == 1 else 's'}" + (f": {shown}{more}" if shown else "")


def expected_counts(
    snapshot: Mapping[str, int], reference: Mapping[str, int] | None = None, quarantined: Mapping[str, int] | None = None
) -> dict[str, ExpectedCount]:
    """What every table must hold: the rows of the snapshot, and those that reference data brought where it had none.

    Args:
        snapshot: Rows per table in the snapshot.
        reference: Rows that reference data put into tables without rows in the snapshot.
        quarantined: Rows of the snapshot that the plan's decisions took out before the copy.

    Raises:
        CannotCheck: When reference data went into a table that the snapshot fills, or into one that it does not know: the
            number could then not be said to come from either.
    """
    expected = {}
    for table, rows in snapshot.items():
        out = (quarantined or {}).get(table, 0)
        expected[table] = ExpectedCount(rows - out, f"{SNAPSHOT}, less {out:,} in quarantine" if out else SNAPSHOT)
    for table, rows in (reference or {}).items():
        if table not in expected or expected[table].rows:
            raise CannotCheck(
                "reference data belongs only into tables that have no rows in the snapshot",
                where=table,
                expected="0 rows in the snapshot",
                found="a table that the snapshot does not know"
                if table not in expected
                else f"{rows_text(expected[table].rows)} in the snapshot and {rows:,} of reference data",
                do="Correct the SQL file under reference/.",
            )
        expected[table] = ExpectedCount(rows, REFERENCE_DATA)
    return expected


@contextlib.contextmanager
def session(conninfo: str, schema: str, *, seconds: float) -> Iterator[catalog.Connection]:
    """A session that cannot write, in which unqualified names mean ``schema``.

    Args:
        conninfo: libpq connection string.
        seconds: How long one statement may take.

    Raises:
        Unreachable: When the server does not answer, refuses the log-in or ends the session.
    """
    settings = {
        "statement_timeout": f"{int(seconds * 1000)}ms",
        "default_transaction_read_only": "on",
        # A policy would hide rows from a count without a word; with this the query fails instead.
        "row_security": "off",
    }
    with catalog.session(conninfo, schema, settings=settings) as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield connection


@contextlib.contextmanager
def reading(conninfo: str, schema: str, *, seconds: float) -> Iterator[catalog.Connection]:
    """One read-only transaction that sees one moment, rolled back at the end. Arguments and errors as for ``session``."""
    with session(conninfo, schema, seconds=seconds) as connection, connection.transaction(force_rollback=True):
        yield connection


def query_problem(error: psycopg.Error) -> str:
    """Why a query could not be answered, without the values it was about."""
    if isinstance(error, psycopg.errors.QueryCanceled):
        return "the query took longer than it may"
    return catalog.primary_message(error)


def relation_problem(connection: psycopg.Connection, schema: str, tables: Collection[str]) -> dict[str, str]:
    """The names among ``tables`` that are no table of the schema, with what they are instead."""
    kinds: dict[str, str] = dict(connection.execute(_RELATIONS, [schema]).fetchall())
    problems = {}
    for table in tables:
        if table not in kinds:
            problems[table] = f"no such table in schema {schema}"
        elif kinds[table] in _KINDS:
            problems[table] = f"{_KINDS[kinds[table]]}, no table"
    return problems


def count_checks(
    conninfo: str, schema: str, expected: Mapping[str, ExpectedCount | int], *, seconds: float = 300
) -> list[Reconciliation]:
    """Count the rows of every expected table, all in one moment.

    A table that is missing, is no table or cannot be counted has ``target_rows`` None and says why; its check is
    ``unknown``.

    Args:
        expected: Rows per table; a plain number comes from the snapshot.
        seconds: How long one count may take.

    Raises:
        CannotCheck: When no table is expected.
        Unreachable: When the server does not answer.
    """
    if not expected:
        raise CannotCheck(
            "there is no table to count",
            where=schema,
            expected="the tables of the plan",
            do="Look at the backup's manifest.",
        )
    found = []
    with reading(conninfo, schema, seconds=seconds) as connection:
        problems = relation_problem(connection, schema, expected.keys())
        for table, wanted in expected.items():
            count = wanted if isinstance(wanted, ExpectedCount) else ExpectedCount(wanted)
            rows, problem = None, problems.get(table, "")
            if not problem:
                query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
                try:
                    with connection.transaction():
                        rows = int(_one(connection.execute(query))[0])
                except psycopg.Error as error:
                    if connection.broken or connection.closed:
                        raise
                    problem = query_problem(error)
            found.append(Reconciliation(table, count.rows, rows, count.origin, problem))
    return found


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise CannotCheck("a query that must give a row gave none")
    return tuple(row)


def key_columns(key: ForeignKey, primary_key: Collection[str], secret: Collection[str] = ()) -> list[str]:
    """The columns that name an orphan: primary key, then the referencing columns; never one whose content is secret."""
    return [column for column in dict.fromkeys([*primary_key, *key.columns]) if column not in set(secret)]


def orphan_rows(schema: str, key: ForeignKey) -> sql.Composed:
    """``FROM … AS child WHERE …``: the rows of a foreign key's table that refer to nothing.

    A row with NULL in any referencing column is no orphan (MATCH SIMPLE, which is what PostgreSQL enforces by default).
    """
    equal = [
        sql.SQL("parent.{} = child.{}").format(sql.Identifier(theirs), sql.Identifier(ours))
        for ours, theirs in zip(key.columns, key.referenced_columns, strict=True)
    ]
    return sql.SQL("FROM {} AS child WHERE {} AND NOT EXISTS (SELECT FROM {} AS parent WHERE {})").format(
        sql.Identifier(schema, key.table),
        sql.SQL(" AND ").join(sql.SQL("child.{} IS NOT NULL").format(sql.Identifier(column)) for column in key.columns),
        sql.Identifier(schema, key.referenced_table),
        sql.SQL(" AND ").join(equal),
    )


def _child(columns: Collection[str], *, as_text: bool = False) -> sql.Composed:
    form = sql.SQL("child.{}::text") if as_text else sql.SQL("child.{}")
    return sql.SQL(", ").join(form.format(sql.Identifier(column)) for column in columns)


def orphan_checks(
    conninfo: str,
    schema: str,
    secret: Mapping[str, Collection[str]] | None = None,
    *,
    seconds: float = 300,
    keys: int = SHOWN_KEYS,
) -> list[OrphanResult]:
    """Look for orphans of every foreign key that the catalog knows, validated or not, all in one moment.

    Only keys are read: the primary key of the referencing row and the value that refers to nothing.

    Args:
        secret: Columns per table whose content is never shown.
        seconds: How long one query may take.
        keys: How many orphans are named; all are counted.

    Returns:
        One result per foreign key, in the catalog's order; none where the schema has no foreign key.

    Raises:
        Unreachable: When the server does not answer.
    """
    results = []
    with reading(conninfo, schema, seconds=seconds) as connection:
        for key in catalog.foreign_keys(connection, schema):
            primary = catalog.primary_key(connection, schema, key.table)
            shown = key_columns(key, primary, (secret or {}).get(key.table, ()))
            body = orphan_rows(schema, key)
            count: int | None
            named: tuple[Mapping[str, str], ...] = ()
            problem = ""
            try:
                with connection.transaction():
                    count = int(_one(connection.execute(sql.SQL("SELECT count(*) {}").format(body)))[0])
                    if count and shown:
                        query = sql.SQL("SELECT {} {} ORDER BY {} LIMIT {}").format(
                            _child(shown, as_text=True), body, _child(primary or key.columns), sql.Literal(keys)
                        )
                        named = tuple(
                            {column: "NULL" if value is None else value for column, value in zip(shown, row, strict=True)}
                            for row in connection.execute(query)
                        )
            except psycopg.Error as error:
                if connection.broken or connection.closed:
                    raise
                count, named, problem = None, (), query_problem(error)
            results.append(OrphanResult(key, count, named, problem))
    return results


def smoke_test_database(conninfo: str, schema: str, sql_folder: Path, *, seconds: float = 60) -> list[Check]:
    """Ask the plan's own questions: every ``smoke/*.sql`` below ``sql_folder``, in the order of their names.

    Each file is one query that returns rows ``(name text, passed boolean, found text)``; each row becomes a check. The
    query runs with ``schema`` as search path, in a read-only transaction of its own that is rolled back. A file that cannot
    be run, returns other columns or no rows is ``unknown``: nothing was looked at.

    Args:
        seconds: How long one query may take.

    Raises:
        CannotCheck: When there is no such file.
        Unreachable: When the server does not answer.
    """
    folder = sql_folder / "smoke"
    files = sorted(folder.glob("*.sql"))
    if not files:
        raise CannotCheck(
            "there are no smoke tests of the database",
            where=str(folder),
            expected="at least one file *.sql",
            found="none" if folder.is_dir() else "no such folder",
            do="Write queries that return name, passed and found.",
        )
    checks = []
    for file in files:
        with reading(conninfo, schema, seconds=seconds) as connection:
            try:
                checks += _smoke_checks(connection, file)
            except UnicodeDecodeError:
                checks.append(_unasked(file, "the file is not UTF-8"))
            except psycopg.Error as error:
                if connection.broken or connection.closed:
                    raise
                checks.append(_unasked(file, query_problem(error)))
    return checks


def _smoke_checks(connection: psycopg.Connection, file: Path) -> list[Check]:
    cursor = connection.execute(file.read_text(encoding="utf-8").encode())
    if cursor.nextset():
        return [_unasked(file, "more than one statement")]
    columns = tuple(column.name for column in cursor.description or ())
    if columns != SMOKE_COLUMNS or (cursor.description or [])[1].type_code != _BOOLEAN:
        return [_unasked(file, f"columns {', '.join(columns) or 'none'}")]
    rows = cursor.fetchall()
    if not rows:
        return [_unasked(file, "no rows")]
    where = f"smoke/{file.name}"
    checks = []
    for name, passed, found in rows:
        title = str(name or "").strip() or file.stem
        text = "" if found is None else str(found)
        checks.append(
            Check(
                name=f"smoke_{identifier(f'{file.stem}_{title}')}",
                title=title,
                outcome="unknown" if passed is None else "passed" if passed else "failed",
                expected="true",
                found=text if passed is not None else f"the query gave NULL instead of an answer; {text}".rstrip("; "),
                do=""
                if passed
                else UNCOUNTED
                if passed is None
                else "Do not go live. Run the file in psql and follow it up.",
                where=where,
            )
        )
    return checks


def _unasked(file: Path, problem: str) -> Check:
    return Check(
        name=f"smoke_{identifier(file.stem)}",
        title=f"the questions of {file.name}",
        outcome="unknown",
        expected=f"one query with the columns {', '.join(SMOKE_COLUMNS)} (text, boolean, text) and at least one row",
        found=problem,
        do="Correct the file; it must run as it is in psql.",
        where=f"smoke/{file.name}",
    )
