"""The source: what can be opened, how a live file is cloned, what is read from a snapshot."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from include.cutover.errors import CannotCheck, CutoverError, Refused, Unreachable
from include.cutover.source import cloning, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.source.database_file import JOURNAL_MAGIC

NOBODY = 65534

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


def database(path: Path, *statements: str) -> Path:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def digests(path: Path) -> dict[str, str]:
    """Content of the database and of what lies beside it, but for -shm, which every reader of a WAL database writes."""
    return {
        item.name: hashlib.sha256(item.read_bytes()).hexdigest()
        for item in path.parent.iterdir()
        if item.name.startswith(path.name) and not item.name.endswith("-shm")
    }


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    rows = (
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i, hex(randomblob(50)) FROM n"
    )
    return database(tmp_path / "simple.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)", f"INSERT INTO t {rows}")


@contextlib.contextmanager
def as_somebody_else() -> Iterator[Path]:
    """A folder of ours, and rights that do not reach into it to write: root gives up being root for a moment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        before = os.geteuid()
        if before == 0:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(before)
            folder.chmod(0o755)


# --- opening ------------------------------------------------------------------------------------------------------------


def test_a_sound_file_opens_and_cannot_be_written(simple: Path) -> None:
    connection = snapshots.open_snapshot(simple)
    assert source_schema.counts(connection, ["t"]) == {"t": 500}
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM t")
    connection.close()
    assert snapshots.integrity(simple) == []
    assert [item.name for item in simple.parent.iterdir()] == ["simple.db"]


def spoilt(kind: str, simple: Path) -> Path:
    path, good = simple.with_name(kind), simple.read_bytes()
    match kind:
        case "directory":
            path.mkdir()
        case "zero bytes":
            path.touch()
        case "text":
            path.write_text("id,name\n1,one\n" * 50)
        case "short":
            path.write_bytes(good[:60])
        case "truncated":
            path.write_bytes(good[:-8192])
        case "encrypted":
            path.write_bytes(hashlib.shake_256(b"noise").digest(16384))
        case "pipe":
            os.mkfifo(path)
        case "damaged":
            path.write_bytes(good[:100] + b"\xff" * 4000 + good[4100:])
        case "wal beside":
            path.write_bytes(good)
            path.with_name(path.name + "-wal").write_bytes(b"x" * 100)
        case "journal beside":
            path.write_bytes(good)
            path.with_name(path.name + "-journal").write_bytes(JOURNAL_MAGIC + b"x" * 100)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("directory", "directory"),
        ("pipe", "not a regular file"),
        ("zero bytes", "zero bytes"),
        ("text", "not an SQLite database"),
        ("encrypted", "encrypted"),
        ("short", "truncated"),
        ("truncated", r"truncated.*expected \d+ bytes.*found \d+ bytes"),
        ("damaged", "damaged"),
        ("wal beside", "log lies beside"),
        ("journal beside", "log lies beside"),
    ],
)
def test_what_is_not_a_snapshot_is_named(simple: Path, kind: str, says: str) -> None:
    path = spoilt(kind, simple)
    with pytest.raises(CannotCheck, match=says) as caught:
        snapshots.open_snapshot(path)
    assert str(path) in caught.value.where
    assert "encrypted" not in str(caught.value) or kind == "encrypted"


def test_a_committed_journal_that_was_left_is_no_obstacle(simple: Path) -> None:
    simple.with_name(simple.name + "-journal").write_bytes(bytes(512))
    snapshots.open_snapshot(simple).close()


def test_an_unreadable_file_is_named() -> None:
    with as_somebody_else() as folder:
        os.seteuid(os.getuid())
        path = database(folder / "closed.db", "CREATE TABLE t(a)")
        path.chmod(0o000)
        if os.getuid() == 0:
            os.seteuid(NOBODY)
        with pytest.raises(CannotCheck, match="cannot be read; found Permission denied"):
            snapshots.open_snapshot(path)


def test_integrity_reports_a_damaged_page(simple: Path) -> None:
    content = bytearray(simple.read_bytes())
    content[3 * 4096 : 3 * 4096 + 64] = b"\xaa" * 64
    simple.write_bytes(content)
    assert snapshots.integrity(simple)


# --- cloning ------------------------------------------------------------------------------------------------------------


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
def test_what_a_killed_writer_left_is_recovered_in_the_clone_only(
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
def test_what_cannot_be_cloned_leaves_nothing(simple: Path, tmp_path: Path, kind: str) -> None:
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


# --- what is in it ------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[apsw.Connection]:
    path = database(
        tmp_path / "odd.db",
        'CREATE TABLE "select"(id INTEGER PRIMARY KEY AUTOINCREMENT, "Group" TEXT NOT NULL, "a ""b"" c" REAL)',
        "INSERT INTO \"select\" VALUES (41, 'g', 1.5)",
        'CREATE TABLE "ცხრილი"("სახელი" VARCHAR(20) PRIMARY KEY)',
        "CREATE TABLE sqliteX(a)",
        "CREATE TABLE plain(rowid TEXT, oid TEXT)",
        "CREATE TABLE shadows(rowid, _rowid_, oid)",
        "CREATE TABLE pair(b TEXT COLLATE NOCASE, a INTEGER, PRIMARY KEY (a DESC, b)) WITHOUT ROWID",
        "CREATE TABLE made(a INTEGER, twice INTEGER AS (a * 2), stored INTEGER AS (a + 1) STORED)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO counted VALUES (7)",
        "DELETE FROM counted",
    )
    connection = snapshots.open_snapshot(path)
    yield connection
    connection.close()


def test_tables_are_the_applications_own(odd: apsw.Connection) -> None:
    assert source_schema.tables(odd) == sorted(
        ["select", "ცხრილი", "sqliteX", "plain", "shadows", "pair", "made", "counted"]
    )
    assert source_schema.counts(odd, ["select", "ცხრილი"]) == {"select": 1, "ცხრილი": 0}


def test_columns_come_as_declared(odd: apsw.Connection) -> None:
    assert source_schema.columns(odd, "select") == [
        source_schema.SourceColumn("id", "INTEGER", False, 1),
        source_schema.SourceColumn("Group", "TEXT", True, 0),
        source_schema.SourceColumn('a "b" c', "REAL", False, 0),
    ]
    assert [(column.name, column.primary_key) for column in source_schema.columns(odd, "pair")] == [("b", 2), ("a", 1)]
    assert [column.generated for column in source_schema.columns(odd, "made")] == [False, True, True]


@pytest.mark.parametrize("table", ["nowhere", "SELECT", "v"])
def test_a_table_that_is_not_there_is_named(odd: apsw.Connection, table: str) -> None:
    with pytest.raises(CannotCheck, match=table):
        source_schema.columns(odd, table)


def test_the_rowid_is_named_so_that_no_column_hides_it(odd: apsw.Connection) -> None:
    assert source_schema.shape(odd, "select").rowid == '"rowid"'
    assert source_schema.shape(odd, "plain").rowid == '"_rowid_"'
    assert source_schema.shape(odd, "shadows").rowid is None
    pair = source_schema.shape(odd, "pair")
    assert (pair.rowid, pair.key) == (None, ("a", "b"))
    assert pair.order == (source_schema.KeyColumn("a", "BINARY", True), source_schema.KeyColumn("b", "NOCASE", False))


def test_the_column_that_is_the_rowid_is_known(tmp_path: Path) -> None:
    path = database(
        tmp_path / "keys.db",
        "CREATE TABLE yes(a TEXT, id integer PRIMARY KEY)",
        "CREATE TABLE other_type(id INT PRIMARY KEY)",
        "CREATE TABLE downwards(id INTEGER PRIMARY KEY DESC)",
        "CREATE TABLE two(a INTEGER, b INTEGER, PRIMARY KEY (a, b))",
        "CREATE TABLE none(a INTEGER)",
        "CREATE TABLE without(a INTEGER PRIMARY KEY) WITHOUT ROWID",
    )
    connection = snapshots.open_snapshot(path)
    found = {table: source_schema.shape(connection, table).alias for table in source_schema.tables(connection)}
    connection.close()
    assert found == dict.fromkeys(found) | {"yes": "id"}


def test_sequences_outlive_their_rows(odd: apsw.Connection, simple: Path) -> None:
    assert source_schema.sqlite_sequence(odd) == {"select": 41, "counted": 7}
    connection = snapshots.open_snapshot(simple)
    assert source_schema.sqlite_sequence(connection) == {}
    connection.close()


def test_the_fingerprint_is_that_of_the_schema_alone(tmp_path: Path) -> None:
    prints = []
    for name, statements in {
        "a": ["CREATE TABLE x(a)", "CREATE TABLE y(b)"],
        "b": ["CREATE TABLE y(b)", "CREATE TABLE x(a)", "INSERT INTO x VALUES (1)"],
        "c": ["CREATE TABLE x(a)", "CREATE TABLE y(b TEXT)"],
    }.items():
        connection = snapshots.open_snapshot(database(tmp_path / name, *statements))
        prints.append(source_schema.schema_fingerprint(connection))
        connection.close()
    assert prints[0] == prints[1] != prints[2]
    assert re.fullmatch("[0-9a-f]{64}", prints[0])


def test_the_fingerprint_is_not_that_of_sqlite_s_own_tables(tmp_path: Path) -> None:
    schema = ["CREATE TABLE x(a INTEGER PRIMARY KEY)", "CREATE INDEX i ON x(a)"]
    analyzed = ["CREATE TABLE gone(a INTEGER PRIMARY KEY AUTOINCREMENT)", "DROP TABLE gone", "ANALYZE"]
    prints = []
    for name, statements in {"plain": schema, "analyzed": [*schema, *analyzed]}.items():
        connection = snapshots.open_snapshot(database(tmp_path / name, *statements))
        prints.append((source_schema.schema_fingerprint(connection), source_schema.schema_objects(connection)))
        connection.close()
    assert prints[0] == prints[1]


def test_keys_are_shown_so_that_a_terminal_can_show_them() -> None:
    assert source_schema.key_text(("id", "name"), (5, "a\nb\0")) == "id=5, name=a\\x0ab\\x00"
    assert source_schema.key_text(("id",), (b"\xff\xfe",)) == "id=\\xff\\xfe"
    assert len(source_schema.key_text(("id",), ("x" * 500,))) < 100
