"""Whole cutovers, drawn at random: a source in SQLite, the SQL of its target, awkward rows, decisions of the plan.

What is drawn is plausible, but nothing keeps it from being awkward: any name, any declared type beside any type of the
target, values of every storage class, keys of every shape, references that lead nowhere.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
from hypothesis import strategies as st

from tests.assessing import Raw

Strategy = st.SearchStrategy[Any]


@dataclass(frozen=True)
class Kind:
    """A type of the target, and what applications keep in such columns.

    Attributes:
        base: The type without length and precision.
        declared: What such a column is called in SQLite.
        fit: Values that the target takes.
        near: Values that look like them.
    """

    type: str
    base: str
    declared: tuple[str, ...]
    fit: Strategy
    near: Strategy

    @property
    def keys(self) -> bool:
        """Whether PostgreSQL can have it in a primary key."""
        return self.base not in ("json", "jsonb")


# --- values -------------------------------------------------------------------------------------------------------------

ODD = ("", "\\N", "\\.", "\x1d", "\x1e", "\x1f", "a\x1fb\x1ec", "\ufeffa", "🛰", "e\u0301", "NULL", " both ", "a\n\\.\nb", "\r",
       "é", "მთავარი", "'", '"', "\\", "~", "!text", "1:a", "a ", "A", "a", "I", "İ", "ß", "true", "1", "1.0", "\u2028")  # fmt: skip
TEXT = st.sampled_from(ODD) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
BROKEN = st.sampled_from(
    ["x\0y", "\0", "abc\0", Raw(b"caf\xe9"), Raw(b"\xff\xfe"), Raw(b"\xed\xa0\x80"), Raw(b"\x80"), Raw(b"\x00\xd8"), b"\xff", b"",
     b"abc", "გამარჯობა".encode(), 5, 1.5, "a" * 60]
)  # fmt: skip
LONG = tuple(base64.b64encode(random.Random(number).randbytes(1_500)).decode() for number in range(3))  # no pattern in it
FLOATS = st.floats(allow_nan=False) | st.sampled_from(
    [
        0.1,
        0.30000000000000004,
        5e-324,
        1.7976931348623157e308,
        math.inf,
        -math.inf,
        -0.0,
        0.0,
        2.0**53,
        2.0**60,
        1e15,
        9.95,
        1 / 3,
    ]
)
DAYS = st.dates().map(str) | st.sampled_from(["2024-02-29", "0001-01-01", "9999-12-31", "2000-01-01", "1999-12-31"])
CLOCKS = st.sampled_from(
    ["08:08:59", "08:08", "00:00:00", "23:59:59.999999", "24:00:00", "08:08:59.1", "08:08:59.120000000", "00:00:00.000001"]
)
ZONES = st.sampled_from(["", "", "Z", "z", "+04:00", "-09:30", " +04:00", "+00:00", "+14:00", "-15:59", " Z"])
NO_MOMENT = st.sampled_from(
    ["", "now", "epoch", "11/10/2025", "20251011", "2025-02-30", "0000-01-01", "2025-10-10 24:30:00", "2025-10-10 08:08:60",
     "2025-10-10 08:08:59+0400", "2025-10-10 08:08:59+16:00", "2025-10-10  08:08:59", "2025-10-10 08:08:59.1234567", "infinity",
     "2025-10-10 08:08:59\0", "1760083739", 1760083739, 1760083739.25, 1760083739123, 2460958.5, 0, -1, 20251011, "08:08:60",
     "8:08", b"2025-10-10", math.inf, "2460958.5", "1760083739.1234567", 2460959, "-1.5"]
)  # fmt: skip
UUIDS = (st.integers(0, 7).map(lambda number: f"{number:08x}-ab55-9585-9014-ebf0951522d9") | st.uuids().map(str)).flatmap(
    lambda text: st.sampled_from([text, text.replace("-", ""), text.upper(), f"{{{text}}}"])
)
NO_UUID = st.sampled_from(
    ["", "1" * 32, "12345678901234567890123456789e12", "g" * 32, "a" * 31, 7, b"a" * 16, "{" + "a" * 32]
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
).flatmap(lambda value: st.booleans().map(lambda plain: json.dumps(value, ensure_ascii=plain))) | st.sampled_from(
    [
        '{"a":1,"a":2}',
        "1.10",
        "[-0, -0.0, 1e3, 1E-3]",
        ' {"b": 1 , "aa": [ ] }',
        '"\\\\u0000"',
        '"\\ud83d\\ude00"',
        '"\\/"',
        "[0e5]",
    ]
)
NO_DOCUMENT = st.sampled_from(
    ["", "{", "NaN", '"\\u0000"', '{"a\\u0000":1}', '"\\ud800"', "1e400000", "[1,]", "'a'", 1, 1.5, b"{}", '"\t"', "\ufeff{}",
     Raw(b'"\xe9"'), "[1]\0", "nul", "1e-16384"]
)  # fmt: skip
NO_NUMBER = st.sampled_from(
    ["", "abc", "1", "0x1F", " 12 ", "3.5", "1e3", "NaN", b"", b"12", 3.0, 3.5, math.inf, "Infinity", -0.0]
)
NO_BOOLEAN = st.sampled_from(["", "yes", "no", "true", "t", 2, -1, 1.0, 0.5, b"\1", "1", "0", "2"])
BYTES = st.binary(max_size=6) | st.sampled_from([b"", b"\0\xff", b"\\x", b"a"])
MEANT: Mapping[str, Strategy] = {
    "unix": st.integers(0, 4 * 10**9) | st.floats(0, 4e9) | st.just("1760083739.25"),
    "unix_ms": st.integers(0, 4 * 10**12) | st.floats(0, 4e12),
    "julian": st.integers(2_440_000, 2_470_000) | st.floats(2_440_000, 2_470_000),
}
MIDNIGHTS: Mapping[str, Strategy] = {
    "unix": st.integers(-9_000, 40_000).map(lambda day: day * 86_400),
    "unix_ms": st.integers(-9_000, 40_000).map(lambda day: day * 86_400_000),
    "julian": st.integers(2_440_000, 2_470_000).map(lambda day: day + 0.5),
}
LABELS = ("sad", "happy", "o'brien", "é", "SAD", 'a"b', "1")


def integers(bits: int) -> Strategy:
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    ways = [st.integers(-2, 9)] * 8 + [st.integers(0, 99)] * 8 + [st.sampled_from([least, most]), st.integers(least, most)]
    return st.sampled_from(ways).flatmap(lambda way: way)


def beyond(bits: int) -> Strategy:
    return NO_NUMBER | st.sampled_from([2 ** (bits - 1), -(2 ** (bits - 1)) - 1, 2.0**63] if bits < 64 else [2.0**63, -1e19])


def decimals(precision: int, scale: int) -> Strategy:
    most = 10**precision - 1
    whole = st.integers(-min(most, 10**15), min(most, 10**15)) | st.integers(-20, 20)
    reals = whole.map(lambda number: float(Decimal(number).scaleb(-scale)))
    plain = st.integers(-min(10 ** (precision - scale) - 1, 2**63 - 1), min(10 ** (precision - scale) - 1, 2**63 - 1))
    return reals | (plain if precision > scale else reals)


IN_INTEGER = ("INTEGER", "INT", "BIGINT", "SMALLINT", "NUMERIC", "", "FLOATING POINT")
IN_REAL = ("REAL", "DOUBLE PRECISION", "FLOAT", "NUMERIC", "", "DECIMAL(9,6)")
IN_TEXT = ("TEXT", "VARCHAR(50)", "CLOB", "character varying(9)", "", "BLOB", "STRING")
IN_DATE = ("DATETIME", "TIMESTAMP", "TEXT", "", "DATE")
ANY_DECLARED = ("INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB", "", "ANY", "CHARINT", "BOOLEAN")
STRICT_DECLARED = ("INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY")


def moments(zones: Strategy) -> Strategy:
    return DAYS | st.builds("{}{}{}{}".format, DAYS, st.sampled_from(" T"), CLOCKS, zones)


KINDS = (
    Kind("smallint", "smallint", IN_INTEGER, integers(16), beyond(16)),
    Kind("integer", "integer", IN_INTEGER, integers(32), beyond(32)),
    Kind("bigint", "bigint", IN_INTEGER, integers(64), beyond(64)),
    Kind("double precision", "double precision", IN_REAL, FLOATS | st.integers(-(2**53), 2**53), NO_NUMBER | st.just(2**53 + 1)),
    Kind("numeric", "numeric", IN_REAL, decimals(15, 6) | st.floats(-1e15, 1e15) | integers(64), NO_NUMBER | FLOATS),
    *(
        Kind(f"numeric({p},{s})", "numeric", IN_REAL, decimals(p, s), NO_NUMBER | FLOATS | st.sampled_from([999.5, 0.125, 10 ** min(p, 18)]))
        for p, s in ((9, 6), (3, 0), (20, 2), (18, 17), (38, 25), (3, 5))
    ),
    Kind("boolean", "boolean", ("BOOLEAN", "INTEGER", "", "TINYINT"), st.integers(0, 1), NO_BOOLEAN),
    Kind("text", "text", IN_TEXT, TEXT, BROKEN | st.sampled_from(LONG)),
    Kind("varchar(5)", "varchar", IN_TEXT, TEXT.map(lambda text: text[:5]), BROKEN | st.sampled_from(["abcdef", "abc   ", "გამარჯობა"])),
    Kind("char(3)", "char", IN_TEXT, TEXT.map(lambda text: (text + "ab ")[:3]), BROKEN | st.sampled_from(["ab", "abcd", ""])),
    Kind("uuid", "uuid", ("UUID", "TEXT", "CHAR(32)", "VARCHAR(36)", ""), UUIDS, NO_UUID),
    Kind("jsonb", "jsonb", ("JSON", "TEXT", "", "CLOB"), DOCUMENTS, NO_DOCUMENT),
    Kind("json", "json", ("JSON", "TEXT", ""), DOCUMENTS, NO_DOCUMENT),
    Kind("timestamptz", "timestamptz", IN_DATE, moments(ZONES), NO_MOMENT),
    Kind("timestamp", "timestamp", IN_DATE, moments(st.just("")), NO_MOMENT),
    Kind("date", "date", IN_DATE, DAYS, NO_MOMENT),
    Kind("time", "time", ("TIME", "TEXT", ""), CLOCKS, NO_MOMENT),
    Kind("bytea", "bytea", ("BLOB", "", "BYTEA"), BYTES, BROKEN | st.sampled_from(LONG).map(str.encode)),
    Kind('"Mood"', "enum", ("TEXT", "VARCHAR(9)", ""), st.sampled_from(LABELS), st.sampled_from(["", "Sad", "sad\0", b"sad", 1, "sad "])),
)  # fmt: skip
BY_TYPE = {kind.type: kind for kind in KINDS}
INTEGERS = ("smallint", "integer", "bigint")
ANYTHING = st.one_of(
    NO_NUMBER,
    NO_BOOLEAN,
    NO_MOMENT,
    NO_UUID,
    NO_DOCUMENT,
    BROKEN,
    TEXT,
    FLOATS,
    BYTES,
    integers(64),
    st.sampled_from(LABELS),
)

NAMES = (
    "id", "Name", "name_2", "order", "select", "გვარი", "naïve", 'quo"te', "it's", "with space", "100%", "{braces}", "a.b", "t", "k",
    "r", "x", "p", "at", "place", "number", "rowid", "oid", "_rowid_", "line", "doubted", "n0", "k0", "main", "original", "new",
    "back\\slash", "semi;colon", "bra]cket", "back`tick", "1st", "ß", "🛰", "value", "lower", "rows", "one", "l" * 63, "%s", "$1",
    "convert_to", "user", "Ä", "ä", "--x", "/*y*/", "a,b", "(c)", "check", "unique", "record", "work", "temp", "v", "c", "row",
)  # fmt: skip


# --- a case -------------------------------------------------------------------------------------------------------------


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Column:
    """A column on both sides.

    Attributes:
        declared: Its type in the source, with collation.
        domain: What the target's domain says beside the type; None where the type is used as it is.
        identity: How the target gives keys by itself: ``by default``, ``always``, ``serial``; empty where it does not.
        computed: The column whose being NULL it tells; then ``source`` and ``target`` say how each side has it: ``computed``,
            ``plain``, ``none``.
    """

    name: str
    kind: Kind
    declared: str
    not_null: bool = False
    source_not_null: bool = False
    domain: str | None = None
    identity: str = ""
    computed: str = ""
    source: str = "plain"
    target: str = "plain"


@dataclass(frozen=True)
class Unique:
    """A unique key of the target; ``predicate`` and ``expression`` make it an index."""

    columns: tuple[str, ...]
    in_source: bool
    nulls_equal: bool = False
    predicate: str = ""
    expression: str = ""


@dataclass(frozen=True)
class Table:
    """A table on both sides.

    Attributes:
        key: Columns of the primary key; empty where there is none.
        form: ``rowid``: the key is an INTEGER PRIMARY KEY. ``autoincrement``, ``without rowid``, ``plain``, ``descending``,
            ``only in target``.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    form: str = "plain"
    strict: bool = False
    uniques: tuple[Unique, ...] = ()
    checks: tuple[str, ...] = ()
    quoting: str = '""'
    sequence: int | None = None

    @property
    def stored(self) -> tuple[Column, ...]:
        """Those that rows are inserted with in the source."""
        return tuple(column for column in self.columns if column.source == "plain")

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Link:
    """A foreign key of the target."""

    name: str
    table: str
    columns: tuple[str, ...]
    referenced: str
    referenced_columns: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A whole cutover: see the module's docstring.

    Attributes:
        all_the_same: Copy although the assessment blocks.
    """

    tables: tuple[Table, ...]
    links: tuple[Link, ...]
    rows: Mapping[str, Sequence[Sequence[Any]]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    encoding: str = "UTF-8"
    chunk_rows: int = 500
    part_rows: int = 10_000
    all_the_same: bool = False

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text("...")  # for hypothesis: as SQL it is shorter

    # --- the source

    def source(self) -> list[str]:
        """The statements that make the source, without its rows."""
        return [f"PRAGMA encoding = '{self.encoding}'", *(_source_table(table) for table in self.tables)]

    def write(self, path: Path) -> None:
        """Make the source. Rows that SQLite itself refuses are left out."""
        path.unlink(missing_ok=True)
        with contextlib.closing(apsw.Connection(str(path))) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            for statement in self.source():
                connection.execute(statement)
            with connection:
                for table in self.tables:
                    _insert(connection, table, self.rows[table.name])

    # --- the target

    def sql(self, folder: Path) -> Path:
        """Write the SQL folder of the plan."""
        for kind, statements in self.files().items():
            if statements:
                (folder / kind).mkdir(parents=True)
                (folder / kind / "001_all.sql").write_text(";\n".join(statements), encoding="utf-8")
        return folder

    def files(self) -> dict[str, list[str]]:
        """The statements of each folder."""
        labels = ", ".join("'" + label.replace("'", "''") + "'" for label in LABELS)
        before = [f'CREATE TYPE "Mood" AS ENUM ({labels})']
        after: list[str] = []
        for number, table in enumerate(self.tables):
            cells = []
            for place, column in enumerate(table.columns):
                if column.target == "none":
                    continue
                if column.domain is not None:
                    before.append(f'CREATE DOMAIN "Dom {number}.{place}" AS {column.kind.type} {column.domain}')
                cells.append(_target_column(column, f'"Dom {number}.{place}"'))
            cells += [f"CHECK ({check})" for check in table.checks]
            before.append(f"CREATE TABLE {quote(table.name)} ({', '.join(cells)})")
            after += _keys(table)
        foreign = [
            f"ALTER TABLE {quote(link.table)} ADD CONSTRAINT {quote(link.name)} FOREIGN KEY ({_list(link.columns)})"
            f" REFERENCES {quote(link.referenced)} ({_list(link.referenced_columns)}) NOT VALID"
            for link in self.links
        ]
        return {"pre_data": before, "post_data": after, "foreign_keys": foreign}

    def __str__(self) -> str:
        """Everything as SQL, for whoever has to find out what happened."""
        told = [f"-- source ({self.encoding}), chunks of {self.chunk_rows}, parts of {self.part_rows}", *self.source()]
        for table in self.tables:
            told += [f"-- {table.name}: {row!r}" for row in self.rows[table.name]]
            told += [f"-- {table.name}: sequence {table.sequence}"] if table.sequence is not None else []
        told += ["-- target", *(statement for kind in self.files().values() for statement in kind)]
        told += [f"-- plan: {json.dumps(self.settings, ensure_ascii=False)}"]
        return "\n".join(told)


def _list(names: Sequence[str]) -> str:
    return ", ".join(quote(name) for name in names)


def _named(name: str, quoting: str) -> str:
    """A name as SQLite lets it be written."""
    if quoting == "[]" and "]" not in name:
        return f"[{name}]"
    if quoting == "``":
        return "`" + name.replace("`", "``") + "`"
    if (
        quoting == "bare"
        and re.fullmatch(r"[a-z_][a-z0-9_]{2,9}", name)
        and name not in ("order", "select", "check", "unique")
    ):
        return name
    return quote(name)


def _source_table(table: Table) -> str:
    cells = []
    alias = table.key[0] if table.form in ("rowid", "autoincrement") else ""
    for column in table.columns:
        if column.source == "none":
            continue
        text = f"{_named(column.name, table.quoting)} {column.declared}"
        if column.source == "computed":
            text += (
                f" GENERATED ALWAYS AS ({quote(column.computed)} IS NULL) {'STORED' if len(column.name) % 2 else 'VIRTUAL'}"
            )
        elif column.name == alias:
            text += " PRIMARY KEY" + (" AUTOINCREMENT" if table.form == "autoincrement" else "")
        cells.append(text + (" NOT NULL" if column.source_not_null else ""))
    if table.key and not alias and table.form != "only in target":
        names = [_named(name, table.quoting) for name in table.key]
        if table.form == "descending":
            names[0] += " DESC"
        cells.append(f"PRIMARY KEY ({', '.join(names)})")
    cells += [f"UNIQUE ({_list(unique.columns)})" for unique in table.uniques if unique.in_source]
    options = [word for word, chosen in (("WITHOUT ROWID", "without" in table.form), ("STRICT", table.strict)) if chosen]
    return f"CREATE TABLE {_named(table.name, table.quoting)} ({', '.join(cells)}) {', '.join(options)}"


def _target_column(column: Column, domain: str) -> str:
    kind = domain if column.domain is not None else column.kind.type
    if column.identity == "serial":
        kind = {"smallint": "smallserial", "integer": "serial", "bigint": "bigserial"}[kind]
    text = f"{quote(column.name)} {kind}"
    if column.target == "computed":
        return f"{text} GENERATED ALWAYS AS ({quote(column.computed)} IS NULL) STORED"
    if column.identity in ("by default", "always"):
        text += f" GENERATED {column.identity.upper()} AS IDENTITY"
    return text + (" NOT NULL" if column.not_null else "")


def _keys(table: Table) -> list[str]:
    name, statements = quote(table.name), []
    if table.key:
        statements.append(f"ALTER TABLE {name} ADD PRIMARY KEY ({_list(table.key)})")
    for unique in table.uniques:
        if unique.predicate or unique.expression:
            where = f" WHERE {unique.predicate}" if unique.predicate else ""
            statements.append(f"CREATE UNIQUE INDEX ON {name} ({unique.expression or _list(unique.columns)}){where}")
        else:
            nulls = " NULLS NOT DISTINCT" if unique.nulls_equal else ""
            statements.append(f"ALTER TABLE {name} ADD UNIQUE{nulls} ({_list(unique.columns)})")
    return statements


def _insert(connection: apsw.Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    names = _list([column.name for column in table.stored])
    for row in rows:
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, Raw) else "?" for value in row)
        plain = [value.data if isinstance(value, Raw) else value for value in row]
        with contextlib.suppress(apsw.ConstraintError, apsw.MismatchError):
            connection.execute(f"INSERT INTO {quote(table.name)} ({names}) VALUES ({marks})", plain)
    if table.sequence is not None:
        connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
        connection.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table.name, table.sequence))


# --- drawing ------------------------------------------------------------------------------------------------------------


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
            columns[0] = Column(columns[0].name, columns[0].kind, columns[0].declared, identity="by default")
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
        columns[at] = Column(own.name, kind, declared, own.not_null, own.source_not_null, domain)
    changed = Table(
        child.name,
        tuple(columns),
        child.key,
        child.form,
        child.strict,
        child.uniques,
        child.checks,
        child.quoting,
        child.sequence,
    )
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
