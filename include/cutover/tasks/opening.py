"""Opening a run: who may, what belongs to it, the announcement, and everything that is looked at before anything stops."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import psycopg

from include.cutover import (
    assessment,
    assessment_page,
    configuration,
    content_stage,
    files,
    fingerprints,
    finishing,
    lease,
    ledger,
    migrations,
    notices,
    preflight,
    source,
    target,
)
from include.cutover.checks import Check, Outcome
from include.cutover.errors import CutoverError, Refused, WrongData
from include.cutover.evidence import Evidence, runs
from include.cutover.plan import load_plan
from include.cutover.tasks import channels, connections
from include.cutover.tasks.live import fill
from include.cutover.tasks.step import FROZEN_PLAN, Report, Step


def open_run(step: Step) -> Report:
    """Start the evidence, freeze the plan, take the lease. A second try of the same run finds it open and goes on.

    Raises:
        Refused: When somebody else started it than the lead or a deputy, when automatic approval is not allowed, when
            another run is open, or when the application already lives on the target.
    """
    opened = step.evidence.last("run.opened") if step.evidence.exists else None
    if opened is not None:
        lease.check(step.plan.name, step.run_id, step.holder)
        return Report("the run is open")
    plan = load_plan(step.plan.name)
    if step.actor not in {person.user for person in plan.people.deciders}:
        raise Refused(
            "only the lead or a deputy may start a cutover",
            where=f"plan {plan.name}",
            expected=", ".join(person.user for person in plan.people.deciders),
            found=step.actor or "nobody known",
            do="Log in as one of them and trigger the DAG again.",
        )
    approve = step.params["approve"]
    if approve == "auto" and not plan.gates.allow_auto_approval:
        raise Refused(
            "the plan does not allow automatic approval",
            where=f"plan {plan.name}: gates.allow_auto_approval",
            expected="true, for a demo or a test",
            found="false",
            do="Trigger the DAG with approve: ask.",
        )
    _refuse_when_live(plan.name)
    lease.acquire(plan.name, step.run_id, step.holder)
    start = window_start(step.params.get("window_start"))
    step.evidence.append(
        "run.opened",
        run_id=step.run_id,
        plan=plan.name,
        application=plan.application,
        dag_id=step.dag_id,
        actor=step.actor,
        reason=step.params["reason"],
        approve=approve,
        window_start=start.isoformat(),
        window_end=(start + timedelta(minutes=plan.window.minutes)).isoformat(),
        notices=bool(step.params["notify"]),
        fingerprints=fingerprints.of_run(plan),
    )
    step.evidence.save(FROZEN_PLAN, plan.model_dump_json(indent=1))
    return Report(f"opened by {step.actor}: {step.params['reason']}")


def window_start(value: str | None) -> datetime:
    """The start of the window from the trigger form; now when it is empty."""
    if not value:
        return datetime.now(UTC)
    start = datetime.fromisoformat(value)
    return start if start.tzinfo else start.replace(tzinfo=UTC)


def _refuse_when_live(plan: str) -> None:
    for run in reversed(runs(plan)):
        sealed = run.sealed
        if sealed is not None and sealed.get("outcome") == "live":
            raise Refused(
                "the application already lives on the target",
                where=f"plan {plan}",
                found=f"the run {run.folder.name} ended live at {sealed['time']}",
                do="Roll that run back first if it has to be done again.",
            )


def announce(step: Step, *, notice: str, reason: str = "") -> Report:
    """Send one notice to every channel. Never fails: what could not be delivered is in the evidence and the report.

    Safe to run again: a channel that got the notice does not get it twice.
    """
    opened = step.evidence.last("run.opened") or {}
    values = notice_values(step, opened, reason)
    text = notices.render(getattr(step.plan.notices, notice), values)
    subject = {
        "start": f"{step.plan.application}: migration to PostgreSQL begins",
        "completion": f"{step.plan.application}: migration complete",
        "rollback": f"{step.plan.application}: migration rolled back",
        "cancelled": f"{step.plan.application}: migration did not take place",
    }[notice]
    wanted = channels.channels(step.plan) if opened.get("notices", True) else []
    deliveries = notices.send(notice, text, subject, wanted, step.evidence)
    sent = [delivery.channel for delivery in deliveries if delivery.outcome == "sent"]
    failed = [delivery.channel for delivery in deliveries if delivery.outcome != "sent"]
    if failed:
        step.log.warning("not delivered to %s; the cutover goes on", ", ".join(failed))
    told = f"sent to {', '.join(sent)}" if sent else "sent to nobody"
    return Report(
        f"{subject}: {told}" + (f", not to {', '.join(failed)}" if failed else ""),
        {"sent": len(sent), "failed": len(failed)},
    )


def notice_values(step: Step, opened: dict[str, Any], reason: str) -> dict[str, str]:
    """What the placeholders of the notices become."""
    lead = step.plan.people.lead
    start = datetime.fromisoformat(opened["window_start"]) if opened.get("window_start") else datetime.now(UTC)
    moment = datetime.now(UTC) if step.name.startswith("announce_rollback") else start
    return {
        "time": f"{moment:%Y-%m-%d %H:%M} UTC",
        "end": f"{start + timedelta(minutes=step.plan.window.minutes):%Y-%m-%d %H:%M} UTC",
        "minutes": str(step.plan.window.minutes),
        "lead": f"{lead.name} ({lead.contact or lead.email})",
        "application": step.plan.application,
        "reason": reason,
        "run": step.run_id,
    }


def check_target(step: Step) -> Report:
    """Look at PostgreSQL: version, size, disk, connections, privileges, and that the schema is free. Changes nothing.

    A schema that an earlier rollback could not put aside, because PostgreSQL was down, is put aside first.
    """
    finished = finish_pending(step)
    checks = preflight.check_target(
        step.target,
        plan=step.plan,
        source_bytes=step.source.stat().st_size if step.source.exists() else 0,
        application_role=connections.application_role(step.plan),
    )
    return Report(_count(checks), {"pending_fences_executed": finished}, checks, accept_unknown=True)


def finish_pending(step: Step) -> list[str]:
    """Put aside the schemas that earlier rollbacks had to leave, because the target was down then."""
    done = []
    for run in runs(step.plan.name):
        if run.folder == step.evidence.folder:
            continue
        pending, kept = run.last("target.pending"), run.last("target.kept")
        if pending is not None and (kept is None or kept["seq"] < pending["seq"]):
            done.append(put_aside(step, run, str(pending["run_id"])).name)
    return done


def put_aside(step: Step, evidence: Evidence, run_id: str) -> target.KeptSchema:
    """Shut the run out of the target and keep its schema under a name of its own. Safe to run again."""
    epoch = ledger.take_over(step.target, run_id, step.holder)
    kept = target.keep_schema(
        step.target, step.plan.target_schema, run_id, connections.application_role(step.plan), ledger.guard(run_id, epoch)
    )
    ledger.release(step.target, run_id, epoch)
    evidence.append("target.kept", schema=kept.name, rows=dict(kept.rows), by=step.holder)
    return kept


def check_source(step: Step) -> Report:
    """Clone the live file in one step and look at the clone: integrity, tables, columns, references. Safe to run again.

    The live file is read once, by the clone. The target is used for its catalog only, through a scratch schema.
    """
    with _clone(step) as clone:
        planned = target.planned_schema(step.target, step.plan.sql_folder)
        checks = preflight.check_source(step.source, clone, plan=step.plan, planned=planned)
    return Report(_count(checks), {}, checks)


def assess_source(step: Step) -> Report:
    """Look at every value of a clone of the live file: what the target would not take, or would change. Safe to run again.

    What blocks stops the run here, before anything was stopped; the lines to put into the plan are in the report.
    """
    with _clone(step) as clone:
        found = assessment.assess(
            clone,
            step.plan,
            assessment.read_target(step.target, step.plan.sql_folder),
            name=step.source.name,
            scratch=clone.parent,
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
    stage = content_stage.check_list(
        "assessment", "Values of the source", checks, step.target, step.plan.target_schema, docs, step.log_url or None
    )
    decided = sum(finding.severity == "decision applied" for finding in found.findings)
    notes = sum(finding.severity == "note" for finding in found.findings)
    return Report(
        f"{found.rows:,} rows looked at: {len(found.blocks)} findings block, the plan decides {decided}, {notes} notes",
        {"rows": found.rows, "seconds": found.seconds, "blocks": len(found.blocks), "decided": decided, "notes": notes},
        stage.checks,
    )


class _Telling:
    """Logs the progress of the assessment every five seconds."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._next = time.monotonic() + 5

    def __call__(self, progress: assessment.Progress) -> None:
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
        source.clone(step.source, scratch / "clone.db")
        yield scratch / "clone.db"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_places(step: Step) -> Report:
    """Look at the services, the application's health and the places for backups. Leaves no file behind."""
    checks = [*preflight.check_places(step.source, plan=step.plan), *_configuration(step)]
    if step.plan.services and step.plan.smoke_tests is not None:
        checks += preflight.check_services(step.plan.services, step.plan.smoke_tests)
    return Report(_count(checks), {}, checks)


def _configuration(step: Step) -> list[Check]:
    """Whether the values that go-live and rollback will write have a form that a dotenv file can hold."""
    settings = step.plan.configuration
    if settings is None:
        return []
    known = {"application_url": connections.application_url(step.plan), "source_path": str(step.source)}
    try:
        for values in (settings.live, settings.rolled_back):
            for key, value in fill(values, **known).items():
                configuration.line(key, value)
    except WrongData as error:
        outcome, found, do = "failed", error.message, error.do
    else:
        outcome, found, do = "passed", "yes", ""
    return [
        Check(
            "configuration_values",
            f"What {settings.file.name} will hold can be written",
            cast("Outcome", outcome),
            "values that dotenv and shell read alike",
            found,
            do,
            str(settings.file),
        )
    ]


def _count(checks: list[Check]) -> str:
    bad = [check for check in checks if check.outcome == "failed"]
    unknown = [check for check in checks if check.outcome == "unknown"]
    text = f"{len(checks) - len(bad) - len(unknown)} of {len(checks)} checks passed"
    if bad:
        text += f"; failed: {'; '.join(f'{check.title}: {check.found}' for check in bad)}"
    if unknown:
        text += f"; could not be checked: {', '.join(check.title for check in unknown)}"
    return text


def apply_ddl(step: Step) -> Report:
    """Take the lease of the target and make the tables. Files that are applied already are not applied again."""
    ledger.ensure(step.target)
    epoch = ledger.open_run(step.target, step.run_id, step.plan.name)
    step.evidence.append("lease.target", holder=step.holder, epoch=epoch)
    return _migrate(step, "pre_data")


def apply_migrations(step: Step) -> Report:
    """Apply the numbered migrations that are not applied yet."""
    return _migrate(step, "migrations")


def _migrate(step: Step, kind: str) -> Report:
    names = migrations.apply(
        step.target, step.plan.sql_folder, kind, schema=step.plan.target_schema, run_id=step.run_id, guard=step.guard
    )
    return Report(f"{kind}: {len(names)} files applied" + (f" ({', '.join(names)})" if names else ""), {"applied": names})


def call_off(step: Step) -> Report:
    """Nothing was copied: take back the empty tables that this run made, and tell people. Safe to run again."""
    if step.evidence.last("lease.target", holder=step.holder) is None:
        cleared = "the target was not touched"
    else:
        try:
            dropped = finishing.drop_empty_schema_objects(step.target, step.plan.target_schema, step.run_id, step.guard)
            cleared = f"{len(dropped)} empty tables dropped"
        except (CutoverError, psycopg.Error) as error:
            cleared = f"the tables stay in the target: {str(error).strip().splitlines()[0]}"
    if step.evidence.last("notice", notice="start") is not None:
        announce(step, notice="cancelled", reason=_first_reason(step.evidence))
    return Report(f"called off; {cleared}")


def _first_reason(evidence: Evidence) -> str:
    decided = evidence.last("decision")
    why = decided["why"][0] if decided and decided["why"] else "it was called off"
    return f"{str(why)[:200].rstrip('.')}."
