"""The restore on real files: stale logs, damaged backups, holders, other devices, and a kill at every step."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from include.cutover.errors import CannotCheck, Refused
from include.cutover.files import digest
from include.cutover.source import backup, fence, fence_header, fence_note, restore
from include.cutover.source.backup_manifest import Manifest
from include.cutover.source.found_file import Found
from tests.support.killing import kill_at_every_step

RUN = "manual__2025-10-11T08:00:00+00:00"
SIDES = ("-wal", "-shm", "-journal")


def make(path: Path, journal_mode: str = "delete") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.executescript("CREATE TABLE ping (id INTEGER PRIMARY KEY, note TEXT)")
        with connection:
            connection.executemany("INSERT INTO ping (note) VALUES (?)", [(f"row {number} " * 20,) for number in range(100)])
    path.chmod(0o660)
    return path


@pytest.fixture(params=["delete"])
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make(tmp_path / "app" / "ward_ops.db", request.param)


@pytest.fixture
def manifest(live: Path, tmp_path: Path) -> Manifest:
    """The backup of the run, with the source fenced."""
    fence.raise_fence(live, run_id=RUN)
    return backup.take(live, tmp_path / "backups", tmp_path / "second", run_id=RUN, plan="ward_ops")


@pytest.fixture(params=["same device"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "same device":
        yield tmp_path / "evidence" / "kept"
        return
    memory = Path(f"/dev/shm/cutover-test-{os.getpid()}")
    memory.mkdir()
    try:
        assert memory.stat().st_dev != tmp_path.stat().st_dev
        yield memory / "kept"
    finally:
        shutil.rmtree(memory)


def dump(path: Path) -> list[str]:
    """Return the rows that an application reads there, with any log beside it."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(connection.iterdump())


def leave_a_wal(live: Path) -> None:
    """The application went on writing in WAL mode and was killed."""
    fence.lift(live)
    work = live.parent.parent / "work.db"
    shutil.copyfile(live, work)
    with closing(sqlite3.connect(work, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("INSERT INTO ping (note) VALUES ('later')")
        for suffix in ("", "-wal", "-shm"):
            shutil.copyfile(f"{work}{suffix}", f"{live}{suffix}")
    assert Path(f"{live}-wal").stat().st_size > 0


def leave_a_hot_journal(live: Path) -> None:
    """The application was killed in the middle of a large transaction, after one that was committed."""
    fence.lift(live)
    work = live.parent.parent / "work.db"
    shutil.copyfile(live, work)
    with closing(sqlite3.connect(work, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = delete")
        connection.execute("INSERT INTO ping (note) VALUES ('later')")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE ping SET note = hex(randomblob(200)) WHERE id <= 100")
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{work}{suffix}", f"{live}{suffix}")
    assert Path(f"{live}-journal").read_bytes()[:4] == bytes.fromhex("d9d505f9")


def stay_fenced(live: Path) -> None:
    """Nothing happened to the source since the backup."""
    assert fence.status(live).intact


def files_of(folder: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file() and item.name != ".lock"}


def attributes(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@pytest.mark.parametrize("live", ["delete", "wal"], indirect=True)
@pytest.mark.parametrize("kept", ["same device", "other device"], indirect=True)
@pytest.mark.parametrize("happening", [stay_fenced, leave_a_wal, leave_a_hot_journal])
def test_the_restored_database_is_the_backup_and_what_was_found_is_kept(
    live: Path, manifest: Manifest, kept: Path, happening: Callable[[Path], None]
) -> None:
    happening(live)
    found = files_of(live.parent)
    result = restore.restore(live, manifest, kept, give_up_rows=None if happening is stay_fenced else 1)
    assert files_of(live.parent) == {live.name: manifest.file.read_bytes()}
    assert (result.file, result.sha256, result.copy, result.already) == (live, manifest.sha256, manifest.file, False)
    assert (result.stays, result.found and result.found.differences.beyond) == (False, int(happening is not stay_fenced))
    assert digest(live) == manifest.sha256
    assert attributes(live) == (0o660, os.getuid(), os.getgid())
    assert {path.name: path.read_bytes() for path in result.kept} == found
    assert {check.outcome for check in result.checks} == {"passed"}
    shutil.copyfile(manifest.file, expected := live.parent.parent / "expected.db")
    assert dump(live) == dump(expected)
    with closing(sqlite3.connect(live, isolation_level=None)) as application:
        application.execute("INSERT INTO ping (note) VALUES ('after the rollback')")
        assert application.execute("SELECT count(*) FROM ping").fetchone() == (101,)
    if happening is not stay_fenced:
        assert any("'later'" in line for line in dump(kept / live.name)), "the kept files are a database with the later data"


@pytest.mark.parametrize(
    ("live", "happening", "kept"),
    [("wal", leave_a_wal, "same device"), ("delete", leave_a_hot_journal, "other device")],
    indirect=["live", "kept"],
)
def test_killed_at_any_step_the_next_attempt_finishes(
    live: Path, manifest: Manifest, kept: Path, happening: Callable[[Path], None], tmp_path: Path
) -> None:
    note = fence_note.note_path(live).read_bytes()
    happening(live)
    fence_note.note_path(live).write_bytes(note)
    found = files_of(live.parent)
    pristine = tmp_path / "pristine"
    shutil.copytree(live.parent, pristine)

    def begin() -> None:
        shutil.rmtree(live.parent)
        shutil.copytree(pristine, live.parent)
        if kept.exists():
            shutil.rmtree(kept)

    seen = set()
    for step in kill_at_every_step(begin, lambda: restore.restore(live, manifest, kept, give_up_rows=1), after=False):
        there = {name: data for name, data in files_of(live.parent).items() if not name.startswith(".")}
        if live.name not in there:
            seen.add("no database")
        elif there[live.name] == found[live.name]:
            seen.add("as found")
            assert there == found, f"{step}: the found database lost one of its logs"
        else:
            seen.add("restored")
            assert there == {live.name: manifest.file.read_bytes()}, f"{step}: a log lies beside the restored database"
        result = restore.restore(live, manifest, kept, give_up_rows=1)
        assert files_of(live.parent) == {live.name: manifest.file.read_bytes()}, step
        assert attributes(live) == (0o660, os.getuid(), os.getgid()), step
        assert {path.name: path.read_bytes() for path in result.kept} == found, f"{step}: what was found is kept once"
    assert seen == {"no database", "as found", "restored"}


def test_restoring_twice_is_restoring_once(live: Path, manifest: Manifest, kept: Path) -> None:
    leave_a_wal(live)
    first = restore.restore(live, manifest, kept, give_up_rows=1)
    inode = live.stat().st_ino
    live.chmod(0o600)
    second = restore.restore(live, manifest, kept)
    assert (second.already, second.copy, second.kept) == (True, None, first.kept)
    assert (live.stat().st_ino, attributes(live)[0]) == (inode, 0o660)


def test_what_was_kept_before_is_not_overwritten(live: Path, manifest: Manifest, kept: Path) -> None:
    restore.restore(live, manifest, kept)
    for number in range(2, 4):
        with closing(sqlite3.connect(live)) as connection, connection:
            connection.execute("INSERT INTO ping (note) VALUES (?)", (f"after rollback {number}",))
        result = restore.restore(live, manifest, kept, give_up_rows=1)
        assert result.kept[-1] == kept / str(number) / live.name
        assert f"after rollback {number}" in dump(kept / str(number) / live.name)[-2]
    assert fence.status(kept / live.name).raised


def test_with_a_damaged_first_copy_the_second_is_restored(live: Path, manifest: Manifest, kept: Path) -> None:
    data = bytearray(manifest.file.read_bytes())
    data[5000] ^= 1
    manifest.file.write_bytes(data)
    result = restore.restore(live, manifest, kept)
    assert result.copy == manifest.second_file
    assert digest(live) == manifest.sha256


def lose_the_backup(manifest: Manifest) -> None:
    assert manifest.second_file is not None
    manifest.file.unlink()
    os.truncate(manifest.second_file, 8192)


def test_without_an_intact_copy_the_fenced_source_stays(live: Path, manifest: Manifest, kept: Path) -> None:
    lose_the_backup(manifest)
    found = files_of(live.parent)
    result = restore.restore(live, manifest, kept)
    assert (result.stays, result.found and result.found.state) == (True, "fenced")
    assert files_of(live.parent) == found
    assert fence.status(live).intact


def test_without_room_for_a_copy_the_fenced_source_stays(live: Path, manifest: Manifest, kept: Path) -> None:
    found = files_of(live.parent)
    result = restore.restore(live, replace(manifest, bytes=1 << 43), kept)
    assert (result.stays, result.found and result.found.state) == (True, "fenced")
    assert files_of(live.parent) == found


def test_without_an_intact_copy_a_database_that_is_no_successor_is_not_touched(
    live: Path, manifest: Manifest, kept: Path
) -> None:
    lose_the_backup(manifest)
    fence.lift(live)
    with closing(sqlite3.connect(live)) as connection, connection:
        connection.execute("DELETE FROM ping WHERE id > 10")
    found = files_of(live.parent)
    with pytest.raises(Refused, match="no copy of the backup is intact") as error:
        restore.restore(live, manifest, kept)
    assert str(manifest.file) in str(error.value)
    assert str(manifest.second_file) in str(error.value)
    assert files_of(live.parent) == found
    assert files_of(kept) == {}


@pytest.mark.parametrize("live", ["delete", "wal"], indirect=True)
@pytest.mark.parametrize("happening", [leave_a_wal, leave_a_hot_journal])
@pytest.mark.parametrize("with_backup", [True, False])
def test_a_file_with_rows_beyond_the_backup_stays(
    live: Path, manifest: Manifest, kept: Path, happening: Callable[[Path], None], with_backup: bool
) -> None:
    happening(live)
    if not with_backup:
        lose_the_backup(manifest)
    found = files_of(live.parent)
    told: list[tuple[Found, Path | None]] = []
    result = restore.restore(live, manifest, kept, on_found=lambda file, folder: told.append((file, folder)))
    assert result.stays
    assert files_of(live.parent) == found
    assert files_of(kept) == {}
    assert [(file.state, file.differences.beyond, folder) for file, folder in told] == [("newer", 1, None)]
    assert "ping: 1 more than the backup" in told[0][0].holds
    assert any("'later'" in line for line in dump(live))


def test_a_file_written_in_spite_of_the_fence_stays(live: Path, manifest: Manifest, kept: Path) -> None:
    """A program whose SQLite ignores the write version would do that."""
    with closing(sqlite3.connect(live.parent.parent / "work.db")) as work:
        shutil.copyfile(manifest.file, live.parent.parent / "work.db")
        with work:
            work.execute("UPDATE ping SET note = 'changed' WHERE id = 7")
    content = bytearray((live.parent.parent / "work.db").read_bytes())
    content[18] = 3
    live.chmod(0o660)
    live.write_bytes(content)
    result = restore.restore(live, manifest, kept)
    assert result.stays and result.found is not None
    assert result.found.differences.as_dict() == {"ping": {"more": 0, "changed": 1, "missing": 0}}
    with pytest.raises(Refused, match="another number of rows") as error:
        restore.restore(live, manifest, kept, give_up_rows=2)
    assert "type 1 as rows to give up" in str(error.value)
    assert not restore.restore(live, manifest, kept, give_up_rows=1).stays
    assert digest(live) == manifest.sha256


def test_rows_in_the_log_of_a_restored_database_are_rows_beyond_the_backup(
    live: Path, manifest: Manifest, kept: Path
) -> None:
    """The file itself still has the backup's hash: what the application wrote lies in the log only."""
    restore.restore(live, manifest, kept)
    work = live.parent.parent / "work.db"
    shutil.copyfile(manifest.file, work)
    with closing(sqlite3.connect(work, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("INSERT INTO ping (note) VALUES ('later')")
        for suffix in ("", "-wal", "-shm"):
            shutil.copyfile(f"{work}{suffix}", f"{live}{suffix}")
    result = restore.restore(live, manifest, kept)
    assert result.stays
    assert any("'later'" in line for line in dump(live))


def test_a_lifted_fence_without_new_rows_is_no_reason_to_stay(live: Path, manifest: Manifest, kept: Path) -> None:
    fence.lift(live)
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("VACUUM")
    result = restore.restore(live, manifest, kept)
    assert (result.stays, result.found and result.found.state) == (False, "equal")
    assert digest(live) == manifest.sha256


def make_a_new_database(live: Path, rows: int) -> None:
    """The application was started where its file was missing, and made a new one."""
    for path in (live, fence_note.note_path(live)):
        path.unlink()
    with closing(sqlite3.connect(live)) as connection, connection:
        connection.execute("CREATE TABLE ping (id INTEGER PRIMARY KEY, note TEXT)")
        connection.executemany("INSERT INTO ping (id, note) VALUES (?, 'new')", [(1000 + row,) for row in range(rows)])


def test_a_new_database_with_rows_needs_a_person(live: Path, manifest: Manifest, kept: Path) -> None:
    make_a_new_database(live, 3)
    found = files_of(live.parent)
    with pytest.raises(Refused, match="may hold rows beyond it") as error:
        restore.restore(live, manifest, kept)
    assert "3 more than the backup, 100 of the backup missing" in str(error.value)
    assert files_of(live.parent) == found
    restore.restore(live, manifest, kept, give_up_rows=3)
    assert digest(live) == manifest.sha256
    assert digest(kept / live.name) == hashlib.sha256(found[live.name]).hexdigest()


def test_a_new_database_without_rows_is_replaced(live: Path, manifest: Manifest, kept: Path) -> None:
    make_a_new_database(live, 0)
    assert not restore.restore(live, manifest, kept).stays
    assert digest(live) == manifest.sha256


@pytest.mark.parametrize("content", [b"", b"not a database", b"\0" * 8192])
def test_a_file_that_cannot_be_read_may_hold_rows_unless_it_is_empty(
    live: Path, manifest: Manifest, kept: Path, content: bytes
) -> None:
    live.chmod(0o660)
    live.write_bytes(content)
    if content:
        with pytest.raises(Refused, match="may hold rows beyond it"):
            restore.restore(live, manifest, kept)
        assert live.read_bytes() == content
    result = restore.restore(live, manifest, kept, give_up_rows=0 if content else None)
    assert (result.stays, result.found and result.found.state) == (False, "damaged")
    assert digest(live) == manifest.sha256
    assert (kept / live.name).read_bytes() == content


def test_a_damaged_file_with_rows_beyond_the_backup_needs_a_person(live: Path, manifest: Manifest, kept: Path) -> None:
    fence.lift(live)
    with closing(sqlite3.connect(live)) as connection, connection:
        connection.execute("CREATE INDEX by_note ON ping (note)")
        connection.execute("INSERT INTO ping (note) VALUES ('later')")
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'by_note'").fetchone()[0]
        page = connection.execute("PRAGMA page_size").fetchone()[0]
    with live.open("r+b") as file:
        file.seek((root - 1) * page + page - 40)
        file.write(b"\xff" * 30)
    with pytest.raises(Refused, match="cannot be used in its place") as error:
        restore.restore(live, manifest, kept)
    assert "damaged" in str(error.value) and "1 more than the backup" in str(error.value)
    restore.restore(live, manifest, kept, give_up_rows=1)
    assert digest(live) == manifest.sha256


def test_a_process_that_has_it_open_is_named(live: Path, manifest: Manifest, kept: Path) -> None:
    found = files_of(live.parent)
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM ping'); print(flush=True); input()"
    )
    rogue = subprocess.Popen(
        [sys.executable, "-c", script, str(live)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert rogue.stdout is not None
        rogue.stdout.readline()
        with pytest.raises(Refused, match=f"pid {rogue.pid} python"):
            restore.restore(live, manifest, kept)
    finally:
        rogue.communicate("\n")
    assert files_of(live.parent) == found
    restore.restore(live, manifest, kept)
    assert digest(live) == manifest.sha256


def test_a_database_that_vanished_comes_back(live: Path, manifest: Manifest, kept: Path) -> None:
    live.unlink()
    result = restore.restore(live, manifest, kept)
    assert attributes(live) == (0o660, os.getuid(), os.getgid())
    assert [path.name for path in result.kept] == [f"{live.name}.fence.json"]


def test_owner_and_group_come_from_before(tmp_path: Path, kept: Path) -> None:
    owner, group = (4242, 4343) if os.geteuid() == 0 else (os.geteuid(), os.getgroups()[-1])
    live = make(tmp_path / "app" / "ward_ops.db")
    os.chown(live, owner, group)
    fence.raise_fence(live, run_id=RUN)
    manifest = backup.take(live, tmp_path / "backups", None, run_id=RUN, plan="ward_ops")
    restore.restore(live, manifest, kept)
    assert attributes(live) == (0o660, owner, group)


def test_a_link_is_followed(live: Path, manifest: Manifest, kept: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to("app/ward_ops.db")
    result = restore.restore(link, manifest, kept)
    assert result.file == live
    assert link.is_symlink()
    assert digest(live) == manifest.sha256


def test_too_little_room_is_refused_before_anything_moves(live: Path, manifest: Manifest, kept: Path) -> None:
    fence.lift(live)
    found = files_of(live.parent)
    with pytest.raises(Refused, match="not enough free disk"):
        restore.restore(live, replace(manifest, bytes=1 << 43), kept)
    assert files_of(live.parent) == found


def test_restore_is_refused_when_open_files_cannot_be_checked(live: Path, manifest: Manifest, kept: Path) -> None:
    """Nor can a mount of a single file be replaced. Both are made in mount namespaces of their own."""
    script = f"""
import sys
from pathlib import Path
from include.cutover.errors import CannotCheck, Refused
from include.cutover.source import backup_manifest, restore
try:
    restore.restore(Path({str(live)!r}), backup_manifest.load(Path({str(manifest.path)!r})), Path({str(kept)!r}))
except (CannotCheck, Refused) as error:
    print(type(error).__name__, error)
"""

    def alone(command: str) -> str:
        unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
        done = subprocess.run(
            [*unshare, "sh", "-ec", f'{command}; exec "$0" -c "$1"', sys.executable, script],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    found = files_of(live.parent)
    assert alone(f"mount --bind '{live}' '{live}'").startswith(f"Refused {live}: the database is a mount of its own")
    assert alone("mount -t tmpfs none /proc").startswith("CannotCheck")
    assert files_of(live.parent) == found


# --- what the examination must not take for nothing ----------------------------------------------------------------------


def changed(live: Path, *statements: str) -> None:
    """Lift the fence and write, as an application that was started by itself does."""
    fence.lift(live)
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        connection.create_collation("own", lambda one, two: (one > two) - (one < two))
        connection.create_function("own", 1, lambda value: value, deterministic=True)
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(tmp_path / "app" / "ward_ops.db")


def taken(source: Path, tmp_path: Path, *statements: str) -> Manifest:
    """Return the backup of a source that has more in it."""
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    fence.raise_fence(source, run_id=RUN)
    return backup.take(source, tmp_path / "backups", None, run_id=RUN, plan="ward_ops")


WIDE = f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {', '.join(f'c{number}' for number in range(900))})"
HIDDEN = "CREATE TABLE hidden (rowid, _rowid_, oid)"


@pytest.mark.parametrize(
    ("made", "written"),
    [
        ((WIDE, "INSERT INTO wide (id, c1) VALUES (1, 2)"), ("UPDATE wide SET c899 = 5",)),
        ((HIDDEN, "INSERT INTO hidden VALUES (1, 2, 3)"), ("UPDATE hidden SET oid = 4",)),
        ((), ("CREATE INDEX by_own ON ping (note COLLATE own)", "INSERT INTO ping (note) VALUES ('later')")),
        ((), ("CREATE INDEX by_own ON ping (own(note))", "INSERT INTO ping (note) VALUES ('later')")),
        ((), ("ALTER TABLE ping ADD COLUMN more", "UPDATE ping SET more = id")),
        ((), ("ALTER TABLE ping RENAME COLUMN note TO words", "UPDATE ping SET words = 'x'")),
    ],
    ids=["many columns", "no name for the rowid", "own collation", "own function", "new column", "renamed column"],
)
def test_rows_are_found_whatever_the_table_is_like(
    source: Path, tmp_path: Path, made: tuple[str, ...], written: tuple[str, ...]
) -> None:
    manifest = taken(source, tmp_path, *made)
    changed(source, *written)
    result = restore.restore(source, manifest, tmp_path / "kept")
    assert result.stays and result.found is not None
    assert result.found.differences.beyond > 0, result.found.holds


def test_rows_beside_a_damaged_table_are_never_replaced_unasked(source: Path, tmp_path: Path) -> None:
    manifest = taken(
        source, tmp_path, "CREATE TABLE logs (id INTEGER PRIMARY KEY, text)", "INSERT INTO logs VALUES (1, 'x')"
    )
    changed(source, "INSERT INTO ping (note) VALUES ('later')")
    with closing(sqlite3.connect(source)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'logs'").fetchone()[0]
        page = connection.execute("PRAGMA page_size").fetchone()[0]
    with source.open("r+b") as file:
        file.seek((root - 1) * page)
        file.write(b"\xff" * page)
    with pytest.raises(Refused, match="may hold rows beyond it") as error:
        restore.restore(source, manifest, tmp_path / "kept")
    assert "ping: 1 more than the backup" in str(error.value) and "not counted: the table logs" in str(error.value)


@pytest.mark.parametrize("name", ["wal", "a", "journal.db-wal"])
def test_the_log_of_a_database_with_an_odd_name_is_examined_with_it(tmp_path: Path, name: str) -> None:
    live = make(tmp_path / "app" / name)
    manifest = taken(live, tmp_path)
    leave_a_wal(live)
    assert restore.restore(live, manifest, tmp_path / "kept").stays


def test_a_database_made_anew_with_the_same_seeds_is_no_successor(source: Path, tmp_path: Path) -> None:
    for number in range(20):
        with closing(sqlite3.connect(source)) as connection, connection:
            connection.execute("UPDATE ping SET note = ? WHERE id = 100", (f"of a long life {number}",))
    changes = fence_header.change_counter(source)
    manifest = taken(source, tmp_path)
    for path in (source, fence_note.note_path(source)):
        path.unlink()
    make(source)
    with pytest.raises(Refused, match="another database than the backup"):
        restore.restore(source, manifest, tmp_path / "kept", changes=changes)


def test_a_fence_of_another_run_is_left_alone(live: Path, manifest: Manifest, kept: Path) -> None:
    fence.lift(live)
    fence.raise_fence(live, run_id="another")
    with pytest.raises(Refused, match="another run"):
        restore.restore(live, manifest, kept)
    assert fence.status(live).run_id == "another"


def test_a_log_found_alone_does_not_join_an_earlier_kept_database(live: Path, manifest: Manifest, kept: Path) -> None:
    restore.restore(live, manifest, kept)
    live.unlink()
    Path(f"{live}-wal").write_bytes(b"of something else")
    restore.restore(live, manifest, kept)
    assert not (kept / f"{live.name}-wal").exists() and (kept / "2" / f"{live.name}-wal").exists()


def test_a_folder_in_the_place_of_the_database_is_named(live: Path, manifest: Manifest, kept: Path) -> None:
    for path in (live, fence_note.note_path(live)):
        path.unlink()
    live.mkdir()
    with pytest.raises(CannotCheck, match="where it is a folder, move it away"):
        restore.restore(live, manifest, kept)


def test_a_fence_that_was_raised_again_over_newer_rows_is_no_proof(live: Path, manifest: Manifest, kept: Path) -> None:
    changed(live, "INSERT INTO ping (note) VALUES ('later')")
    fence.raise_fence(live, run_id=RUN)
    assert restore.restore(live, manifest, kept).stays
