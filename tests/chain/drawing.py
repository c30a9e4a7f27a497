"""Draws whole cutovers.

The cases are plausible, but nothing keeps it from being awkward: any name, any declared type beside any type of the
target, values of every storage class, keys of every shape, references that lead nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.chain.case import Case, Column, Link, Table, Unique, quote
from tests.chain.values import (
    ANY_DECLARED,
    ANYTHING,
    BY_TYPE,
    INTEGERS,
    KINDS,
    MEANT,
    MIDNIGHTS,
    STRICT_DECLARED,
    Kind,
    Strategy,
)
from tests.support.assessing import Raw

NAMES = (
    "id", "Name", "name_2", "order", "select", "გვარი", "naïve", 'quo"te', "it's", "with space", "100%", "{braces}",
    "a.b", "t", "k", "r", "x", "p", "at", "place", "number", "rowid", "oid", "_rowid_", "line", "doubted", "n0", "k0",
    "main", "original", "new", "back\\slash", "semi;colon", "bra]cket", "back`tick", "1st", "ß", "🛰", "value",
    "lower", "rows", "one", "l" * 63, "%s", "$1", "convert_to", "user", "Ä", "ä", "--x", "/*y*/", "a,b", "(c)",
    "check", "unique", "record", "work", "temp", "v", "c", "row",
)  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A whole cutover."""
    awkward = draw(st.sampled_from([0, 0, 0, 8, 3]))  # one value in so many
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique_by=str.lower))
    tables = [draw(_tables(name)) for name in names]
    links: list[Link] = []
    for _ in range(draw(st.integers(0, 3))):
        if drawn := draw(_links(tables, links)):
            link, tables = drawn
            links.append(link)
    settings = draw(_settings(tables, links))
    rows = {table.name: draw(_rows(table, settings[table.name], awkward)) for table in tables}
    for link in links:
        decided = settings[link.table].get("foreign_keys", {}).get(link.name, {}).get("orphans", "block") != "block"
        draw(_referring(link, {table.name: table for table in tables}, rows, 2 if decided else awkward))
    encoding = draw(st.sampled_from(["UTF-8"] * 6 + ["UTF-16le", "UTF-16be"]))
    chunk_rows, part_rows = draw(st.sampled_from([(500, 10_000), (2, 2), (3, 10_000), (500, 3)]))
    all_the_same = draw(st.integers(0, 2)) == 0
    return Case(tuple(tables), tuple(links), rows, settings, encoding, chunk_rows, part_rows, all_the_same)


def _chance(draw: st.DrawFn, one_in: int) -> bool:
    return draw(st.integers(1, one_in)) == one_in  # shrinks to no


@st.composite
def _tables(draw: st.DrawFn, name: str) -> Table:
    form = draw(
        st.sampled_from(
            ["rowid", "autoincrement", "plain", "without rowid", "none", "descending", "only in target", "rowid"]
        )
    )
    strict = _chance(draw, 8)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=6, unique_by=str.lower))
    columns = [draw(_columns(each, strict)) for each in names]
    key: tuple[str, ...] = ()
    if form in ("rowid", "autoincrement"):
        kind = BY_TYPE[draw(st.sampled_from(["integer", "bigint", "smallint", "integer"]))]
        identity = draw(st.sampled_from(["by default", "always", "serial", ""]))
        columns[0] = Column(columns[0].name, kind, "INTEGER", not_null=True, identity=identity)
        key = (columns[0].name,)
    elif form != "none":
        size = draw(st.sampled_from([1, 1, 2]))
        for at in range(size):
            kinds = [kind for kind in KINDS if kind.keys]
            columns[at] = draw(_columns(columns[at].name, strict, kinds))
        if form == "descending" and draw(st.booleans()):
            columns[0] = Column(columns[0].name, BY_TYPE["bigint"], "INTEGER")
        if size == 1 and columns[0].kind.type in INTEGERS and columns[0].domain is None and _chance(draw, 3):
            columns[0] = replace(columns[0], identity="by default")
        key = tuple(column.name for column in columns[:size])
    if _chance(draw, 6):
        columns.append(_computed(draw, columns, strict))
    uniques = tuple(_unique(draw, columns) for _ in range(draw(st.sampled_from([0, 0, 1, 2]))))
    checks = tuple(_check(draw, columns) for _ in range(1) if _chance(draw, 8))
    sequence = draw(st.sampled_from([None, None, 0, 40, 40_000, 2**40])) if form == "autoincrement" else None
    return Table(
        name,
        tuple(columns),
        key,
        form,
        strict,
        tuple(unique for unique in uniques if unique is not None),
        tuple(check for check in checks if check),
        draw(st.sampled_from(['""', "[]", "``", "bare"])),
        sequence,
    )


@st.composite
def _columns(draw: st.DrawFn, name: str, strict: bool, kinds: Sequence[Kind] = KINDS) -> Column:
    kind = draw(st.sampled_from(kinds))
    declared = draw(st.sampled_from(ANY_DECLARED)) if _chance(draw, 8) else draw(st.sampled_from(kind.declared))
    if strict:
        declared = declared if declared in STRICT_DECLARED else "TEXT" if "CHAR" in declared.upper() else "ANY"
    if _chance(draw, 12):
        declared += draw(st.sampled_from([" COLLATE NOCASE", " COLLATE RTRIM", " COLLATE BINARY"]))
    domain = draw(st.sampled_from(["", "", "NOT NULL", "CHECK (VALUE IS NOT NULL)"])) if _chance(draw, 10) else None
    not_null, source_not_null = _chance(draw, 5), _chance(draw, 7)
    return Column(name, kind, declared, not_null or source_not_null, source_not_null, domain)


def _computed(draw: st.DrawFn, columns: Sequence[Column], strict: bool) -> Column:
    free = [name for name in NAMES if name.lower() not in {column.name.lower() for column in columns}]
    sides = [
        ("computed", "plain"),
        ("computed", "computed"),
        ("computed", "none"),
        ("none", "computed"),
        ("plain", "computed"),
    ]
    source, target = draw(st.sampled_from(sides[:4] if draw(st.integers(0, 5)) else sides))
    of = draw(st.sampled_from(columns)).name
    declared = "INTEGER" if strict else "BOOLEAN"
    name, kind = draw(st.sampled_from(free)), BY_TYPE["boolean"]
    return Column(name, kind, declared, computed=of, source=source, target=target)


def _unique(draw: st.DrawFn, columns: Sequence[Column]) -> Unique | None:
    able = [column for column in columns if column.kind.keys and not column.computed]
    if not able:
        return None
    chosen = draw(st.lists(st.sampled_from(able), min_size=1, max_size=2, unique_by=lambda column: column.name))
    names = tuple(column.name for column in chosen)
    first, base = quote(names[0]), chosen[0].kind.base
    form = draw(st.sampled_from(["plain", "plain", "nulls", "partial", "expression"]))
    if form == "partial":
        condition = f"{first} > 3" if base in INTEGERS else f"{first} IS NOT NULL"
        return Unique(names, False, predicate=f"({condition})")
    if form == "expression" and base in ("text", "varchar"):
        return Unique(names[:1], False, expression=f"lower({first})")
    return Unique(names, draw(st.booleans()), nulls_equal=form == "nulls")


def _check(draw: st.DrawFn, columns: Sequence[Column]) -> str:
    column = draw(st.sampled_from(columns))
    name, base = quote(column.name), column.kind.base
    if column.target == "none":
        return ""
    able = [f"{name} IS NOT NULL", f"({name} IS NULL) OR true"]
    if base in (*INTEGERS, "numeric", "double precision"):
        able += [
            f"{name} > -3",
            f"{name} BETWEEN -100 AND 100000",
            f"{name} <> 2",
            f"{name} IN (1, 2, 3)",
            f"abs({name}) < 7",
        ]
    if base in ("text", "varchar"):
        able += [
            f"length({name}) < 5",
            f"{name} <> 'a'",
            f"lower({name}) = {name}",
            f"{name} IN ('a', '')",
            f"{name} ~ '^a'",
        ]
    if base == "boolean":
        able += [name, f"NOT {name}"]
    return draw(st.sampled_from(able))


@st.composite
def _links(draw: st.DrawFn, tables: list[Table], links: Sequence[Link]) -> tuple[Link, list[Table]] | None:
    """A foreign key, and the tables with columns that can hold it."""
    parent = draw(st.sampled_from(tables))
    keys = [parent.key] if parent.key else []
    keys += [unique.columns for unique in parent.uniques if not (unique.predicate or unique.expression)]
    if not keys:
        return None
    key = draw(st.sampled_from(keys))
    child = draw(st.sampled_from(tables))
    taken = {(link.table, name) for link in links for name in link.columns}
    taken |= {(link.referenced, name) for link in links for name in link.referenced_columns}
    free = [
        at
        for at, column in enumerate(child.columns)
        if column.name not in child.key[: 1 if child.form in ("rowid", "autoincrement") else 0]
        and not column.computed
        and not column.identity
        and column.name not in key
        and not any(column.name in link for link in [unique.columns for unique in child.uniques])
        and not any(quote(column.name) in check for check in child.checks)
        and not (child.name == parent.name and column.name in key)
        and (child.name, column.name) not in taken
    ]
    if len(free) < len(key):
        return None
    chosen = draw(st.permutations(free))[: len(key)]
    columns = list(child.columns)
    for at, name in zip(chosen, key, strict=True):
        other, own = parent.column(name), columns[at]
        kind, declared = other.kind, other.declared
        if other.kind.base == "enum" and other.domain is not None:
            return None  # PostgreSQL has no equality between an enumeration and a domain over it
        if other.kind.type in INTEGERS:
            kind = BY_TYPE[draw(st.sampled_from(INTEGERS))] if _chance(draw, 4) else kind
        elif not child.strict and _chance(draw, 4):
            declared = draw(st.sampled_from(kind.declared))
        if child.strict and declared not in STRICT_DECLARED:
            declared = "ANY"
        if "COLLATE" in declared or (declared == "INTEGER" and own.name in child.key):
            declared = declared.partition(" COLLATE")[0]
        domain = "" if own.domain is not None and kind == other.kind and kind.base != "enum" else None
        columns[at] = replace(own, kind=kind, declared=declared, domain=domain)
    changed = replace(child, columns=tuple(columns))
    link = Link(
        draw(st.sampled_from(["fk", "Fk of", 'f"k', "fk%"])) + f" {len(links)}",
        child.name,
        tuple(columns[at].name for at in chosen),
        parent.name,
        key,
    )
    return link, [changed if table.name == child.name else table for table in tables]


@st.composite
def _rows(draw: st.DrawFn, table: Table, settings: Mapping[str, Any], awkward: int) -> list[list[Any]]:
    decisions = settings.get("columns", {})
    values = [_value(table, column, decisions.get(column.name, {}), awkward) for column in table.stored]
    return [[draw(value) for value in values] for _ in range(draw(st.integers(0, 6)))]


def _value(table: Table, column: Column, decision: Mapping[str, Any], awkward: int) -> Strategy:
    fine = st.none() | column.kind.fit if _takes_null(table, column) else column.kind.fit
    ways = [fine, *_decidable(column, decision)]
    if awkward:
        ways = [*ways * (awkward * 2), column.kind.near, ANYTHING | st.none()]
    return ways[0] if len(ways) == 1 else st.sampled_from(ways).flatmap(lambda way: way)


def _decidable(column: Column, decision: Mapping[str, Any]) -> list[Strategy]:
    """Values that the decisions are made for."""
    ways: list[Strategy] = []
    if decision.get("empty_as_null"):
        ways.append(st.just(""))
    if decision.get("strip_nul"):
        ways.append(column.kind.fit.map(lambda value: f"\0{value}\0" if isinstance(value, str) else value))
        if column.kind.base in ("json", "jsonb"):
            ways.append(st.sampled_from(['"\\u0000"', '{"a\\u0000": "\\\\\\u0000\\\\u0000"}', "\0[]"]))
    if decision.get("encoding"):
        spelled = column.kind.fit.filter(lambda value: isinstance(value, str)).map(
            lambda text: text[:3].encode("cp1251", "ignore")
        )
        ways += [spelled, spelled.map(Raw), st.sampled_from([Raw(b'"\xe9"'), b'"\xd0\xb0"', Raw(b"\xe9\xe8a")])]
    if decision.get("datetime") in MEANT:
        number = MEANT[decision["datetime"]]
        if column.kind.base == "date":
            number = MIDNIGHTS[decision["datetime"]]
        ways += [number, number.map(str), number]
    if decision.get("boolean"):
        words = st.sampled_from(sorted(decision["boolean"]))
        ways += [
            words,
            words.map(lambda word: float(word) if "." in word else int(word) if word.lstrip("-").isdigit() else word),
        ]
    return ways


def _takes_null(table: Table, column: Column) -> bool:
    return not column.not_null and not column.domain and column.name not in table.key


@st.composite
def _referring(
    draw: st.DrawFn, link: Link, tables: Mapping[str, Table], rows: Mapping[str, list[list[Any]]], awkward: int
) -> None:
    """Let rows refer to rows that are there, to nothing, or nowhere."""
    own = [column.name for column in tables[link.table].stored]
    others = [column.name for column in tables[link.referenced].stored]
    child, parent = tables[link.table], rows[link.referenced]
    for row in rows[link.table]:
        nowhere = awkward and _chance(draw, awkward + 2)
        if nowhere:
            continue
        to_a_row = bool(parent) and not _chance(draw, 6)
        there = draw(st.sampled_from(parent)) if to_a_row else None
        for name, other in zip(link.columns, link.referenced_columns, strict=True):
            if there is not None:
                row[own.index(name)] = there[others.index(other)]
            elif _takes_null(child, child.column(name)):
                row[own.index(name)] = None


@st.composite
def _settings(draw: st.DrawFn, tables: Sequence[Table], links: Sequence[Link]) -> dict[str, Any]:
    settings: dict[str, Any] = {table.name: {} for table in tables}
    if draw(st.booleans()):
        return settings
    for table in tables:
        columns = {}
        for column in table.columns:
            able = _able(table, column)
            if able and not column.computed and _chance(draw, 3):
                chosen = draw(st.lists(st.sampled_from(sorted(able)), min_size=1, max_size=2, unique=True))
                columns[column.name] = {name: draw(able[name]) for name in chosen}
        if columns:
            settings[table.name]["columns"] = columns
    for link in links:
        if draw(st.integers(0, 3)):
            child = next(table for table in tables if table.name == link.table)
            able_to = ["quarantine", "block", "quarantine"]
            if all(_takes_null(child, child.column(name)) for name in link.columns) or _chance(draw, 8):
                able_to += ["set_null"] * 3
            choice = {"orphans": draw(st.sampled_from(able_to)), "at_most": draw(st.sampled_from([100, 100, 100, 1, 0]))}
            settings[link.table].setdefault("foreign_keys", {})[link.name] = choice
    return settings


ENCODINGS = st.sampled_from(["latin-1", "cp1251", "utf-8", "ascii"])
DATETIMES = st.sampled_from(["unix", "unix_ms", "julian", "iso"])
WORDS = st.dictionaries(
    st.sampled_from(["yes", "no", "true", "t", "2", "-1", "1.0", "0.5", ""]), st.booleans(), min_size=1
).map(lambda words: {**words, "0": False, "1": True})


def _able(table: Table, column: Column) -> dict[str, Strategy]:
    """The decisions that fit a column."""
    base = column.kind.base
    able: dict[str, Strategy] = {}
    if _takes_null(table, column) and base not in ("text", "varchar", "char"):
        able["empty_as_null"] = st.just(True)
    if base in ("text", "varchar", "char", "json", "jsonb", "enum"):
        able |= {"strip_nul": st.just(True), "encoding": ENCODINGS}
    elif base in ("timestamptz", "timestamp", "date"):
        able |= {"datetime": DATETIMES, "strip_nul": st.just(True)}
    elif base == "boolean":
        able["boolean"] = WORDS
    return able
