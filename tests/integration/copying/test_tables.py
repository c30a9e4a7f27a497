"""The copy: every value arrives as it is, or the copy says which one cannot. Whole chunks, once each, also after kills."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.cutover.copying import blocks
from include.cutover.copying.chunks import Share, plan_chunks
from include.cutover.copying.conversion import TargetColumn, conversion
from include.cutover.copying.progress import CopyProgress
from include.cutover.copying.table_copy import RunLease
from include.cutover.copying.tables import CopyResult, copy_table
from include.cutover.errors import CannotCheck, CutoverError, LeaseLost, Refused, Unreachable, WrongData
from include.cutover.places import ROOT
from include.cutover.proof import content
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.stack.postgres import Cluster
from include.cutover.target import checkpoints, ledger
from include.cutover.target.checkpoints import Chunk
from include.cutover.target.sides import Sides
from tests.support.hanging import through_proxy

Row = Sequence[Any]


@dataclass
class Bench:
    """A source file, a target, and a run that holds it."""

    folder: Path
    conninfo: str
    run_id: str = "run"
    epoch: int = 0
    tables: int = field(default=0)

    @property
    def snapshot(self) -> Path:
        return self.folder / "source.db"

    def source(self, *statements: str) -> None:
        with contextlib.closing(apsw.Connection(str(self.snapshot))) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            for statement in statements:
                connection.execute(statement)

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        marks = ", ".join("?" for _ in rows[0]) if rows else ""
        with contextlib.closing(apsw.Connection(str(self.snapshot))) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            with connection:
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

    def target(self, *statements: str) -> None:
        with psycopg.connect(self.conninfo) as connection:
            for statement in statements:
                connection.execute(statement)

    def copy(self, table: str = "t", **options: Any) -> CopyResult:
        secret = {table: options.pop("secret", ())}
        sides = Sides(self.snapshot, options.pop("conninfo", self.conninfo), options.pop("schema", "public"), secret)
        lease = RunLease(options.pop("run_id", self.run_id), options.pop("epoch", self.epoch))
        return copy_table(sides, lease, table, **options)

    def read(self, query: str = "SELECT * FROM t") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo, options="-c TimeZone=UTC") as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[str]:
    """One database for all tests of this file: making one takes longer than most of them."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield cluster.conninfo(name)
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def bench(tmp_path: Path, database: str) -> Bench:
    """An empty target, held by a run of its own."""
    with psycopg.connect(database) as connection:
        mine = "nspname !~ '^pg_' AND nspname <> 'information_schema'"
        for (schema,) in connection.execute(f"SELECT quote_ident(nspname) FROM pg_namespace WHERE {mine}").fetchall():
            connection.execute(f"DROP SCHEMA {schema} CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} RESET ALL")
    made = Bench(tmp_path, database)
    ledger.ensure(database)
    made.epoch = ledger.open_run(database, made.run_id, "ward_ops")
    return made


def try_rows(bench: Bench, declared: str, columns: str, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Copy the rows through a table of their own and read them back in the order of their key."""
    bench.tables += 1
    table = f"t{bench.tables}"
    bench.snapshot.unlink(missing_ok=True)
    bench.source(f"CREATE TABLE {table}({declared})")
    bench.insert(table, rows)
    bench.target(f"CREATE TABLE {table}({columns})")
    try:
        result = bench.copy(table)
        assert result.rows == len(rows)
        return bench.read(f"SELECT * FROM {table} ORDER BY 1")
    finally:
        bench.target(f"DROP TABLE {table}")


# --- values that must arrive ---------------------------------------------------------------------------------------------

SEPARATORS = "\x1d\x1e\x1f\\\t\n\r\"',.;N \x1c\x7f"
TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    st.text(SEPARATORS, max_size=8),
    st.sampled_from(["", "\\N", "\\.", "\x1d", "\x1e", "\x1f", "NULL", "  both  ", "მთავარი", "a\n\\.\nb"]),
)
FLOATS = st.floats(allow_nan=False) | st.sampled_from([-0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, math.inf, -math.inf])
INSTANTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001  naive, as the source has them
UUIDS = (
    st.uuids()
    .flatmap(lambda u: st.sampled_from([u.hex, str(u), str(u).upper(), f"{{{u}}}", u.hex.upper()]))
    .filter(lambda text: not re.fullmatch(r"[0-9]+(e[0-9]+)?", text))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value, ensure_ascii=False))


def nullable(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


EVERYTHING = st.tuples(
    nullable(TEXTS),
    nullable(TEXTS.map(lambda text: text[:10])),
    nullable(st.integers(-(2**63), 2**63 - 1)),
    nullable(st.integers(-(2**31), 2**31 - 1)),
    nullable(st.integers(0, 1)),
    nullable(FLOATS),
    nullable(FLOATS),
    nullable(st.binary(max_size=30)),
    nullable(INSTANTS.map(lambda moment: moment.isoformat(" "))),
    nullable(UUIDS),
    nullable(JSON.filter(lambda text: text[:1] in '"[{tfn')),
    nullable(st.integers(1 - 10**9, 10**9 - 1).map(lambda number: number / 10**6)),
)
DECLARED = (
    "id INTEGER PRIMARY KEY, a TEXT, b VARCHAR(10), c BIGINT, d INTEGER, e BOOLEAN, f REAL, g, h BLOB, i DATETIME, j UUID, "
    "k JSON, l REAL"
)
COLUMNS = (
    "id bigint NOT NULL, a text, b varchar(10), c bigint, d integer, e boolean, f float8, g float8, h bytea, "
    "i timestamptz, j uuid, k jsonb, l numeric(9,6)"
)
EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack(">d", value)


@EXAMPLES
@given(rows=st.lists(EVERYTHING, min_size=1, max_size=25))
def test_every_value_arrives_as_it_is(bench: Bench, rows: list[Row]) -> None:
    numbered = [(number, *row) for number, row in enumerate(rows)]
    for sent, found in zip(numbered, try_rows(bench, DECLARED, COLUMNS, numbered), strict=True):
        assert found[:6] == sent[:6]
        assert bits(found[6]) == bits(None if sent[6] is None else sent[6] + 0.0)  # a REAL column stores -0.0 as 0.0
        assert bits(found[7]) == bits(sent[7])
        assert found[8] == sent[8]
        assert found[9] == (None if sent[9] is None else datetime.fromisoformat(sent[9]).replace(tzinfo=UTC))
        assert found[10] == (None if sent[10] is None else uuid.UUID(sent[10]))
        assert found[11] == (None if sent[11] is None else json.loads(sent[11]))
        assert (found[12] is None) == (sent[12] is None)
        assert sent[12] is None or float(found[12]) == sent[12]


# --- any value into any column: as it is, or an error, never something else -----------------------------------------------

NASTY: list[Any] = [
        "now", "epoch", "infinity", "today", "20251011", "11/10/2025", "2025-10-11", "2025-10-11 08:08",
        "2025-10-11T08:08:59Z",
        "2025-10-11 08:08:59+04:00", "2025-10-11 08:08:59+0400", "2025-10-11 08:08:60", "2025-10-11 08:08:59 AM",
        "2025-10-11  08:08:59", "2025-10-11 08:08:59.57   ", "2025-10-11 08:08:59.1234567", "2025-10-11 08:08:59.1230000",
        "2025-10-11 08:08:59 BC", "2025-10-11 24:00:00", "2025-02-30 08:00:00", "2025-10-1108:08:59", "J2459865", "08:08:59",
        "2025-10-11 08:08:59.5+04", "2025-10-11 08:08:59.57  Z", "2025-10-11 08:08:59 Asia/Tbilisi", "0000-01-01", "",
        "yes", "t", "true", "on", "1", "0", "2", "0x1F", "1_000", " 12 ", "+5", "1e3", "3.5", "NaN", "Infinity", "-0",
        "\x1d", "\x1e", "\x1f", "\\N", "a\0b", "abcdefghij ", "abcdefghijk", "abcde", "{}", "null", '{"a": 1e400}',
        "a0eebc999c0b4ef8bb6d6bb9bd380a11", "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
        b"", b"\xff", b"abc", b"12", b"2025-10-11 08:08:59", b"a0eebc999c0b4ef8bb6d6bb9bd380a11",
        0, 1, 2, -1, 3.0, 3.5, 0.1, 1e300, math.inf, -0.0, 2**31, 2**53 + 1, -(2**63), 20251011, 45.5, 1.0000001, 44.8271,
]  # fmt: skip
ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?( ?([Zz]|[+-]\d\d:\d\d))?)?", re.ASCII)


def instant(text: str) -> datetime:
    found = datetime.fromisoformat(text.replace("24:00:00", "00:00:00"))
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found + timedelta(days=1) if "24:00:00" in text else found


def only(kind: type, same: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda sent, found: type(sent) is kind and same(sent, found)


def same_moment(sent: str, found: datetime) -> bool:
    return ISO.fullmatch(sent) is not None and ":60" not in sent and instant(sent) == found


def same_local_time(sent: str, found: datetime) -> bool:
    return not re.search(r"[Zz]|[+-]\d\d:", sent[10:]) and same_moment(sent, found.replace(tzinfo=UTC))


def same_number(sent: Any, found: Decimal) -> bool:
    return (type(sent) is int and found == sent) or (type(sent) is float and float(found) == sent)


COPY_V = "COPY t FROM STDIN (FORMAT text, DELIMITER E'\\x1f', NULL E'\\x1d')"

# target type → whether what was found there is what the source held
ARRIVED: dict[str, Callable[[Any, Any], bool]] = {
    "text": only(str, str.__eq__),
    "varchar(10)": only(str, str.__eq__),
    "char(5)": only(str, str.__eq__),
    "integer": only(int, int.__eq__),
    "bigint": only(int, int.__eq__),
    "boolean": lambda sent, found: type(sent) is int and sent in (0, 1) and found is bool(sent),
    "float8": lambda sent, found: type(sent) in (int, float) and sent == found and bits(float(sent)) == bits(found),
    "numeric": same_number,
    "numeric(9,6)": same_number,
    "bytea": only(bytes, bytes.__eq__),
    "timestamptz": only(str, same_moment),
    "timestamp": only(str, same_local_time),
    "date": only(str, lambda sent, found: found.isoformat() == sent),
    "time": only(str, lambda sent, found: found.isoformat() == sent),
    "uuid": only(str, lambda sent, found: uuid.UUID(sent) == found),
    "jsonb": only(str, lambda sent, found: found in (json.loads(sent), json.loads(sent, parse_float=Decimal))),
}  # fmt: skip


@pytest.mark.parametrize("type_name", ARRIVED)
def test_any_value_arrives_as_it_is_or_not_at_all(bench: Bench, type_name: str) -> None:
    """Each value in a block of its own, so that the fast way and PostgreSQL's input decide about it alone."""
    arrived: list[tuple[Any, Any]] = []
    with psycopg.connect(bench.conninfo, options="-c TimeZone=UTC -c DateStyle=ISO,YMD") as connection:
        connection.execute(f"CREATE TEMPORARY TABLE t (v {type_name})")
        (base, modifier), *_ = connection.execute(
            "SELECT typname, atttypmod FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
            "WHERE attrelid = 't'::regclass AND attnum = 1"
        ).fetchall()
        target = TargetColumn("v", type_name, base, modifier, False, False, False)
        for declared in ("", "TEXT", "DATETIME", "REAL", "INTEGER"):
            with contextlib.closing(apsw.Connection(":memory:")) as memory:
                memory.execute(f"CREATE TABLE t(v {declared})")
                memory.executemany("INSERT INTO t VALUES (?)", [(value,) for value in NASTY])
                way = conversion("t", source_schema.columns(memory, "t")[0], target)
                reader = blocks.TableReader(memory, source_schema.shape(memory, "t"), [way])
                reader.count_separators = True  # PostgreSQL's part in that is for copy_table to use
                for number, (stored,) in enumerate(memory.execute("SELECT v FROM t ORDER BY rowid").fetchall(), start=1):
                    try:
                        (block,) = reader.blocks(Chunk("t", 0, number, number, 1))
                        with connection.transaction(), connection.cursor() as cursor, cursor.copy(COPY_V) as copy:
                            copy.write(block.data)
                    except (WrongData, psycopg.DataError):
                        continue
                    ((found,),) = connection.execute("SELECT v FROM t").fetchall()
                    connection.execute("TRUNCATE t")
                    arrived.append((stored, found))
    assert arrived
    for stored, found in arrived:
        assert ARRIVED[type_name](stored, found), f"{stored!r} arrived as {found!r}"


SHORT, LONG = [0.1, 9.95, 0.0, 123456.789, 5e-15], [0.30000000000000004, 1 / 3, 2.0**60, -(2.0**62)]


@pytest.mark.parametrize(("type_name", "most"), [("numeric", 2**63), ("numeric(30,20)", 10**10), ("numeric(60,40)", 2**63)])
@pytest.mark.parametrize("reals", [SHORT, [*SHORT, *LONG]], ids=["fifteen digits are enough", "more digits"])
def test_a_real_becomes_the_shortest_decimal(bench: Bench, type_name: str, most: int, reals: list[float]) -> None:
    """One real that needs more digits sends the whole block the exact way."""
    bench.tables += 1
    table = f"t{bench.tables}"
    reals = [real for real in reals if abs(real) < most]
    bench.snapshot.unlink(missing_ok=True)
    bench.source(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, v REAL)")
    bench.insert(table, list(enumerate(reals)))
    bench.target(f"CREATE TABLE {table} (id integer PRIMARY KEY, v {type_name})")
    bench.copy(table)
    found = [value for (value,) in bench.read(f"SELECT v FROM {table} ORDER BY id")]
    assert found == [Decimal(int(real)) if real.is_integer() else Decimal(repr(real)) for real in reals]
    (result,) = content.compare(Sides(bench.snapshot, bench.conninfo, "public"), [table])
    assert result.outcome == "passed", result.summary


# --- what must not arrive, and how it is told -----------------------------------------------------------------------------

SECRET = "gAAAAABk-secret-token"
WRONG: dict[str, tuple[str, str, Any, str]] = {
    # kind: declared type, target's type, value, what the error says was found
    "text in an integer column": ("INTEGER", "integer", "n/a", "text of 3 characters"),
    "text that PostgreSQL takes for an integer": ("INTEGER", "integer", "0x1F", "text of 4 characters"),
    "3.5 in an integer column": ("INTEGER", "integer", 3.5, "a real"),
    "beyond integer": ("INTEGER", "integer", 2**31, "an integer beyond that"),
    "beyond smallint": ("INTEGER", "smallint", -40000, "an integer beyond that"),
    "2 in a boolean column": ("BOOLEAN", "boolean", 2, "another integer"),
    "yes in a boolean column": ("BOOLEAN", "boolean", "yes", "text of 3 characters"),
    "empty text in a datetime column": ("DATETIME", "timestamptz", "", "empty text"),
    "unix seconds": ("DATETIME", "timestamptz", 1760169600, "an integer"),
    "a date without hyphens": ("DATETIME", "timestamptz", 20251011, "an integer"),
    "such a date as text": ("TEXT", "timestamptz", "20251011", "other text"),
    "now": ("DATETIME", "timestamptz", "now", "other text"),
    "an American date": ("DATETIME", "timestamptz", "11/10/2025 08:00", "other text"),
    "a Julian day": ("DATETIME", "timestamptz", 2460959.5, "a real"),
    "seven digits of fraction": ("DATETIME", "timestamptz", "2025-10-11 08:00:00.1234567", "7 digits"),
    "the 30th of February": ("DATETIME", "timestamptz", "2025-02-30 08:00:00", "DatetimeFieldOverflow"),
    "an offset where none is kept": ("DATETIME", "timestamp", "2025-10-11 08:00:00+04:00", "other text"),
    "a time in a date column": ("DATE", "date", "2025-10-11 08:00:00", "other text"),
    "text longer than varchar(n)": ("VARCHAR(5)", "varchar(5)", SECRET, "text of 21 characters"),
    "blanks beyond varchar(n)": ("VARCHAR(5)", "varchar(5)", "abc   ", "text of 6 characters"),
    "text shorter than char(n)": ("CHAR(5)", "char(5)", "abc", "text of 3 characters"),
    "NUL in text": ("TEXT", "text", "a\0b", "1 of them NUL"),
    "NUL escaped in JSON": ("JSON", "jsonb", '"\\u0000"', "UntranslatableCharacter"),
    "broken JSON": ("JSON", "jsonb", "{" + SECRET, "InvalidTextRepresentation"),
    "a blob in a text column": ("TEXT", "text", b"plain", "a blob of 5 bytes"),
    "text in a blob column": ("BLOB", "bytea", "plain", "text of 5 characters"),
    "a number in a text column": ("STRING", "text", 7, "an integer"),
    "a uuid that SQLite took for a number": ("UUID", "uuid", "1" * 32, "a real"),
    "no uuid": ("UUID", "uuid", "g" * 32, "other text"),
    "JSON that SQLite took for a number": ("JSON", "jsonb", "1.10", "a real"),
    "a real that numeric(p,s) would round": ("REAL", "numeric(9,6)", 0.1234567, "a real with more digits"),
    "a real beyond numeric(p,s)": ("REAL", "numeric(9,6)", 12345.5, "NumericValueOutOfRange"),
    "infinity in numeric": ("REAL", "numeric", math.inf, "an infinite real"),
    "an integer that float8 would round": ("NUMERIC", "float8", 2**53 + 1, "an integer beyond 2^53"),
    "NULL where the target has none": ("TEXT", "text NOT NULL", None, "NULL"),
    "no label of an enumeration": ("VARCHAR(16)", "mood", SECRET, "InvalidTextRepresentation"),
    "no value of a domain": ("INTEGER", "positive", -1, "positive_check"),
    "an offset that PostgreSQL has not": ("TEXT", "timestamptz", "2025-10-11 08:00:00+16:00", "other text"),
    "no row for a check": ("INTEGER", "integer CHECK (v < 100)", 100, "violates check constraint"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_arrive_is_named(bench: Bench, kind: str) -> None:
    declared, type_name, value, found = WRONG[kind]
    good: dict[str, Any] = {"uuid": "a" * 32, "jsonb": "{}", "bytea": b"b", "timestamptz": "2025-10-11", "mood": "fine"}
    good |= {"timestamp": "2025-10-11", "date": "2025-10-11", "varchar(5)": "abc", "char(5)": "abcde", "text": "t"}
    fine = good.get(type_name, good["text"] if "text" in type_name else 1)
    bench.tables += 1
    table = f"t{bench.tables}"
    bench.snapshot.unlink(missing_ok=True)
    bench.source(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, v {declared})")
    rows = [(number, value if number == 1234 else fine) for number in range(1, 2001)]
    bench.insert(table, rows)
    bench.target("DROP TYPE IF EXISTS mood", "CREATE TYPE mood AS ENUM ('fine')", "DROP DOMAIN IF EXISTS positive")
    bench.target("CREATE DOMAIN positive AS integer CHECK (VALUE > 0)", f"CREATE TABLE {table}(id integer, v {type_name})")
    try:
        with pytest.raises(WrongData) as caught:
            bench.copy(table)
        assert re.search(rf"table {table}\b.*key id=1234$", caught.value.where), caught.value.where
        assert found in caught.value.found
        assert SECRET not in str(caught.value)
        assert bench.read(f"SELECT count(*) FROM {table}") == [(0,)]
        assert [chunk.copied for chunk in checkpoints.stored_chunks(bench.conninfo, bench.run_id, table)] == [False]
    finally:
        bench.target(f"DROP TABLE {table}")


def test_bytes_that_are_not_utf8_are_named_with_their_key(bench: Bench) -> None:
    bench.source("CREATE TABLE t(name TEXT PRIMARY KEY, v TEXT)", "INSERT INTO t VALUES ('one', 'fine')")
    bench.source("INSERT INTO t VALUES ('two', CAST(x'66fce2' AS TEXT))")
    bench.target("CREATE TABLE t(name text, v text)")
    with pytest.raises(
        WrongData, match=r"table t, column v, key name=two.*expected text in UTF-8.*found 3 bytes that are not"
    ):
        bench.copy()
    bench.source("UPDATE t SET name = CAST(x'ff' AS TEXT) WHERE name = 'one'", "DELETE FROM t WHERE name = 'two'")
    with pytest.raises(WrongData, match=r"column name, key name=\\xff"):
        bench.copy(run_id="run", chunk_rows=10)


@pytest.mark.parametrize(
    ("declared", "secret", "key"),
    [
        ("token TEXT PRIMARY KEY, v", ["token"], "rowid=2"),
        ("token TEXT, v, PRIMARY KEY (token, v)", ["token"], "rowid=2"),
        ("token TEXT PRIMARY KEY, v", [], f"token={SECRET}"),
    ],
)
@pytest.mark.parametrize("value", [7, "{"])  # refused here, and by PostgreSQL
def test_a_key_that_is_secret_is_not_named(bench: Bench, declared: str, secret: list[str], key: str, value: Any) -> None:
    bench.source(f"CREATE TABLE t({declared})")
    bench.insert("t", [("fine", "[1]"), (SECRET, value)])
    bench.target("CREATE TABLE t(token text, v jsonb)")
    with pytest.raises(WrongData) as caught:
        bench.copy(secret=secret)
    assert caught.value.where == f"table t, column v, key {key}"
    assert not secret or SECRET not in str(caught.value)


def test_a_key_that_is_null_is_named_by_its_row(bench: Bench) -> None:
    bench.source("CREATE TABLE t(id TEXT PRIMARY KEY, v TEXT)", "INSERT INTO t VALUES ('a', 'b'), (NULL, 'c')")
    bench.target("CREATE TABLE t(id text PRIMARY KEY, v text)")
    with pytest.raises(WrongData, match=r"table t, column id, key rowid=2.*found NULL"):
        bench.copy()


def test_the_servers_own_objection_is_told_with_key_and_constraint(bench: Bench) -> None:
    bench.source("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
    bench.insert("t", [(number, f"{SECRET}{number % 1500}") for number in range(1, 1601)])
    bench.target("CREATE TABLE t(id integer, v text UNIQUE)")
    with pytest.raises(WrongData, match=r"key id=1501.*expected a row that t_v_key accepts") as caught:
        bench.copy()
    assert SECRET not in str(caught.value)


def test_names_with_a_percent_sign_are_copied_or_named(bench: Bench) -> None:
    """psycopg reads a % as the beginning of a parameter where a statement has parameters."""
    for name, value in (("100%", 1), ("%d", -1)):
        bench.source(f'CREATE TABLE "{name}" ("%s" INTEGER)', f'INSERT INTO "{name}" VALUES ({value})')
    bench.target('CREATE DOMAIN "dom%s" AS integer CHECK (VALUE > 0)')
    bench.target('CREATE TABLE "100%" ("%s" "dom%s")', 'CREATE TABLE "%d" ("%s" "dom%s")')
    assert bench.copy("100%").rows == 1
    with pytest.raises(WrongData, match=r"table %d, column %s, key rowid=1"):
        bench.copy("%d")


def test_rows_that_do_not_add_up_are_never_committed(bench: Bench) -> None:
    """The snapshot changed after the chunks were planned."""
    bench.source("CREATE TABLE t(a INTEGER)", "INSERT INTO t VALUES (1), (2)")
    bench.target("CREATE TABLE t(a integer)")
    checkpoints.plan_chunks(bench.conninfo, bench.run_id, bench.epoch, [Chunk("t", 0, 1, 2, 3)])
    with pytest.raises(CannotCheck, match="expected 3 rows; found 2 rows"):
        bench.copy()
    assert bench.read() == []


# --- tables of every shape -------------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[str, str, list[Row]]] = {
    "empty": ("CREATE TABLE t(a INTEGER PRIMARY KEY)", "a integer", []),
    "one column of empty text": ("CREATE TABLE t(a TEXT)", "a text", [("",), ("",), (None,), ("x",), ("",)]),
    "no key": ("CREATE TABLE t(a, b)", "a integer, b text", [(1, "x"), (1, "x"), (None, None)]),
    "text that looks like two rows": ("CREATE TABLE t(a TEXT)", "a text", [("one\x1etwo",), ("three",), ("\x1e",)]),
    "text that looks like rows and columns": (
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c TEXT)",
        "a integer, b text, c text",
        [(number, "b", "c" if number != 700 else "c\x1e7\x1fb\x1fc") for number in range(1000)],
    ),
    "negative keys": ("CREATE TABLE t(a INTEGER PRIMARY KEY)", "a bigint", [(-(2**63),), (-5,), (0,), (7,), (2**63 - 1,)]),
    "sparse keys": ("CREATE TABLE t(a INTEGER PRIMARY KEY)", "a bigint", [(number**3,) for number in range(2000)]),
    "dense and sparse": (
        "CREATE TABLE t(a INTEGER PRIMARY KEY)",
        "a bigint",
        [(number if number < 3000 else number * 3,) for number in range(3900)],
    ),
    "a column named rowid": (
        'CREATE TABLE t("rowid" TEXT, oid INTEGER)',
        '"rowid" text, oid_ integer',
        [("a", 5), ("b", 5), ("c", 4)],
    ),
    "all names of the rowid taken": (
        "CREATE TABLE t(rowid TEXT, _rowid_ TEXT, oid INTEGER)",
        '"rowid" text, "_rowid_" text, oid_ integer',
        [("a", "x", 5), ("b", "y", 5), ("\x1f", "\x1d", None)],
    ),
    "WITHOUT ROWID": (
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT) WITHOUT ROWID",
        "a integer, b text",
        [(number, f"row\t{number}") for number in range(-1500, 1500)],
    ),
    "WITHOUT ROWID by two columns": (
        "CREATE TABLE t(a TEXT, b INTEGER, c TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID",
        "a text, b integer, c text",
        [(f"k{number % 700}", number // 700, None) for number in range(2100)],
    ),
    "WITHOUT ROWID downwards, case ignored": (
        "CREATE TABLE t(a TEXT COLLATE NOCASE, b INTEGER, PRIMARY KEY (a DESC, b DESC)) WITHOUT ROWID",
        "a text, b integer",
        [(f"{'kK'[number % 2]}{number}", number) for number in range(1200)],
    ),
    "WITHOUT ROWID in both directions": (
        "CREATE TABLE t(a TEXT, b INTEGER, PRIMARY KEY (a DESC, b)) WITHOUT ROWID",
        "a text, b integer",
        [(f"k{number // 10}", number) for number in range(700)],
    ),
    "WITHOUT ROWID by other collations than the columns'": (
        "CREATE TABLE t(a TEXT COLLATE NOCASE, PRIMARY KEY (a COLLATE BINARY)) WITHOUT ROWID",
        "a text",
        [(f"{'kK'[number % 2]}{number // 2}",) for number in range(1200)],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk_rows", [7, 500_000])
def test_tables_of_every_shape_arrive_whole(bench: Bench, shape: str, chunk_rows: int) -> None:
    create, columns, rows = SHAPES[shape]
    if chunk_rows == 7:
        rows = rows[:40]
    bench.source(create)
    bench.insert("t", rows)
    bench.target(f"CREATE TABLE t({columns})", *(["ALTER TABLE t RENAME oid_ TO oid"] if "oid_" in columns else []))
    result = bench.copy(chunk_rows=chunk_rows)
    assert result.rows == len(rows)
    order = repr
    assert sorted(bench.read(), key=order) == sorted((tuple(row) for row in rows), key=order)


def test_a_null_that_the_schema_rules_out_shifts_no_column(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a TEXT, b TEXT, c TEXT)")
    bench.insert("t", [(None, "x\x1fy", "z"), ("a", "b", "c")])
    bench.source("PRAGMA writable_schema=ON", "UPDATE sqlite_schema SET sql = replace(sql, 'a TEXT', 'a TEXT NOT NULL')")
    bench.target("CREATE TABLE t(a text, b text, c text)")
    bench.copy()
    assert bench.read() == [(None, "x\x1fy", "z"), ("a", "b", "c")]


def test_tables_and_columns_whose_names_need_quotes_are_copied(bench: Bench) -> None:
    bench.source('CREATE TABLE "Select ""x"" ცხრილი"("Group" INTEGER PRIMARY KEY, "a ""b"" %s {} c" TEXT, "order" BOOLEAN)')
    bench.insert('"Select ""x"" ცხრილი"', [(1, "one", 1), (2, None, 0)])
    table = 'Select "x" ცხრილი'
    bench.target(
        'CREATE SCHEMA "My Schema"',
        'CREATE TABLE "My Schema"."Select ""x"" ცხრილი"("Group" integer, "order" boolean, "a ""b"" %s {} c" text)',
    )
    assert bench.copy(table, schema="My Schema").rows == 2
    assert bench.read('SELECT * FROM "My Schema"."Select ""x"" ცხრილი" ORDER BY 1') == [(1, True, "one"), (2, False, None)]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_source_in_utf16_is_copied(bench: Bench, encoding: str) -> None:
    bench.source(f"PRAGMA encoding='{encoding}'", "CREATE TABLE t(a TEXT PRIMARY KEY, b BLOB, c REAL)")
    rows = [("მთავარი \U0001f6f0\x1d", b"\xd8\x00", 0.1), ("", b"", None), ("x\ty", None, math.inf)]
    bench.insert("t", rows)
    bench.target("CREATE TABLE t(a text, b bytea, c float8)")
    bench.copy()
    assert sorted(bench.read()) == sorted(rows)
    broken = "00d800d8" if encoding == "UTF-16le" else "d800d800"
    bench.source(f"INSERT INTO t(a) VALUES (CAST(x'{broken}' AS TEXT))")
    bench.target("DELETE FROM t", "DELETE FROM cutover.copied", "DELETE FROM cutover.chunk")
    with pytest.raises(WrongData, match=r"text in UTF-16.*4 bytes that are not"):
        bench.copy()


def test_wide_rows_among_narrow_ones_are_copied(bench: Bench) -> None:
    bench.source("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, b BLOB)")
    wide = blocks.LONGEST_FAST_BLOCK // 3
    rows = [(number, "x" * (wide if number % 400 < 5 else number % 90), b"y" * (number % 7)) for number in range(1200)]
    rows.append((5000, "z" * (blocks.LONGEST_FAST_BLOCK + 5), b"\\" * (blocks.LONGEST_FAST_BLOCK + 5)))
    bench.insert("t", rows)
    bench.source("CREATE TABLE w(id TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID", "INSERT INTO w SELECT 'k' || id, v FROM t")
    bench.target("CREATE TABLE t(id integer, v text, b bytea)", "CREATE TABLE w(id text, v text)")
    assert bench.copy().rows == bench.copy("w").rows == len(rows)
    found = bench.read("SELECT id, length(v), md5(v), length(b) FROM t ORDER BY id")
    assert [(row[0], row[1], row[3]) for row in found] == [(row[0], len(row[1]), len(row[2])) for row in rows]
    assert bench.read("SELECT count(*) FROM t JOIN w ON w.id = 'k' || t.id AND w.v = t.v") == [(len(rows),)]


def test_generated_columns_of_the_target_are_left_to_it(bench: Bench) -> None:
    bench.source(
        "CREATE TABLE t(a INTEGER, twice INTEGER AS (a * 2), lost INTEGER AS (a - 1), again INTEGER AS (a + 1) STORED)",
        "INSERT INTO t VALUES (5)",
    )
    bench.target("CREATE TABLE t(a integer, twice integer, again integer GENERATED ALWAYS AS (a + 1) STORED)")
    bench.copy()
    assert bench.read("SELECT a, twice, again FROM t") == [(5, 10, 6)]


def test_text_in_an_integer_key_is_refused(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a INTEGER PRIMARY KEY DESC, b TEXT)", "INSERT INTO t VALUES ('0x1F', 'x')")
    bench.target("CREATE TABLE t(a integer, b text)")
    with pytest.raises(WrongData, match=r"column a, key a=0x1F.*found text of 4 characters"):
        bench.copy()


def test_identity_columns_keep_the_sources_values(bench: Bench) -> None:
    bench.source("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES (40), (-2)")
    bench.target("CREATE TABLE t(id bigint GENERATED ALWAYS AS IDENTITY)")
    bench.copy()
    assert bench.read("SELECT id FROM t ORDER BY id") == [(-2,), (40,)]


def test_a_naive_datetime_is_utc_whatever_the_session_and_the_server_say(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a DATETIME)", "INSERT INTO t VALUES ('2025-03-10 08:08:59.575644'), ('2025-12-10T08:08Z')")
    bench.target("CREATE TABLE t(a timestamptz)")
    (name,) = bench.read("SELECT current_database()")[0]
    bench.target(
        f"ALTER DATABASE {name} SET timezone = 'Asia/Tbilisi'", f"ALTER DATABASE {name} SET datestyle = 'German, DMY'"
    )
    bench.copy(conninfo=f"{bench.conninfo} options='-c timezone=America/New_York'")
    found = bench.read("SELECT a AT TIME ZONE 'UTC' FROM t ORDER BY 1")
    assert found == [(datetime(2025, 3, 10, 8, 8, 59, 575644),), (datetime(2025, 12, 10, 8, 8),)]  # noqa: DTZ001


# --- refused before anything is copied ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("a integer", "only in the source: b"),
        ("a integer, b text, c text", "only in the target: c"),
        ('a integer, "B" text', "only in the source: b; only in the target: B"),
        ("a integer, b text GENERATED ALWAYS AS ('x') STORED", "only in the source: b"),
        ("a real, b text", "t.a: values cannot be carried over unchanged.*found real"),
        ("a integer, b text[]", r"t\.b.*found text\[\]"),
        ("a integer, b timestamp(3)", r"t\.b.*found timestamp\(3\)"),
        ("a interval, b text", "found interval"),
    ],
)
def test_tables_that_do_not_fit_are_refused(bench: Bench, columns: str, says: str) -> None:
    bench.source("CREATE TABLE t(a INTEGER, b TEXT)", "INSERT INTO t VALUES (1, 'x')")
    bench.target(f"CREATE TABLE t({columns})")
    with pytest.raises(Refused, match=says):
        bench.copy()
    assert bench.read("SELECT count(*) FROM t") == [(0,)]


def test_a_missing_table_is_refused_on_either_side(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a INTEGER)")
    with pytest.raises(Refused, match=r"no such table|public\.t"):
        bench.copy()
    bench.target("CREATE TABLE u(a integer)")
    with pytest.raises(CannotCheck, match="u: there is no such table in the source"):
        bench.copy("u")


def test_rows_of_somebody_else_are_never_mixed_with(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a INTEGER)", "INSERT INTO t VALUES (1)")
    bench.target("CREATE TABLE t(a integer)", "INSERT INTO t VALUES (99)")
    with pytest.raises(Refused, match="rows that this run did not copy"):
        bench.copy()
    assert bench.read() == [(99,)]


def test_a_trigger_on_insert_is_refused(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a INTEGER)", "INSERT INTO t VALUES (1)")
    bench.target(
        "CREATE TABLE t(a integer)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER drops BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    with pytest.raises(Refused, match="drops"):
        bench.copy()


def test_a_trigger_of_a_partition_is_refused(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a INTEGER)", "INSERT INTO t VALUES (1)")
    bench.target(
        "CREATE TABLE t(a integer) PARTITION BY LIST (a)",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER drops BEFORE INSERT ON t_1 FOR EACH ROW EXECUTE FUNCTION f()",
    )
    with pytest.raises(Refused, match="drops"):
        bench.copy()


def test_a_rule_on_insert_is_refused(bench: Bench) -> None:
    bench.source("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
    bench.target("CREATE TABLE t (id bigint)", "CREATE RULE gone AS ON INSERT TO t DO INSTEAD NOTHING")
    with pytest.raises(Refused, match="a rule would change or drop rows") as caught:
        bench.copy("t")
    assert caught.value.found == "gone" and "post_data" in caught.value.do


def test_a_target_that_is_not_utf8_is_refused(bench: Bench, cluster: Cluster) -> None:
    bench.source("CREATE TABLE t(a INTEGER)")
    name = f"l_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            ledger.ensure(cluster.conninfo(name))
            epoch = ledger.open_run(cluster.conninfo(name), "run", "ward_ops")
            with pytest.raises(Refused, match="UTF8"):
                bench.copy(conninfo=cluster.conninfo(name), epoch=epoch)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_run_without_the_lease_copies_nothing(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a INTEGER)", "INSERT INTO t VALUES (1)")
    bench.target("CREATE TABLE t(a integer)")
    ledger.take_over(bench.conninfo, bench.run_id, "rollback")
    with pytest.raises(LeaseLost):
        bench.copy()
    assert bench.read() == []


def test_a_damaged_snapshot_is_an_error_and_leaves_nothing(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")
    bench.insert("t", [(number, "x" * 100) for number in range(5000)])
    bench.target("CREATE TABLE t(a integer, b text)")
    data = bytearray(bench.snapshot.read_bytes())
    data[60 * 4096 : 61 * 4096] = bytes([7]) * 4096
    bench.snapshot.write_bytes(data)
    with pytest.raises((CannotCheck, WrongData)):
        bench.copy()
    assert bench.read() == []


# --- chunks, streams, retries ---------------------------------------------------------------------------------------------


@pytest.fixture
def pings(bench: Bench) -> Bench:
    """20,000 rows in chunks of 4,000."""
    bench.source("CREATE TABLE t(id INTEGER PRIMARY KEY, ip TEXT, at DATETIME)")
    bench.insert("t", [(number, f"10.0.0.{number % 250}", "2025-10-11 08:08:59.575644") for number in range(20_000)])
    bench.target("CREATE TABLE t(id bigint, ip text, at timestamptz)")
    return bench


def whole(pings: Bench) -> None:
    assert pings.read("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM t") == [(20_000, 20_000, 0, 19_999)]
    assert all(chunk.copied for chunk in checkpoints.stored_chunks(pings.conninfo, pings.run_id, "t"))


def test_chunks_are_ranges_of_rows(pings: Bench) -> None:
    connection = snapshots.open_snapshot(pings.snapshot)
    assert plan_chunks(connection, "t", 8_000) == [
        Chunk("t", 0, 0, 7_999, 8_000),
        Chunk("t", 1, 8_000, 15_999, 8_000),
        Chunk("t", 2, 16_000, 19_999, 4_000),
    ]
    assert plan_chunks(connection, "t", 10_000) == [Chunk("t", 0, 0, 9_999, 10_000), Chunk("t", 1, 10_000, 19_999, 10_000)]
    connection.close()


def test_a_second_call_finds_all_there(pings: Bench) -> None:
    first = pings.copy(chunk_rows=4_000)
    assert (first.rows, first.chunks_copied, first.chunks_already_there) == (20_000, 5, 0)
    assert first.bytes > 20_000 * 30
    second = pings.copy(chunk_rows=1_000)
    assert (second.rows, second.chunks_copied, second.chunks_already_there, second.bytes) == (20_000, 0, 5, 0)
    whole(pings)


def test_a_second_call_does_not_mind_what_later_steps_added(bench: Bench) -> None:
    bench.source("CREATE TABLE t(a INTEGER)")
    bench.target("CREATE TABLE t(a integer)")
    assert bench.copy().chunks_copied == 1
    bench.target("INSERT INTO t VALUES (1)")  # reference data
    assert bench.copy().chunks_already_there == 1
    assert bench.read() == [(1,)]


def test_two_streams_share_the_chunks(pings: Bench) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda stream: pings.copy(chunk_rows=4_000, share=Share(stream, 2)), range(2)))
    assert [(result.rows, result.chunks_copied) for result in results] == [(12_000, 3), (8_000, 2)]
    whole(pings)


def test_two_tries_of_one_table_at_once_bring_each_chunk_once(pings: Bench) -> None:
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: pings.copy(chunk_rows=4_000), range(3)))
    assert [result.rows for result in results] == [20_000] * 3
    assert sum(result.chunks_copied for result in results) == 5
    whole(pings)


def test_progress_is_told_inside_a_chunk(pings: Bench) -> None:
    told: list[CopyProgress] = []
    pings.copy(on_progress=told.append, progress_seconds=0)
    assert len(told) > 10
    assert [progress.rows for progress in told] == sorted(progress.rows for progress in told)
    assert (told[0].rows, told[-1].rows, told[-1].total, told[-1].eta_seconds) == (0, 20_000, 20_000, 0)
    assert any(progress.eta_seconds and progress.rate for progress in told[1:-1])
    assert str(told[-1]).startswith("t: 20,000 of 20,000 rows (100 %)")


def test_what_the_callback_raises_ends_the_copy_and_takes_the_open_chunk_back(pings: Bench) -> None:
    def stop(progress: CopyProgress) -> None:
        if progress.rows > 9_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pings.copy(chunk_rows=4_000, on_progress=stop, progress_seconds=0)
    assert pings.read("SELECT count(*) FROM t") == [(8_000,)]
    assert pings.copy().chunks_already_there == 2
    whole(pings)


# Copies in a process of its own, and does something to itself in the middle of a chunk.
CHILD = """
import os, signal, sys
from pathlib import Path
from include.cutover.copying.table_copy import RunLease
from include.cutover.copying.tables import copy_table
from include.cutover.target.sides import Sides
snapshot, conninfo, run_id, epoch, how = sys.argv[1:6]
def tell(progress):
    if 9_000 < progress.rows < 12_000 and not told:
        told.append(progress)
        print("in the middle", flush=True)
        os.kill(os.getpid(), getattr(signal, how))
told = []
copy_table(Sides(Path(snapshot), conninfo, "public"), RunLease(run_id, int(epoch)), "t", chunk_rows=4_000,
           on_progress=tell, progress_seconds=0)
print("done", flush=True)
"""


@contextlib.contextmanager
def child(pings: Bench, how: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(pings.snapshot), pings.conninfo, pings.run_id, str(pings.epoch), how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_in_the_middle_of_a_chunk_and_tried_again(pings: Bench) -> None:
    with child(pings, "SIGKILL") as process:
        assert process.wait(60) == -signal.SIGKILL
    result = pings.copy()
    assert (result.chunks_already_there, result.chunks_copied, result.rows) == (2, 3, 20_000)
    whole(pings)


def test_a_zombie_that_wakes_after_the_takeover_commits_nothing(pings: Bench) -> None:
    with child(pings, "SIGSTOP") as process:
        os.waitpid(process.pid, os.WUNTRACED)
        epoch = ledger.take_over(pings.conninfo, pings.run_id, "rollback", lock_seconds=0.2)
        assert pings.read("SELECT count(*) FROM t") == [(8_000,)]
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=60)
    assert "done" not in output
    assert "LeaseLost" in errors
    assert "taken over by rollback" in errors
    assert pings.read("SELECT count(*) FROM t") == [(8_000,)]
    assert pings.copy(epoch=epoch).chunks_copied == 3
    whole(pings)


def test_a_zombie_that_goes_on_beside_its_own_retry_brings_no_row_twice(pings: Bench) -> None:
    with child(pings, "SIGSTOP") as process, ThreadPoolExecutor(1) as pool:
        os.waitpid(process.pid, os.WUNTRACED)
        retry = pool.submit(pings.copy)
        with psycopg.connect(pings.conninfo, autocommit=True) as connection:
            looking = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_stat_progress_copy%%' AND pid <> %s"
            while connection.execute(looking, [connection.info.backend_pid]).fetchone() == (0,):
                pass
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=60)
        assert "done" in output, errors
        assert retry.result().rows == 20_000
    whole(pings)


def test_an_earlier_try_that_stands_still_is_ended(pings: Bench) -> None:
    with child(pings, "SIGSTOP") as process:
        os.waitpid(process.pid, os.WUNTRACED)
        result = pings.copy(stall_seconds=1.5)
        assert (result.chunks_already_there, result.chunks_copied) == (2, 3)
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=60)
    assert "done" not in output
    assert "Unreachable" in errors
    whole(pings)


# --- the connection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "silent"])
def test_a_connection_that_breaks_or_falls_silent_is_given_up_and_the_copy_goes_on_later(
    pings: Bench, how: Literal["cut", "silent"]
) -> None:
    with through_proxy(pings.conninfo, after=400_000, how=how) as conninfo:
        with pytest.raises(Unreachable) as caught:
            pings.copy(conninfo=conninfo, chunk_rows=4_000, stall_seconds=1.5)
        assert caught.value.retry_helps
    already = sum(chunk.copied for chunk in checkpoints.stored_chunks(pings.conninfo, pings.run_id, "t"))
    assert 0 < already < 5
    assert pings.read("SELECT count(*) FROM t") == [(already * 4_000,)]
    assert pings.copy(stall_seconds=2.0).chunks_already_there == already
    whole(pings)


def test_slowness_of_our_own_is_not_the_targets_silence(pings: Bench) -> None:
    waited: list[CopyProgress] = []

    def wait(progress: CopyProgress) -> None:
        if progress.rows and not waited:
            waited.append(progress)
            time.sleep(2.0)

    assert pings.copy(on_progress=wait, progress_seconds=0, stall_seconds=1.5).rows == 20_000
    assert waited


def test_a_target_that_is_not_there_is_unreachable(pings: Bench) -> None:
    with pytest.raises(Unreachable) as caught:
        pings.copy(conninfo="host=127.0.0.1 port=1 dbname=x user=u password=hunter2")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(CutoverError) as broken:
        pings.copy(conninfo="hunter2")
    assert "hunter2" not in str(broken.value)


def test_every_session_bears_the_runs_and_the_steps_name(pings: Bench) -> None:
    names: list[tuple[Any, ...]] = []

    def look(_: CopyProgress) -> None:
        names.extend(
            pings.read("SELECT application_name FROM pg_stat_activity WHERE state <> 'idle' AND query LIKE 'COPY%'")
        )

    pings.copy(on_progress=look, progress_seconds=0, share=Share(0, 1))
    assert set(names) == {("run:copy.t",)}
