"""Clones a live SQLite database in one step, without ever changing it.

The live file is read only here: copied by ``clone``, or opened for its schema by ``live_schema``. Everything else works on a
clone or a backup.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apsw

from include.cutover import files, rights
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed, Unreachable
from include.cutover.files import sync_folder
from include.cutover.source import other_names, super_journal
from include.cutover.source.database_file import (
    CLOCK_TICK,
    HEADER_BYTES,
    log_has_content,
    read_header,
    truncation,
    unreadable_log,
)
from include.cutover.source.snapshots import DAMAGED, REPAIR, explain, explained, integrity, require_sqlite, snapshot, uri


def clone(live: Path, to: Path, *, busy_seconds: float = 30.0, others: Sequence[Path] = ()) -> None:
    """Copy a live database, with everything that is committed, into ``to``: one step, one consistent moment.

    The live database's bytes are never changed, nor those of its logs, and no file is made beside it. In delete mode
    writers wait while the step runs, about three seconds per gigabyte; in WAL mode they do not. ``to`` appears whole and
    durable or not at all; it is readable by this user only and replaces what was there. Safe to run again.

    A file on read-only media with a log beside it, or one whose writer was killed, is copied with its log into a scratch
    folder beside ``to`` and read there.

    Args:
        live: The database of the application.
        to: The file to make.
        busy_seconds: How long to wait for a moment without a lock.
        others: Hard links of the file that the plan names.

    Raises:
        Unreachable: When the database stayed locked or kept changing for longer than that.
        CannotCheck: When it cannot be read, or when rows may lie in a log under another name.
        StepFailed: When ``to`` cannot be written.
        Refused: When ``to`` is the live file.
    """
    require_sqlite()
    live = Path(os.path.realpath(live))
    if to.exists() and to.samefile(live):
        raise Refused("the clone would replace the live database", where=str(live), do="Name another folder in the plan.")
    header = read_header(live)
    other_names.require_readable(live, others)
    super_journal.require_known(live)
    deadline = time.monotonic() + busy_seconds
    scratch: Path | None = None
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
        whole = scratch / "clone"
        try:
            _clone_into(live, header, whole, scratch, deadline)
            other_names.require_readable(live, others)  # a log may have come meanwhile
        except CannotCheck:
            # SQLite says of a truncated file no more than that it is damaged.
            if truncated := truncation(live, header):
                raise truncated from None
            raise
        _sync(whole)
        for suffix in files.SIDE_FILES:  # a log of an earlier database beside the new one would become a part of it
            to.with_name(to.name + suffix).unlink(missing_ok=True)
        whole.replace(to)
        sync_folder(to.parent)
    except OSError as error:
        raise StepFailed(
            "the clone cannot be written",
            where=str(to),
            found=rights.reason(error),
            do="Free disk space there, or correct the rights, then run the step again.",
        ) from None
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def live_schema(
    live: Path, scratch: Path, *, busy_seconds: float = 10.0, others: Sequence[Path] = ()
) -> Iterator[apsw.Connection]:
    """Open the live database to read its schema: as harmless as ``clone``, and a matter of milliseconds.

    Args:
        live: The database of the application.
        scratch: Folder for a clone, which is read where the live file cannot be opened without a change.
        busy_seconds: How long to wait for a moment without a lock.
        others: Hard links of the file that the plan names.

    Raises:
        Unreachable: When the database stayed locked for longer than that.
        CannotCheck: When it cannot be read, or when rows may lie in a log under another name.
    """
    require_sqlite()
    live = Path(os.path.realpath(live))
    other_names.require_readable(live, others)
    super_journal.require_known(live)
    connection = _open_live(live, busy_seconds)
    if connection is None:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".schema-", dir=scratch) as folder:
            clone(live, Path(folder) / "clone.db", busy_seconds=busy_seconds, others=others)
            with snapshot(Path(folder) / "clone.db") as connection:
                yield connection
        return
    try:
        with explained(live):
            yield connection
    finally:
        connection.close()


def _open_live(live: Path, busy_seconds: float) -> apsw.Connection | None:
    """Open the live file for reading; None where that would change something. See ``_clone_into``."""
    if _is_unopened(live, read_header(live)):
        return None
    connection = None
    with explained(live):
        try:
            connection = apsw.Connection(uri(live, "mode=ro"), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            connection.set_busy_timeout(int(busy_seconds * 1000))
            connection.execute("BEGIN; SELECT count(*) FROM sqlite_schema").get  # noqa: B018  the lock: now, not later
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError):
                return None
            raise
    return connection


def _is_unopened(live: Path, header: bytes) -> bool:
    """Check whether a database in WAL mode is open nowhere.

    Opening it would make -wal and -shm beside it, owned by this user, and the application could not write them.
    """
    wal, shm = (live.with_name(live.name + suffix).exists() for suffix in ("-wal", "-shm"))
    wal_mode = wal or header[18] == 2 or header[19] == 2  # SQLite reads a log that lies there, whatever the header says
    return wal_mode and not (wal and shm)


def _clone_into(live: Path, header: bytes, whole: Path, scratch: Path, deadline: float) -> None:
    if _is_unopened(live, header):
        _clone_unopened(live, whole, scratch, deadline)
        return
    try:
        reading = uri(live, "mode=ro")
        _in_one_step(reading, whole, deadline, where=str(live), writable=False)
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        # Read-only media, or a journal of a killed writer that would have to be rolled back in the live file.
        _clone_unopened(live, whole, scratch, deadline)


def _clone_unopened(live: Path, whole: Path, scratch: Path, deadline: float) -> None:
    """Copy the files, prove by their stamps that they did not change meanwhile, and let SQLite recover the copy."""
    names = [live, *(live.with_name(live.name + suffix) for suffix in ("-wal", "-journal"))]
    copy = scratch / "copy"
    while True:
        _copy_unchanged(live, names, copy, deadline)
        known = super_journal.state(live)
        with explained(live):
            _in_one_step(uri(copy, "mode=rw"), whole, deadline, where=str(live), writable=True)
        # SQLite read the copy by it: an application that started meanwhile may have removed the super-journal.
        if known[0] is None or super_journal.state(live) == known:
            return


def _copy_unchanged(live: Path, names: Sequence[Path], copy: Path, deadline: float) -> None:
    """Copy the files again and again until none of them changed meanwhile."""
    while True:
        before = _stamps(names)
        # A write now gets another stamp than these: earlier ones, or later ones from before the clock was set back.
        if all(abs(time.time() - modified / 1e9) > CLOCK_TICK for modified, _, _ in before.values()):
            for name in names:
                there = copy.with_name(copy.name + name.name.removeprefix(live.name))
                there.unlink(missing_ok=True)
                if name in before:
                    _copy_file(name, there)
            if _stamps(names) == before:
                return
        if time.monotonic() > deadline:
            raise Unreachable(
                "the database kept changing while it was read",
                where=str(live),
                do="Let the tasks read it beside its application: on the same host, with rights to its -shm file.",
            )
        time.sleep(CLOCK_TICK)


def _copy_file(name: Path, there: Path) -> None:
    """Copy a database or its log. One that is gone by now is left out: the stamps show it."""
    with contextlib.suppress(FileNotFoundError):
        try:
            name.open("rb").close()
        except PermissionError as error:
            raise unreadable_log(name, error) from None
        shutil.copyfile(name, there)


def _stamps(names: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            status = name.stat()
            found[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def _in_one_step(reading: str, whole: Path, deadline: float, *, where: str, writable: bool) -> None:
    """Copy with ``backup.step(-1)``, again only where a lock kept it from beginning.

    Args:
        reading: URI of the database to read.
        whole: The file to make.
        deadline: When to stop waiting for a lock, by ``time.monotonic``.
        where: Name of the database for errors.
        writable: SQLite may change the database that is read, to recover it.

    Raises:
        apsw.CantOpenError, apsw.ReadOnlyError: When the database cannot be opened without changing something.
    """
    whole.unlink(missing_ok=True)
    os.close(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    mode = apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY
    source = target = None
    try:
        source = apsw.Connection(reading, flags=mode | apsw.SQLITE_OPEN_URI)
        # The last connection to close a WAL database writes the log into the database. Not this one.
        source.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        source.set_busy_timeout(100)
        target = apsw.Connection(str(whole), flags=apsw.SQLITE_OPEN_READWRITE)
        target.execute("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")  # delete an unfinished clone
        while True:
            try:
                with target.backup("main", source, "main") as backup:
                    backup.step(-1)
                    if backup.done:
                        break
            except (apsw.BusyError, apsw.LockedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        target.close()
        _leave_wal_mode(whole)
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        raise
    except apsw.Error as error:
        raise explain(error, where) from None
    finally:
        for connection in (target, source):
            if connection is not None:
                connection.close(True)


def _leave_wal_mode(clone: Path) -> None:
    """Set the header's versions to rollback mode: the clone of a WAL database says WAL too, and would need side files."""
    with clone.open("r+b") as file:
        header = bytearray(file.read(HEADER_BYTES))
        for at in (18, 19):
            if header[at] == 2:
                header[at] = 1
        file.seek(0)
        file.write(header)


def sound_clone(live: Path, to: Path, *, others: Sequence[Path] = ()) -> None:
    """Clone where there is room for it, then run SQLite's integrity check on the clone.

    Raises:
        CannotCheck: When the database is damaged.
        Refused: When there is not enough free disk.
        The errors of ``clone``. All of them name the live file, not the clone.
    """
    with contextlib.suppress(OSError):  # a fault of the file is reported by the clone
        files.require_space({to.parent: live.stat().st_size})
    try:
        clone(live, to, others=others)
        if faults := integrity(to):
            raise CannotCheck(
                DAMAGED,
                expected="PRAGMA integrity_check: ok",
                found=f"{len(faults)} fault{'s' if len(faults) > 1 else ''}, first: {' '.join(faults[0].split())}",
                do=REPAIR,
            )
    except CutoverError as error:
        if error.where in ("", str(to)):
            error.where = str(live)
        if error.message == DAMAGED:
            logs = (live.with_name(f"{live.name}{suffix}") for suffix in ("-wal", "-journal"))
            if beside := " and ".join(log.name for log in logs if log_has_content(log)):
                error.do = f"First check that {beside} belongs to this file; a log of another file causes this. {error.do}"
        raise
