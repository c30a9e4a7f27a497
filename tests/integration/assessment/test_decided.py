"""The effect of the decisions on other rows, keys, references and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include.cutover.assessment.assess import assess
from include.cutover.assessment.decided import assess_decided
from include.cutover.assessment.findings import Assessment
from tests.support.assessing import insert, plan_of, source_of, target_of

BY_TEXT = ("CREATE TABLE p (id TEXT PRIMARY KEY)", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")


OF_P = ("CREATE TABLE p (id text PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, v text CONSTRAINT of_p REFERENCES p)")


STRIPPED = {"columns": {"v": {"strip_nul": True}}}


@pytest.mark.parametrize(
    ("unique", "made", "code", "says"),
    [
        ("", "text UNIQUE", "duplicate_key", "id=1 and id=2"),  # two texts become one
        ("UNIQUE", "text", "decision_fails", "would break a constraint of the source"),
        ("", "text CHECK (length(v) > 2)", "check_violated", "(length(v) > 2) is false (after the decisions)"),
    ],
)
def test_the_effect_of_a_decision_on_other_rows_and_checks_blocks(
    conninfo: str, tmp_path: Path, unique: str, made: str, code: str, says: str
) -> None:
    path = source_of(tmp_path / "s.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT {unique})")
    insert(path, "t", [(1, "ab"), (2, "ab\0"), (3, "abc")])
    target = target_of(conninfo, tmp_path, f"CREATE TABLE t (id int PRIMARY KEY, v {made})")
    plan = plan_of({"t": STRIPPED})
    assert not [item for item in assess(path, plan, target).blocks if item.code != "check_violated"]
    (finding,) = assess_decided(path, plan, target).blocks
    assert finding.code == code and finding.decide == ""
    assert says in f"{finding.keys}{finding.value}{finding.becomes}"


def test_references_are_followed_after_the_decisions(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", *BY_TEXT)
    insert(path, "p", [("x",)])
    insert(path, "t", [(1, "x\0"), (2, None)])
    plan, target = plan_of({"p": None, "t": STRIPPED}), target_of(conninfo, tmp_path, *OF_P)
    assert "orphans_not_assessed" in {item.code for item in assess(path, plan, target).findings}
    found = assess_decided(path, plan, target)
    assert not found.blocks and "orphans_not_assessed" not in {item.code for item in found.findings}
    insert(path, "t", [(3, "y\0")])
    (finding,) = assess_decided(path, plan, target).blocks
    assert finding.code == "decision_fails" and "t.of_p: rows would become orphans" in finding.value


def test_a_reference_set_to_null_that_others_depend_on_blocks(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE a (id INTEGER PRIMARY KEY, p INTEGER)",
        "CREATE TABLE b (id INTEGER PRIMARY KEY, a INTEGER)",
        "INSERT INTO a VALUES (1, 9)",
        "INSERT INTO b VALUES (1, 9)",
    )
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE p (id int PRIMARY KEY)",
        "CREATE TABLE a (id int PRIMARY KEY, p int UNIQUE CONSTRAINT of_p REFERENCES p)",
        "CREATE TABLE b (id int PRIMARY KEY, a int CONSTRAINT of_a REFERENCES a (p))",
    )
    decided = {"foreign_keys": {"of_p": {"orphans": "set_null"}}}
    (finding,) = assess_decided(path, plan_of({"p": None, "a": decided, "b": None}), target).blocks
    assert finding.code == "decision_fails" and "b.of_a: rows would become orphans" in finding.value


def test_decisions_are_not_tried_when_something_else_blocks(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w INTEGER)")
    insert(path, "t", [(1, "a\0", "x")])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text, w int)")
    plan = plan_of({"t": STRIPPED})
    assert assess_decided(path, plan, target).findings == assess(path, plan, target).findings
    assert [item.name for item in tmp_path.glob("s.db*")] == ["s.db"]


PAIR = ("CREATE TABLE p (k TEXT)", "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT, n INTEGER)")


PAIR_MADE = (
    "CREATE TABLE p (k text UNIQUE)",
    "CREATE TABLE t (id int PRIMARY KEY, k text CONSTRAINT of_p REFERENCES p (k),"
    " n int CONSTRAINT odd CHECK (n IS NOT NULL))",
)


def assessed_pair(
    conninfo: str, folder: Path, p: list[Any], t: list[Any], settings: dict[str, Any], *, tried: bool = True
) -> Assessment:
    path = source_of(folder / "s.db", *PAIR)
    insert(path, "p", p)
    insert(path, "t", t)
    target = target_of(conninfo, folder, *PAIR_MADE)
    return (assess_decided if tried else assess)(path, plan_of(settings), target)


def test_rows_that_a_decision_makes_equal_block(conninfo: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p": {"columns": {"k": {"strip_nul": True}}}, "t": None}
    arguments = (conninfo, tmp_path, [("a",), ("a\0",)], [(1, "a", 1)], settings)
    (finding,) = assessed_pair(*arguments).blocks
    assert (finding.code, finding.table, finding.column) == ("duplicate_key", "p", "k")
    assert finding.becomes.endswith("(after the decisions)")
    found = assessed_pair(*arguments, tried=False)
    assert not found.blocks  # as the source stands they are two


def test_references_that_a_decision_breaks_or_mends_are_followed(conninfo: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p": {"columns": {"k": {"strip_nul": True}}}, "t": None}
    broken = assessed_pair(conninfo, tmp_path, [("a\0",)], [(1, "a\0", 1)], {**settings, "p": None, "t": settings["p"]})
    assert {(item.code, item.table) for item in broken.blocks} == {("nul_in_text", "p")}
    mended = assessed_pair(conninfo, tmp_path, [("a\0",)], [(1, "a", 1)], settings)
    assert not mended.blocks and "orphans_not_assessed" not in {item.code for item in mended.findings}
    (lost,) = assessed_pair(conninfo, tmp_path, [("a\0",)], [(1, "b", 1)], settings).blocks
    assert (lost.code, lost.table, lost.column) == ("decision_fails", "t", "")
    assert "become orphans" in lost.becomes and "id=1" in lost.becomes and lost.value.startswith("t.of_p: ")


def test_a_decision_that_touches_no_row_does_not_hide_orphans(conninfo: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p": {"columns": {"k": {"strip_nul": True}}}, "t": None}
    (finding,) = assessed_pair(conninfo, tmp_path, [("a",)], [(1, "b", 1)], settings).blocks
    assert (finding.code, finding.table, finding.rows, finding.keys) == ("orphans", "t", 1, ("id=1",))


def test_a_check_that_a_decision_violates_blocks(conninfo: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p": None, "t": {"columns": {"n": {"empty_as_null": True}}}}
    (finding,) = assessed_pair(conninfo, tmp_path, [], [(1, None, 1), (2, None, "")], settings).blocks
    assert (finding.code, finding.value, finding.keys) == ("check_violated", "odd", ("id=2",))
    assert not assessed_pair(conninfo, tmp_path, [], [(1, None, 1), (2, None, "")], settings, tried=False).blocks


def test_a_decision_about_rows_without_identity_fails(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", 'CREATE TABLE t (rowid TEXT, _rowid_ TEXT, "oid" TEXT)')
    insert(path, "t", [("a", "b\0", "c")])
    target = target_of(conninfo, tmp_path, 'CREATE TABLE t (rowid text, _rowid_ text, "oid" text)')
    plan = plan_of({"t": {"columns": {"_rowid_": {"strip_nul": True}}}})
    (finding,) = assess_decided(path, plan, target).blocks
    assert (finding.code, finding.table) == ("decision_fails", "t") and "cannot be identified" in finding.becomes
