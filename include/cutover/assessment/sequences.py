"""Compares the keys that source and target generate: how far they are, and whether the target can continue."""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from include.cutover.assessment.columns import INTEGERS, rowid_alias
from include.cutover.assessment.create_table import has_autoincrement
from include.cutover.assessment.findings import Finding
from include.cutover.assessment.target import Target, TargetTable
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import TableShape, quote


def sequence_findings(conn: apsw.Connection, shapes: Mapping[str, TableShape], target: Target) -> list[Finding]:
    """Find generated keys that the target cannot continue, and those that are ahead of the rows."""
    found = []
    given = source_schema.sqlite_sequence(conn)
    for table, shape in shapes.items():
        made, alias = target.tables[table], rowid_alias(conn, shape)
        keys = [alias] if alias is not None and alias in made.columns else []
        for column in dict.fromkeys([*keys, *made.sequences]):
            found += _next_key(conn, shape, made, column, given.get(table), is_rowid=column == alias)
        if alias is None or alias in made.sequences:
            continue
        counted = not made.sequences and (table in given or _generates_keys(conn, table))
        if counted or (alias in made.columns and made.details[alias].default is None):
            becomes = "only the application provides keys"
            found.append(Finding("sequence_missing", "blocks" if counted else "note", table, alias, becomes=becomes))
    return found


def _next_key(
    conn: apsw.Connection, shape: TableShape, made: TargetTable, column: str, given: int | None, *, is_rowid: bool
) -> list[Finding]:
    """Find what prevents the target from generating the next key of a column.

    Args:
        conn: The snapshot.
        shape: Name and keys of the table in the source.
        made: The table of the target.
        column: The column.
        given: Last key that AUTOINCREMENT gave; None where the table has none.
        is_rowid: The column is the INTEGER PRIMARY KEY.
    """
    table, there = shape.table, made.columns[column]
    largest = made.sequences.get(column, INTEGERS["int8"][1])
    if column in made.sequences and (largest is None or there.base not in INTEGERS):
        becomes = f"nothing: it cannot be set past the keys, which are {there.type}"
        return [Finding("sequence_unfit", "blocks", table, column, becomes=becomes)]
    if there.base not in INTEGERS or largest is None:
        return []
    kept = INTEGERS[there.base][1]
    greatest = 0
    if column in {item.name for item in source_schema.columns(conn, table)}:
        key, rows = quote(column), f"FROM main.{quote(table)}"
        greatest = conn.execute(f"SELECT max({key}) {rows} WHERE typeof({key}) = 'integer'").get or 0
    # SQLite counts for the INTEGER PRIMARY KEY; the copy sets that number at the target's primary key.
    at = given or 0 if is_rowid or column in made.primary_key or not made.primary_key else 0
    following = max(greatest, at) + 1
    if following > min(largest, kept) and greatest <= kept:
        value = f"the next key is {following:,}"
        return [Finding("sequence_out_of_range", "blocks", table, column, value=value, becomes=f"refused by {there.type}")]
    if at > greatest and is_rowid:
        value = f"greatest key {greatest:,}, AUTOINCREMENT at {at:,}"
        return [Finding("sequence_ahead", "note", table, column, value=value, becomes=f"next key {following:,}")]
    return []


def _generates_keys(conn: apsw.Connection, table: str) -> bool:
    """Return True for a table declared AUTOINCREMENT."""
    create = conn.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).get
    return has_autoincrement(str(create or ""))
