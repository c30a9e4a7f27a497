"""Shared by the tests of the plan: the plan of Ward OPS, changed, and the faults of a text."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from include.cutover.errors import PlanInvalid
from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan

WARD_OPS = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")


def changed(**changes: Any) -> str:
    """The plan of Ward OPS with top-level keys replaced; None takes a key away."""
    data = yaml.safe_load(WARD_OPS)
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    return str(yaml.safe_dump(data, allow_unicode=True))


def faults_of(text: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(text, "a.yaml", environment or {})
    return caught.value.faults
