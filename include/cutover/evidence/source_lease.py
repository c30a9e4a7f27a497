"""The lease of a source: a small file beside the database names the one run that works on it.

The lease of the plan cannot see a run of another plan, or of another evidence folder, on the same database; this file can.
It is held by run id, outlives every process, and is free again when its run is closed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from include.cutover import files, rights
from include.cutover.errors import CannotCheck, CutoverError, Refused
from include.cutover.evidence.record import Evidence
from include.cutover.files import now
from include.cutover.locks import lock


@dataclass(frozen=True)
class SourceLease:
    """The run that works on a database.

    Attributes:
        run_id: The run.
        plan: Name of its plan.
        evidence: Folder of that run's evidence.
        since: When it got the lease, UTC.
    """

    run_id: str
    plan: str
    evidence: str
    since: str


def path(source: Path) -> Path:
    """Return the path of a database's lease; it need not exist."""
    database = files.real(source)
    return database.with_name(f"{database.name}.lease.json")


def read(source: Path) -> SourceLease | None:
    """Return the run that works on the database, None where there is none.

    Raises:
        CannotCheck: When its file cannot be read.
    """
    place = path(source)
    try:
        return _parsed(place.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotCheck(
            "the lease of the database cannot be read",
            where=str(place),
            found=rights.reason(error, place),
            do="Give that file to the tasks' user, or remove it when its run no longer exists.",
        ) from None


def acquire(source: Path, *, plan: str, run_id: str, evidence: Evidence) -> SourceLease:
    """Acquire the database for a run. Safe to run again.

    A run that its evidence shows as closed holds nothing, even if its lease file is still there. One whose way back is not
    complete still holds it.

    Args:
        source: The database file.
        plan: Name of the plan.
        run_id: The run.
        evidence: The run's evidence.

    Raises:
        Refused: While another run holds it; the run is named.
        CannotCheck: When the folder does not exist, or cannot be written.
    """
    with _locked(source) as descriptor:
        held = _parsed(_content(descriptor))
        if held is not None and held.run_id == run_id:
            return held
        if held is not None and not _is_over(held):
            raise Refused(
                "another run uses this database",
                where=str(files.real(source)),
                expected="no other run",
                found=f"{held.run_id} of the plan {held.plan}, since {held.since}, evidence in {held.evidence}",
                do=f"Wait for its end, or roll it back. If that run no longer exists, remove {path(source)}.",
            )
        lease = SourceLease(run_id, plan, str(evidence.folder), now())
        data = json.dumps(asdict(lease), indent=1).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        os.fsync(descriptor)
        return lease


def release(source: Path, run_id: str) -> None:
    """Release the database. Safe to run again; the lease of another run stays."""
    if read(source) is None:
        return
    with _locked(source) as descriptor:
        held = _parsed(_content(descriptor))
        if held is None or held.run_id == run_id:
            path(source).unlink(missing_ok=True)


def _is_over(held: SourceLease) -> bool:
    try:
        sealed = Evidence(Path(held.evidence)).sealed
        return sealed is not None and sealed.get("outcome") != "failed"
    except CutoverError:  # unreadable evidence proves no end
        return False


def _parsed(content: bytes) -> SourceLease | None:
    """Return the lease, None also for one that a killed attempt left half-written: it had not begun yet."""
    try:
        return SourceLease(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 16, 0)


@contextmanager
def _locked(source: Path) -> Iterator[int]:
    """Yield the lease's file, under a kernel lock while the block runs."""
    place = path(source)
    while True:
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CannotCheck(
                "the folder of the database cannot be written",
                where=str(place.parent),
                expected="a folder in which the pipeline may write",
                found=rights.reason(error, place),
                do="Let the pipeline's user write there: the fence's note and the way back need it too.",
            ) from None
        try:
            lock(descriptor, place)
            # The name may have been removed between the opening and the lock.
            if place.exists() and os.fstat(descriptor).st_ino == place.stat().st_ino:
                yield descriptor
                return
        finally:
            os.close(descriptor)
