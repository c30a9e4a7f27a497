"""Compares tables with the plan's reference data, by running the same SQL once more and rolling it back.

The files under ``reference/`` fill tables that the source left empty, and may look up rows of the others. So they are run in
a scratch schema of the target in which those other tables hold what they hold. Values that are not the same each time are
not compared: a time or a random uuid that a default gave. Numbers from a sequence are compared by their distance from the
first, as a first attempt that was rolled back has used some up; a column that refers to them is compared in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
from psycopg import sql

from include.cutover.proof import digests
from include.cutover.proof.differences import Tally, tally
from include.cutover.proof.parts import ComparedTable
from include.cutover.target import catalog, scratch_schema, sql_files, sql_runner
from include.cutover.target.sides import Sides

_COPIED_ROWS = 10_000
_BEFORE = ("pre_data", "migrations", "post_data")


def compare(
    sides: Sides,
    sql_folder: Path,
    connection: psycopg.Connection,
    tables: Mapping[str, ComparedTable],
    filled: Collection[str],
) -> dict[str, tuple[int, int, Tally]]:
    """Compare tables with the rows that the reference data brings. Nothing is left behind, however this process ends.

    Args:
        sides: The snapshot and the target.
        sql_folder: The plan's SQL.
        connection: A transaction in the target that the tables are read in.
        tables: The tables, all without a row in the source.
        filled: The tables that the source filled; reference data cannot write to them here.

    Returns:
        Table → rows that the reference data brings, rows that the table holds, and their differences.

    Raises:
        StepFailed: When the SQL fails.
        Refused: When the pipeline's role may not make a schema.
        Unreachable: When the target does not answer.
    """
    conninfo, schema = sides.conninfo, sides.schema
    numbers = _numbers(connection, schema, tables)
    with _rehearsed(conninfo, schema, sql_folder, filled) as (other, scratch):
        once = {
            table: _fingerprints(other, scratch, _numbered(compared, scratch, numbers)) for table, compared in tables.items()
        }
    with _rehearsed(conninfo, schema, sql_folder, filled) as (other, scratch):
        found = {}
        for table, compared in tables.items():
            again = _fingerprints(other, scratch, _numbered(compared, scratch, numbers))
            same = {name for name, value in again.items() if once[table][name] == value}
            key = _key(other, scratch, table, {name for name in same if (table, name) not in numbers})
            ours, theirs = (_only(_numbered(compared, place, numbers), same, key) for place in (scratch, schema))
            differences = Tally()
            with connection.transaction():
                tally(
                    differences,
                    table,
                    ours.columns,
                    ours.key,
                    digests.target_rows(other, scratch, ours, columns=True),
                    digests.target_rows(connection, schema, theirs, columns=True),
                    sides.secret_of(table),
                )
            found[table] = (_count(other, scratch, table), _count(connection, schema, table), differences)
        return found


@contextmanager
def _rehearsed(
    conninfo: str, schema: str, sql_folder: Path, filled: Collection[str]
) -> Iterator[tuple[psycopg.Connection, str]]:
    """Yield a scratch schema as it is after the reference data was loaded."""
    with scratch_schema.build(conninfo, sql_folder, _BEFORE) as (connection, scratch):
        for table in set(filled) & set(catalog.tables(connection, scratch)) & set(catalog.tables(connection, schema)):
            _fill(connection, schema, scratch, table)
        for migration in sql_files.discover(sql_folder, ("reference",)):
            sql_runner.execute(connection, migration)
        yield connection, scratch


def _fill(connection: psycopg.Connection, schema: str, scratch: str, table: str) -> None:
    """Fill a table of the scratch schema with the rows of the real one; through a view where it is large."""
    names = {"real": sql.Identifier(schema, table), "scratch": sql.Identifier(scratch, table)}
    some = sql.SQL("SELECT count(*) FROM (SELECT FROM {real} LIMIT {most}) AS first_rows")
    few = connection.execute(some.format(most=sql.Literal(_COPIED_ROWS + 1), **names)).fetchone()
    if few is not None and few[0] <= _COPIED_ROWS:
        columns = [column.name for column in catalog.columns(connection, scratch)[table] if not column.generated]
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        copy = sql.SQL("INSERT INTO {scratch} ({listed}) OVERRIDING SYSTEM VALUE SELECT {listed} FROM {real}")
        connection.execute(copy.format(listed=listed, **names))
        return
    connection.execute(sql.SQL("DROP TABLE {scratch} CASCADE").format(**names))
    connection.execute(sql.SQL("CREATE VIEW {scratch} AS SELECT * FROM {real} OFFSET 0").format(**names))
    # Lets "INSERT … WHERE NOT EXISTS (…)" pass, and nothing that would really write.
    refuse = sql.Identifier(scratch, "cutover_refuse")
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RAISE EXCEPTION ''reference data writes to a table that the source filled''; END'"
        ).format(refuse)
    )
    connection.execute(
        sql.SQL(
            "CREATE TRIGGER cutover_refuse INSTEAD OF INSERT OR UPDATE OR DELETE ON {scratch}"
            " FOR EACH ROW EXECUTE FUNCTION {refuse}()"
        ).format(refuse=refuse, **names)
    )


_Numbers = Mapping[tuple[str, str], tuple[str, str]]


def _numbers(connection: psycopg.Connection, schema: str, tables: Collection[str]) -> _Numbers:
    """Map columns that hold a number from a sequence, or refer to such a column, to the column that the sequence fills."""
    found = {
        (use.table, use.column): (use.table, use.column)
        for use in catalog.sequences(connection, schema)
        if use.table in tables
    }
    for key in catalog.foreign_keys(connection, schema):
        if len(key.columns) == 1 and (key.referenced_table, key.referenced_columns[0]) in found:
            found[key.table, key.columns[0]] = found[key.referenced_table, key.referenced_columns[0]]
    return found


def _numbered(compared: ComparedTable, schema: str, numbers: _Numbers) -> ComparedTable:
    """Return the table with numbers counted from the first that was given."""
    columns = []
    for column in compared.columns:
        base = numbers.get((compared.table, column.column))
        if base is not None:
            distance = sql.SQL(
                "CASE WHEN {column} IS NULL THEN '~' ELSE ({column} - (SELECT min({first}) FROM {table}))::text END"
            ).format(
                column=sql.Identifier(column.column), first=sql.Identifier(base[1]), table=sql.Identifier(schema, base[0])
            )
            column = replace(column, type="bigint", in_target=distance, has_length=False)
        columns.append(column)
    return replace(compared, columns=tuple(columns))


def _only(compared: ComparedTable, names: Collection[str], key: Collection[str]) -> ComparedTable:
    columns = {column.column: column for column in compared.columns if column.column in names}
    return replace(compared, columns=tuple(columns.values()), key=tuple(columns[name] for name in key))


def _fingerprints(connection: psycopg.Connection, schema: str, compared: ComparedTable) -> dict[str, str]:
    """Return column → digest of all its values, whatever their order."""
    digest = sql.SQL("encode(sha256(convert_to(string_agg({text}, E'\\n' ORDER BY {text} COLLATE \"C\"), 'UTF8')), 'hex')")
    listed = sql.SQL(", ").join(digest.format(text=column.in_target) for column in compared.columns)
    row = connection.execute(sql.SQL("SELECT {} FROM {}").format(listed, sql.Identifier(schema, compared.table))).fetchone()
    return dict(zip((column.column for column in compared.columns), row or (), strict=True))


def _key(connection: psycopg.Connection, schema: str, table: str, usable: Collection[str]) -> list[str]:
    """Return the columns of a unique index that names the rows; none where each has a column that changes each time."""
    query = """
        SELECT array(SELECT attribute.attname FROM unnest(index.indkey::int2[]) WITH ORDINALITY AS key (attnum, position)
                     JOIN pg_attribute AS attribute USING (attnum)
                     WHERE attribute.attrelid = index.indrelid AND position <= index.indnkeyatts
                     ORDER BY position)::text[]
        FROM pg_index AS index
        WHERE index.indrelid = %s::regclass AND index.indisunique AND index.indpred IS NULL AND index.indexprs IS NULL
        ORDER BY index.indisprimary DESC, index.indexrelid
    """
    rows = connection.execute(query, [sql.Identifier(schema, table).as_string(connection)])
    return next((columns for (columns,) in rows if set(columns) <= set(usable)), [])


def _count(connection: psycopg.Connection, schema: str, table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))).fetchone()
    return int(row[0]) if row else 0
