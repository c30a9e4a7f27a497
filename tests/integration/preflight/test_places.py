"""Checks of places: real folders and disks."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from include.cutover.places import ROOT
from include.cutover.plan.model import Plan
from include.cutover.preflight import places as preflight_places
from include.cutover.preflight.sizes import pretty
from tests.support.preflight import bad, by_name, change


def test_places_on_one_disk_pass_with_a_remark(live: Path, plan: Plan, tmp_path: Path) -> None:
    checks = by_name(preflight_places.check_places(live, plan=plan))
    assert bad(list(checks.values())) == {}
    assert list(checks) == [
        "backup_directory",
        "second_copy_directory",
        "backup_free_space",
        "second_copy_free_space",
        "second_copy_apart",
    ]
    apart = checks["second_copy_apart"]
    assert apart.found == "on the same disk as the source and the first backup" and "backup.second_copy" in apart.do
    # Nothing is left behind, and what was made is closed to others.
    assert list((tmp_path / "backups").iterdir()) == [] and list((tmp_path / "second").iterdir()) == []
    # Room for both copies and the one that the restore test opens, as they are on one disk.
    assert checks["backup_free_space"].expected == f"{pretty(3 * 1.2 * live.stat().st_size)} free"


def test_another_disk_is_told_from_the_same(live: Path, plan: Plan) -> None:
    shared_memory = Path("/dev/shm") / f"cutover-test-{secrets.token_hex(4)}"
    try:
        checks = by_name(preflight_places.check_places(live, plan=change(plan, backup__second_copy=shared_memory)))
        assert (checks["second_copy_apart"].found, checks["second_copy_apart"].do) == ("on another disk", "")
        assert checks["second_copy_free_space"].expected == f"{pretty(1.2 * live.stat().st_size)} free"
    finally:
        shared_memory.rmdir()


def test_without_a_second_copy_the_backup_itself_is_compared(live: Path, plan: Plan) -> None:
    checks = by_name(preflight_places.check_places(live, plan=change(plan, backup__second_copy=None)))
    assert checks["second_copy_apart"].found == "on the same disk as the source"


def test_places_that_take_no_file_fail(live: Path, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    changed = change(plan, backup__directory=tmp_path / "file" / "below", backup__second_copy=Path("/proc/nowhere"))
    found = bad(preflight_places.check_places(live, plan=changed))
    assert set(found) == {"backup_directory", "second_copy_directory"}
    assert found["backup_directory"] == "Not a directory"


def test_a_source_larger_than_the_disk_fails(live: Path, plan: Plan) -> None:
    with live.open("r+b") as file:
        file.truncate(1 << 43)  # sparse: 8 TB that take no room
    found = bad(preflight_places.check_places(live, plan=plan))
    assert set(found) == {"backup_free_space", "second_copy_free_space"}


def test_the_configuration_must_be_replaceable(live: Path, plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    values = {"file": file, "live": {"A": "1"}, "rolled_back": {"A": "2"}}
    found = bad(preflight_places.check_places(live, plan=change(plan, configuration=values)))
    assert found == {"configuration_replaceable": "No such file or directory"}
    file.write_text("A=1")
    assert bad(preflight_places.check_places(live, plan=change(plan, configuration=values))) == {}


def test_folder_closed_to_the_user_fails(live: Path, plan: Plan, tmp_path: Path) -> None:
    """As another user where the tests run as root, who may write everywhere."""
    for name in ("backups", "second"):
        (tmp_path / name).mkdir(mode=0o555)
    live.parent.chmod(0o555)
    code = (
        "import os, sys; from pathlib import Path;"
        "from include.cutover.preflight import places, source; from include.cutover.plan.model import Plan;"
        "plan = Plan.model_validate_json(sys.stdin.read()); live = Path(sys.argv[1]); os.geteuid() or os.setuid(65534);"
        "checks = [*places.check_places(live, plan=plan), *source.check_source_file(live)];"
        "print(*sorted(check.name for check in checks if check.outcome == 'failed'))"
    )
    closed = [folder for folder in tmp_path.parents if folder.stat().st_uid == os.geteuid()]
    modes = {folder: folder.stat().st_mode for folder in (tmp_path, *closed) if not folder.stat().st_mode & 0o001}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o011)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(live)], input=plan.model_dump_json(), capture_output=True, text=True,
            check=False, cwd=ROOT,
        )  # fmt: skip
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
        live.parent.chmod(0o755)
    foreign = ["source_writable"] if os.geteuid() == 0 else []  # the file is root's then
    assert done.stdout.split() == ["backup_directory", "second_copy_directory", "source_replaceable", *foreign], done.stderr
