"""The branch: missing evidence never means "go on"."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.cutover.decision import GO, NO_GO, Decision, decide

STEPS = ("check_target", "stop_services", "take_backup", "copy.users", "check_tables")


def begin(step: str) -> dict[str, Any]:
    return {"event": "step.begin", "step": step}


def end(step: str, outcome: str = "passed") -> dict[str, Any]:
    return {"event": "step.end", "step": step, "outcome": outcome, "summary": "as it is"}


def gate(answer: str = GO, by: str | None = "lead", *, automatic: bool = False) -> dict[str, Any]:
    return {"event": "gate", "gate": "go_no_go", "answer": answer, "by": by, "automatic": automatic}


def done(*steps: str) -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable((begin(step), end(step)) for step in steps))


def choose(events: list[dict[str, Any]]) -> Decision:
    return decide(events, required=STEPS, gates=("go_no_go",), entitled={"lead"})


def test_everything_passed_goes_on() -> None:
    assert choose([*done(*STEPS), gate()]).outcome == "go_on"


@pytest.mark.parametrize("missing", STEPS)
def test_one_missing_step_is_enough(missing: str) -> None:
    decision = choose([*done(*(step for step in STEPS if step != missing)), gate()])
    assert decision.outcome != "go_on"
    assert any(missing in reason for reason in decision.why)


def test_nothing_was_stopped_abandon() -> None:
    assert choose([begin("check_target"), end("check_target", "failed")]).outcome == "abandon"


def test_a_service_may_have_stopped_but_no_backup_release() -> None:
    assert choose([*done("check_target"), gate(), begin("stop_services")]).outcome == "release"


def test_a_verified_backup_rolls_back() -> None:
    events = [
        *done("check_target", "stop_services", "take_backup"),
        gate(),
        begin("copy.users"),
        end("copy.users", "failed"),
    ]
    decision = choose(events)
    assert decision.outcome == "rollback"
    assert decision.why[0] == "copy.users failed: as it is", "what failed stands before what therefore never ran"


def test_a_step_that_began_again_after_its_pass_has_not_passed() -> None:
    assert choose([*done(*STEPS), gate(), begin("check_tables")]).outcome == "rollback"


@pytest.mark.parametrize(
    "answer",
    [
        gate(NO_GO),
        gate(GO, by="observer"),
        gate(GO, by=None),
    ],
)
def test_only_a_go_by_the_lead_opens_a_gate(answer: dict[str, Any]) -> None:
    assert choose([*done(*STEPS), answer]).outcome != "go_on"


def test_a_later_no_go_takes_a_go_back() -> None:
    assert choose([*done(*STEPS), gate(), gate(NO_GO)]).outcome != "go_on"


def test_automatic_approval_needs_no_person() -> None:
    assert choose([*done(*STEPS), gate(by=None, automatic=True)]).outcome == "go_on"


@given(
    st.lists(
        st.sampled_from([event for step in STEPS for event in (begin(step), end(step), end(step, "failed"))]), max_size=30
    )
)
def test_go_on_never_without_a_pass_of_every_step(events: list[dict[str, Any]]) -> None:
    decision = choose([*events, gate()])
    newest = {event["step"]: event for event in events}
    complete = all(step in newest and newest[step].get("outcome") == "passed" for step in STEPS)
    assert (decision.outcome == "go_on") == complete
    if decision.outcome == "abandon":
        assert not any(event["event"] == "step.begin" and event["step"] == "stop_services" for event in events)
