"""The text that a person reads before they answer a gate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from airflow.sdk.exceptions import AirflowFailException

from include.cutover.people.identities import Identities
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs.clock import Clock, Measured
from include.cutover.steps.gate_briefing import briefing, open_questions, patience
from include.cutover.tasks.gates import respondents

CHECK = {"name": "target_free_disk", "title": "Free disk", "outcome": "unknown", "expected": "4 GB", "found": "not visible",
         "do": "Look at the server.", "where": ""}  # fmt: skip
OPENED = {"event": "run.opened", "actor": "lead", "reason": "OPS-1", "window_end": "2026-11-23T13:00:00+00:00"}


def end(step: str, **fields: Any) -> dict[str, Any]:
    return {"event": "step.end", "step": step, "outcome": "passed", "summary": "a | b", **fields}


def test_briefing_shows_results_open_questions_and_the_time_to_answer() -> None:
    events = [
        OPENED,
        end("check_target", checks=[CHECK]),
        end("copy.users", figures={"rows": 3}),
        end("copy.branches", figures={"rows": 128}),
    ]
    text = briefing(events, load_plan("ward_ops"))
    assert "ends at 2026-11-23 13:00 UTC" in text
    assert "| check_target | passed | a \\| b |" in text
    assert "| copy | passed | 131 rows in 25 tables |" in text and "copy.users" not in text
    assert "- Free disk: not visible Look at the server." in text
    assert "15 minutes means no-go" in text


def test_briefing_shows_warnings() -> None:
    events = [OPENED, end("take_backup", warnings=["both copies | on one device"]), end("decide", warnings=["no Redis"])]
    text = briefing(events, load_plan("ward_ops"))
    assert "**Warnings; a go accepts them:**" in text
    assert "- both copies \\| on one device\n- no Redis" in text
    assert "Warnings" not in briefing([OPENED, end("take_backup", warnings=[])], load_plan("ward_ops"))


def test_check_that_passed_later_is_no_open_question() -> None:
    plan = load_plan("ward_ops")
    events = [OPENED, end("check_target", checks=[CHECK])]
    assert [check.name for check in open_questions(events, plan)] == ["target_free_disk"]
    events.append(end("check_target", checks=[{**CHECK, "outcome": "passed"}]))
    assert open_questions(events, plan) == ()


def at(minute: int) -> datetime:
    return datetime(2026, 11, 23, 12, minute, tzinfo=UTC)


def test_briefing_shows_the_time_left_and_the_expected_downtime() -> None:
    plan = load_plan("ward_ops")
    measured = Measured("rehearsal__1", rollback=120, remaining={"stop_services": 95, "switch_configuration": 20})
    times = {"event": "clock", **Clock.of(plan.window, at(0), measured).as_fields()}
    text = briefing([OPENED, times], plan, now=at(30))
    assert "ends at 2026-11-23 13:00 UTC (in 30 min 00 s)" in text
    assert "not live by 2026-11-23 12:57 UTC (in 27 min 00 s) goes back by itself" in text
    assert "Expected downtime: 1 min 35 s, as rehearsed by rehearsal__1." in text
    assert "15 minutes means no-go: nothing is stopped" in text

    stopped = {"event": "services.stopped", "time": at(29).isoformat()}
    text = briefing([OPENED, times, stopped], plan, gate="approve", now=at(30))
    assert "Down for 1 min 00 s now." in text
    assert "Expected until it runs on PostgreSQL: 20.0 s" in text
    assert "means no-go: the run goes back to SQLite by itself." in text


def test_briefing_without_a_rehearsal_says_that_the_downtime_is_not_known() -> None:
    assert "Expected downtime: not known, no rehearsal has measured it." in briefing([OPENED], load_plan("ward_ops"))


def test_briefing_counts_checks_and_links_to_the_report() -> None:
    found = {**CHECK, "outcome": "passed"}
    events = [
        OPENED,
        end("check_source", checks=[found, found, CHECK]),
        end("assess_source", figures={"rows": 1200, "blocks": 0, "decided": 2, "notes": 1}),
    ]
    text = briefing(events, load_plan("ward_ops"), links=[("Report of this run", "/cutover/ward_ops/1/")])
    assert "Checks: 2 passed, 0 failed, 1 could not be made." in text
    assert "1,200 rows of the source were checked: 0 findings block, the plan decides 2, 1 are notes." in text
    assert "[Report of this run](/cutover/ward_ops/1/)" in text


def test_no_gate_waits_past_the_deadline() -> None:
    plan = load_plan("ward_ops")
    times = {"event": "clock", **Clock.of(plan.window, at(0), Measured("rehearsal__1", rollback=120)).as_fields()}
    assert patience([], plan).total_seconds() == 15 * 60
    assert patience([times], plan, at(30)).total_seconds() == 15 * 60
    assert patience([times], plan, at(50)).total_seconds() == 7 * 60
    assert patience([times], plan, at(59)).total_seconds() == 1


@dataclass
class Known:
    """A step, as far as it is asked who may answer."""

    ids: dict[str, str]

    @property
    def plan(self) -> Plan:
        return load_plan("ward_ops")

    @property
    def ends(self) -> Known:
        return self

    def identities(self) -> Identities:
        return Identities(self.ids, "the map", "Make the account.")


def test_gate_is_assigned_to_the_deciders_by_their_ids() -> None:
    assert respondents(cast(Any, Known({"lead": "7", "observer": "8"}))) == [{"id": "7", "name": "lead"}]


def test_gate_without_respondents_fails() -> None:
    """Airflow lets any user answer a question without respondents."""
    with pytest.raises(AirflowFailException, match="cannot be answered"):
        respondents(cast(Any, Known({"observer": "8"})))
