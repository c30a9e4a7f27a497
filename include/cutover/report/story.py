"""The story of a run: its steps, gates, figures, outcome and kept files, read from its events."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from include.cutover.evidence.record import Event, Evidence
from include.cutover.report.artifacts import Artifacts
from include.cutover.report.deliveries import notices_of
from include.cutover.report.events import RunEvents
from include.cutover.report.figures import RunFigures
from include.cutover.report.run_state import RunState, state_of
from include.cutover.report.steps import StepHistory, failures_of, step_histories
from include.cutover.report.words import answer_text
from include.cutover.runs import briefing


class Story:
    """The parts of a run's story. Each copes with events that are missing.

    Attributes:
        run: The events.
        steps: Every step that left a record, by name, in the order of beginning.
        figures: Checks, row counts, orphans, downtime.
        artifacts: Backup, files and everything else that was kept.
        failures: Steps whose newest try did not pass, the cause first.

    Raises:
        CannotCheck: When there is no evidence.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.run = RunEvents(evidence)
        self.steps: dict[str, StepHistory] = step_histories(self.run)
        self.figures = RunFigures(self.run, self.steps)
        self.artifacts = Artifacts(self.run, self.figures)
        self.failures = failures_of(self.steps.values())

    @cached_property
    def state(self) -> RunState:
        """Where the run stands."""
        return state_of(self.run, self.steps, self.failures)

    @property
    def first_failure(self) -> str:
        """The first failure in one sentence, empty where everything passed."""
        if not self.failures:
            answer = next((gate for gate in self.run.all("gate") if gate.get("answer") not in (None, "Go")), None)
            return f"{answer.get('gate')}: {answer_text(answer)}" if answer else ""
        step = self.failures[0]
        check = next((item for item in step.checks if item.get("outcome") != "passed"), None)
        if check is None:
            return f"{step.name}: {step.last.summary or step.outcome}"
        where = f"{check.get('where')}: " if check.get("where") else ""
        expected = f"expected {check['expected']}, " if check.get("expected") else ""
        return f"{step.name}: {where}{check.get('title')}; {expected}found {check.get('found') or 'nothing'}"

    @property
    def turns(self) -> list[Event]:
        """Answers at the gates and decisions, in order."""
        return [event for event in self.run.events if event["event"] in ("gate", "decision")]

    @cached_property
    def rehearsal(self) -> list[tuple[str, str]]:
        """Of a cutover: the rehearsal before it, and what changed since. Of a rehearsal: what it made and measured."""
        return briefing.of_rehearsal(self.run.events) or briefing.facts(self.run.events)

    @cached_property
    def notices(self) -> list[dict[str, Any]]:
        """Each notice with its deliveries, see ``deliveries.notices_of``."""
        return notices_of(self.run)
