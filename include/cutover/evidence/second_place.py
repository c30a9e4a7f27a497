"""A second place for the evidence, for when its volume can no longer be written while the application is down.

A way back must be recorded to go on. When the first step of a way back finds that the volume cannot be written (it went
read-only after a disk error, its rights changed, or it is full in spite of the reserve), it copies the evidence to the
second place, and from then on every process of this host reads and writes there. The next run that opens brings it back,
once the volume can be written again.

``CUTOVER_EVIDENCE_SECOND`` names the place; without it, it is a private folder below ``/var/tmp``, which outlives a restart
of the host. Claims stay where they are: a kernel lock needs no writable volume.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from include.cutover import files
from include.cutover.errors import StepFailed
from include.cutover.locks import locked

log = logging.getLogger(__name__)

MARKER = "in-force.json"
LARGEST = 64 << 20
"""Bytes; larger files of the evidence, such as kept databases, stay in the first place and can be read there."""

_ENOUGH = 1 << 20  # bytes free, for the events of a way back
_LEFT_OUT = {".claims", ".reserve", "data_docs"}


def of(first: Path) -> Path:
    """Return the second place of an evidence root; it need not exist."""
    named = os.environ.get("CUTOVER_EVIDENCE_SECOND")
    name = f"cutover-evidence-{_owner(first)}-{hashlib.sha256(os.fsencode(first.absolute())).hexdigest()[:12]}"
    return Path(named or "/var/tmp") / name  # the owner is checked, see _is_ours


def in_force(first: Path) -> Path:
    """Return the place where the evidence is written now: the first, or the second after a move."""
    second = of(first)
    return second if (second / MARKER).is_file() and _is_ours(second, first) else first


def problem(first: Path) -> str:
    """Return why the first place cannot be written, in words; empty where it can."""
    probe = first / f".probe-{secrets.token_hex(4)}"
    try:
        first.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _ENOUGH)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.strerror or type(error).__name__
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return ""


def move(first: Path) -> str:
    """Move the evidence to the second place where the first one cannot be written. Safe to run again.

    Returns:
        Why, in words; empty where nothing was moved.

    Raises:
        StepFailed: When the second place cannot be written either.
    """
    if in_force(first) != first or not (reason := problem(first)):
        return ""
    second = of(first)
    with files.disk_errors(second):
        files.make_private(second)
        if not _is_ours(second, first):
            raise StepFailed(
                "the second place of the evidence belongs to somebody else",
                where=str(second),
                do="Remove it, or set CUTOVER_EVIDENCE_SECOND to a folder of the tasks' user; then run the step again.",
            )
        with locked(second / ".lock"):
            if in_force(first) != first:
                return ""
            _copy(first, second)
            text = json.dumps({"first": str(first), "since": files.now(), "reason": reason})
            files.write_atomically(second / MARKER, text.encode() + b"\n", 0o600)
    _give(second, first)
    log.error("%s cannot be written (%s): the evidence is continued in %s", first, reason, second)
    return reason


def bring_back(first: Path) -> str:
    """Bring the evidence back to the first place, once that can be written. Safe to run again.

    A file that differs there is kept beside the one that replaces it: a process that was forgotten may have written it.

    Returns:
        The second place, empty where nothing was brought back.

    Raises:
        StepFailed: When the files cannot be copied.
    """
    second = in_force(first)
    if second == first or problem(first):
        return ""
    with files.disk_errors(first), locked(second / ".lock"):
        if in_force(first) == first:
            return ""
        for path in sorted(item for item in second.rglob("*") if item.is_file() and item.parent != second):
            to = first / path.relative_to(second)
            content = path.read_bytes()
            if to.is_file() and to.read_bytes() == content:
                continue
            if to.is_file() and not content.startswith(to.read_bytes()):
                to.rename(to.with_name(f"{to.name}.before-{secrets.token_hex(3)}"))
            files.write_atomically(to, content, path.stat().st_mode & 0o777)
        (second / MARKER).rename(second / f"brought-back-{secrets.token_hex(3)}.json")
        files.sync_folder(second)
    log.warning("the evidence is in %s again", first)
    return str(second)


def _copy(first: Path, second: Path) -> None:
    """Copy what steps and reports read. Files that cannot be read are named in the log: the rest must go on."""
    for folder, names, found in os.walk(first):
        names[:] = [name for name in names if name not in _LEFT_OUT]
        place = second / Path(folder).relative_to(first)
        place.mkdir(mode=0o700, exist_ok=True)
        for name in found:
            path = Path(folder) / name
            try:
                if name in _LEFT_OUT or not path.is_file() or path.stat().st_size > LARGEST:
                    continue
                content, mode = path.read_bytes(), path.stat().st_mode & 0o777
            except OSError as error:
                log.error("%s cannot be read: %s", path, error.strerror)
                continue
            files.write_atomically(place / name, content, mode)


def _owner(first: Path) -> int:
    try:
        return first.stat().st_uid
    except OSError:
        return os.geteuid()


def _is_ours(second: Path, first: Path) -> bool:
    """Check that nobody but the owner of the evidence, or root, could have made it: the folder is in a public place."""
    try:
        found = second.lstat()
    except OSError:
        return False
    return found.st_uid in (0, _owner(first), os.geteuid()) and not found.st_mode & 0o022


def _give(second: Path, first: Path) -> None:
    """Give the files to the owner of the evidence, where root moved it."""
    owner = _owner(first)
    if os.geteuid() != 0 or owner == 0:
        return
    for path in (second, *second.rglob("*")):
        with suppress(OSError):
            os.chown(path, owner, -1, follow_symlinks=False)
