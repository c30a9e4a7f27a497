"""Finds mounts of a single file: a program that opens the file there has its ``-wal`` and ``-journal`` in another folder.

The mounts of this process and of every other process that /proc shows are compared, because a container has mounts of its
own. A mount of a folder is harmless: the side files lie in that folder for everybody. The format of ``mountinfo`` is that of
proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class FileMount:
    """A mount that shows one file.

    Attributes:
        path: Its place, as the processes in that mount namespace see it.
        pid: A process in another mount namespace that sees it; None for a mount that this process sees.
        reached: A name by which this process reaches that place, with the right to do so.
    """

    path: Path
    pid: int | None
    reached: Path

    def __str__(self) -> str:
        return str(self.path) if self.pid is None else f"{self.path} as pid {self.pid} sees it"


@dataclass(frozen=True)
class _Mount:
    id: str
    device: str
    root: str
    point: str

    @classmethod
    def of(cls, line: str) -> _Mount:
        fields = line.split(" ")
        return cls(fields[0], fields[2], _plain(fields[3]), _plain(fields[4]))


def of_file(names: Collection[Path]) -> list[FileMount]:
    """Return the mounts that show one file by itself, in every mount namespace that can be seen.

    Where this user may not enter another namespace, its mounts are compared by their paths within the file system.

    Args:
        names: The file's names that are known, symbolic links followed, the most important one first. All are one inode.
    """
    places = [place for place in map(_place, names) if place is not None]
    if not places:
        return []
    found: dict[tuple[Path, int | None], FileMount] = {}
    known: set[str] = set()
    seen: set[tuple[str, str, int]] = set()
    for pid in (os.getpid(), *_processes()):
        with suppress(OSError):
            view = _view(pid)
            if view in seen:
                continue
            text = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape")
            if view is not None:
                seen.add(view)
            if text in known:
                continue
            known.add(text)
            for item in _matching(text, pid, places):
                found.setdefault((item.path, item.pid), item)
    own = {item.path for item in found.values() if item.pid is None}
    return [item for item in found.values() if item.pid is None or item.path not in own]


def _view(pid: int) -> tuple[str, str, int] | None:
    """Return mount namespace, root mount and root folder of a process: processes in which they are equal see equal mounts.

    Reading these takes a tenth of the time of reading the mounts. None where they cannot be read.
    """
    with suppress(OSError):
        namespace = os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115
        descriptor = os.open(f"/proc/{pid}/root", os.O_PATH)
        try:
            mount, folder = _mount_id(descriptor), os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
        return None if mount is None else (namespace, mount, folder)
    return None


def _mount_id(descriptor: int) -> str | None:
    """Return the number of the mount that a descriptor was opened in; None where the kernel does not show it."""
    with suppress(OSError):
        info = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        number = re.search(r"^mnt_id:\s*(\d+)", info, re.MULTILINE)
        return None if number is None else number.group(1)
    return None


@dataclass(frozen=True)
class _Place:
    """Where a name of the file lies: the device as ``mountinfo`` names it, the path within it, and the inode."""

    device: str
    path: str
    inode: tuple[int, int]


def _place(name: Path) -> _Place | None:
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        # With O_PATH, closing the descriptor leaves the locks alone that this process holds on the file.
        descriptor = os.open(name, os.O_PATH)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        mount = _mount_of(descriptor, name, [_Mount.of(line) for line in lines])
    finally:
        os.close(descriptor)
    if mount is None:
        return None
    below = os.path.relpath(name, mount.point)
    path = mount.root if below == "." else f"{mount.root.rstrip('/')}/{below}"
    return _Place(mount.device, path, (found.st_dev, found.st_ino))


def _mount_of(descriptor: int, name: Path, mounts: list[_Mount]) -> _Mount | None:
    number = _mount_id(descriptor)
    for mount in mounts:
        if mount.id == number:
            return mount
    # A process that is not dumpable, as Airflow makes its tasks, may not read that: the longest mount point counts, and of
    # several at one place the last.
    above = [mount for mount in mounts if name.is_relative_to(mount.point)]
    return max(reversed(above), key=lambda mount: len(mount.point), default=None)


def _matching(text: str, pid: int, places: list[_Place]) -> Iterator[FileMount]:
    here = pid == os.getpid()
    for line in text.splitlines():
        mount = _Mount.of(line)
        beside = [place for place in places if place.device == mount.device]
        if not beside or any(f"{place.path}/".startswith(f"{mount.root.rstrip('/')}/") and place.path != mount.root
                             for place in beside):  # fmt: skip
            continue
        reached = Path(mount.point) if here else Path(f"/proc/{pid}/root{mount.point}")
        try:
            found = reached.stat()
            matches = any((found.st_dev, found.st_ino) == place.inode for place in beside)
        except OSError:
            matches = any(mount.root == place.path for place in beside)
        if matches:
            yield FileMount(Path(mount.point), None if here else pid, reached)


def _processes() -> list[int]:
    try:
        return sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208
    except OSError:
        return []


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), text)
