"""The report of a run during which the host's clock was set: no duration is negative, or an hour too long."""

from __future__ import annotations

from datetime import timedelta

import pytest

from include.cutover.plan.model import Plan
from include.cutover.report.incident_document import incident_document
from include.cutover.report.page import run_report, summary
from include.cutover.report.story import Story
from tests.support.recorded_runs import START, Run


def stopped_for_a_minute(run: Run, jump: float) -> None:
    """A run whose services are down for a minute, in which the clock is set."""
    seconds = 1000.0

    def append(event: str, real: float, off: float = 0.0, **fields: object) -> None:
        nonlocal seconds
        seconds += real
        run.clock += timedelta(seconds=off)
        run.append(event, real, boot="0123abcd", up=seconds, **fields)

    run.open()
    append("services.stopped", 5)
    append("step.begin", 10, step="copy.users", try_number=1, pid=7)
    append("step.end", 20, jump, step="copy.users", outcome="passed", seconds=20.0, figures={"table": "users", "rows": 3})
    append("services.started", 30, on="source")
    append("sealed", 5, outcome="rolled_back", why="a test")


@pytest.mark.parametrize(("jump", "words"), [(-3600.0, "back by 1 h 00 min"), (3600.0, "ahead by 1 h 00 min")])
def test_durations_are_elapsed_time_and_the_jump_is_named(run: Run, plan: Plan, jump: float, words: str) -> None:
    stopped_for_a_minute(run, jump)
    figures = summary(run.evidence, plan)
    assert figures["downtime_seconds"] == pytest.approx(60.0)
    assert figures["duration_seconds"] == pytest.approx(70.0)
    story = Story(run.evidence)
    assert story.steps["copy.users"].last.seconds == pytest.approx(20.0)
    assert story.run.end == START + timedelta(seconds=70)
    page, document = run_report(run.evidence, plan), incident_document(run.evidence, plan, "a test")
    for text in (page, document):
        assert "The clock was set during the run" in text and f"he clock went {words} before" in text


def test_older_evidence_never_counts_backwards(run: Run, plan: Plan) -> None:
    run.open()
    run.append("services.stopped", 5)
    run.append("services.started", -3600, on="source")
    figures = summary(run.evidence, plan)
    assert figures["downtime_seconds"] == 0.0
    assert "the clock went back by at least 1 h 00 min" in run_report(run.evidence, plan).replace("The clock", "the clock")


def test_run_whose_clock_went_evenly_says_nothing(run: Run, plan: Plan) -> None:
    stopped_for_a_minute(run, 0.0)
    assert "The clock was set" not in run_report(run.evidence, plan)
