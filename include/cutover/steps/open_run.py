"""Opening a run: who may, what belongs to it, the announcement, and everything that is looked at before anything stops."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from include.cutover import files
from include.cutover.aftercare import rows_since_go_live
from include.cutover.application import configuration
from include.cutover.assessment import assess
from include.cutover.assessment import decided as assessment_decided
from include.cutover.assessment import page as assessment_page
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, CutoverError, Refused
from include.cutover.evidence import fingerprints, lease, source_lease
from include.cutover.evidence.record import Event, Evidence, runs
from include.cutover.extras import take as extras
from include.cutover.people import identities, notice_texts
from include.cutover.plan.model import load_plan
from include.cutover.preflight import places as preflight_places
from include.cutover.proof import expectations
from include.cutover.runs import clock as clocks
from include.cutover.runs import incident, rehearsals, schedule, schema_drift
from include.cutover.runs.clock import Clock
from include.cutover.source import schema as source_schema
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.go_live import fill
from include.cutover.steps.step import FROZEN_PLAN, Report, Step
from include.cutover.target import access, constraints, ledger, sql_files
from include.cutover.target import fence as target_fence
from include.cutover.target import schema as target_schema

ANNOUNCE_SECONDS = 5.0
"""What a step that tells people gives their channels; the outbox goes on after that."""


def open_run(step: Step) -> Report:
    """Start the evidence, freeze the plan, take the lease. A second try of the same run finds it open and goes on.

    Raises:
        Refused: When somebody else started it than the lead or a deputy, when automatic approval is not allowed, when
            another run is open or works on the same source, when this one was triggered while another was open, when the
            application already lives on the target, or when the incident of an earlier run is open.
    """
    opened = step.evidence.last("run.opened") if step.evidence.exists else None
    if opened is not None:
        lease.check(step.plan.name, step.run_id, step.holder)
        _begin_clock(step, opened)
        _hold_source(step)
        return Report("the run is open")
    plan = load_plan(step.plan.name)
    scheduled = str(step.params.get("scheduled") or "")
    actor = schedule.scheduled_by(plan.name, scheduled, step.run_id, step.actor) if scheduled else step.actor
    schedule.require_decider(plan, actor, "start a cutover")
    approve = step.params["approve"]
    if approve == "auto" and not plan.gates.allow_auto_approval:
        raise Refused(
            "the plan does not allow automatic approval",
            where=f"plan {plan.name}: gates.allow_auto_approval",
            expected="true, for a demo or a test",
            found="false",
            do="Trigger the DAG with approve: ask.",
        )
    _refuse_after(plan.name)
    _refuse_queued(plan.name, step.caller.triggered_at)
    incident.require_none_open(plan.name)
    start = window_start(step.params.get("window_start"))
    _refuse_over(plan.name, Clock.of(plan.window, start, rehearsals.measured(plan)))
    lease.acquire(plan.name, step.run_id, step.holder)
    # Before the run counts as open: from then on its plan is the frozen one, whatever becomes of the file.
    step.evidence.save(FROZEN_PLAN, plan.model_dump_json(indent=1))
    step.evidence.append(
        "run.opened",
        run_id=step.run_id,
        plan=plan.name,
        application=plan.application,
        source=str(step.source),
        dag_id=step.caller.dag_id,
        actor=actor,
        reason=step.params["reason"],
        scheduled=scheduled or None,
        approve=approve,
        window_start=start.isoformat(),
        window_end=(start + timedelta(minutes=plan.window.minutes)).isoformat(),
        notices=bool(step.params["notify"]),
        fingerprints=fingerprints.of_run(plan),
    )
    _begin_clock(step, opened=step.evidence.last("run.opened") or {})
    _hold_source(step)
    return Report(f"opened by {actor}: {step.params['reason']}")


def _begin_clock(step: Step, opened: Event) -> None:
    """Record the run's clock, and what it will send; what an earlier try recorded stays."""
    if clocks.read(step.evidence.events()) is None:
        start = datetime.fromisoformat(opened["window_start"])
        clock = Clock.of(step.plan.window, start, rehearsals.measured(step.plan))
        step.evidence.append(clocks.EVENT, **clock.as_fields())
    if opened.get("scheduled"):
        schedule.hand_over(step.plan.name, opened["scheduled"], step.evidence)
    notice_steps.post_ahead(step.evidence, step.plan, run_id=step.run_id, announced=bool(opened.get("scheduled")))


def _refuse_over(plan: str, clock: Clock) -> None:
    """No window that is as good as over: such a run could only go back."""
    if late := clock.late("open_run"):
        raise Refused(
            "the window is over before the run begins",
            where=f"plan {plan}: window_start",
            expected=f"a run that can be live before {clock.deadline:%Y-%m-%d %H:%M:%S} UTC",
            found=late,
            do="Name a later start, or none for now; or plan a longer window.",
        )


def _hold_source(step: Step) -> None:
    source_lease.acquire(step.source, plan=step.plan.name, run_id=step.run_id, evidence=step.evidence)


def window_start(value: str | None) -> datetime:
    """The start of the window from the trigger form; now when it is empty."""
    if not value:
        return datetime.now(UTC)
    start = datetime.fromisoformat(value)
    return (start if start.tzinfo else start.replace(tzinfo=UTC)).astimezone(UTC)


def _refuse_after(plan: str) -> None:
    """No cutover of an application that is live already."""
    for run in reversed(runs(plan)):
        sealed = run.sealed
        if sealed is not None and sealed.get("outcome") == "live":
            raise Refused(
                "the application already lives on the target",
                where=f"plan {plan}",
                found=f"the run {run.folder.name} ended live at {sealed['time']}",
                do="Roll that run back first if it has to be done again.",
            )


def _refuse_queued(plan: str, triggered_at: datetime | None) -> None:
    """A run that waited for the end of another one starts when that ends, and nobody has seen then how it ended."""
    for run in runs(plan):
        sealed = run.sealed
        if triggered_at is not None and sealed is not None and datetime.fromisoformat(sealed["time"]) > triggered_at:
            raise Refused(
                "this run was triggered before another one had ended, and waited for it",
                where=f"plan {plan}",
                expected="a run that is triggered when the one before is over",
                found=f"triggered at {triggered_at:%H:%M:%S} UTC; {run.folder.name} ended as {sealed['outcome']} later",
                do="Look at what that run left behind, then trigger a new one.",
            )


def announce(step: Step, *, notice: str, reason: str = "") -> Report:
    """Post one notice and send it to every channel. Never fails: what could not be delivered stays in the outbox, and is in
    the report.

    Safe to run again: a channel that got the notice does not get it twice.
    """
    moment = datetime.now(UTC) if notice == "rollback" else None
    notice_steps.post(step.evidence, step.plan, notice, run_id=step.run_id, reason=reason, moment=moment)
    notice_steps.deliver(step.evidence, step.plan, step.ends.channels, seconds=ANNOUNCE_SECONDS)
    sent, missing, words = notice_steps.told(step.evidence, notice, step.plan)
    return Report(
        f"{step.plan.application}: {notice_texts.SUBJECTS[notice]}: {words}", {"sent": len(sent), "failed": len(missing)}
    )


def wait_for_window(step: Step) -> Report:
    """Nothing is stopped before the window begins, nor when the source's schema is another than preflight looked at.

    From the freeze on only the run changes the application; plan, SQL and code are looked at before each step. Safe to run
    again.

    Raises:
        Refused: When it is too early, or the schema changed.
    """
    clock = notice_steps.clock_of(step.evidence, step.plan)
    if datetime.now(UTC) < clock.start:
        raise Refused(
            "the window has not begun", where=step.run_id, expected=f"{clock.start:%Y-%m-%d %H:%M:%S} UTC or later"
        )
    recorded = step.evidence.last(schema_drift.EVENT)
    if recorded is None:
        raise CannotCheck(
            "nobody knows the schema that preflight looked at", where=step.run_id, do="Run check_source first."
        )
    with source_schema.live_schema(step.source, step.plan.backup.directory) as connection:
        objects = source_schema.schema_objects(connection)
        fingerprint = source_schema.schema_fingerprint(connection)
    if fingerprint != recorded["fingerprint"]:
        raise Refused(
            "the source's schema has changed since preflight looked at it",
            where=str(step.source),
            expected="nothing but the run's own changes from the freeze on",
            found=str(schema_drift.between(recorded["objects"], objects)),
            do="Nothing was stopped. Find out who released it, then start a new run.",
        )
    return Report(f"the window has begun; it ends at {clock.end:%H:%M} UTC, the deadline is {clock.deadline:%H:%M} UTC")


def check_target(step: Step) -> Report:
    """Look at PostgreSQL: version, size, disk, connections, privileges, and that the schema is free. Changes nothing.

    A schema that an earlier rollback could not put aside, because PostgreSQL was down, is put aside first.
    """
    finished = finish_pending(step)
    checks = preflight_places.check_target(
        step.target,
        plan=step.plan,
        source_bytes=step.source.stat().st_size if step.source.exists() else 0,
        application_role=step.ends.application_role(step.plan),
    )
    if step.plan.access is not None and checks[0].outcome == "passed":
        checks += access.checks(step.target, step.plan, as_pipeline=True)
    return Report(count(checks), {"pending_fences_executed": finished}, checks, accept_unknown=True)


def finish_pending(step: Step) -> list[str]:
    """Put aside the schemas that earlier rollbacks had to leave, because the target was down then."""
    return [
        put_aside(step, run, run_id).name for run, run_id in pending(step.plan.name) if run.folder != step.evidence.folder
    ]


def pending(plan: str) -> list[tuple[Evidence, str]]:
    """Runs whose schema is still to be put aside, with their run ids."""
    found = []
    for run in runs(plan):
        left, kept = run.last("target.pending"), run.last("target.kept")
        if left is not None and (kept is None or kept["seq"] < left["seq"]):
            found.append((run, str(left["run_id"])))
    return found


def put_aside(step: Step, evidence: Evidence, run_id: str) -> target_schema.KeptSchema:
    """Shut run and application out of the target, export what the application wrote, and keep the schema under another name.

    Safe to run again.
    """
    epoch = ledger.take_over(step.target, run_id, step.holder)
    guard, schema = ledger.guard(run_id, epoch), step.plan.target_schema
    shut_out(step, evidence, guard)
    kept = target_schema.keep_schema(
        step.target,
        schema,
        run_id,
        guard,
        before=lambda connection: rows_since_go_live.record_export(evidence, schema, connection),
    )
    ledger.release(step.target, run_id, epoch)
    evidence.append("target.kept", schema=kept.name, rows=dict(kept.rows), by=step.holder)
    return kept


def shut_out(step: Step, evidence: Evidence, guard: ledger.Guard) -> str:
    """Shut the application's role out of the target; of an earlier run, the role that it had. Safe to run again."""
    taken = evidence.last("lease.target") or {}
    role = taken.get("application_role") or step.ends.application_role(step.plan)
    if role is None:
        return "the plan moves no application"
    ended = target_fence.shut_out(step.target, step.plan.target_schema, role, step.plan.target_fence, guard)
    evidence.append("target.fence", raised=True, role=role, way=step.plan.target_fence, sessions_ended=ended)
    return f"the role {role} is shut out" + (f", {ended} sessions of it were ended" if ended else "")


def check_source(step: Step) -> Report:
    """Clone the live file in one step and look at the clone: integrity, tables, columns, references. Safe to run again.

    The live file is read once, by the clone. The target is used for its catalog only, through a scratch schema.
    """
    with _clone(step) as clone:
        planned = target_schema.planned_schema(step.target, step.plan.sql_folder)
        checks = preflight_places.check_source(step.source, clone, plan=step.plan, planned=planned)
        sound = all(check.outcome == "passed" for check in checks if check.name == "source_integrity")
        warnings = _schema_drift(step, clone) if sound else []
        size = clone.stat().st_size
    if not step.rehearses:
        checks += _rehearsed(step)
    return Report(count(checks), {"bytes": size}, checks, warnings=warnings)


def _rehearsed(step: Step) -> list[Check]:
    """Record what the rehearsals before this run found; whether there is the one that the plan requires."""
    mine = rehearsals.fingerprint(step.evidence.events(), rehearsals.of_plan(step.plan))
    told = rehearsals.facts(step.plan, mine)
    step.evidence.append(rehearsals.EVENT, **told)
    required = rehearsals.check(step.plan, told)
    return [] if required is None else [required]


def _schema_drift(step: Step, clone: Path) -> list[str]:
    """Record the schema, and tell what changed since it was last proven: a release may have come in between."""
    with source_schema.snapshot(clone) as connection:
        fingerprint, objects = source_schema.schema_fingerprint(connection), source_schema.schema_objects(connection)
    before = schema_drift.baseline(step.plan.name, but=step.evidence)
    step.evidence.append(
        schema_drift.EVENT, fingerprint=fingerprint, objects=objects, compared_with=before[0] if before else None
    )
    if before is None or before[1]["fingerprint"] == fingerprint:
        return []
    run, recorded = before
    return [schema_drift.warning(run, recorded, schema_drift.between(recorded["objects"], objects))]


def assess_source(step: Step) -> Report:
    """Look at every value of a clone of the live file: what the target would not take, or would change. Safe to run again.

    What blocks stops the run here, before anything was stopped; the lines to put into the plan are in the report.
    """
    with _clone(step) as clone:
        found = assessment_decided.assess_decided(
            clone,
            step.plan,
            assess.read_target(step.target, step.plan.sql_folder),
            name=step.source.name,
            on_progress=_Telling(step.log),
        )
    step.evidence.save("assessment.html", assessment_page.render_html(found, step.plan))
    step.evidence.save("assessment.json", found.to_json())
    checks = [
        Check(
            f"assessment_{finding.code}",
            f"{finding.where or finding.value}: {finding.title}",
            "failed",
            "nothing that the target would not take as it is",
            str(finding).removeprefix("blocks: "),
            finding.do,
            finding.where,
        )
        for finding in found.blocks
    ]
    checks += [
        Check("assessment", f"Values of {table}", "passed", "", f"{rows:,} rows looked at", "", table)
        for table, rows in found.tables.items()
        if not any(finding.table == table for finding in found.blocks)
    ]
    docs = step.evidence.folder / "data_docs" / "assess_source"
    stage = expectations.run_list(
        "assessment",
        "Values of the source",
        checks,
        step.target,
        step.plan.target_schema,
        docs,
        step.log_url or None,
        about=f"{step.plan.application} · {step.run_id}",
    )
    decided = sum(finding.severity == "decision applied" for finding in found.findings)
    notes = sum(finding.severity == "note" for finding in found.findings)
    return Report(
        f"{found.rows:,} rows looked at: {len(found.blocks)} findings block, the plan decides {decided}, {notes} notes",
        {
            "rows": found.rows,
            "tables": dict(found.tables),
            "seconds": found.seconds,
            "blocks": len(found.blocks),
            "decided": decided,
            "notes": notes,
        },
        stage.checks,
    )


class _Telling:
    """Logs the progress of the assessment every five seconds."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._next = time.monotonic() + 5

    def __call__(self, progress: assess.Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 5
            self._log.info("%s: %s rows looked at", progress.table, f"{progress.rows:,}")


@contextlib.contextmanager
def _clone(step: Step) -> Iterator[Path]:
    """A clone of the live file, taken in one step, that is gone after the block."""
    scratch = step.plan.backup.directory / f".clone-{step.evidence.folder.name}-{step.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)
    try:
        files.require_space({scratch: step.source.stat().st_size if step.source.exists() else 0})
        source_schema.clone(step.source, scratch / "clone.db")
        yield scratch / "clone.db"
    except CutoverError as error:
        if error.where == str(scratch / "clone.db"):  # which is gone when somebody reads this
            error.where = str(step.source)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_places(step: Step) -> Report:
    """Look at people, services, the application's health and the places for backups. Leaves no file behind."""
    checks = [
        identities.check(step.plan, step.ends.identities()),
        *preflight_places.check_places(step.source, plan=step.plan),
        *_configuration(step),
    ]
    if step.plan.services and step.plan.smoke_tests is not None:
        checks += preflight_places.check_services(step.plan.services, step.plan.smoke_tests, step.remote)
    warnings = []
    for extra in extras.look(step.plan):
        if extra.required:
            checks.append(extra.preview)
        elif extra.problems:
            warnings.append(f"{extra.title} will not be kept: {'; '.join(extra.problems)}")
    return Report(count(checks), {}, checks, warnings=warnings)


def _configuration(step: Step) -> list[Check]:
    """Whether the values that go-live and rollback will write can be written."""
    settings = step.plan.configuration
    if settings is None:
        return []
    known = {"application_url": step.ends.application_url(step.plan), "source_path": str(step.source)}
    live, rolled_back = fill(settings.live, **known), fill(settings.rolled_back, **known)
    return [configuration.check(settings, live, rolled_back, remote=step.remote)]


def count(checks: list[Check]) -> str:
    """How many of the checks passed, and which did not."""
    bad = [check for check in checks if check.outcome == "failed"]
    unknown = [check for check in checks if check.outcome == "unknown"]
    text = f"{len(checks) - len(bad) - len(unknown)} of {len(checks)} checks passed"
    if bad:
        text += f"; failed: {'; '.join(f'{check.title}: {check.found}' for check in bad)}"
    if unknown:
        text += f"; could not be checked: {', '.join(check.title for check in unknown)}"
    return text


def apply_ddl(step: Step) -> Report:
    """Take the lease of the target, shut the application out of it, and make the tables.

    Files that are applied already are not applied again.
    """
    ledger.ensure(step.target)
    epoch = ledger.open_run(step.target, step.run_id, step.plan.name)
    role = step.ends.application_role(step.plan)
    step.evidence.append("lease.target", holder=step.holder, epoch=epoch, application_role=role)
    fenced = shut_out(step, step.evidence, step.guard)
    made = _migrate(step, "pre_data")
    return Report(f"{made.summary}; {fenced}", made.figures)


def apply_migrations(step: Step) -> Report:
    """Apply the numbered migrations that are not applied yet, and look that no right came with the new tables."""
    report = _migrate(step, "migrations")
    shut_out(step, step.evidence, step.guard)
    return report


def _migrate(step: Step, kind: str) -> Report:
    names = sql_files.apply(
        step.target, step.plan.sql_folder, kind, schema=step.plan.target_schema, run_id=step.run_id, guard=step.guard
    )
    return Report(f"{kind}: {len(names)} files applied" + (f" ({', '.join(names)})" if names else ""), {"applied": names})


def call_off(step: Step) -> Report:
    """Nothing was copied: take back the empty tables that this run made, and tell people. Safe to run again."""
    if step.evidence.last("lease.target", holder=step.holder) is None:
        cleared = "the target was not touched"
    else:
        try:
            dropped = constraints.drop_empty_schema_objects(step.target, step.plan.target_schema, step.run_id, step.guard)
            cleared = f"{len(dropped)} empty tables dropped"
        except (CutoverError, psycopg.Error) as error:
            step.evidence.append("target.pending", run_id=step.run_id)
            cleared = (
                f"the next run puts the target aside, as it could not be cleared now: {str(error).strip().splitlines()[0]}"
            )
    if step.evidence.last("notice", notice="start") is not None:
        announce(step, notice="cancelled", reason=_first_reason(step.evidence))
    return Report(f"called off; {cleared}")


def _first_reason(evidence: Evidence) -> str:
    decided = evidence.last("decision")
    why = decided["why"][0] if decided and decided["why"] else "it was called off"
    return f"{str(why)[:200].rstrip('.')}."
