"""The fence on real databases, against two SQLite versions, new and open connections, and a kill at every step."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from include.cutover.errors import CannotCheck, Refused, StepFailed
from include.cutover.source import database_file, fence, fence_note
from tests.support.full_disk import small_disk
from tests.support.killing import kill_at_every_step
from tests.support.sqlite_clients import Client, client, make_source

RUN = "manual__2025-10-11T08:00:00+00:00"


WRITES = [
    "INSERT INTO device (name) VALUES ('d')",
    "UPDATE device SET note = 'x'",
    "DELETE FROM device WHERE id = 1",
    "REPLACE INTO device (id, name) VALUES (1, 'z')",
    "INSERT INTO device (name) VALUES ('a') ON CONFLICT (name) DO UPDATE SET note = 'upsert'",
    "ALTER TABLE device ADD COLUMN extra",
    "ALTER TABLE device RENAME TO gadget",
    "DROP TABLE doomed",
    "DROP INDEX by_note",
    "CREATE TABLE another (a)",
    "CREATE TRIGGER t AFTER INSERT ON device BEGIN SELECT 1; END",
    "UPDATE sqlite_sequence SET seq = 1000",
    "DELETE FROM sqlite_sequence",
    "PRAGMA user_version = 7",
    "PRAGMA application_id = 7",
    "VACUUM",
    "REINDEX",
    "ANALYZE",
    "PRAGMA writable_schema = ON;; DELETE FROM sqlite_master",
    "BEGIN IMMEDIATE;; INSERT INTO doomed VALUES (2)",
    "BEGIN EXCLUSIVE;; UPDATE doomed SET a = 2",
]


def content(path: Path) -> list[str]:
    """Everything in the database, read from a copy of file and side files, so that looking changes nothing."""
    copies = path.parent / "look"
    copies.mkdir(exist_ok=True)
    for item in path.parent.glob(f"{path.name}*"):
        (copies / item.name).write_bytes(item.read_bytes())
    try:
        with closing(sqlite3.connect(copies / path.name)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return list(connection.iterdump())
    finally:
        for item in copies.iterdir():
            item.unlink()
        copies.rmdir()


def names(path: Path) -> list[str]:
    return sorted(item.name for item in path.parent.iterdir())


@pytest.mark.parametrize("module", ["sqlite3", "apsw"])
@pytest.mark.parametrize("already_open", [False, True])
def test_no_way_of_writing_gets_through_and_reading_goes_on(source: Path, module: str, already_open: bool) -> None:
    before = content(source)
    if already_open:
        with client(source, module) as open_before:
            state = fence.raise_fence(source, run_id=RUN)
            refuse_every_write(open_before)
            assert open_before.ask("SELECT count(*) FROM device") == [[3]]
    else:
        state = fence.raise_fence(source, run_id=RUN)
        with client(source, module) as opened_after:
            refuse_every_write(opened_after)
            assert opened_after.ask("SELECT name FROM device ORDER BY id") == [["a"], ["b"], ["c"]]
    assert state.raised
    assert state.intact
    assert fence.status(source) == state
    assert content(source) == before


def refuse_every_write(someone: Client) -> None:
    for sql in WRITES:
        assert someone.ask(sql) == "attempt to write a readonly database", sql
        someone.ask("PRAGMA writable_schema = OFF")
        someone.ask("ROLLBACK")


@pytest.mark.parametrize("module", ["sqlite3", "apsw"])
@pytest.mark.parametrize("journal_mode", ["delete", "truncate", "persist", "wal"])
def test_after_the_lift_the_application_writes_again(tmp_path: Path, module: str, journal_mode: str) -> None:
    source = make_source(tmp_path / "ward.db", journal_mode)
    before, mode, header = content(source), stat.S_IMODE(source.stat().st_mode), source.read_bytes()[18:20]
    fence.raise_fence(source, run_id=RUN)
    assert source.read_bytes()[18:20] == bytes([3, 1])
    assert stat.S_IMODE(source.stat().st_mode) == 0o444
    state = fence.lift(source, run_id=RUN)
    assert not state.raised
    assert state.intact
    assert state.findings == ()
    assert content(source) == before
    assert (stat.S_IMODE(source.stat().st_mode), source.read_bytes()[18:20]) == (mode, header)
    assert names(source) == ["ward.db"]
    with client(source, module) as application:
        assert application.ask("INSERT INTO device (name) VALUES ('d')") == []
        assert application.ask("SELECT max(id) FROM device") == [[4]]
    assert fence.lift(source) == fence.FenceState(source, raised=False, intact=False)


def test_a_connection_that_slept_through_the_fence_writes_again(source: Path) -> None:
    with client(source) as application:
        fence.raise_fence(source, run_id=RUN)
        fence.lift(source)
        assert application.ask("INSERT INTO device (name) VALUES ('d')") == []
        assert application.ask("SELECT count(*) FROM device") == [[4]]


def test_raising_twice_is_raising_once(source: Path) -> None:
    first = fence.raise_fence(source, run_id=RUN, note="Cutover of Ward OPS")
    assert fence.raise_fence(source, run_id=RUN) == first
    note = json.loads(fence_note.note_path(source).read_text())
    assert (note["run_id"], note["note"], note["mode"], note["original"]) == (RUN, "Cutover of Ward OPS", "0664", [1, 1])
    assert first.note == source.with_name("ward ops.db.fence.json")


def test_another_run_is_refused_and_the_fence_s_run_is_named(source: Path) -> None:
    fence.raise_fence(source, run_id=RUN)
    actions: list[Callable[[], object]] = [
        lambda: fence.raise_fence(source, run_id="other"),
        lambda: fence.lift(source, run_id="other"),
    ]
    for action in actions:
        with pytest.raises(Refused) as error:
            action()
        assert RUN in str(error.value)
    assert fence.status(source).intact


def test_the_note_s_commands_lift_the_fence_by_hand(tmp_path: Path) -> None:
    source = make_source(tmp_path / "it's a ward.db")
    before = content(source)
    fence.raise_fence(source, run_id=RUN)
    subprocess.run(
        json.loads(fence_note.note_path(source).read_text())["how_to_lift"], shell=True, check=True, capture_output=True
    )
    assert names(source) == ["it's a ward.db"]
    assert stat.S_IMODE(source.stat().st_mode) == 0o664
    assert content(source) == before
    with client(source) as application:
        assert application.ask("INSERT INTO device (name) VALUES ('d')") == []


def test_a_wal_is_part_of_what_is_fenced(tmp_path: Path) -> None:
    source = make_source(tmp_path / "ward.db", "wal")
    application = Client("sqlite3", source)
    assert application.ask("PRAGMA wal_autocheckpoint = 0") == [[0]]
    assert application.ask("INSERT INTO device (name) VALUES ('only in the WAL')") == []
    application.process.kill()  # as by a crash: the WAL stays
    application.close()
    assert (tmp_path / "ward.db-wal").stat().st_size > 0
    before = content(source)
    assert any("only in the WAL" in line for line in before)
    fence.raise_fence(source, run_id=RUN)
    assert names(source) == ["ward.db", "ward.db.fence.json"]
    assert content(source) == before


def test_a_hot_journal_is_rolled_back_first(source: Path) -> None:
    before = content(source)
    application = Client("sqlite3", source)
    application.ask("PRAGMA cache_size = 1;; PRAGMA cache_spill = 1;; BEGIN IMMEDIATE")
    application.ask(
        "INSERT INTO doomed WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9000) SELECT hex(i) FROM n"
    )
    application.process.kill()
    application.close()
    assert source.with_name(f"{source.name}-journal").read_bytes()[:1] not in (b"", b"\0")
    fence.raise_fence(source, run_id=RUN)
    assert names(source) == ["ward ops.db", "ward ops.db.fence.json"]
    assert content(source) == before


@pytest.mark.parametrize(
    ("journal_mode", "doing"),
    [
        ("wal", ["SELECT 1"]),
        ("wal", ["BEGIN IMMEDIATE"]),
        ("delete", ["BEGIN IMMEDIATE", "INSERT INTO doomed VALUES (2)"]),
        ("delete", ["BEGIN", "SELECT count(*) FROM device"]),
        ("delete", ["PRAGMA locking_mode = EXCLUSIVE", "UPDATE device SET note = 'x'"]),
    ],
)
def test_processes_that_the_fence_would_not_stop_are_named_and_nothing_changes(
    tmp_path: Path, journal_mode: str, doing: list[str]
) -> None:
    source = make_source(tmp_path / "ward.db", journal_mode)
    with client(source) as rogue:
        for sql in doing:
            rogue.ask(sql)
        with pytest.raises(Refused) as error:
            fence.raise_fence(source, run_id=RUN, busy_seconds=0.2)
        assert f"pid {rogue.process.pid} python" in str(error.value)
        assert not fence_note.note_path(source).exists()
        assert source.read_bytes()[18] == (2 if journal_mode == "wal" else 1)
        assert stat.S_IMODE(source.stat().st_mode) == 0o664
        assert rogue.ask("INSERT INTO doomed VALUES (3)") == []
    assert fence.raise_fence(source, run_id=RUN).intact


def test_a_short_transaction_is_waited_for(source: Path) -> None:
    with client(source) as application:
        application.ask("BEGIN IMMEDIATE")
        application.ask("INSERT INTO doomed VALUES (2)")
        child = os.fork()
        if child == 0:
            fence.raise_fence(source, run_id=RUN, busy_seconds=30)
            os._exit(0)
        while not fence_note.note_path(source).exists():
            pass
        assert application.ask("COMMIT") == []
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert application.ask("SELECT count(*) FROM doomed") == [[2]]
        assert application.ask("INSERT INTO doomed VALUES (3)") == "attempt to write a readonly database"


def break_header(source: Path) -> None:
    data = bytearray(source.read_bytes())
    data[18] = 1
    source.write_bytes(data)


def flip_a_bit(source: Path) -> None:
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    source.write_bytes(data)


def write_as_a_rogue(source: Path) -> None:
    break_header(source)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE device SET note = 'rogue' WHERE id = 1")


def append(source: Path) -> None:
    source.write_bytes(source.read_bytes() + b"\0" * 4096)


def add_journal(source: Path) -> None:
    source.with_name(f"{source.name}-journal").write_bytes(b"x")


@pytest.mark.parametrize(
    ("breaking", "finding", "raised"),
    [
        (break_header, "the write version is 1, no longer 3; its content changed", False),
        (write_as_a_rogue, "the write version is 1, no longer 3; its content changed", False),
        (flip_a_bit, "its content changed", True),
        (append, "20,480", True),
        (add_journal, "ward ops.db-journal lies beside it", True),
    ],
)
def test_a_broken_fence_is_noticed(source: Path, breaking: Callable[[Path], None], finding: str, raised: bool) -> None:
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("VACUUM")
    fence.raise_fence(source, run_id=RUN)
    source.chmod(0o664)
    assert fence.status(source).intact
    assert fence.status(source).findings == ("its mode is 0664",)
    if breaking is append:
        finding = f"{source.stat().st_size + 4096:,} bytes long, was {source.stat().st_size:,}"
    breaking(source)
    state = fence.status(source)
    assert (state.raised, state.intact, state.run_id) == (raised, False, RUN)
    assert finding in state.detail
    with pytest.raises(Refused, match=r"was broken.*start a new run"):
        fence.raise_fence(source, run_id=RUN)
    lifted = fence.lift(source)
    assert not lifted.raised
    assert not lifted.intact
    assert finding in "; ".join(lifted.findings)
    assert source.read_bytes()[18:20] == b"\1\1"


def test_a_lift_on_a_read_only_volume_names_the_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as place:
        source = make_source(place / "ward.db", "delete")
        fence.raise_fence(source, run_id=RUN)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with pytest.raises(StepFailed, match="Read-only file system") as caught:
            fence.lift(source, run_id=RUN)
        assert caught.value.where == str(source)
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        assert fence.lift(source, run_id=RUN).intact


def test_fence_without_its_note_is_refused(source: Path) -> None:
    fence.raise_fence(source, run_id=RUN)
    fence_note.note_path(source).unlink()
    state = fence.status(source)
    assert (state.raised, state.intact, state.run_id) == (True, False, None)
    assert "note is missing" in state.detail
    actions: list[Callable[[], object]] = [lambda: fence.raise_fence(source, run_id=RUN), lambda: fence.lift(source)]
    for action in actions:
        with pytest.raises(Refused, match="note is missing"):
            action()


def test_file_that_is_not_a_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    for data in (None, b"", b"text" * 100, database_file.MAGIC + b"\x10\0\1\1" + b"\xff" * 4076):
        if data is not None:
            path.write_bytes(data)
        actions: list[Callable[[], object]] = [
            lambda: fence.raise_fence(path, run_id=RUN),
            lambda: fence.status(path),
            lambda: fence.lift(path),
        ]
        for action in actions if data is None or not data.startswith(database_file.MAGIC) else actions[:1]:
            with pytest.raises(CannotCheck):
                action()
    assert names(path) == ["x.db"]
    with closing(sqlite3.connect(tmp_path / "y.db")) as connection, connection:
        connection.execute("CREATE TABLE t (a)")
    fence_note.note_path(tmp_path / "y.db").write_text("{")
    with pytest.raises(CannotCheck, match="unreadable"):
        fence.status(tmp_path / "y.db")


def test_lift_does_not_wait_for_readers_to_set_wal_mode(tmp_path: Path) -> None:
    """Going back must not hang on a forgotten shell; that the mode is another one now is said."""
    source = make_source(tmp_path / "ward.db", "wal")
    fence.raise_fence(source, run_id=RUN)
    with client(source) as shell:
        shell.ask("BEGIN;; SELECT count(*) FROM device")
        state = fence.lift(source)
        assert not state.raised
        assert "in WAL mode: another process reads it" in state.detail
    assert names(source) == ["ward.db"]
    assert source.read_bytes()[18:20] == b"\1\1"
    with client(source) as application:
        assert application.ask("INSERT INTO device (name) VALUES ('d')") == []


def test_a_link_is_followed(source: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(source)
    assert fence.raise_fence(link, run_id=RUN).source == source
    assert fence.status(source).intact
    fence.lift(link)
    assert names(source) == ["elsewhere", "ward ops.db"]
    assert names(link) == ["link.db"]


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_killed_at_any_step_of_raising(tmp_path: Path, journal_mode: str) -> None:
    pristine = make_source(tmp_path / "pristine.db", journal_mode)
    before = content(pristine)
    source = tmp_path / "place" / "ward.db"
    source.parent.mkdir()

    def begin() -> None:
        for path in source.parent.iterdir():
            path.unlink()
        source.write_bytes(pristine.read_bytes())
        source.chmod(0o664)

    seen = set()
    for number, step in enumerate(kill_at_every_step(begin, lambda: fence.raise_fence(source, run_id=RUN))):
        state = fence.status(source)
        seen.add((state.raised, state.intact))
        assert state.run_id == RUN or not state.raised, f"{step}: fenced and no note"
        if number % 2:
            assert fence.raise_fence(source, run_id=RUN).intact, step
        fence.lift(source)
        assert names(source) == ["ward.db"] or not state.run_id, step
        assert (stat.S_IMODE(source.stat().st_mode), source.read_bytes()[18:20]) == (0o664, pristine.read_bytes()[18:20]), (
            step
        )
        assert content(source) == before, step
    assert seen == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_killed_at_any_step_of_lifting(tmp_path: Path, journal_mode: str) -> None:
    pristine = make_source(tmp_path / "pristine.db", journal_mode)
    before = content(pristine)
    source = tmp_path / "place" / "ward.db"
    source.parent.mkdir()

    def begin() -> None:
        for path in source.parent.iterdir():
            path.unlink()
        source.write_bytes(pristine.read_bytes())
        source.chmod(0o664)
        fence.raise_fence(source, run_id=RUN)

    for step in kill_at_every_step(begin, lambda: fence.lift(source)):
        state = fence.status(source)
        assert state.run_id == RUN or not state.raised, f"{step}: fenced and no note"
        fence.lift(source)
        assert names(source) == ["ward.db"], step
        assert (stat.S_IMODE(source.stat().st_mode), source.read_bytes()[18:20]) == (0o664, pristine.read_bytes()[18:20]), (
            step
        )
        assert content(source) == before, step


def test_both_versions_of_sqlite_are_covered() -> None:
    assert apsw.sqlite_lib_version() != sqlite3.sqlite_version
