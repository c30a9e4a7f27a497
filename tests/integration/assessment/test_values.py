"""Every awkward value is found and named before the window; accepted values can be copied and proved."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.cutover.assessment.assess import assess
from include.cutover.assessment.findings import Assessment
from include.cutover.assessment.target import Target
from include.cutover.copying.table_copy import RunLease
from include.cutover.copying.tables import copy_table
from include.cutover.decisions.apply import apply_decisions
from include.cutover.errors import Refused, StepFailed, WrongData
from include.cutover.proof import content
from include.cutover.stack.postgres import Cluster
from include.cutover.target import ledger
from include.cutover.target.schema import PlannedSchema
from include.cutover.target.sides import Sides
from tests.support.assessing import Raw, insert, plan_of, source_of, target_of, telling

# --- each row of the awkward data, value by value -----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A column with values, the finding that they give, and the decision that settles it."""

    name: str
    declared: str
    target: str
    values: Sequence[Any]
    code: str | None
    value: str = ""
    severity: str = "blocks"
    becomes: str = ""
    decision: Mapping[str, Any] = field(default_factory=dict)
    decided: str = ""
    rows: int = 1


FINE = None
CASES = [
    Case("text in an integer", "INTEGER", "integer", [1, "abc"], "text_in_number", "text"),
    Case("text in a real", "REAL", "double precision", [1.5, "abc"], "text_in_number", "text"),
    Case("bytes in a number", "INTEGER", "integer", [1, b"\1"], "blob_in_number", "blob"),
    Case("3.0 in an integer", "INTEGER", "integer", [3.0, "3", "3.0"], FINE),
    Case("3.5 in an integer", "INTEGER", "integer", [3, 3.5], "real_in_integer", "real"),
    Case("3.0 that stayed real", "REAL", "integer", [3.0], "real_in_integer", "real"),
    Case("beyond smallint", "INTEGER", "smallint", [32767, -32768, 32768, -32769], "out_of_range", "integer", rows=2),
    Case("beyond integer", "INTEGER", "integer", [2**31 - 1, -(2**31), 2**31], "out_of_range", "integer"),
    Case("beyond bigint", "INTEGER", "bigint", [2**63 - 1, -(2**63), 2.0**63], "real_in_integer", "real"),
    Case("'' in a datetime", "DATETIME", "timestamptz", [""], "empty_text", "empty text",
         decision={"empty_as_null": True}, decided="NULL"),
    Case("'' in an integer", "INTEGER", "integer", ["", 1, ""], "empty_text", "empty text", rows=2,
         decision={"empty_as_null": True}, decided="NULL"),
    Case("'' in a uuid", "UUID", "uuid", [""], "empty_text", "empty text", decision={"empty_as_null": True}, decided="NULL"),
    Case("'' in jsonb", "JSON", "jsonb", [""], "empty_text", "empty text", decision={"empty_as_null": True}, decided="NULL"),
    Case("'' in a boolean", "BOOLEAN", "boolean", [""], "empty_text", "empty text",
         decision={"empty_as_null": True}, decided="NULL"),
    Case("'' that may not be NULL", "DATETIME NOT NULL", "timestamptz NOT NULL", [""], "empty_text", "empty text"),
    Case("'' in text stays", "TEXT", "text", ["", None, "NULL", "\\N"], FINE),
    Case("'' in varchar stays", "VARCHAR(5)", "varchar(5)", ["", None], FINE),
    Case("longer than varchar(n)", "VARCHAR(5)", "varchar(5)", ["გამარჯობა", "abcde", "abcdef"], "text_too_long",
         "text of up to 9 characters", rows=2),
    Case("as long as varchar(n) in letters", "VARCHAR(5)", "varchar(5)", ["გამარ", "🛰🛰🛰🛰🛰"], FINE),
    Case("shorter than char(n)", "CHAR(3)", "char(3)", ["abc", "ab"], "text_too_short", "text of up to 2 characters"),
    Case("NUL in text", "TEXT", "text", ["a", "b\0c"], "nul_in_text", "text", becomes="nothing: PostgreSQL has no",
         decision={"strip_nul": True}, decided="without its NUL characters: bc"),
    Case("NUL at the end of varchar", "VARCHAR(3)", "varchar(3)", ["abc\0"], "nul_in_text", "text",
         decision={"strip_nul": True}, decided="without its NUL characters: abc"),
    Case("\\u0000 in JSON", "JSON", "jsonb", ['{"a": "x\\u0000y"}', '"\\\\u0000"'], "nul_in_json", "text",
         decision={"strip_nul": True}, decided='without its NUL characters: {"a": "xy"}'),
    Case("not UTF-8", "TEXT", "text", [Raw(b"caf\xe9"), "café", "მთავარი"], "not_utf8", "text that is not UTF-8",
         decision={"encoding": "latin-1"}, decided="read as latin-1: café"),
    Case("a lone continuation byte", "TEXT", "varchar(10)", [Raw(b"a\x80b")], "not_utf8", "text that is not UTF-8"),
    Case("half a surrogate pair in bytes", "TEXT", "text", [Raw(b"\xed\xa0\x80")], "not_utf8", "text that is not UTF-8"),
    Case("not UTF-8 in JSON", "JSON", "jsonb", [Raw(b'"caf\xe9"')], "not_utf8", "text that is not UTF-8",
         decision={"encoding": "cp1252"}, decided='read as cp1252: "café"'),
    Case("invalid JSON", "JSON", "jsonb", ['{"a": 1}', "{'a': 1}"], "invalid_json", "text"),
    Case("NaN in JSON", "JSON", "jsonb", ['{"a": NaN}'], "invalid_json", "text"),
    Case("half a surrogate pair in JSON", "JSON", "jsonb", ['"\\ud800"'], "invalid_json", "text"),
    Case("a number beyond numeric in JSON", "JSON", "jsonb", ["[1e131072]"], "invalid_json", "text"),
    Case("numbers that jsonb takes", "JSON", "jsonb", ["[1e400, 1.10, -0, 1E-3]", '[{"a": 1}, {"a": 2}]'], FINE),
    Case("JSON in every script", "JSON", "jsonb", ['{"სახელი": ["მთავარი", "\\u10d0", "\\/"]}', "null", " [1 , 2] "], FINE),
    Case("duplicate keys in JSON", "JSON", "jsonb", ['{"a": 1, "b": {"c": 1, "c": 2}}'], "duplicate_json_keys", "text",
         "note", becomes="the last of equal keys"),
    Case("naive datetimes", "DATETIME", "timestamptz", ["2025-10-10 08:08:59.575644", "2025-10-10 08:08:59", None], FINE),
    Case("ISO in its forms", "TEXT", "timestamptz",
         ["2025-10-10T08:08:59Z", "2025-10-10 08:08:59+04:00", "2025-10-10", "2025-10-10 08:08:59.1",
          "2025-10-10T08:08:59.12Z", "2025-10-10 08:08:59.123", "2025-10-10 08:08:59.12345-03:30", "2025-10-10 08:08",
          "2025-10-10 08:08:59.123456000", "2024-02-29", "2025-10-10 24:00:00"], FINE),
    Case("finer than a microsecond", "TEXT", "timestamptz", ["2025-10-10 08:08:59.1234567"], "fraction_too_long", "text"),
    Case("no dates", "TEXT", "timestamptz",
         ["now", "epoch", "11/10/2025", "2025-02-30", "0000-01-01", "2025-10-10 25:00:00", "2025-10-10 24:30:00",
          "2025-10-10 08:08:59+0400", "2025-10-10  08:08:59"], "not_a_datetime", "text", rows=9),
    Case("offsets that PostgreSQL has not", "TEXT", "timestamptz",
         ["2025-10-10 08:08:59+15:59", "2025-10-10 08:08:59+16:00", "2025-10-10 08:08:59-23:00"], "not_a_datetime", "text",
         rows=2),
    Case("minus zero in numeric", "", "numeric", [0.0, -0.0, 1.5], "inexact_number", "real"),
    Case("minus zero in numeric(p,s)", "BLOB", "numeric(9,6)", [0.0, -0.0], "inexact_number", "real"),
    Case("minus zero in a column that keeps none", "REAL", "numeric(9,6)", [0.0, -0.0], FINE),
    Case("a real that cannot be proved", "REAL", "numeric", [1.5, 1e19], "unprovable_value", "real"),
    Case("unix seconds", "DATETIME", "timestamptz", ["2025-10-10", 1760083739], "number_in_datetime", "integer",
         becomes="unknown: it may be 2025-10-10 08:08:59.000000 as unix", decision={"datetime": "unix"},
         decided="read as unix: 2025-10-10 08:08:59.000000"),
    Case("unix seconds with a fraction", "DATETIME", "timestamptz", [1760083739.25], "number_in_datetime", "real",
         decision={"datetime": "unix"}, decided="read as unix: 2025-10-10 08:08:59.250000"),
    Case("unix milliseconds", "DATETIME", "timestamptz", [1760083739123], "number_in_datetime", "integer",
         becomes="unknown: it may be 2025-10-10 08:08:59.123000 as unix_ms", decision={"datetime": "unix_ms"},
         decided="read as unix_ms: 2025-10-10 08:08:59.123000"),
    Case("Julian days", "DATETIME", "timestamptz", [2460958.75], "number_in_datetime", "real",
         becomes="unknown: it may be 2025-10-10 06:00:00.000000 as julian", decision={"datetime": "julian"},
         decided="read as julian: 2025-10-10 06:00:00.000000"),
    Case("digits that look like a date", "DATETIME", "timestamptz", ["20251011"], "number_in_datetime", "integer",
         becomes="unknown: not a usual count of time"),
    Case("a number as text", "TEXT", "timestamp", ["1760083739"], "number_in_datetime", "number as text",
         decision={"datetime": "unix"}, decided="read as unix: 2025-10-10 08:08:59.000000"),
    Case("beyond the calendar", "DATETIME", "timestamptz", [10**18], "number_in_datetime", "integer"),
    Case("booleans in words", "BOOLEAN", "boolean", [0, 1, None, "true"], "not_boolean", "text",
         decision={"boolean": {"true": True}}, decided="true"),
    Case("2 in a boolean", "BOOLEAN", "boolean", [0, 2, 2], "not_boolean", "integer", rows=2,
         decision={"boolean": {"2": False}}, decided="false"),
    Case("text in a text column for a boolean", "TEXT", "boolean", ["0"], "not_boolean", "text",
         decision={"boolean": {"0": False}}, decided="false"),
    Case("bytes in a boolean", "BOOLEAN", "boolean", [b"\1"], "not_boolean", "blob"),
    Case("uuids in their spellings", "UUID", "uuid",
         ["6f1ed002ab5595859014ebf0951522d9", "6F1ED002-AB55-9585-9014-EBF0951522D9",
          "{6f1ed002-ab55-9585-9014-ebf0951522d9}"], FINE),
    Case("no uuid", "UUID", "uuid", ["6f1ed002ab5595859014ebf0951522d", "6f-1ed002ab5595859014ebf0951522d9", "x" * 32],
         "not_uuid", "text", rows=3),
    Case("a uuid that became a number", "UUID", "uuid", [123456789012345678, 1.5e30], "damaged_at_source", "integer"),
    Case("JSON that became a number", "JSON", "jsonb", ["1.10"], "damaged_at_source", "real"),
    Case("reals", "REAL", "double precision", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 3], FINE),
    Case("an integer beyond a float", "INTEGER", "double precision", [2**53, 2**53 + 1], "inexact_number", "integer"),
    Case("reals that numeric holds", "REAL", "numeric(9, 6)", [44.8271, -12.5, 999.999999, 44], FINE),
    Case("reals that numeric would round", "REAL", "numeric(9, 6)", [44.82710012], "inexact_number", "real"),
    Case("beyond numeric's precision", "REAL", "numeric(9, 6)", [999.9, 1000.0, -1000.0], "out_of_range", "real", rows=2),
    Case("an integer beyond numeric's precision", "INTEGER", "numeric(3, 0)", [999, 1000], "out_of_range", "integer"),
    Case("infinity in numeric", "REAL", "numeric(9, 6)", [math.inf], "infinite_in_numeric", "infinite real"),
    Case("infinity in a float", "REAL", "double precision", [-math.inf, 1.0], "infinity", "infinite real", "note"),
    Case("NaN, which SQLite keeps as NULL", "REAL", "double precision", [math.nan], FINE),
    Case("bytes in text", "TEXT", "text", [b"\xff\xfe"], "blob_in_text", "blob"),
    Case("text that was stored as bytes", "TEXT", "text", ["მთავარი".encode()], "blob_in_text", "blob",
         decision={"encoding": "utf-8"}, decided="read as utf-8: მთავარი"),
    Case("bytes in a datetime", "DATETIME", "timestamptz", [b"2025-10-10"], "not_a_datetime", "blob"),
    Case("numbers in text", "", "text", [5, "a"], "number_in_text", "integer"),
    Case("text in bytes", "BLOB", "bytea", ["abc"], "text_in_blob", "text"),
    Case("bytes in bytes", "BLOB", "bytea", [b"", b"\0\xff"], FINE),
    Case("no label of the enumeration", "TEXT", "mood", ["sad", "happy", "SAD"], "not_in_enum", "text"),
    Case("NULL in NOT NULL", "TEXT", "text NOT NULL", ["a", None], "null_in_not_null", "NULL"),
    Case("NULL in a NOT NULL datetime", "DATETIME", "timestamptz NOT NULL", [None], "null_in_not_null", "NULL"),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}


def table_of(case: Case) -> str:
    return f"t{CASES.index(case)}"


@pytest.fixture(scope="module")
def measure(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """One table per case, in one target."""
    made = ["CREATE TYPE mood AS ENUM ('sad', 'happy')"]
    made += [f"CREATE TABLE {table_of(case)} (id bigint NOT NULL, v {case.target})" for case in CASES]
    return target_of(cluster.conninfo(), tmp_path_factory.mktemp("measure"), *made)


def assess_case(case: Case, measure: Target, folder: Path, *, settings: Any = None) -> Assessment:
    table = table_of(case)
    path = source_of(folder / "s.db", f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, v {case.declared})")
    insert(path, table, list(enumerate(case.values, start=1)))
    return assess(path, plan_of({table: settings}), measure)


QUIET = ("table_stays_empty", "sequence_missing")


@pytest.mark.parametrize("name", BY_NAME)
def test_each_value_gives_its_finding(measure: Target, tmp_path: Path, name: str) -> None:
    case = BY_NAME[name]
    found = telling(assess_case(case, measure, tmp_path), but=QUIET)
    if case.code is None:
        assert found == []
        return
    finding = found[0]
    assert (finding.code, finding.severity, finding.table, finding.column) == (case.code, case.severity, table_of(case), "v")
    assert (finding.value, finding.rows) == (case.value, case.rows)
    assert len(finding.keys) == min(5, case.rows) and finding.keys[0].startswith("id=")
    assert case.becomes in finding.becomes and finding.becomes
    if case.decision:
        (kind,) = case.decision
        assert kind in finding.decide


@pytest.mark.parametrize("name", [case.name for case in CASES if case.decision])
def test_a_decision_resolves_the_finding(measure: Target, tmp_path: Path, name: str) -> None:
    case = BY_NAME[name]
    found = assess_case(case, measure, tmp_path, settings={"columns": {"v": case.decision}})
    (finding,) = telling(found, but=QUIET)
    assert (finding.code, finding.severity, finding.rows) == (case.code, "decision applied", case.rows)
    assert finding.becomes == case.decided and not finding.decide and not found.blocks


@pytest.mark.parametrize("name", [case.name for case in CASES if case.decision])
def test_no_finding_remains_after_the_decision(measure: Target, tmp_path: Path, name: str) -> None:
    """Assessment and decisions mean the same by every decision: what one says is touched, the other touches."""
    case, table = BY_NAME[name], table_of(BY_NAME[name])
    before = assess_case(case, measure, tmp_path, settings={"columns": {"v": case.decision}})
    plan = plan_of({table: {"columns": {"v": case.decision}}})
    planned = PlannedSchema({table: list(measure.tables[table].details.values())}, {table: []}, [])
    made = apply_decisions(tmp_path / "s.db", tmp_path / "decided" / "s.db", plan, planned)
    assert sum(made.touched[table].values()) == sum(item.rows for item in before.of("decision applied"))
    assert telling(assess(made.file, plan_of({table: None}), measure), but=QUIET) == []


@pytest.mark.parametrize(
    ("declared", "kind", "value"),
    [
        ("DATETIME NOT NULL", "timestamptz", ""),  # the source's NOT NULL would refuse it
        ("REAL", "boolean", 1),  # such a column cannot hold integers
        ("TEXT", "timestamptz", Raw(b"caf\xe9")),  # no encoding makes a date of it
        ("TEXT", "bytea", "a\0b"),
        ("TEXT", "integer", "5\0"),
        ("DATETIME", "date", 1760083739),  # it would lose its hours
        ("TEXT", "timestamptz", "1760083739.1234567"),
        ("BOOLEAN", "boolean", "x" * 100),  # nobody could write it into a plan
        ("BOOLEAN", "boolean", "token=abc"),
    ],
)
def test_lines_are_printed_only_when_they_help(trial: Trial, tmp_path: Path, declared: str, kind: str, value: Any) -> None:
    table = trial.tables[kind]
    path = source_of(tmp_path / "s.db", f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, v {declared})")
    insert(path, table, [(1, value)])
    (finding,) = assess(path, plan_of({table: None}), trial.target).blocks
    assert finding.decide == ""


def test_no_lines_are_printed_for_a_key_that_a_decision_cannot_change(trial: Trial, tmp_path: Path) -> None:
    table = trial.tables["text"]
    path = source_of(tmp_path / "s.db", f"CREATE TABLE {table} (id INTEGER, v TEXT PRIMARY KEY) WITHOUT ROWID")
    insert(path, table, [(1, "a\0b")])
    (finding,) = assess(path, plan_of({table: None}), trial.target).blocks
    assert (finding.code, finding.decide) == ("nul_in_text", "")


def test_the_lines_for_a_boolean_say_when_they_are_not_all(trial: Trial, tmp_path: Path) -> None:
    table = trial.tables["boolean"]
    path = source_of(tmp_path / "s.db", f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, v BOOLEAN)")
    insert(path, table, [(number, f"w{number}") for number in range(20)])
    plain, secret = (assess(path, plan_of({table: {"secret": names}}), trial.target).blocks[0] for names in ([], ["v"]))
    assert plain.decide.startswith("# as the application uses them; there are more values") and "w11: true" in plain.decide
    assert "the value: true" in secret.decide and "w1" not in str(secret.as_dict())


@pytest.mark.parametrize("wrong", [{"encoding": "ascii"}, {"datetime": "iso"}, {"boolean": {"no": False}}])
def test_a_decision_that_does_not_fit_the_value_leaves_it_blocking(
    measure: Target, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    name = {"encoding": "not UTF-8", "datetime": "unix seconds", "boolean": "booleans in words"}[next(iter(wrong))]
    found = assess_case(BY_NAME[name], measure, tmp_path, settings={"columns": {"v": wrong}})
    assert [finding.code for finding in found.blocks] == [BY_NAME[name].code]


def test_the_result_of_a_decision_is_judged_too(measure: Target, tmp_path: Path) -> None:
    case = BY_NAME["longer than varchar(n)"]
    path = source_of(tmp_path / "s.db", f"CREATE TABLE {table_of(case)} (id INTEGER PRIMARY KEY, v TEXT)")
    insert(path, table_of(case), [(1, "abcde\0\0"), (2, "abcdef\0")])
    found = assess(path, plan_of({table_of(case): {"columns": {"v": {"strip_nul": True}}}}), measure)
    assert {(item.code, item.severity, item.rows, item.keys) for item in telling(found, but=QUIET)} == {
        ("nul_in_text", "decision applied", 2, ("id=1", "id=2")),
        ("text_too_long", "blocks", 1, ("id=2",)),
    }


# --- what passes can be copied and proved, and nothing else -------------------------------------------------------------

TYPES = (
    "smallint", "integer", "bigint", "double precision", "numeric", "numeric(9,6)", "numeric(3,0)", "boolean", "timestamptz",
    "timestamp", "date", "time", "uuid", "jsonb", "text", "varchar(5)", "char(3)", "bytea", "mood",
)  # fmt: skip
DECLARED = ("INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB", "")
DATES = st.sampled_from(
    ["2025-10-10", "2025-02-28", "2025-02-29", "2024-02-29", "2025-04-31", "0000-01-01", "0001-01-01", "9999-12-31",
     "2025-13-01", "2025-1-1", "20251010", "11/10/2025"]
)  # fmt: skip
CLOCKS = st.sampled_from(
    ["", " 08:08:59", "T08:08:59", " 08:08", " 24:00:00", " 24:30:00", " 23:59:60", " 08:08:59.1", " 08:08:59.123456",
     " 08:08:59.1234560", " 08:08:59.1234567", "  08:08:59", " 08:08:59.", " 8:08:59"]
)  # fmt: skip
ZONES = st.sampled_from(["", "", "Z", "z", "+04:00", "-04:30", "+0400", " Z", "+14:00", "+15:30", "+04"])
MOMENTS = st.builds(lambda *parts: "".join(parts), DATES, CLOCKS, ZONES) | CLOCKS.map(str.strip)
DOCUMENTS = st.sampled_from(
    ["{}", "[]", "1", '"a"', '{"a":1,"a":2}', '[2.50, {"b":"\\u10d0"}]', '"\\ud800"', '"\\ud83d\\ude00"', "1e400", "-0",
     "NaN", "[1,]", "1e-16384", '"\\\\u0000"', '{"გ":"\\/"}', " [1] ", '"\t"', "123456789012345678901234567890"]
)  # fmt: skip
UUIDS = st.uuids().flatmap(
    lambda u: st.sampled_from([u.hex, str(u), str(u).upper(), f"{{{u}}}", u.hex[:31], f"{u.hex[:2]}-{u.hex[2:]}"])
)
VALUES = st.one_of(
    st.none(),
    st.sampled_from([0, 1, 2, -1, 32767, 32768, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 999, 1000]),
    st.sampled_from([0.0, 1.0, 3.5, 0.1, 1e15, 1e16, 1e300, math.inf, 44.8271, 44.82712345, 999.0, 1000.0, 2.0**63]),
    st.sampled_from(["", "a", "abc", "abcdef", "ab ", "გამარ", "x\0y", "true", "1", "3.5", "now", "\x1d", "sad", "12345"]),
    st.sampled_from([b"", b"\0\xff", b"abc", Raw(b"\xe9"), Raw(b"\xc3"), Raw(b"\x80"), Raw(b"\xed\xa0\x80")]),
)
FITTING = {"uuid": UUIDS, "jsonb": DOCUMENTS, **dict.fromkeys(("timestamptz", "timestamp", "date", "time"), MOMENTS)}


@dataclass
class Trial:
    """A target whose tables come and go, one per combination of types."""

    conninfo: str
    epoch: int
    target: Target
    tables: dict[str, str]


@pytest.fixture(scope="module")
def trial(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    conninfo = cluster.conninfo(name)
    tables = {type_name: f"t{number}" for number, type_name in enumerate(TYPES)}
    mood = "CREATE TYPE mood AS ENUM ('sad', 'happy')"
    made = [mood, *(f"CREATE TABLE {table} (id bigint NOT NULL, v {kind})" for kind, table in tables.items())]
    target = target_of(conninfo, tmp_path_factory.mktemp("trial"), *made)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(mood)
    ledger.ensure(conninfo)
    yield Trial(conninfo, ledger.open_run(conninfo, "run", "shop"), target, tables)
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def copied_and_proved(trial: Trial, path: Path, kind: str) -> bool:
    """Return True when the copy takes the file and the proof of equal content holds."""
    table = trial.tables[kind]
    with psycopg.connect(trial.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, v {kind})")
        try:
            sides = Sides(path, trial.conninfo, "public")
            copy_table(sides, RunLease("run", trial.epoch), table)
            (result,) = content.compare(sides, [table], workers=1)
            return result.outcome == "passed"
        except (WrongData, StepFailed, Refused):
            return False
        finally:
            connection.execute(f"DROP TABLE {table}")
            connection.execute("DELETE FROM cutover.copied; DELETE FROM cutover.chunk")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), kind=st.sampled_from(TYPES), declared=st.sampled_from(DECLARED))
def test_accepted_values_and_only_they_are_copied_and_proved(
    trial: Trial, tmp_path: Path, data: st.DataObject, kind: str, declared: str
) -> None:
    values = data.draw(st.lists(FITTING.get(kind, VALUES) | VALUES, min_size=1, max_size=3))
    table = trial.tables[kind]
    path = source_of(tmp_path / "s.db", f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, v {declared})")
    insert(path, table, list(enumerate(values, start=1)))
    found = assess(path, plan_of({table: None}), trial.target)
    assert copied_and_proved(trial, path, kind) == (not found.blocks), found.blocks


@pytest.mark.parametrize("name", [case.name for case in CASES if case.code is None or case.severity != "blocks"])
def test_valid_values_can_be_copied(measure: Target, trial: Trial, tmp_path: Path, name: str) -> None:
    case, kind = BY_NAME[name], BY_NAME[name].target.replace(", ", ",")
    if kind not in trial.tables:
        kind = "text"
    path = source_of(tmp_path / "s.db", f"CREATE TABLE {trial.tables[kind]} (id INTEGER PRIMARY KEY, v {case.declared})")
    insert(path, trial.tables[kind], list(enumerate(case.values, start=1)))
    assert copied_and_proved(trial, path, kind)
