"""The steps of ``rehearsal_<plan>`` that are not those of a cutover: clone, disposable database, way back, judgement.

The application is not changed: its services, its configuration, its file and the target's database are checked and not
changed, and no notice is sent. A rehearsal has its own evidence and lease, and stops when a cutover opens.
"""

from __future__ import annotations

import dataclasses
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.errors import CutoverError, LeaseLost, StepFailed
from include.cutover.evidence import claims, fingerprints, lease
from include.cutover.evidence.record import Evidence
from include.cutover.plan.file import load_plan
from include.cutover.preflight import target as preflight_target
from include.cutover.report import page as report_page
from include.cutover.runs import deciders, rehearsals, runbook, verdict
from include.cutover.runs.row import Point
from include.cutover.source import cloning, fence, writable
from include.cutover.steps import preflight as preflight_steps
from include.cutover.steps import rollback, set_aside
from include.cutover.steps import take_backup as take_backup_steps
from include.cutover.steps.rehearsal_step import SCRATCH, RehearsalStep, own_step
from include.cutover.steps.step import FROZEN_PLAN, Body, Report, Step
from include.cutover.target import disposable

SENTENCES = {
    rehearsals.GREEN: "rehearsed: everything passed on a clone, the way back included",
    rehearsals.RED: "NOT green: this rehearsal found what would stop a cutover",
}


def open_rehearsal(step: Step) -> Report:
    """Take the lease of the rehearsals, freeze the plan, start the evidence. A second try finds it open and continues.

    An earlier rehearsal that is still open was killed: it can do nothing more.

    Raises:
        Refused: When anyone but the lead or a deputy started it, or while a cutover is open.
    """
    own = own_step(step)
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
    """Remove databases and files of earlier rehearsals, then create a database on the target's server. Safe to run again.

    Where the form says so, those of earlier rehearsals are kept and named.
    """
    own = own_step(step)
    server = own.production.target
    left, warnings = _earlier(own, server)
    name = disposable.name(own.plan.name, str(own.evidence.folder.resolve()))
    # Recorded before it is made: however this attempt ends, the next rehearsal knows what to drop.
    own.evidence.append(rehearsals.DATABASE, name=name, state="making")
    made, lacks = disposable.make(server, name)
    own.evidence.append(rehearsals.DATABASE, name=name, state="made")
    if lacks:
        warnings.append(f"the target has extensions that the disposable database lacks: {'; '.join(lacks)}")
    unknown = sorted(set(disposable.there(server, own.plan.name)) - {name} - _recorded(own.plan.name))
    if unknown:
        warnings.append(f"databases of rehearsals that this host did not record: {', '.join(unknown)}")
    summary = f"{name} {'made' if made else 'is there'}" + (f"; removed: {', '.join(left)}" if left else "")
    return Report(summary, {"database": name, "removed": left}, warnings=warnings)


def _recorded(plan: str) -> set[str]:
    """Return every database that a rehearsal of this host recorded."""
    events = (evidence.last(rehearsals.DATABASE) for evidence in rehearsals.evidences(plan))
    return {event["name"] for event in events if event is not None}


def _earlier(own: RehearsalStep, server: str) -> tuple[list[str], list[str]]:
    """Remove databases and files of earlier rehearsals, or name them; close rehearsals that were killed."""
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
    """Return the database and the folders that a rehearsal still has."""
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
    """Clone the live file atomically, without stopping anything. Safe to run again: the clone is made anew.

    From here on the clone is the source.
    """
    own = own_step(step)
    live, clone = own.production.source, own.source
    scratch = clone.parent
    shutil.rmtree(scratch, ignore_errors=True)
    files.make_private(scratch.parent)
    files.make_private(scratch)
    size = sum(item.stat().st_size for item in (live, *files.side_files(live)) if item.exists())
    # The clone, its backups, their copies with the plan's decisions, and the copy that goes back to its place.
    files.require_space({scratch: 6 * size})
    cloning.clone(live, clone, others=own.production.plan.source_other_names)
    size = clone.stat().st_size
    return Report(f"{live.name}: {size:,} bytes, cloned in one step", {"bytes": size})


def check_target(step: Step) -> Report:
    """Check the target itself, with the roles of a cutover. Changes nothing.

    A schema that an earlier rollback could not set aside is not a finding: a cutover does that first.
    """
    own = own_step(step)
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
        warnings = [f"{check.title}: not yet ({check.found}); the next cutover sets it aside first" for check in taken]
        checks = [check for check in checks if check not in taken]
    return Report(preflight_steps.count(checks), {}, checks, accept_unknown=True, warnings=warnings)


def check_places(step: Step) -> Report:
    """Check services, the application's health, the configuration and the places for backups, as a cutover does."""
    return preflight_steps.check_places(own_step(step).production)


def take_backup(step: Step) -> Report:
    """Take the backup as in a cutover, into the rehearsal's own folder; warnings about that folder are dropped."""
    return dataclasses.replace(take_backup_steps.take_backup(step), warnings=())


def keep_target(step: Step) -> Report:
    """Set the schema aside as a rollback does. Without the target a rollback continues; a rehearsal does not."""
    kept = rollback.keep_target(step)
    if kept.figures["pending"]:
        raise StepFailed(
            "the schema was not set aside",
            where=step.run_id,
            found=str(kept.figures["reason"]),
            do="Correct the cause, then rehearse again.",
        )
    return kept


def check_restored(step: Step) -> Report:
    """Check that the restored file is the backup, byte for byte, without a fence, and that its owner can write to it."""
    expected, found = step.manifest.sha256, files.digest(step.source)
    state = fence.status(step.source)
    same = Check(
        "restored_digest",
        "The restored file is the backup",
        "passed" if found == expected else "failed",
        expected,
        found,
        "" if found == expected else "Do not start a cutover: its rollback would end with another file than the backup.",
        str(step.source),
    )
    open_again = Check(
        "restored_fence", "No fence is left around it", "failed" if state.raised else "passed", "no fence", state.detail
    )
    return Report(
        "the way back is complete" if found == expected else "the way back is NOT complete",
        {"sha256": found},
        [same, open_again, writable.check_writable(step.source)],
    )


BODIES: dict[str, Body] = {
    f"{runbook.REHEARSED_BACK}.keep_target": keep_target,
    f"{runbook.REHEARSED_BACK}.restore_source": rollback.restore_source,
    f"{runbook.REHEARSED_BACK}.check_restored": check_restored,
}
"""Step of the way back → body; the order is that of the runbook."""


def close_rehearsal(step: Step) -> Report:
    """Close by the evidence, remove database and files of a green rehearsal, write the report. Safe to run again.

    Raises:
        StepFailed: Unless everything passed; Airflow shows the rehearsal red. Database and files are kept, and named.
    """
    own = own_step(step)
    if not own.evidence.exists or own.evidence.last("run.opened") is None:
        raise StepFailed("the rehearsal never opened", where=own.run_id, do="See the task open_rehearsal for the reason.")
    sealed = own.evidence.sealed
    if sealed is None:
        try:
            lease.check(own.series, own.run_id, own.holder)
        except LeaseLost as lost:
            raise StepFailed(
                "another rehearsal took over", where=own.run_id, found=lost.found, do="Follow that rehearsal."
            ) from None
        judged = verdict.decide(
            own.evidence.events(),
            required=runbook.required(own.plan, Point.REHEARSAL),
            gates=(),
            entitled=(),
            changed=own.changed,
            later=runbook.later(own.plan, Point.REHEARSAL),
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
    """Remove database and files; the next rehearsal removes those that cannot be removed now."""
    try:
        _discard(own.evidence, own.production.target)
    except CutoverError as error:
        own.log.warning("not everything could be removed: %s", error)


def _times(own: RehearsalStep) -> dict[str, float]:
    found = rehearsals.of(own.evidence)
    times = {} if found is None else {"down_seconds": found.down, "back_seconds": found.back}
    return {name: round(seconds, 3) for name, seconds in times.items() if seconds is not None}
