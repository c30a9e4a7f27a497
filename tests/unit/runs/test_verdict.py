"""The branch: missing evidence never means "go on"."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.cutover.runs import runbook
from include.cutover.runs.verdict import GO, NO_GO, Decision, course, decide, has_passed, passed_in_turn
from include.cutover.steps.close_run import outcome_of

ROLLED_BACK, RELEASED = runbook.completing("rollback"), runbook.completing("release")
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


# --- where the run goes -------------------------------------------------------------------------------------------------


def numbered(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"seq": number, **event} for number, event in enumerate(events)]


def decided(outcome: str, at: str = "decide") -> dict[str, Any]:
    return {"event": "decision", "at": at, "outcome": outcome, "why": ["a test"]}


ASKED = {"event": "rollback.asked"}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], "forward"),
        ([decided("go_on")], "go_live"),
        ([decided("go_on"), begin("switch_configuration")], "switching"),
        ([decided("go_on"), begin("switch_configuration"), decided("go_on", "decide_live")], "live"),
        ([decided("go_on", "decide_live"), decided("go_on")], "live"),
        ([decided("abandon")], "abandon"),
        ([decided("release"), decided("release", "decide_live")], "release"),
        ([decided("rollback"), decided("go_on")], "rollback"),
        ([decided("go_on"), decided("rollback", "decide_live")], "rollback"),
        ([decided("go_on", "decide_live"), ASKED], "rollback"),
        ([decided("go_on", "decide_live"), {"event": "reopened"}], "rollback"),
        ([begin("rollback.stop_services")], "rollback"),
    ],
)
def test_the_decisions_say_where_a_run_goes_and_a_way_back_is_final(events: list[dict[str, Any]], expected: str) -> None:
    assert course(events) == expected


def test_a_try_that_was_refused_before_it_began_takes_nothing_back() -> None:
    events = [*done("copy.users"), end("copy.users", "refused")]
    assert has_passed(events, "copy.users")
    assert not has_passed([*events, begin("copy.users"), end("copy.users", "refused")], "copy.users")
    assert not has_passed([end("copy.users", "refused")], "copy.users")


def test_a_step_that_ran_again_leaves_those_behind_it_to_be_done_again() -> None:
    steps = ("stop", "restore", "start")
    events = done(*steps)
    assert passed_in_turn(numbered(*events), steps)
    assert not passed_in_turn(numbered(*events, *done("stop")), steps)
    assert passed_in_turn(numbered(*events, *done("stop", "restore", "start")), steps)
    assert not passed_in_turn(numbered(*events, begin("start")), steps)
    assert passed_in_turn([], ())


def test_a_proof_is_none_for_what_was_written_after_it_began() -> None:
    later = {"check_tables": ["copy.users"]}

    def chosen(*events: dict[str, Any]) -> Decision:
        return decide(numbered(*events, gate()), required=STEPS, gates=("go_no_go",), entitled={"lead"}, later=later)

    assert chosen(*done(*STEPS)).outcome == "go_on"
    again = chosen(*done(*STEPS), *done("copy.users"))
    assert again.outcome == "rollback"
    assert again.why == ("check_tables passed before copy.users ran again",)
    assert chosen(*done(*STEPS), *done("copy.users", "check_tables")).outcome == "go_on"


@pytest.mark.parametrize("touching", ["stop_services", "fence_source"])
def test_what_touched_the_application_is_never_just_abandoned(touching: str) -> None:
    """A task before it may have been marked as success, so that only the fence was raised."""
    assert choose([begin(touching)]).outcome == "release"


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (done(*ROLLED_BACK), "rolled_back"),
        ([*done(*ROLLED_BACK), *done("rollback.stop_services")], "failed"),
        ([*done(*ROLLED_BACK[:-1]), begin(ROLLED_BACK[-1])], "failed"),
        ([*done(*ROLLED_BACK[:3], *ROLLED_BACK[4:])], "failed"),
        ([decided("release"), *done(*RELEASED)], "released"),
        ([decided("release"), *done(*RELEASED), *done("release.lift_fence")], "failed"),
        ([*done("stop_services"), decided("go_on"), decided("go_on", "decide_live")], "live"),
        ([*done("stop_services"), decided("go_on", "decide_live"), decided("go_on")], "live"),
        ([*done("stop_services"), decided("go_on")], "failed"),
        ([*done("stop_services"), decided("go_on", "decide_live"), ASKED], "failed"),
        (done("fence_source"), "failed"),
        ([*done("apply_ddl"), decided("abandon")], "abandoned"),
        ([end("rollback.stop_services", "refused")], "abandoned"),
        ([], "abandoned"),
    ],
)
def test_how_a_run_ended_is_read_from_what_passed_in_turn(events: list[dict[str, Any]], expected: str) -> None:
    assert outcome_of(numbered(*events)) == expected
