"""The fence: the source made unwritable for every SQLite, also for connections that are open already; reading goes on.

SQLite reads the write version at byte 18 of a database's header at the start of every transaction in which the change
counter moved, and treats a file with a version it does not know as read-only: INSERT, DDL, VACUUM, pragmas and all. So the
fence is one byte, two counters, and for good measure the file's mode. Triggers would stop only INSERT, UPDATE and DELETE.

A note beside the file says which run raised the fence and how to lift it. It is written before the first byte is changed and
removed after the last one is back: killed at any instant, there is either no fence, or a fence with its note.

None of this may run while the same process has another connection to the file open: closing a file descriptor drops the
POSIX locks that the process holds on that file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shlex
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import apsw

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed
from include.cutover.files import now, sync_folder, write_atomically

log = logging.getLogger(__name__)

MAGIC = b"SQLite format 3\0"
FENCED = 3
_WRITE_VERSION, _READ_VERSION = 18, 19
_CHANGE_COUNTER, _VALID_FOR = 24, 92
_HEADER = 100
_ROLLBACK, _WAL = (1, 1), (2, 2)
_NOTE_VERSION = 1
_ALL_WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_PF_KTHREAD = 0x00200000
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


# --- who has the file open ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """A process that has the database, or a file beside it, open, mapped or locked.

    Attributes:
        command: The program and its module or script; no further arguments, as those can hold passwords.
        file: Which file, by the name the process knows it by.
        write: Whether it could write through this.
    """

    pid: int
    command: str
    file: Path
    write: bool


def open_files(path: Path, *, but: Collection[int] = ()) -> list[Holder]:
    """Every process of this host that has the database or its ``-wal``, ``-shm`` or ``-journal`` open.

    Files are told apart by device and inode, so another mount path, another name, or a name deleted since does not hide
    them. An empty list means little while ``visible()`` says that processes could not be looked at.

    Args:
        but: Process ids to leave out; the calling process is not left out by itself.

    Raises:
        CannotCheck: Without /proc.
    """
    return _look(path, but)[0]


def visible() -> str:
    """Empty when the open files of every process can be seen, else a sentence on what stays hidden."""
    return _look(None, ())[1]


def check_nobody_holds(path: Path, *, but: Collection[int] = ()) -> Check:
    """Whether nobody has the database open; unknown when nobody was found and not every process could be looked at."""
    holders, hidden = _look(path, but)
    return Check(
        "source_not_held_open",
        "No process holds the source open",
        "failed" if holders else "unknown" if hidden else "passed",
        expected="no process",
        found=describe(holders) if holders else hidden or "no process",
        do="End that process." if holders else "Look with lsof as root, on the host." if hidden else "",
        where=str(path),
    )


def describe(holders: Collection[Holder]) -> str:
    """The holders in one line."""
    return "; ".join(
        f"pid {holder.pid} {holder.command} ({holder.file.name}{', can write' if holder.write else ''})"
        for holder in holders
    )


@dataclass(frozen=True)
class _Wanted:
    """The files that are looked for, by what they are and by what they are called."""

    database: Path
    inodes: dict[tuple[int, int], Path]
    folder: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> _Wanted:
        database = files.real(path)
        inodes = {}
        for item in (database, *files.side_files(database)):
            with suppress(OSError):
                found = item.stat()
                inodes[found.st_dev, found.st_ino] = item
        folder = (-1, -1)
        with suppress(OSError):
            found = database.parent.stat()
            folder = (found.st_dev, found.st_ino)
        return cls(database, inodes, folder)

    def matches(self, found: os.stat_result, name: str) -> bool:
        return (found.st_dev, found.st_ino) in self.inodes or self.is_deleted_one(name, found.st_dev)

    def is_deleted_one(self, name: str, device: int) -> bool:
        """Whether a name as /proc shows it is that of a deleted database or side file of this place."""
        if not name.endswith(" (deleted)"):
            return False
        path = name.removesuffix(" (deleted)")
        if Path(path).name not in {self.database.name, *(self.database.name + suffix for suffix in files.SIDE_FILES)}:
            return False
        try:
            folder = Path(path).parent.stat()
        except OSError:  # a folder of another mount namespace; the device has to do
            return device == self.folder[0]
        return (folder.st_dev, folder.st_ino) == self.folder


def _look(path: Path | None, but: Collection[int]) -> tuple[list[Holder], str]:
    wanted = _Wanted.of(path) if path is not None else None
    found: dict[tuple[int, Path], Holder] = {}
    looked_at = hidden = 0
    try:
        pids = sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208
    except OSError:
        pids = []
    if os.getpid() not in pids:
        raise CannotCheck(
            "open files cannot be looked at",
            where="/proc",
            expected="the processes of this host, this one among them",
            found=f"{len(pids)} processes",
            do="Run the workers where /proc is mounted, in the PID namespace that it shows.",
        )
    seen = [] if wanted is None else list(_locks(wanted))
    for pid in pids:
        looked_at += 1
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
        except PermissionError:
            hidden += not _is_kernel_thread(pid)
            continue
        except OSError:  # ended meanwhile
            continue
        if wanted is not None:
            seen += [(pid, name, write) for name, write in _descriptors(pid, descriptors, wanted)]
            seen += [(pid, name, write) for name, write in _maps(pid, wanted)]
    for pid, name, write in seen:
        if pid in but:
            continue
        file = Path(name)
        before = found.get((pid, file))
        found[pid, file] = Holder(pid, _command(pid), file, write or (before is not None and before.write))
    return sorted(found.values(), key=lambda holder: (holder.pid, holder.file)), _hidden(looked_at, hidden)


def _descriptors(pid: int, descriptors: list[str], wanted: _Wanted) -> Iterator[tuple[str, bool]]:
    for descriptor in descriptors:
        link = f"/proc/{pid}/fd/{descriptor}"
        with suppress(OSError):
            name = os.readlink(link)  # noqa: PTH115
            if name.startswith("/") and wanted.matches(os.stat(link), name):  # noqa: PTH116
                info = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
                flags = int(re.search(r"^flags:\s*([0-7]+)", info, re.MULTILINE).group(1), 8)  # type: ignore[union-attr]
                yield name, flags & os.O_ACCMODE != os.O_RDONLY


def _maps(pid: int, wanted: _Wanted) -> Iterator[tuple[str, bool]]:
    """A mapping outlives its descriptor."""
    with suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_bytes()
        # Browsers and the like have thousands of mappings: look closer only where one of ours can be among them.
        if os.fsencode(wanted.database.name) not in maps and not any(b" %d " % inode in maps for _, inode in wanted.inodes):
            return
        for line in os.fsdecode(maps).splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) < 6 or not fields[5].startswith("/"):
                continue
            device = _device(fields[3])
            if (device, int(fields[4])) in wanted.inodes or wanted.is_deleted_one(fields[5], device):
                yield fields[5], "w" in fields[1] and "s" in fields[1]


def _locks(wanted: _Wanted) -> Iterator[tuple[int, str, bool]]:
    """Locks are listed for everybody to see, also those of processes whose open files are not."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "->" in fields or len(fields) < 6:
                continue
            major_minor, _, inode = fields[5].rpartition(":")
            file = wanted.inodes.get((_device(major_minor), int(inode)))
            if file is not None and int(fields[4]) > 0:
                yield int(fields[4]), str(file), fields[3] == "WRITE"


def _device(text: str) -> int:
    major, minor = text.split(":")
    return os.makedev(int(major, 16), int(minor, 16))


def _is_kernel_thread(pid: int) -> bool:
    try:
        return bool(int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[6]) & _PF_KTHREAD)
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "?"
    name = Path(words[0]).name or "?"
    if len(words) > 2 and words[1] == "-m":
        return f"{name} -m {words[2]}"
    if len(words) > 1 and words[1].endswith((".py", ".sh")):
        return f"{name} {Path(words[1]).name}"
    return name


def _hidden(looked_at: int, hidden: int) -> str:
    parts = []
    if hidden:
        parts.append(f"the open files of {hidden} of {looked_at} processes are not visible to this user")
    # With /proc mounted hidepid=2 the processes of others are not even listed; process 1 never is ours.
    elif not Path("/proc/1").exists():
        parts.append("the processes of other users are not visible (hidepid)")
    with suppress(OSError):
        if Path("/proc/self/ns/pid").stat().st_ino != _FIRST_PID_NAMESPACE:
            parts.append("processes outside this container are not visible")
    return "; ".join(parts)


# --- raising and lifting -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FenceState:
    """What stands around a database.

    Attributes:
        source: The database, symbolic links followed.
        raised: No SQLite writes to the file now.
        intact: Raised, and the file is byte for byte what it was when the fence was raised.
        run_id: The run that raised it.
        time: When, UTC.
        note: The file that says how to lift it.
        sha256: Of the fenced file, when the fence was raised.
        mode: The file's mode before the fence.
        original: Bytes 18 and 19 before the fence; 2, 2 is a database in WAL mode.
        findings: What is not as the fence left it, each in plain words.
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

    @property
    def detail(self) -> str:
        """One line for logs and errors."""
        if self.run_id is None and not self.findings:
            return "no fence"
        words = "fence" if self.raised else "no fence"
        who = f"{words} of run {self.run_id} since {self.time}" if self.run_id else words
        return "; ".join([f"{who}, {'intact' if self.intact else 'not intact'}", *self.findings])


@dataclass(frozen=True)
class _Note:
    version: int
    state: Literal["raising", "raised"]
    run_id: str
    time: str
    note: str
    file: str
    original: tuple[int, int]
    mode: int
    how_to_lift: str
    bytes: int | None = None
    sha256: str | None = None


def note_path(source: Path) -> Path:
    """Where the note of a fence around ``source`` is, or would be."""
    database = files.real(source)
    return database.with_name(f"{database.name}.fence.json")


def status(source: Path, *, content: bool = True) -> FenceState:
    """What stands around the database now; changes nothing.

    Args:
        content: Also compare the file's SHA-256 with the one from when the fence was raised. Without it, ``intact`` speaks
            of the header, the size and the files beside only.

    Raises:
        CannotCheck: When the file is missing or not a SQLite database, or the note is unreadable.
    """
    database = files.real(source)
    header, note = _header(database), _read_note(database)
    fenced = header[_WRITE_VERSION] == FENCED
    if note is None:
        if not fenced:
            return FenceState(database, raised=False, intact=False)
        return FenceState(database, raised=True, intact=False, findings=("its note is missing",))
    broken, remarks = [], []
    if note.state == "raising":
        broken.append("it was being raised and that never ended")
    if not fenced:
        broken.append(f"the write version is {header[_WRITE_VERSION]}, no longer {FENCED}")
    broken += [f"{item.name} lies beside it" for item in files.side_files(database) if not item.name.endswith("-shm")]
    if note.state == "raised":
        size = database.stat().st_size
        if size != note.bytes:
            broken.append(f"{size:,} bytes long, was {note.bytes:,}")
        elif content and files.digest(database) != note.sha256:
            broken.append("its content changed")
    mode = stat.S_IMODE(database.stat().st_mode)
    if mode & _ALL_WRITE_BITS:
        remarks.append(f"its mode is {mode:04o}")
    return FenceState(
        database,
        raised=fenced,
        intact=not broken,
        run_id=note.run_id,
        time=note.time,
        note=note_path(database),
        sha256=note.sha256,
        mode=note.mode,
        original=note.original,
        findings=(*broken, *remarks),
    )


def raise_fence(source: Path, *, run_id: str, note: str = "", busy_seconds: float = 5.0) -> FenceState:
    """Make the database unwritable for every SQLite. Reading goes on.

    A hot journal is rolled back and a WAL checkpointed by SQLite first, as the application's next start would do. No
    transaction of anybody is cut: the bytes change under SQLite's exclusive lock.

    Safe to run again: the same run finds its fence and changes nothing; what a killed attempt left half-done is finished.

    Args:
        note: Words for whoever finds the file.
        busy_seconds: How long to wait for transactions of others to end.

    Returns:
        The state, with the SHA-256 of the fenced file.

    Raises:
        Refused: When another run's fence stands, when this run's fence was broken, or when others hold the file in a way
            that the fence would not stop; they are named. The database then is as it was.
        CannotCheck: When the file is missing or not a SQLite database.
        StepFailed: When the place cannot be written.
    """
    database = files.real(source)
    header = _header(database)
    found = _read_note(database)
    if found is not None and found.run_id != run_id:
        raise _belongs_to(database, found)
    if found is not None and found.state == "raised":
        state = status(database)
        if state.intact:
            return state
        raise Refused(
            "the fence was broken since it was raised",
            where=str(database),
            expected="the file as the fence left it",
            found="; ".join(state.findings),
            do="Find out who wrote to the file; then lift the fence and raise it again.",
        )
    if found is None:
        if header[_WRITE_VERSION] == FENCED:
            raise _without_note(database)
        found = _claim(database, _new_note(database, header, run_id, note))
    try:
        if header[_WRITE_VERSION] != FENCED:
            _close_to_writers(database, busy_seconds)
    except BaseException:
        # Whatever went wrong: as long as the byte is not set there is no fence, and then there must be no note.
        with suppress(CannotCheck):
            header = _header(database)
            if header[_WRITE_VERSION] != FENCED:
                if found.original == _WAL and header[_WRITE_VERSION] == _ROLLBACK[0]:
                    _set_wal(database)
                _remove_note(database)
        raise
    try:
        database.chmod(found.mode & ~_ALL_WRITE_BITS)
    except OSError as error:
        # The byte is the fence; the mode only tells other programs. Its owner may be somebody else.
        log.warning("%s keeps its mode: %s", database, error.strerror)
    _replace_note(
        database, replace(found, state="raised", bytes=database.stat().st_size, sha256=files.digest(database), time=now())
    )
    return status(database, content=False)


def lift(source: Path, *, run_id: str | None = None) -> FenceState:
    """Make the database writable again: mode, header bytes and journal mode as they were. The content is not touched.

    New connections write at once. One that read the file while it was fenced takes it for read-only until it is opened anew.

    Safe to run again: without a fence nothing happens, and what a killed attempt left is finished.

    Args:
        run_id: When given, only the fence of that run is lifted.

    Returns:
        The state before the lift came to its end, with ``raised`` false. ``intact`` and ``findings`` say whether somebody
        changed the file under the fence, and whether WAL mode could not be set again because somebody reads.

    Raises:
        Refused: When the fence is another run's, or has no note: what the bytes were is not known then.
        CannotCheck: When the file is missing or not a SQLite database.
        StepFailed: When the place cannot be written.
    """
    database = files.real(source)
    note = _read_note(database)
    if note is None:
        if _header(database)[_WRITE_VERSION] == FENCED:
            raise _without_note(database)
        return FenceState(database, raised=False, intact=False)
    if run_id is not None and note.run_id != run_id:
        raise _belongs_to(database, note)
    before = status(database)
    if stat.S_IMODE(database.stat().st_mode) != note.mode:
        try:
            database.chmod(note.mode)
        except PermissionError as error:
            log.warning("%s keeps its mode: %s", database, error.strerror)
    findings = list(before.findings)
    if before.raised:
        with files.disk_errors(database):
            descriptor = os.open(database, os.O_RDWR)
            try:
                # Nobody can be in a write transaction on a fenced file, so no lock is needed.
                _patch(descriptor, _ROLLBACK[0])
            finally:
                os.close(descriptor)
    if note.original == _WAL and (hindrance := _set_wal(database)):
        findings.append(f"it stays in journal_mode=delete and was in WAL mode: {hindrance}")
        log.warning("%s: %s", database, findings[-1])
    _remove_note(database)
    return replace(before, raised=False, note=None, findings=tuple(findings))


def versions(database: Path) -> tuple[int, int]:
    """Bytes 18 and 19 of the header as they were without a fence, going by the header alone.

    Raises:
        CannotCheck: When the file is missing or not a SQLite database.
    """
    write, read = _header(database)[_WRITE_VERSION : _READ_VERSION + 1]
    return (read if write == FENCED else write, read)


def give_original_bytes(backup: Path, original: tuple[int, int]) -> None:
    """Take the fence out of a copy of a fenced database, durably. The copy must not be open anywhere."""
    with files.disk_errors(backup):
        descriptor = os.open(backup, os.O_RDWR)
        try:
            os.pwrite(descriptor, bytes(original), _WRITE_VERSION)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- the header --------------------------------------------------------------------------------------------------------


def _header(database: Path) -> bytes:
    try:
        with database.open("rb") as file:
            header = file.read(_HEADER)
    except OSError as error:
        raise CannotCheck(
            "the database cannot be read",
            where=str(database),
            found=error.strerror or type(error).__name__,
            do="Check the path in the connection of the source.",
        ) from None
    if len(header) < _HEADER or not header.startswith(MAGIC):
        raise CannotCheck(
            "the file is not a SQLite database",
            where=str(database),
            expected="the header of SQLite 3",
            found="an empty file" if not header else "something else, or an encrypted database",
        )
    return header


def _patch(descriptor: int, write_version: int) -> None:
    """Set the write version and move both change counters, in one write of one sector, durably.

    The counters make every open connection read the header again. They move by the same step: their being equal, or not,
    tells SQLite whether the size in the header can be trusted.
    """
    header = bytearray(os.pread(descriptor, _HEADER, 0))
    header[_WRITE_VERSION] = write_version
    for offset in (_CHANGE_COUNTER, _VALID_FOR):
        counter = (int.from_bytes(header[offset : offset + 4], "big") + 1) & 0xFFFFFFFF
        header[offset : offset + 4] = counter.to_bytes(4, "big")
    os.pwrite(descriptor, header, 0)
    os.fsync(descriptor)


def _close_to_writers(database: Path, busy_seconds: float) -> None:
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
            with files.disk_errors(database):
                _patch(descriptor, FENCED)
            connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise CannotCheck(
                "SQLite cannot open the database for writing",
                where=str(database),
                found=str(error),
                do="Look at the file's rights and, with the sqlite3 shell, at a copy of it.",
            ) from None
        finally:
            if connection is not None:
                connection.close()
    finally:
        os.close(descriptor)


def _locked_in_rollback_mode(connection: apsw.Connection, descriptor: int) -> bool:
    """One try to have the database for oneself, without a WAL. False while others are in the way."""
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
    # Between the two somebody may have gone back to WAL mode.
    if tuple(os.pread(descriptor, 2, _WRITE_VERSION)) == _ROLLBACK:
        return True
    connection.execute("ROLLBACK")
    return False


def _drop_spent_journal(database: Path) -> None:
    """Remove what journal modes TRUNCATE and PERSIST leave beside a database; only under the exclusive lock.

    Raises:
        StepFailed: When the journal, or a WAL, still holds something. SQLite would have used it up.
    """
    for path in files.side_files(database):
        if path.name.endswith("-shm"):
            continue
        with path.open("rb") as file:
            content = file.read(1)
        if content not in (b"", b"\0"):
            raise StepFailed(
                "SQLite did not use up a file beside the database",
                where=str(path),
                do="Start and stop the application once.",
            )
        path.unlink()


def _set_wal(database: Path) -> str:
    """Set WAL mode, as SQLite does it. Returns what hindered it; empty when it is set."""
    try:
        connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(2000)
            mode = connection.pragma("journal_mode", "wal")
            return "" if mode == "wal" else f"SQLite says {mode}"
        finally:
            connection.close()
    except apsw.BusyError:
        return "somebody reads it"
    except apsw.Error as error:
        return str(error)


# --- the note ----------------------------------------------------------------------------------------------------------


def _new_note(database: Path, header: bytes, run_id: str, words: str) -> _Note:
    mode = stat.S_IMODE(database.stat().st_mode)
    file, path = shlex.quote(str(database)), shlex.quote(str(note_path(database)))
    original = (header[_WRITE_VERSION], header[_READ_VERSION])
    how = f"printf '\\001\\001' | dd of={file} bs=1 seek={_WRITE_VERSION} conv=notrunc,fsync && rm {path}"
    return _Note(
        version=_NOTE_VERSION,
        state="raising",
        run_id=run_id,
        time=now(),
        note=words,
        file=str(database),
        original=original,
        mode=mode,
        how_to_lift=f"chmod {mode:04o} {file} && {how}",
    )


def _serialized(note: _Note) -> bytes:
    explained = {
        **asdict(note),
        "mode": f"{note.mode:04o}",
        "what": "This SQLite database is closed to writers while its content is moved to PostgreSQL. Reading works.",
        "how_to_lift_with_the_project": (
            f"python -m include.cutover fence lift --source {shlex.quote(note.file)} --run {shlex.quote(note.run_id)}"
        ),
        "before_lifting_by_hand": "Stop everything that uses the file. Do it only when the run above is given up.",
    }
    return json.dumps(explained, indent=2, ensure_ascii=False).encode() + b"\n"


def _read_note(database: Path) -> _Note | None:
    path = note_path(database)
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        known = {name: data[name] for name in _Note.__dataclass_fields__}
        first, second = (int(value) for value in known["original"])
        note = _Note(**{**known, "original": (first, second), "mode": int(known["mode"], 8)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(
            "the fence's note is unreadable",
            where=str(path),
            found=type(error).__name__,
            do="The file is fenced or not as byte 18 says (3 is fenced); mend or remove the note by hand.",
        ) from None
    if note.version != _NOTE_VERSION:
        raise CannotCheck(
            "the fence's note is of another version", where=str(path), expected=str(_NOTE_VERSION), found=str(note.version)
        )
    return note


def _claim(database: Path, note: _Note) -> _Note:
    """Put the note in place, unless there is one: of two runs at once, one wins."""
    path = note_path(database)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with files.disk_errors(path):
        try:
            with temporary.open("xb") as file:
                file.write(_serialized(note))
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(temporary)
        except FileExistsError:
            found = _read_note(database)
            if found is not None and found.run_id != note.run_id:
                raise _belongs_to(database, found) from None
            return found or note
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return note


def _replace_note(database: Path, note: _Note) -> None:
    with files.disk_errors(note_path(database)):
        write_atomically(note_path(database), _serialized(note))


def _remove_note(database: Path) -> None:
    path = note_path(database)
    with files.disk_errors(path):
        path.unlink(missing_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*"):
            leftover.unlink(missing_ok=True)
        sync_folder(path.parent)


def _belongs_to(database: Path, note: _Note) -> Refused:
    return Refused(
        "the fence around the database is another run's",
        where=str(database),
        found=f"run {note.run_id}, since {note.time}",
        do="Bring that run to its end (roll it back, or lift its fence) first.",
    )


def _without_note(database: Path) -> Refused:
    return Refused(
        "the database is fenced and its note is missing",
        where=str(database),
        expected=str(note_path(database)),
        do="Somebody removed the note, or put a copy of a fenced file here. When no run is in flight, make the file "
        f"writable, set its bytes {_WRITE_VERSION} and {_READ_VERSION} to 1, and try again.",
    )


def _held(database: Path) -> CutoverError:
    holders, hidden = _look(database, (os.getpid(),))
    return Refused(
        "somebody uses the database in a way that the fence would not stop",
        where=str(database),
        expected="no other transaction and, in WAL mode, no other connection",
        found=describe(holders) or hidden or "a lock by nobody who can be seen",
        do="End what is named, or add it to the plan's services, then run the step again.",
    )
