"""The fence: the source made unwritable for every SQLite, also for connections that are open already; reading still works.

SQLite reads the write version at byte 18 of a database's header at the start of every transaction in which the change
counter moved, and treats a file with a version it does not know as read-only: INSERT, DDL, VACUUM, pragmas and all. So the
fence is one byte, two counters, and for good measure the file's mode. Triggers would stop only INSERT, UPDATE and DELETE.

A note beside the file says which run raised the fence and how to lift it. It is written before the first byte is changed and
removed after the last one is back: killed at any instant, there is either no fence, or a fence with its note.

None of this may run while the same process has another connection to the file open: closing a file descriptor drops the
POSIX locks that the process holds on that file.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import apsw

from include.cutover import files
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed
from include.cutover.files import now
from include.cutover.source import fence_header, fence_note, holders, other_names, super_journal
from include.cutover.source.fence_header import FENCED, ROLLBACK, WAL, WRITE_VERSION
from include.cutover.source.fence_note import FenceNote

log = logging.getLogger(__name__)

_ALL_WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class FenceState:
    """The state of the fence around a database.

    Attributes:
        source: The database, symbolic links followed.
        raised: SQLite cannot write to the file now.
        intact: Raised, and the file is byte for byte what it was when the fence was raised.
        run_id: The run that raised it.
        time: When, UTC.
        note: The file that says how to lift it.
        sha256: Of the fenced file, when the fence was raised.
        mode: The file's mode before the fence.
        original: Bytes 18 and 19 before the fence; 2, 2 is a database in WAL mode.
        findings: Differences from how the fence left the file, each in plain words.
        other_names: Hard links of the file that were known when the fence was raised.
    """

    source: Path
    raised: bool
    intact: bool
    run_id: str | None = None
    time: str | None = None
    note: Path | None = None
    sha256: str | None = None
    mode: int | None = None
    original: tuple[int, int] | None = None
    findings: tuple[str, ...] = ()
    other_names: tuple[Path, ...] = ()

    @property
    def detail(self) -> str:
        """One line for logs and errors."""
        if self.run_id is None and not self.findings:
            return "no fence"
        words = "fence" if self.raised else "no fence"
        who = f"{words} of run {self.run_id} since {self.time}" if self.run_id else words
        return "; ".join([f"{who}, {'intact' if self.intact else 'not intact'}", *self.findings])


def status(source: Path, *, content: bool = True) -> FenceState:
    """Return the state of the fence around the database; changes nothing.

    Args:
        source: The database.
        content: Also compare the file's SHA-256 with the one from when the fence was raised. Without it, ``intact`` is
            about the header, the size and the files beside only.

    Raises:
        CannotCheck: When the file is missing or not a SQLite database, or the note is unreadable.
    """
    database = files.real(source)
    header, note = fence_header.read(database), fence_note.read(database)
    fenced = header[WRITE_VERSION] == FENCED
    if note is None:
        if not fenced:
            return FenceState(database, raised=False, intact=False)
        return FenceState(database, raised=True, intact=False, findings=("its note is missing",))
    broken, remarks = [], []
    if note.state == "raising":
        broken.append("it was not raised completely")
    if not fenced:
        broken.append(f"the write version is {header[WRITE_VERSION]}, no longer {FENCED}")
    broken += [f"{item.name} lies beside it" for item in files.side_files(database) if not item.name.endswith("-shm")]
    others = tuple(Path(name) for name in note.other_names)
    # An SQLite that opens the file there would read that log, and the header in it, instead of the fenced one.
    broken += [f"{log} has content" for log in other_names.beside(database, others)]
    if note.state == "raised":
        size = database.stat().st_size
        if size != note.bytes:
            broken.append(f"{size:,} bytes long, was {note.bytes:,}")
        elif content and files.digest(database) != note.sha256:
            broken.append("its content changed")
    found = database.stat()
    if found.st_nlink > 1 + len(others):
        remarks.append(f"it has {found.st_nlink} hard links, {1 + len(others)} of them were known")
    mode = stat.S_IMODE(found.st_mode)
    if mode & _ALL_WRITE_BITS:
        remarks.append(f"its mode is {mode:04o}")
    return FenceState(
        database,
        raised=fenced,
        intact=not broken,
        run_id=note.run_id,
        time=note.time,
        note=fence_note.note_path(database),
        sha256=note.sha256,
        mode=note.mode,
        original=note.original,
        findings=(*broken, *remarks),
        other_names=others,
    )


def raise_fence(
    source: Path, *, run_id: str, note: str = "", busy_seconds: float = 5.0, others: Sequence[Path] = ()
) -> FenceState:
    """Make the database unwritable for every SQLite. Reading still works.

    SQLite first rolls back a hot journal and checkpoints a WAL, as the application's next start would do. No transaction is
    cut: the bytes change under SQLite's exclusive lock.

    Safe to run again: the same run finds its fence and changes nothing; what a killed attempt left half-done is finished.

    Args:
        source: The database.
        run_id: The run that raises the fence.
        note: Words for the person who finds the file.
        busy_seconds: How long to wait for transactions of others to end.
        others: Hard links of the file that the plan names.

    Returns:
        The state, with the SHA-256 of the fenced file.

    Raises:
        Refused: When another run's fence stands, when this run's fence was broken, or when others hold the file in a way
            that the fence would not stop; they are named. Also when the file has a name that is not given, or a log under
            another name. The database then is unchanged.
        CannotCheck: When the file is missing or not a SQLite database.
        StepFailed: When the place cannot be written.
    """
    database = files.real(source)
    header = fence_header.read(database)
    found = fence_note.read(database)
    if found is not None and found.run_id != run_id:
        raise fence_note.of_another_run(database, found)
    if found is not None and found.state == "raised":
        return _require_intact(database)
    named = other_names.require_known(database, others).named
    super_journal.require_known(database)
    if found is None:
        if header[WRITE_VERSION] == FENCED:
            raise fence_note.missing(database)
        found = fence_note.claim(database, fence_note.new(database, header, run_id, note, named))
    try:
        if header[WRITE_VERSION] != FENCED:
            _close_to_writers(database, busy_seconds, named)
        fence_header.refresh_checksum(database)  # a killed attempt may have set the byte only
    except BaseException:
        _give_up_raising(database, found)
        raise
    try:
        database.chmod(found.mode & ~_ALL_WRITE_BITS)
    except OSError as error:
        # The byte is the fence; the mode only warns other programs. The file may have another owner.
        log.warning("%s keeps its mode: %s", database, error.strerror)
    raised = replace(found, state="raised", bytes=database.stat().st_size, sha256=files.digest(database), time=now())
    fence_note.replace(database, replace(raised, other_names=tuple(map(str, named))))
    return status(database, content=False)


def _require_intact(database: Path) -> FenceState:
    state = status(database)
    if state.intact:
        return state
    raise Refused(
        "the fence was broken since it was raised",
        where=str(database),
        expected="the file as the fence left it",
        found="; ".join(state.findings),
        do="Let the run go back, and find out who wrote to the file; then start a new run.",
    )


def _give_up_raising(database: Path, note: FenceNote) -> None:
    """Undo a failed attempt: without the byte there is no fence, and then there must be no note."""
    with suppress(CannotCheck):
        header = fence_header.read(database)
        if header[WRITE_VERSION] != FENCED:
            if note.original == WAL and header[WRITE_VERSION] == ROLLBACK[0]:
                _set_wal(database)
            fence_note.remove(database)
            if not files.side_files(database):
                with suppress(StepFailed):  # the first error matters more
                    fence_header.refresh_checksum(database)


def lift(source: Path, *, run_id: str | None = None) -> FenceState:
    """Make the database writable again: mode, header bytes and journal mode as they were. The content is not touched.

    New connections can write immediately. One that read the fenced file takes it for read-only until it is opened again.

    Safe to run again: without a fence nothing happens, and what a killed attempt left is finished.

    Args:
        source: The database.
        run_id: When given, only the fence of that run is lifted.

    Returns:
        The state before the lift, with ``raised`` false. ``intact`` and ``findings`` say whether the file was changed under
        the fence, and whether WAL mode could not be set again because a process reads it.

    Raises:
        Refused: When the fence is another run's, or has no note: the bytes before the fence are not known then.
        CannotCheck: When the file is missing or not a SQLite database.
        StepFailed: When the place cannot be written.
    """
    database = files.real(source)
    note = fence_note.read(database)
    if note is None:
        if fence_header.read(database)[WRITE_VERSION] == FENCED:
            raise fence_note.missing(database)
        return FenceState(database, raised=False, intact=False)
    if run_id is not None and note.run_id != run_id:
        raise fence_note.of_another_run(database, note)
    before = status(database)
    if stat.S_IMODE(database.stat().st_mode) != note.mode:
        with files.disk_errors(database):
            try:
                database.chmod(note.mode)
            except PermissionError as error:
                log.warning("%s keeps its mode: %s", database, error.strerror)
    findings = list(before.findings)
    if before.raised:
        with files.disk_errors(database):
            descriptor = os.open(database, os.O_RDWR)
            try:
                # No write transaction can be open on a fenced file, so no lock is needed.
                fence_header.set_write_version(descriptor, ROLLBACK[0])
            finally:
                os.close(descriptor)
    if note.original == WAL and (hindrance := _set_wal(database)):
        findings.append(f"it stays in journal_mode=delete and was in WAL mode: {hindrance}")
        log.warning("%s: %s", database, findings[-1])
    if not files.side_files(database):  # else others use it already, and write page 1 with its checksum themselves
        fence_header.refresh_checksum(database)
    fence_note.remove(database)
    return replace(before, raised=False, note=None, findings=tuple(findings))


def _close_to_writers(database: Path, busy_seconds: float, others: Sequence[Path]) -> None:
    """Leave WAL mode, then set the write version under SQLite's own exclusive lock."""
    with files.disk_errors(database):
        # Opened before SQLite's descriptor and closed after it: see the module's docstring about locks.
        descriptor = os.open(database, os.O_RDWR)
    try:
        connection = None
        try:
            connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
            connection.set_busy_timeout(0)
            deadline = time.monotonic() + busy_seconds
            while not _locked_in_rollback_mode(connection, descriptor):
                if time.monotonic() >= deadline:
                    raise _held(database)
                time.sleep(0.05)
            _drop_spent_journal(database)
            # Under this lock no connection by any name has a WAL open, or a transaction: its log was left by a killed one.
            other_names.require_no_log(database, others)
            with files.disk_errors(database):
                fence_header.set_write_version(descriptor, FENCED)
            connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise CannotCheck(
                "SQLite cannot open the database for writing",
                where=str(database),
                found=str(error),
                do="Check the file's rights and, with the sqlite3 shell, a copy of it.",
            ) from None
        finally:
            if connection is not None:
                connection.close()
    finally:
        os.close(descriptor)


def _locked_in_rollback_mode(connection: apsw.Connection, descriptor: int) -> bool:
    """Try once to lock the database exclusively, without a WAL. False while other connections prevent it."""
    try:
        connection.pragma("synchronous", "extra")
        # Any read makes SQLite roll back a hot journal or recover a WAL that a crash left.
        connection.pragma("schema_version")
        # Fails as long as any other connection has the WAL open, idle ones too.
        if connection.pragma("journal_mode", "delete") != "delete":
            return False
        connection.execute("BEGIN EXCLUSIVE")
    except apsw.BusyError:
        return False
    # Between the two another connection may have set WAL mode again.
    if tuple(os.pread(descriptor, 2, WRITE_VERSION)) == ROLLBACK:
        return True
    connection.execute("ROLLBACK")
    return False


def _drop_spent_journal(database: Path) -> None:
    """Remove the spent journal that modes TRUNCATE and PERSIST leave beside a database; only under the exclusive lock.

    Raises:
        StepFailed: When the journal, or a WAL, still has content. SQLite would have used it up.
    """
    for path in files.side_files(database):
        if path.name.endswith("-shm"):
            continue
        with path.open("rb") as file:
            content = file.read(1)
        if content not in (b"", b"\0"):
            raise StepFailed(
                "SQLite did not remove a file beside the database",
                where=str(path),
                do="Start and stop the application once.",
            )
        path.unlink()


def _set_wal(database: Path) -> str:
    """Set WAL mode, as SQLite does it. Returns what prevented it; empty when it is set."""
    try:
        connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(2000)
            mode = connection.pragma("journal_mode", "wal")
            return "" if mode == "wal" else f"SQLite says {mode}"
        finally:
            connection.close()
    except apsw.BusyError:
        return "another process reads it"
    except apsw.Error as error:
        return str(error)


def _held(database: Path) -> CutoverError:
    found, hidden = holders.search(database, (os.getpid(),))
    return Refused(
        "the database is in use, and the fence would not stop that",
        where=str(database),
        expected="no other transaction and, in WAL mode, no other connection",
        found=holders.describe(found) or hidden or "a lock of a process that cannot be seen",
        do="End these processes, or add them to the plan's services; then run the step again.",
    )
