"""Orphans: found through the foreign keys of the target, and after the decisions of the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.cutover.assessment.assess import assess
from include.cutover.assessment.findings import Assessment
from include.cutover.decisions.apply import apply_decisions
from include.cutover.plan.model import Plan
from include.cutover.target.schema import planned_schema
from tests.support.assessing import insert, plan_of, source_of, sql_folder, target_of

KEY = "6f1ed002ab5595859014ebf0951522d9"
OTHER = "00000000000000000000000000000001"
SPELLED = "6F1ED002-AB55-9585-9014-EBF0951522D9"


PARENTS = (
    "CREATE TABLE device (id UUID PRIMARY KEY)",
    "CREATE TABLE item (id INTEGER PRIMARY KEY, device_id VARCHAR(36))",
    "CREATE TABLE reading (id INTEGER PRIMARY KEY, item_id INTEGER)",
)


CHILDREN = (
    "CREATE TABLE device (id uuid PRIMARY KEY)",
    "CREATE TABLE item (id int PRIMARY KEY, device_id uuid CONSTRAINT of_device REFERENCES device)",
    "CREATE TABLE reading (id int PRIMARY KEY, item_id int CONSTRAINT of_item REFERENCES item)",
)


@pytest.fixture
def referring(conninfo: str, tmp_path: Path) -> Callable[..., tuple[Assessment, Plan, Path]]:
    """Three tables in a row: item 2 has no device, readings 3 and 4 are of item 2, reading 5 of none."""

    def assessed(device: Any = None, item: Any = None, reading: Any = None) -> tuple[Assessment, Plan, Path]:
        path = source_of(tmp_path / "s.db", *PARENTS)
        insert(path, "device", [(KEY,)])
        insert(path, "item", [(1, SPELLED), (2, OTHER), (6, None)])
        insert(path, "reading", [(1, 1), (3, 2), (4, 2), (5, 99), (6, None)])
        plan = plan_of({"device": device, "item": item, "reading": reading})
        return assess(path, plan, target_of(conninfo, tmp_path, *CHILDREN)), plan, path

    return assessed


def keys_of(found: Assessment) -> set[tuple[str, str, str, int, tuple[str, ...]]]:
    return {
        (item.table, item.code, item.severity, item.rows, item.keys)
        for item in found.findings
        if item.code.startswith("orphans")
    }


def test_orphans_block_and_name_the_rows_that_would_follow(referring: Callable[..., tuple[Assessment, Plan, Path]]) -> None:
    found, _, _ = referring()
    assert keys_of(found) == {
        ("item", "orphans", "blocks", 1, ("id=2",)),
        ("reading", "orphans", "blocks", 1, ("id=5",)),
        ("reading", "orphans_that_follow", "note", 2, ("id=3", "id=4")),
    }
    (item,) = [finding for finding in found.blocks if finding.table == "item"]
    assert item.value == "of_device → device"
    assert item.decide.splitlines() == [
        "# quarantine, or set_null",
        "tables:",
        "  item:",
        "    foreign_keys:",
        "      of_device:",
        "        orphans: quarantine",
        "        at_most: 1",
    ]


def quarantine(name: str, at_most: int = 10, orphans: str = "quarantine") -> dict[str, Any]:
    return {"foreign_keys": {name: {"orphans": orphans, "at_most": at_most}}}


def test_orphans_in_quarantine_take_their_children_with_them(
    referring: Callable[..., tuple[Assessment, Plan, Path]],
) -> None:
    found, _, _ = referring(item=quarantine("of_device"), reading=quarantine("of_item"))
    assert keys_of(found) == {
        ("item", "orphans", "decision applied", 1, ("id=2",)),
        ("reading", "orphans", "decision applied", 1, ("id=5",)),
        ("reading", "orphans_that_follow", "decision applied", 2, ("id=3", "id=4")),
    }
    assert not found.blocks


def test_children_of_rows_in_quarantine_block_without_a_decision(
    referring: Callable[..., tuple[Assessment, Plan, Path]],
) -> None:
    found, _, _ = referring(item=quarantine("of_device"))
    assert ("reading", "orphans_that_follow", "blocks", 2, ("id=3", "id=4")) in keys_of(found)


def test_set_null_keeps_the_children(referring: Callable[..., tuple[Assessment, Plan, Path]]) -> None:
    found, _, _ = referring(item=quarantine("of_device", orphans="set_null"), reading=quarantine("of_item"))
    assert keys_of(found) == {
        ("item", "orphans", "decision applied", 1, ("id=2",)),
        ("reading", "orphans", "decision applied", 1, ("id=5",)),
    }


def test_more_orphans_than_at_most_block(referring: Callable[..., tuple[Assessment, Plan, Path]]) -> None:
    found, _, _ = referring(item=quarantine("of_device"), reading=quarantine("of_item", at_most=2))
    blocks = {item.code: item for item in found.blocks}
    assert set(blocks) == {"orphans", "orphans_that_follow"}
    assert "allows 2" in blocks["orphans"].becomes and "there are 3" in blocks["orphans"].becomes
    assert "at_most: 3" in blocks["orphans"].decide


@pytest.mark.parametrize("orphans", ["quarantine", "set_null"])
def test_the_assessed_decisions_are_those_that_are_carried_out(
    referring: Callable[..., tuple[Assessment, Plan, Path]], conninfo: str, tmp_path: Path, orphans: str
) -> None:
    found, plan, path = referring(item=quarantine("of_device", orphans=orphans), reading=quarantine("of_item"))
    planned = planned_schema(conninfo, sql_folder(tmp_path / "again", *CHILDREN))
    made = apply_decisions(path, tmp_path / "decided" / "s.db", plan, planned)
    rows = {
        table: sum(item.rows for item in found.findings if item.table == table and item.code.startswith("orphans"))
        for table in ("item", "reading")
    }
    assert made.foreign_keys == {"item.of_device": rows["item"], "reading.of_item": rows["reading"]}
    undecided = plan_of({"device": None, "item": None, "reading": None})
    assert not assess(made.file, undecided, target_of(conninfo, tmp_path, *CHILDREN)).blocks


def test_a_reference_that_may_not_be_null_cannot_be_set_to_null(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db",
        "CREATE TABLE a (id INTEGER PRIMARY KEY)",
        "CREATE TABLE b (id INTEGER PRIMARY KEY, a_id INTEGER NOT NULL)",
        "INSERT INTO b VALUES (1, 1)",
    )
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY, a_id int CONSTRAINT of_a REFERENCES a)",
    )
    found = assess(path, plan_of({"a": None, "b": quarantine("of_a", orphans="set_null")}), target)
    assert [(item.code, item.becomes) for item in found.blocks] == [
        ("orphans", "nothing: the reference is NOT NULL, in the source or in the target")
    ]


def test_a_table_that_refers_to_itself_is_followed(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE n (id INTEGER PRIMARY KEY, up INTEGER)")
    insert(path, "n", [(1, None), (2, 1), (3, 99), (4, 3), (5, 4)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE n (id int PRIMARY KEY, up int CONSTRAINT above REFERENCES n)")
    found = assess(path, plan_of({"n": quarantine("above")}), target)
    assert keys_of(found) == {
        ("n", "orphans", "decision applied", 1, ("id=3",)),
        ("n", "orphans_that_follow", "decision applied", 2, ("id=4", "id=5")),
    }
