"""Going back: rollback to the verified backup, release where nothing was copied yet, and the manual rollback's door.

Everything here needs the evidence and the plan only; it works with PostgreSQL down. Each step verifies its outcome and runs
twice without harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from include.cutover import files
from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import rows_since_go_live
from include.cutover.aftercare.retention.record import refuse_removed
from include.cutover.application import configuration, requests, services
from include.cutover.checks import Check
from include.cutover.errors import CutoverError, Refused
from include.cutover.evidence import claims, lease
from include.cutover.evidence.record import Event, Evidence, runs
from include.cutover.report import incident_document
from include.cutover.runs.verdict import ever_passed, has_begun, has_touched
from include.cutover.source import fence, restore, writable
from include.cutover.steps.abandon import call_off
from include.cutover.steps.announce import announce
from include.cutover.steps.go_live import fill, kept_configuration
from include.cutover.steps.set_aside import put_aside
from include.cutover.steps.step import Body, Report, Step, Terms, frozen_plan


def stop_services(step: Step) -> Report:
    """Stop whatever runs, on whichever database, and keep the services' logs for the inquiry."""
    if step.evidence.last("services.stopped") is None or step.evidence.last("services.started") is not None:
        step.evidence.append("services.stopped")
    results = services.stop(step.plan.services, step.remote)
    missing = _keep_logs(step)
    return Report(
        f"stopped: {', '.join(result.name for result in results) or 'the plan has no services'}"
        + (f"; no log is kept of {', '.join(missing)}" if missing else ""),
        {"logs_missing": missing},
    )


def _keep_logs(step: Step) -> dict[str, str]:
    """Save the services' logs, masked, as ``kept/logs/…``. Returns service to the reason why there is none; never fails."""
    settings = step.plan.configuration
    secrets: set[str] = set()
    if settings is not None:
        secrets = configuration.secrets(settings, kept_configuration(step, settings))
    logs, missing = services.kept_logs(step.plan.services, secrets, step.remote)
    try:
        files.make_private(step.evidence.folder / "kept")
        for name, text in logs.items():
            step.evidence.save(f"kept/logs/{name}.log", text, 0o600)
    except (CutoverError, OSError) as error:
        step.log.warning("the services' logs are not kept: %s", error)
        missing.update(dict.fromkeys(logs, "it could not be written"))
    return missing


def keep_target(step: Step) -> Report:
    """Shut the application out of the target, export what it wrote there, and put the schema aside; never drop it.

    Going back does not wait for PostgreSQL: with it down, this stays pending, is said so, and is done before any later run
    may start.
    """
    pending = step.evidence.append("target.pending", run_id=step.run_id)
    try:
        kept = put_aside(step, step.evidence, step.run_id)
    except (CutoverError, psycopg.Error) as error:
        reason = str(error).strip().splitlines()[0]
        step.log.warning("the target could not be put aside: %s", reason)
        written = rows_since_go_live.newest(step.evidence, since=pending["seq"])
        written = written if written.summary else rows_since_go_live.record_unknown(step.evidence, reason)
        return Report(
            "; ".join(filter(None, ["the target could not be put aside now; the next run does it first", written.summary])),
            {"pending": True, "reason": reason, "rows_written_after_go_live": written.figures},
        )
    written = rows_since_go_live.newest(step.evidence)
    told = f"kept as schema {kept.name} with {sum(kept.rows.values()):,} rows"
    return Report(
        "; ".join(filter(None, [told, written.summary])),
        {"schema": kept.name, "pending": False, "rows_written_after_go_live": written.figures},
    )


def restore_source(step: Step) -> Report:
    """Put the backup in the place of the file; what is found there goes into the evidence first.

    The source is the truth, and not overwritten, where there is no verified backup of it, and where the application was
    started on it since: it may have written. Then only a fence is lifted.
    """
    events = step.evidence.events()
    if not ever_passed(events, "take_backup"):
        return lift_fence(step)
    if _ran_on_source(events):
        lift_fence(step)
        return Report(f"{step.source.name} stays as it is: the application was started on it since it was brought back")
    result = restore.restore(step.source, step.manifest, step.evidence.folder / "kept")
    return Report(
        f"{step.source.name} is the backup again, hash {result.sha256[:12]}… equal",
        {"sha256": result.sha256, "kept": [path.name for path in result.kept]},
    )


def _ran_on_source(events: list[Event]) -> bool:
    """Whether a way back already came to starting the services on SQLite."""
    return has_begun(events, "rollback.start_services") or has_begun(events, "release.start_services")


def lift_fence(step: Step) -> Report:
    """Make the source writable again, as it was."""
    fence.lift(step.source)
    return Report(f"{step.source.name} is writable again")


def revert_configuration(step: Step) -> Report:
    """Bring back the configuration from before the switch, and set what the plan sets for a rolled-back application."""
    settings = step.plan.configuration
    if settings is None:
        return Report("the plan switches no configuration")
    kept = kept_configuration(step, settings)
    if not kept.exists():
        return Report(f"{configuration.name(settings)} was never switched")
    values = fill(settings.rolled_back, source_path=str(step.source))
    configuration.restore(settings, kept, values, remote=step.remote)
    return Report(f"{configuration.name(settings)} is back, with {', '.join(sorted(values))} set")


def start_services(step: Step) -> Report:
    """Start every service on SQLite; the downtime ends when the application says so."""
    results = services.start(step.plan.services, step.remote)
    return Report(f"started: {', '.join(result.name for result in results) or 'the plan has no services'}")


def check_health(step: Step) -> Report:
    """The application says that it runs on SQLite and shows the numbers of the backup, and its user can write there."""
    checks: list[Check] = []
    if step.plan.smoke_tests is not None:
        counts = dict(step.manifest.counts) if step.evidence.last("backup") else {}
        checks = requests.check_source_side(step.plan.smoke_tests, counts)
    checks.append(writable.check_writable(step.source))
    result = Report(f"{len(checks)} things looked at from outside", {}, checks)
    if result.outcome == "passed":
        step.evidence.append("services.started", on="source")
    return result


def write_incident(step: Step) -> Report:
    """What failed, when, and where the evidence is: the document that the inquiry starts from."""
    path = step.evidence.save(
        "incident.md", incident_document.incident_document(step.evidence, step.plan, rollback_reason(step))
    )
    return Report(f"written: {path.name}")


def give_up(step: Step) -> Report:
    """End a run that has touched nothing of the application: only what it made in the target is put aside."""
    kept = keep_target(step) if has_begun(step.evidence.events(), "apply_ddl") else Report("the target was not touched")
    if step.evidence.last("notice", notice="start") is not None:
        announce(step, notice="cancelled", reason=rollback_reason(step))
    return Report(f"nothing was stopped; {kept.summary}", kept.figures)


def rollback_reason(step: Step) -> str:
    """Why the run is rolled back: the person's word, else the first thing that failed."""
    asked = step.evidence.last("reopened") or step.evidence.last("rollback.asked")
    if asked is not None:
        return f"{asked['reason']} (asked for by {asked['by']})"
    decided = step.evidence.last("decision")
    return str(decided["why"][0]) if decided and decided["why"] else "no reason is recorded"


def announce_rollback(step: Step) -> Report:
    """Tell people that the application is back on SQLite."""
    return announce(step, notice="rollback", reason=rollback_reason(step))


ROLLBACK = (
    ("stop_services", stop_services),
    ("keep_target", keep_target),
    ("restore_source", restore_source),
    ("revert_configuration", revert_configuration),
    ("start_services", start_services),
    ("check_health", check_health),
    ("write_incident", write_incident),
    ("announce_rollback", announce_rollback),
)
"""The way back, in its order."""

RELEASE = (
    ("lift_fence", lift_fence),
    ("start_services", start_services),
    ("check_health", check_health),
    ("call_off", call_off),
)
"""The way back where nothing was copied yet."""


def way_back(group: str) -> list[tuple[str, Body, Terms]]:
    """The steps of ``rollback`` or ``release`` in their order: the step's name, its body, and when it may run."""
    names: list[str] = []
    # A rollback also begins where a branch died before it could decide.
    begins: tuple[str, ...] = ("forward", "go_live", "switching", "rollback") if group == "rollback" else (group,)
    found = []
    for name, body in {"rollback": ROLLBACK, "release": RELEASE}[group]:
        terms = Terms(way_back=True, course=begins if not names else (group,), touched=not names, in_turn=tuple(names))
        found.append((name, body, terms))
        names.append(f"{group}.{name}")
    return found


def open_rollback(step: Step, *, anybody: bool = False) -> Report:
    """Find the run to roll back, take the lease from it, and tell what was written to the target since go-live.

    Nothing is stopped yet. What was written will not be in SQLite; nobody has to agree to that, but it is said before.

    Args:
        anybody: Not only the lead or a deputy may ask; for the command, where the right to the files decides. It may also
            end a run that has stopped nothing yet.

    Raises:
        Refused: When no run is live or in flight, when that run stopped nothing yet, when it is rolled back already, or when
            somebody else than the lead or a deputy asks.
    """
    plan = step.plan
    own = Evidence.of(plan.name, step.own_run_id)
    asked = _asked(step)
    if not anybody and asked.by not in {person.user for person in plan.people.deciders}:
        raise Refused(
            "only the lead or a deputy may roll back",
            where=f"plan {plan.name}",
            expected=", ".join(person.user for person in plan.people.deciders),
            found=asked.by or "nobody known",
            do="Log in as one of them and trigger the DAG again.",
        )
    subject = _subject(plan.name, asked.run_id)
    run_id = _run_id(subject)
    events = subject.events()
    sealed = subject.sealed
    if sealed is not None and sealed.get("outcome") != "live" and not _left_half_done(sealed):
        raise Refused(
            "there is nothing to roll back",
            where=run_id,
            expected="a run that is live or in flight",
            found=f"it ended as {sealed.get('outcome')} at {sealed['time']}",
            do="Nothing was changed.",
        )
    cutover = f"{(subject.last('run.opened') or {}).get('dag_id')}/{run_id}"
    # A run that lost its lease cannot end by itself any more, whatever it had done.
    if not anybody and not has_touched(events) and lease.holds(plan.name, run_id, cutover):
        raise Refused(
            "there is nothing to roll back: the run has stopped nothing yet",
            where=run_id,
            do="Answer its gate with No-go; it then ends by itself. If Airflow ended it, clear its task close_run.",
        )
    begun_before = own.last("rollback.opened") is not None if own.exists else False
    # A later try has no right to take the lease back from whoever took it since.
    taken = (lease.check if begun_before else lease.take_over)(plan.name, run_id, step.holder)
    refuse_removed(plan.name, subject.folder.name)  # with the lease, behind which nothing is removed any more
    claims.wait_for_others(plan.name, lambda: lease.holds(plan.name, run_id, step.holder))
    if not begun_before:
        own.append("rollback.opened", run_id=step.own_run_id, subject=run_id, by=asked.by, reason=asked.reason)
    if sealed is not None:
        subject.append("reopened", by=asked.by, reason=asked.reason, holder=step.holder)
    elif subject.last("rollback.asked", holder=step.holder) is None:
        subject.append("rollback.asked", by=asked.by, reason=asked.reason, holder=step.holder)
    schema = (frozen_plan(subject) or plan).target_schema
    written = rows_since_go_live.record_count(subject, schema, lambda: step.target)
    told = [f"rolling back {run_id}: {asked.reason}", written.summary]
    figures = {"subject": run_id, "epoch": taken.epoch, "rows_written_after_go_live": written.figures}
    return Report("; ".join(filter(None, told)), figures)


@dataclass(frozen=True)
class _Asked:
    """Who asked for a rollback, of which run (empty for the one that is live or in flight), and why."""

    by: str | None
    run_id: str
    reason: str


def _asked(step: Step) -> _Asked:
    """What the trigger form says; for a run that the aftercare triggered, what its evidence says.

    Airflow names as its actor who took the application live, and not who answered the aftercare's question.
    """
    found = aftercare_record.request(step.plan.name, step.own_run_id)
    if found is not None:
        return _Asked(found["by"], str(found["subject"]), str(found["reason"]))
    return _Asked(step.actor, str(step.params.get("run_id") or "").strip(), str(step.params["reason"]))


def _left_half_done(sealed: dict[str, object]) -> bool:
    return sealed.get("outcome") == "failed"


def _run_id(evidence: Evidence) -> str:
    opened = evidence.last("run.opened")
    return str(opened["run_id"]) if opened else evidence.folder.name


def _subject(plan: str, wanted: str) -> Evidence:
    if wanted:
        found = Evidence.of(plan, wanted)
        if found.exists and found.last("run.opened") is not None:
            return found
    else:
        for run in reversed(runs(plan)):
            if run.last("run.opened") is None:
                continue
            sealed = run.sealed
            if sealed is None or sealed.get("outcome") in ("live", "failed"):
                return run
    known = ", ".join(_run_id(run) for run in runs(plan) if run.last("run.opened")) or "none"
    raise Refused(
        "there is no such run to roll back" if wanted else "there is nothing to roll back",
        where=f"plan {plan}",
        expected="a run that is live or in flight",
        found=f"run {wanted}" if wanted else "no run is live or in flight",
        do=f"Runs with evidence: {known}.",
    )
