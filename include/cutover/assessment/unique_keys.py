"""Finds rows that are the same under a unique key of the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import apsw

from include.cutover.assessment.columns import INTEGERS, AssessedColumn, rowid_alias, type_name
from include.cutover.assessment.expressions import Translated, Untranslatable, translated
from include.cutover.assessment.findings import KEYS_SHOWN, Finding
from include.cutover.assessment.row_names import RowNames
from include.cutover.decisions.decided_snapshot import text_encoding
from include.cutover.proof import canonical
from include.cutover.source.schema import TableShape, quote
from include.cutover.target.catalog import Index

# Different values of these types stay different in the target.
_DISTINCT = frozenset({*INTEGERS, "text", "varchar", "bool", "float8", "numeric", "bytea"})

Columns = Mapping[str, AssessedColumn]


def duplicates(
    conn: apsw.Connection, shape: TableShape, columns: Columns, indexes: Iterable[Index], secret: Sequence[str]
) -> list[Finding]:
    """Find rows that are the same under a unique key of the target.

    UUIDs are compared as UUIDs, instants as instants, and text byte by byte, whatever collation the source declares. A key
    that the source enforces in the same meaning is not checked again.

    Args:
        conn: The snapshot.
        shape: Name and keys of the table.
        columns: The columns that the copy can carry over.
        indexes: Indexes of the target's table.
        secret: Columns whose content is never shown.
    """
    found = []
    for index in indexes:
        if not index.unique or _held_by_source(conn, shape, columns, index):
            continue
        try:
            parts, condition = _parts(index, columns, text_encoding(conn))
        except Untranslatable as why:
            value = f"{index.name}: SQLite has no equivalent of {why}"
            found.append(Finding("key_not_assessed", "note", shape.table, index.columns_text, value=value))
            continue
        if finding := _duplicates(conn, shape, index, parts, condition, secret):
            found.append(finding)
    return found


def _held_by_source(conn: apsw.Connection, shape: TableShape, columns: Columns, index: Index) -> bool:
    """Return True when the source enforces the key and the copy cannot make different values equal."""
    names = {part.column for part in index.parts}
    if None in names or index.nulls_equal or not all(part.deterministic for part in index.parts):
        return False
    used = [columns[str(name)] for name in names if name in columns]
    if len(used) < len(names) or any(column.decision is not None or column.target.base not in _DISTINCT for column in used):
        return False
    if names == {rowid_alias(conn, shape)}:
        return True
    for name, partial in conn.execute(
        "SELECT name, partial FROM pragma_index_list(?, 'main') WHERE \"unique\"", (shape.table,)
    ):
        keys = list(conn.execute("SELECT name, coll FROM pragma_index_xinfo(?, 'main') WHERE key", (name,)))
        if not partial and {key for key, _ in keys} <= names and all(collation == "BINARY" for _, collation in keys):
            return True
    return False


def _parts(index: Index, columns: Columns, encoding: str) -> tuple[list[str], str]:
    """Return SQL for each part of a key, and for the condition of the index."""
    targets = {name: column.target for name, column in columns.items() if column.decision is None}
    parts = []
    for part in index.parts:
        if not part.deterministic:
            raise Untranslatable(f"the collation of {part.definition}")
        if part.column is None:
            parts.append(_always(translated(part.definition, targets)))
        elif part.column in columns:
            parts.append(comparable(columns[part.column], encoding))
        else:
            raise Untranslatable(f"the column {part.column}")
    condition = "true"
    if index.predicate is not None:
        condition = f"({_always(translated(index.predicate, targets))}) IS TRUE"
    return parts, condition


def _always(expression: Translated) -> str:
    if expression.defined:
        raise Untranslatable("arithmetic that may fail")
    return expression.sql


def comparable(column: AssessedColumn, encoding: str = "utf-8") -> str:
    """Return SQL for a value, equal for two values where they are equal in the target."""
    x, base = quote(column.name), column.target.base
    if column.decision is not None and column.decision.empty_as_null:
        x = f"nullif({x}, '')"
    if base in _DISTINCT or column.target.is_enum:
        return f"+{x} COLLATE BINARY"
    if base == "bpchar":
        return f"rtrim({x}, ' ') COLLATE BINARY"
    if column.is_json:
        raise Untranslatable(f"equality of {base}")
    text = canonical.of_column(column.name, type_name(column.target), encoding).in_source
    # '!' marks a value with a finding of its own, '~' NULL.
    return f"CASE WHEN substr({text}, 1, 1) NOT IN ('!', '~') THEN {text} END"


def _duplicates(
    conn: apsw.Connection, shape: TableShape, index: Index, parts: list[str], condition: str, secret: Sequence[str]
) -> Finding | None:
    names = RowNames(shape, secret)
    numbered = ", ".join(f"{part} AS k{number}" for number, part in enumerate(parts))
    keys = ", ".join(f"k{number}" for number in range(len(parts)))
    shown = ", ".join(f"{cell} AS n{number}" for number, cell in enumerate(names.results)) or "NULL AS n0"
    cells = ", ".join(f"n{number}" for number in range(max(1, len(names.results))))
    present = "true" if index.nulls_equal else " AND ".join(f"k{number} IS NOT NULL" for number in range(len(parts)))
    rows = f"SELECT {numbered} FROM main.{quote(shape.table)} WHERE {condition}"  # noqa: S608
    twice = f"SELECT {keys}, count(*) AS copies FROM ({rows}) WHERE {present} GROUP BY {keys} HAVING count(*) > 1"  # noqa: S608
    values, count = conn.execute(f"SELECT count(*), ifnull(sum(copies), 0) FROM ({twice})").get  # noqa: S608
    if not values:
        return None
    same = " AND ".join(f"there.k{number} IS one.k{number}" for number in range(len(parts)))
    query = (
        f"WITH one AS (SELECT row_number() OVER () AS number, * FROM ({twice}) LIMIT {KEYS_SHOWN})"  # noqa: S608
        f" SELECT number, {cells} FROM one JOIN"
        f" (SELECT {numbered}, {shown} FROM main.{quote(shape.table)} WHERE {condition}) AS there ON {same} ORDER BY number"
    )
    pairs: dict[int, list[str]] = {}
    for number, *row in conn.execute(query):
        pair = pairs.setdefault(number, [])
        if len(pair) < 3:
            pair.append(names(row))
    return Finding(
        "duplicate_key",
        "blocks",
        shape.table,
        index.columns_text,
        count,
        tuple(" and ".join(pair[:2]) + (" and others" if len(pair) > 2 else "") for pair in pairs.values()),
        f"{values:,} value{'s' if values != 1 else ''} of {index.name} more than once",
        becomes="nothing: the target's key refuses the second row",
    )
