"""Checks of the places for backups and of the configuration file. Test files are removed again."""

from __future__ import annotations

import os
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.errors import CutoverError
from include.cutover.plan.application import DotenvConfiguration
from include.cutover.plan.model import Plan
from include.cutover.preflight import disk_space
from include.cutover.preflight.sizes import pretty
from include.cutover.preflight.source import check_source_rights
from include.cutover.preflight.writing import replaceable, write_problem

BACKUP_FACTOR = 1.2


def check_places(live: Path, *, plan: Plan) -> list[Check]:
    """Check the folders of the backups, and the configuration file: writable, large enough, on different disks.

    Missing folders are made. A file is written, synced and removed in each.
    """
    file = files.real(live)
    try:
        size = file.stat().st_size + sum(item.stat().st_size for item in files.side_files(file))
    except OSError as error:
        do = "Correct the connection of the source in Airflow."
        return [Check("source_file", "The source can be read", "failed", "a file", str(error.strerror), do, str(live))]
    directory, second = plan.backup.directory, plan.backup.second_copy
    checks = _backup_folders(plan)
    if all(check.outcome == "passed" for check in checks):
        needs = disk_space.for_backups(plan, size)
        if second is not None and _device(second) == _device(directory):
            needs = dict.fromkeys(needs, sum(needs.values()))
        checks.append(_room(directory, needs[directory], "backup_free_space", "There is room for the backup"))
        if second is not None:
            checks.append(_room(second, needs[second], "second_copy_free_space", "There is room for the second copy"))
        checks.append(_apart(file, directory, second))
    return [*checks, *_configuration(plan)]


def check_rights(live: Path, *, plan: Plan) -> list[Check]:
    """Check only the rights that a cutover and its way back need: to the source, the folders of backups, the configuration.

    Args:
        live: The application's file.
        plan: Names the places.
    """
    return [*check_source_rights(live, plan.source_other_names), *_backup_folders(plan), *_configuration(plan)]


def _backup_folders(plan: Plan) -> list[Check]:
    checks = [_writable_place(plan.backup.directory, "backup_directory", "Backups can be written")]
    if plan.backup.second_copy is not None:
        checks.append(_writable_place(plan.backup.second_copy, "second_copy_directory", "The second copy can be written"))
    return checks


def _configuration(plan: Plan) -> list[Check]:
    if not isinstance(plan.configuration, DotenvConfiguration):
        return []
    title = "The configuration can be switched and reverted"
    return [replaceable(plan.configuration.file, "configuration_replaceable", title)]


def _device(path: Path) -> int:
    return path.stat().st_dev


def _writable_place(directory: Path, name: str, title: str) -> Check:
    try:
        files.make_private(directory)
        problem = write_problem(directory)
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
        do="" if enough else "Free disk space there, or name another folder in the plan.",
        where=str(directory),
    )


def _apart(live: Path, directory: Path, second: Path | None) -> Check:
    """Report a backup on the source's own disk, which is lost with it. The plan may choose that: it is not refused."""
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
