"""The assessment of a whole source: misfits of the plan, the result, documented gaps."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from include.cutover.assessment.assess import assess
from include.cutover.assessment.findings import Assessment
from include.cutover.assessment.tables import RowsRead
from include.cutover.errors import CannotCheck
from tests.support.assessing import insert, plan_of, source_of, target_of


@pytest.mark.parametrize(
    ("made", "later"),
    [
        ("w int GENERATED ALWAYS AS (10 / v) STORED", "SELECT 1"),
        ("w int", "CREATE INDEX ON t ((10 / v))"),
        ("w int", "ALTER TABLE t ADD FOREIGN KEY (v, w) REFERENCES p (a, b) MATCH FULL"),
    ],
)
def test_the_documented_gaps_are_real(conninfo: str, tmp_path: Path, made: str, later: str) -> None:
    """It passes here, and PostgreSQL refuses it: what is listed as beyond the assessment is, and is worth to be listed."""
    own = "" if "GENERATED" in made else ", w INTEGER"
    source_tables = f"CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER{own})", "CREATE TABLE p (a INTEGER, b INTEGER)"
    path = source_of(tmp_path / "s.db", *source_tables, "INSERT INTO t (id, v) VALUES (1, 0)")
    parts = (f"CREATE TABLE t (id int PRIMARY KEY, v int, {made})", "CREATE TABLE p (a int, b int, UNIQUE (a, b))")
    target = target_of(conninfo, tmp_path, *parts, later)
    assert not assess(path, plan_of({"t": None, "p": None}), target).blocks
    with psycopg.connect(conninfo) as connection, connection.transaction(force_rollback=True):
        for part in parts:
            connection.execute(part.encode())
        with pytest.raises((psycopg.errors.DivisionByZero, psycopg.errors.ForeignKeyViolation)):
            connection.execute("INSERT INTO t (id, v) VALUES (1, 0)")
            connection.execute(later.encode())


def test_decisions_that_cannot_be_carried_out_block(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, d DATETIME)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text, d timestamptz)")
    columns = {"v": {"empty_as_null": True}, "x": {"strip_nul": True}, "d": {"datetime": "unix"}}
    plan = plan_of({"t": {"columns": columns, "foreign_keys": {"none": {"orphans": "quarantine"}}}})
    found = assess(path, plan, target)
    misfits = [item.value for item in found.blocks]
    assert [value.partition(":")[0] for value in misfits] == [
        "tables.t.columns.v.empty_as_null",
        "tables.t.columns.x",
        "tables.t.foreign_keys.none",
    ]
    assert [
        (item.column, item.value) for item in found.findings if item.code == "decision_unused" and item.column == "d"
    ] == [("d", "datetime")]


def test_decisions_about_missing_tables_and_columns_are_found(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w TEXT AS (upper(v)) STORED)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text, w text, new text)")
    columns = {"w": {"strip_nul": True}, "new": {"strip_nul": True}}
    ignored = {"t": "it is copied all the same", "gone": "dropped last year"}
    plan = plan_of({"t": {"columns": columns}}, ignored_tables=ignored, source_objects={"nobody": "a view of old"})
    found = assess(path, plan, target)
    assert [item.value for item in found.blocks if item.code == "decision_misfit"] == [
        "ignored_tables.t: it is also under tables",
        "tables.t.columns.new: the source has no such column",
        "tables.t.columns.w: computed by the source",
    ]
    unused = [item.value for item in found.findings if item.code == "decision_unused"]
    assert "ignored_tables.gone: the source has no such table" in unused
    assert "source_objects.nobody: the source has no such object" in unused


def test_a_plan_for_another_application_is_refused(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE songs (id INTEGER)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int)")
    with pytest.raises(CannotCheck, match=r"the plan is for another application.*songs"):
        assess(path, plan_of({"t": None}), target)
    with pytest.raises(CannotCheck, match="has no tables"):
        assess(source_of(tmp_path / "e.db", "PRAGMA user_version = 1"), plan_of({"t": None}), target)


def test_the_result_survives_json_and_progress_is_reported(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)")
    insert(path, "t", [(number, "x" if number % 1000 == 0 else number) for number in range(1, 5001)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v int)")
    told: list[RowsRead] = []
    found = assess(path, plan_of({"t": None}), target, name="shop.db", on_progress=told.append)
    assert Assessment.from_json(found.to_json()) == found
    assert (found.source, found.rows, found.blocks[0].rows) == ("shop.db", 5000, 5)
    assert found.blocks[0].keys == ("id=1000", "id=2000", "id=3000", "id=4000", "id=5000")
    assert told[-1] == RowsRead("t", 5000) and len(told) > 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "findings": [{"code": "x"}]}'])
def test_json_that_is_not_an_assessment_is_refused(text: str) -> None:
    with pytest.raises(CannotCheck):
        Assessment.from_json(text)
