"""What source, plan and target have of each other by name: tables, columns, sequences, and everything that is no row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import apsw

from include.cutover.assessment.columns import INTEGERS, rowid_alias
from include.cutover.assessment.findings import Finding, cut, lines
from include.cutover.assessment.target import Target, TargetTable
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import TableShape, quote

_WHY = "why it is left behind"
_BECAME = "what became of it"

_TOKEN = re.compile(
    r"""(?P<blank>--[^\n]*|/\*.*?(?:\*/|\Z)|\s+)|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*')"""
    r"|(?P<word>[^\W\d][\w$]*)|(?P<other>.)",
    re.DOTALL,
)
_NOW = frozenset({"current_timestamp", "datetime('now')", "now()", "datetime(current_timestamp)"})


# --- tables and columns -------------------------------------------------------------------------------------------------


def table_findings(conn: apsw.Connection, plan: Plan, target: Target) -> list[Finding]:
    """Tables that one of source, plan and target does not know."""
    there = source_schema.tables(conn)
    virtual = {
        name for (name,) in conn.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'")
    }
    found = []
    for name in sorted(set(there) - set(plan.tables)):
        rows = _count(conn, name)
        if name in plan.ignored_tables:
            why = f"the plan: {plan.ignored_tables[name]}"
            found.append(Finding("table_ignored", "note", name, rows=rows, becomes=why))
            continue
        code = "table_virtual" if name in virtual else "table_unknown"
        decide = lines({"ignored_tables": {name: _WHY}})
        value = _spelled(name, plan.tables)
        found.append(Finding(code, "blocks", name, rows=rows, value=value, becomes="left behind", decide=decide))
    for name in sorted(set(plan.tables) - set(there)):
        found.append(Finding("table_missing", "blocks", name, value=_spelled(name, there)))
    for name in sorted(set(plan.tables) - set(target.tables)):
        found.append(Finding("table_not_made", "blocks", name, value=_spelled(name, target.tables)))
    for name, trigger in sorted(target.triggers_at_load):
        if name in plan.tables:
            becomes = "nothing: the copy refuses the table"
            found.append(Finding("trigger_in_the_way", "blocks", name, value=trigger, becomes=becomes))
    for name in sorted(set(target.tables) - set(plan.tables)):
        found.append(Finding("table_stays_empty", "note", name, becomes="empty"))
    return found


def _count(conn: apsw.Connection, table: str) -> int:
    try:
        return source_schema.counts(conn, [table])[table]
    except apsw.SQLError:  # a virtual table whose module is not here
        return 0


def _spelled(name: str, others: Mapping[str, Any] | Sequence[str]) -> str:
    """A hint where only the spelling differs."""
    alike = [other for other in others if other.lower() == name.lower() and other != name]
    return f"there is {alike[0]!r}: names must agree letter by letter" if alike else ""


def column_findings(columns: Sequence[source_schema.SourceColumn], table: TargetTable) -> list[Finding]:
    """Columns that only the source or only the target has."""
    names = {column.name for column in columns}
    found = []
    for column in columns:
        there = table.columns.get(column.name)
        if (there is None or there.generated) and not column.generated:
            value = _spelled(column.name, list(table.columns)) if there is None else "the target computes it by itself"
            found.append(Finding("column_unknown", "blocks", table.name, column.name, value=value, becomes="left behind"))
    for name, made in table.columns.items():
        if name not in names and not made.generated:
            found.append(Finding("column_missing", "blocks", table.name, name, value=_spelled(name, list(names))))
    return found


# --- sequences ----------------------------------------------------------------------------------------------------------


def sequence_findings(conn: apsw.Connection, shapes: Mapping[str, TableShape], target: Target) -> list[Finding]:
    """Keys that either side gives away by itself: how far it is, and whether the target can go on."""
    found = []
    given = source_schema.sqlite_sequence(conn)
    for table, shape in shapes.items():
        made, alias = target.tables[table], rowid_alias(conn, shape)
        keys = [alias] if alias is not None and alias in made.columns else []
        for column in dict.fromkeys([*keys, *made.sequences]):
            found += _next_key(conn, shape, made, column, given.get(table), is_rowid=column == alias)
        if alias is None or alias in made.sequences:
            continue
        counted = not made.sequences and (table in given or _counts_keys(conn, table))
        if counted or (alias in made.columns and made.details[alias].default is None):
            becomes = "keys come from the application alone"
            found.append(Finding("sequence_missing", "blocks" if counted else "note", table, alias, becomes=becomes))
    return found


def _next_key(
    conn: apsw.Connection, shape: TableShape, made: TargetTable, column: str, given: int | None, *, is_rowid: bool
) -> list[Finding]:
    """What keeps the target from giving the next key of a column."""
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
    # SQLite counts for the INTEGER PRIMARY KEY; finishing looks for its number at the target's primary key.
    at = given or 0 if is_rowid or column in made.primary_key or not made.primary_key else 0
    following = max(greatest, at) + 1
    if following > min(largest, kept) and greatest <= kept:
        value = f"the next key is {following:,}"
        return [Finding("sequence_out_of_range", "blocks", table, column, value=value, becomes=f"refused by {there.type}")]
    if at > greatest and is_rowid:
        value = f"greatest key {greatest:,}, AUTOINCREMENT at {at:,}"
        return [Finding("sequence_ahead", "note", table, column, value=value, becomes=f"next key {following:,}")]
    return []


def _counts_keys(conn: apsw.Connection, table: str) -> bool:
    """Whether a table is declared AUTOINCREMENT."""
    create = conn.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).get
    words = (token.group() for token in _TOKEN.finditer(str(create or "")) if token.lastgroup == "word")
    return any(word.upper() == "AUTOINCREMENT" for word in words)


# --- what is no row -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Object:
    """Something of the source that is no row, and what the target has in its place, in words."""

    code: str
    name: str
    table: str
    column: str
    value: str
    instead: str


def object_findings(conn: apsw.Connection, plan: Plan, target: Target) -> list[Finding]:
    """Views, triggers, generated columns, partial and expression indexes, unique keys, collations, checks and defaults.

    Each with what the plan says became of it; where the plan says nothing, with what the target has and the lines to say so.
    Of tables that are left behind, nothing is listed.
    """
    tables = [name for name in source_schema.tables(conn) if name not in plan.ignored_tables]
    found, named = [], set()
    for item in _objects(conn, target, tables):
        named.add(item.name)
        said = plan.source_objects.get(item.name)
        becomes = f"the plan: {said}" if said else item.instead
        decide = "" if said else lines({"source_objects": {item.name: _BECAME}})
        found.append(Finding(item.code, "note", item.table, item.column, value=item.value, becomes=becomes, decide=decide))
    for name in sorted(set(plan.source_objects) - named):
        found.append(Finding("decision_unused", "note", value=f"source_objects.{name}: the source has no such object"))
    return found


def _objects(conn: apsw.Connection, target: Target, tables: Sequence[str]) -> Iterator[_Object]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger') ORDER BY type, name"
    for kind, name, table, text in conn.execute(query):
        if kind == "view":
            instead = "a view of that name; what it shows was not compared" if name in target.views else "nothing"
            yield _Object("view", name, "", "", name, instead)
        elif table in tables or not any(other == table for (other,) in conn.execute("SELECT name FROM sqlite_schema")):
            there = (table, name) in target.triggers
            instead = "a trigger of that name; what it does was not compared" if there else "nothing"
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
            instead = "nothing" if there is None else "computed by the target" if there.generated else "copied as it stands"
            yield _Object("generated_column", name, table, column.name, column.name, instead)
        if there is None:
            continue
        collation = str(conn.column_metadata("main", table, column.name)[1])
        if collation.upper() != "BINARY" and not column.generated:
            kept = made.collations.get(column.name)
            instead = f"the collation {kept}" if kept else "compared as the target's database does"
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
    for number, (name, expression) in enumerate(checks(str(create or "")), start=1):
        label = f"{table}.{name or f'check_{number}'}"
        yield _Object("check", label, table, "", f"{name or f'check {number}'}: {cut(expression)}", instead)


def checks(create: str) -> list[tuple[str, str]]:
    """Name (empty where it has none) and condition of every CHECK in a CREATE TABLE statement."""
    found: list[tuple[str, str]] = []
    tokens = [token for token in _TOKEN.finditer(create) if token.lastgroup != "blank"]
    words = [token.group().upper() if token.lastgroup == "word" else token.group() for token in tokens]
    at = 0
    while at < len(tokens):
        if words[at] == "CHECK" and tokens[at].lastgroup == "word" and words[at + 1 : at + 2] == ["("]:
            depth, end = 1, at + 2
            while depth and end < len(tokens):
                depth += {"(": 1, ")": -1}.get(words[end], 0)
                end += 1
            name = tokens[at - 1].group().strip('"`[]') if at > 1 and words[at - 2] == "CONSTRAINT" else ""
            inside = create[tokens[at + 1].end() : tokens[end - 1].start()]
            found.append((name, " ".join(inside.split())))
            at = end
        else:
            at += 1
    return found
