"""Checks of the source by ``doctor``: those of preflight, and the schema's version and changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.connections import environment
from include.cutover.evidence.record import Evidence
from include.cutover.plan.model import Plan
from include.cutover.preflight.doctor_site import Site, result
from include.cutover.preflight.source import check_clone, check_source_file
from include.cutover.runs import schema_drift
from include.cutover.source import cloning, companions, other_names, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.target.schema import planned_schema

ALEMBIC = "alembic_version"


def source_checks(site: Site) -> list[Check]:
    """Run the checks of preflight on the file and on a clone of it; check the schema's version and changes."""
    plan = site.plan
    if site.live is None:
        do = f"Set --source, or {environment.variable(plan.connections.source)} in the environment."
        return [result("source_connection", "The source's file is named", None, "", "it is not defined", do)]
    checks = check_source_file(site.live, plan.source_other_names)
    if any(check.outcome != "passed" for check in checks if check.name in ("source_file", other_names.NAME)):
        return checks
    checks.append(_companions(site.live, plan))
    with files.scratch("doctor") as scratch:
        clone = scratch / "clone.db"
        cloning.sound_clone(site.live, clone, others=plan.source_other_names)
        with snapshots.snapshot(clone) as reading:
            checks.append(_alembic(reading, plan))
            objects = source_schema.schema_objects(reading)
        checks.append(_drift(plan, objects))
        if site.target is not None:
            planned = planned_schema(site.target, plan.sql_folder)
            checks += [replace(item, where=item.where or str(site.live)) for item in
                       check_clone(clone, plan=plan, planned=planned)]  # fmt: skip
    return checks


def _companions(live: Path, plan: Plan) -> Check:
    title = "The application has no other SQLite file open"
    found = companions.find(live, plan.source_other_names)
    do = "Their rows are not part of this cutover and stay on SQLite: merge them into the source first, or leave them so."
    # None where some are open: a person has to know whether their rows must move.
    return result(
        "source_companions", title, None if found else True, "none", companions.described(found) or "none seen", do
    )


def _alembic(reading: Any, plan: Plan) -> Check:
    name, title, wanted = (
        "schema_version",
        "The source has the schema that the plan's SQL was written for",
        plan.schema_version,
    )
    revisions = []
    if ALEMBIC in {str(table) for (table,) in reading.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}:
        revisions = sorted(str(revision) for (revision,) in reading.execute(f"SELECT version_num FROM {ALEMBIC}"))  # noqa: S608
    found = f"revision {', '.join(revisions)}" if revisions else f"no revision in {ALEMBIC}"
    if wanted is None and revisions:
        do = f"Compare the plan's SQL with that revision, then write schema_version: {revisions[0]} into the plan."
        return result(name, title, None, "a revision in the plan", f"{found}; the plan names none", do)
    do = "Update the plan's SQL and schema_version to the application's release, or freeze its releases."
    return result(
        name, title, wanted is None or revisions == [wanted], f"revision {wanted}" if wanted else "no revision", found, do
    )


def _drift(plan: Plan, objects: Mapping[str, str]) -> Check:
    name, title = "schema_freeze", "The source's schema is the one that was proven last"
    before = schema_drift.baseline(plan.name, but=Evidence.of(plan.name, "doctor"))
    if before is None:
        return result(name, title, True, "no change", "no run has proven one yet", "")
    run, recorded = before
    drift = schema_drift.between(recorded["objects"], objects)
    do = "Rehearse again with this schema, and freeze it until the migration is complete."
    return result(name, title, not drift, "no change", f"since {run}: {drift}", do)
