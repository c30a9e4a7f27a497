"""A live database is cloned in one step, whatever its application does, and never changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import apsw
import pytest

from include.cutover.errors import CannotCheck, CutoverError, Refused, Unreachable
from include.cutover.source import cloning, snapshots
from include.cutover.source import schema as source_schema
from tests.support.sqlite_files import NOBODY, as_somebody_else, database, spoilt

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("PRAGMA synchronous=OFF")
number = 0
while True:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE account SET balance = balance - 1 WHERE id = 1")
    connection.execute("UPDATE account SET balance = balance + 1 WHERE id = 2")
    connection.execute("INSERT INTO movement(note) VALUES (?)", ("x" * 500,))
    connection.execute("COMMIT")
    number += 1
    print(number, flush=True)
"""


def digests(path: Path) -> dict[str, str]:
    """Content of the database and of what lies beside it, but for -shm, which every reader of a WAL database writes."""
    return {
        item.name: hashlib.sha256(item.read_bytes()).hexdigest()
        for item in path.parent.iterdir()
        if item.name.startswith(path.name) and not item.name.endswith("-shm")
    }


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_clone_beside_live_writers_is_one_moment(tmp_path: Path, mode: str) -> None:
    (tmp_path / "live").mkdir()
    live = database(
        tmp_path / "live" / "app.db",
        f"PRAGMA journal_mode={mode}",
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER)",
        "INSERT INTO account VALUES (1, 0), (2, 0)",
        "CREATE TABLE movement(id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT)",
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(live)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "1\n"
        movements = 0
        for number in range(4):
            clone = tmp_path / f"clone{number}.db"
            cloning.clone(live, clone)
            assert snapshots.integrity(clone) == []
            connection = snapshots.open_snapshot(clone)
            balances = [balance for (balance,) in connection.execute("SELECT balance FROM account ORDER BY id")]
            found = source_schema.counts(connection, ["movement"])["movement"]
            connection.close()
            assert balances == [-found, found]
            assert found >= movements
            movements = found
        assert movements >= 2
        for writer in writers:
            assert writer.poll() is None
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    assert not [item for item in tmp_path.iterdir() if not item.name.startswith(("clone", "live"))]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_cloning_changes_nothing_beside_an_open_application(tmp_path: Path, mode: str) -> None:
    live, clone = tmp_path / "app.db", tmp_path / "elsewhere" / "clone.db"
    database(live, f"PRAGMA journal_mode={mode}", "CREATE TABLE t(a)")
    with contextlib.closing(apsw.Connection(str(live))) as application:
        application.execute("INSERT INTO t VALUES ('in the log')")
        before = digests(live)
        cloning.clone(live, clone)
        assert digests(live) == before
        application.execute("INSERT INTO t VALUES ('later')")
    connection = snapshots.open_snapshot(clone)
    assert connection.execute("SELECT a FROM t").fetchall() == [("in the log",)]
    connection.close()
    assert [item.name for item in clone.parent.iterdir()] == ["clone.db"]
    assert clone.stat().st_mode & 0o777 == 0o600


def test_no_side_files_are_made_beside_a_wal_database_that_nobody_has_open(tmp_path: Path) -> None:
    live = database(tmp_path / "app.db", "PRAGMA journal_mode=WAL", "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    cloning.clone(live, tmp_path / "clone.db")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["app.db", "clone.db"]


def killed_writer(path: Path, mode: str) -> None:
    """A database whose writer was killed: with a log that is not checkpointed, or with a hot journal."""
    before_it_ends = "c.execute('COMMIT')" if mode == "WAL" else "c.execute('SELECT 1')"
    code = f"""
import os, signal, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA journal_mode={mode}")
c.execute("CREATE TABLE t(a)")
c.execute("INSERT INTO t VALUES ('committed')")
c.execute("PRAGMA cache_size=5")
c.execute("BEGIN")
c.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,) for _ in range(50)])
{before_it_ends}
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)


@pytest.mark.parametrize(("mode", "log", "rows"), [("WAL", "-wal", 51), ("DELETE", "-journal", 1)])
@pytest.mark.parametrize("shm", [True, False])
def test_log_of_a_killed_writer_is_recovered_in_the_clone_only(
    tmp_path: Path, mode: str, log: str, rows: int, shm: bool
) -> None:
    live = tmp_path / "app.db"
    killed_writer(live, mode)
    if not shm:
        live.with_name("app.db-shm").unlink(missing_ok=True)
    assert live.with_name("app.db" + log).exists()
    before = digests(live)
    cloning.clone(live, tmp_path / "clone.db")
    assert digests(live) == before
    connection = snapshots.open_snapshot(tmp_path / "clone.db")
    assert source_schema.counts(connection, ["t"]) == {"t": rows}
    connection.close()
    assert snapshots.integrity(tmp_path / "clone.db") == []


@pytest.mark.parametrize(("mode", "rows"), [("WAL", 51), ("DELETE", 1)])
def test_media_that_cannot_be_written_can_be_cloned_with_its_log(tmp_path: Path, mode: str, rows: int) -> None:
    with as_somebody_else() as folder, tempfile.TemporaryDirectory() as own:
        os.seteuid(os.getuid())
        killed_writer(folder / "app.db", mode)
        for item in folder.iterdir():
            item.chmod(0o444)
        folder.chmod(0o555)
        if os.getuid() == 0:
            os.seteuid(NOBODY)
        cloning.clone(folder / "app.db", Path(own) / "clone.db")
        connection = snapshots.open_snapshot(Path(own) / "clone.db")
        assert source_schema.counts(connection, ["t"]) == {"t": rows}
        connection.close()


def test_a_fenced_file_can_be_cloned(simple: Path) -> None:
    content = bytearray(simple.read_bytes())
    content[18] = 3
    simple.write_bytes(content)
    cloning.clone(simple, simple.with_name("clone.db"))
    connection = snapshots.open_snapshot(simple.with_name("clone.db"))
    assert source_schema.counts(connection, ["t"]) == {"t": 500}
    connection.close()


def test_a_clone_replaces_an_older_one_and_its_logs(simple: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone.db"
    clone.write_bytes(b"old")
    clone.with_name("clone.db-wal").write_bytes(b"old")
    cloning.clone(simple, clone)
    cloning.clone(simple, clone)
    snapshots.open_snapshot(clone).close()


def test_a_database_that_stays_locked_is_unreachable_and_leaves_nothing(simple: Path, tmp_path: Path) -> None:
    with contextlib.closing(apsw.Connection(str(simple))) as application:
        application.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unreachable, match="locked") as caught:
            cloning.clone(simple, tmp_path / "clone.db", busy_seconds=0.2)
        assert caught.value.retry_helps
    assert sorted(item.name for item in tmp_path.iterdir()) == ["simple.db"]


@pytest.mark.parametrize("kind", ["missing", "zero bytes", "encrypted", "truncated", "directory"])
def test_failed_clone_leaves_nothing(simple: Path, tmp_path: Path, kind: str) -> None:
    path = spoilt(kind, simple)
    with pytest.raises(CannotCheck):
        cloning.clone(path, tmp_path / "clone.db")
    assert not (tmp_path / "clone.db").exists()
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


def test_the_live_file_is_never_the_clone(simple: Path) -> None:
    before = simple.read_bytes()
    with pytest.raises(Refused):
        cloning.clone(simple, simple)
    assert simple.read_bytes() == before


def test_a_full_or_missing_place_is_named(simple: Path) -> None:
    with pytest.raises(CutoverError, match="cannot be written"):
        cloning.clone(simple, Path("/proc/nowhere/clone.db"))
