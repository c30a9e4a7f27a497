"""Hard links of the source after a restore: linked to the restored file, with the files found there kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from include.cutover.errors import Refused
from include.cutover.source import backup, fence, relink, restore
from include.cutover.source.backup_manifest import Manifest
from tests.support.killing import kill_at_every_step
from tests.support.other_names import elsewhere
from tests.support.sqlite_clients import make_source

RUN = "manual__2025-10-11T08:00:00+00:00"


@pytest.fixture
def live(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    return make_source(tmp_path / "app" / "ward.db")


@pytest.fixture
def alias(live: Path, tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "ward.db"
    path.hardlink_to(live)
    return path


@pytest.fixture
def manifest(live: Path, alias: Path, tmp_path: Path) -> Manifest:
    fence.raise_fence(live, run_id=RUN, others=[alias])
    return backup.take(live, tmp_path / "backups", None, run_id=RUN, plan="ward_ops")


@pytest.fixture(params=["same device", "another device"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "same device":
        yield tmp_path / "evidence" / "kept"
        return
    memory = Path(f"/dev/shm/cutover-test-{os.getpid()}")
    memory.mkdir()
    try:
        yield memory / "kept"
    finally:
        shutil.rmtree(memory)


def found_there(alias: Path) -> None:
    """Leave files that somebody put beside the fenced file under its other name."""
    for suffix in ("-wal", "-shm", "-journal"):
        alias.with_name(alias.name + suffix).write_bytes(suffix.encode() * 10)


def test_hard_link_is_the_restored_file_and_what_lay_there_is_kept(
    live: Path, alias: Path, manifest: Manifest, kept: Path
) -> None:
    found_there(alias)
    restore.restore(live, manifest, kept)
    assert not alias.samefile(live)
    assert relink.relink(live, [alias], kept) == (alias,)
    assert alias.samefile(live)
    assert [path.name for path in alias.parent.iterdir()] == ["ward.db"]
    (folder,) = (kept / relink.FOLDER).iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["ward.db-journal", "ward.db-shm", "ward.db-wal"]
    assert (folder / "ward.db-wal").read_bytes() == b"-wal" * 10
    for name in (live, alias):
        with closing(sqlite3.connect(name)) as connection, connection:
            connection.execute("INSERT INTO doomed VALUES (2)")
    assert relink.relink(live, [alias], kept) == (alias,)
    with closing(sqlite3.connect(live)) as connection:
        assert connection.execute("SELECT count(*) FROM doomed").fetchone() == (3,)


def test_another_file_that_took_the_name_is_kept(live: Path, alias: Path, manifest: Manifest, kept: Path) -> None:
    alias.unlink()
    alias.write_bytes(b"somebody else's")
    for _ in range(2):
        restore.restore(live, manifest, kept)
        relink.relink(live, [alias], kept)
    (folder,) = (kept / relink.FOLDER).iterdir()
    assert [path.read_bytes() for path in folder.iterdir()] == [b"somebody else's"]
    assert alias.samefile(live)


def test_killed_anywhere_the_next_attempt_completes_it(live: Path, alias: Path, manifest: Manifest, tmp_path: Path) -> None:
    kept = tmp_path / "evidence" / "kept"
    found_there(alias)

    def begin() -> None:
        for folder in (live.parent, alias.parent, kept):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        shutil.copy(manifest.file, live)
        (kept / live.name).write_bytes(b"the fenced file")
        alias.hardlink_to(kept / live.name)
        found_there(alias)

    for where in kill_at_every_step(begin, lambda: relink.relink(live, [alias], kept), after=False):
        assert alias.read_bytes() == b"the fenced file" or alias.samefile(live), where
        if alias.samefile(live):
            assert not alias.with_name("ward.db-wal").exists(), f"{where}: a log lies beside the restored file"
        relink.relink(live, [alias], kept)
        assert alias.samefile(live), where
        assert [path.name for path in alias.parent.iterdir()] == ["ward.db"], where
        (folder,) = (kept / relink.FOLDER).iterdir()
        assert sorted(path.name for path in folder.iterdir()) == ["ward.db-journal", "ward.db-shm", "ward.db-wal"], where


def test_process_that_holds_the_old_file_under_its_other_name_is_named(
    live: Path, alias: Path, manifest: Manifest, tmp_path: Path
) -> None:
    restore.restore(live, manifest, tmp_path / "kept")
    with alias.open("rb"), pytest.raises(Refused) as error:
        relink.relink(live, [alias], tmp_path / "kept")
    assert f"pid {os.getpid()}" in error.value.found
    assert not alias.samefile(live)


def test_name_whose_folder_is_gone_and_the_source_itself_are_left_out(
    live: Path, alias: Path, manifest: Manifest, tmp_path: Path
) -> None:
    restore.restore(live, manifest, tmp_path / "kept")
    shutil.rmtree(alias.parent)
    assert relink.relink(live, [alias, live], tmp_path / "kept") == ()


def test_names_that_will_show_the_old_file_are_listed(live: Path, alias: Path, tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    with elsewhere(live, tmp_path / "app.db"):
        first, second = relink.left_behind(live, [])
        assert "app.db as pid" in first and "mount it again" in first
        assert second == f"{alias} is a hard link that the plan does not name, and stays the old file"
    assert relink.left_behind(live, [alias]) == []
