"""The restore test, on sound and on damaged backups."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from include.cutover.errors import CannotCheck
from include.cutover.source import fence, trial_restore
from tests.support.backups import RUN, flip, take, truncate


def test_a_restore_elsewhere_proves_the_content(live: Path, places: tuple[Path, Path], tmp_path: Path) -> None:
    fence.raise_fence(live, run_id=RUN)
    manifest = take(live, places)
    checks = trial_restore.restore_test(manifest, tmp_path / "scratch")
    assert [(check.name, check.outcome) for check in checks] == [
        ("restore_test_hash", "passed"),
        ("restore_test_integrity", "passed"),
        ("restore_test_counts", "passed"),
        ("restore_test_content", "passed"),
        ("restore_test_first_hash", "passed"),
    ]
    assert checks[3].title == "Every table of the copy equals that of ward_ops.db"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_restore_test_names_the_table_that_differs(live: Path, places: tuple[Path, Path], tmp_path: Path) -> None:
    """Neither hash nor counts can show this: an intact backup whose content is not the source's."""
    manifest = take(live, places)
    with closing(sqlite3.connect(live)) as connection, connection:
        connection.execute("UPDATE device SET score = score + 1e-16 WHERE id = 1")
        connection.execute("UPDATE device SET raw = CAST(raw AS BLOB) WHERE id = 2")
        connection.execute("UPDATE pair SET a = 3 WHERE a = 2")
    fence.raise_fence(live, run_id=RUN)
    failed = [check for check in trial_restore.restore_test(manifest, tmp_path) if check.outcome == "failed"]
    assert [check.name for check in failed] == ["restore_test_content"]
    assert "device: " in failed[0].found
    assert "pair: " in failed[0].found
    assert "odd" not in failed[0].found
    wrong = replace(manifest, counts={**manifest.counts, "pair": 4})
    failed = [check for check in trial_restore.restore_test(wrong, tmp_path) if check.outcome == "failed"]
    assert [check.name for check in failed] == ["restore_test_counts", "restore_test_content"]
    assert failed[0].found == "pair: 4 became 3"


@pytest.mark.parametrize("damage", [flip, truncate])
def test_the_restore_test_fails_on_a_damaged_copy(
    live: Path, places: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    manifest = take(live, places)
    damage(manifest.copies[1])
    checks = trial_restore.restore_test(manifest, tmp_path / "scratch")
    assert [(check.name, check.outcome) for check in checks] == [
        ("restore_test_hash", "failed"),
        ("restore_test_first_hash", "passed"),
    ]
    manifest.copies[1].unlink()
    with pytest.raises(CannotCheck):
        trial_restore.restore_test(manifest, tmp_path / "scratch")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.7, 0.95])
def test_the_restore_test_fails_on_a_damaged_first_copy_wherever_the_damage_lies(
    live: Path, places: tuple[Path, Path], tmp_path: Path, place: float
) -> None:
    """Also in an index or in free space, which no table's content shows."""
    fence.raise_fence(live, run_id=RUN)
    manifest = take(live, places)
    content = bytearray(manifest.file.read_bytes())
    content[int(len(content) * place)] ^= 0x10
    manifest.file.chmod(0o600)
    manifest.file.write_bytes(content)
    checks = trial_restore.restore_test(manifest, tmp_path / "scratch")
    failed = [(check.name, check.where) for check in checks if check.outcome == "failed"]
    assert failed == [("restore_test_first_hash", str(manifest.file))]


def test_digests_tell_apart_what_looks_alike(tmp_path: Path) -> None:
    values = ["1", "1.0", "'1'", "x'31'", "NULL", "''", "x''", "0.1 + 0.2", "0.3", "'a' || char(0)", "'a'", "'A'"]
    found = []
    for number, value in enumerate(values):
        path = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE t (a)")
            connection.execute(f"INSERT INTO t VALUES ({value})")
        found.append(trial_restore.content_digests(path)["t"])
    assert len(set(found)) == len(values)
