"""The runbook as a table."""

from __future__ import annotations

import re

_PHASES = (
    (
        "Prepare",
        r"open_(run|rehearsal)|create_database|clone_source|announce_start|check_(target|source|services|places)|assess_source"
        r"|apply_ddl|apply_migrations|go_no_go|wait_for_window",
    ),
    ("Stop and back up", r"stop_services|fence_source|take_backup|plan_copy"),
    ("Copy", r"copy\..*|restore_test|snapshot_extras"),
    (
        "Finish the target",
        r"build_keys_and_indexes|load_reference_data|store_quarantine|declare_foreign_keys|set_sequences|analyze_tables"
        r"|grant_access",
    ),
    ("Verify", r"check_\w+|validate_foreign_keys|smoke_test_database|decide|mark_target"),
    ("Go live", r"approve|switch_configuration|start_services|smoke_test_application|decide_live|announce_completion"),
    ("Release", r"release\..*"),
    ("Roll back", r"rollback\..*|open_rollback"),
    ("Way back", r"way_back\..*"),
    ("Close", r"abandon|close_(run|rollback|rehearsal)"),
)


def phase_of(step: str) -> str:
    """The part of the run that a step belongs to; ``Other`` for one that is not known."""
    return next((phase for phase, pattern in _PHASES if re.fullmatch(pattern, step)), "Other")


# What must have passed before each branch goes on, in the order of the runbook.
BEFORE_STOPPING = (
    "open_run",
    "check_target",
    "check_source",
    "assess_source",
    "check_places",
    "apply_ddl",
    "apply_migrations",
    "wait_for_window",
)


BEFORE = (*BEFORE_STOPPING, "stop_services", "fence_source", "take_backup")


FINISHING = (
    "build_keys_and_indexes",
    "load_reference_data",
    "store_quarantine",
    "declare_foreign_keys",
    "set_sequences",
    "analyze_tables",
)


PROOFS = (
    "check_tables",
    "validate_foreign_keys",
    "smoke_test_database",
)


EXTRAS = "snapshot_extras"


ACCESS = "grant_access"


GOING_LIVE = ("switch_configuration", "start_services", "smoke_test_application")
