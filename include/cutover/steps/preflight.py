"""Checks both ends before anything stops."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from include.cutover import files
from include.cutover.application import configuration
from include.cutover.assessment.decided import assess_decided
from include.cutover.assessment.findings import Assessment
from include.cutover.assessment.page import render_html
from include.cutover.assessment.tables import RowsRead
from include.cutover.assessment.target import read_target
from include.cutover.checks import Check
from include.cutover.errors import CutoverError
from include.cutover.extras.take import preview_extras
from include.cutover.people import identities
from include.cutover.preflight import places as preflight_places
from include.cutover.preflight import services as preflight_services
from include.cutover.preflight import source as preflight_source
from include.cutover.preflight import target as preflight_target
from include.cutover.proof import expectations
from include.cutover.proof.docs_site import DocsSite
from include.cutover.runs import rehearsals, runbook, schema_drift
from include.cutover.source import cloning, companions, other_names, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.steps import scratch as scratch_folders
from include.cutover.steps import source_file
from include.cutover.steps.configuration import fill
from include.cutover.steps.set_aside import finish_pending
from include.cutover.steps.step import Report, Step
from include.cutover.target import access_checks
from include.cutover.target import schema as target_schema


def check_target(step: Step) -> Report:
    """Check PostgreSQL: version, size, disk, connections, privileges, and a free schema. Changes nothing.

    A schema that an earlier rollback could not set aside, because PostgreSQL was down, is set aside first.
    """
    finished = finish_pending(step)
    checks = preflight_target.check_target(
        step.target,
        plan=step.plan,
        source_bytes=step.source.stat().st_size if step.source.exists() else 0,
        application_role=step.ends.application_role(step.plan),
    )
    if step.plan.access is not None and checks[0].outcome == "passed":
        checks += access_checks.examine(step.target, step.plan, as_pipeline=True)
    return Report(count(checks), {"pending_fences_executed": finished}, checks, accept_unknown=True)


def check_source(step: Step) -> Report:
    """Clone the live file atomically and check the clone: integrity, tables, columns, references. Safe to run again.

    The live file is read once, by the clone. The target is used for its catalog only, through a scratch schema.
    """
    source_file.record(step)
    live = preflight_source.check_source_file(step.source, step.plan.source_other_names)
    unknown_names = [check for check in live if check.name == other_names.NAME and check.outcome != "passed"]
    if unknown_names:  # a clone would miss rows
        return Report(count(live), {}, live)
    with _clone(step) as clone:
        planned = target_schema.planned_schema(step.target, step.plan.sql_folder)
        checks = preflight_source.check_source(step.source, clone, plan=step.plan, planned=planned)
        sound = all(check.outcome == "passed" for check in checks if check.name == "source_integrity")
        warnings = companions.warnings(step.source, step.plan.source_other_names)
        warnings += _schema_drift(step, clone) if sound else []
        size = clone.stat().st_size
    if not step.rehearses:
        checks += _rehearsed(step)
    return Report(count(checks), {"bytes": size}, checks, warnings=warnings)


def _rehearsed(step: Step) -> list[Check]:
    """Record the results of earlier rehearsals, and check that the one that the plan requires is there."""
    mine = rehearsals.fingerprint(step.evidence.events(), rehearsals.of_plan(step.plan))
    facts = rehearsals.facts(step.plan, mine)
    step.evidence.append(rehearsals.EVENT, **facts)
    required = rehearsals.check(step.plan, facts)
    return [] if required is None else [required]


def _schema_drift(step: Step, clone: Path) -> list[str]:
    """Record the schema, and warn of changes since it was last proven: a release may have come in between."""
    with snapshots.snapshot(clone) as connection:
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
    """Check every value of a clone of the live file for what the target would refuse or change. Safe to run again.

    A blocking finding stops the run here, before anything is stopped; the lines for the plan are in the report.
    """
    with _clone(step) as clone:
        found = assess_decided(
            clone,
            step.plan,
            read_target(step.target, step.plan.sql_folder),
            name=step.source.name,
            on_progress=_ProgressLog(step.log),
        )
    step.evidence.save("assessment.html", render_html(found, step.plan))
    step.evidence.save("assessment.json", found.to_json())
    checks = _assessment_checks(found)
    docs = step.evidence.folder / "data_docs" / runbook.ASSESS_SOURCE
    stage = expectations.run_list(
        "assessment",
        "Values of the source",
        checks,
        step.target,
        step.plan.target_schema,
        DocsSite(docs, step.log_url or None, f"{step.plan.application} · {step.run_id}"),
    )
    decided = sum(finding.severity == "decision applied" for finding in found.findings)
    notes = sum(finding.severity == "note" for finding in found.findings)
    return Report(
        f"{found.rows:,} rows checked: {len(found.blocks)} findings block, the plan decides {decided}, {notes} notes",
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


def _assessment_checks(found: Assessment) -> list[Check]:
    """Return a failed check for each blocking finding, and a passed one for each table without any."""
    checks = [
        Check(
            f"assessment_{finding.code}",
            f"{finding.where or finding.value}: {finding.title}",
            "failed",
            "no value that the target would refuse or change",
            str(finding).removeprefix("blocks: "),
            finding.do,
            finding.where,
        )
        for finding in found.blocks
    ]
    checks += [
        Check("assessment", f"Values of {table}", "passed", "", f"{rows:,} rows checked", "", table)
        for table, rows in found.tables.items()
        if not any(finding.table == table for finding in found.blocks)
    ]
    return checks


class _ProgressLog:
    """Logs the progress of the assessment every five seconds."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._next = time.monotonic() + 5

    def __call__(self, progress: RowsRead) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 5
            self._log.info("%s: %s rows checked", progress.table, f"{progress.rows:,}")


@contextlib.contextmanager
def _clone(step: Step) -> Iterator[Path]:
    """Yield a clone of the live file, taken atomically; it is removed after the block."""
    scratch = scratch_folders.of(step, f"clone-{step.name}")
    try:
        files.require_space({scratch: step.source.stat().st_size if step.source.exists() else 0})
        cloning.clone(step.source, scratch / "clone.db", others=step.plan.source_other_names)
        yield scratch / "clone.db"
    except CutoverError as error:
        if error.where == str(scratch / "clone.db"):  # which is removed before anyone reads this
            error.where = str(step.source)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_places(step: Step) -> Report:
    """Check people, services, the application's health and the places for backups. Leaves no file behind."""
    checks = [
        identities.check(step.plan, step.ends.identities()),
        *preflight_places.check_places(step.source, plan=step.plan),
        *_configuration(step),
    ]
    if step.plan.services and step.plan.smoke_tests is not None:
        checks += preflight_services.check_services(step.plan.services, step.plan.smoke_tests, step.remote)
    warnings = []
    for extra in preview_extras(step.plan):
        if extra.required:
            checks.append(extra.preview)
        elif extra.problems:
            warnings.append(f"{extra.title} will not be kept: {'; '.join(extra.problems)}")
    return Report(count(checks), {}, checks, warnings=warnings)


def _configuration(step: Step) -> list[Check]:
    """Check that the values of go-live and rollback can be written."""
    settings = step.plan.configuration
    if settings is None:
        return []
    known = {"application_url": step.ends.application_url(step.plan), "source_path": str(step.source)}
    live, rolled_back = fill(settings.live, **known), fill(settings.rolled_back, **known)
    return [configuration.check(settings, live, rolled_back, remote=step.remote)]


def count(checks: list[Check]) -> str:
    """Report how many checks passed, and which did not."""
    bad = [check for check in checks if check.outcome == "failed"]
    unknown = [check for check in checks if check.outcome == "unknown"]
    text = f"{len(checks) - len(bad) - len(unknown)} of {len(checks)} checks passed"
    if bad:
        text += f"; failed: {'; '.join(f'{check.title}: {check.found}' for check in bad)}"
    if unknown:
        text += f"; could not be checked: {', '.join(check.title for check in unknown)}"
    return text
