"""The go/no-go questions. An answer counts only as recorded here, by the operator that asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException

from include.cutover import preflight, rehearsal_briefing
from include.cutover.checks import Check
from include.cutover.decision import GO, NO_GO
from include.cutover.evidence import Event
from include.cutover.plan import Plan
from include.cutover.steps.step import Step, Terms, may_run
from include.cutover.tasks.operators import step_of


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
        if opened.get("approve") == "auto":
            answer = NO_GO if unknown else GO
            self._record(step, answer, by=None, automatic=True)
            return {"answer": answer, "automatic": True}
        self.body = briefing(events, step.plan)
        step.evidence.append("gate.asked", gate=self.gate, minutes=step.plan.gates.response_minutes)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer that Airflow brings."""
        step = step_of(self.plan_name, self.gate, context)
        may_run(step, Terms(course=("go_live",) if self.gate == "approve" else ("forward",)))
        result = super().execute_complete(context, event)
        responder = result["responded_by_user"]
        by = None if responder is None else str(responder["name"])
        chosen = result["chosen_options"]
        answer = GO if chosen == [GO] and by in step.entitled else NO_GO
        self._record(step, answer, by=by, automatic=False)
        return {"answer": answer, "by": by}

    def _record(self, step: Step, answer: str, *, by: str | None, automatic: bool) -> None:
        step.evidence.append("gate", gate=self.gate, answer=answer, by=by, automatic=automatic)
        step.log.info("%s: %s by %s", self.gate, answer, "the plan's permission" if automatic else by or "nobody in time")
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
        "",
        "| step | outcome | what was found |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {outcome} | {_cell(summary)} |" for name, outcome, summary in rows]
    rehearsed = rehearsal_briefing.facts(events)
    if rehearsed:
        lines += ["", "**Rehearsal:**", ""]
        lines += [f"- {label}: {_cell(text)}" for label, text in rehearsed]
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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
