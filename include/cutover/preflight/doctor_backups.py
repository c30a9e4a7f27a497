"""Checks of PostgreSQL's own backups by ``doctor``: they protect the rows after go-live."""

from __future__ import annotations

import glob
import time
from pathlib import Path

import psycopg

from include.cutover.checks import Check
from include.cutover.preflight.doctor_site import CONNECT_FIRST, NOT_REACHED, Site, result, session

_HOUR = 3600
_CLOCKS_APART = 300.0  # seconds


def backup_checks(site: Site) -> list[Check]:
    """Check that the write-ahead log is archived and that a recent base backup or dump exists."""
    wanted = site.plan.database_backups
    title = "PostgreSQL's write-ahead log is archived"
    if wanted is None:
        do = "Name them in the plan: database_backups, with archiving and where its base backups or dumps lie (files)."
        found = "the plan does not name them"
        return [result("database_backups", "PostgreSQL has backups of its own", None, "backups", found, do)]
    checks = []
    connection = session(site)
    if connection is None:
        return [result("wal_archiving", title, None, "", NOT_REACHED, CONNECT_FIRST)]
    with connection:
        if wanted.archiving:
            checks.append(_archiving(connection, title))
        running = connection.execute("SELECT count(*) FROM pg_stat_progress_basebackup").fetchone() or (0,)
    checks.append(_newest_backup(wanted.files, wanted.at_most_hours, running=bool(running[0])))
    return checks


def _archiving(connection: psycopg.Connection, title: str) -> Check:
    name, expected = "wal_archiving", "archive_mode = on, and the last segment was archived"
    mode, archived, last, failed, failed_at, may = connection.execute(
        "SELECT current_setting('archive_mode'), archived_count, last_archived_time, failed_count, last_failed_time,"
        " pg_has_role('pg_read_all_settings', 'USAGE') FROM pg_stat_archiver"
    ).fetchone() or ("off", 0, None, 0, None, False)
    if mode == "off":
        do = "Set archive_mode = on with an archive_command, and restart the server; or archiving: false in the plan."
        return result(name, title, False, expected, "archive_mode is off", do)
    if may:
        (how,) = connection.execute(
            "SELECT coalesce(nullif(current_setting('archive_command'), '(disabled)'), '')"
            " || coalesce(current_setting('archive_library', true), '')"
        ).fetchone() or ("",)
        if not how:
            do = "Set archive_command or archive_library, and reload the server."
            return result(name, title, False, expected, "no command and no library is set", do)
    if failed_at is not None and (last is None or failed_at > last):
        do = "Find the reason in the server's log; until archiving works, the write-ahead log fills its disk."
        return result(name, title, False, expected, f"{failed} failures, the last at {failed_at:%Y-%m-%d %H:%M %Z}", do)
    if not archived:
        do = "Archive one as a superuser: SELECT pg_switch_wal(); then run doctor again."
        return result(name, title, None, expected, "nothing was archived yet", do)
    return result(name, title, True, expected, f"{archived} segments, the last at {last:%Y-%m-%d %H:%M %Z}", "")


def _newest_backup(pattern: str | None, at_most_hours: float, *, running: bool) -> Check:
    name, title = "base_backup", "PostgreSQL has a recent base backup or dump"
    expected = f"one of the last {at_most_hours:g} hours"
    if running:
        return result(name, title, True, expected, "one is being taken now", "")
    if pattern is None:
        do = "PostgreSQL keeps no record of them: name them in the plan, database_backups.files, or check them yourself."
        return result(name, title, None, expected, "the plan does not say where they are", do)
    ages = []
    for found in glob.glob(pattern):  # noqa: PTH207  # an absolute pattern
        try:
            status = Path(found).stat()
        except OSError:
            continue
        if status.st_size:
            ages.append((time.time() - status.st_mtime, found))
    if not ages:
        return result(name, title, False, expected, f"nothing matches {pattern}", "Take one; find out why there is none.")
    age, newest = min(ages)
    if age < -_CLOCKS_APART:
        do = "Compare the clocks of this host and of the host that takes the backups."
        return result(name, title, None, expected, f"{newest}, from {-age / _HOUR:.1f} hours in the future", do)
    found = f"{newest}, {max(0.0, age) / _HOUR:.1f} hours old"
    return result(name, title, age <= at_most_hours * _HOUR, expected, found, "Take one; find out why none ran.")
