"""Proves the target before go-live. Wrong data is a red check; a check that could not be made is red as well."""

from __future__ import annotations

from include.cutover.decisions.audit import audit
from include.cutover.proof import counts, digest_store, smoke, table_suites, writes
from include.cutover.proof.digest_store import DigestStore
from include.cutover.proof.docs_site import DocsSite
from include.cutover.proof.writes import WriteTarget
from include.cutover.steps.let_in import record_baseline
from include.cutover.steps.step import Report, Step
from include.cutover.target import constraints, structure, write_conditions
from include.cutover.target import schema as target_schema
from include.cutover.target.sides import Sides


def check_tables(step: Step) -> Report:
    """Check every table: its count, every value, its keys and references, its sequence. Safe to run again.

    One suite of Great Expectations for each table. The plan's decisions about rows are audited. The source's digests are
    computed once for a snapshot and kept beside it; the restore test may have done that already. The state of the target is
    recorded first, so that go-live finds everything that changes after it.
    """
    record_baseline(step)
    expected = counts.expected_counts(step.manifest.counts, _reference_rows(step), step.decided.quarantined)
    result = table_suites.check_tables(
        Sides.of_plan(step.plan, step.decided.file, step.target),
        list(step.plan.tables),
        expected,
        DocsSite(
            step.evidence.folder / "data_docs" / "tables",
            step.log_url or None,
            f"{step.plan.application} · {step.run_id}",
        ),
        sqlite_sequence=step.manifest.sqlite_sequence,
        store=DigestStore(digest_store.beside(step.decided.file), step.decided.sha256 or step.manifest.sha256),
        sql_folder=step.plan.sql_folder,
    )
    checks = list(result.checks)
    if step.decided.made:
        planned = target_schema.planned_schema(step.target, step.plan.sql_folder)
        checks += audit(step.decided, step.plan, planned)
    return Report(result.summary, result.figures, checks)


def validate_foreign_keys(step: Step) -> Report:
    """Validate every foreign key; compare the schema with the plan's SQL; write to every table. Safe to run again.

    All objects of the schema are compared with the plan's, conditions outside the schema that change writes are checked,
    and a row of every table is written as the application's role and rolled back.
    """
    keys = constraints.validate_foreign_keys(
        step.target,
        step.plan.target_schema,
        step.guard,
        secret={name: table.secret for name, table in step.plan.tables.items()},
    )
    schema, tables, role = step.plan.target_schema, list(step.plan.tables), step.ends.application_role(step.plan)
    checks = structure.checks(step.target, schema, step.plan.sql_folder, tables)
    checks += write_conditions.checks(step.target, schema, tables, role)
    checks += writes.write_checks(WriteTarget(step.target, schema, step.plan.sql_folder, role), tables, step.guard)
    bad = sum(check.outcome != "passed" for check in checks)
    otherwise = "the schema is as the SQL makes it, and every table takes writes"
    return Report(
        f"{len(keys)} foreign keys validated by PostgreSQL; "
        + (f"{bad} of {len(checks)} checks of schema and writes did not pass" if bad else otherwise),
        {"foreign_keys": len(keys)},
        checks,
    )


def smoke_test_database(step: Step) -> Report:
    """Run the plan's own smoke tests on the database. Safe to run again."""
    if not (step.plan.sql_folder / "smoke").is_dir():
        return Report("the plan has no smoke tests of its own")
    checks = smoke.smoke_test_database(step.target, step.plan.target_schema, step.plan.sql_folder)
    return Report(f"{len(checks)} smoke tests run", {}, checks)


def _reference_rows(step: Step) -> dict[str, int]:
    event = step.evidence.last("reference.rows")
    return dict(event["rows"]) if event else {}
