"""The plan as a whole: valid, frozen, and the same after it was stored."""

from __future__ import annotations

import pydantic
import pytest
import yaml

from include.cutover.plan.file import parse_plan
from include.cutover.plan.model import Plan
from tests.support.plans import WARD_OPS, faults_of


def test_the_plan_of_ward_ops_is_valid_and_complete() -> None:
    plan = parse_plan(WARD_OPS, "ward_ops.yaml", {})
    assert len(plan.tables) == 25
    assert [service.name for service in plan.services] == ["api", "worker", "beat"]
    assert plan.window.minutes == 60
    assert not plan.gates.allow_auto_approval


def test_a_smoke_test_of_an_unknown_table_is_a_fault() -> None:
    data = yaml.safe_load(WARD_OPS)
    data["smoke_tests"]["write"]["table"] = "pings"
    assert any("pings is not among the plan's tables" in fault for fault in faults_of(yaml.safe_dump(data)))


def test_a_plan_is_frozen() -> None:
    plan = parse_plan(WARD_OPS, "a.yaml", {})
    with pytest.raises(pydantic.ValidationError):
        plan.name = "other"  # type: ignore[misc]


def test_the_frozen_plan_reads_back_equal() -> None:
    plan = parse_plan(WARD_OPS, "a.yaml", {})
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
