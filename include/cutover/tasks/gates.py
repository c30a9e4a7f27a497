"""The go/no-go questions. An answer counts only as recorded here, by the operator that asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException

from include.cutover import clock, preflight
from include.cutover.checks import Check
from include.cutover.decision import GO, NO_GO
from include.cutover.evidence import Event
from include.cutover.plan import Plan
from include.cutover.steps import telling
from include.cutover.steps.step import Step, Terms, may_run
from include.cutover.tasks.operators import step_of

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
            response_timeout=timedelta(minutes=plan.gates.response_minutes),
            assigned_users=[{"id": person.user, "name": person.user} for person in plan.people.deciders],
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
        self.body = briefing(events, step.plan)
        self.response_timeout = self._time_to_answer(step)
        step.evidence.append("gate.asked", gate=self.gate, minutes=round(self.response_timeout.total_seconds() / 60, 2))
        telling.deliver(step.evidence, step.plan, step.ends.channels)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer that Airflow brings."""
        step = step_of(self.plan_name, self.gate, context)
        may_run(step, Terms(course=("go_live",) if self.gate == "approve" else ("forward",)))
        result = super().execute_complete(context, event)
        responder = result["responded_by_user"]
        by = None if responder is None else str(responder["name"])
        chosen = result["chosen_options"]
        go = chosen == [GO] and by in step.entitled
        late = self._late(step.evidence.events()) if go else ""
        answer = GO if go and not late else NO_GO
        self._record(step, answer, by=by, automatic=False, late=late)
        return {"answer": answer, "by": by}

    def _late(self, events: list[Event]) -> str:
        """Why a go would come too late for what stands behind the gate."""
        found = clock.read(events)
        return "" if found is None else found.late(_BEHIND[self.gate])

    def _time_to_answer(self, step: Step) -> timedelta:
        """As the plan says, and not beyond the deadline: a later answer would not count."""
        given = timedelta(minutes=step.plan.gates.response_minutes)
        found = clock.read(step.evidence.events())
        return given if found is None else max(timedelta(seconds=1), min(given, found.deadline - datetime.now(UTC)))

    def _record(self, step: Step, answer: str, *, by: str | None, automatic: bool, late: str = "") -> None:
        if late:
            step.evidence.append("late", step=self.gate, reason=late)
        step.evidence.append("gate", gate=self.gate, answer=answer, by=by, automatic=automatic, late=late)
        step.log.info("%s: %s by %s", self.gate, answer, "the plan's permission" if automatic else by or "nobody in time")
        if late:
            raise AirflowFailException(f"{self.gate}: no-go, there is no time left: {late}")
        if answer != GO:
            raise AirflowFailException(f"{self.gate}: no-go" + ("" if automatic or by else ", nobody answered in time"))


def open_questions(events: list[Event], plan: Plan) -> tuple[Check, ...]:
    """Checks that could not be made and that the plan does not accept in advance: only a person may accept them."""
    newest = {event["step"]: event for event in events if event["event"] == "step.end"}
    checks = [Check(**check) for event in newest.values() for check in event.get("checks") or []]
    return preflight.sufficiency(checks, plan.preflight.accept_unknown).open


def briefing(events: list[Event], plan: Plan) -> str:
    """What a person needs to decide, as Markdown: how much time is left, what each step found, what nobody could check."""
    opened = next(event for event in events if event["event"] == "run.opened")
    newest = {event["step"]: event for event in events if event["event"] == "step.end"}
    copies = [event for name, event in newest.items() if name.startswith("copy.")]
    rows = [
        (name, event["outcome"], str(event.get("summary", "")))
        for name, event in newest.items()
        if not name.startswith("copy.")
    ]
    if copies:
        outcome = "passed" if all(event["outcome"] == "passed" for event in copies) else "failed"
        moved = sum(int((event.get("figures") or {}).get("rows", 0)) for event in copies)
        rows.append(("copy", outcome, f"{moved:,} rows in {len(plan.tables)} tables"))
    lines = [
        f"**{plan.application}**, opened by {opened['actor']}: {opened['reason']}",
        "",
        f"The window of {plan.window.minutes} minutes ends at {opened['window_end'][:16].replace('T', ' ')} UTC.",
        *_time_left(events),
        "",
        "| step | outcome | what was found |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {outcome} | {_cell(summary)} |" for name, outcome, summary in rows]
    warnings = list(dict.fromkeys(warning for event in newest.values() for warning in event.get("warnings") or []))
    if warnings:
        lines += ["", "**Warnings; a go takes them as they are:**", ""]
        lines += [f"- {_cell(warning)}" for warning in warnings]
    unknown = open_questions(events, plan)
    if unknown:
        lines += ["", "**Could not be checked; a go accepts it:**", ""]
        lines += [f"- {check.title}: {check.found} {check.do}" for check in unknown]
    lines += ["", f"No answer within {plan.gates.response_minutes:g} minutes means no-go."]
    return "\n".join(lines)


def _time_left(events: list[Event]) -> list[str]:
    """Until when a go counts, and how long that is."""
    found = clock.read(events)
    if found is None:
        return []
    minutes = max(0.0, (found.deadline - datetime.now(UTC)).total_seconds() / 60)
    return [
        "",
        f"**A run that is not live before {found.deadline:%Y-%m-%d %H:%M:%S} UTC goes back by itself: {minutes:.0f} minutes "
        f"are left.** Going back takes {found.rollback_seconds / 60:.1f} minutes, as "
        f"{f'the rehearsal {found.measured_by} measured' if found.measured_by else 'the plan says'}, and a margin.",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
