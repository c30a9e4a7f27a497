"""Findings: their codes are documented, content is shortened and masked, the lines fit into a plan."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from include.cutover.assessment.findings import CODES, Assessment, Finding, column_lines, cut, lines, ordered
from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan
from include.cutover.plan.tables import ColumnDecision


def test_every_code_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "assessment.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z0-9_]+)` \|", text, re.MULTILINE))
    assert documented == set(CODES)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short", "short"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("a\tb\0", "a\\x09b\\x00"),
        ("postgresql://u:hunter2@host/x", "postgresql://u:***@host/x"),
        ("გ" * 100, "გ" * 79 + "…"),
    ],
)
def test_content_is_cut_and_masked(text: str, shown: str) -> None:
    assert cut(text) == shown


def test_the_printed_lines_are_valid_in_a_plan() -> None:
    text = column_lines("Group By", "yes", {"boolean": {"yes": True, "2": False}}, "as meant")
    assert text.startswith("# as meant\n")
    decision: dict[str, Any] = yaml.safe_load(text)["tables"]["Group By"]["columns"]["yes"]
    assert ColumnDecision.model_validate(decision).boolean == {"yes": True, "2": False}
    ward_ops = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")
    merged = yaml.safe_load(ward_ops) | yaml.safe_load(lines({"ignored_tables": {"old": "why it is left behind"}}))
    assert parse_plan(yaml.safe_dump(merged), "it").ignored_tables == {"old": "why it is left behind"}


def test_blocking_findings_come_first() -> None:
    found = ordered(
        [
            Finding("infinity", "note", "a"),
            Finding("empty_text", "decision applied", "a"),
            Finding("not_uuid", "blocks", "b"),
        ]
    )
    assert [item.severity for item in found] == ["blocks", "decision applied", "note"]
    assessment = Assessment("p", "s.db", found, {"a": 2, "b": 3}, 1.0)
    assert [item.code for item in assessment.blocks] == ["not_uuid"] and assessment.rows == 5
