"""Retention: backups are compressed, later removed; kept schemas are dropped; evidence stays.

The runs' evidence alone decides what may go: a file that no run recorded, that is a symbolic link, or that is not what
was recorded is left where it is. Nothing of a run goes that is open, whose rollback or release is not complete, whose
incident is not closed, that is being rolled back, or whose aftercare is not over. A backup goes only when another one,
proven at that moment, is left.

Every action is recorded before and after. Killed at any instant, the next call finishes: a backup has its archive, proven,
before its file goes, and its manifest, which says where the archive is, before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg

from include.cutover.aftercare.retention import past_runs
from include.cutover.aftercare.retention.archive import archive
from include.cutover.aftercare.retention.drop import drop
from include.cutover.aftercare.retention.record import Deed, Kind, evidence_of
from include.cutover.aftercare.retention.remove import Removal
from include.cutover.aftercare.retention.work import Work
from include.cutover.errors import CutoverError
from include.cutover.locks import locked
from include.cutover.plan.model import Plan
from include.cutover.target import session as target_session


def carry_out(
    plan: Plan,
    what: Kind,
    *,
    conninfo: Callable[[], str] | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
) -> list[Deed]:
    """Archive, remove or drop what is due. Safe to kill and to run again.

    Args:
        plan: Whose runs.
        what: One of the three.
        conninfo: The target; only called for kept schemas.
        dry_run: Change and record nothing; return what would be done.
        now: The time to compare with; this instant by default.

    Returns:
        One for each thing that was due.

    Raises:
        Unreachable: When another call is at work.
    """
    evidence = evidence_of(plan.name)
    work = Work(plan, evidence, dry_run, now or datetime.now(UTC))
    if dry_run:
        return list(_deeds(work, what, conninfo))
    with locked(evidence.folder / ".lock", seconds=1):
        return list(_deeds(work, what, conninfo))


def _deeds(work: Work, what: Kind, conninfo: Callable[[], str] | None) -> Iterator[Deed]:
    runs = past_runs.all_of(work.plan.name)
    removal = Removal(work, runs)
    for run in runs:
        try:
            if what == "archive":
                yield from archive(work, run)
            elif what == "remove":
                yield from removal.remove(run)
            else:
                yield from drop(work, run, conninfo)
        except (CutoverError, OSError, psycopg.Error) as error:
            found = target_session.primary_message(error) if isinstance(error, psycopg.Error) else str(error)
            yield Deed(what, run.name, "files and schema", False, found, failed=True)
