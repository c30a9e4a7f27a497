"""SQLite files, read without ever being changed.

The live file is read in one way only: ``clone`` copies it in one step. Everything else works on a clone or a backup, opened
with ``immutable=1``: no lock is taken, no side file is made, and nobody's write is held up.

All of this uses apsw, which brings its own SQLite: the one of the operating system is often too old to print a REAL so
that it can be read back.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote as percent_encoded

import apsw

from include.cutover import files
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed, Unreachable
from include.cutover.files import sync_folder

MINIMUM_SQLITE = (3, 45, 0)
MAGIC = b"SQLite format 3\0"
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
HEADER_BYTES = 100

_DAMAGED = "the database is damaged"
_REPAIR = "Repair it, e.g. with sqlite3's .recover into a new file."
_NAME_IT = "Name the application's database itself."
_COPY_AGAIN = "Copy it again; an interrupted copy or a full disk does this."

# The kernel stamps files with a clock that ticks every few milliseconds: two writes within one tick look like one.
_CLOCK_TICK = 0.05


# --- opening ------------------------------------------------------------------------------------------------------------


def open_snapshot(path: Path) -> apsw.Connection:
    """Open a file that nobody writes to: a clone or a backup.

    It is opened read only and immutable; a file on read-only media can be opened too. The caller closes the connection.

    Raises:
        CannotCheck: When the file is missing, empty, truncated, encrypted, not a database or unreadable, when a log lies
            beside it whose content would be missed, or when apsw's SQLite is too old.
    """
    _require_sqlite()
    if truncated := _truncation(path, _header(path)):
        raise truncated
    _refuse_unread_logs(path)
    with _explained(path):
        connection = apsw.Connection(_uri(path, "immutable=1"), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").get  # noqa: B018  reads the schema: now, not later
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[apsw.Connection]:
    """``open_snapshot`` for the length of a block; what SQLite complains about inside becomes ``CannotCheck``."""
    connection = open_snapshot(path)
    try:
        with _explained(path):
            yield connection
    finally:
        connection.close()


def _require_sqlite() -> None:
    found = apsw.sqlite_lib_version()
    if tuple(int(part) for part in found.split(".")[:3]) < MINIMUM_SQLITE:
        raise CannotCheck(
            "the SQLite inside apsw is too old to print every number exactly",
            expected=f"version {'.'.join(map(str, MINIMUM_SQLITE))} or newer",
            found=f"version {found}",
            do="Install the versions in requirements.txt.",
        )


def _uri(path: Path, *parameters: str) -> str:
    return f"file:{percent_encoded(os.fsencode(path.absolute()))}?{'&'.join(parameters)}"


def require_database(path: Path, *, seconds: float = 1.0) -> None:
    """Refuse what is no whole SQLite database, by its header and size alone: harmless beside the application.

    Args:
        seconds: How long a file that seems to end too early is looked at again: a commit writes its header before its end.

    Raises:
        CannotCheck: When the file is missing, empty, truncated, encrypted, not a database or unreadable.
    """
    deadline = time.monotonic() + seconds
    while truncated := _truncation(path, _header(path)):
        if time.monotonic() > deadline:
            raise truncated
        time.sleep(_CLOCK_TICK)


def _header(path: Path) -> bytes:
    """The file's first 100 bytes, after everything that is not a database was refused by its name."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise CannotCheck("this is a directory", where=str(path), expected="an SQLite file", do=_NAME_IT)
        if not stat.S_ISREG(found.st_mode):
            raise CannotCheck("this is not a regular file", where=str(path), expected="an SQLite file", do=_NAME_IT)
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise CannotCheck("there is no such file", where=str(path), do="Check the path of the source.") from None
    except OSError as error:
        raise CannotCheck(
            "the file cannot be read",
            where=str(path),
            found=error.strerror or type(error).__name__,
            do="Check the rights of the user that the tasks run as.",
        ) from None
    if not header:
        raise CannotCheck(
            "the file has zero bytes",
            where=str(path),
            expected="an SQLite database",
            do="SQLite makes such a file when it is given a wrong path: check the path first.",
        )
    if not header.startswith(MAGIC):
        raise _not_a_database(path, header, found.st_size)
    if len(header) < HEADER_BYTES:
        expected = f"a header of {HEADER_BYTES} bytes"
        raise CannotCheck(
            "the file is truncated", where=str(path), expected=expected, found=f"{len(header)} bytes", do=_COPY_AGAIN
        )
    return header


def _not_a_database(path: Path, header: bytes, size: int) -> CannotCheck:
    counts = [header.count(byte) for byte in set(header)]
    entropy = -sum(count / len(header) * math.log2(count / len(header)) for count in counts)
    # An encrypted file is whole pages of noise; text, archives and images have a header of their own.
    if len(header) == HEADER_BYTES and size % 512 == 0 and entropy > 5.7:
        return CannotCheck(
            "the file is not an SQLite database, or it is encrypted",
            where=str(path),
            expected="a header that says 'SQLite format 3'",
            found="whole pages that look like noise",
            do="Decrypt it with the application's own tool first (SQLCipher, SEE).",
        )
    return CannotCheck(
        "the file is not an SQLite database",
        where=str(path),
        expected="a header that says 'SQLite format 3'",
        do=_NAME_IT,
    )


def _truncation(path: Path, header: bytes) -> CannotCheck | None:
    """What to say of a file that ends before its header says."""
    page = int.from_bytes(header[16:18], "big")
    pages, counter, valid_for = (int.from_bytes(header[at : at + 4], "big") for at in (28, 24, 92))
    expected = pages * (65536 if page == 1 else page)
    size = path.stat().st_size
    if not pages or counter != valid_for or size >= expected:
        return None
    return CannotCheck(
        "the file is truncated",
        where=str(path),
        expected=f"{expected} bytes ({pages} pages)",
        found=f"{size} bytes",
        do=_COPY_AGAIN,
    )


def _refuse_unread_logs(path: Path) -> None:
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if _has_content(beside):
            raise CannotCheck(
                "a log lies beside the snapshot, and its content would be missed",
                where=str(beside),
                expected="no such file",
                do="Take the snapshot with the backup step; never copy a live database file by file.",
            )


def _has_content(log: Path) -> bool:
    """Whether a ``-wal`` or ``-journal`` holds anything; a journal with a zeroed header was committed and left."""
    try:
        if log.name.endswith("-journal"):
            with log.open("rb") as file:
                return file.read(len(JOURNAL_MAGIC)) == JOURNAL_MAGIC
        return log.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable_log(log, error) from None


def _unreadable_log(log: Path, error: OSError) -> CannotCheck:
    return CannotCheck(
        "a log beside the database cannot be read, and it may hold the last commits",
        where=str(log),
        found=error.strerror or type(error).__name__,
        do="Let the user that reads the database read its -wal and -journal too.",
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says about a file into an error that a person can act on."""
    try:
        yield
    except apsw.Error as error:
        raise explain(error, str(path)) from None


def explain(error: apsw.Error, where: str) -> CutoverError:
    """What an error of SQLite means for the reader of ``where``."""
    found = str(error) if str(error) != "not an error" else ""  # of some faults SQLite keeps no words
    if isinstance(error, apsw.NotADBError):
        return CannotCheck(
            "the file is not an SQLite database, or it is encrypted",
            where=where,
            found=found,
            do="If the application encrypts it, decrypt it with the application's own tool first.",
        )
    if isinstance(error, apsw.CorruptError):
        return CannotCheck(_DAMAGED, where=where, found=found, do=_REPAIR)
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return Unreachable("the database is locked", where=where, found=found, do="Try again when the writer is done.")
    if isinstance(error, apsw.FullError):
        return StepFailed("the disk is full", where=where, found=found, do="Make room, then run the step again.")
    return CannotCheck("SQLite cannot read the database", where=where, found=found)


# --- the clone of a live file -------------------------------------------------------------------------------------------


def clone(live: Path, to: Path, *, busy_seconds: float = 30.0) -> None:
    """Copy a live database, with everything that is committed, into ``to``: one step, one consistent moment.

    The live database's bytes are never changed, nor those of its logs, and no file is made beside it. In delete mode
    writers wait while the step runs, about three seconds per gigabyte; in WAL mode they do not. ``to`` appears whole and
    durable or not at all; it is readable by this user only and replaces what was there. Safe to run again.

    A file on read-only media with a log beside it, or one whose writer was killed, is copied with its log into a scratch
    folder beside ``to`` and read there.

    Args:
        busy_seconds: How long to wait for a moment without a lock.

    Raises:
        Unreachable: When the database stayed locked or kept changing for longer than that.
        CannotCheck: When it cannot be read; see ``open_snapshot``.
        StepFailed: When ``to`` cannot be written.
        Refused: When ``to`` is the live file.
    """
    _require_sqlite()
    live = Path(os.path.realpath(live))
    if to.exists() and to.samefile(live):
        raise Refused("the clone would replace the live database", where=str(live))
    header = _header(live)
    deadline = time.monotonic() + busy_seconds
    scratch: Path | None = None
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
        whole = scratch / "clone"
        try:
            _clone_into(live, header, whole, scratch, deadline)
        except CannotCheck:
            # SQLite says of a truncated file no more than that it is damaged.
            if truncated := _truncation(live, header):
                raise truncated from None
            raise
        descriptor = os.open(whole, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for suffix in files.SIDE_FILES:  # a log of an earlier database beside the new one would become a part of it
            to.with_name(to.name + suffix).unlink(missing_ok=True)
        whole.replace(to)
        sync_folder(to.parent)
    except OSError as error:
        raise StepFailed(
            "the clone cannot be written",
            where=str(to),
            found=error.strerror or type(error).__name__,
            do="Make room there, or mend the rights, then run the step again.",
        ) from None
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def live_schema(live: Path, scratch: Path, *, busy_seconds: float = 10.0) -> Iterator[apsw.Connection]:
    """The live database, for one look at its schema: as harmless as ``clone``, and a matter of milliseconds.

    Args:
        scratch: Folder for a clone, which is read where the live file cannot be opened without changing something.
        busy_seconds: How long to wait for a moment without a lock.

    Raises:
        Unreachable: When the database stayed locked for longer than that.
        CannotCheck: When it cannot be read.
    """
    _require_sqlite()
    live = Path(os.path.realpath(live))
    connection = _open_live(live, busy_seconds)
    if connection is None:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".schema-", dir=scratch) as folder:
            clone(live, Path(folder) / "clone.db", busy_seconds=busy_seconds)
            with snapshot(Path(folder) / "clone.db") as connection:
                yield connection
        return
    try:
        with _explained(live):
            yield connection
    finally:
        connection.close()


def _open_live(live: Path, busy_seconds: float) -> apsw.Connection | None:
    """The live file, opened for reading; None where that would change something. See ``_clone_into``."""
    if _is_unopened(live, _header(live)):
        return None
    connection = None
    with _explained(live):
        try:
            connection = apsw.Connection(_uri(live, "mode=ro"), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
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
    """Whether nobody has a database in WAL mode open. Opening it as one should would make -wal and -shm beside it, owned by
    this user, and the application could not write them."""
    wal, shm = (live.with_name(live.name + suffix).exists() for suffix in ("-wal", "-shm"))
    wal_mode = wal or header[18] == 2 or header[19] == 2  # SQLite reads a log that lies there, whatever the header says
    return wal_mode and not (wal and shm)


def _clone_into(live: Path, header: bytes, whole: Path, scratch: Path, deadline: float) -> None:
    if _is_unopened(live, header):
        _clone_unopened(live, whole, scratch, deadline)
        return
    try:
        reading = _uri(live, "mode=ro")
        _in_one_step(reading, whole, deadline, where=str(live), writable=False)
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        # Read-only media, or a journal of a killed writer that would have to be rolled back in the live file.
        _clone_unopened(live, whole, scratch, deadline)


def _clone_unopened(live: Path, whole: Path, scratch: Path, deadline: float) -> None:
    """Copy the files, prove by their stamps that nobody wrote meanwhile, and let SQLite recover the copy."""
    names = [live, *(live.with_name(live.name + suffix) for suffix in ("-wal", "-journal"))]
    copy = scratch / "copy"
    while True:
        before = _stamps(names)
        if time.time() - max(modified for modified, _, _ in before.values()) / 1e9 > _CLOCK_TICK:
            for name in names:
                there = copy.with_name(copy.name + name.name.removeprefix(live.name))
                there.unlink(missing_ok=True)
                if name in before:
                    _copy_file(name, there)
            if _stamps(names) == before:
                break
        if time.monotonic() > deadline:
            raise Unreachable(
                "the database kept changing while it was read",
                where=str(live),
                do="Let the tasks read it beside its application: on the same host, with rights to its -shm file.",
            )
        time.sleep(_CLOCK_TICK)
    with _explained(live):
        _in_one_step(_uri(copy, "mode=rw"), whole, deadline, where=str(live), writable=True)


def _copy_file(name: Path, there: Path) -> None:
    """Copy a database or its log. One that is gone by now is left out: the stamps tell."""
    with contextlib.suppress(FileNotFoundError):
        try:
            name.open("rb").close()
        except PermissionError as error:
            raise _unreadable_log(name, error) from None
        shutil.copyfile(name, there)


def _stamps(names: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            status = name.stat()
            found[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def _in_one_step(reading: str, whole: Path, deadline: float, *, where: str, writable: bool) -> None:
    """``backup.step(-1)``, again only where a lock kept it from beginning.

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
        target.execute("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")  # a clone that was not finished is thrown away
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
    """The clone of a WAL database says WAL too, and opening it would want side files; it has none and needs none."""
    with clone.open("r+b") as file:
        header = bytearray(file.read(HEADER_BYTES))
        for at in (18, 19):
            if header[at] == 2:
                header[at] = 1
        file.seek(0)
        file.write(header)


# --- soundness ----------------------------------------------------------------------------------------------------------


def sound_clone(live: Path, to: Path) -> None:
    """``clone`` where there is room for it, and SQLite's integrity check of the clone.

    Raises:
        CannotCheck: When the database is damaged.
        Refused: When there is not enough free disk.
        The errors of ``clone``. All of them name the live file, not the clone.
    """
    with contextlib.suppress(OSError):  # what is wrong with the file, the clone says
        files.require_space({to.parent: live.stat().st_size})
    try:
        clone(live, to)
        if faults := integrity(to):
            raise CannotCheck(
                _DAMAGED,
                expected="PRAGMA integrity_check: ok",
                found=f"{len(faults)} fault{'s' if len(faults) > 1 else ''}, first: {' '.join(faults[0].split())}",
                do=_REPAIR,
            )
    except CutoverError as error:
        if error.where in ("", str(to)):
            error.where = str(live)
        if error.message == _DAMAGED:
            logs = (live.with_name(f"{live.name}{suffix}") for suffix in ("-wal", "-journal"))
            if beside := " and ".join(log.name for log in logs if _has_content(log)):
                error.do = f"First find out whether {beside} belongs to this file: another one's does this. {error.do}"
        raise


def integrity(path: Path) -> list[str]:
    """The faults that SQLite finds in a snapshot or clone, at most 100; none means that it is sound.

    Raises:
        CannotCheck: When the file cannot be opened at all; see ``open_snapshot``.
    """
    connection = open_snapshot(path)
    try:
        found = [str(text) for (text,) in connection.execute("PRAGMA integrity_check(100)")]
    except apsw.CorruptError as error:
        return [str(error)]
    except apsw.Error as error:
        raise explain(error, str(path)) from None
    finally:
        connection.close()
    return [] if found == ["ok"] else found
