"""The proof of the proof: after a good copy, each planted corruption is found and named by table, key and column."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.cutover.checks import Check
from include.cutover.copying import tables as copying
from include.cutover.copying.table_copy import RunLease
from include.cutover.proof import content, digest_store
from include.cutover.proof.digest_store import DigestStore
from include.cutover.proof.table_result import TableResult
from include.cutover.proof.writes import WriteTarget, write_checks
from include.cutover.stack.postgres import Cluster
from include.cutover.target import ledger, sequences, structure, write_conditions
from include.cutover.target.sides import Sides
from tests.support.loaded import SCHEMA, Loaded, Spoilt, ward_ops

Found = tuple[str, str, str, str]


@pytest.fixture(scope="module")
def ward(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    with ward_ops(cluster, tmp_path_factory.mktemp("ward")) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def spoilt(ward: Loaded) -> Iterator[Spoilt]:
    with ward.to_spoil() as made:
        yield made


def compared(loaded: Loaded, conninfo: str) -> list[TableResult]:
    manifest, plan = loaded.manifest, loaded.plan
    return content.compare(
        Sides.of_plan(plan, manifest.file, conninfo),
        list(plan.tables),
        store=DigestStore(digest_store.beside(manifest.file), manifest.sha256),
        sql_folder=plan.sql_folder,
    )


def told(results: list[TableResult]) -> list[Found]:
    """Table, kind, key and columns of every difference."""
    return [
        (one.table, one.kind, one.key, ", ".join(column.column for column in one.columns))
        for result in results
        for one in result.differences
    ]


def kinds(results: list[TableResult]) -> list[str]:
    """The kind of each difference of a column."""
    return [column.kind for result in results for one in result.differences for column in one.columns]


def test_a_good_copy_is_equal(ward: Loaded) -> None:
    results = compared(ward, ward.conninfo)
    assert {result.outcome for result in results} == {"passed"}
    assert {result.table: result.target_rows for result in results} == ward.manifest.counts
    assert len(results) == 25
    assert {check.outcome for check in structure.checks(ward.conninfo, SCHEMA, ward.plan.sql_folder)} == {"passed"}


def test_a_good_copy_takes_writes_and_is_the_same_afterwards(ward: Loaded) -> None:
    target = WriteTarget(ward.conninfo, SCHEMA, ward.plan.sql_folder, None)
    found = write_checks(target, list(ward.plan.tables)) + write_conditions.checks(
        ward.conninfo, SCHEMA, list(ward.plan.tables), None
    )
    assert failed(found) == {}
    assert {result.outcome for result in compared(ward, ward.conninfo)} == {"passed"}
    assert failed(sequences.check_sequences(ward.conninfo, SCHEMA, ward.manifest.sqlite_sequence)) == {}


# --- content --------------------------------------------------------------------------------------------------------------

# What is planted, what must be found, and what kind of difference it must be called.
CONTENT: dict[str, tuple[list[str], list[Found], list[str]]] = {
    "one bit of an integer": (
        ["UPDATE ping_results SET packets_sent = packets_sent # 1 WHERE id = 10500"],
        [("ping_results", "changed", "id=10500", "packets_sent")],
        ["differs by +1"],
    ),
    "a number that became NULL": (
        ["UPDATE ping_results SET packets_sent = NULL WHERE id = 1"],
        [("ping_results", "changed", "id=1", "packets_sent")],
        ["NULL in the target"],
    ),
    "two rows swapped": (
        ["UPDATE ping_results AS a SET device_ip = b.device_ip, device_name = b.device_name, \"timestamp\" = b.\"timestamp\""
         " FROM ping_results AS b WHERE (a.id, b.id) IN ((5, 6), (6, 5))"],
        [("ping_results", "changed", "id=5", "device_ip, device_name, timestamp"),
         ("ping_results", "changed", "id=6", "device_ip, device_name, timestamp")],
        [],
    ),
    "two ids swapped": (
        ["UPDATE ping_results SET id = CASE id WHEN 3 THEN -900 ELSE -3 END WHERE id IN (3, 900)",
         "UPDATE ping_results SET id = -id WHERE id < 0"],
        [("ping_results", "changed", "id=3", "device_ip, device_name, min_rtt_ms, avg_rtt_ms, max_rtt_ms, timestamp"),
         ("ping_results", "changed", "id=900", "device_ip, device_name, min_rtt_ms, avg_rtt_ms, max_rtt_ms, timestamp")],
        [],
    ),
    "a shifted hour": (
        ["UPDATE ping_results SET \"timestamp\" = \"timestamp\" + interval '1 hour' WHERE id = 77"],
        [("ping_results", "changed", "id=77", "timestamp")],
        ["shifted by +1:00:00"],
    ),
    "a time zone in all rows of a table": (
        ["UPDATE users SET created_at = created_at - interval '4 hours'"],
        [("users", "changed", f"id={number}", "created_at") for number in (1, 3, 4)],
        ["shifted by -4:00:00"] * 3,
    ),
    "microseconds cut": (
        ["UPDATE ping_results SET \"timestamp\" = date_trunc('second', \"timestamp\") WHERE id = 4"],
        [("ping_results", "changed", "id=4", "timestamp")],
        ["fraction cut to seconds"],
    ),
    "microseconds cut to milliseconds": (
        ["UPDATE ping_results SET \"timestamp\" = date_trunc('milliseconds', \"timestamp\") WHERE id = 4"],
        [("ping_results", "changed", "id=4", "timestamp")],
        ["fraction cut to milliseconds"],
    ),
    "one microsecond": (
        ["UPDATE ping_results SET \"timestamp\" = \"timestamp\" + interval '1 microsecond' WHERE id = 11000"],
        [("ping_results", "changed", "id=11000", "timestamp")],
        ["differs by +1 µs"],
    ),
    "infinity": (
        ["UPDATE ping_results SET \"timestamp\" = 'infinity' WHERE id = 4"],
        [("ping_results", "changed", "id=4", "timestamp")],
        ["the target holds a value that is not timestamp with time zone"],
    ),
    "a lost row": (
        ["DELETE FROM ping_results WHERE id = 10001"],
        [("ping_results", "missing", "id=10001", "")],
        [],
    ),
    "a lost row and a doubled row": (
        ["DELETE FROM ping_results WHERE id = 7",
         "CREATE TEMP TABLE one AS SELECT * FROM ping_results WHERE id = 8", "UPDATE one SET id = 11001",
         "INSERT INTO ping_results SELECT * FROM one"],
        [("ping_results", "missing", "id=7", ""), ("ping_results", "extra", "id=11001", "")],
        [],
    ),
    "a row with another key": (
        ["UPDATE ping_results SET id = 0 WHERE id = 9"],
        [("ping_results", "missing", "id=9", ""), ("ping_results", "extra", "id=0", "")],
        [],
    ),
    "an emptied table": (
        ["TRUNCATE monitored_hostgroups"],
        [("monitored_hostgroups", "missing", f"id={number}", "") for number in (1, 2, 4, 5, 7, 8)],
        [],
    ),
    "a row in a table that is empty": (
        ["INSERT INTO mtr_results (id, device_ip, hop_number) VALUES (5, '10.0.0.1', 1)"],
        [("mtr_results", "extra", "id=5", "")],
        [],
    ),
    "a row moved between tables": (
        ["INSERT INTO traceroute_results (id, device_ip, device_name, hop_number, \"timestamp\")"
         " SELECT id, device_ip, device_name, 1, \"timestamp\" FROM ping_results WHERE id = 12",
         "DELETE FROM ping_results WHERE id = 12"],
        [("ping_results", "missing", "id=12", ""), ("traceroute_results", "extra", "id=12", "")],
        [],
    ),
    "a boolean": (
        ["UPDATE monitored_hostgroups SET is_active = NOT is_active WHERE id = 2"],
        [("monitored_hostgroups", "changed", "id=2", "is_active")],
        ["inverted"],
    ),
    "one flipped bit in text": (
        ["UPDATE georgian_regions SET name_en = 'Tbilisk' WHERE name_en = 'Tbilisi'"],
        [("georgian_regions", "changed", "id=11", "name_en")],
        ["one bit of byte 7"],
    ),
    "Latin a and Cyrillic а": (
        ["UPDATE georgian_regions SET name_en = 'Adjarа' WHERE name_en = 'Adjara'"],
        [("georgian_regions", "changed", "id=1", "name_en")],
        ["character 6 is another: LATIN SMALL LETTER A became CYRILLIC SMALL LETTER A"],
    ),
    "letter case": (
        ["UPDATE georgian_regions SET name_en = 'GURIA' WHERE name_en = 'Guria'"],
        [("georgian_regions", "changed", "id=2", "name_en")],
        ["letter case"],
    ),
    "a trailing blank": (
        ["UPDATE georgian_regions SET name_ka = name_ka || ' ' WHERE id = 5"],
        [("georgian_regions", "changed", "id=5", "name_ka")],
        ["trailing blanks"],
    ),
    "a cut text": (
        ["UPDATE georgian_regions SET name_ka = left(name_ka, 3) WHERE id = 6"],
        [("georgian_regions", "changed", "id=6", "name_ka")],
        ["cut after 3 of 15 characters"],
    ),
    "the last digit of a numeric": (
        ["UPDATE georgian_cities SET latitude = latitude + 0.000001 WHERE id = 80"],
        [("georgian_cities", "changed", "id=80", "latitude")],
        ["differs by +1e-06"],
    ),
    "a secret": (
        ["UPDATE users SET hashed_password = hashed_password || 'x' WHERE id = 3"],
        [("users", "changed", "id=3", "hashed_password")],
        ["differs"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", CONTENT)
def test_planted_corruption_is_found_and_named(ward: Loaded, spoilt: Spoilt, planted: str) -> None:
    statements, expected, called = CONTENT[planted]
    with spoilt.by(*statements):
        results = compared(ward, spoilt.conninfo)
    assert sorted(told(results)) == sorted(expected)
    assert {result.table for result in results if result.outcome != "passed"} == {table for table, _, _, _ in expected}
    if called:
        assert kinds(results) == called
    assert sum(result.missing + result.extra + result.changed for result in results) == len(expected)


@pytest.mark.parametrize(
    ("column", "change", "called"),
    [
        ("description", "normalize(description, NFC)", "Unicode normalization (neither form became NFC)"),
        ("description", "rtrim(description)", "trailing blanks"),
        ("description", "NULLIF(description, '')", "NULL and empty text"),
        ("hostname", "coalesce(hostname, '')", "NULL and empty text"),
        ("tags", "NULLIF(tags, 'null'::jsonb)", "NULL in the target"),
        ("branch_id", "translate(left(branch_id::text, 1), '0123456789abcdef', '1032547698badcfe')::text"
         " || right(branch_id::text, -1)", "one bit of byte 1"),
    ],
    ids=["NFC for NFD", "blanks", "NULL for ''", "'' for NULL", "NULL for JSON null", "one bit of a uuid"],
)  # fmt: skip
def test_a_changed_value_of_a_row_with_a_uuid_is_found_and_named(
    ward: Loaded, spoilt: Spoilt, column: str, change: str, called: str
) -> None:
    cast = "::uuid" if column == "branch_id" else ""
    with psycopg.connect(ward.conninfo) as connection:
        query = f"SELECT id FROM standalone_devices WHERE {column} IS DISTINCT FROM ({change}){cast} ORDER BY id LIMIT 1"
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    with spoilt.by(f"UPDATE standalone_devices SET {column} = ({change}){cast} WHERE id = '{row[0]}'"):
        results = compared(ward, spoilt.conninfo)
    assert told(results) == [("standalone_devices", "changed", f"id={row[0]}", column)]
    assert kinds(results) == [called]


def test_swapped_rows_are_called_swapped(ward: Loaded, spoilt: Spoilt) -> None:
    with spoilt.by(*CONTENT["two rows swapped"][0]):
        notes = [one.note for result in compared(ward, spoilt.conninfo) for one in result.differences]
    assert notes == ["swapped with id=6", "swapped with id=5"]


def test_a_secret_is_not_shown(ward: Loaded, spoilt: Spoilt) -> None:
    with spoilt.by("UPDATE snmp_credentials SET community_encrypted = 'gAAAAnew-secret-token'"):
        results = compared(ward, spoilt.conninfo)
    assert [column for _, _, _, column in told(results)] == ["community_encrypted"]
    assert "gAAAA" not in str(results) + "".join(result.summary for result in results)


# --- values of every type, and tables of every kind --------------------------------------------------------------------

ZOO_SOURCE = """
    CREATE TABLE zoo (id INTEGER PRIMARY KEY, f REAL, n NUMERIC, j TEXT, b BLOB, d TEXT, c TEXT, ts TEXT, big INTEGER,
                      t TEXT);
    CREATE TABLE loose (word TEXT, number INTEGER, at TEXT);
    CREATE TABLE named (name TEXT PRIMARY KEY, v INTEGER);
    CREATE TABLE pairs (a INTEGER, b TEXT, v INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID;
"""
ZOO_TARGET = """
    CREATE TABLE zoo (id bigint, f double precision, n numeric, j jsonb, b bytea, d date, c time, ts timestamp, big bigint,
                      t text);
    CREATE TABLE loose (word text, number integer, at timestamptz);
    CREATE TABLE named (name text, v integer);
    CREATE TABLE pairs (a integer, b text, v integer);
"""
ZOO_KEYS = """
    ALTER TABLE zoo ADD PRIMARY KEY (id);
    ALTER TABLE named ADD PRIMARY KEY (name);
    ALTER TABLE pairs ADD PRIMARY KEY (a, b);
"""
ZOO_ROWS = [
    (1, 0.1, 0.1, '{"b": 1.10, "a": [1, 2], "k": "x"}', b"\x00\x01\xff", "2025-10-10", "08:00:00", "2025-10-10 08:00:00.5",
     2**62 + 1, "a|~\x1f\nb"),
    (-2, 0.0, 4.5, "null", b"", "0001-01-01", "23:59:59.999999", "1969-12-31 23:59:59.999999", -(2**63), ""),
    (3, 1e300, 12345678901, "[]", None, None, None, None, None, None),
]  # fmt: skip
NAMED = [("ა", 1), ("a", 2), ("Z", 3), ("é", 4), ("", 5)]
LOOSE = [("a", 1, "2025-10-10 08:00:00"), ("a", 1, "2025-10-10 08:00:00"), (None, None, None), ("b", 2, None)]


@dataclass(frozen=True)
class Zoo:
    """A small database with every type, copied."""

    file: Path
    spoilt: Spoilt


@pytest.fixture(scope="module")
def zoo(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    file = tmp_path_factory.mktemp("zoo") / "zoo.db"
    with contextlib.closing(apsw.Connection(str(file))) as source:
        source.execute(ZOO_SOURCE)
        for table, rows in (("zoo", ZOO_ROWS), ("named", NAMED), ("loose", LOOSE), ("pairs", [(1, "x", 1), (1, "y", 2)])):
            source.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    name = "zoo_of_mutations"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    try:
        conninfo = cluster.conninfo(name)
        with psycopg.connect(conninfo) as connection:
            connection.execute(ZOO_TARGET)
        ledger.ensure(conninfo)
        epoch = ledger.open_run(conninfo, "run", "zoo")
        for table in ("zoo", "loose", "named", "pairs"):
            copying.copy_table(Sides(file, conninfo, SCHEMA), RunLease("run", epoch), table)
        with psycopg.connect(conninfo) as connection:
            connection.execute(ZOO_KEYS)
        made = Zoo(file, Spoilt(conninfo))
        made.spoilt.keep()
        yield made
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def zoo_results(zoo: Zoo) -> list[TableResult]:
    return content.compare(Sides(zoo.file, zoo.spoilt.conninfo, SCHEMA), ["zoo", "loose", "named", "pairs"])


ZOO: dict[str, tuple[str, Found, str]] = {
    "0.1 plus one ulp": (
        "UPDATE zoo SET f = 0.10000000000000002 WHERE id = 1", ("zoo", "changed", "id=1", "f"), "1 ulp"),
    "a float of four bytes": ("UPDATE zoo SET f = 0.1::real WHERE id = 1", ("zoo", "changed", "id=1", "f"), "cut to four"),
    "a zero with a sign": ("UPDATE zoo SET f = '-0.0' WHERE id = -2", ("zoo", "changed", "id=-2", "f"), "sign of zero"),
    "NaN": ("UPDATE zoo SET f = 'NaN' WHERE id = 3", ("zoo", "changed", "id=3", "f"), "differs by"),
    "a numeric plus one ulp": (
        "UPDATE zoo SET n = 0.10000000000000002 WHERE id = 1", ("zoo", "changed", "id=1", "n"), "1 ulp"),
    "a numeric beyond double precision": (
        "UPDATE zoo SET n = n + 1e-30 WHERE id = 1", ("zoo", "changed", "id=1", "n"),
        "the target holds a value that is not numeric"),
    "a numeric whose digits are the bits of 4.5": (
        "UPDATE zoo SET n = 4012000000000000 WHERE id = -2", ("zoo", "changed", "id=-2", "n"), "differs by"),
    "the last digit of a bigint": (
        "UPDATE zoo SET big = big - 1 WHERE id = 1", ("zoo", "changed", "id=1", "big"), "differs by -1"),
    "a JSON number's digits": (
        "UPDATE zoo SET j = jsonb_set(j, '{b}', '1.1') WHERE id = 1", ("zoo", "changed", "id=1", "j"),
        "other digits of the same number at $.b"),
    "the order of a JSON list": (
        "UPDATE zoo SET j = jsonb_set(j, '{a}', '[2, 1]') WHERE id = 1", ("zoo", "changed", "id=1", "j"),
        "another value at $.a[0]"),
    "NULL for JSON null": (
        "UPDATE zoo SET j = NULL WHERE id = -2", ("zoo", "changed", "id=-2", "j"), "NULL in the target"),
    "a bit of a blob": (
        "UPDATE zoo SET b = '\\x0001fe' WHERE id = 1", ("zoo", "changed", "id=1", "b"), "one bit of byte 3"),
    "NULL for an empty blob": (
        "UPDATE zoo SET b = NULL WHERE id = -2", ("zoo", "changed", "id=-2", "b"), "NULL in the target"),
    "a day": ("UPDATE zoo SET d = d + 1 WHERE id = -2", ("zoo", "changed", "id=-2", "d"), "differs"),
    "a time": (
        "UPDATE zoo SET c = c - interval '1 microsecond' WHERE id = -2", ("zoo", "changed", "id=-2", "c"),
        "differs by -1 µs"),
    "a naive time": (
        "UPDATE zoo SET ts = date_trunc('second', ts) WHERE id = -2", ("zoo", "changed", "id=-2", "ts"),
        "fraction cut to seconds"),
    "separators in text": (
        "UPDATE zoo SET t = E'a|~\\x1f\\n\\nb' WHERE id = 1", ("zoo", "changed", "id=1", "t"), "differs from character 6"),
    "a row without a key": (
        "UPDATE loose SET number = 3 WHERE word = 'b'",
        ("loose", "changed", "a row without a key (word=b, number=2, at=NULL)", "number"), "differs by +1"),
    "one of two equal rows without a key": (
        "DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE word = 'a')",
        ("loose", "missing", "a row without a key (word=a, number=1, at=2025-10-10 08:00:00Z)", ""), ""),
    "a row of NULLs once more": (
        "INSERT INTO loose VALUES (NULL, NULL, NULL)",
        ("loose", "extra", "a row without a key (word=NULL, number=NULL, at=NULL)", ""), ""),
    "a text key in another form": (
        "UPDATE named SET v = 9 WHERE name = 'é'", ("named", "changed", "name=é", "v"), "differs by +5"),
    "a composite key": ("UPDATE pairs SET v = 0 WHERE b = 'y'", ("pairs", "changed", "a=1, b=y", "v"), "differs by -2"),
}  # fmt: skip


def test_the_copied_zoo_is_equal(zoo: Zoo) -> None:
    assert {result.outcome for result in zoo_results(zoo)} == {"passed"}


@pytest.mark.parametrize("planted", ZOO)
def test_a_corrupted_value_of_any_type_is_found_and_named(zoo: Zoo, planted: str) -> None:
    statement, expected, called = ZOO[planted]
    with zoo.spoilt.by(statement):
        results = zoo_results(zoo)
    assert told(results) == [expected]
    assert all(kind.startswith(called) for kind in kinds(results))


def test_keys_that_look_alike_are_other_keys(zoo: Zoo) -> None:
    with zoo.spoilt.by("UPDATE named SET name = U&'e\\0301' WHERE name = 'é'",
                       "UPDATE named SET name = U&'\\0430' WHERE name = 'a'"):  # fmt: skip
        results = zoo_results(zoo)
    assert sorted(kind for _, kind, _, _ in told(results)) == ["extra", "extra", "missing", "missing"]


# --- any value of any row -----------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
VALUES: dict[str, st.SearchStrategy[object]] = {
    "bigint": INTEGERS,
    "text": TEXT | st.sampled_from(["", " ", "a", "а", "~", "!", "1:a", "\x1f", "\n", "\\N", "NULL"]),
    "double precision": st.floats(allow_nan=False).map(lambda value: value or 0.0),  # SQLite's REAL knows no -0.0
    "boolean": st.booleans(),
    "bytea": st.binary(max_size=4),
    "uuid": st.uuids().map(str),
    "jsonb": JSON.map(json.dumps),
    "timestamp with time zone": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(  # noqa: DTZ001
        lambda moment: moment.isoformat(" ", "microseconds")
    ),
}
DECLARED = {"bigint": "INTEGER", "double precision": "REAL", "boolean": "BOOLEAN", "bytea": "BLOB"}


@dataclass(frozen=True)
class Cell:
    """A table with one column beside its key, and one value of it that becomes another."""

    type: str
    rows: list[object]
    place: int
    other: object


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    kind = draw(st.sampled_from(sorted(VALUES)))
    values = st.none() | VALUES[kind]
    rows = draw(st.lists(values, min_size=1, max_size=4))
    place = draw(st.integers(0, len(rows) - 1))
    return Cell(kind, rows, place, draw(values.filter(lambda value: _same(kind, value) != _same(kind, rows[place]))))


def _same(kind: str, value: object) -> object:
    """Equal for equal values: documents may be spelled in more than one way."""
    return json.dumps(json.loads(value), sort_keys=True) if kind == "jsonb" and isinstance(value, str) else value


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cell=cells(), keyed=st.booleans())
def test_any_one_value_that_becomes_another_is_found(conninfo: str, tmp_path: Path, cell: Cell, keyed: bool) -> None:
    file = tmp_path / "one.db"
    file.unlink(missing_ok=True)
    key = "id INTEGER PRIMARY KEY" if keyed else "id INTEGER"
    with contextlib.closing(apsw.Connection(str(file))) as source, psycopg.connect(conninfo, autocommit=True) as connection:
        source.execute("PRAGMA synchronous = OFF")
        source.execute(f"CREATE TABLE one ({key}, v {DECLARED.get(cell.type, 'TEXT')})")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("DROP TABLE IF EXISTS one")
        connection.execute(f"CREATE TABLE one ({key}, v {cell.type})".encode())
        for number, value in enumerate(cell.rows):
            source.execute("INSERT INTO one VALUES (?, ?)", (number, value))
            connection.execute("INSERT INTO one VALUES (%s, %s)", [number, value])
        (equal,) = content.compare(Sides(file, conninfo, SCHEMA), ["one"], workers=1)
        assert equal.outcome == "passed"
        connection.execute("UPDATE one SET v = %s WHERE id = %s", [cell.other, cell.place])
        (found,) = content.compare(Sides(file, conninfo, SCHEMA), ["one"], workers=1)
    (difference,) = found.differences
    assert (found.outcome, difference.kind) == ("failed", "changed")
    assert [column.column for column in difference.columns] == ["v"]
    assert f"id={cell.place}" in difference.key
    assert difference.columns[0].kind


# --- sequences and schema -------------------------------------------------------------------------------------------------


def failed(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.found for check in checks if check.outcome != "passed"}


@pytest.mark.parametrize("draw", [True, False])
def test_sequences_set_back_are_found(ward: Loaded, spoilt: Spoilt, draw: bool) -> None:
    planted = {
        "ping_results": "SELECT setval('ping_results_id_seq', 10999)",
        "users": "SELECT setval('users_id_seq', 1, false)",
        "georgian_cities": "ALTER SEQUENCE georgian_cities_id_seq RESTART WITH 82",
        "monitored_hostgroups": "ALTER SEQUENCE monitored_hostgroups_id_seq MAXVALUE 8 RESTART WITH 8",
    }
    with spoilt.by(*planted.values()):
        checks = sequences.check_sequences(spoilt.conninfo, SCHEMA, ward.manifest.sqlite_sequence, draw=draw)
    assert set(failed(checks)) == {f"sequence_{table}_id" for table in planted}


STRUCTURE: dict[str, tuple[str, str, str]] = {
    "an invalid index": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mtr_results_device_ip_timestamp_idx'::regclass",
        "indexes_valid", "mtr_results.mtr_results_device_ip_timestamp_idx"),
    "an index that is not ready": (
        "UPDATE pg_index SET indisready = false WHERE indexrelid = 'users_username_key'::regclass",
        "indexes_valid", "users.users_username_key"),
    "a dropped index": (
        "DROP INDEX ping_results_timestamp_idx", "structure_index", "ping_results.ping_results_timestamp_idx is missing"),
    "a partial index made full": (
        "DROP INDEX alert_history_open_idx; CREATE INDEX alert_history_open_idx ON alert_history (triggered_at DESC)",
        "structure_index", "alert_history.alert_history_open_idx: planned"),
    "an index in another order": (
        "DROP INDEX ping_results_device_ip_timestamp_idx; CREATE INDEX ping_results_device_ip_timestamp_idx"
        " ON ping_results (device_ip, \"timestamp\")",
        "structure_index", "ping_results.ping_results_device_ip_timestamp_idx: planned"),
    "a dropped primary key": (
        "ALTER TABLE ping_results DROP CONSTRAINT ping_results_pkey",
        "structure_constraint", "ping_results.ping_results_pkey is missing (PRIMARY KEY (id))"),
    "a dropped unique constraint": (
        "ALTER TABLE users DROP CONSTRAINT users_email_key", "structure_constraint", "users.users_email_key is missing"),
    "a dropped foreign key": (
        "ALTER TABLE discovery_jobs DROP CONSTRAINT discovery_jobs_rule_id_fkey",
        "structure_constraint", "discovery_jobs.discovery_jobs_rule_id_fkey is missing"),
    "a foreign key with another action": (
        "ALTER TABLE monitoring_items DROP CONSTRAINT monitoring_items_device_id_fkey, ADD CONSTRAINT"
        " monitoring_items_device_id_fkey FOREIGN KEY (device_id) REFERENCES standalone_devices (id)",
        "structure_constraint", "monitoring_items.monitoring_items_device_id_fkey: planned"),
    "a weakened check": (
        "ALTER TABLE monitoring_profiles DROP CONSTRAINT monitoring_profiles_mode_check,"
        " ADD CONSTRAINT monitoring_profiles_mode_check CHECK (mode <> '')",
        "structure_constraint", "monitoring_profiles.monitoring_profiles_mode_check: planned"),
    "a foreign key left NOT VALID": (
        "ALTER TABLE snmp_credentials DROP CONSTRAINT snmp_credentials_device_id_fkey, ADD CONSTRAINT"
        " snmp_credentials_device_id_fkey FOREIGN KEY (device_id) REFERENCES standalone_devices (id)"
        " ON DELETE CASCADE NOT VALID",
        "constraints_validated", "snmp_credentials.snmp_credentials_device_id_fkey"),
    "a check left NOT VALID": (
        "ALTER TABLE users ADD CONSTRAINT new CHECK (id > 0) NOT VALID", "constraints_validated", "users.new"),
    "a column that may be NULL": (
        "ALTER TABLE branches ALTER COLUMN display_name DROP NOT NULL",
        "structure_column", "branches.display_name: planned character varying(200) NOT NULL, found character varying(200)"),
    "a column without its default": (
        "ALTER TABLE branches ALTER COLUMN id DROP DEFAULT",
        "structure_column", "branches.id: planned uuid NOT NULL default"),
    "a column of another type": (
        "ALTER TABLE users ALTER COLUMN full_name TYPE text",
        "structure_column", "users.full_name: planned character varying(100), found text"),
    "a new column": ("ALTER TABLE users ADD COLUMN note text", "structure_column", "users.note is not in the plan (text)"),
    "a lost identity": ("ALTER TABLE users ALTER COLUMN id DROP IDENTITY", "structure_sequence", "users.id is missing"),
    "a missing table": ("DROP TABLE performance_baselines", "structure_table", "performance_baselines is missing"),
    "a table that a crash empties": (
        "ALTER TABLE traceroute_results SET UNLOGGED",
        "structure_table", "traceroute_results: planned table, found unlogged"),
    "a trigger": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER swallow BEFORE INSERT ON ping_results FOR EACH ROW EXECUTE FUNCTION f()",
        "structure_trigger", "ping_results.swallow is not in the plan"),
}  # fmt: skip


@pytest.fixture(scope="module")
def found_in_schema(ward: Loaded) -> Iterator[dict[str, list[str]]]:
    """Return the findings, by the name of the check, when all of that is planted at once."""
    with ward.spoiled(*(statement for statement, _, _ in STRUCTURE.values())) as conninfo:
        _, differences = structure.differences(conninfo, SCHEMA, ward.plan.sql_folder)
        found = {check.name: check.found.split("; ") for check in structure.checks(conninfo, SCHEMA, ward.plan.sql_folder)}
        for kind in {one.kind for one in differences}:
            found[f"structure_{kind}"] = [str(one) for one in differences if one.kind == kind]
        found["failed"] = list(failed(structure.checks(conninfo, SCHEMA, ward.plan.sql_folder)))
        yield found


@pytest.mark.parametrize("planted", STRUCTURE)
def test_a_spoiled_schema_is_found_and_named(found_in_schema: dict[str, list[str]], planted: str) -> None:
    _, name, expected = STRUCTURE[planted]
    assert name in found_in_schema["failed"]
    assert any(found.startswith(expected) for found in found_in_schema[name])


def test_an_index_that_somebody_added_is_told_and_no_fault(ward: Loaded) -> None:
    with ward.spoiled("CREATE INDEX mine ON users (full_name)", "CREATE TABLE others (id integer)") as conninfo:
        checks = {check.name: check for check in structure.checks(conninfo, SCHEMA, ward.plan.sql_folder)}
    assert checks["structure_index"].outcome == "passed"
    assert checks["structure_index"].found == "users.mine is not in the plan (USING btree (full_name))"
    assert failed(list(checks.values())) == {}


# --- reference data -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_places(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    changes = ("DELETE FROM georgian_cities", "DELETE FROM georgian_regions", "DELETE FROM sqlite_sequence")
    with ward_ops(cluster, tmp_path_factory.mktemp("places"), *changes, pings=10) as loaded:
        yield loaded


def test_reference_data_is_expected_where_the_source_brought_none(without_places: Loaded) -> None:
    results = {result.table: result for result in compared(without_places, without_places.conninfo)}
    assert {result.outcome for result in results.values()} == {"passed"}
    cities = results["georgian_cities"]
    assert (cities.source_rows, cities.target_rows, cities.origin) == (82, 82, "reference data")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE georgian_cities SET latitude = latitude + 0.000001 WHERE name_en = 'Batumi'",
         ("georgian_cities", "changed", "name_en=Batumi", "latitude")),
        ("UPDATE georgian_cities SET region_id = region_id + 1 WHERE name_en = 'Batumi'",
         ("georgian_cities", "changed", "name_en=Batumi", "region_id")),
        ("DELETE FROM georgian_cities WHERE name_en = 'Kutaisi'", ("georgian_cities", "missing", "name_en=Kutaisi", "")),
        ("INSERT INTO georgian_regions (name_en, latitude, longitude) VALUES ('Atlantis', 0, 0)",
         ("georgian_regions", "extra", "name_en=Atlantis", "")),
    ],
)  # fmt: skip
def test_a_changed_row_of_reference_data_is_found(
    without_places: Loaded, statement: str, expected: tuple[str, str, str, str]
) -> None:
    with without_places.spoiled(statement) as conninfo:
        assert told(compared(without_places, conninfo)) == [expected]


def test_numbers_that_a_first_attempt_used_up_are_no_difference(without_places: Loaded) -> None:
    """The first try of the reference SQL was rolled back; sequences do not roll back."""
    with without_places.spoiled(
        "ALTER TABLE georgian_cities DROP CONSTRAINT georgian_cities_region_id_fkey",
        "UPDATE georgian_cities SET id = id + 82, region_id = region_id + 11",
        "UPDATE georgian_regions SET id = id + 11",
        "ALTER TABLE georgian_cities ADD CONSTRAINT georgian_cities_region_id_fkey FOREIGN KEY (region_id)"
        " REFERENCES georgian_regions (id) ON DELETE CASCADE",
    ) as conninfo:
        assert told(compared(without_places, conninfo)) == []


def test_reference_data_may_look_up_rows_of_the_source(ward: Loaded, cluster: Cluster, tmp_path: Path) -> None:
    """The source brought regions with keys of its own, and no city."""
    changes = ("UPDATE georgian_regions SET id = id * 7 + 100", "DELETE FROM georgian_cities")
    with ward_ops(cluster, tmp_path, *changes, pings=10) as loaded:
        results = {result.table: result for result in compared(loaded, loaded.conninfo)}
        assert results["georgian_cities"].outcome == "passed"
        assert results["georgian_regions"].origin == "snapshot"
        with loaded.spoiled("UPDATE georgian_cities SET region_id = 107 WHERE name_en = 'Kutaisi'") as conninfo:
            assert told(compared(loaded, conninfo)) == [("georgian_cities", "changed", "name_en=Kutaisi", "region_id")]


def test_rows_that_neither_source_nor_reference_data_brought_are_extra(without_places: Loaded) -> None:
    with without_places.spoiled("INSERT INTO system_config (key, value) VALUES ('k', 'v')") as conninfo:
        results = {result.table: result for result in compared(without_places, conninfo)}
    found = results["system_config"]
    assert (found.outcome, found.source_rows, found.target_rows, found.extra) == ("failed", 0, 1, 1)
