"""Durable file operations: copies, digests, atomic writes, free space. No crash and no full disk leaves a wrong file.

A file is fsynced before it counts, under a name that is not read until it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from include.cutover import rights
from include.cutover.errors import CannotCheck, Refused, StepFailed

BLOCK = 1 << 20
SIDE_FILES = ("-wal", "-shm", "-journal")
_OCTAL = re.compile(r"\\([0-7]{3})")


def real(path: Path) -> Path:
    """Return the path with every symbolic link followed; the file itself need not exist."""
    return Path(os.path.realpath(path))


def side_files(database: Path) -> list[Path]:
    """List those of ``-wal``, ``-shm`` and ``-journal`` that exist beside a database."""
    beside = (database.with_name(database.name + suffix) for suffix in SIDE_FILES)
    return [path for path in beside if os.path.lexists(path)]


def digest(path: Path, *, from_disk: bool = False) -> str:
    """Hash a file in blocks: the SHA-256 of its bytes, in hex.

    Args:
        path: The file.
        from_disk: Drop the page cache first, so that the bytes come from the device. Only fsynced pages are dropped.

    Raises:
        CannotCheck: When the file is missing or unreadable.
    """
    try:
        with path.open("rb") as file:
            if from_disk:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CannotCheck(
            "the file cannot be read", where=str(path), found=rights.reason(error, path), do="Check the disk."
        ) from None


def copy(path: Path, to: Path, *, mode: int = 0o600) -> str:
    """Copy a file's bytes to a new file and make them durable; the caller must sync the folder of ``to``.

    The rest of a killed attempt at ``to`` is removed first, and a failed attempt leaves nothing.

    Returns:
        SHA-256 of the bytes that were read, in hex.

    Raises:
        StepFailed: When the disk is full or refuses.
        CannotCheck: When ``path`` is missing or unreadable.
    """
    total = hashlib.sha256()
    try:
        with path.open("rb") as reading, disk_errors(to):
            to.unlink(missing_ok=True)
            descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as writing:
                    while block := _read(reading.fileno(), path):
                        total.update(block)
                        _write(writing.fileno(), block)
                    os.fchmod(writing.fileno(), mode)
                    os.fsync(writing.fileno())
            except BaseException:
                to.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CannotCheck(
            "the file cannot be read", where=str(path), found=rights.reason(error, path), do="Check the disk."
        ) from None
    return total.hexdigest()


def copy_verified(path: Path, to: Path) -> str:
    """Copy a file as ``copy`` does, and read the copy back from its device.

    Returns:
        SHA-256 of both.

    Raises:
        StepFailed: Also when the bytes read back differ.
    """
    written = copy(path, to)
    found = digest(to, from_disk=True)
    if found != written:
        raise StepFailed(
            "the copy does not read back as it was written",
            where=str(to.parent),
            expected=f"SHA-256 {written}",
            found=found,
            do="Do not trust that disk; name another folder in the plan.",
        )
    return written


def move(path: Path, to: Path) -> None:
    """Move a file durably; to another device by a whole copy that has its name there before the original loses its own.

    Safe to run again: a file that a killed attempt left in both places is an equal copy, and the original goes.

    Raises:
        StepFailed: When a place cannot be written.
        CannotCheck: When the file cannot be read.
    """
    with disk_errors(to):
        try:
            path.rename(to)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if not to.exists():
                moving = to.with_name(f".{to.name}.moving")
                copy(path, moving)
                moving.rename(to)
            sync_folder(to.parent)
            path.unlink()
        sync_folder(to.parent)
        sync_folder(path.parent)


def _read(descriptor: int, path: Path) -> bytes:
    try:
        return os.read(descriptor, BLOCK)
    except OSError as error:
        raise CannotCheck(
            "the file cannot be read", where=str(path), found=rights.reason(error, path), do="Check the disk."
        ) from None


def _write(descriptor: int, block: bytes) -> None:
    written = 0
    while written < len(block):
        written += os.write(descriptor, block[written:])


def make_private(folder: Path) -> None:
    """Create a folder and its parents. New ones are open to their owner only; existing ones stay as they are."""
    with disk_errors(folder):
        missing = [item for item in (folder, *folder.parents) if not item.exists()]
        for item in reversed(missing):
            with suppress(FileExistsError):
                item.mkdir(mode=0o700)
        for item in reversed(missing):
            sync_folder(item.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def require_space(needs: dict[Path, int]) -> None:
    """Refuse unless each folder has room for its bytes; needs on the same device are added up.

    Args:
        needs: By existing folder, the bytes that will be written there.

    Raises:
        Refused: Names the folder, the bytes needed and the bytes free.
    """
    by_device: dict[int, int] = {}
    for folder, size in needs.items():
        with disk_errors(folder):
            device, free = folder.stat().st_dev, shutil.disk_usage(folder).free
        by_device[device] = by_device.get(device, 0) + size
        if by_device[device] > free:
            raise Refused(
                "there is not enough free disk",
                where=str(folder),
                expected=f"{by_device[device]:,} bytes free",
                found=f"{free:,} bytes free",
                do="Free disk space there or name another folder in the plan.",
            )


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Yield a private folder below ``TMPDIR``, removed after the block.

    Raises:
        StepFailed: When it cannot be made.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=f"cutover-{name}-")
    except OSError as error:
        raise StepFailed(
            "the scratch folder cannot be created",
            where=str(error.filename or "the folder for temporary files"),
            found=rights.reason(error),
            do="Set TMPDIR to a writable folder with room for a copy of the database.",
        ) from None
    with made as folder:
        yield Path(folder)


def is_mount(path: Path) -> bool:
    """Report whether a file is itself a mount, as a single file mounted into a container is.

    Such a file cannot be replaced by a rename, only overwritten.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    wanted = os.fspath(real(path))
    return any(_OCTAL.sub(lambda match: chr(int(match.group(1), 8)), line.split(" ")[4]) == wanted for line in lines)


def give(descriptor: int, path: Path, uid: int, gid: int, mode: int) -> None:
    """Set the owner, group and mode of an open file to those of the file that it will replace.

    Args:
        descriptor: The open file.
        path: The file to be replaced, for the error.
        uid: Its owner.
        gid: Its group.
        mode: Its mode.

    Raises:
        Refused: When this user may not do that. Call it before anything is replaced.
    """
    found = os.fstat(descriptor)
    try:
        if (found.st_uid, found.st_gid) != (uid, gid):
            os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)  # after the owner: changing that takes set-user-id bits away
    except PermissionError:
        raise Refused(
            "the new file cannot be given to the owner of the old one",
            where=str(path),
            expected=f"{rights.user(uid)}, {rights.group(gid)}",
            found=f"this process runs as {rights.user(os.geteuid())}; {rights.owners(path)}",
            do="Run the workers as root, or as that owner and in that group.",
        ) from None


def slug(run_id: str) -> str:
    """Return the run id as a folder name: every character outside ``A-Za-z0-9_.-`` becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", run_id).lstrip(".") or "_"


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` atomically: a reader, or a crash, sees the old content or the new, never a part.

    File and folder are fsynced before this returns. The temporary file never has a wider mode than ``mode``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn errors of the operating system about a place that is written to into one that names the place.

    Raises:
        StepFailed: For a full disk, a read-only place, missing rights and input/output errors alike.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise StepFailed(
            "the disk is full" if full else "the place cannot be written",
            where=str(place),
            found=rights.reason(error, _within(place, error)),
            do="Free disk space, then run the step again."
            if full
            else "Fix the place or its rights, then run the step again.",
        ) from None


def _within(place: Path, error: OSError) -> Path:
    """Return the file below a place that an error is about, else the place."""
    if isinstance(error.filename, str | Path) and Path(error.filename).is_relative_to(place):
        return Path(error.filename)
    return place


def now() -> str:
    """Return the current time, UTC, as ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
