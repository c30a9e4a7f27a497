"""The right to start, decide and edit: one check and one text."""

from __future__ import annotations

import pytest

from include.cutover.errors import Refused
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import deciders


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan("ward_ops")


def test_lead_and_deputies_decide(plan: Plan) -> None:
    assert deciders.entitled(plan) == {person.user for person in (plan.people.lead, *plan.people.deputies)}
    assert deciders.require_decider(plan, plan.people.lead.user, "start a cutover") == plan.people.lead.user


@pytest.mark.parametrize("actor", ["observer", "communicator", "", None])
def test_anyone_else_is_refused_and_reads_who_may(plan: Plan, actor: str | None) -> None:
    with pytest.raises(Refused, match="only the lead or a deputy may start a cutover") as refused:
        deciders.require_decider(plan, actor, "start a cutover")
    assert plan.people.lead.user in refused.value.expected and refused.value.found == (actor or "an unknown user")


def test_the_communicator_edits_notices_and_decides_nothing(plan: Plan) -> None:
    user = plan.people.communicator.user
    assert deciders.require_editor(plan, user, "edit and release notices") == user
    with pytest.raises(Refused, match="only the communicator, the lead or a deputy may edit and release notices"):
        deciders.require_editor(plan, plan.people.observer.user, "edit and release notices")


def test_automatic_approval_needs_the_plans_permission(plan: Plan) -> None:
    for allowed in (True, False):
        gates = plan.gates.model_copy(update={"allow_auto_approval": allowed})
        changed = plan.model_copy(update={"gates": gates})
        if allowed:
            deciders.require_auto_approval(changed)
            continue
        with pytest.raises(Refused, match=r"gates\.allow_auto_approval.*does not allow automatic approval"):
            deciders.require_auto_approval(changed)
