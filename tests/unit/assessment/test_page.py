"""The page of an assessment."""

from __future__ import annotations

from include.cutover.assessment.findings import Assessment
from include.cutover.assessment.page import render_html
from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan


def test_the_page_of_a_clean_source_says_that_the_cutover_may_start() -> None:
    plan = parse_plan((ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8"), "it")
    text = render_html(Assessment("ward_ops", "ward_ops.db", (), {"users": 3}, 0.5), plan)
    assert "The cutover may start" in text and "Blocking" not in text and "<code>users</code>" in text
