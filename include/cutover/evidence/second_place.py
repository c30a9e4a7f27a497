"""A second place for the evidence, for when its volume can no longer be written while the application is down.

A way back must be recorded to go on. When the first step of a way back finds that the volume cannot be written (it went
read-only after a disk error, its rights changed, or it is full in spite of the reserve), it copies the evidence to the
second place, and from then on every process of this host reads and writes there. The next run that opens brings it back,
once the volume can be written again.

``CUTOVER_EVIDENCE_SECOND`` names the place; without it, it is a private folder below ``/var/tmp``, which outlives a restart
of the host. Each move copies into a fresh folder there, which the marker names. Claims stay where they are: a kernel lock
needs no writable volume.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from include.cutover import files, rights
from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.locks import locked

log = logging.getLogger(__name__)

MARKER = "in-force.json"
LARGEST = 64 << 20
"""Bytes; larger files of the evidence, such as kept databases, stay in the first place and can be read there."""

_EVENTS = "events.jsonl"
_NEEDED = {_EVENTS, "lease.json"}  # of any size; without one of them the copy is not taken into force
_ENOUGH = 1 << 20  # bytes free, for the events of a way back
_LEFT_OUT = {".claims", ".reserve", "data_docs"}
_LOCK, _PARTIAL = ".lock", ".partial-"


def of(first: Path) -> Path:
    """Return the folder of the second place of an evidence root; it need not exist. Links to the root share it."""
    # Without the owner: when the volume is not mounted, the mount point is root's. Who made the folder is checked.
    name = f"cutover-evidence-{hashlib.sha256(os.fsencode(first.resolve())).hexdigest()[:12]}"
    return Path(os.environ.get("CUTOVER_EVIDENCE_SECOND") or "/var/tmp") / name


def in_force(first: Path) -> Path:
    """Return the place where the evidence is written now: the first, or a folder of the second after a move.

    Raises:
        CannotCheck: When the evidence was moved and this user cannot read it there; or when the first place is empty, as a
            volume that is not mounted, and a user who is not known to own the evidence has one in the second.
    """
    second = of(first)
    try:
        second.lstat()
    except PermissionError as error:
        raise _unreadable(second, error) from None
    except OSError:
        return first
    if not _is_ours(second, first):
        if _is_empty(first) and _is_marked(second):
            raise CannotCheck(
                "the evidence may be continued in a folder whose owner is not known to be the evidence's",
                where=str(second),
                expected=f"the volume of {first}, whose owner is trusted",
                found=f"{first} is empty; the folder belongs to user {second.lstat().st_uid}",
                do="Mount the volume, or run this as that user if that is the tasks' user; else remove the folder.",
            )
        return first
    found = _marked(second)
    return first if found is None else second / found["folder"]


def _marked(second: Path) -> dict[str, Any] | None:
    """Return the marker of a trusted second place; None where none is in force."""
    marker = second / MARKER
    try:
        found = json.loads(marker.read_bytes())
        if not (second / found["folder"]).is_dir():
            raise ValueError("its folder is missing")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(marker, error) from None
    return dict(found)


def _unreadable(path: Path, error: Exception) -> CannotCheck:
    return CannotCheck(
        "the second place of the evidence cannot be read",
        where=str(path),
        found=rights.reason(error, path) if isinstance(error, OSError) else str(error) or type(error).__name__,
        do="Run this as the owner of that folder, or as root.",
    )


def problem(first: Path, run: Path | None = None) -> str:
    """Return why the first place cannot be written, in words; empty where it can.

    Args:
        first: The root of the evidence.
        run: The folder of a run in it, whose files this user must be able to continue: another user may have left some.
    """
    if reason := _probe(first, _ENOUGH):
        return reason
    if run is None:
        return ""
    claims = run.parent / ".claims"
    folders = [item for item in (run.parent, run, run / "kept", claims) if os.path.lexists(item)]
    for folder in folders:
        if reason := _probe(folder, 0):
            return reason
    for path, right in ((run / _EVENTS, os.W_OK), (run.parent / ".lease.lock", os.W_OK), (claims / "plan", 0)):
        if os.path.lexists(path) and not os.access(path, os.R_OK | right, effective_ids=True):
            return rights.reason(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), path)
    return ""


def _probe(folder: Path, size: int) -> str:
    """Return why a file of that size, in bytes, cannot be made in a folder; empty where it can."""
    probe = folder / f".probe-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if size:
                os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        return rights.reason(error, folder)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return ""


def move(first: Path, run: Path | None = None) -> str:
    """Move the evidence to the second place where the first one cannot be written. Safe to run again.

    Other runs whose events cannot be read are left out, and named in the log: they stay in the first place.

    Args:
        first: The root of the evidence.
        run: See ``problem``; without it, every run is needed.

    Returns:
        Why, in words; empty where nothing was moved.

    Raises:
        StepFailed: When the second place cannot be written either, or this run's events, or a lease, cannot be read.
        CannotCheck: As ``in_force``.
    """
    if in_force(first) != first or not (reason := problem(first, run)):
        return ""
    second = of(first)
    with files.disk_errors(second):
        owner = _owner(first)
        _make(second, owner)
        if not _is_ours(second, first):
            raise StepFailed(
                "the second place of the evidence belongs to somebody else",
                where=str(second),
                do="Remove it, or set CUTOVER_EVIDENCE_SECOND to a folder of the tasks' user; then run the step again.",
            )
        with locked(second / _LOCK):
            if in_force(first) != first:
                return ""
            for leftover in second.glob(f"{_PARTIAL}*"):
                shutil.rmtree(leftover)
            folder = f"evidence-{secrets.token_hex(4)}"
            partial = second / f"{_PARTIAL}{folder}"
            partial.mkdir(mode=0o700)
            empty = _copy(first, partial, run)
            _give([*partial.rglob("*"), partial], owner)  # before the marker: from then on its owner works there
            partial.rename(second / folder)
            files.sync_folder(second)
            found = {"first": str(first), "since": files.now(), "reason": reason, "folder": folder, "empty": empty}
            files.write_atomically(second / MARKER, json.dumps(found).encode() + b"\n", 0o644)
    log.error("%s cannot be written (%s): the evidence is continued in %s", first, reason, second / folder)
    return reason


def _make(second: Path, owner: int) -> None:
    """Make the folder, whole: a kill leaves none that root made and its owner cannot use."""
    if os.path.lexists(second):
        return
    if os.geteuid() != 0 or owner == 0:
        files.make_private(second.parent)
    else:
        second.parent.mkdir(mode=0o755, parents=True, exist_ok=True)  # others must find what is given to them there
    made = second.with_name(f".{second.name}.{secrets.token_hex(4)}")
    made.mkdir(mode=0o700)
    (made / _LOCK).touch(mode=0o644)
    _give([made / _LOCK, made], owner)
    try:
        made.rename(second)
    except OSError:
        shutil.rmtree(made)
        if not second.is_dir():
            raise  # else another process made it in the meantime
    files.sync_folder(second.parent)


def bring_back(first: Path) -> str:
    """Bring the evidence back to the first place, once that can be written. Safe to run again.

    A file that differs there is kept beside the one that replaces it: a process that was forgotten may have written it.
    Nothing is brought back to a place without the events that were moved from it: its volume is not mounted.

    Returns:
        The second place, empty where nothing was brought back.

    Raises:
        StepFailed: When the files cannot be copied.
        CannotCheck: As ``in_force``.
    """
    if in_force(first) == first or problem(first):
        return ""
    second = of(first)
    with files.disk_errors(first), locked(second / _LOCK):
        found = _marked(second)
        if found is None:
            return ""
        place = second / found["folder"]
        if not any((first / path.relative_to(place)).is_file() for path in place.rglob(_EVENTS)):
            log.warning("%s has none of the events that were moved to %s: is its volume mounted?", first, place)
            return ""
        for path in sorted(item for item in place.rglob("*") if item.is_file()):
            _bring(path, first / path.relative_to(place), _owner(first))
        for name in found["empty"]:  # marks, which are removed when their work is done
            mark = first / name
            if not (place / name).exists() and mark.is_file() and mark.stat().st_size == 0:
                mark.unlink()
        (second / MARKER).rename(second / f"brought-back-{secrets.token_hex(3)}.json")
        files.sync_folder(second)
    log.warning("the evidence is in %s again", first)
    return str(second)


def _bring(path: Path, to: Path, owner: int) -> None:
    """Copy one file back, unless it is there already."""
    if to.is_file():
        size, found = path.stat().st_size, to.stat().st_size
        begins = found <= size and _digest(path, found) == files.digest(to)
        if begins and found == size:
            return
        if not begins:
            to.rename(to.with_name(f"{to.name}.before-{secrets.token_hex(3)}"))
    made = [folder for folder in to.parents if not folder.exists()]
    to.parent.mkdir(parents=True, exist_ok=True)
    temporary = to.with_name(f".{to.name}.brought-back")
    files.copy(path, temporary, mode=stat.S_IMODE(path.stat().st_mode))
    _give([temporary, *made], owner)
    temporary.replace(to)
    files.sync_folder(to.parent)


def _digest(path: Path, size: int) -> str:
    """Hash the first bytes of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while size and (block := file.read(min(size, files.BLOCK))):
            total.update(block)
            size -= len(block)
    return total.hexdigest()


def _copy(first: Path, to: Path, run: Path | None) -> list[str]:
    """Copy what steps and reports read. Other files that cannot be read are named in the log: the rest must go on.

    Returns:
        The empty files among them.

    Raises:
        StepFailed: When a lease, or the events or the folder of the run, cannot be read, or there are no events.
    """
    empty, events = [], 0

    def leave_out(error: OSError, folder: Path) -> None:
        """Leave a run that cannot be read in the first place, and name it; the run that goes on is needed, and each plan."""
        is_run = len(folder.relative_to(first).parts) >= 2
        if run is None or run.is_relative_to(folder) or not is_run:
            _refuse(error, folder)
        log.warning("%s cannot be read (%s) and stays in the first place", folder, error.strerror or type(error).__name__)

    for folder, names, found in os.walk(first, onerror=lambda error: leave_out(error, Path(error.filename))):
        names[:] = [name for name in names if name not in _LEFT_OUT]
        place = to / Path(folder).relative_to(first)
        place.mkdir(mode=0o700, exist_ok=True)
        if _EVENTS in found and (unreadable := _reading(Path(folder) / _EVENTS)):
            leave_out(unreadable, Path(folder))
            place.rmdir()
            names.clear()
            continue
        for name in found:
            path = Path(folder) / name
            try:
                size, mode = path.stat().st_size, stat.S_IMODE(path.stat().st_mode)
                if name in _LEFT_OUT or not path.is_file() or (size > LARGEST and name not in _NEEDED):
                    continue
                files.copy(path, place / name, mode=mode)
            except (OSError, CannotCheck) as error:
                if name in _NEEDED:
                    _refuse(error, path)
                log.error("%s cannot be read: %s", path, error)
                continue
            events += name == _EVENTS
            if size == 0:
                empty.append(str(path.relative_to(first)))
        files.sync_folder(place)
    if not events:
        _refuse(FileNotFoundError(2, "no events of any run"), first)
    return empty


def _reading(path: Path) -> OSError | None:
    """Read a file whole; return the error where it cannot be read."""
    try:
        with path.open("rb") as file:
            while file.read(files.BLOCK):
                pass
    except OSError as error:
        return error
    return None


def _refuse(error: Exception, path: Path | None = None) -> None:
    raise StepFailed(
        "the evidence cannot be read, so it cannot be continued in its second place",
        where=str(path or getattr(error, "filename", None) or "the evidence"),
        found=rights.reason(error, path)
        if isinstance(error, OSError)
        else getattr(error, "found", None) or type(error).__name__,
        do="Mount or repair its volume, then run the step again; or go back by hand, see docs/rollback.md.",
    ) from None


def _owner(first: Path) -> int:
    try:
        return first.stat().st_uid
    except OSError:
        return os.geteuid()


def _owners(first: Path) -> set[int]:
    """Return the users whose evidence lies in the first place: its owner, and those whom only its owner let in."""
    found = {_owner(first)}
    with suppress(OSError):
        if not first.stat().st_mode & 0o022:  # else everybody could lay something there
            found |= {item.lstat().st_uid for item in first.iterdir()}
    return found


def _is_ours(second: Path, first: Path) -> bool:
    """Check that nobody but the owner of the evidence, or root, could have made it: the folder may be in a public place."""
    try:
        found, above = second.lstat(), second.parent.stat()
    except OSError:
        return False
    trusted = {0, os.geteuid(), *_owners(first)}
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        return False
    # In a folder where only trusted users create anything, root gave it to its owner.
    return found.st_uid in trusted or (above.st_uid in trusted and not above.st_mode & 0o022)


def _is_empty(first: Path) -> bool:
    try:
        return not any(first.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _is_marked(second: Path) -> bool:
    try:
        return (second / MARKER).is_file()
    except OSError:
        return False


def _give(paths: Iterable[Path], owner: int) -> None:
    """Give files that root made to the owner of the evidence."""
    if os.geteuid() != 0 or owner == 0:
        return
    for path in paths:
        with suppress(OSError):
            if path.lstat().st_uid == 0:
                os.chown(path, owner, -1, follow_symlinks=False)
