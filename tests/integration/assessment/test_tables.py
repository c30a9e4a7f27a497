"""One table: its CHECKs, its columns, the lengths of its index entries."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from include.cutover.assessment.assess import assess
from tests.support.assessing import insert, only, plan_of, source_of, target_of, telling

KEY = "6f1ed002ab5595859014ebf0951522d9"
OTHER = "00000000000000000000000000000001"
SPELLED = "6F1ED002-AB55-9585-9014-EBF0951522D9"


def test_null_in_a_primary_key_blocks(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id TEXT PRIMARY KEY)", "INSERT INTO t VALUES ('a'), (NULL), (NULL)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id text PRIMARY KEY)")
    finding = only(assess(path, plan_of({"t": None}), target))
    assert (finding.code, finding.severity, finding.rows) == ("null_in_not_null", "blocks", 2)
    assert finding.keys == ("rowid=2", "rowid=3")


def test_rows_that_violate_a_check_of_the_target_block(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, role TEXT, low INTEGER, high INTEGER)")
    insert(path, "t", [(1, "ADMIN", 1, 2), (2, "GUEST", 1, 2), (3, None, 3, 2), (4, "VIEWER", None, 2)])
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE t (id int PRIMARY KEY, role varchar(10) CONSTRAINT known CHECK (role IN ('ADMIN', 'VIEWER')),"
        " low int, high int, CONSTRAINT ordered CHECK (low <= high))",
    )
    blocks = assess(path, plan_of({"t": None}), target).blocks
    assert {(item.value, item.column, item.rows, item.keys) for item in blocks} == {
        ("known", "role", 1, ("id=2",)),
        ("ordered", "high, low", 1, ("id=3",)),
    }


def test_arithmetic_that_overflows_in_the_target_breaks_the_check(conninfo: str, tmp_path: Path) -> None:
    """SQLite's abs() fails for the least integer; PostgreSQL's integers end where their type does."""
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, big INTEGER, small INTEGER)")
    insert(path, "t", [(1, -(2**63), 1), (2, 5, -32768), (3, 5, 20_000), (4, 5, 0), (5, -5, 7), (6, None, None)])
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE t (id int PRIMARY KEY, big bigint CONSTRAINT a CHECK (abs(big) > 0),"
        " small smallint CONSTRAINT b CHECK (abs(small) >= 0) CONSTRAINT c CHECK (small * small >= 0)"
        " CONSTRAINT d CHECK (1000 % small >= 0))",
    )
    blocks = assess(path, plan_of({"t": None}), target).blocks
    assert {(item.value, item.keys) for item in blocks} == {
        ("a", ("id=1",)),
        ("b", ("id=2",)),
        ("c", ("id=2", "id=3")),
        ("d", ("id=4",)),
    }
    with psycopg.connect(conninfo) as connection:
        for small in ("abs((-32768)::smallint)", "20000::smallint * 20000::smallint", "1000 % 0::smallint"):
            with pytest.raises(psycopg.DataError), connection.transaction():
                connection.execute(f"SELECT {small}")


def test_a_check_that_sqlite_cannot_try_is_named(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text CONSTRAINT form CHECK (v ~ '^a'))")
    (finding,) = [item for item in assess(path, plan_of({"t": None}), target).findings if item.code == "check_not_assessed"]
    assert finding.severity == "note" and finding.value.startswith("form: (v ~ '^a'::text)")


def test_constraints_that_only_the_copy_verifies_are_named(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w TEXT, d TEXT, n INTEGER)",
        "CREATE TABLE u (id INTEGER PRIMARY KEY, w TEXT)",
    )
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE DOMAIN low AS text CONSTRAINT is_low CHECK (VALUE < 'm')",
        "CREATE DOMAIN lower_still AS low",
        "CREATE TABLE t (id int, v text CONSTRAINT alike CHECK (v LIKE 'a%') CONSTRAINT by_order CHECK (v < 'b')"
        " CONSTRAINT called CHECK (md5(v) <> 'x'), w text, d lower_still, n int) PARTITION BY LIST (id)",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE u (id int, w text, CONSTRAINT apart EXCLUDE USING btree (w WITH =))",
    )
    found = assess(path, plan_of({"t": None, "u": None}), target).findings
    assert {item.value.partition(":")[0] for item in found if item.code == "check_not_assessed"} == {
        "alike",
        "apart",
        "by_order",
        "called",
        "is_low",
        "partitions",
    }


def test_text_that_may_be_too_long_for_an_index_is_noted(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w TEXT)")
    insert(path, "t", [(1, "x" * 2700, "x" * 9000), (2, "გ" * 1000, "")])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text, w text)", "CREATE INDEX ON t (v)")
    (finding,) = telling(assess(path, plan_of({"t": None}), target), but=("sequence_missing",))
    assert (finding.code, finding.severity, finding.where, finding.keys) == ("long_in_index", "note", "t.v", ("id=2",))
    assert finding.value == "text of up to 1,000 characters"


def test_values_that_together_may_be_too_long_for_an_index_are_noted(conninfo: str, tmp_path: Path) -> None:
    columns = "a {}, b {}, c {}, d {}, e {}"
    path = source_of(tmp_path / "s.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, {columns.replace('{}', '')})")
    long, few = "x" * 1400, "y" * 20
    insert(path, "t", [(1, long, long, few, b"z" * 2701, long * 2), (2, "", few, few, b"", "")])
    target = target_of(
        conninfo,
        tmp_path,
        f"CREATE TABLE t (id int PRIMARY KEY, {columns.format('text', 'text', 'varchar(20)', 'bytea', 'text')})",
        "CREATE UNIQUE INDEX ON t (a, b, c)",
        "CREATE INDEX ON t (d)",
        "CREATE INDEX ON t (lower(e))",
    )
    found = telling(assess(path, plan_of({"t": None}), target), but=("sequence_missing",))
    assert [(item.code, item.column, item.value) for item in found] == [
        ("long_in_index", "a", "text of up to 1,400 characters"),
        ("long_in_index", "b", "text of up to 1,400 characters"),
        ("long_in_index", "d", "blob of up to 2,701 bytes"),
        ("long_in_index", "e", "text of up to 2,800 characters"),
    ]


def test_a_domain_is_treated_as_its_base_type(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, d TEXT, u TEXT UNIQUE, n REAL)")
    insert(path, "t", [(1, "2025-10-10T08:08:59.12345Z", KEY, 1e15), (2, "no", SPELLED, 0.5)])
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE DOMAIN at AS timestamptz NOT NULL",
        "CREATE DOMAIN key AS uuid",
        "CREATE DOMAIN amount AS numeric CONSTRAINT much CHECK (VALUE > 1)",
        "CREATE TABLE t (id int PRIMARY KEY, d at, u key UNIQUE, n amount)",
    )
    found = telling(assess(path, plan_of({"t": None}), target), but=("sequence_missing",))
    assert {(item.code, item.where) for item in found} == {
        ("not_a_datetime", "t.d"),
        ("duplicate_key", "t.u"),
        ("check_not_assessed", "t"),
    }


def test_a_type_that_cannot_hold_the_values_blocks(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v inet)")
    (finding,) = assess(path, plan_of({"t": None}), target).blocks
    assert (finding.code, finding.where, finding.value) == ("type_without_way", "t.v", "inet")


def test_keys_outside_the_targets_range_block(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (2147483648)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)")
    finding = only(assess(path, plan_of({"t": None}), target))
    assert (finding.code, finding.severity, finding.keys) == ("key_out_of_range", "blocks", ("id=2147483648",))


def test_no_decision_changes_the_key_of_a_table_without_rowid(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID")
    insert(path, "t", [("a\0b", "a\0b")])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id text PRIMARY KEY, v text)")
    plan = plan_of({"t": {"columns": {"id": {"strip_nul": True}, "v": {"strip_nul": True}}}})
    (finding,) = assess(path, plan, target).blocks
    assert (finding.where, finding.code) == ("t.id", "nul_in_text") and "WITHOUT ROWID" in finding.becomes


def test_no_decision_makes_integers_of_reals(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v REAL)")
    insert(path, "t", [(1, 1)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v boolean)")
    (finding,) = assess(path, plan_of({"t": {"columns": {"v": {"boolean": {"1.0": True}}}}}), target).blocks
    assert finding.code == "not_boolean" and "declared REAL" in finding.becomes
