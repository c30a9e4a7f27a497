"""A plan, and a run whose events a test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.cutover.plan.file import parse_plan
from include.cutover.plan.model import Plan
from tests.support.recorded_runs import Run


@pytest.fixture(scope="module")
def plan() -> Plan:
    text = (Path(__file__).parents[3] / "include/plans/ward_ops.yaml").read_text(encoding="utf-8")
    return parse_plan(text, where="ward_ops.yaml", environment={})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "ward_ops" / "manual__2026-03-01")
