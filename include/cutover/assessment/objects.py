"""Lists the objects of the source that are not rows, with what the target has in their place.

These are views, triggers, generated columns, indexes, unique keys, collations, checks and defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import apsw

from include.cutover.assessment import create_table
from include.cutover.assessment.findings import Finding, cut, lines
from include.cutover.assessment.target import Target, TargetTable
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema

_REPLACEMENT = "its replacement in the target"

_NOW = frozenset({"current_timestamp", "datetime('now')", "now()", "datetime(current_timestamp)"})


@dataclass(frozen=True)
class _Object:
    """An object of the source that is not a row, and what the target has in its place, in words."""

    code: str
    name: str
    table: str
    column: str
    value: str
    instead: str


def object_findings(conn: apsw.Connection, plan: Plan, target: Target) -> list[Finding]:
    """List the objects with their replacement according to the plan.

    Where the plan does not name one, the finding shows what the target has, and the lines for the plan. Objects of tables
    that are not copied are not listed.
    """
    tables = [name for name in source_schema.tables(conn) if name not in plan.ignored_tables]
    found, named = [], set()
    for item in _objects(conn, target, tables):
        named.add(item.name)
        said = plan.source_objects.get(item.name)
        becomes = f"the plan: {said}" if said else item.instead
        decide = "" if said else lines({"source_objects": {item.name: _REPLACEMENT}})
        found.append(Finding(item.code, "note", item.table, item.column, value=item.value, becomes=becomes, decide=decide))
    for name in sorted(set(plan.source_objects) - named):
        found.append(Finding("decision_unused", "note", value=f"source_objects.{name}: the source has no such object"))
    return found


def _objects(conn: apsw.Connection, target: Target, tables: Sequence[str]) -> Iterator[_Object]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger') ORDER BY type, name"
    for kind, name, table, text in conn.execute(query):
        if kind == "view":
            instead = "a view of that name; its content was not compared" if name in target.views else "nothing"
            yield _Object("view", name, "", "", name, instead)
        elif table in tables or not any(other == table for (other,) in conn.execute("SELECT name FROM sqlite_schema")):
            there = (table, name) in target.triggers
            instead = "a trigger of that name; its effect was not compared" if there else "nothing"
            yield _Object("trigger", name, table, "", f"{name} {_when(text)}", instead)
    for name in tables:
        made = target.tables.get(name)
        if made is not None:
            yield from _of_columns(conn, name, made)
            yield from _of_indexes(conn, name, made)
            yield from _of_checks(conn, name, made)


def _when(create: str) -> str:
    match = re.search(r"\b(BEFORE|AFTER|INSTEAD\s+OF)?\s*\b(INSERT|DELETE|UPDATE)\b", create, re.IGNORECASE)
    return " ".join(match[0].split()).lower() if match else ""


def _of_columns(conn: apsw.Connection, table: str, made: TargetTable) -> Iterator[_Object]:
    query = "SELECT name, dflt_value FROM pragma_table_xinfo(?, 'main')"
    defaults = {name: None if text is None else str(text) for name, text in conn.execute(query, (table,))}
    for column in source_schema.columns(conn, table):
        there, name = made.columns.get(column.name), f"{table}.{column.name}"
        if column.generated:
            instead = "nothing" if there is None else "computed by the target" if there.generated else "copied as it is"
            yield _Object("generated_column", name, table, column.name, column.name, instead)
        if there is None:
            continue
        collation = str(conn.column_metadata("main", table, column.name)[1])
        if collation.upper() != "BINARY" and not column.generated:
            kept = made.collations.get(column.name)
            instead = f"the collation {kept}" if kept else "compared by the collation of the target's database"
            yield _Object("collation", name, table, column.name, collation, instead)
        default, others = defaults[column.name], made.details[column.name].default
        if default is not None and not column.generated and not _same_default(default, others, there.base):
            instead = f"DEFAULT {cut(others)}" if others else "no default"
            yield _Object("default", name, table, column.name, f"DEFAULT {cut(default)}", instead)


def _same_default(ours: str, theirs: str | None, base: str) -> bool:
    one = _bare(ours).lower()
    if one == "null":
        return True
    if theirs is None:
        return False
    other = _bare(re.sub(r"::[\w ]+(\([\d, ]*\))?(\[\])?", "", theirs)).lower()
    if one in _NOW:
        return other in _NOW
    if base == "bool":
        one = {"1": "true", "0": "false"}.get(one, one)
    if one == other:
        return True
    try:
        return Decimal(one.strip("'")) == Decimal(other.strip("'"))
    except InvalidOperation:
        return False


def _bare(expression: str) -> str:
    text = expression.strip()
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    return f"'{text[1:-1]}'" if len(text) > 1 and text[0] == text[-1] == '"' else text


def _of_indexes(conn: apsw.Connection, table: str, made: TargetTable) -> Iterator[_Object]:
    query = "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?, 'main') ORDER BY name"
    listed = [
        (str(name), bool(unique), origin, bool(partial)) for name, unique, origin, partial in conn.execute(query, (table,))
    ]
    for name, unique, origin, partial in listed:
        rows = conn.execute("SELECT name, coll FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno", (name,))
        parts = [(None if column is None else str(column), str(collation)) for column, collation in rows]
        columns = tuple(column for column, _ in parts)
        shown = ", ".join(column or "an expression" for column in columns)
        label = name if origin == "c" else f"{table} ({shown})"
        same = [index for index in made.indexes if set(index.columns) == set(columns)]
        if partial:
            conditions = [index.predicate for index in same if index.predicate]
            instead = f"an index with WHERE {cut(conditions[0])}" if conditions else "a full index" if same else "no index"
            yield _Object("partial_index", label, table, shown, label, instead)
        if None in columns:
            alike = [
                index for index in made.indexes if index.name == name or (None in index.columns and unique == index.unique)
            ]
            instead = f"an index on {cut(', '.join(part.definition for part in alike[0].parts))}" if alike else "no index"
            yield _Object("expression_index", label, table, shown, label, instead)
        elif unique and not partial and not any(index.unique and index.predicate is None for index in same):
            instead = "an index that is not unique" if same else "no index"
            yield _Object("unique_key", label, table, shown, label, instead)
        for column, collation in parts:
            own = conn.column_metadata("main", table, column)[1] if column else collation
            if collation.upper() not in ("BINARY", str(own).upper()):
                yield _Object(
                    "collation", label, table, str(column), f"{label}: {collation}", "compared by its own collation"
                )


def _of_checks(conn: apsw.Connection, table: str, made: TargetTable) -> Iterator[_Object]:
    create = conn.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).get
    names = [check.name for check in (*made.checks, *made.others)]
    instead = f"CHECKs of the target's table: {', '.join(names)}" if names else "the target's table has no CHECK"
    for number, (name, expression) in enumerate(create_table.checks(str(create or "")), start=1):
        label = f"{table}.{name or f'check_{number}'}"
        yield _Object("check", label, table, "", f"{name or f'check {number}'}: {cut(expression)}", instead)
