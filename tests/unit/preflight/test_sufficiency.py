"""Checks that are enough to go on, and checks that are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from include.cutover.checks import Check
from include.cutover.preflight import sufficiency


def check(name: str, outcome: Any) -> Check:
    return Check(name, name, outcome)


@pytest.mark.parametrize(
    ("outcomes", "accepted", "expected"),
    [
        ({"a": "passed"}, (), "enough"),
        ({"a": "passed", "b": "unknown"}, (), "ask"),
        ({"a": "passed", "b": "unknown"}, ("b",), "enough"),
        ({"a": "unknown", "b": "unknown"}, ("b",), "ask"),
        ({"a": "failed", "b": "unknown"}, ("a", "b"), "stop"),
        ({}, (), "ask"),
    ],
)
def test_checks_are_judged_by_outcome_and_accepted_names(
    outcomes: Mapping[str, str], accepted: tuple[str, ...], expected: str
) -> None:
    checks = [check(name, outcome) for name, outcome in outcomes.items()]
    judged = sufficiency.judge(checks, accepted)
    assert judged.outcome == expected
    assert {item.name for item in judged.accepted} == {name for name in accepted if outcomes.get(name) == "unknown"}
    assert not {item.name for item in judged.open} & set(accepted)
