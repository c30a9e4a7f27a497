"""The plan's part about the time after go-live: valid values, contradictions, log patterns."""

from __future__ import annotations

import re

import pytest

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.afterwards import LOG_PATTERNS
from include.cutover.plan.file import load_plan, parse_plan

WARD_OPS = (plans_folder() / "ward_ops.yaml").read_text(encoding="utf-8")


def test_ward_ops_has_an_hour_of_aftercare_and_keeps_backups_for_thirty_days() -> None:
    plan = load_plan("ward_ops")
    assert (plan.aftercare.enabled, plan.aftercare.minutes, plan.aftercare.interval_seconds) == (True, 60, 300)
    assert [item.table for item in plan.aftercare.growing] == ["ping_results"]
    assert (plan.retention.backup_days, plan.retention.kept_target_days) == (30, 30)


@pytest.mark.parametrize(
    ("line", "replaced", "fault"),
    [
        ("interval_seconds: ${WARD_OPS_AFTERCARE_INTERVAL:-300}", "interval_seconds: 3000\n  minutes: 10", "is given twice"),
        ("minutes: ${WARD_OPS_AFTERCARE_MINUTES:-60}", "minutes: 1", "interval_seconds must not be more"),
        ("- table: ping_results\n      column", "- table: nothing\n      column", "the table nothing is not among"),
        ("aftercare: # the", "aftercare:\n  log_patterns: ['(']\n  # the", "not a regular expression"),
        ("archive_days: 2", "archive_days: 31", "archive_days must not be more than backup_days"),
        ("name: ward_ops\n", "name: retention\n", "retention is taken"),
    ],
)
def test_a_contradiction_is_a_fault(line: str, replaced: str, fault: str) -> None:
    assert line in WARD_OPS
    with pytest.raises(PlanInvalid) as error:
        parse_plan(WARD_OPS.replace(line, replaced, 1), "here", {})
    assert fault in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "sqlalchemy.exc.OperationalError: (psycopg.OperationalError) connection failed",
        'ERROR: relation "pings" does not exist',
        "asyncpg.exceptions.TooManyConnectionsError",
        "FATAL:  remaining connection slots are reserved",
        "could not connect to server: Connection refused",
        "sqlite3.OperationalError: database is locked",
        "QueuePool limit of size 5 overflow 10 reached",
        "2026-01-01 worker ERROR SQL error: permission denied for table users",
        "psycopg.errors.UniqueViolation: duplicate key value violates unique constraint",
    ],
)
def test_lines_that_speak_of_the_database_are_errors(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in LOG_PATTERNS)


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-01 worker INFO started on postgresql",
        "GET /api/v1/health 200",
        "wrote 5 ping results (round 101)",
        "INFO connected to database ward_flux",
        "swept 1 device",
    ],
)
def test_other_lines_are_not_errors(line: str) -> None:
    assert not any(re.search(pattern, line) for pattern in LOG_PATTERNS)
