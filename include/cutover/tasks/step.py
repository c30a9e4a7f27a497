"""A step of the runbook as an Airflow task: checks that it may run, runs a plain function, and records what became of it.

The record in the evidence, not Airflow's task state, is what later steps and branches believe.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.branch import BranchMixIn
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.cutover import backup, claims, decision, decisions, lease, ledger
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, CutoverError, LeaseLost, Refused
from include.cutover.evidence import Evidence
from include.cutover.masking import mask
from include.cutover.plan import Plan, load_plan
from include.cutover.tasks import connections

log = logging.getLogger("cutover")

FROZEN_PLAN = "plan.json"


@dataclass(frozen=True)
class Report:
    """What a step tells: one sentence, figures, and the checks it made.

    ``accept_unknown`` lets checks stay "could not check"; somebody else then decides about them.
    """

    summary: str
    figures: dict[str, Any] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    accept_unknown: bool = False

    @property
    def outcome(self) -> str:
        """``failed`` when a check failed, or could not be made and somebody relies on it."""
        bad = ("failed",) if self.accept_unknown else ("failed", "unknown")
        return "failed" if any(check.outcome in bad for check in self.checks) else "passed"


class Step:
    """What the body of a step works with.

    Attributes:
        plan: The plan as it was frozen when the run opened.
        run_id: The cutover that is worked on; for the rollback DAG that is another run than Airflow's own.
        holder: ``<dag id>/<run id>`` of Airflow's run.
        evidence: The evidence of ``run_id``.
        params: The trigger form of Airflow's run.
    """

    def __init__(self, plan_name: str, name: str, context: Any) -> None:
        dag_run, instance = context["dag_run"], context["ti"]
        self.name = name
        self.dag_id: str = dag_run.dag_id
        self.own_run_id: str = dag_run.run_id
        self.actor: str | None = dag_run.triggering_user_name
        self.params: dict[str, Any] = dict(context["params"])
        self.try_number: int = instance.try_number
        self.log_url: str = getattr(instance, "log_url", "") or ""
        self.holder = f"{self.dag_id}/{self.own_run_id}"
        self.run_id = subject_of(plan_name, self.own_run_id) or self.own_run_id
        self.evidence = Evidence.of(plan_name, self.run_id)
        self.plan = frozen_plan(self.evidence) or load_plan(plan_name)
        self.log = log

    @cached_property
    def source(self) -> Path:
        """The application's SQLite file."""
        return connections.source_path(self.plan)

    @cached_property
    def target(self) -> str:
        """libpq connection string of the target, with this run and step as application name."""
        return connections.target_conninfo(self.plan, f"{self.run_id[-40:]}:{self.name}")

    @cached_property
    def epoch(self) -> int:
        """The epoch under which this run holds the target."""
        event = self.evidence.last("lease.target", holder=self.holder)
        if event is None:
            raise Refused("this run never got the lease of the target", where=self.run_id, do="Run apply_ddl first.")
        return int(event["epoch"])

    @cached_property
    def guard(self) -> ledger.Guard:
        """Refuses, inside the transaction that calls it, when the lease of the target is lost."""
        return ledger.guard(self.run_id, self.epoch)

    @cached_property
    def manifest(self) -> backup.Manifest:
        """The verified backup of this run, by whichever of its copies can be read."""
        event = self.evidence.last("backup")
        if event is None:
            raise CannotCheck("this run has no backup", where=self.run_id, expected="the step take_backup passed")
        return backup.load(*(Path(event[name]) for name in ("manifest", "second_manifest") if event.get(name)))

    @cached_property
    def decided(self) -> decisions.Decided:
        """What copy and proof read: the backup, or what the plan's decisions made of it."""
        event = self.evidence.last("snapshot")
        if event is None:
            raise CannotCheck("this run has no snapshot", where=self.run_id, expected="the step take_backup passed")
        return decisions.Decided.from_dict(event["decided"])

    @property
    def expected_rows(self) -> dict[str, int]:
        """Table to rows that the target must hold: the snapshot's, and the reference data where it brought none."""
        reference = self.evidence.last("reference.rows")
        return {**self.decided.expected_rows(self.manifest.counts), **(reference["rows"] if reference else {})}

    @property
    def entitled(self) -> set[str]:
        """User names whose word counts at a gate."""
        return {person.user for person in self.plan.people.deciders}


def subject_of(plan: str, own_run_id: str) -> str | None:
    """The cutover that a rollback run works on, None for a cutover itself."""
    own = Evidence.of(plan, own_run_id)
    opened = own.last("rollback.opened") if own.exists else None
    return None if opened is None else str(opened["subject"])


def frozen_plan(evidence: Evidence) -> Plan | None:
    """The plan as it was when the run opened; later changes of the file do not reach a run in flight."""
    try:
        return Plan.model_validate_json((evidence.folder / FROZEN_PLAN).read_bytes())
    except FileNotFoundError:
        return None


class StepOperator(BaseOperator):
    """Runs one step.

    Args:
        plan: The plan's name.
        step: The step's name in the evidence; the task id without its group by default.
        body: Plain function that takes the ``Step`` and returns a ``Report``.
        gate: Gate whose recorded go, by an entitled person, this step needs.
        opens: The step makes the run itself, so there is no lease to check yet.
        closes: The step also runs when the lease is lost or the run is sealed; it decides what that means.
        arguments: Further keyword arguments of ``body``; mapped tasks expand over them.
    """

    template_fields: Sequence[str] = ()
    ui_color = "#e8eef7"

    def __init__(
        self,
        *,
        plan: str,
        body: Callable[..., Report],
        step: str | None = None,
        gate: str | None = None,
        opens: bool = False,
        closes: bool = False,
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.body = body
        self.step = step
        self.gate = gate
        self.opens = opens
        self.closes = closes
        self.arguments = arguments or {}

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the step; returns its summary and figures, for display only."""
        name = self.step or self.task_id.rsplit(".", 1)[-1]
        if "stream" in self.arguments:
            name = f"{name}.{self.arguments['stream']}"
        try:
            step = Step(self.plan, name, context)
        except CutoverError as error:
            raise _airflow_error(error) from None
        return run(step, self)

    def on_kill(self) -> None:
        """Airflow ends the process; the missing end in the evidence says that the step did not finish."""


def run(step: Step, operator: StepOperator) -> dict[str, Any]:
    """Check that the step may run, run it, record its end.

    Raises:
        AirflowFailException: When another try cannot help.
        Exception: When another try may help; Airflow retries.
    """
    started = time.monotonic()
    try:
        with claims.claim(step.plan.name, step.run_id, step.name, shared=not operator.opens):
            if not operator.opens and not operator.closes:
                _may_run(step, operator.gate)
            step.evidence.append(
                "step.begin",
                step=step.name,
                try_number=step.try_number,
                pid=os.getpid(),
                by=step.holder,
                log_url=step.log_url,
            )
            report = operator.body(step, **operator.arguments)
    except BaseException as error:
        outcome = "refused" if isinstance(error, Refused) else "error"
        text = mask(str(error) if isinstance(error, CutoverError) else f"{type(error).__name__}: {error}")
        # A run without evidence has nowhere to record: opening it is what failed.
        if step.evidence.exists and not isinstance(error, LeaseLost):
            step.evidence.append(
                "step.end", step=step.name, outcome=outcome, seconds=round(time.monotonic() - started, 3), summary=text
            )
        if isinstance(error, CutoverError):
            raise _airflow_error(error) from None
        raise
    step.evidence.append(
        "step.end",
        step=step.name,
        outcome=report.outcome,
        seconds=round(time.monotonic() - started, 3),
        summary=report.summary,
        figures=report.figures,
        checks=[check.as_dict() for check in report.checks],
    )
    for check in report.checks:
        level = {"passed": logging.INFO, "unknown": logging.WARNING}.get(check.outcome, logging.ERROR)
        detail = "; ".join(part for part in (check.where, check.found and f"found {check.found}") if part)
        step.log.log(level, "%s: %s%s", check.outcome, check.title, f" ({detail})" if detail else "")
    step.log.info("%s", report.summary)
    if report.outcome == "failed":
        bad = [check for check in report.checks if check.outcome != "passed"]
        lines = [f"{check.title}: expected {check.expected}, found {check.found}. {check.do}" for check in bad]
        raise AirflowFailException("\n".join([report.summary, *lines]))
    return {"summary": report.summary, "figures": report.figures}


def _may_run(step: Step, gate: str | None) -> None:
    sealed = step.evidence.sealed
    if sealed is not None:
        raise Refused(
            "this run is closed and its steps do not run again",
            where=step.run_id,
            found=f"closed as {sealed.get('outcome')} at {sealed['time']}",
            do="Trigger a new run.",
        )
    lease.check(step.plan.name, step.run_id, step.holder)
    if gate is not None and not decision.gate_is_open(step.evidence.events(), gate, step.entitled):
        answer = decision.gate_answer(step.evidence.events(), gate)
        raise Refused(
            f"the gate {gate} has no go by an entitled person",
            where=step.run_id,
            expected=f"Go by {', '.join(sorted(step.entitled))}",
            found="no recorded answer" if answer is None else f"{answer.get('answer')} by {answer.get('by')}",
            do="Marking the gate's task as success is no answer; trigger a new run and answer its gate.",
        )


def _airflow_error(error: CutoverError) -> Exception:
    text = mask(str(error))
    return RuntimeError(text) if error.retry_helps else AirflowFailException(text)


class BranchOperator(StepOperator, BranchMixIn):
    """Runs a step that decides, and follows the branch that its outcome stands for.

    Args:
        branches: Task id for each outcome of the decision; an outcome that is not there follows none.
    """

    inherits_from_skipmixin = True

    def __init__(self, *, branches: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branches = branches

    def execute(self, context: Any) -> dict[str, Any]:
        """Decide, then skip what was not chosen."""
        result = super().execute(context)
        self.do_branch(context, self.branches.get(result["figures"]["outcome"]))
        return result
