"""Can the application's own user write? Asked by becoming that user."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from include.cutover.source import writable
from include.cutover.source.writable import check_writable, owner_of

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(params=["delete", "wal"])
def database(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A database in a folder that every user can reach; where root runs this, both belong to somebody else."""
    folder = Path(tempfile.mkdtemp(prefix="writing-"))
    file = folder / "app.db"
    with closing(apsw.Connection(str(file))) as connection:
        connection.pragma("journal_mode", request.param)
        connection.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    if os.geteuid() == 0:
        for path in (folder, file):
            os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    yield file
    folder.chmod(0o700)
    shutil.rmtree(folder)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_owner_can_write_and_nothing_is_changed(database: Path) -> None:
    before = digest(database)
    check = check_writable(database)
    assert check.outcome == "passed", check.found
    assert digest(database) == before
    assert [path.name for path in database.parent.iterdir()] == ["app.db"]


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o755), (0o644, 0o555)])
def test_owner_without_the_right_to_the_file_or_its_folder_cannot_write(
    database: Path, file_mode: int, folder_mode: int
) -> None:
    database.chmod(file_mode)
    database.parent.chmod(folder_mode)
    check = check_writable(database)
    assert check.outcome == "failed" and check.do
    assert any(word in check.found for word in ("PermissionError", "ReadOnlyError", "CantOpenError")), check.found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a file from its owner")
def test_owner_of_the_file_cannot_write_in_a_folder_of_another_user(database: Path) -> None:
    os.chown(database.parent, 0, 0)
    database.parent.chmod(0o755)
    assert check_writable(database).outcome == "failed"
    database.parent.chmod(0o777)
    assert check_writable(database).outcome == "passed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a file from its owner")
def test_the_owner_from_before_the_run_must_be_able_to_write(database: Path) -> None:
    before = owner_of(database)
    os.chown(database, 0, 0)
    database.chmod(0o600)
    assert check_writable(database).outcome == "passed", "its new owner can"
    found = check_writable(database, before)
    assert found.outcome == "failed" and "user 0 (root)" in found.found, found.found


def test_while_another_process_writes_only_the_rights_are_checked(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writable, "BUSY_SECONDS", 0.05)
    with closing(apsw.Connection(str(database))) as other:
        other.execute("BEGIN IMMEDIATE")
        assert check_writable(database).outcome == "passed"
        database.parent.chmod(0o555)
        assert check_writable(database).outcome == "failed"


def test_a_fenced_file_and_a_missing_one_take_no_writes(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")
    assert check_writable(database).outcome == "failed"
    database.unlink()
    assert check_writable(database).outcome == "failed"
