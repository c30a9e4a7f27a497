"""Finds the processes of this host that have a database, or a file beside it, open, mapped or locked."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck

_PF_KTHREAD = 0x00200000
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


@dataclass(frozen=True)
class Holder:
    """A process that has the database, or a file beside it, open, mapped or locked.

    Attributes:
        pid: Its process id.
        command: The program and its module or script; no further arguments, as those can hold passwords.
        file: The file, by the name that the process knows it by.
        write: True when it could write through this.
    """

    pid: int
    command: str
    file: Path
    write: bool


def open_files(path: Path, *, but: Collection[int] = (), others: Collection[Path] = ()) -> list[Holder]:
    """Return every process of this host that has the database or its ``-wal``, ``-shm`` or ``-journal`` open.

    Files are compared by device and inode, so another mount path, another name, or a name deleted since does not hide
    them. An empty list proves little while ``hidden_processes()`` says that processes could not be checked.

    Args:
        path: The database.
        but: Process ids to leave out; the calling process is not left out by itself.
        others: Other names of the database, whose side files count as well.

    Raises:
        CannotCheck: Without /proc.
    """
    return search(path, but, others)[0]


def hidden_processes() -> str:
    """Return which processes cannot be checked, in a sentence; empty when the open files of all can be seen."""
    return search(None, ())[1]


def check_nobody_holds(path: Path, *, but: Collection[int] = (), others: Collection[Path] = ()) -> Check:
    """Check that no process has the database open; unknown when none was found but not every process could be checked."""
    holders, hidden = search(path, but, others)
    return Check(
        "source_not_held_open",
        "No process holds the source open",
        "failed" if holders else "unknown" if hidden else "passed",
        expected="no process",
        found=describe(holders) if holders else hidden or "no process",
        do="End that process." if holders else "Check with lsof as root, on the host." if hidden else "",
        where=str(path),
    )


def describe(holders: Collection[Holder]) -> str:
    """Return the holders in one line."""
    return "; ".join(
        f"pid {holder.pid} {holder.command} ({holder.file.name}{', can write' if holder.write else ''})"
        for holder in holders
    )


@dataclass(frozen=True)
class _Wanted:
    """The files to search for, by inode and by name."""

    names: frozenset[str]
    inodes: dict[tuple[int, int], Path]
    folders: dict[tuple[int, int], frozenset[str]]

    @classmethod
    def of(cls, path: Path, others: Collection[Path]) -> _Wanted:
        inodes: dict[tuple[int, int], Path] = {}
        folders: dict[tuple[int, int], frozenset[str]] = {}
        for database in map(files.real, (path, *others)):
            for item in (database, *files.side_files(database)):
                with suppress(OSError):
                    found = item.stat()
                    inodes.setdefault((found.st_dev, found.st_ino), item)
            folder = (-1, -1)
            with suppress(OSError):
                found = database.parent.stat()
                folder = (found.st_dev, found.st_ino)
            names = {database.name, *(database.name + suffix for suffix in files.SIDE_FILES)}
            folders[folder] = folders.get(folder, frozenset()) | names
        return cls(frozenset(files.real(item).name for item in (path, *others)), inodes, folders)

    def matches(self, found: os.stat_result, name: str) -> bool:
        return (found.st_dev, found.st_ino) in self.inodes or self.is_deleted_one(name, found.st_dev)

    def is_deleted_one(self, name: str, device: int) -> bool:
        """Check whether a name, as /proc shows it, is that of a deleted database or side file of one of the places."""
        if not name.endswith(" (deleted)"):
            return False
        path = Path(name.removesuffix(" (deleted)"))
        here = [folder for folder, names in self.folders.items() if path.name in names]
        if not here:
            return False
        try:
            folder = path.parent.stat()
        except OSError:  # a folder of another mount namespace: compare the device only
            return any(device == place for place, _ in here)
        return (folder.st_dev, folder.st_ino) in here


def search(path: Path | None, but: Collection[int], others: Collection[Path] = ()) -> tuple[list[Holder], str]:
    """Search all processes, except ``but``, for the files of a database, under its other names as well.

    Returns:
        The holders, and which processes cannot be checked, in words; empty when all can.

    Raises:
        CannotCheck: Without /proc.
    """
    wanted = _Wanted.of(path, others) if path is not None else None
    pids = _processes()
    seen = [] if wanted is None else list(_locks(wanted))
    checked = hidden = 0
    for pid in pids:
        checked += 1
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
    return _holders(seen, but), _hidden(checked, hidden)


def _processes() -> list[int]:
    try:
        pids = sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208
    except OSError:
        pids = []
    if os.getpid() not in pids:
        raise CannotCheck(
            "the open files of processes cannot be checked",
            where="/proc",
            expected="the processes of this host, this one among them",
            found=f"{len(pids)} processes",
            do="Run the workers where /proc is mounted, in the PID namespace that it shows.",
        )
    return pids


def _holders(seen: list[tuple[int, str, bool]], but: Collection[int]) -> list[Holder]:
    found: dict[tuple[int, Path], Holder] = {}
    for pid, name, write in seen:
        if pid in but:
            continue
        file = Path(name)
        before = found.get((pid, file))
        found[pid, file] = Holder(pid, _command(pid), file, write or (before is not None and before.write))
    return sorted(found.values(), key=lambda holder: (holder.pid, holder.file))


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
    """Read the mappings of a process: a mapping outlives its descriptor."""
    with suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_bytes()
        # Browsers and the like have thousands of mappings: read them only where one of ours can be among them.
        if not any(os.fsencode(name) in maps for name in wanted.names) and not any(
            b" %d " % inode in maps for _, inode in wanted.inodes
        ):
            return
        for line in os.fsdecode(maps).splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) < 6 or not fields[5].startswith("/"):
                continue
            device = _device(fields[3])
            if (device, int(fields[4])) in wanted.inodes or wanted.is_deleted_one(fields[5], device):
                yield fields[5], "w" in fields[1] and "s" in fields[1]


def _locks(wanted: _Wanted) -> Iterator[tuple[int, str, bool]]:
    """Read the locks of all processes: every user sees them, also those of processes whose open files are hidden."""
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


def _hidden(checked: int, hidden: int) -> str:
    unlisted = f"the open files of {hidden} of {checked} processes are not visible to this user" if hidden else ""
    return "; ".join(filter(None, [unlisted, invisible_processes()]))


def invisible_processes() -> str:
    """Return which processes /proc does not show at all, in a sentence; empty when it shows those of this host."""
    parts = []
    # With /proc mounted hidepid=2 the processes of others are not listed; process 1 is never ours.
    if not Path("/proc/1").exists():
        parts.append("the processes of other users are not visible (hidepid)")
    with suppress(OSError):
        if Path("/proc/self/ns/pid").stat().st_ino != _FIRST_PID_NAMESPACE:
            parts.append("processes outside this container are not visible")
    return "; ".join(parts)
