"""The go/no-go gates. An answer counts only as recorded here, by the operator that asked."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException

from include.cutover.evidence import steady
from include.cutover.evidence.record import Event
from include.cutover.plan.model import Plan
from include.cutover.runs import clock, runbook
from include.cutover.runs.verdict import GO, NO_GO
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.gate_briefing import briefing, open_questions, patience
from include.cutover.steps.running import may_run
from include.cutover.steps.step import Step
from include.cutover.tasks.operators import step_of
from include.cutover.ui.links import links_of_run

if TYPE_CHECKING:
    from airflow.sdk.execution_time.hitl import HITLUser


_EARLY_SECONDS, _LATE_SECONDS = 5.0, 300.0  # Airflow looks for questions that are over every 15 s, and may be restarted


class Gate(HITLOperator):
    """A question to the lead and the deputies; no answer in time means no-go.

    The answer goes into the evidence with the name of its author, and the steps behind the gate read it there. Marking this
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
            response_timeout=timedelta(minutes=plan.gates.response_minutes),  # respondents are read when it asks
            # A no-go is final and not retried. The retries are for an answer that Airflow lost: one before the scheduler
            # knows that the task waits makes the task fail.
            retries=2,
            retry_delay=timedelta(seconds=1),
            **kwargs,
        )
        self.plan_name = plan.name
        self.gate = gate

    def execute(self, context: Any) -> Any:
        """Answer immediately where the run was opened with automatic approval, else ask."""
        step = step_of(self.plan_name, self.gate, context)
        may_run(step, runbook.terms_of(self.gate, step.plan))
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
        """Ask the lead and the deputies, and wait without a worker; ``execute_complete`` continues."""
        self.assigned_users = respondents(step_of(self.plan_name, self.gate, context))
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer that Airflow delivers."""
        step = step_of(self.plan_name, self.gate, context)
        may_run(step, runbook.terms_of(self.gate, step.plan))
        chosen, by = self.read_answer(context, event)
        go = chosen == GO and by in step.entitled
        late = self._late(step.evidence.events()) if go else ""
        answer = GO if go and not late else NO_GO
        if by is None:
            self._tell_clock(step)
        self._record(step, answer, by=by, automatic=False, late=late)
        return {"answer": answer, "by": by}

    def read_answer(self, context: Any, event: dict[str, Any]) -> tuple[str, str | None]:
        """Return the choice and the user who made it; None where there was no answer in time."""
        result = super().execute_complete(context, event)
        responder, chosen = result["responded_by_user"], result["chosen_options"]
        return chosen[0] if len(chosen) == 1 else "", None if responder is None else str(responder["name"])

    def _late(self, events: list[Event]) -> str:
        """Return why a go would come too late for the steps behind the gate; empty where it would not."""
        found = clock.read(events)
        return "" if found is None else found.late(runbook.behind(self.gate))

    def _tell_clock(self, step: Step) -> None:
        """Record where the time to answer was not the time that was asked for: Airflow measures it by the clock."""
        asked = step.evidence.last("gate.asked", gate=self.gate)
        waited = None if asked is None else steady.elapsed(asked)
        if asked is None or waited is None:
            return
        given = float(asked["minutes"]) * 60
        if waited < given - _EARLY_SECONDS or waited > given + _LATE_SECONDS:
            way = "ahead" if waited < given else "back"
            found = f"people had {steady.in_words(waited)} of {steady.in_words(given)} to answer: the clock went {way}"
            step.evidence.append("gate.clock", gate=self.gate, reason=found)
            step.log.warning("%s: %s", self.gate, found)

    def _record(self, step: Step, answer: str, *, by: str | None, automatic: bool, late: str = "") -> None:
        if late:
            step.evidence.append("late", step=self.gate, reason=late)
        step.evidence.append("gate", gate=self.gate, answer=answer, by=by, automatic=automatic, late=late)
        step.log.info("%s: %s by %s", self.gate, answer, "the plan's permission" if automatic else by or "the time limit")
        if late:
            raise AirflowFailException(f"{self.gate}: no-go, there is no time left: {late}")
        if answer != GO:
            raise AirflowFailException(f"{self.gate}: no-go" + ("" if automatic or by else ", no answer in time"))


def respondents(step: Step) -> list[HITLUser]:
    """Return lead and deputies, by their current ids in the auth manager.

    Raises:
        AirflowFailException: When none of them has an account: without respondents Airflow would let any user answer.
    """
    known = step.ends.identities()
    found = [
        {"id": known.ids[person.user], "name": person.user}
        for person in step.plan.people.deciders
        if person.user in known.ids
    ]
    if not found:
        raise AirflowFailException(
            f"the gate cannot be answered: neither the lead nor a deputy is in {known.where}. {known.do}"
        )
    return found
