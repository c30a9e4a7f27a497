"""A step of a rehearsal: it works on a clone and a disposable database, and reaches no application and no people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from include.cutover.connections.commands import Runner
from include.cutover.errors import CannotCheck, Refused
from include.cutover.evidence import lease
from include.cutover.evidence.record import Evidence
from include.cutover.people.identities import Identities
from include.cutover.people.notices import Channel
from include.cutover.plan.model import Plan
from include.cutover.runs import rehearsals
from include.cutover.steps.step import Caller, Ends, Step
from include.cutover.target import disposable

SCRATCH = "scratch"
"""Folder of the evidence with the clone and its backups; the way back moves the file that it finds to ``kept`` beside it."""


def harmless(plan: Plan, folder: Path) -> Plan:
    """Return the plan without services, smoke tests and configuration, and with its backups below the rehearsal's folder."""
    places = {"directory": folder / SCRATCH / "backup"}
    if plan.backup.second_copy is not None:
        places["second_copy"] = folder / SCRATCH / "second_copy"
    backup = plan.backup.model_copy(update=places)
    changes = {"services": (), "smoke_tests": None, "configuration": None, "backup": backup, "source_other_names": ()}
    return plan.model_copy(update=changes)


class RehearsalEnds:
    """The ends of a rehearsal: the clone, the disposable database, and no channels. See ``steps.step.Ends``."""

    def __init__(self, production: Ends, evidence: Evidence) -> None:
        self.production = production
        self._evidence = evidence

    def source_path(self, plan: Plan) -> Path:
        """Return the clone."""
        opened = self._evidence.last("run.opened")
        if opened is None:
            raise CannotCheck(
                "this rehearsal did not open",
                where=str(self._evidence.folder),
                do="See the task open_rehearsal for the reason.",
            )
        return Path(opened["source"])

    def target_conninfo(self, plan: Plan, application_name: str) -> str:
        """Return the connection string of the disposable database."""
        database = self._evidence.last(rehearsals.DATABASE)
        if database is None or database["state"] != "made":
            raise CannotCheck(
                "this rehearsal has no database",
                where=str(self._evidence.folder),
                expected="the step create_database passed",
                do="See the task create_database for the reason.",
            )
        return disposable.conninfo(self.production.target_conninfo(plan, application_name), database["name"])

    def application_role(self, plan: Plan) -> str | None:
        """Return None: roles belong to the whole server, and a rehearsal leaves the application's alone."""
        return None

    def application_url(self, plan: Plan) -> str:
        """Refuse: a rehearsal configures no application."""
        raise Refused("a rehearsal moves no application", where=plan.name)

    def channels(self, plan: Plan) -> Sequence[Channel]:
        """Return none: notices go into the evidence only."""
        return []

    def remote(self, plan: Plan, connection: str) -> Runner:
        """Refuse: a rehearsal runs no commands."""
        raise Refused("a rehearsal runs no commands on other hosts", where=plan.name)

    def identities(self) -> Identities:
        """Return the people of production: checks of accounts check the real ones."""
        return self.production.identities()


class RehearsalStep(Step):
    """One execution of a step of a rehearsal.

    Attributes:
        production: The same step with the plan and the ends of a cutover, for checks that change nothing.
    """

    rehearses = True

    def __init__(self, plan_name: str, name: str, caller: Caller, ends: Ends) -> None:
        super().__init__(plan_name, name, caller, ends, series=rehearsals.series(plan_name))
        self.production = Step(plan_name, name, caller, ends, self.plan)
        self.plan = harmless(self.plan, self.evidence.folder)
        self.ends = RehearsalEnds(ends, self.evidence)

    def give_way(self) -> None:
        """Refuse to continue beside an open cutover of the same plan."""
        held = lease.read(self.plan.name)
        run = None if held is None else Evidence.of(self.plan.name, held.subject)
        if held is not None and run is not None and run.exists and run.sealed is None:
            raise Refused(
                "a cutover of this plan is open, and a rehearsal must not run beside it",
                where=f"plan {self.plan.name}",
                expected="no open run",
                found=f"{held.holder}, since {held.since}",
                do="Rehearse again after its end.",
            )


def own_step(step: Step) -> RehearsalStep:
    """Return the step as a step of a rehearsal."""
    assert isinstance(step, RehearsalStep), "a step of a rehearsal is run as one"
    return step
