"""An archive of files and folders, with owners and modes, read back and compared after it was written.

Symbolic links are kept as links and never followed, so nothing outside the named paths gets in. Files that cannot be read,
or change while they are read, are reported. Sockets, pipes, devices and extended attributes are not kept.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from include.cutover import files
from include.cutover.errors import CannotCheck, StepFailed

_IN_MEMORY = 16 << 20
_BLOCK = 1 << 20
_MARGIN = 1 << 20
_TYPES = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}


@dataclass(frozen=True)
class Archived:
    """The content of an archive.

    Attributes:
        bytes: Size of the archive.
        sha256: Of the archive.
        entries: Number of files, folders and links.
        problems: Paths that are missing in it or changed while they were read, each with the reason.
    """

    bytes: int
    sha256: str
    entries: int
    problems: tuple[str, ...]


_Entry = tuple[bytes, int, int, int, str]  # type, mode, owner, group; the content's hash, or where a link leads


def write(paths: Sequence[Path], to: Path, *, but: Collection[Path] = ()) -> Archived:
    """Write a compressed tar archive of these paths into the new file ``to``, durable and readable by its owner only.

    Names in it are the paths without the leading slash. Safe to run again: what a killed attempt left at ``to`` is removed
    first, and a failed attempt leaves nothing.

    Args:
        paths: Files and folders to archive.
        to: The archive to make.
        but: Files and folders that are left out wherever they are found, such as the backups themselves.

    Raises:
        StepFailed: When the place cannot be written, or the archive does not read back as it was written.
        Refused: When there is not enough room.
    """
    out = {files.real(path) for path in but}
    problems: list[str] = []
    found = dict(item for path in paths for item in _walk(path, out, problems))
    sizes = [status.st_size for status in found.values() if stat.S_ISREG(status.st_mode)]
    files.require_space({to.parent: sum(sizes) + max(sizes, default=0) + _MARGIN})
    try:
        with files.disk_errors(to):
            to.unlink(missing_ok=True)
            descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
                    entries = {}
                    for path, status in found.items():
                        entry = _add(tar, path, status, to.parent, problems)
                        if entry is not None:
                            entries[_name(path)] = entry
                file.flush()
                os.fsync(file.fileno())
        _compare(to, entries)
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    return Archived(to.stat().st_size, files.digest(to), len(entries), tuple(problems))


def _name(path: Path) -> str:
    return str(path).lstrip("/")


def _walk(path: Path, out: Collection[Path], problems: list[str]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the path and everything below it, folders before their content."""
    try:
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and files.real(path) in out:
            return
        if stat.S_IFMT(status.st_mode) not in _TYPES:
            problems.append(f"{path}: not a file, folder or link")
            return
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            for below in sorted(path.iterdir()):
                yield from _walk(below, out, problems)
    except OSError as error:
        problems.append(f"{path}: {error.strerror or type(error).__name__}")


def _add(tar: tarfile.TarFile, path: Path, status: os.stat_result, scratch: Path, problems: list[str]) -> _Entry | None:
    """Add one entry and return what must be read back; None, and a problem, where it cannot be read."""
    info = tarfile.TarInfo(_name(path))
    info.type = _TYPES[stat.S_IFMT(status.st_mode)]
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    info.mtime = status.st_mtime
    owner = (info.type, info.mode, info.uid, info.gid)
    # Read whole before its size goes into the archive: it may be another by then, or reading may fail in the middle.
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(scratch)) as content:
        try:
            if info.type == tarfile.SYMTYPE:
                info.linkname = str(path.readlink())
            elif info.type == tarfile.REGTYPE and not _read(path, content, status):
                problems.append(f"{path}: it changed while it was read")
        except OSError as error:
            problems.append(f"{path}: {error.strerror or type(error).__name__}")
            return None
        info.size = content.tell()
        content.seek(0)
        tar.addfile(info, content)
        content.seek(0)
        return (*owner, info.linkname or _digest(content))


def _read(path: Path, to: IO[bytes], status: os.stat_result) -> bool:
    """Read a file's content; return False when it changed meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        while block := file.read(_BLOCK):
            to.write(block)
        now = os.fstat(file.fileno())
    return (now.st_ino, now.st_size, now.st_mtime_ns) == (status.st_ino, to.tell(), status.st_mtime_ns)


def _digest(file: IO[bytes]) -> str:
    total = hashlib.sha256()
    while block := file.read(_BLOCK):
        total.update(block)
    return total.hexdigest()


def _compare(archive: Path, written: dict[str, _Entry]) -> None:
    """Read the archive from its device, and refuse it unless it holds what was written."""
    found = {}
    try:
        with archive.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with tarfile.open(fileobj=file, mode="r:gz") as tar:
                for info in tar:
                    content = tar.extractfile(info) if info.isreg() else None
                    what = info.linkname or (_digest(content) if content else hashlib.sha256().hexdigest())
                    found[info.name] = (info.type, info.mode, info.uid, info.gid, what)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise StepFailed("the archive does not read back", where=str(archive), found=str(error)) from None
    except OSError as error:
        raise CannotCheck("the archive cannot be read", where=str(archive), found=error.strerror or "") from None
    if found != written:
        wrong = sorted(name for name in found.keys() | written.keys() if found.get(name) != written.get(name))
        raise StepFailed(
            "the archive does not read back as it was written",
            where=str(archive),
            found=", ".join(wrong[:5]),
            do="Do not trust that disk; name another place in the plan.",
        )
