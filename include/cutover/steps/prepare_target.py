"""Creates the empty tables in the target and applies the migrations."""

from __future__ import annotations

from include.cutover.steps.set_aside import shut_out
from include.cutover.steps.step import Report, Step
from include.cutover.target import ledger, sql_runner, write_guard


def apply_ddl(step: Step) -> Report:
    """Take the lease of the target, shut the application out of it, create the tables and guard them against other writers.

    Safe to run again: applied files are not applied twice.
    """
    ledger.ensure(step.target)
    epoch = ledger.open_run(step.target, step.run_id, step.plan.name)
    role = step.ends.application_role(step.plan)
    step.evidence.append("lease.target", holder=step.holder, epoch=epoch, application_role=role)
    fenced = shut_out(step, step.evidence, step.guard)
    made = _migrate(step, "pre_data")
    return Report(f"{made.summary}; {fenced}", made.figures)


def apply_migrations(step: Step) -> Report:
    """Apply the numbered migrations that are missing, and revoke rights that came with the new tables. Safe to run again."""
    report = _migrate(step, "migrations")
    shut_out(step, step.evidence, step.guard)
    return report


def _migrate(step: Step, kind: str) -> Report:
    names = sql_runner.apply(
        step.target, step.plan.sql_folder, kind, schema=step.plan.target_schema, run_id=step.run_id, guard=step.guard
    )
    write_guard.raise_guard(step.target, step.plan.target_schema, step.guard)
    return Report(f"{kind}: {len(names)} files applied" + (f" ({', '.join(names)})" if names else ""), {"applied": names})
