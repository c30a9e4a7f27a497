"""A rehearsal: the steps of a cutover on a clone of the live source and a disposable database, and the way back as well.

The application is left alone: its services, its configuration, its file and the target's database are looked at and not
changed, and nobody is told. It has evidence and a lease of its own, beside those of the cutovers, which it gives way to.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.connections.commands import Runner
from include.cutover.errors import CannotCheck, CutoverError, LeaseLost, Refused, StepFailed
from include.cutover.evidence import claims, fingerprints, lease
from include.cutover.evidence.record import Evidence
from include.cutover.people.identities import Identities
from include.cutover.people.notices import Channel
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.preflight import target as preflight_target
from include.cutover.report import page as report_page
from include.cutover.runs import deciders, rehearsals, runbook, verdict
from include.cutover.source import cloning, fence, writable
from include.cutover.steps import decide as decide_steps
from include.cutover.steps import preflight as preflight_steps
from include.cutover.steps import rollback, set_aside
from include.cutover.steps import take_backup as take_backup_steps
from include.cutover.steps.step import FROZEN_PLAN, Caller, Ends, Report, Step
from include.cutover.target import disposable

SCRATCH = "scratch"
"""Folder of the evidence with the clone and its backups; ``kept`` beside it takes what the way back finds."""

SENTENCES = {
    rehearsals.GREEN: "rehearsed: everything passed on a clone, the way back included",
    rehearsals.RED: "NOT green: this rehearsal found what would stop a cutover",
}


def harmless(plan: Plan, folder: Path) -> Plan:
    """The plan without anything that reaches the application, and with its backups below the rehearsal's own folder."""
    places = {"directory": folder / SCRATCH / "backup"}
    if plan.backup.second_copy is not None:
        places["second_copy"] = folder / SCRATCH / "second_copy"
    changes = {"services": (), "smoke_tests": None, "configuration": None, "backup": plan.backup.model_copy(update=places)}
    return plan.model_copy(update=changes)


class RehearsalEnds:
    """The clone and the disposable database in the place of the ends, and nobody to tell. See ``steps.step.Ends``."""

    def __init__(self, production: Ends, evidence: Evidence) -> None:
        self.production = production
        self._evidence = evidence

    def source_path(self, plan: Plan) -> Path:
        """The clone."""
        opened = self._evidence.last("run.opened")
        if opened is None:
            raise CannotCheck("this rehearsal did not open", where=str(self._evidence.folder))
        return Path(opened["source"])

    def target_conninfo(self, plan: Plan, application_name: str) -> str:
        """The disposable database."""
        database = self._evidence.last(rehearsals.DATABASE)
        if database is None or database["state"] != "made":
            raise CannotCheck(
                "this rehearsal has no database",
                where=str(self._evidence.folder),
                expected="the step create_database passed",
            )
        return disposable.conninfo(self.production.target_conninfo(plan, application_name), database["name"])

    def application_role(self, plan: Plan) -> str | None:
        """None: roles belong to the whole server, and the application's is not touched."""
        return None

    def application_url(self, plan: Plan) -> str:
        """No application is pointed anywhere by a rehearsal."""
        raise Refused("a rehearsal moves no application", where=plan.name)

    def channels(self, plan: Plan) -> Sequence[Channel]:
        """None: notices go into the evidence only."""
        return []

    def remote(self, plan: Plan, connection: str) -> Runner:
        """No command is run by a rehearsal."""
        raise Refused("a rehearsal runs no commands on other hosts", where=plan.name)

    def identities(self) -> Identities:
        """The people of production: what looks at their accounts looks at the real ones."""
        return self.production.identities()


class RehearsalStep(Step):
    """A step of a rehearsal.

    Attributes:
        production: The same step with the plan and the ends of a cutover, for what only looks.
    """

    rehearses = True

    def __init__(self, plan_name: str, name: str, caller: Caller, ends: Ends) -> None:
        super().__init__(plan_name, name, caller, ends, series=rehearsals.series(plan_name))
        self.production = Step(plan_name, name, caller, ends, self.plan)
        self.plan = harmless(self.plan, self.evidence.folder)
        self.ends = RehearsalEnds(ends, self.evidence)

    def give_way(self) -> None:
        """A rehearsal does not go on beside a cutover of the same plan."""
        held = lease.read(self.plan.name)
        run = None if held is None else Evidence.of(self.plan.name, held.subject)
        if held is not None and run is not None and run.exists and run.sealed is None:
            raise Refused(
                "a cutover of this plan is open, and a rehearsal gives way to it",
                where=f"plan {self.plan.name}",
                expected="no open run",
                found=f"{held.holder}, since {held.since}",
                do="Rehearse when it is over.",
            )


def _own(step: Step) -> RehearsalStep:
    assert isinstance(step, RehearsalStep), "a step of a rehearsal is run as one"
    return step


def open_rehearsal(step: Step) -> Report:
    """Start the evidence, freeze the plan, take the lease of the rehearsals. A second try finds it open and goes on.

    An earlier rehearsal that is still open was killed: it can do nothing more.

    Raises:
        Refused: When somebody else started it than the lead or a deputy, or while a cutover is open.
    """
    own = _own(step)
    if own.evidence.exists and own.evidence.last("run.opened") is not None:
        lease.check(own.series, own.run_id, own.holder)
        return Report("the rehearsal is open")
    plan = load_plan(own.plan.name)
    deciders.require_decider(plan, own.actor, "start a rehearsal")
    own.give_way()
    lease.take_over(own.series, own.run_id, own.holder)
    claims.wait_for_others(own.series, own.holds_lease)
    live = own.production.source
    now = datetime.now(UTC)
    own.evidence.save(FROZEN_PLAN, plan.model_dump_json(indent=1))
    own.evidence.append(
        "run.opened",
        run_id=own.run_id,
        plan=plan.name,
        application=plan.application,
        rehearsal=True,
        source=str(own.evidence.folder / SCRATCH / "clone" / live.name),
        live=str(live),
        dag_id=own.caller.dag_id,
        actor=own.actor,
        reason=own.params["reason"],
        window_start=now.isoformat(),
        window_end=(now + timedelta(minutes=plan.window.minutes)).isoformat(),
        notices=False,
        fingerprints=fingerprints.of_run(plan),
        rehearses=rehearsals.of_plan(plan),
    )
    return Report(f"opened by {own.actor}: {own.params['reason']}")


def create_database(step: Step) -> Report:
    """Remove what earlier rehearsals left, then make a database of our own on the target's server. Safe to run again.

    Earlier ones are kept where the form says so; then they are named.
    """
    own = _own(step)
    server = own.production.target
    left, warnings = _earlier(own, server)
    name = disposable.name(own.plan.name, str(own.evidence.folder.resolve()))
    # Recorded before it is made: whatever becomes of this attempt, the next rehearsal knows what to drop.
    own.evidence.append(rehearsals.DATABASE, name=name, state="making")
    made, lacks = disposable.make(server, name)
    own.evidence.append(rehearsals.DATABASE, name=name, state="made")
    if lacks:
        warnings.append(f"the target has extensions that the disposable database lacks: {'; '.join(lacks)}")
    unknown = sorted(set(disposable.there(server, own.plan.name)) - {name} - _recorded(own.plan.name))
    if unknown:
        warnings.append(f"databases of rehearsals that this host knows nothing of: {', '.join(unknown)}")
    told = f"{name} {'made' if made else 'is there'}"
    return Report(
        f"{told}; removed: {', '.join(left)}" if left else told, {"database": name, "removed": left}, (), False, warnings
    )


def _recorded(plan: str) -> set[str]:
    """Every database that a rehearsal of this host recorded."""
    events = (evidence.last(rehearsals.DATABASE) for evidence in rehearsals.evidences(plan))
    return {event["name"] for event in events if event is not None}


def _earlier(own: RehearsalStep, server: str) -> tuple[list[str], list[str]]:
    """Remove, or name, what earlier rehearsals left; close those that were killed."""
    removed, named = [], []
    for evidence in rehearsals.evidences(own.plan.name):
        if evidence.folder == own.evidence.folder:
            continue
        if evidence.sealed is None:
            evidence.append(
                "sealed",
                outcome=rehearsals.RED,
                summary=SENTENCES[rehearsals.RED],
                why="it was killed before its end",
                by=own.holder,
            )
        what = _left(evidence)
        if not what:
            continue
        if own.params.get("keep_earlier"):
            named.append(f"kept of the rehearsal {evidence.folder.name}: {', '.join(what)}")
            continue
        _discard(evidence, server)
        removed += what
    return removed, named


def _left(evidence: Evidence) -> list[str]:
    """What a rehearsal has left: its database, its files."""
    database = evidence.last(rehearsals.DATABASE)
    found = [f"database {database['name']}"] if database is not None and database["state"] != "dropped" else []
    return found + [str(folder) for folder in _folders(evidence) if folder.exists()]


def _folders(evidence: Evidence) -> list[Path]:
    return [evidence.folder / SCRATCH, evidence.folder / "kept"]


def _discard(evidence: Evidence, server: str) -> None:
    """Drop a rehearsal's database and remove its files. Safe to run again."""
    database = evidence.last(rehearsals.DATABASE)
    if database is not None and database["state"] != "dropped":
        disposable.drop(server, database["name"])
        evidence.append(rehearsals.DATABASE, name=database["name"], state="dropped")
    for folder in _folders(evidence):
        shutil.rmtree(folder, ignore_errors=True)


def clone_source(step: Step) -> Report:
    """Clone the live file in one step, without stopping anything. Safe to run again: the clone is made anew.

    From here on the clone is the source.
    """
    own = _own(step)
    live, clone = own.production.source, own.source
    scratch = clone.parent
    shutil.rmtree(scratch, ignore_errors=True)
    files.make_private(scratch.parent)
    files.make_private(scratch)
    size = sum(item.stat().st_size for item in (live, *files.side_files(live)) if item.exists())
    # The clone, its backups, what is made of them, and the copy that goes back into its place.
    files.require_space({scratch: 6 * size})
    cloning.clone(live, clone)
    size = clone.stat().st_size
    return Report(f"{live.name}: {size:,} bytes, cloned in one step", {"bytes": size})


def check_target(step: Step) -> Report:
    """Look at the target itself, with the roles of a cutover. Changes nothing.

    A schema that an earlier rollback could not put aside is no finding: a cutover does that first.
    """
    own = _own(step)
    production = own.production
    checks = preflight_target.check_target(
        production.target,
        plan=production.plan,
        source_bytes=own.source.stat().st_size,
        application_role=production.ends.application_role(production.plan),
    )
    warnings = []
    if set_aside.pending(production.plan.name):
        taken = [check for check in checks if check.name == "target_schema_free" and check.outcome == "failed"]
        warnings = [f"{check.title}: not yet ({check.found}); the next cutover puts it aside first" for check in taken]
        checks = [check for check in checks if check not in taken]
    return Report(preflight_steps.count(checks), {}, checks, accept_unknown=True, warnings=warnings)


def check_places(step: Step) -> Report:
    """Look at the services, the application's health, the configuration and the places for backups, as a cutover does."""
    return preflight_steps.check_places(_own(step).production)


def take_backup(step: Step) -> Report:
    """As in a cutover, into a place of the rehearsal's own; what is said about that place concerns nobody."""
    return dataclasses.replace(take_backup_steps.take_backup(step), warnings=())


def keep_target(step: Step) -> Report:
    """Put the schema aside as a rollback does. With the target out of reach a rollback goes on; a rehearsal does not."""
    kept = rollback.keep_target(step)
    if kept.figures["pending"]:
        raise StepFailed("the schema was not put aside", where=step.run_id, found=str(kept.figures["reason"]))
    return kept


def check_restored(step: Step) -> Report:
    """What the way back left is the backup, byte for byte, without a fence, and its owner can write to it."""
    expected, found = step.manifest.sha256, files.digest(step.source)
    state = fence.status(step.source)
    same = Check(
        "restored_digest",
        "The file that went back is the backup",
        "passed" if found == expected else "failed",
        expected,
        found,
        "" if found == expected else "Do not start a cutover: its way back would end with another file than the backup.",
        str(step.source),
    )
    open_again = Check(
        "restored_fence", "No fence is left around it", "failed" if state.raised else "passed", "no fence", state.detail
    )
    return Report(
        "the way back is whole" if found == expected else "the way back is NOT whole",
        {"sha256": found},
        [same, open_again, writable.check_writable(step.source)],
    )


WAY_BACK = (
    ("keep_target", keep_target),
    ("restore_source", rollback.restore_source),
    ("check_restored", check_restored),
)
"""The way back as far as it is rehearsed, in its order; recorded as ``way_back.…``."""

BEGINNING = ("open_rehearsal", "create_database", "clone_source", "announce_start")
LOOKS = ("check_target", "check_source", "assess_source", "check_places")


def required_steps(step: Step) -> list[str]:
    """Names of the steps that must have passed for a green rehearsal, in their order."""
    moved = decide_steps.required_steps(step, "decide")
    moved = moved[moved.index("take_backup") :]
    return [
        *BEGINNING,
        *LOOKS,
        "apply_ddl",
        "apply_migrations",
        "fence_source",
        *moved,
        "mark_target",
        *(f"way_back.{name}" for name, _ in WAY_BACK),
    ]


def _later(step: Step) -> dict[str, Sequence[str]]:
    """What holds only for what came before it."""
    copies = [name for name in required_steps(step) if name.startswith("copy.")]
    written = [*copies, *runbook.FINISHING]
    proofs: dict[str, Sequence[str]] = {proof: written for proof in runbook.PROOFS if proof != "validate_foreign_keys"}
    return {
        **proofs,
        **dict.fromkeys(("check_source", "assess_source", "fence_source"), ("clone_source",)),
        "apply_ddl": ("create_database",),
        "take_backup": ("fence_source",),
        **dict.fromkeys(copies, ("take_backup", "apply_migrations")),
        "mark_target": ("take_backup", *written),
        "way_back.keep_target": ("mark_target",),
        "way_back.restore_source": ("take_backup",),
        "way_back.check_restored": ("way_back.restore_source",),
    }


def close_rehearsal(step: Step) -> Report:
    """Judge by the evidence, clear away what a green one has made, write the report. Runs again without harm.

    Raises:
        StepFailed: When not everything passed; Airflow shows the rehearsal red. Database and files are kept, and named.
    """
    own = _own(step)
    if not own.evidence.exists or own.evidence.last("run.opened") is None:
        raise StepFailed("the rehearsal never opened", where=own.run_id, do="See the task open_rehearsal for the reason.")
    sealed = own.evidence.sealed
    if sealed is None:
        try:
            lease.check(own.series, own.run_id, own.holder)
        except LeaseLost as lost:
            raise StepFailed("another rehearsal took over", where=own.run_id, found=lost.found) from None
        judged = verdict.decide(
            own.evidence.events(),
            required=required_steps(own),
            gates=(),
            entitled=(),
            changed=own.changed,
            later=_later(own),
        )
        outcome = rehearsals.GREEN if judged.outcome == "go_on" else rehearsals.RED
        if outcome == rehearsals.GREEN:
            _clear_away(own)
        why = (
            ""
            if outcome == rehearsals.GREEN
            else report_page.summary(own.evidence, own.plan)["first_failure"] or judged.why[0]
        )
        sealed = own.evidence.append(
            "sealed", outcome=outcome, summary=SENTENCES[outcome], why=why, kept=_left(own.evidence), by=own.holder
        )
    own.evidence.save("report.html", report_page.run_report(own.evidence, own.plan))
    summary = report_page.summary(own.evidence, own.plan)
    if sealed["outcome"] != rehearsals.GREEN:
        kept = sealed.get("kept") or []
        raise StepFailed(
            SENTENCES[rehearsals.RED],
            where=own.run_id,
            found=str(summary.get("first_failure") or sealed.get("why") or ""),
            do=f"Kept until the next rehearsal: {', '.join(kept)}." if kept else "",
        )
    return Report(SENTENCES[rehearsals.GREEN], {**summary, **_times(own)})


def _clear_away(own: RehearsalStep) -> None:
    """What cannot be removed now is named, and removed by the next rehearsal."""
    try:
        _discard(own.evidence, own.production.target)
    except CutoverError as error:
        own.log.warning("not everything could be removed: %s", error)


def _times(own: RehearsalStep) -> dict[str, float]:
    found = rehearsals.of(own.evidence)
    times = {} if found is None else {"down_seconds": found.down, "back_seconds": found.back}
    return {name: round(seconds, 3) for name, seconds in times.items() if seconds is not None}
