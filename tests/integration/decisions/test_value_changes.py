"""Decisions about values, carried out on real SQLite files."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.cutover.decisions import quarantine
from include.cutover.decisions.apply import apply_decisions
from include.cutover.errors import Refused, WrongData
from tests.support.deciding import ANYTHING, carry_out, database, lines, one_column, plan_of, rows_of, schema_of


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


def test_empty_text_is_found_whatever_the_collation(place: Path) -> None:
    found, _ = one_column(place, "TEXT COLLATE RTRIM", "integer", {"empty_as_null": True}, ["  ", ""])
    assert [value for value, _ in found] == ["  ", None]


def test_strip_nul_removes_nul_from_text(place: Path) -> None:
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
def test_strip_nul_removes_escaped_nul_from_json_and_no_other_escape(place: Path, before: str, after: str) -> None:
    found, decided = one_column(place, "JSON", "jsonb", {"strip_nul": True}, [before, '"untouched"'])
    assert found == [(after, "text"), ('"untouched"', "text")]
    assert decided.made == (before != after)
    json.loads(after)


def test_strip_nul_keeps_escapes_in_plain_text(place: Path) -> None:
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


def test_invalid_bytes_after_a_nul_are_read_in_their_encoding(place: Path) -> None:
    found, decided = one_column(place, "TEXT", "text", {"encoding": "latin-1", "strip_nul": True}, [(b"a\0\xe9",)])
    assert found == [("aé", "text")]
    assert decided.touched == {"t": {"encoding, strip_nul": 1}}


def test_bytes_that_the_encoding_does_not_know_are_refused(place: Path) -> None:
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
def test_any_moment_in_unix_seconds_becomes_that_moment(place: Path, moments: list[datetime]) -> None:
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001
    seconds = [(moment - epoch) / timedelta(seconds=1) for moment in moments]
    found, _ = one_column(place, "", "timestamp with time zone", {"datetime": "unix"}, seconds)
    assert [value for value, _ in found] == [moment.isoformat(" ", "microseconds") for moment in moments]


@pytest.mark.parametrize("value", [253402300800, -62135596801, float("inf"), 1e300, "9" * 400, "1.1234567"])
def test_numbers_that_are_not_a_date_are_refused(place: Path, value: float | str) -> None:
    declared = "TEXT" if isinstance(value, str) else ""
    with pytest.raises(WrongData, match="years 1 to 9999"):
        one_column(place, declared, "timestamp with time zone", {"datetime": "unix"}, [value])


def test_julian_days_become_days_in_a_date_column(place: Path) -> None:
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


def test_value_that_the_column_cannot_keep_is_refused(place: Path) -> None:
    with pytest.raises(Refused, match="declared type of the column changes"):
        one_column(place, "REAL", "boolean", {"boolean": {"yes": True}}, ["yes"])


def test_decisions_about_one_value_follow_one_another(place: Path) -> None:
    decision = {"empty_as_null": True, "strip_nul": True, "encoding": "latin-1"}
    found, decided = one_column(place, "JSON", "jsonb", decision, [("\0",), b'"\xe9\0"', ""])
    assert found == [(None, "null"), ('"é"', "text"), (None, "null")]
    assert decided.touched == {"t": {"encoding, strip_nul": 1, "strip_nul, empty_as_null": 1, "empty_as_null": 1}}


def test_empty_text_in_a_not_null_column_of_the_source_is_refused(place: Path) -> None:
    with pytest.raises(WrongData, match=r"cannot become NULL.*1 values, e\.g\. id=1"):
        one_column(place, "DATETIME NOT NULL", "date", {"empty_as_null": True}, [""])


def test_rows_that_would_become_equal_are_refused_whatever_the_source_does_on_conflict(place: Path) -> None:
    with pytest.raises(WrongData, match=r"t\.x"):
        one_column(place, "TEXT UNIQUE ON CONFLICT REPLACE", "text", {"strip_nul": True}, ["a", "a\0"])
    assert not (place / "decided.db").exists()


def test_triggers_and_checks_of_the_source_do_not_run(place: Path) -> None:
    table = (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x BOOLEAN CHECK (x <> 1), y AS (x || '!'));"
        "CREATE TABLE log (id INTEGER PRIMARY KEY);"
        "CREATE TRIGGER logged AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (NULL); END"
    )
    found, decided = one_column(place, "", "boolean", {"boolean": {"yes": True}}, ["yes"], table)
    assert found == [(1, "integer")]
    assert rows_of(decided.file, "SELECT count(*) FROM log") == [(0,)]


def test_values_of_a_table_without_rowid_are_changed(place: Path) -> None:
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
    with pytest.raises(Refused, match=r"column x.*identifies the rows of this table"):
        one_column(place, "", "text!", {"strip_nul": True}, ["a\0"], table)


def test_values_are_changed_without_a_key_and_beside_a_column_named_rowid(place: Path) -> None:
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
def test_values_of_a_database_in_utf16_are_changed(place: Path, encoding: str) -> None:
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
        apply_decisions(snapshot, place / "decided.db", plan, schema_of({"t": {"id": "integer!", "x": "date"}}))


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
