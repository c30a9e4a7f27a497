"""The source's file under other names: hard links, mounts of the file and of its folder, and logs that lie there."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from include.cutover.errors import CannotCheck, Refused
from include.cutover.files import digest
from include.cutover.places import ROOT
from include.cutover.source import backup, cloning, fence, fence_note, holders, other_names
from tests.support.other_names import elsewhere, killed_writer, require_mounts
from tests.support.sqlite_clients import client, make_source

RUN = "manual__2025-10-11T08:00:00+00:00"
ROWS = 3
"""Rows of the table device in every source here."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return make_source(tmp_path / "data" / "ward.db", "wal")


@pytest.fixture
def alias(source: Path, tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "alias.db"
    path.hardlink_to(source)
    return path


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM device").fetchone()[0])


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def test_no_committed_row_is_lost_in_the_log_of_a_hard_link(source: Path, alias: Path, tmp_path: Path) -> None:
    killed_writer(alias)
    assert log_of(alias).stat().st_size > 0
    try:
        fence.raise_fence(source, run_id=RUN)
        made = backup.take(source, tmp_path / "backups", None, run_id=RUN, plan="ward_ops")
    except (Refused, CannotCheck):
        assert fence.status(source).run_id is None
        assert rows(alias) == ROWS + 50, "the rows are still there for the application's next start"
        return
    assert made.counts["device"] == ROWS + 50, "50 committed rows of a killed process were lost without a word"


@pytest.mark.parametrize("named", [False, True])
def test_fence_refuses_an_unnamed_hard_link_and_a_log_at_a_named_one(source: Path, alias: Path, named: bool) -> None:
    killed_writer(alias)
    before, log = source.read_bytes(), log_of(alias).read_bytes()
    with pytest.raises(Refused) as error:
        fence.raise_fence(source, run_id=RUN, others=[alias] if named else [])
    assert str(log_of(alias)) in error.value.found
    assert "wal_checkpoint(TRUNCATE)" in error.value.do
    assert ("2 hard links" in error.value.found) != named
    assert (source.read_bytes(), log_of(alias).read_bytes()) == (before, log)
    assert not fence_note.note_path(source).exists()


def test_after_the_advice_the_fence_rises_and_the_backup_has_every_row(source: Path, alias: Path, tmp_path: Path) -> None:
    killed_writer(alias)
    with closing(sqlite3.connect(alias)) as connection:  # the advice, by the library behind the command
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    state = fence.raise_fence(source, run_id=RUN, others=[alias])
    assert (state.intact, state.other_names) == (True, (alias,))
    made = backup.take(source, tmp_path / "backups", None, run_id=RUN, plan="ward_ops")
    assert made.counts["device"] == ROWS + 50
    with LateWriter(alias) as answer:
        assert answer == "attempt to write a readonly database"


class LateWriter:
    """The answer to a write through that name."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path)

    def __enter__(self) -> str:
        with pytest.raises(sqlite3.OperationalError) as error:
            self.connection.execute("INSERT INTO device (name) VALUES ('late')")
        return str(error.value)

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def test_hot_journal_under_another_name_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "ward.db")
    alias = tmp_path / "alias.db"
    alias.hardlink_to(source)
    killed_writer(alias, "delete")
    assert alias.with_name("alias.db-journal").exists()
    with pytest.raises(Refused) as error:
        fence.raise_fence(source, run_id=RUN, others=[alias])
    assert "alias.db-journal" in error.value.found and "schema_version" in error.value.do
    with pytest.raises(CannotCheck, match="log under another name"):
        cloning.clone(source, tmp_path / "clone.db", others=[alias])
    assert rows(alias) == ROWS  # SQLite rolls the killed transaction back, by that name
    assert fence.raise_fence(source, run_id=RUN, others=[alias]).intact


def test_journal_of_a_running_writer_is_waited_for(tmp_path: Path) -> None:
    source = make_source(tmp_path / "ward.db")
    alias = tmp_path / "alias.db"
    alias.hardlink_to(source)
    with client(alias) as writer:
        for statement in ("PRAGMA cache_size = 1", "BEGIN IMMEDIATE"):
            writer.ask(statement)
        for number in range(50):  # more than the cache holds: pages and journal are written before the commit
            assert writer.ask(f"INSERT INTO device (name) VALUES ('{number}' || hex(zeroblob(2000)))") == []
        names = other_names.find(source, [alias])
        assert other_names.logs(names) != []
        writer.ask("COMMIT")
        assert other_names.logs(names, seconds=10) == []
        cloning.clone(source, tmp_path / "clone.db", others=[alias])
    assert rows(tmp_path / "clone.db") == ROWS + 50


def test_clone_refuses_what_it_would_miss(source: Path, alias: Path, tmp_path: Path) -> None:
    to = tmp_path / "clone.db"
    cloning.clone(source, to)  # every name was found nearby, and none has a log
    assert rows(to) == ROWS
    killed_writer(alias)
    for others in ([], [alias]):
        with pytest.raises(CannotCheck) as error:
            cloning.sound_clone(source, to, others=others)
        assert str(log_of(alias)) in error.value.found
        with pytest.raises(CannotCheck), cloning.live_schema(source, tmp_path / "scratch", others=others):
            pass


def test_clone_refuses_a_hard_link_at_an_unknown_place(source: Path, tmp_path: Path) -> None:
    far = tmp_path / "a" / "b" / "c"
    far.mkdir(parents=True)
    (far / "alias.db").hardlink_to(source)
    with pytest.raises(CannotCheck) as error:
        cloning.clone(source, tmp_path / "clone.db")
    assert "2 hard links, and the place of 1 is not known" in error.value.found
    cloning.clone(source, tmp_path / "clone.db", others=[far / "alias.db"])


def test_log_that_appears_under_the_fence_breaks_it(source: Path, alias: Path) -> None:
    fence.raise_fence(source, run_id=RUN, others=[alias])
    assert fence.status(source).intact
    log_of(alias).write_bytes(b"x" * 32)
    state = fence.status(source, content=False)
    assert not state.intact
    assert state.findings == (f"{log_of(alias)} has content",)
    log_of(alias).unlink()
    assert fence.lift(source, run_id=RUN).intact
    with closing(sqlite3.connect(alias)) as connection, connection:
        connection.execute("INSERT INTO device (name) VALUES ('d')")


def test_hard_link_that_appears_under_the_fence_is_reported(source: Path, alias: Path, tmp_path: Path) -> None:
    fence.raise_fence(source, run_id=RUN, others=[alias])
    (tmp_path / "third.db").hardlink_to(source)
    state = fence.status(source)
    assert state.intact, "nothing can be written through it"
    assert state.findings == ("it has 3 hard links, 2 of them were known",)


def test_note_of_an_earlier_version_has_no_other_names(source: Path) -> None:
    fence.raise_fence(source, run_id=RUN)
    note = fence_note.note_path(source)
    data = json.loads(note.read_text())
    del data["other_names"]
    note.write_text(json.dumps(data))
    assert fence.status(source).intact


def test_named_paths_must_be_the_same_file(source: Path, alias: Path, tmp_path: Path) -> None:
    shutil.copy(source, tmp_path / "copy.db")
    found = other_names.check(source, [alias, tmp_path / "copy.db", tmp_path / "absent.db"])
    assert found.outcome == "failed"
    assert "copy.db: another file, " in found.found and "absent.db: No such file" in found.found
    assert other_names.check(source, [alias]).outcome == "passed"


def test_one_entry_of_a_folder_counts_once(source: Path, alias: Path, tmp_path: Path) -> None:
    (tmp_path / "third.db").hardlink_to(source)
    (tmp_path / "shortcut").symlink_to(alias.parent)
    names = other_names.find(source, [alias, tmp_path / "shortcut" / "alias.db", source])
    assert (names.named, names.unnamed, names.nearby) == ((alias,), 1, (tmp_path / "third.db",))


def test_symbolic_links_lead_to_the_same_side_files(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(source)
    (tmp_path / "folder").symlink_to(source.parent)
    for name in (tmp_path / "link.db", tmp_path / "folder" / "ward.db"):
        killed_writer(name, rows=0)
        with closing(sqlite3.connect(name)) as connection:
            connection.execute("SELECT count(*) FROM device").fetchone()
            assert log_of(source).exists()
            assert not log_of(tmp_path / "link.db").exists()
    assert other_names.check(source, []).outcome == "passed"


def test_holder_of_a_side_file_under_another_name_is_found(source: Path, alias: Path) -> None:
    log = log_of(alias)
    log.touch()
    with log.open("ab") as opened:
        assert holders.open_files(source) == []
        (found,) = holders.open_files(source, others=[alias])
        assert (found.pid, found.file, found.write) == (os.getpid(), log, True)
        log.unlink()
        (found,) = holders.open_files(source, others=[alias])
        assert found.file.name == "alias.db-wal (deleted)"
        assert opened.name == str(log)


def test_file_mount_in_another_namespace_is_found_with_its_log(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "container data"
    place.mkdir()
    (place / "app.db").touch()
    with elsewhere(source, place / "app.db") as pid:
        found = other_names.check(source, [])
        assert (found.outcome, found.found) == (
            "failed",
            f"the single file is mounted at {place}/app.db as pid {pid} sees it",
        )
        assert f"Mount the folder {source.parent}" in found.do
        with pytest.raises(Refused):
            fence.raise_fence(source, run_id=RUN)
        cloning.clone(source, tmp_path / "clone.db")  # its place can be reached, and has no log
        log_of(place / "app.db").write_bytes(b"x" * 64)
        with pytest.raises(CannotCheck) as error:
            cloning.clone(source, tmp_path / "clone.db")
        assert "app.db-wal holds 64 bytes" in error.value.found
    log_of(place / "app.db").unlink()
    assert other_names.check(source, []).outcome == "passed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_user_who_may_not_enter_a_namespace_finds_its_file_mounts_by_their_paths() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        source = make_source(folder / "ward.db")
        source.chmod(0o644)
        (folder / "app.db").touch()
        with elsewhere(source, folder / "app.db") as pid:
            code = (
                "import os, sys; from pathlib import Path; from include.cutover.source import other_names; os.setuid(65534);"
                "print(*other_names.find(Path(sys.argv[1])).mounts)"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, str(source)], capture_output=True, text=True, check=False, cwd=ROOT
            )
    assert done.stdout.strip() == f"{folder}/app.db as pid {pid} sees it", done.stderr


def test_file_mount_of_a_hard_link_is_found(source: Path, alias: Path, tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    with elsewhere(alias, tmp_path / "app.db"):
        names = other_names.find(source, [alias])
        assert [mount.path for mount in names.mounts] == [tmp_path / "app.db"]


def test_folder_mounts_are_harmless(source: Path, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    (tmp_path / "above").mkdir()
    with elsewhere(source.parent, tmp_path / "seen", tmp_path, tmp_path / "above"):
        assert other_names.check(source, []).outcome == "passed"
        assert fence.raise_fence(source, run_id=RUN).intact


CHROOTED = """
import os, subprocess, sys, time
source, folder, again = sys.argv[1:]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", folder, again], check=True)
subprocess.run(["mount", "--bind", source, f"{again}/app.db"], check=True)
ready, tell = os.pipe()
child = os.fork()
os.chroot(folder if child else again)
if child:
    os.close(tell)
    os.read(ready, 1)
    print(child, flush=True)
else:
    os.write(tell, b"x")
sys.stdin.read()
"""


def test_file_mount_below_another_root_in_one_namespace_is_found(source: Path, tmp_path: Path) -> None:
    """Two processes share a namespace and a root folder; only the second one's root is the mount with the file in it."""
    require_mounts()
    folder, again = tmp_path / "root", tmp_path / "again"
    for made in (folder, again):
        made.mkdir()
        (made / "app.db").touch()
    command = ["unshare", "-m", sys.executable, "-c", CHROOTED, str(source), str(folder), str(again)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    with process, process.stdin:
        child = int(process.stdout.readline())
        assert (folder.stat().st_ino, Path(f"/proc/{process.pid}/root").stat().st_ino) == (
            Path(f"/proc/{child}/root").stat().st_ino,
        ) * 2
        (mount,) = other_names.find(source).mounts
        assert (mount.path, mount.pid) == (Path("/app.db"), child)


OWN = """
import subprocess, sys
from pathlib import Path
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[2]], check=True)
from include.cutover.errors import CutoverError
from include.cutover.preflight.source import check_source_file
from include.cutover.source import cloning
for live, named in ((sys.argv[1], [sys.argv[2]]), (sys.argv[2], [])):
    checks = check_source_file(Path(live), [Path(item) for item in named])
    print(*sorted(check.name for check in checks if check.outcome == "failed"))
    try:
        cloning.clone(Path(live), Path(sys.argv[3]))
        print("cloned")
    except CutoverError as error:
        print(error.found)
"""


def test_file_mount_in_the_own_namespace_is_refused_before_the_window(source: Path, tmp_path: Path) -> None:
    require_mounts()
    place = tmp_path / "app.db"
    place.touch()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", OWN, str(source), str(place), str(tmp_path / "clone.db")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "source_other_names",
        "cloned",
        "source_replaceable",
        f"the single file is mounted at {place}",
    ], done.stderr


def test_digest_of_the_source_is_unchanged_by_every_check(source: Path, alias: Path) -> None:
    before = digest(source), sorted(os.listdir(source.parent)), sorted(os.listdir(alias.parent))  # noqa: PTH208
    other_names.check(source, [alias])
    other_names.require_known(source, [alias])
    assert before == (digest(source), sorted(os.listdir(source.parent)), sorted(os.listdir(alias.parent)))  # noqa: PTH208
