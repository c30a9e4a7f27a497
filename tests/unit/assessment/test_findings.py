"""Findings: their codes are documented, what they show is cut and masked, and their lines fit into a plan."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from include.cutover.assessment.findings import CODES, Assessment, Finding, column_lines, cut, lines, ordered
from include.cutover.assessment.objects import checks
from include.cutover.assessment.page import render_html
from include.cutover.assessment.values import json_fault, moment
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


def test_lines_are_a_part_of_a_plan() -> None:
    text = column_lines("Group By", "yes", {"boolean": {"yes": True, "2": False}}, "as meant")
    assert text.startswith("# as meant\n")
    decision: dict[str, Any] = yaml.safe_load(text)["tables"]["Group By"]["columns"]["yes"]
    assert ColumnDecision.model_validate(decision).boolean == {"yes": True, "2": False}
    ward_ops = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")
    merged = yaml.safe_load(ward_ops) | yaml.safe_load(lines({"ignored_tables": {"old": "why it is left behind"}}))
    assert parse_plan(yaml.safe_dump(merged), "it").ignored_tables == {"old": "why it is left behind"}


def test_what_blocks_comes_first() -> None:
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


def test_the_page_of_a_clean_source() -> None:
    plan = parse_plan((ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8"), "it")
    text = render_html(Assessment("ward_ops", "ward_ops.db", (), {"users": 3}, 0.5), plan)
    assert "The cutover may start" in text and "What blocks" not in text and "<code>users</code>" in text


@pytest.mark.parametrize(
    ("value", "meaning", "base", "text"),
    [
        (0, "unix", "timestamptz", "1970-01-01 00:00:00.000000"),
        (-1, "unix", "timestamptz", "1969-12-31 23:59:59.000000"),
        (1760083739.1234567, "unix", "timestamptz", "2025-10-10 08:08:59.123457"),
        ("1760083739.123456", "unix", "timestamptz", "2025-10-10 08:08:59.123456"),
        ("1760083739.1234567", "unix", "timestamptz", None),
        (1760083739123, "unix_ms", "timestamptz", "2025-10-10 08:08:59.123000"),
        (2440587.5, "julian", "timestamptz", "1970-01-01 00:00:00.000000"),
        (86400, "unix", "date", "1970-01-02"),
        (86401, "unix", "date", None),
        (10**15, "unix", "timestamptz", None),
        (float("inf"), "unix", "timestamptz", None),
    ],
)
def test_what_a_number_means(value: float | str, meaning: str, base: str, text: str | None) -> None:
    assert moment(value, meaning, base) == text


@pytest.mark.parametrize(
    ("text", "fault", "twice"),
    [
        ('{"a": 1}', "", False),
        ('[{"a": 1}, {"a": 1}]', "", False),
        ('{"a": {"b": 1, "b": 1}}', "", True),
        ('{"a": 1, "\\u0061": 2}', "", True),
        ("1e131071", "", False),
        ("1e131072", "a number in it is beyond numeric", False),
        ("1e-16384", "a number in it is beyond numeric", False),
        ("1e999999999999999999999", "a number in it is beyond numeric", False),
        ("[" * 100_000, "it is nested too deeply", False),
        ('"\\ud800"', "it holds half a surrogate pair", False),
        ("Infinity", "it is not valid JSON", False),
        ("", "it is not valid JSON", False),
    ],
)
def test_what_jsonb_takes(text: str, fault: str, twice: bool) -> None:
    assert json_fault(text) == (fault, twice)


@pytest.mark.parametrize(
    ("create", "found"),
    [
        ("CREATE TABLE t (a INTEGER)", []),
        ("CREATE TABLE t (a INTEGER CHECK (a > 0))", [("", "a > 0")]),
        (
            "CREATE TABLE t (a INTEGER CONSTRAINT \"up\" CHECK(\n a > (1 + 2) ), CHECK (a <> ')'))",
            [("up", "a > (1 + 2)"), ("", "a <> ')'")],
        ),
        ('CREATE TABLE "check" ("check" TEXT DEFAULT \'CHECK (1)\' /* CHECK (2) */) -- CHECK (3)', []),
        ("CREATE TABLE t (a CHECK (a IN ('x", [("", "a IN ('")]),
    ],
)
def test_checks_are_read_from_create_table(create: str, found: list[tuple[str, str]]) -> None:
    assert checks(create) == found
