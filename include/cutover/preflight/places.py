"""Everything that is looked at before anything is stopped: the target, the source on a clone, places, services.

Each look gives a check with a stable name, so that a plan can accept by name what cannot be seen. Nothing is changed; what
is written to try a place is removed again. "Could not be checked" is never a pass (see ``sufficiency``).
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.errors import CutoverError
from include.cutover.plan.application import DotenvConfiguration
from include.cutover.plan.model import Plan
from include.cutover.preflight import disk_space

log = logging.getLogger(__name__)

BACKUP_FACTOR = 1.2
_NAMES_SHOWN = 10


@dataclass(frozen=True)
class Sufficiency:
    """Whether the checks are enough to go on.

    Attributes:
        outcome: ``stop`` when a check failed; ``ask`` when something could not be checked and only the lead may accept
            that; else ``enough``.
        failed: Checks that failed.
        open: Checks that could not be made and that the plan does not accept.
        accepted: Checks that could not be made, which the plan accepts.
    """

    outcome: Literal["enough", "ask", "stop"]
    failed: tuple[Check, ...]
    open: tuple[Check, ...]
    accepted: tuple[Check, ...]


def sufficiency(checks: Sequence[Check], accept_unknown: Collection[str]) -> Sufficiency:
    """Judge checks by what the plan accepts: ``preflight.accept_unknown``. No checks at all are never enough."""
    failed = tuple(check for check in checks if check.outcome == "failed")
    unknown = [check for check in checks if check.outcome == "unknown"]
    left = tuple(check for check in unknown if check.name not in accept_unknown)
    accepted = tuple(check for check in unknown if check.name in accept_unknown)
    if failed:
        return Sufficiency("stop", failed, left, accepted)
    return Sufficiency("ask" if left or not checks else "enough", failed, left, accepted)


# --- the target ---------------------------------------------------------------------------------------------------------


def listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def pretty(size: float) -> str:
    """A number of bytes as ``pg_size_pretty`` shows it."""
    if abs(size) < 10 * 1024:
        return f"{int(size)} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1024
        if abs(size) < 10 * 1024:
            return f"{size:.0f} {unit}"
    return f"{size / 1024:.0f} TB"


# --- the source ---------------------------------------------------------------------------------------------------------


def replaceable(path: Path, name: str, title: str) -> Check:
    """Whether a file can be replaced by renaming another into its place, with owner and mode kept."""
    file = files.real(path)
    problems, todo = [], []
    if files.is_mount(file):
        problems.append("it is a mount of a single file")
        todo.append("Mount its folder instead.")
    problem = _write_problem(file.parent)
    if problem:
        problems.append(f"its folder: {problem}")
        todo.append("Let the tasks' user write in the folder.")
    try:
        owner = file.stat().st_uid
        if os.geteuid() not in (0, owner):
            problems.append(f"it belongs to user {owner} and the tasks run as user {os.geteuid()}")
            todo.append("Run the tasks as the file's owner.")
    except OSError as error:
        problems.append(error.strerror or type(error).__name__)
        todo.append("Check the path.")
    return Check(
        name,
        title,
        "failed" if problems else "passed",
        expected="a file in a writable folder, owned by the tasks' user",
        found="; ".join(problems) or "it can",
        do=" ".join(todo),
        where=str(path),
    )


# --- places -------------------------------------------------------------------------------------------------------------


def check_places(live: Path, *, plan: Plan) -> list[Check]:
    """Where the backups go, and the configuration that is switched: writable, large enough, apart from each other.

    Folders that are missing are made. A file is written, synced and removed in each.
    """
    file = files.real(live)
    try:
        size = file.stat().st_size + sum(item.stat().st_size for item in files.side_files(file))
    except OSError as error:
        do = "Correct the connection of the source in Airflow."
        return [Check("source_file", "The source can be read", "failed", "a file", str(error.strerror), do, str(live))]
    directory, second = plan.backup.directory, plan.backup.second_copy
    checks = [_writable_place(directory, "backup_directory", "Backups can be written")]
    if second is not None:
        checks.append(_writable_place(second, "second_copy_directory", "The second copy can be written"))
    if all(check.outcome == "passed" for check in checks):
        needs = disk_space.for_backups(plan, size)
        if second is not None and _device(second) == _device(directory):
            needs = dict.fromkeys(needs, sum(needs.values()))
        checks.append(_room(directory, needs[directory], "backup_free_space", "There is room for the backup"))
        if second is not None:
            checks.append(_room(second, needs[second], "second_copy_free_space", "There is room for the second copy"))
        checks.append(_apart(file, directory, second))
    if isinstance(plan.configuration, DotenvConfiguration):
        title = "The configuration can be switched and reverted"
        checks.append(replaceable(plan.configuration.file, "configuration_replaceable", title))
    return checks


def _device(path: Path) -> int:
    return path.stat().st_dev


def _write_problem(directory: Path) -> str:
    """Why no file can be written there; empty when one was written, synced and removed."""
    trial = directory / f".cutover-{secrets.token_hex(6)}"
    try:
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return error.strerror or type(error).__name__
    try:
        os.write(descriptor, b"\0" * 4096)
        os.fsync(descriptor)
    except OSError as error:
        return error.strerror or type(error).__name__
    finally:
        os.close(descriptor)
        trial.unlink(missing_ok=True)
    return ""


def _writable_place(directory: Path, name: str, title: str) -> Check:
    try:
        files.make_private(directory)
        problem = _write_problem(directory)
    except CutoverError as error:
        problem = error.found
    do = "Let the tasks' user write there, or name another folder in the plan." if problem else ""
    expected = "a folder that takes files"
    return Check(
        name, title, "failed" if problem else "passed", expected, problem or "a file was written", do, str(directory)
    )


def _room(directory: Path, size: int, name: str, title: str) -> Check:
    disk = os.statvfs(directory)
    free, needed = disk.f_bavail * disk.f_frsize, int(size * BACKUP_FACTOR)
    enough = free >= needed
    return Check(
        name,
        title,
        "passed" if enough else "failed",
        expected=f"{pretty(needed)} free",
        found=f"{pretty(free)} free",
        do="" if enough else "Free disk there, or name another folder in the plan.",
        where=str(directory),
    )


def _apart(live: Path, directory: Path, second: Path | None) -> Check:
    """A backup on the source's own disk dies with it. That is the plan's choice: said, not refused."""
    last = directory if second is None else second
    others = {"source": live} if second is None else {"source": live, "first backup": directory}
    same = [name for name, path in others.items() if _device(path) == _device(last)]
    found = f"on the same disk as the {' and the '.join(same)}" if same else "on another disk"
    return Check(
        "second_copy_apart",
        "A copy of the backup lies on another disk",
        "passed",
        expected="another disk",
        found=found,
        do="Name a folder on another disk as backup.second_copy in the plan." if same else "",
        where=str(last),
    )


# --- services -----------------------------------------------------------------------------------------------------------
