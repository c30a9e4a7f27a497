"""Helpers for the tests of preflight: changes to a plan, and checks by name."""

from __future__ import annotations

from typing import Any

from include.cutover.checks import Check
from include.cutover.plan.model import Plan


def change(plan: Plan, **changes: Any) -> Plan:
    """Return the plan with other values, given as ``preflight__free_connections=3``."""
    data = plan.model_dump()
    for name, value in changes.items():
        *folders, key = name.split("__")
        place = data
        for folder in folders:
            place = place[folder]
        place[key] = value
    return Plan.model_validate(data)


def by_name(checks: list[Check]) -> dict[str, Check]:
    """Return the checks by their names, which differ."""
    names = {check.name: check for check in checks}
    assert len(names) == len(checks)
    return names


def bad(checks: list[Check]) -> dict[str, str]:
    """Return the findings of the checks that did not pass."""
    for check in checks:
        assert check.outcome == "passed" or check.do, f"{check.name} does not say what to do"
    return {check.name: check.found for check in checks if check.outcome != "passed"}
