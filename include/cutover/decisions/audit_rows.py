# ruff: noqa: S608  every identifier is quoted, every value is bound
"""Audits each table that was touched: its rows, the rows that differ, and every recorded value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from include.cutover.checks import Check
from include.cutover.decisions import decided_snapshot
from include.cutover.decisions.audited import NAMED, Audited, verdict
from include.cutover.decisions.decided_snapshot import beside, place
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import TableShape, quote


def counts(audited: Audited, table: str) -> Check:
    """Check that the rows of the backup are the remaining rows and those on record as taken out."""
    rows = {
        schema: audited.connection.execute(f"SELECT count(*) FROM {schema}.{quote(table)}").get
        for schema in ("original", "main")
    }
    removed = audited.connection.execute("SELECT count(*) FROM record.removed WHERE t = ?", (audited.tables[table],)).get
    found = f"{rows['main']:,} rows left and {removed:,} in quarantine"
    wrong = [] if rows["original"] == rows["main"] + removed else [found]
    title = "No row is missing, and none was added"
    return verdict("decided_counts", title, wrong, f"{rows['original']:,} rows", found, table)


def differences(audited: Audited, table: str) -> Check:
    """Check that only rows on record differ from the backup."""
    wrong = [*unexplained(audited, table, compared_all=False)]
    title = "The rows that differ from the backup are the recorded ones"
    return verdict("decided_differences", title, wrong, "no other row differs", where=table)


def unexplained(audited: Audited, table: str, *, compared_all: bool) -> Iterator[str]:
    """Return the rows that differ between the two files and are not on record; stop after a few.

    Args:
        audited: The subject.
        table: Name of the table.
        compared_all: Ignore the record: every difference is one.
    """
    shape = source_schema.shape(audited.connection, table)
    t = -1 if compared_all else audited.tables[table]
    was, now = f"original.{quote(table)} AS was", f"main.{quote(table)} AS now"
    if shape.rowid is not None:
        same = f"{place(shape, 'was')} = {place(shape, 'now')}"
    else:
        same = " AND ".join(f"was.{quote(key.name)} = now.{quote(key.name)}" for key in shape.order)
    here, there = place(shape, "was"), place(shape, "now")
    removed = f"(SELECT place FROM record.removed WHERE t = {t})"
    touched = f"(SELECT place FROM record.touched WHERE t = {t})"
    differ = f"NOT {_equal(_comparable_columns(audited, table), 'was', 'now')}"
    queries = {
        "changed": f"FROM {was} CROSS JOIN {now} ON {same} WHERE {differ} AND {here} NOT IN {touched}",
        "missing": f"FROM {was} WHERE {here} NOT IN {removed} AND NOT EXISTS (SELECT 1 FROM {now} WHERE {same})",
        "new": f"FROM {now} WHERE NOT EXISTS (SELECT 1 FROM {was} WHERE {same})",
        "still there": f"FROM {now} WHERE {there} IN {removed}",
    }
    for difference, clause in queries.items():
        side = "now" if difference in ("new", "still there") else "was"
        keys = ", ".join(decided_snapshot.key_columns(shape, side))
        for key in audited.connection.execute(f"SELECT {keys} {clause} LIMIT {NAMED + 1}"):
            yield f"{audited.row_name(shape, key)} {difference}"


def values(audited: Audited, table: str) -> Check:
    """Check that every value on record is what its decision makes of the original, and the row's other values untouched."""
    shape, t = source_schema.shape(audited.connection, table), audited.tables[table]
    rules = audited.rules(table)
    recorded_columns = audited.connection.execute("SELECT DISTINCT c FROM record.touched WHERE t = ?", (t,))
    checked = {name for (name,) in recorded_columns} | rules.keys()
    stored = [column.name for column in source_schema.columns(audited.connection, table) if not column.generated]
    names = [name for name in stored if name in checked]
    keys = decided_snapshot.key_columns(shape, "original")
    wrong: list[str] = []
    found_rows = found_values = 0
    others = [name for name in stored if name not in checked]
    for cells, equal, *row in audited.connection.execute(_recorded_cells(shape, t, keys, names, others)):
        found_rows += 1
        recorded = dict(json.loads(cells))
        found_values += len(recorded)
        found = row[len(keys) :]
        different = [] if equal else ["another column"]
        for number, name in enumerate(names):
            was, before, became, after = found[4 * number : 4 * number + 4]
            expected = rules[name]((was, before)) if name in rules else (was, before)
            if (key := recorded.get(name)) is not None and _may_be_null(audited, table, key, name):
                expected = ("null", None)
            if (became, after) != expected or (name in recorded) != ((was, before) != expected):
                different.append(f"column {name}")
        if different and len(wrong) <= NAMED:
            wrong.append(f"{audited.row_name(shape, row[: len(keys)])}, {', '.join(different)}")
    on_record = audited.connection.execute("SELECT count(DISTINCT place), count(*) FROM record.touched WHERE t = ?", (t,))
    rows, recorded_values = on_record.fetchall()[0]
    if (found_rows, found_values) != (rows, recorded_values):
        wrong.append(f"{recorded_values:,} values in {rows:,} rows on record, {found_values:,} in {found_rows:,} found")
    title = "Every changed value follows from the original and its decision"
    return verdict("decided_values", title, wrong, f"{found_values:,} values", where=table)


def _recorded_cells(shape: TableShape, t: int, keys: Sequence[str], names: Sequence[str], others: Sequence[str]) -> str:
    """Return the query for the rows on record.

    Args:
        shape: Of the table.
        t: Its number in the record.
        keys: SQL for the columns that name a row.
        names: Columns whose cells are read from both files.
        others: Columns that are only compared.
    """
    places = (
        f"(SELECT place, json_group_array(json_array(c, foreign_key)) AS cells FROM record.touched WHERE t = {t}"
        " GROUP BY place)"
    )
    selected = [decided_snapshot.cell(f"{schema}.{quote(name)}") for name in names for schema in ("original", "main")]
    return (
        f"SELECT x.cells, {_equal(others, 'original', 'main')}, {', '.join([*keys, *selected])}"
        f" FROM {beside(shape, places, 'original', 'main')}"
    )


def _comparable_columns(audited: Audited, table: str) -> list[str]:
    """Return all columns; of a virtual table those that are stored."""
    is_virtual = audited.connection.execute(
        "SELECT type = 'virtual' FROM pragma_table_list WHERE schema = 'main' AND name = ?", (table,)
    ).get
    columns = source_schema.columns(audited.connection, table)
    return [column.name for column in columns if not (column.generated and is_virtual)]


def _may_be_null(audited: Audited, table: str, key: str, column: str) -> bool:
    reference = audited.keys.get((table, key))
    return reference is not None and column in reference.columns and audited.choice(reference) == "set_null"


def _equal(columns: Sequence[str], one: str, other: str) -> str:
    """Return SQL that is true where two rows have the same values of the same classes, and never NULL.

    The columns' own affinity and collation must not apply, or '1' would equal 1 and 'a' would equal 'A'.
    """
    if not columns:
        return "true"
    values = [", ".join(f"+{side}.{quote(name)} COLLATE BINARY" for name in columns) for side in (one, other)]
    classes = [", ".join(f"typeof({side}.{quote(name)})" for name in columns) for side in (one, other)]
    return f"(({values[0]}) IS ({values[1]}) AND ({classes[0]}) IS ({classes[1]}))"
