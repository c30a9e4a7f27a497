"""Databases that reserve bytes of each page: they keep them through fence, backup and restore, and checksums stay right.

The application uses SQLite's checksum VFS in another process, because loading it makes it the default of the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from include.cutover.errors import Refused
from include.cutover.source import fence, page_checksum, restore, trial_restore
from tests.support.backups import RUN, take
from tests.support.killing import kill_at_every_step

APPLICATION = """
import json, sys, apsw, apsw.sqlite_extra
apsw.sqlite_extra.load(apsw.Connection(":memory:"), "cksumvfs")
connection = apsw.Connection(sys.argv[1])
try:
    rows = []
    for statement in sys.argv[2:]:
        if statement == "reserve":
            connection.reserve_bytes(None, 8)
        else:
            rows.append(connection.execute(statement).get)
except apsw.Error as error:
    rows = str(error)
print(json.dumps(rows))
"""
READ = ("SELECT count(*) FROM device", "PRAGMA checksum_verification", "PRAGMA quick_check")


def application(path: Path, *statements: str) -> object:
    command = [sys.executable, "-c", APPLICATION, str(path), *statements]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def make(path: Path, reserved: int) -> Path:
    with closing(apsw.Connection(str(path))) as connection:
        connection.reserve_bytes(None, reserved)
        connection.execute("VACUUM")
    return path


def make_checked(path: Path, mode: str, page: int = 4096) -> Path:
    application(path, f"PRAGMA page_size={page}", "reserve", "VACUUM", f"PRAGMA journal_mode={mode}")
    rows = "WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 500)"
    application(
        path,
        "CREATE TABLE device (id INTEGER PRIMARY KEY, name TEXT)",
        f"INSERT INTO device (name) {rows} SELECT hex(randomblob(40)) FROM s",
    )
    assert application(path, *READ) == [500, "1", "ok"]
    return path


@pytest.fixture(params=[(mode, page) for mode in ("delete", "wal") for page in (512, 4096, 65536)], ids=str)
def checked(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_checked(tmp_path / "ward_ops.db", *request.param)


def test_checksums_are_right_under_the_fence_and_after_it(checked: Path) -> None:
    fence.raise_fence(checked, run_id=RUN)
    assert fence.status(checked).intact
    assert application(checked, *READ) == [500, "1", "ok"]
    assert "readonly" in str(application(checked, "DELETE FROM device"))
    assert fence.lift(checked).intact
    assert application(checked, "DELETE FROM device WHERE id = 1", *READ) == [None, 499, "1", "ok"]


def test_checksums_of_a_restored_backup_are_right(checked: Path, places: tuple[Path, Path], tmp_path: Path) -> None:
    fence.raise_fence(checked, run_id=RUN)
    manifest = take(checked, places)
    assert application(manifest.file, *READ) == [500, "1", "ok"]
    assert {check.outcome for check in trial_restore.restore_test(manifest, tmp_path / "trial")} == {"passed"}
    assert restore.restore(checked, manifest, tmp_path / "kept").found is not None
    assert application(checked, "DELETE FROM device WHERE id = 1", *READ) == [None, 499, "1", "ok"]


def test_checksums_are_right_after_a_fence_that_was_refused(tmp_path: Path) -> None:
    path = make_checked(tmp_path / "ward_ops.db", "delete")
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN; SELECT * FROM device LIMIT 1").get  # noqa: B018
        code = (
            f"import sys; sys.path[:0] = {sys.path!r}\nfrom include.cutover.source import fence\nfrom pathlib import Path\n"
        )
        code += f"fence.raise_fence(Path({str(path)!r}), run_id='r', busy_seconds=0.2)"
        assert Refused.__name__ in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert application(path, *READ) == [500, "1", "ok"]


@pytest.mark.parametrize("lifting", [False, True])
def test_checksums_are_right_after_a_kill_at_any_step_and_another_try(tmp_path: Path, lifting: bool) -> None:
    path = make_checked(tmp_path / "ward_ops.db", "wal")
    before = path.read_bytes()

    def begin() -> None:
        for item in tmp_path.iterdir():
            item.unlink()
        path.write_bytes(before)
        if lifting:
            fence.raise_fence(path, run_id=RUN)

    def change() -> None:
        fence.lift(path) if lifting else fence.raise_fence(path, run_id=RUN)

    for number, where in enumerate(kill_at_every_step(begin, change)):
        change()
        if number % 4 == 0:  # a new process each time
            assert application(path, *READ) == [500, "1", "ok"], where
        with path.open("rb") as file:
            assert not page_checksum.is_wrong(file.fileno()), where


@pytest.mark.parametrize("reserved", [8, 32, 255])
def test_reserved_bytes_of_others_stay_as_they_are(tmp_path: Path, places: tuple[Path, Path], reserved: int) -> None:
    path = make(tmp_path / "ward_ops.db", reserved)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE device (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("INSERT INTO device (name) VALUES ('a')")
    with path.open("r+b") as file:  # as another extension leaves them
        for end in (4096, 8192):
            file.seek(end - reserved)
            file.write(b"\x5a" * reserved)
    before = path.read_bytes()
    fence.raise_fence(path, run_id=RUN)
    manifest = take(path, places)
    backup = manifest.file.read_bytes()
    assert backup[20] == reserved and backup[100:] == before[100:]
    assert {check.outcome for check in trial_restore.restore_test(manifest, tmp_path / "trial")} == {"passed"}
    result = restore.restore(path, manifest, tmp_path / "kept")
    assert result.found is not None and result.found.state == "fenced"
    assert path.read_bytes() == backup


def test_a_file_without_checksums_is_not_changed(tmp_path: Path) -> None:
    path = make(tmp_path / "ward_ops.db", 8)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE device (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("INSERT INTO device (name) VALUES ('a')")
    before = path.read_bytes()
    descriptor = os.open(path, os.O_RDWR)
    try:
        assert not page_checksum.refresh(descriptor)
    finally:
        os.close(descriptor)
    assert path.read_bytes() == before
