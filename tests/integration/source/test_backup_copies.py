"""Damaged copies of a backup are found and made again from a whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from include.cutover.checks import worst
from include.cutover.source import backup_copies
from tests.support.backups import dump, flip, take, truncate, visible


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("number", [0, 1])
def test_damaged_copy_is_found_and_made_again_from_the_other(
    live: Path, places: tuple[Path, Path], damage: Callable[[Path], None], number: int
) -> None:
    manifest = take(live, places)
    damage(manifest.copies[number])
    failed = {check.name for check in backup_copies.verify(manifest) if check.outcome == "failed"}
    prefix = ("backup", "second_copy")[number]
    assert failed == {
        flip: {f"{prefix}_hash", f"{prefix}_integrity"},
        truncate: {f"{prefix}_size", f"{prefix}_hash", f"{prefix}_integrity"},
        Path.unlink: {f"{prefix}_present"},
    }[damage]  # fmt: skip
    assert take(live, places) == manifest
    assert worst(backup_copies.verify(manifest)) == "passed"


def test_when_no_copy_is_whole_another_backup_is_taken(live: Path, places: tuple[Path, Path]) -> None:
    manifest = take(live, places)
    flip(manifest.copies[0])
    truncate(manifest.copies[1])
    again = take(live, places)
    assert worst(backup_copies.verify(again)) == "passed"
    assert dump(again.file) == dump(live)
    assert [name for name in visible(places[0]) if name.endswith(".damaged")] == [
        f"{manifest.file.name}.damaged",
        f"{manifest.file.name}.manifest.json.damaged",
    ]


def test_a_copy_that_cannot_be_read_is_unknown(live: Path, places: tuple[Path, Path]) -> None:
    manifest = take(live, places)
    assert manifest.second_file is not None
    manifest.second_file.unlink()
    manifest.second_file.mkdir()
    checks = backup_copies.verify(manifest)
    assert worst([check for check in checks if check.name.startswith("backup")]) == "passed"
    assert [check.outcome for check in checks if check.name.startswith("second_copy")] == ["unknown"]
