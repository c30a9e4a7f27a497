"""The plan's decisions, carried out on real SQLite files, proved by the audit, kept in a real PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.cutover.checks import Check, worst
from include.cutover.copying import tables as copying
from include.cutover.copying.table_copy import RunLease
from include.cutover.decisions import decided as decisions
from include.cutover.decisions import quarantine
from include.cutover.decisions import snapshot as decided_snapshot
from include.cutover.decisions.decided import Decided
from include.cutover.errors import LeaseLost, PlanInvalid, Refused, WrongData
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema
from include.cutover.target import ledger
from include.cutover.target import schema as target_schema
from include.cutover.target.catalog import Column, ForeignKey
from include.cutover.target.schema import PlannedSchema
from include.cutover.target.sides import Sides
from tests.support.assessing import sql_folder
from tests.support.killing import kill_at_every_step

Made = Callable[..., Decided]

SECRET = "gAAAA-the-secret-of-the-house"


def plan_of(tables: Mapping[str, Any]) -> Plan:
    person = {"user": "lead", "name": "Lead", "email": "lead@example.org"}
    return Plan.model_validate(
        {
            "name": "house",
            "application": "House",
            "connections": {"source": "s", "target": "t", "application": "a"},
            "tables": {name: settings or {} for name, settings in tables.items()},
            "backup": {"directory": "/nowhere"},
            "people": {"lead": person, "observer": person, "communicator": person},
            "channels": {"mail_from": "a@example.org", "mail_to": ["b@example.org"]},
            "notices": {"start": "s", "completion": "c", "rollback": "r"},
        }
    )


def schema_of(tables: Mapping[str, Mapping[str, str]], keys: Sequence[tuple[str, str, str, str, str]] = ()) -> PlannedSchema:
    """Columns as ``type``, or ``type!`` for NOT NULL; keys as (table, name, columns, referenced table, its columns)."""
    return PlannedSchema(
        columns={
            table: [Column(name, kind.rstrip("!"), kind.endswith("!"), None, False, False) for name, kind in columns.items()]
            for table, columns in tables.items()
        },
        primary_keys={table: [next(iter(columns))] for table, columns in tables.items()},
        foreign_keys=[
            ForeignKey(name, table, tuple(own.split()), other, tuple(others.split()), "NO ACTION", False)
            for table, name, own, other, others in keys
        ],
    )


def database(path: Path, sql: str, rows: Mapping[str, Sequence[Sequence[Any]]] | None = None) -> Path:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA synchronous = OFF").fetchall()
    connection.execute(sql).fetchall()
    with connection:
        for table, items in (rows or {}).items():
            marks = ", ".join("?" for _ in items[0])
            connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', items)
    connection.close()
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    with source_schema.snapshot(path) as connection:
        return connection.execute(query).fetchall()


def run_sql(path: Path, sql: str, *bindings: Any) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    connection.execute(sql, bindings or None).fetchall()
    connection.close()


def lines(decided: Decided) -> list[dict[str, Any]]:
    assert decided.listing is not None
    return [json.loads(line) for line in decided.listing.file.read_text().splitlines()]


def failed(checks: Sequence[Check]) -> set[str]:
    return {check.name for check in checks if check.outcome != "passed"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


def carry_out(place: Path, snapshot: Path, plan: Plan, planned: PlannedSchema) -> Decided:
    """Apply, prove that the backup is as it was, and audit."""
    before = sha256(snapshot)
    decided = decisions.apply(snapshot, place / "decided.db", plan, planned, listing=place / "evidence")
    assert sha256(snapshot) == before
    checks = decisions.audit(decided, plan, planned)
    assert worst(checks) == "passed", [check for check in checks if check.outcome != "passed"]
    return decided


def one_column(
    place: Path, declared: str, kind: str, decision: Mapping[str, Any], values: Sequence[Any], table: str = ""
) -> tuple[list[tuple[Any, str]], Decided]:
    """What becomes of values of one column, each with its storage class."""
    snapshot = place / "backup.db"
    snapshot.unlink(missing_ok=True)
    shutil.rmtree(place / "evidence", ignore_errors=True)
    database(snapshot, table or f"CREATE TABLE t (id INTEGER PRIMARY KEY, x {declared})")
    connection = apsw.Connection(str(snapshot))
    with connection:
        for value in values:
            if isinstance(value, tuple):  # text as bytes
                connection.execute("INSERT INTO t (x) VALUES (CAST(? AS TEXT))", value)
            else:
                connection.execute("INSERT INTO t (x) VALUES (?)", (value,))
    connection.close()
    planned = schema_of({"t": {"id": "integer!", "x": kind}})
    decided = carry_out(place, snapshot, plan_of({"t": {"columns": {"x": decision}}}), planned)
    return rows_of(decided.file, "SELECT x, typeof(x) FROM t ORDER BY id"), decided


# --- nothing to do ------------------------------------------------------------------------------------------------------


def test_without_a_decision_not_even_the_backup_is_looked_at(tmp_path: Path) -> None:
    missing = tmp_path / "no backup"
    decided = decisions.apply(missing, tmp_path / "new" / "decided.db", plan_of({"t": {}}), schema_of({"t": {"x": "date"}}))
    assert decided.file == missing and not decided.made
    assert not (tmp_path / "new").exists()


def test_decisions_that_touch_no_row_make_no_file(tmp_path: Path) -> None:
    snapshot = database(
        tmp_path / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, x DATETIME, p INTEGER)",
        {"p": [(1,)], "t": [(1, "2025-10-10 08:08:59", 1), (2, None, None)]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "x": "timestamp with time zone", "p": "integer"}},
        [("t", "t_p_fkey", "p", "p", "id")],
    )
    plan = plan_of(
        {
            "p": {},
            "t": {
                "columns": {"x": {"empty_as_null": True, "strip_nul": True, "datetime": "unix"}},
                "foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}},
            },
        }
    )
    decided = decisions.apply(snapshot, tmp_path / "new" / "decided.db", plan, planned, listing=tmp_path / "evidence")
    assert decided == decided_snapshot.untouched(snapshot)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db"]
    assert decided.expected_rows({"p": 1, "t": 2}) == {"p": 1, "t": 2}
    assert worst(decisions.audit(decided, plan, planned)) == "passed"
    assert [*quarantine.rows(decided, plan)] == []


# --- values -------------------------------------------------------------------------------------------------------------


def test_empty_text_becomes_null_where_the_target_holds_no_text(place: Path) -> None:
    found, decided = one_column(place, "DATETIME", "date", {"empty_as_null": True}, ["", "2025-10-10", None, b"", " "])
    assert found == [(None, "null"), ("2025-10-10", "text"), (None, "null"), (b"", "blob"), (" ", "text")]
    assert decided.touched == {"t": {"empty_as_null": 1}}
    assert lines(decided) == [
        {
            "table": "t",
            "key": "id=1",
            "column": "x",
            "decision": "empty_as_null",
            "before": "empty text",
            "after": "NULL",
            "was": "",
            "became": None,
        }
    ]


def test_a_collation_that_calls_blanks_empty_does_not_matter(place: Path) -> None:
    found, _ = one_column(place, "TEXT COLLATE RTRIM", "integer", {"empty_as_null": True}, ["  ", ""])
    assert [value for value, _ in found] == ["  ", None]


def test_nul_characters_go_out_of_text(place: Path) -> None:
    values = ["a\0b", "\0", "plain", "\0\0ა\0", None, b"a\0b", 7]
    found, decided = one_column(place, "", "text", {"strip_nul": True}, values)
    assert [value for value, _ in found] == ["ab", "", "plain", "ა", None, b"a\0b", 7]
    assert decided.touched == {"t": {"strip_nul": 3}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r'"a\u0000b"', '"ab"'),
        (r'{"\u0000k": ["\u0000", "\u0000\u0000"]}', '{"k": ["", ""]}'),
        (r'"\\u0000"', r'"\\u0000"'),  # a backslash, then plain text
        (r'"\\\u0000"', r'"\\"'),
        (r'"\\\\u0000\u0000"', r'"\\\\u0000"'),
        (r'"\"\u0000\n\u0001"', r'"\"\n\u0001"'),
        ('"a\0b"', '"ab"'),
        ('"a\\\0u0000b"', '"ab"'),
    ],
)
def test_escaped_nul_goes_out_of_json_and_no_other_escape(place: Path, before: str, after: str) -> None:
    found, decided = one_column(place, "JSON", "jsonb", {"strip_nul": True}, [before, '"untouched"'])
    assert found == [(after, "text"), ('"untouched"', "text")]
    assert decided.made == (before != after)
    json.loads(after)


def test_in_plain_text_what_looks_like_an_escape_stays(place: Path) -> None:
    found, _ = one_column(place, "TEXT", "text", {"strip_nul": True}, [r"\u0000", "\0"])
    assert [value for value, _ in found] == [r"\u0000", ""]


def test_bytes_that_are_not_utf8_are_read_in_their_encoding(place: Path) -> None:
    values = [
        ("café".encode("latin-1"),),
        "café",
        ("Тбилиси".encode("cp1251"),),
        b"caf\xe9",
        "ა".encode(),
        b"",
        None,
        ("a",),
    ]
    found, decided = one_column(place, "VARCHAR(20)", "character varying(20)", {"encoding": "cp1251"}, values)
    assert [value for value, _ in found] == ["cafй", "café", "Тбилиси", "cafй", "ა", "", None, "a"]
    assert {kind for value, kind in found if value is not None} == {"text"}
    assert decided.touched == {"t": {"encoding": 5}}
    assert lines(decided)[0]["before"] == "text of 4 bytes that are not valid"
    assert lines(decided)[0]["was"] == "caf\\xe9"


def test_bytes_behind_a_nul_are_found_too(place: Path) -> None:
    found, decided = one_column(place, "TEXT", "text", {"encoding": "latin-1", "strip_nul": True}, [(b"a\0\xe9",)])
    assert found == [("aé", "text")]
    assert decided.touched == {"t": {"encoding, strip_nul": 1}}


def test_bytes_that_the_encoding_does_not_know_stop_it(place: Path) -> None:
    with pytest.raises(WrongData, match=r"column x.*cp1252.*1 others, e\.g\. id=2"):
        one_column(place, "TEXT", "text", {"encoding": "cp1252"}, [(b"\x80",), (b"\x81",)])
    assert sorted(path.name for path in place.iterdir()) == [".decided.db.lock", "backup.db", "evidence"]
    assert not any((place / "evidence").iterdir())


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("unix", 1627301106, "2021-07-26 12:05:06.000000"),
        ("unix", 0, "1970-01-01 00:00:00.000000"),
        ("unix", -1, "1969-12-31 23:59:59.000000"),
        ("unix", 1627301106.123457, "2021-07-26 12:05:06.123457"),
        ("unix", -0.25, "1969-12-31 23:59:59.750000"),
        ("unix", "1627301106", "2021-07-26 12:05:06.000000"),
        ("unix", "1627301106.5", "2021-07-26 12:05:06.500000"),
        ("unix", -62135596800, "0001-01-01 00:00:00.000000"),
        ("unix", 253402300799, "9999-12-31 23:59:59.000000"),
        ("unix_ms", 1627301106123, "2021-07-26 12:05:06.123000"),
        ("unix_ms", -1, "1969-12-31 23:59:59.999000"),
        ("unix_ms", 1627301106123.25, "2021-07-26 12:05:06.123250"),
        ("julian", 2459422, "2021-07-26 12:00:00.000000"),
        ("julian", 2459422.5, "2021-07-27 00:00:00.000000"),
        ("julian", 2459422.0, "2021-07-26 12:00:00.000000"),
    ],
)
def test_numbers_become_dates(place: Path, unit: str, value: float | str, expected: str) -> None:
    kept = ["2021-07-26 12:05:06", "2021-07-26T12:05:06Z", "now", "", None]
    declared = "VARCHAR(30)" if isinstance(value, str) else ""
    found, decided = one_column(place, declared, "timestamp with time zone", {"datetime": unit}, [value, *kept])
    assert [value for value, _ in found] == [expected, *kept]
    assert decided.touched == {"t": {"datetime": 1}}


def test_julian_days_that_sqlite_made_are_what_sqlite_says(place: Path) -> None:
    connection = apsw.Connection(":memory:")
    moments = [f"2021-07-26 12:{minute:02}:{minute:02}.{minute * 16:03}" for minute in range(60)]
    days = [connection.execute("SELECT julianday(?)", (moment,)).get for moment in moments]
    found, _ = one_column(place, "REAL", "timestamp without time zone", {"datetime": "julian"}, days)
    assert [value for value, _ in found] == [f"{moment}000" for moment in moments]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moments=st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), min_size=1, max_size=30))  # noqa: DTZ001
def test_any_moment_comes_back(place: Path, moments: list[datetime]) -> None:
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001
    seconds = [(moment - epoch) / timedelta(seconds=1) for moment in moments]
    found, _ = one_column(place, "", "timestamp with time zone", {"datetime": "unix"}, seconds)
    assert [value for value, _ in found] == [moment.isoformat(" ", "microseconds") for moment in moments]


@pytest.mark.parametrize("value", [253402300800, -62135596801, float("inf"), 1e300, "9" * 400, "1.1234567"])
def test_numbers_that_are_no_date_stop_it(place: Path, value: float | str) -> None:
    declared = "TEXT" if isinstance(value, str) else ""
    with pytest.raises(WrongData, match="years 1 to 9999"):
        one_column(place, declared, "timestamp with time zone", {"datetime": "unix"}, [value])


def test_days_for_a_date_column(place: Path) -> None:
    found, _ = one_column(place, "DATE", "date", {"datetime": "julian"}, [2459421.5, "2021-07-27"])
    assert [value for value, _ in found] == ["2021-07-26", "2021-07-27"]
    with pytest.raises(WrongData, match="midnight"):
        one_column(place, "DATE", "date", {"datetime": "julian"}, [2459422.25])


def test_words_become_booleans(place: Path) -> None:
    words = {"yes": True, "no": False, "2": True, "2.5": True, "-1": False, "": False}
    values = ["yes", "no", 2, 2.5, -1, "", 0, 1, None, "Yes", 3, b"yes"]
    found, decided = one_column(place, "BOOLEAN", "boolean", {"boolean": words}, values)
    assert [value for value, _ in found] == [1, 0, 1, 1, 0, 0, 0, 1, None, "Yes", 3, b"yes"]
    assert decided.touched == {"t": {"boolean": 6}}


@pytest.mark.parametrize(
    "declared",
    [
        "VARCHAR(5)",
        "TEXT NOT NULL DEFAULT 'no'",
        "/* , */ [TEXT] (5) -- (\n COLLATE NOCASE CHECK (x <> 'maybe')",
        "CHAR UNIQUE",
    ],
)
def test_a_text_column_keeps_the_numbers_that_stand_for_booleans(place: Path, declared: str) -> None:
    words = {"yes": True, "NO": False, "1": True}
    found, _ = one_column(place, declared, "boolean", {"boolean": words}, ["yes", "NO", "no"])
    assert found == [(1, "integer"), (0, "integer"), ("no", "text")]


def test_a_strict_table_keeps_what_is_written(place: Path) -> None:
    table = 'CREATE TABLE "t" ("id" INTEGER PRIMARY KEY, "x" TEXT, y INTEGER) STRICT'
    found, _ = one_column(place, "", "boolean", {"boolean": {"yes": True}}, ["yes", "no"], table)
    assert found == [(1, "integer"), ("no", "text")]
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, x REAL) STRICT"
    found, _ = one_column(place, "", "timestamp with time zone", {"datetime": "unix"}, [1.0, 1.5, None], table)
    assert [value for value, _ in found] == ["1970-01-01 00:00:01.000000", "1970-01-01 00:00:01.500000", None]


def test_a_numeric_column_does_not_turn_text_into_a_number(place: Path) -> None:
    found, _ = one_column(place, "STRING", "text", {"encoding": "utf-8"}, [b"12", b"1e2"])
    assert found == [("12", "text"), ("1e2", "text")]


def test_a_column_that_cannot_keep_the_value_stops_it(place: Path) -> None:
    with pytest.raises(Refused, match="does not keep what the decision makes"):
        one_column(place, "REAL", "boolean", {"boolean": {"yes": True}}, ["yes"])


def test_decisions_about_one_value_follow_one_another(place: Path) -> None:
    decision = {"empty_as_null": True, "strip_nul": True, "encoding": "latin-1"}
    found, decided = one_column(place, "JSON", "jsonb", decision, [("\0",), b'"\xe9\0"', ""])
    assert found == [(None, "null"), ('"é"', "text"), (None, "null")]
    assert decided.touched == {"t": {"encoding, strip_nul": 1, "strip_nul, empty_as_null": 1, "empty_as_null": 1}}


@pytest.mark.parametrize(
    ("kind", "decision", "fault"),
    [
        ("text", {"empty_as_null": True}, "a value like any other"),
        ("date!", {"empty_as_null": True}, "NOT NULL in the target"),
        ("bytea", {"strip_nul": True}, "bytea holds NUL bytes"),
        ("uuid", {"encoding": "latin-1"}, "uuid is no text"),
        ("text", {"encoding": "utf-16"}, "cannot be told from UTF-8"),
        ("text", {"encoding": "base64"}, "cannot be told from UTF-8"),
        ("text", {"encoding": "unicode_escape"}, "cannot be told from UTF-8"),
        ("text", {"encoding": "utf-7"}, "cannot be told from UTF-8"),
        ("text", {"datetime": "unix"}, "text holds no date"),
        ("integer", {"boolean": {"yes": True}}, "the target's type is integer"),
        ("boolean", {"boolean": {}}, "the map is empty"),
        ("boolean", {"boolean": {"1": False}}, "0 is false and 1 is true"),
    ],
)
def test_a_decision_that_does_not_fit_is_refused_before_anything_is_read(
    tmp_path: Path, kind: str, decision: dict[str, Any], fault: str
) -> None:
    plan, planned = plan_of({"t": {"columns": {"x": decision}}}), schema_of({"t": {"x": kind}})
    (found,) = decisions.misfits(plan, planned)
    assert found.startswith("tables.t.columns.x.") and fault in found
    with pytest.raises(PlanInvalid, match=fault):
        decisions.apply(tmp_path / "no backup", tmp_path / "decided.db", plan, planned)


def test_encodings_that_people_have_are_taken() -> None:
    planned = schema_of({"t": {"x": "text"}})
    for name in ("latin-1", "cp1252", "cp1251", "koi8-r", "iso8859-15", "gb18030", "big5", "euc-jp", "shift_jis", "utf-8"):
        assert decisions.misfits(plan_of({"t": {"columns": {"x": {"encoding": name}}}}), planned) == []


def test_names_that_are_not_there_are_misfits() -> None:
    planned = schema_of({"p": {"id": "integer!"}, "t": {"p": "integer!"}}, [("t", "t_p_fkey", "p", "p", "id")])
    plan = plan_of(
        {
            "u": {"columns": {"x": {"strip_nul": True}}},
            "t": {
                "columns": {"y": {"strip_nul": True}},
                "foreign_keys": {"t_p_fkey": {"orphans": "set_null"}, "other": {"orphans": "quarantine"}},
            },
        }
    )
    assert decisions.misfits(plan, planned) == [
        "tables.u: the target has no such table",
        "tables.t.columns.y: the target has no such column",
        "tables.t.foreign_keys.t_p_fkey: set_null, but p is NOT NULL in the target",
        "tables.t.foreign_keys.other: the target has no such foreign key; it has t_p_fkey",
    ]


def test_not_null_in_the_source_stops_it(place: Path) -> None:
    with pytest.raises(WrongData, match=r"cannot become NULL.*1 values, e\.g\. id=1"):
        one_column(place, "DATETIME NOT NULL", "date", {"empty_as_null": True}, [""])


def test_two_rows_that_would_become_one_stop_it_whatever_the_source_does_on_conflict(place: Path) -> None:
    with pytest.raises(WrongData, match=r"t\.x"):
        one_column(place, "TEXT UNIQUE ON CONFLICT REPLACE", "text", {"strip_nul": True}, ["a", "a\0"])
    assert not (place / "decided.db").exists()


def test_the_applications_triggers_and_checks_stay_out_of_it(place: Path) -> None:
    table = (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x BOOLEAN CHECK (x <> 1), y AS (x || '!'));"
        "CREATE TABLE log (id INTEGER PRIMARY KEY);"
        "CREATE TRIGGER logged AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (NULL); END"
    )
    found, decided = one_column(place, "", "boolean", {"boolean": {"yes": True}}, ["yes"], table)
    assert found == [(1, "integer")]
    assert rows_of(decided.file, "SELECT count(*) FROM log") == [(0,)]


# --- kinds of tables and files ------------------------------------------------------------------------------------------


def test_a_table_without_rowid(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        'CREATE TABLE "T a" ("k 1" TEXT COLLATE NOCASE, k2 REAL, x DATETIME, PRIMARY KEY (k2 DESC, "k 1")) WITHOUT ROWID',
        {"T a": [("a", 0.1 + 0.2, ""), ("B", 2.0, 5), ("b\0", -1.5, "x"), ("ა", 7.0, None)]},
    )
    planned = schema_of({"T a": {"k 1": "text!", "k2": "double precision!", "x": "timestamp with time zone"}})
    plan = plan_of({"T a": {"columns": {"x": {"empty_as_null": True, "datetime": "unix"}}}})
    decided = carry_out(place, snapshot, plan, planned)
    query = 'SELECT "k 1", x FROM "T a" ORDER BY k2'
    assert [x for _, x in rows_of(decided.file, query)] == ["x", None, "1970-01-01 00:00:05.000000", None]
    assert [line["key"] for line in lines(decided)] == ["k2=0.30000000000000004, k 1=a", "k2=2.0, k 1=B"]
    assert len([*quarantine.rows(decided, plan)]) == 2


def test_the_key_of_a_table_without_rowid_is_not_changed(place: Path) -> None:
    table = "CREATE TABLE t (id INTEGER, x TEXT PRIMARY KEY) WITHOUT ROWID"
    with pytest.raises(Refused, match=r"column x.*tells the rows of this table apart"):
        one_column(place, "", "text!", {"strip_nul": True}, ["a\0"], table)


def test_a_table_without_a_key_and_one_with_a_column_named_rowid(place: Path) -> None:
    table = 'CREATE TABLE t (id INTEGER, x DATE, "rowid" TEXT, "place" TEXT, "new" TEXT)'
    found, decided = one_column(place, "", "date", {"empty_as_null": True}, ["", "2025-01-01", ""], table)
    assert [value for value, _ in found].count(None) == 2
    assert [line["key"] for line in lines(decided)] == ["rowid=1", "rowid=3"]


def test_a_text_key_that_changes_keeps_its_row(place: Path) -> None:
    table = "CREATE TABLE t (id INTEGER, x TEXT PRIMARY KEY)"
    found, decided = one_column(place, "", "text!", {"strip_nul": True}, ["a\0", "b"], table)
    assert [value for value, _ in found] == ["a", "b"]
    assert lines(decided)[0]["key"] == "x=a\\x00"


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_database_in_utf16(place: Path, encoding: str) -> None:
    broken = ("\ud800" + "x\0").encode("utf-16-le" if encoding.endswith("le") else "utf-16-be", "surrogatepass")
    snapshot = place / "backup.db"
    database(snapshot, f"PRAGMA encoding = '{encoding}'; CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)")
    connection = apsw.Connection(str(snapshot))
    for value in ("ა\0b", b"caf\xe9", "plain"):
        connection.execute("INSERT INTO t (x) VALUES (?)", (value,))
    connection.execute("INSERT INTO t (x) VALUES (CAST(? AS TEXT))", (broken,))
    connection.close()
    plan = plan_of({"t": {"columns": {"x": {"strip_nul": True, "encoding": "latin-1"}}}})
    decided = carry_out(place, snapshot, plan, schema_of({"t": {"id": "integer!", "x": "text"}}))
    found = rows_of(decided.file, "SELECT CAST(x AS BLOB) FROM t ORDER BY id")
    kept = "utf-16-le" if encoding.endswith("le") else "utf-16-be"
    assert [value.decode(kept, "surrogatepass") for (value,) in found] == ["აb", "café", "plain", "\ud800x"]
    assert len([*quarantine.rows(decided, plan)]) == 3


def test_a_backup_whose_header_speaks_of_a_wal(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x DATE)",
        {"t": [(1, ""), (2, "2025-01-01")]},
    )
    with snapshot.open("r+b") as file:
        file.seek(18)
        file.write(b"\2\2")
    plan, planned = (
        plan_of({"t": {"columns": {"x": {"empty_as_null": True}}}}),
        schema_of({"t": {"id": "integer!", "x": "date"}}),
    )
    decided = carry_out(place, snapshot, plan, planned)
    assert sorted(path.name for path in place.iterdir() if path.name.startswith("decided")) == [
        "decided.db",
        "decided.db.manifest.json",
        "decided.db.record",
    ]
    assert decided.file.read_bytes()[18:20] == b"\1\1"
    assert {path.stat().st_mode & 0o777 for path in place.glob("decided.db*")} == {0o600}


# --- orphans ------------------------------------------------------------------------------------------------------------

U1, U2, U3 = (f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "abc")

SITES = """
    CREATE TABLE regions (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE sites (id TEXT PRIMARY KEY, region INTEGER);
    CREATE TABLE devices (id TEXT PRIMARY KEY, site TEXT, main TEXT, secret TEXT);
    CREATE TABLE alerts (id INTEGER PRIMARY KEY, device TEXT, other TEXT, note BLOB);
"""
KEYS = [
    ("sites", "sites_region_fkey", "region", "regions", "id"),
    ("devices", "devices_site_fkey", "site", "sites", "id"),
    ("devices", "devices_main_fkey", "main", "devices", "id"),
    ("alerts", "alerts_device_fkey", "device", "devices", "id"),
    ("alerts", "alerts_other_fkey", "other", "devices", "id"),
]
PLANNED = schema_of(
    {
        "regions": {"id": "integer!", "name": "text"},
        "sites": {"id": "uuid!", "region": "integer"},
        "devices": {"id": "uuid!", "site": "uuid", "main": "uuid", "secret": "text"},
        "alerts": {"id": "integer!", "device": "uuid", "other": "uuid", "note": "bytea"},
    },
    KEYS,
)


def sites_plan(choices: Mapping[str, str], at_most: int = 100) -> Plan:
    tables: dict[str, Any] = {"regions": {}, "sites": {}, "devices": {"secret": ["secret"]}, "alerts": {}}
    for table, name, *_ in KEYS:
        if name in choices:
            tables[table].setdefault("foreign_keys", {})[name] = {"orphans": choices[name], "at_most": at_most}
    return plan_of(tables)


EVERYTHING_GOES = {name: "quarantine" for _, name, *_ in KEYS}


@pytest.fixture
def sites(place: Path) -> Path:
    """Region 9 is missing: its site, that site's device, a device behind that one, and alerts of both follow."""
    return database(
        place / "backup.db",
        SITES,
        {
            "regions": [(1, "Kakheti")],
            "sites": [(U1, 1), (U2.upper(), 9)],
            "devices": [
                ("d1", U1.replace("-", ""), None, SECRET),
                ("d2", "{" + U2 + "}", None, SECRET),
                ("d3", U1, "d2", SECRET),
                ("d4", None, "d4", SECRET),
            ],
            "alerts": [(1, "d1", None, b"\0\xff"), (2, "d2", None, None), (3, "d3", "d1", None), (4, "d1", "d3", None)],
        },
    )


def test_what_follows_an_orphan_goes_with_it_three_levels_deep(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    decided = carry_out(place, sites, plan, PLANNED)
    assert rows_of(decided.file, "SELECT id FROM sites") == [(U1,)]
    assert rows_of(decided.file, "SELECT id FROM devices") == [("d1",), ("d4",)]
    assert rows_of(decided.file, "SELECT id FROM alerts") == [(1,)]
    assert decided.quarantined == {"alerts": 3, "devices": 2, "sites": 1}
    assert decided.foreign_keys == {
        "alerts.alerts_device_fkey": 2,
        "alerts.alerts_other_fkey": 1,
        "devices.devices_main_fkey": 1,
        "devices.devices_site_fkey": 1,
        "sites.sites_region_fkey": 1,
    }
    with source_schema.snapshot(sites) as connection:
        before = source_schema.counts(connection, source_schema.tables(connection))
    with source_schema.snapshot(decided.file) as connection:
        assert decided.expected_rows(before) == source_schema.counts(connection, source_schema.tables(connection))
    reasons = {(line["table"], line["key"]): line["because"] for line in lines(decided)}
    assert reasons["sites", f"id={U2.upper()}"] == "it points to no row"
    assert reasons["devices", "id=d3"] == "the row it points to is in quarantine"


def test_set_null_keeps_the_row_and_what_follows_it(place: Path, sites: Path) -> None:
    plan = sites_plan({**EVERYTHING_GOES, "devices_site_fkey": "set_null"})
    decided = carry_out(place, sites, plan, PLANNED)
    assert rows_of(decided.file, "SELECT site FROM devices WHERE id = 'd2'") == [(None,)]
    assert decided.quarantined == {"sites": 1}
    assert decided.touched == {"devices": {"set_null": 1}}
    assert (
        lines(decided)[0] | {"foreign_key": "devices_site_fkey", "was": "{" + U2 + "}", "became": None} == lines(decided)[0]
    )


def test_set_null_at_the_end_of_a_chain(place: Path, sites: Path) -> None:
    plan = sites_plan({**EVERYTHING_GOES, "alerts_device_fkey": "set_null", "alerts_other_fkey": "set_null"})
    decided = carry_out(place, sites, plan, PLANNED)
    assert rows_of(decided.file, "SELECT id, device, other FROM alerts") == [
        (1, "d1", None),
        (2, None, None),
        (3, None, "d1"),
        (4, "d1", None),
    ]
    assert decided.touched == {"alerts": {"set_null": 3}}


def test_a_row_that_goes_is_not_first_robbed_of_a_reference(place: Path, sites: Path) -> None:
    """Alert 3 points to d3, which goes; by its other key it would be an orphan only once its device is set to NULL."""
    run_sql(sites, "UPDATE alerts SET other = 'missing' WHERE id = 3")
    plan = sites_plan({**EVERYTHING_GOES, "alerts_device_fkey": "set_null"})
    decided = carry_out(place, sites, plan, PLANNED)
    assert decided.touched == {"alerts": {"set_null": 1}}
    (row,) = [json.loads(item.row) for item in quarantine.rows(decided, plan) if item.key == "id=3"]
    assert row == {"id": 3, "device": "d3", "other": "missing", "note": None}


@pytest.mark.parametrize("blocking", ["alerts_device_fkey", "devices_main_fkey"])
def test_a_row_that_would_become_an_orphan_of_a_blocking_key_stops_it(place: Path, sites: Path, blocking: str) -> None:
    plan = sites_plan({name: choice for name, choice in EVERYTHING_GOES.items() if name != blocking})
    with pytest.raises(Refused, match=rf"{blocking}.*e\.g\. id="):
        decisions.apply(sites, place / "decided.db", plan, PLANNED)
    assert sorted(path.name for path in place.iterdir()) == [".decided.db.lock", "backup.db"]


def test_a_blocking_key_does_not_stop_a_row_that_goes_by_another(place: Path, sites: Path) -> None:
    """Alert 3 points to d3 by a key that blocks, and is an orphan by one that takes it out."""
    run_sql(sites, "UPDATE alerts SET device = 'd1' WHERE id = 2; UPDATE alerts SET other = 'missing' WHERE id = 3")
    plan = sites_plan({name: choice for name, choice in EVERYTHING_GOES.items() if name != "alerts_device_fkey"})
    assert carry_out(place, sites, plan, PLANNED).quarantined == {"alerts": 2, "devices": 2, "sites": 1}


def test_more_orphans_than_allowed_are_refused_and_nothing_is_made(place: Path, sites: Path) -> None:
    with pytest.raises(Refused, match=r"sites_region_fkey.*at most 0 rows; found 1 rows"):
        decisions.apply(sites, place / "decided.db", sites_plan(EVERYTHING_GOES, 0), PLANNED)
    assert sorted(path.name for path in place.iterdir()) == ["backup.db"]


def test_orphans_that_follow_count_as_well(place: Path, sites: Path) -> None:
    run_sql(sites, "UPDATE alerts SET other = NULL; UPDATE alerts SET device = 'd2' WHERE id <> 1")
    with pytest.raises(Refused, match=r"alerts_device_fkey.*at most 2 rows; found 3 rows"):
        decisions.apply(sites, place / "decided.db", sites_plan(EVERYTHING_GOES, 2), PLANNED)
    assert sorted(path.name for path in place.iterdir()) == [".decided.db.lock", "backup.db"]
    assert carry_out(place, sites, sites_plan(EVERYTHING_GOES, 3), PLANNED).quarantined["alerts"] == 3


def test_orphans_are_counted_as_the_decided_values_leave_them(place: Path) -> None:
    """'' in a reference is an orphan until a decision makes it NULL."""
    snapshot = database(
        place / "backup.db", SITES, {"sites": [(U1, None)], "devices": [(str(n), "", None, "") for n in range(5)]}
    )
    tables = {
        "devices": {
            "columns": {"site": {"empty_as_null": True}},
            "foreign_keys": {"devices_site_fkey": {"orphans": "quarantine", "at_most": 0}},
        }
    }
    plan = plan_of({"regions": {}, "sites": {}, "alerts": {}, **tables})
    decided = carry_out(place, snapshot, plan, PLANNED)
    assert decided.quarantined == {} and decided.touched == {"devices": {"empty_as_null": 5}}


def test_a_value_decision_that_breaks_a_reference_stops_it(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p TEXT)",
        {"p": [("a\0",)], "t": [(1, "a\0")]},
    )
    planned = schema_of({"p": {"id": "text!"}, "t": {"id": "integer!", "p": "text"}}, [("t", "t_p_fkey", "p", "p", "id")])
    strip = {"columns": {"id": {"strip_nul": True}}}
    with pytest.raises(Refused, match=r"t\.t_p_fkey.*id=1"):
        decisions.apply(snapshot, place / "decided.db", plan_of({"p": strip, "t": {}}), planned)
    both = plan_of({"p": strip, "t": {"columns": {"p": {"strip_nul": True}}}})
    assert carry_out(place, snapshot, both, planned).touched == {"p": {"strip_nul": 1}, "t": {"strip_nul": 1}}


def test_a_value_that_was_changed_in_a_row_that_goes_is_not_counted(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER, x DATE)",
        {"t": [(1, 5, ""), (2, None, "")]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "p": "integer", "x": "date"}}, [("t", "t_p_fkey", "p", "p", "id")]
    )
    plan = plan_of(
        {"p": {}, "t": {"columns": {"x": {"empty_as_null": True}}, "foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}}}}
    )
    decided = carry_out(place, snapshot, plan, planned)
    assert decided.touched == {"t": {"empty_as_null": 1}} and decided.quarantined == {"t": 1}
    assert [(item.kind, json.loads(item.row)["x"]) for item in quarantine.rows(decided, plan)] == [
        ("taken out", ""),
        ("changed", ""),
    ]


def test_a_column_may_lose_its_type_for_the_sake_of_a_row_that_goes(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER, x STRING)",
        {"t": [(1, 5, b"12"), (2, None, "a")]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "p": "integer", "x": "text"}}, [("t", "t_p_fkey", "p", "p", "id")]
    )
    decision = {"columns": {"x": {"encoding": "latin-1"}}, "foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}}}
    decided = carry_out(place, snapshot, plan_of({"p": {}, "t": decision}), planned)
    assert decided.touched == {} and rows_of(decided.file, "SELECT * FROM t") == [(2, None, "a")]


def test_a_domain_is_what_it_is_made_from(place: Path, conninfo: str, tmp_path: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id TEXT PRIMARY KEY);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, p TEXT, flag BOOLEAN, note TEXT, at DATETIME, doc TEXT)",
        {"p": [("a0eebc999c0b4ef8bb6d6bb9bd380a11",)],
         "t": [(1, "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "yes", "", 0, '"\\u0000"')]},
    )  # fmt: skip
    made = sql_folder(
        tmp_path / "sql",
        *("CREATE DOMAIN key AS uuid", "CREATE DOMAIN own_key AS key", "CREATE DOMAIN flag AS boolean"),
        *("CREATE DOMAIN note AS varchar(9)", "CREATE DOMAIN moment AS timestamptz", "CREATE DOMAIN doc AS jsonb"),
        "CREATE TABLE p (id own_key PRIMARY KEY)",
        "CREATE TABLE t (id int PRIMARY KEY, p key CONSTRAINT of_p REFERENCES p, flag flag, note note, at moment, doc doc)",
    )
    planned = target_schema.planned_schema(conninfo, made)
    columns = {"flag": {"boolean": {"yes": True}}, "at": {"datetime": "unix"}, "doc": {"strip_nul": True}}
    plan = plan_of({"p": {}, "t": {"columns": columns, "foreign_keys": {"of_p": {"orphans": "quarantine"}}}})
    assert decisions.misfits(plan, planned) == []
    decided = carry_out(place, snapshot, plan, planned)
    (row,) = rows_of(decided.file, "SELECT flag, note, at, doc FROM t")
    assert row == (1, "", "1970-01-01 00:00:00.000000", '""') and not decided.quarantined
    wrong = plan_of({"p": {}, "t": {"columns": {"note": {"empty_as_null": True}, "at": {"boolean": {"yes": True}}}}})
    assert len(decisions.misfits(wrong, planned)) == 2


def test_composite_keys_and_null_in_a_part_of_them(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (a INTEGER, b TEXT COLLATE NOCASE, PRIMARY KEY (a, b));"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT COLLATE NOCASE)",
        {"p": [(1, "x"), (2, "y")], "t": [(1, 1, "x"), (2, 1, "y"), (3, 9, None), (4, None, "y"), (5, 2, "Y")]},
    )
    planned = schema_of(
        {"p": {"a": "integer!", "b": "text!"}, "t": {"id": "integer!", "a": "integer", "b": "text"}},
        [("t", "t_fkey", "a b", "p", "a b")],
    )
    out = plan_of({"p": {}, "t": {"foreign_keys": {"t_fkey": {"orphans": "quarantine"}}}})
    decided = carry_out(place, snapshot, out, planned)
    assert rows_of(decided.file, "SELECT id FROM t") == [(1,), (3,), (4,)]
    null = plan_of({"p": {}, "t": {"foreign_keys": {"t_fkey": {"orphans": "set_null"}}}})
    decided = carry_out(place, snapshot, null, planned)
    assert rows_of(decided.file, "SELECT id FROM t WHERE a IS NULL AND b IS NULL") == [(2,), (5,)]
    assert decided.touched == {"t": {"set_null": 4}} and decided.foreign_keys == {"t.t_fkey": 2}


def test_rows_that_point_at_one_another(place: Path) -> None:
    """Of two cycles, one hangs on a row that is missing; and a chain goes from its end to its beginning."""
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE a (id INTEGER PRIMARY KEY, b INTEGER, up INTEGER); CREATE TABLE b (id INTEGER PRIMARY KEY, a INTEGER)",
        {
            "a": [(1, 1, None), (2, 2, 99), (3, None, 3), *((n, None, n - 1) for n in range(51, 80)), (50, None, 99)],
            "b": [(1, 1), (2, 2), (3, None)],
        },
    )
    planned = schema_of(
        {"a": {"id": "integer!", "b": "integer", "up": "integer"}, "b": {"id": "integer!", "a": "integer"}},
        [("a", "a_b_fkey", "b", "b", "id"), ("a", "a_up_fkey", "up", "a", "id"), ("b", "b_a_fkey", "a", "a", "id")],
    )
    go = {"orphans": "quarantine"}
    plan = plan_of({"a": {"foreign_keys": {"a_b_fkey": go, "a_up_fkey": go}}, "b": {"foreign_keys": {"b_a_fkey": go}}})
    decided = carry_out(place, snapshot, plan, planned)
    assert rows_of(decided.file, "SELECT id FROM a") == [(1,), (3,)]
    assert rows_of(decided.file, "SELECT id FROM b") == [(1,), (3,)]
    assert decided.quarantined == {"a": 31, "b": 1}


def test_a_reference_that_is_itself_referred_to(place: Path) -> None:
    """Setting it to NULL makes an orphan of the row behind it."""
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE q (id INTEGER PRIMARY KEY, p INTEGER UNIQUE);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER)",
        {"p": [(1,)], "q": [(1, 1), (2, 5)], "t": [(1, 1), (2, 5)]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "q": {"id": "integer!", "p": "integer"}, "t": {"id": "integer!", "p": "integer"}},
        [("q", "q_p_fkey", "p", "p", "id"), ("t", "t_q_fkey", "p", "q", "p")],
    )
    choices = {
        "q": {"foreign_keys": {"q_p_fkey": {"orphans": "set_null"}}},
        "t": {"foreign_keys": {"t_q_fkey": {"orphans": "quarantine"}}},
    }
    decided = carry_out(place, snapshot, plan_of({"p": {}, **choices}), planned)
    assert decided.touched == {"q": {"set_null": 1}} and decided.quarantined == {"t": 1}


def test_tables_that_the_plan_does_not_name_have_no_orphans(place: Path, sites: Path) -> None:
    """The target may have tables that stay empty, and the source may have some that are left behind."""
    planned = replace(
        PLANNED,
        columns={**PLANNED.columns, "visits": [Column("site", "uuid", False, None, False, False)]},
        foreign_keys=[
            *PLANNED.foreign_keys,
            ForeignKey("visits_site_fkey", "visits", ("site",), "sites", ("id",), "CASCADE", False),
        ],
    )
    decided = carry_out(place, sites, sites_plan(EVERYTHING_GOES), planned)
    assert decided.quarantined == {"alerts": 3, "devices": 2, "sites": 1}


def test_an_index_that_calls_the_applications_own_function_is_named(place: Path) -> None:
    snapshot = place / "backup.db"
    connection = apsw.Connection(str(snapshot))
    connection.create_scalar_function("of_the_application", lambda *values: None, 1, deterministic=True)
    connection.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x DATE); CREATE INDEX i ON t (of_the_application(x));"
        "INSERT INTO t VALUES (1, '')"
    )
    connection.close()
    plan = plan_of({"t": {"columns": {"x": {"empty_as_null": True}}}})
    with pytest.raises(Refused, match="of_the_application"):
        decisions.apply(snapshot, place / "decided.db", plan, schema_of({"t": {"id": "integer!", "x": "date"}}))


def test_not_null_in_the_source_stops_set_null(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER NOT NULL)",
        {"t": [(1, 5)]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "p": "integer"}}, [("t", "t_p_fkey", "p", "p", "id")]
    )
    with pytest.raises(Refused, match="NOT NULL in the source"):
        decisions.apply(
            snapshot,
            place / "decided.db",
            plan_of({"p": {}, "t": {"foreign_keys": {"t_p_fkey": {"orphans": "set_null"}}}}),
            planned,
        )


# --- again, killed, no room ---------------------------------------------------------------------------------------------


def test_a_second_time_nothing_is_made_anew_and_the_listing_comes_back(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    first = carry_out(place, sites, plan, PLANNED)
    assert first.listing is not None
    listed, made = first.listing.file.read_bytes(), first.file.stat()
    first.listing.file.unlink()
    assert carry_out(place, sites, plan, PLANNED) == first
    assert first.listing.file.read_bytes() == listed
    assert (first.file.stat().st_ino, first.file.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert decided_snapshot.load(first.file, sites) == replace(first, listing=None)
    assert Decided.from_dict(json.loads(json.dumps(first.as_dict()))) == first


def test_it_is_made_anew_byte_by_byte(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    first = carry_out(place, sites, plan, PLANNED)
    record = sha256(first.record)
    run_sql(first.file, "DELETE FROM alerts")
    second = carry_out(place, sites, plan, PLANNED)
    assert second == first and sha256(second.record) == record
    assert rows_of(second.file, "SELECT count(*) FROM alerts") == [(1,)]


def test_other_decisions_make_another_one(place: Path, sites: Path) -> None:
    first = carry_out(place, sites, sites_plan(EVERYTHING_GOES), PLANNED)
    other = carry_out(place, sites, sites_plan({**EVERYTHING_GOES, "devices_site_fkey": "set_null"}), PLANNED)
    assert first.sha256 != other.sha256 and sha256(other.file) == other.sha256


def test_killed_at_any_step_it_is_whole_or_not_there(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    reference = carry_out(place, sites, plan, PLANNED)
    original = sha256(sites)

    def begin() -> None:
        for path in [*place.glob("*decided.db*"), *place.glob("evidence")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def action() -> None:
        decisions.apply(sites, place / "decided.db", plan, PLANNED, listing=place / "evidence")

    wheres = []
    for where in kill_at_every_step(begin, action):
        wheres.append(where)
        found = decided_snapshot.load(place / "decided.db", sites)
        assert found is None or sha256(found.file) == reference.sha256, where
        assert sha256(sites) == original
        if len(wheres) % 5 == 0:
            assert carry_out(place, sites, plan, PLANNED) == reference, where
    assert len(wheres) > 20


def test_killed_in_the_middle_of_the_work(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x DATETIME);"
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, i FROM n",
    )
    planned = schema_of({"t": {"id": "integer!", "x": "timestamp with time zone"}})
    plan = plan_of({"t": {"columns": {"x": {"datetime": "unix"}}}})
    child = os.fork()
    if child == 0:
        decisions.apply(snapshot, place / "decided.db", plan, planned)
        os._exit(0)
    while not (place / ".decided.db.partial" / "record").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (place / "decided.db").exists()
    decided = carry_out(place, snapshot, plan, planned)
    assert decided.touched == {"t": {"datetime": 20_000}}
    assert not (place / ".decided.db.partial").exists()


def test_too_little_free_disk_is_refused_before_the_clone(place: Path, sites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    with pytest.raises(Refused, match="free disk"):
        decisions.apply(sites, place / "decided.db", sites_plan(EVERYTHING_GOES), PLANNED)
    assert sorted(path.name for path in place.iterdir()) == [".decided.db.lock", "backup.db"]


# --- the audit ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def audited(place: Path) -> tuple[Decided, Plan, PlannedSchema]:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY, name TEXT);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER, x DATETIME, flag VARCHAR(3), note TEXT COLLATE NOCASE, r REAL);"
        "CREATE TABLE other (id INTEGER PRIMARY KEY, note TEXT); CREATE TABLE k (a TEXT PRIMARY KEY, b) WITHOUT ROWID",
        {
            "p": [(1, "one"), (2, "two")],
            "t": [
                (n, 1 if n % 4 else n, 1_600_000_000 + n if n % 3 else "2025-01-01", "yes", f"n{n}\0", n / 2)
                for n in range(40)
            ],
            "other": [(n, f"note {n}") for n in range(500)],
            "k": [("a", 1), ("b", 2)],
        },
    )
    kinds = {"id": "integer!", "p": "integer", "x": "timestamp with time zone", "flag": "boolean", "note": "text"}
    planned = schema_of(
        {
            "p": {"id": "integer!", "name": "text"},
            "t": {**kinds, "r": "double precision"},
            "other": {"id": "integer!", "note": "text"},
            "k": {"a": "text!", "b": "integer"},
        },
        [("t", "t_p_fkey", "p", "p", "id")],
    )
    plan = plan_of(
        {
            "p": {},
            "other": {},
            "k": {},
            "t": {
                "columns": {
                    "x": {"datetime": "unix"},
                    "flag": {"boolean": {"yes": True}},
                    "note": {"strip_nul": True},
                },
                "foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}},
            },
        }
    )
    return carry_out(place, snapshot, plan, planned), plan, planned


@pytest.mark.parametrize(
    ("tampering", "found_by"),
    [
        ("UPDATE t SET x = '2020-09-13 12:26:42.000001' WHERE id = 2", "decided_values"),
        ("UPDATE t SET x = 1200000002 WHERE id = 2", "decided_values"),
        ("UPDATE t SET flag = 0 WHERE id = 2", "decided_values"),
        ("UPDATE t SET note = 'N2' WHERE id = 2", "decided_values"),
        ("UPDATE t SET r = CAST(r AS INTEGER) + 0.5 WHERE id = 2", "decided_values"),
        ("UPDATE t SET x = '2025-01-02' WHERE id = 3", "decided_values"),
        ("UPDATE t SET p = NULL WHERE id = 2", "decided_values"),
        ("DELETE FROM t WHERE id = 2", "decided_counts"),
        ("DELETE FROM t WHERE id = 2", "decided_differences"),
        ("INSERT INTO t VALUES (1000, 1, NULL, 1, 'new', 0.5)", "decided_differences"),
        ("INSERT INTO t SELECT 8, p, x, flag, note, r FROM t WHERE id = 2", "decided_differences"),
        ("UPDATE t SET id = 1000 WHERE id = 2", "decided_differences"),
        ("UPDATE other SET note = 'note 3!' WHERE id = 3", "decided_others"),
        ("UPDATE other SET note = 'NOTE 3' WHERE id = 3", "decided_others"),
        ("DELETE FROM other WHERE id = 3", "decided_others"),
        ("INSERT INTO other VALUES (1000, NULL)", "decided_others"),
        ("UPDATE k SET b = 2.0 WHERE a = 'b'", "decided_others"),
        ("DELETE FROM k", "decided_others"),
        ("DELETE FROM p WHERE id = 2", "decided_others"),
        ("DELETE FROM p WHERE id = 1", "decided_orphans"),
        ("INSERT INTO p VALUES (8, 'eight')", "decided_references"),
        ("DROP TABLE other", "decided_schema"),
        ("CREATE TABLE more (id INTEGER)", "decided_schema"),
        ("ALTER TABLE other RENAME COLUMN note TO remark", "decided_schema"),
        ("ALTER TABLE other ADD COLUMN more", "decided_schema"),
        ("UPDATE sqlite_schema SET sql = replace(sql, 'TEXT COLLATE NOCASE', 'REAL') WHERE name = 't'", "decided_schema"),
    ],
)
def test_a_changed_decided_snapshot_is_found(
    audited: tuple[Decided, Plan, PlannedSchema], tampering: str, found_by: str
) -> None:
    decided, plan, planned = audited
    run_sql(decided.file, tampering)
    assert "decided_hash" in failed(decisions.audit(decided, plan, planned))
    # A fault of the code that made the file would be in its hash as well.
    checks = decisions.audit(replace(decided, sha256=sha256(decided.file)), plan, planned)
    assert found_by in failed(checks), failed(checks)
    assert "decided_hash" not in failed(checks)


@pytest.mark.parametrize(
    ("tampering", "found_by"),
    [
        ("DELETE FROM touched WHERE c = 'x' AND place = 2", "decided_values"),
        ("DELETE FROM touched WHERE place = 2", "decided_differences"),
        ("INSERT INTO touched SELECT t, 'p', 2, 'set_null', 't_p_fkey' FROM tables WHERE name = 't'", "decided_values"),
        ("INSERT INTO touched SELECT t, 'x', 3, 'datetime', NULL FROM tables WHERE name = 't'", "decided_values"),
        ("INSERT INTO touched SELECT t, 'x', 8, 'datetime', NULL FROM tables WHERE name = 't'", "decided_values"),
        ("DELETE FROM removed WHERE place = 8", "decided_differences"),
        ("INSERT INTO removed SELECT t, 2, 't_p_fkey', 0, 1 FROM tables WHERE name = 't'", "decided_differences"),
        ("UPDATE removed SET foreign_key = 'another'", "decided_references"),
        ("DELETE FROM touched WHERE place = 2", "decided_figures"),
    ],
)
def test_a_changed_record_is_found(audited: tuple[Decided, Plan, PlannedSchema], tampering: str, found_by: str) -> None:
    decided, plan, planned = audited
    run_sql(decided.record, tampering)
    assert found_by in failed(decisions.audit(decided, plan, planned))


def test_a_row_taken_out_without_need_is_found(audited: tuple[Decided, Plan, PlannedSchema]) -> None:
    """Row 2 points to a row that is there. Who takes it out and says so in the record is found all the same."""
    decided, plan, planned = audited
    run_sql(decided.file, "DELETE FROM t WHERE id = 2")
    run_sql(decided.record, "INSERT INTO removed SELECT t, 2, 't_p_fkey', 0, 1 FROM tables WHERE name = 't'")
    run_sql(decided.record, "DELETE FROM touched WHERE place = 2")
    checks = decisions.audit(replace(decided, sha256=sha256(decided.file)), plan, planned)
    assert "decided_references" in failed(checks)
    assert not failed(checks) & {"decided_counts", "decided_differences", "decided_values"}


def test_rows_that_justify_only_one_another_are_found(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, up INTEGER)",
        {"t": [(1, 2), (2, 1), (3, 99), (4, 3)]},
    )
    planned = schema_of({"t": {"id": "integer!", "up": "integer"}}, [("t", "t_up_fkey", "up", "t", "id")])
    plan = plan_of({"t": {"foreign_keys": {"t_up_fkey": {"orphans": "quarantine"}}}})
    decided = carry_out(place, snapshot, plan, planned)
    assert decided.quarantined == {"t": 2}
    run_sql(decided.file, "DELETE FROM t")
    run_sql(decided.record, "INSERT INTO removed VALUES (0, 1, 't_up_fkey', 1, 9), (0, 2, 't_up_fkey', 1, 9)")
    checks = decisions.audit(
        replace(decided, sha256=sha256(decided.file), quarantined={"t": 4}, listing=None), plan, planned
    )
    assert failed(checks) == {"decided_ground"}


def test_more_than_the_plan_allows_is_found(audited: tuple[Decided, Plan, PlannedSchema]) -> None:
    decided, plan, planned = audited
    tables = {**plan.tables, "t": plan.tables["t"].model_copy(update={"foreign_keys": {}})}
    assert "decided_references" in failed(decisions.audit(decided, plan.model_copy(update={"tables": tables}), planned))


def test_a_changed_listing_or_backup_is_found(audited: tuple[Decided, Plan, PlannedSchema]) -> None:
    decided, plan, planned = audited
    assert decided.listing is not None
    content_of = decided.listing.file.read_text().splitlines(keepends=True)
    decided.listing.file.write_text("".join(content_of[1:]))
    assert failed(decisions.audit(decided, plan, planned)) == {"decided_listing"}
    decided.snapshot.touch()
    assert "decided_backup" in failed(decisions.audit(decided, plan, planned))


def test_tables_are_compared_row_by_row_where_their_pages_moved(place: Path) -> None:
    """With auto_vacuum, taking rows out moves pages of other tables."""
    snapshot = database(
        place / "backup.db",
        "PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL;"
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER, note TEXT);"
        "CREATE TABLE other (id INTEGER PRIMARY KEY, note TEXT, twice AS (note || note))",
        {"t": [(n, n, "x" * 400) for n in range(50)], "p": [(n,) for n in range(0, 50, 2)]},
    )
    run_sql(snapshot, "INSERT INTO other SELECT id, note || id FROM t")
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "p": "integer", "note": "text"}, "other": {"id": "integer!"}},
        [("t", "t_p_fkey", "p", "p", "id")],
    )
    plan = plan_of({"p": {}, "other": {}, "t": {"foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}}}})
    decided = carry_out(place, snapshot, plan, planned)
    assert decided.quarantined == {"t": 25}
    assert decided.file.stat().st_size < snapshot.stat().st_size


# --- what people and the target get -------------------------------------------------------------------------------------


def test_the_listing_shows_no_secret_and_little_of_anything_else(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (name TEXT PRIMARY KEY, token TEXT, note TEXT)",
        {"t": [(f"key {SECRET}", f"{SECRET}\0", "n" * 200 + "\0"), ("b", "c", "https://user:hunter2@host/\0")]},
    )
    strip = {"strip_nul": True}
    plan = plan_of({"t": {"secret": ["token", "name"], "columns": {"token": strip, "note": strip}}})
    decided = carry_out(place, snapshot, plan, schema_of({"t": {"name": "text!", "token": "text", "note": "text"}}))
    assert decided.listing is not None
    text = decided.listing.file.read_text()
    assert SECRET not in text and "hunter2" not in text and "***" in text
    long, _, token = lines(decided)
    assert long["was"] == "n" * 79 + "…" and long["before"] == "text of 201 characters"
    assert token["key"] == "name=***" and "was" not in token and "became" not in token
    assert token["after"] == f"text of {len(SECRET)} characters"


def test_errors_and_checks_show_no_secret(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (token TEXT PRIMARY KEY, x TEXT); INSERT INTO t VALUES ('" + SECRET + "', CAST(x'81' AS TEXT))",
    )
    plan = plan_of({"t": {"secret": ["token"], "columns": {"x": {"encoding": "cp1252"}}}})
    planned = schema_of({"t": {"token": "text!", "x": "text"}})
    with pytest.raises(WrongData) as caught:
        decisions.apply(snapshot, place / "decided.db", plan, planned)
    assert SECRET not in str(caught.value) and "token=***" in str(caught.value)
    plan = plan_of({"t": {"secret": ["token"], "columns": {"x": {"encoding": "latin-1"}}}})
    decided = carry_out(place, snapshot, plan, planned)
    run_sql(decided.file, "UPDATE t SET x = 'other'")
    checks = decisions.audit(decided, plan, planned)
    assert "decided_values" in failed(checks) and SECRET not in json.dumps([check.as_dict() for check in checks])


def quarantined(conninfo: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo) as connection:
        query = "SELECT run_id, table_name, key, kind, reason, row FROM cutover.quarantine ORDER BY 1, 2, 3"
        return connection.execute(query).fetchall()


def test_rows_are_kept_whole_in_the_target(place: Path, sites: Path, conninfo: str) -> None:
    run_sql(sites, "UPDATE alerts SET note = ? WHERE id = 2", b"\0\xff")
    run_sql(sites, "UPDATE devices SET main = CAST(x'ff' AS TEXT) || 'ა' WHERE id = 'd1'")
    run_sql(sites, "UPDATE alerts SET note = 'nul' || char(0) WHERE id = 3; UPDATE alerts SET note = 9e999 WHERE id = 4")
    plan = sites_plan(EVERYTHING_GOES)
    decided = carry_out(place, sites, plan, PLANNED)
    expected = {"alerts": 4, "devices": 3, "sites": 1}
    assert quarantine.stored(conninfo, "run 1") == {}
    assert quarantine.store(conninfo, "run 1", quarantine.rows(decided, plan)) == expected
    first = quarantined(conninfo)
    rows = {(table, key): row for _, table, key, _, _, row in first}
    assert rows["devices", "id=d2"] == {"id": "d2", "site": "{" + U2 + "}", "main": None, "secret": SECRET}
    assert rows["devices", "id=d1"]["main"] == {"text": "ff" + "ა".encode().hex()}
    assert rows["alerts", "id=2"]["note"] == {"blob": "00ff"}
    assert rows["alerts", "id=3"]["note"] == {"text": b"nul\0".hex()}
    assert rows["alerts", "id=4"]["note"] == {"real": "Infinity"}
    reasons = {(table, key): (kind, reason) for _, table, key, kind, reason, _ in first}
    assert reasons["alerts", "id=2"] == ("taken out", "alerts_device_fkey: the row it points to is in quarantine")

    assert quarantine.store(conninfo, "run 1", quarantine.rows(decided, plan)) == expected
    assert quarantined(conninfo) == first
    assert quarantine.store(conninfo, "run 2", []) == {}
    assert quarantine.stored(conninfo, "run 1") == expected
    ledger.ensure(conninfo)


def test_a_lost_lease_keeps_the_quarantine_as_it_is(place: Path, sites: Path, conninfo: str) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    decided = carry_out(place, sites, plan, PLANNED)
    ledger.ensure(conninfo)
    epoch = ledger.open_run(conninfo, "run 1", "house")
    guard = ledger.guard("run 1", epoch)
    assert sum(quarantine.store(conninfo, "run 1", quarantine.rows(decided, plan), guard).values()) == 6
    ledger.take_over(conninfo, "run 1", "rollback")
    with pytest.raises(LeaseLost):
        quarantine.store(conninfo, "run 1", [], guard)
    assert sum(quarantine.stored(conninfo, "run 1").values()) == 6


def test_a_failure_half_way_leaves_the_rows_of_before(place: Path, sites: Path, conninfo: str) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    decided = carry_out(place, sites, plan, PLANNED)
    quarantine.store(conninfo, "run 1", quarantine.rows(decided, plan))

    def broken() -> Iterator[quarantine.QuarantinedRow]:
        yield next(quarantine.rows(decided, plan))
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        quarantine.store(conninfo, "run 1", broken())
    assert sum(quarantine.stored(conninfo, "run 1").values()) == 6


def test_another_table_of_that_name_is_left_alone(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE SCHEMA cutover; CREATE TABLE cutover.quarantine (patient text)")
    with pytest.raises(Refused, match="is not the quarantine"):
        quarantine.store(conninfo, "run 1", [])


# --- all of it, into PostgreSQL -----------------------------------------------------------------------------------------


def test_copy_and_proof_read_the_decided_snapshot(place: Path, conninfo: str, tmp_path: Path) -> None:
    folder = tmp_path / "sql"
    for name, sql in {
        "pre_data": (
            "CREATE TABLE sites (id uuid NOT NULL, since timestamptz, open boolean, name varchar(20));"
            "CREATE TABLE devices (id uuid NOT NULL, site uuid NOT NULL, tags jsonb, seen timestamptz)"
        ),
        "post_data": "ALTER TABLE sites ADD PRIMARY KEY (id); ALTER TABLE devices ADD PRIMARY KEY (id)",
        "foreign_keys": "ALTER TABLE devices ADD CONSTRAINT devices_site_fkey FOREIGN KEY (site) REFERENCES sites (id)",
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "001_all.sql").write_text(sql)
    planned = target_schema.planned_schema(conninfo, folder)
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE sites (id UUID PRIMARY KEY, since DATETIME, open VARCHAR(5), name VARCHAR(20));"
        "CREATE TABLE devices (id UUID PRIMARY KEY, site VARCHAR(36) NOT NULL, tags JSON, seen DATETIME)",
        {
            "sites": [(U1.replace("-", ""), 1627301106, "true", "Caf\0"), (U2, "2021-07-26 12:05:06", "false", b"Caf\xe9")],
            "devices": [
                (U1, U1.upper(), r'{"a": "\u0000x"}', ""),
                (U2, U3, None, 1627301106.25),
                (U3, U2, "[1]", 1627301106.25),
            ],
        },
    )
    plan = plan_of(
        {
            "sites": {
                "columns": {
                    "since": {"datetime": "unix"},
                    "open": {"boolean": {"true": True, "false": False}},
                    "name": {"strip_nul": True, "encoding": "latin-1"},
                }
            },
            "devices": {
                "columns": {"tags": {"strip_nul": True}, "seen": {"empty_as_null": True, "datetime": "unix"}},
                "foreign_keys": {"devices_site_fkey": {"orphans": "quarantine", "at_most": 1}},
            },
        }
    )
    decided = carry_out(place, snapshot, plan, planned)
    with psycopg.connect(conninfo) as connection:
        connection.execute((folder / "pre_data" / "001_all.sql").read_bytes())
    ledger.ensure(conninfo)
    epoch = ledger.open_run(conninfo, "run 1", "house")
    for table in plan.tables:
        copying.copy_table(Sides(decided.file, conninfo, "public"), RunLease("run 1", epoch), table)
    with psycopg.connect(conninfo) as connection:
        for name in ("post_data", "foreign_keys"):
            connection.execute((folder / name / "001_all.sql").read_bytes())
        connection.execute("SET TimeZone = 'UTC'")
        assert connection.execute("SELECT since::text, open, name FROM sites ORDER BY id").fetchall() == [
            ("2021-07-26 12:05:06+00", True, "Caf"),
            ("2021-07-26 12:05:06+00", False, "Café"),
        ]
        assert connection.execute("SELECT tags, seen::text FROM devices ORDER BY id").fetchall() == [
            ({"a": "x"}, None),
            ([1], "2021-07-26 12:05:06.25+00"),
        ]
        counts = target_schema.row_counts(connection, "public")
    assert counts == decided.expected_rows({"sites": 2, "devices": 3})
    from include.cutover.proof import content

    results = content.compare(Sides(decided.file, conninfo, "public"), list(plan.tables))
    assert {result.outcome for result in results} == {"passed"}, results


# --- anything -----------------------------------------------------------------------------------------------------------

ANYTHING = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NODES = st.lists(st.tuples(*[st.none() | st.integers(0, 6)] * 3), max_size=6)
CHOICES = st.lists(st.sampled_from(["quarantine", "quarantine", "set_null", "block"]), min_size=6, max_size=6)


@ANYTHING
@given(tables=st.tuples(NODES, NODES), choices=CHOICES)
def test_any_net_of_references_comes_to_rest(place: Path, tables: Sequence[Any], choices: list[str]) -> None:
    """Two tables with three references each, to either of them and itself, against a model that tries row by row."""
    names = ("a", "b")
    keys = [(table, f"f{n}", f"r{n}", names[(n + at) % 2], "id") for at, table in enumerate(names) for n in range(3)]
    kinds = {"id": "integer!", "r0": "integer", "r1": "integer", "r2": "integer"}
    planned = schema_of(dict.fromkeys(names, kinds), keys)
    chosen = {(table, name): choice for (table, name, *_), choice in zip(keys, choices, strict=True)}
    plan = plan_of(
        {
            table: {"foreign_keys": {name: {"orphans": choice} for (own, name), choice in chosen.items() if own == table}}
            for table in names
        }
    )
    shutil.rmtree(place)
    place.mkdir()
    body = "(id INTEGER PRIMARY KEY, r0 INTEGER, r1 INTEGER, r2 INTEGER)"
    content_of = {
        table: [(n, *row) for n, row in enumerate(rows)] for table, rows in zip(names, tables, strict=True) if rows
    }
    snapshot = database(place / "backup.db", f"CREATE TABLE a {body}; CREATE TABLE b {body}", content_of)

    model = {table: {row[0]: list(row[1:]) for row in content_of.get(table, [])} for table in names}

    def orphans(choice: str) -> list[tuple[str, int, int]]:
        return [
            (table, key, int(name[1:]))
            for table, name, _, other, _ in keys
            if chosen[table, name] == choice
            for key, row in model[table].items()
            if row[int(name[1:])] is not None and row[int(name[1:])] not in model[other]
        ]

    while found := orphans("quarantine"):
        for table, key, _ in found:
            model[table].pop(key, None)
    for table, key, n in orphans("set_null"):
        model[table][key][n] = None
    touched = model != {table: {row[0]: list(row[1:]) for row in content_of.get(table, [])} for table in names}
    if touched and any(
        row[int(name[1:])] not in (None, *model[other])
        and row[int(name[1:])] in {item[0] for item in content_of.get(other, [])}
        for table, name, _, other, _ in keys
        if chosen[table, name] == "block"
        for row in model[table].values()
    ):
        with pytest.raises(Refused, match="point nowhere"):
            decisions.apply(snapshot, place / "decided.db", plan, planned)
        return
    try:
        decided = decisions.apply(snapshot, place / "decided.db", plan, planned)
    except Refused:
        assert orphans("block")  # orphans from the beginning, which no decision is about
        return
    found_rows = {
        table: {row[0]: list(row[1:]) for row in rows_of(decided.file, f"SELECT * FROM {table}")} for table in names
    }
    assert found_rows == model
    assert decided.made == touched
    if not orphans("block"):
        assert worst(decisions.audit(decided, plan, planned)) == "passed"


JSON_TEXT = st.text(st.sampled_from('\\u0"na\0ა ')) | st.text(max_size=8)


@ANYTHING
@given(values=st.lists(st.recursive(JSON_TEXT, lambda inner: st.lists(inner, max_size=3)), min_size=1, max_size=8))
def test_any_json_without_its_nul_is_the_same_json(place: Path, values: list[Any]) -> None:
    def without(value: Any) -> Any:
        return value.replace("\0", "") if isinstance(value, str) else [without(item) for item in value]

    found, _ = one_column(place, "TEXT", "jsonb", {"strip_nul": True}, [json.dumps(value) for value in values])
    assert [json.loads(text) for text, _ in found] == [without(value) for value in values]


@ANYTHING
@given(values=st.lists(st.binary(max_size=6) | st.text(max_size=4), min_size=1, max_size=10))
def test_any_bytes_become_text(place: Path, values: list[bytes | str]) -> None:
    given_values = [value if isinstance(value, str) else (value,) if n % 2 else value for n, value in enumerate(values)]
    found, _ = one_column(place, "TEXT", "text", {"encoding": "latin-1", "strip_nul": True}, given_values)
    for value, (text, kind) in zip(values, found, strict=True):
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        try:
            expected = raw.decode()
        except UnicodeDecodeError:
            expected = raw.decode("latin-1")
        assert (text, kind) == (expected.replace("\0", ""), "text")


def test_two_at_once_make_one(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                decisions.apply(sites, place / "decided.db", plan, PLANNED, listing=place / "evidence")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert carry_out(place, sites, plan, PLANNED).quarantined == {"alerts": 3, "devices": 2, "sites": 1}
