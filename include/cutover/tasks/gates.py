"""The go/no-go questions. An answer counts only as recorded here, by the operator that asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException

from include.cutover.checks import Check
from include.cutover.evidence.record import Event
from include.cutover.plan.model import Plan
from include.cutover.preflight import sufficiency
from include.cutover.report.words import duration
from include.cutover.runs import briefing as runs_briefing
from include.cutover.runs import clock
from include.cutover.runs.verdict import GO, NO_GO
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import Step, Terms, may_run
from include.cutover.tasks.operators import step_of
from include.cutover.ui.links import links_of_run

if TYPE_CHECKING:
    from airflow.sdk.execution_time.hitl import HITLUser
_BEHIND = {"go_no_go": "stop_services", "approve": "switch_configuration"}


class Gate(HITLOperator):
    """A question to the lead and the deputies; no answer in time means no-go.

    The answer goes into the evidence with the name of who gave it, and the steps behind the gate read it there. Marking this
    task as success records nothing and so opens nothing.

    Args:
        plan: The plan.
        gate: The gate's name in the evidence.
        question: The headline.
    """

    def __init__(self, *, plan: Plan, gate: str, question: str, **kwargs: Any) -> None:
        super().__init__(
            subject=question,
            options=[GO, NO_GO],
            defaults=NO_GO,
            body="",
            response_timeout=timedelta(minutes=plan.gates.response_minutes),  # who may answer is looked up when it asks
            # A no-go is final and is not tried again. What is tried again is an answer that Airflow lost: one that comes
            # while the scheduler has not yet heard that the task waits makes it take the task for failed.
            retries=2,
            retry_delay=timedelta(seconds=1),
            **kwargs,
        )
        self.plan_name = plan.name
        self.gate = gate

    def execute(self, context: Any) -> Any:
        """Answer at once where the run was opened for automatic approval, else ask."""
        step = step_of(self.plan_name, self.gate, context)
        may_run(step, Terms(course=("go_live",) if self.gate == "approve" else ("forward",)))
        events = step.evidence.events()
        opened = next(event for event in events if event["event"] == "run.opened")
        unknown = open_questions(events, step.plan)
        late = self._late(events)
        if opened.get("approve") == "auto":
            answer = NO_GO if unknown or late else GO
            self._record(step, answer, by=None, automatic=True, late=late)
            return {"answer": answer, "automatic": True}
        if late:
            self._record(step, NO_GO, by=None, automatic=False, late=late)
        self.response_timeout = patience(events, step.plan)
        self.body = briefing(events, step.plan, gate=self.gate, links=links_of_run(step.plan.name, step.run_id))
        minutes = round(self.response_timeout.total_seconds() / 60, 2)
        step.evidence.append("gate.asked", gate=self.gate, minutes=minutes)
        notice_steps.deliver(step.evidence, step.plan, step.ends.channels)
        return self.wait_for_answer(context)

    def wait_for_answer(self, context: Any) -> Any:
        """Ask the lead and the deputies, and wait without a worker; ``execute_complete`` goes on."""
        self.assigned_users = respondents(step_of(self.plan_name, self.gate, context))
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer that Airflow brings."""
        step = step_of(self.plan_name, self.gate, context)
        may_run(step, Terms(course=("go_live",) if self.gate == "approve" else ("forward",)))
        chosen, by = self.read_answer(context, event)
        go = chosen == GO and by in step.entitled
        late = self._late(step.evidence.events()) if go else ""
        answer = GO if go and not late else NO_GO
        self._record(step, answer, by=by, automatic=False, late=late)
        return {"answer": answer, "by": by}

    def read_answer(self, context: Any, event: dict[str, Any]) -> tuple[str, str | None]:
        """What was chosen, and the user who did; None where nobody did in time."""
        result = super().execute_complete(context, event)
        responder, chosen = result["responded_by_user"], result["chosen_options"]
        return chosen[0] if len(chosen) == 1 else "", None if responder is None else str(responder["name"])

    def _late(self, events: list[Event]) -> str:
        """Why a go would come too late for what stands behind the gate."""
        found = clock.read(events)
        return "" if found is None else found.late(_BEHIND[self.gate])

    def _record(self, step: Step, answer: str, *, by: str | None, automatic: bool, late: str = "") -> None:
        if late:
            step.evidence.append("late", step=self.gate, reason=late)
        step.evidence.append("gate", gate=self.gate, answer=answer, by=by, automatic=automatic, late=late)
        step.log.info("%s: %s by %s", self.gate, answer, "the plan's permission" if automatic else by or "nobody in time")
        if late:
            raise AirflowFailException(f"{self.gate}: no-go, there is no time left: {late}")
        if answer != GO:
            raise AirflowFailException(f"{self.gate}: no-go" + ("" if automatic or by else ", nobody answered in time"))


def respondents(step: Step) -> list[HITLUser]:
    """Lead and deputies, by the ids that the auth manager has for them now.

    Raises:
        AirflowFailException: When none of them has an account: Airflow would let anybody answer a question to nobody.
    """
    known = step.ends.identities()
    found = [
        {"id": known.ids[person.user], "name": person.user}
        for person in step.plan.people.deciders
        if person.user in known.ids
    ]
    if not found:
        raise AirflowFailException(f"nobody could answer: no decider of the plan is in {known.where}. {known.do}")
    return found


def patience(events: list[Event], plan: Plan, now: datetime | None = None) -> timedelta:
    """How long the gate waits: as the plan says, and not past the deadline, after which no go is worth anything."""
    wanted, times = timedelta(minutes=plan.gates.response_minutes), clock.read(events)
    if times is None:
        return wanted
    return max(timedelta(seconds=1), min(wanted, times.deadline - (now or datetime.now(UTC))))


def open_questions(events: list[Event], plan: Plan) -> tuple[Check, ...]:
    """Checks that could not be made and that the plan does not accept in advance: only a person may accept them."""
    newest = {event["step"]: event for event in events if event["event"] == "step.end"}
    checks = [Check(**check) for event in newest.values() for check in event.get("checks") or []]
    return sufficiency.judge(checks, plan.preflight.accept_unknown).open


@dataclass(frozen=True)
class Question:
    """What the sections of a briefing are written from."""

    gate: str
    events: list[Event]
    plan: Plan
    links: Sequence[tuple[str, str]]
    now: datetime

    @cached_property
    def opened(self) -> Event:
        """How the run was opened."""
        return next(event for event in self.events if event["event"] == "run.opened")

    @cached_property
    def newest(self) -> dict[str, Event]:
        """Step to its newest end."""
        return {event["step"]: event for event in self.events if event["event"] == "step.end"}

    @cached_property
    def times(self) -> clock.Clock | None:
        """The clock of the run."""
        return clock.read(self.events)

    def left(self, until: datetime) -> str:
        """An instant of today, and how far away it is."""
        seconds = (until - self.now).total_seconds()
        away = f"in {duration(seconds)}" if seconds > 0 else f"over for {duration(-seconds)}"
        return f"{until:%Y-%m-%d %H:%M} UTC ({away})"


def briefing(
    events: list[Event],
    plan: Plan,
    *,
    gate: str = "go_no_go",
    links: Sequence[tuple[str, str]] = (),
    now: datetime | None = None,
) -> str:
    """What a person needs to decide, as Markdown: one section after the other, those that have something to say.

    Args:
        links: Text and address of each.
    """
    question = Question(gate, events, plan, links, now or datetime.now(UTC))
    return "\n\n".join(filter(None, ("\n".join(section(question)) for section in SECTIONS)))


def _who_and_why(question: Question) -> list[str]:
    opened = question.opened
    return [f"**{question.plan.application}**, opened by {opened['actor']}: {_cell(opened['reason'])}"]


def _time_left(question: Question) -> list[str]:
    window_end = datetime.fromisoformat(question.opened["window_end"])
    told = [f"The window of {question.plan.window.minutes} minutes ends at {question.left(window_end)}."]
    if question.times is not None:
        told.append(f"A run that is not live by {question.left(question.times.deadline)} goes back by itself.")
        measured = question.times.measured_by
        told.append(
            f"Going back takes {duration(question.times.rollback_seconds)}, as "
            f"{f'the rehearsal {measured} measured' if measured else 'the plan says'}, and a margin."
        )
    return told


def _expected_downtime(question: Question) -> list[str]:
    times, stopped = question.times, next((event for event in question.events if event["event"] == "services.stopped"), None)
    rehearsed = times.remaining if times is not None and times.measured_by is not None else {}
    told = []
    if stopped is not None:
        told.append(f"Down for {duration((question.now - datetime.fromisoformat(stopped['time'])).total_seconds())} now.")
    seconds = rehearsed.get("stop_services" if stopped is None else "switch_configuration")
    what = "Expected downtime" if stopped is None else "Expected until it runs on PostgreSQL"
    if seconds is not None and times is not None:
        told.append(f"{what}: {duration(seconds)}, as rehearsed by {times.measured_by}.")
    else:
        told.append(f"{what}: not known, no rehearsal has measured it.")
    return told


def _steps(question: Question) -> list[str]:
    newest = question.newest
    copies = [event for name, event in newest.items() if name.startswith("copy.")]
    rows = [
        (name, event["outcome"], str(event.get("summary", "")))
        for name, event in newest.items()
        if not name.startswith("copy.")
    ]
    if copies:
        outcome = "passed" if all(event["outcome"] == "passed" for event in copies) else "failed"
        moved = sum(int((event.get("figures") or {}).get("rows", 0)) for event in copies)
        rows.append(("copy", outcome, f"{moved:,} rows in {len(question.plan.tables)} tables"))
    lines = ["| step | outcome | what was found |", "|---|---|---|"]
    return lines + [f"| {name} | {outcome} | {_cell(summary)} |" for name, outcome, summary in rows]


def _checks(question: Question) -> list[str]:
    found = Counter(check["outcome"] for event in question.newest.values() for check in event.get("checks") or [])
    return [f"Checks: {found['passed']:,} passed, {found['failed']} failed, {found['unknown']} could not be made."]


def _findings(question: Question) -> list[str]:
    figures = question.newest.get("assess_source", {}).get("figures") or {}
    if "rows" not in figures:
        return []
    told = f"{figures['rows']:,} rows of the source were looked at: {figures.get('blocks', 0)} findings block"
    return [f"{told}, the plan decides {figures.get('decided', 0)}, {figures.get('notes', 0)} are notes."]


def _rehearsal(question: Question) -> list[str]:
    facts = runs_briefing.facts(question.events)
    return ["**Rehearsal:**", "", *(f"- {label}: {_cell(text)}" for label, text in facts)] if facts else []


def _warnings(question: Question) -> list[str]:
    warnings = dict.fromkeys(warning for event in question.newest.values() for warning in event.get("warnings") or [])
    lines = ["**Warnings; a go takes them as they are:**", ""]
    return lines + [f"- {_cell(warning)}" for warning in warnings] if warnings else []


def _unknown(question: Question) -> list[str]:
    unknown = open_questions(question.events, question.plan)
    lines = ["**Could not be checked; a go accepts it:**", ""]
    return lines + [f"- {check.title}: {check.found} {check.do}" for check in unknown] if unknown else []


def _links(question: Question) -> list[str]:
    return [" · ".join(f"[{text}]({address})" for text, address in question.links)] if question.links else []


def _no_answer(question: Question) -> list[str]:
    minutes = patience(question.events, question.plan, question.now).total_seconds() / 60
    then = (
        "the run goes back to SQLite by itself"
        if question.gate == "approve"
        else "nothing is stopped, the run is called off"
    )
    return [f"No answer within {minutes:.3g} minutes means no-go: {then}."]


SECTIONS: Sequence[Callable[[Question], list[str]]] = (
    _who_and_why,
    _time_left,
    _expected_downtime,
    _steps,
    _checks,
    _findings,
    _rehearsal,
    _warnings,
    _unknown,
    _links,
    _no_answer,
)
"""The sections of a briefing in their order. One that returns nothing is left out."""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
