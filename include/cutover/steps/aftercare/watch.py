"""A step of the aftercare: how it is run and recorded, and how it notifies people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import statistics as aftercare_statistics
from include.cutover.errors import CutoverError, Refused
from include.cutover.locks import locked
from include.cutover.masking import mask, one_line
from include.cutover.people import notices
from include.cutover.people.notice_texts import when
from include.cutover.plan.afterwards import Aftercare
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.call import NotYet
from include.cutover.steps.step import Caller, Ends, Report, Step

_CLAIM_SECONDS = 120.0

Body = Callable[..., Report]


class Watch(Step):
    """One execution of a step of the aftercare.

    Attributes:
        cutover: The evidence of the cutover, read only.
        evidence: The aftercare's own evidence.
    """

    def __init__(self, plan_name: str, name: str, caller: Caller, ends: Ends) -> None:
        run_id = aftercare_record.subject_of(plan_name, caller.run_id) or str(caller.params.get("run_id") or "").strip()
        if not run_id:
            raise Refused(
                "the form names no run", where=f"plan {plan_name}", do="Enter the run id of a cutover that is live."
            )
        super().__init__(plan_name, name, Caller(caller.dag_id, run_id, caller.actor, caller.params), ends)
        self.cutover = self.evidence
        self.caller = caller
        self.run_id = str((self.cutover.last("run.opened") or {}).get("run_id") or run_id) if self.cutover.exists else run_id
        self.evidence = aftercare_record.evidence_of(plan_name, self.run_id)

    @cached_property
    def target(self) -> str:
        """Connection string (libpq) of the target; its application name sets its sessions apart from the application's."""
        return self.ends.target_conninfo(self.plan, f"{aftercare_statistics.OWN_SESSIONS}:{self.name}")

    @cached_property
    def of_cutover(self) -> Step:
        """A step of the cutover itself, for its manifest and its snapshot."""
        return Step(self.plan.name, self.name, Caller(self.caller.dag_id, self.run_id), self.ends, self.plan)

    @property
    def settings(self) -> Aftercare:
        """The plan's settings of the aftercare."""
        return self.plan.aftercare


def run(watch: Watch, body: Body, arguments: Mapping[str, Any] | None = None) -> Report:
    """Run one step of the aftercare, one attempt at a time, and record its end.

    Raises:
        NotYet: When it is not due; nothing was recorded.
        CutoverError: From ``body``; it is recorded.
    """
    begun = time.monotonic()
    with locked(watch.evidence.folder / f".{watch.name}.lock", seconds=_CLAIM_SECONDS):
        try:
            report = body(watch, **(arguments or {}))
        except NotYet:
            raise
        except BaseException as error:
            text = str(error) if isinstance(error, CutoverError) else f"{type(error).__name__}: {error}"
            if watch.evidence.exists:
                _end(watch, begun, "error", summary=mask(text))
            raise
        _end(watch, begun, report.outcome, summary=report.summary, figures=report.figures)
    for check in report.checks:
        if check.outcome != "passed":
            watch.log.warning("%s: %s (found %s)", check.outcome, check.title, mask(check.found))
    watch.log.info("%s", mask(report.summary))
    return report


def _end(watch: Watch, begun: float, outcome: str, **result: Any) -> None:
    seconds = round(time.monotonic() - begun, 3)
    watch.evidence.append("step.end", step=watch.name, outcome=outcome, seconds=seconds, **result)


def notify(watch: Watch, notice: str, template: str, reason: str) -> None:
    """Post one notice to every channel, once, and send what can be sent now. All notices of the aftercare go through here.

    Args:
        watch: The step.
        notice: Key of the notice; a key is posted once.
        template: Name of its text in the plan's notices.
        reason: For ``<reason>``; cut to 800 characters.
    """
    opened = watch.evidence.last(aftercare_record.OPENED) or {}
    lead, clock = watch.plan.people.lead, notice_steps.clock_of(watch.cutover, watch.plan)
    values = {
        "freeze": when(watch.plan, clock.freeze),
        "deadline": when(watch.plan, clock.deadline),
        "time": when(watch.plan, aftercare_record.now()),
        "lead": f"{lead.name} ({lead.contact or lead.email})",
        "application": watch.plan.application,
        "minutes": f"{watch.settings.minutes:g}",
        "reason": one_line(reason)[:800],
        "run": watch.run_id,
        "end": when(watch.plan, datetime.fromisoformat(opened["until"])) if opened.get("until") else "the end",
    }
    subject = {
        "aftercare": f"{watch.plan.application}: PostgreSQL needs attention",
        "closing": f"{watch.plan.application}: the aftercare is over",
    }[template]
    text = notices.render(getattr(watch.plan.notices, template), values)
    message = notices.Message(notice, subject, text, lead=template == "aftercare")
    notices.post(watch.evidence, message, hold=notice_steps.hold(watch.plan) if template == "closing" else None)
    notice_steps.deliver(watch.evidence, watch.plan, watch.ends.channels)


def as_sentence(text: str) -> str:
    """Return the text as a sentence: with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
