"""Rows that are equal under a unique key of the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include.cutover.assessment.assess import assess
from tests.support.assessing import insert, only, plan_of, source_of, target_of, telling

KEY = "6f1ed002ab5595859014ebf0951522d9"
OTHER = "00000000000000000000000000000001"
SPELLED = "6F1ED002-AB55-9585-9014-EBF0951522D9"


@pytest.mark.parametrize(
    ("declared", "column", "key", "values", "keys"),
    [
        ("TEXT", "uuid", "v", [KEY, OTHER, SPELLED], "id=1 and id=3"),
        ("TEXT UNIQUE", "uuid", "v", [KEY, OTHER, SPELLED, "{" + SPELLED + "}"], "id=1 and id=3 and others"),
        ("TEXT UNIQUE", "text", "lower(v)", ["Ana@x", "ana@x", "ANI"], "id=1 and id=2"),
        ("TEXT UNIQUE", "text", "lower(v)", ["ÉCOLE", "école"], "id=1 and id=2"),
        ("TEXT UNIQUE", "text", "btrim(v)", ["a", "b", " a "], "id=1 and id=3"),
        ("TEXT", "text", "v", ["a", "b", "a"], "id=1 and id=3"),
        ("INTEGER", "integer", "v", [7, 8, 8], "id=2 and id=3"),
        ("TEXT UNIQUE", "timestamptz", "v", ["2025-10-10 08:00:00", "2025-10-10T12:00:00+04:00"], "id=1 and id=2"),
    ],
)
def test_rows_that_are_equal_under_a_unique_key_block(
    conninfo: str, tmp_path: Path, declared: str, column: str, key: str, values: list[Any], keys: str
) -> None:
    path = source_of(tmp_path / "s.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")
    insert(path, "t", list(enumerate(values, start=1)))
    target = target_of(
        conninfo, tmp_path, f"CREATE TABLE t (id int PRIMARY KEY, v {column})", f"CREATE UNIQUE INDEX one ON t ({key})"
    )
    found = telling(assess(path, plan_of({"t": None}), target), but=("table_stays_empty", "sequence_missing", "unique_key"))
    (finding,) = found
    assert (finding.code, finding.severity, finding.keys) == ("duplicate_key", "blocks", (keys,))
    assert finding.rows == len(keys.split(" and "))


@pytest.mark.parametrize(
    ("declared", "values", "index"),
    [
        ("TEXT COLLATE NOCASE UNIQUE", ["a", "b"], "CREATE UNIQUE INDEX one ON t (v)"),
        ("TEXT", [None, None, ""], "CREATE UNIQUE INDEX one ON t (v)"),
        ("TEXT", ["a", "a", "b"], "CREATE UNIQUE INDEX one ON t (v) WHERE v <> 'a'"),
        ("TEXT", ["A", "a", "a "], "CREATE UNIQUE INDEX one ON t (v)"),
    ],
)
def test_rows_that_stay_different_pass(conninfo: str, tmp_path: Path, declared: str, values: list[Any], index: str) -> None:
    path = source_of(tmp_path / "s.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")
    insert(path, "t", list(enumerate(values, start=1)))
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text)", index)
    assert not assess(path, plan_of({"t": None}), target).blocks


def test_nulls_that_the_target_treats_as_equal_block(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    insert(path, "t", [(1, None), (2, "a"), (3, None)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE NULLS NOT DISTINCT)")
    (finding,) = assess(path, plan_of({"t": None}), target).blocks
    assert (finding.code, finding.keys) == ("duplicate_key", ("id=1 and id=3",))


def test_a_composite_key_in_a_table_without_rowid_is_compared(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (a TEXT, b INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID")
    insert(path, "t", [(KEY, 1), (SPELLED, 1), (KEY, 2)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (a uuid, b int, PRIMARY KEY (a, b))")
    finding = only(assess(path, plan_of({"t": None}), target))
    assert (finding.code, finding.column, finding.rows) == ("duplicate_key", "a, b", 2)
    assert finding.keys == (f"a={SPELLED}, b=1 and a={KEY}, b=1",)


def test_a_key_that_sqlite_cannot_compare_is_named(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    insert(path, "t", [(1, "a"), (2, "b")])
    target = target_of(
        conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE UNIQUE INDEX one ON t (md5(v))"
    )
    found = assess(path, plan_of({"t": None}), target)
    assert [item.value for item in found.findings if item.code == "key_not_assessed"] == [
        "one: SQLite has no equivalent of md5"
    ]


@pytest.mark.parametrize("key", ["rtrim(v)", "ltrim(v)", "trim(leading from v)", "trim(trailing from v)"])
def test_a_key_on_text_trimmed_at_one_side_is_compared(conninfo: str, tmp_path: Path, key: str) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    right = "rtrim" in key or "trailing" in key
    insert(path, "t", [(1, "a"), (2, "a " if right else " a"), (3, " a" if right else "a ")])
    target = target_of(
        conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text)", f"CREATE UNIQUE INDEX one ON t ({key})"
    )
    (finding,) = assess(path, plan_of({"t": None}), target).blocks
    assert (finding.code, finding.keys) == ("duplicate_key", ("id=1 and id=2",))
