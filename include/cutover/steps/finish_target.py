"""Completes the loaded tables: keys, indexes, reference data, foreign keys, sequences, statistics, rights."""

from __future__ import annotations

from include.cutover.decisions import quarantine
from include.cutover.errors import StepFailed
from include.cutover.steps.step import Report, Step
from include.cutover.target import (
    access,
    access_statements,
    planner_statistics,
    row_counts,
    sequences,
    sql_runner,
)


def store_quarantine(step: Step) -> Report:
    """Store the originals of all rows that a decision touched, whole, in the target. Safe to run again."""
    if not step.decided.made:
        return Report("no decision of the plan touched a row")
    stored = quarantine.store(step.target, step.run_id, quarantine.rows(step.decided, step.plan), step.guard)
    return Report(f"{sum(stored.values()):,} rows kept in cutover.quarantine", {"rows": stored})


def build_keys_and_indexes(step: Step) -> Report:
    """Build primary and unique keys, then indexes, once over the loaded rows. Safe to run again."""
    return _apply(step, "post_data")


def load_reference_data(step: Step) -> Report:
    """Insert rows that the application needs and the source lacks, only into tables without rows. Safe to run again."""
    before = row_counts.of_tables(step.target, step.plan.target_schema, step.plan.tables)
    report = _apply(step, "reference")
    after = row_counts.of_tables(step.target, step.plan.target_schema, step.plan.tables)
    brought = {table: after[table] - before[table] for table in after if after[table] != before[table]}
    overwritten = sorted(table for table in brought if before[table])
    if overwritten:
        raise StepFailed(
            "reference data was inserted into a table that the source had filled",
            where=", ".join(overwritten),
            do="Let the SQL file insert only where the table has no rows.",
        )
    if brought:
        step.evidence.append("reference.rows", rows=brought)
    inserted = ", ".join(f"{rows} into {table}" for table, rows in brought.items())
    return Report(f"{report.summary}; {inserted or 'the source already had all of it'}", {"rows": brought})


def declare_foreign_keys(step: Step) -> Report:
    """Declare foreign keys as NOT VALID: they hold for new rows; ``verify`` validates the old ones. Safe to run again."""
    return _apply(step, "foreign_keys")


def set_sequences(step: Step) -> Report:
    """Set every sequence past the greatest key and past the last value that SQLite assigned. Safe to run again."""
    states = sequences.set_sequences(step.target, step.plan.target_schema, step.manifest.sqlite_sequence, step.guard)
    return Report(f"{len(states)} sequences set", {state.name: state.next_value for state in states})


def analyze_tables(step: Step) -> Report:
    """Gather statistics for the planner, so that the application is not slow in its first minutes. Safe to run again."""
    planner_statistics.gather(step.target, step.plan.target_schema, step.guard)
    return Report("statistics gathered")


def grant_access(step: Step) -> Report:
    """Transfer the tables to their owner; let reporting read all but the secret columns. Safe to run again."""
    roles = access_statements.required(step.plan)
    done = access.apply(step.target, step.plan, roles=False, guard=step.guard)
    about = ", ".join(name for name in (roles.owner, roles.reporting) if name is not None)
    return Report(f"rights of {about or roles.application}: {len(done)} statements", {"statements": len(done)})


def _apply(step: Step, kind: str) -> Report:
    names = sql_runner.apply(
        step.target, step.plan.sql_folder, kind, schema=step.plan.target_schema, run_id=step.run_id, guard=step.guard
    )
    return Report(f"{kind}: {len(names)} files applied" + (f" ({', '.join(names)})" if names else ""), {"applied": names})
