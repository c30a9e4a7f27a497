"""Where steps run, when Airflow's workers are on several hosts: one table.

A step, and any other task, runs beside the application unless it stands here, so that one that is forgotten runs where
everything can be reached. Whatever stands here needs the evidence, the backups' places and the target, and neither the
application's files (its SQLite file, its configuration, its logs) nor its services.
"""

from __future__ import annotations

from include.cutover.plan.model import Plan

ANYWHERE = frozenset({
    "announce_start",
    "apply_ddl",
    "apply_migrations",
    "copy",  # reads the backup
    "restore_test",  # the same
    "build_keys_and_indexes",
    "load_reference_data",
    "store_quarantine",
    "declare_foreign_keys",
    "set_sequences",
    "analyze_tables",
    "check_tables",
    "validate_foreign_keys",
    "smoke_test_database",
    "announce_completion",
})  # fmt: skip
"""Names of steps; ``copy`` stands for the copies of all tables."""


def queue_of(plan: Plan, step: str) -> str | None:
    """The queue of a step; None where any worker will do."""
    return None if step in ANYWHERE or step.startswith("copy.") else plan.source_queue
