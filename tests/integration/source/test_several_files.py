"""An application with several SQLite files: interrupted transactions over two of them, and the warning about the others."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from include.cutover.errors import CannotCheck
from include.cutover.source import backup, cloning, companions, fence, found_file, restore, schema, snapshots, super_journal
from tests.support.backups import RUN
from tests.support.sqlite_clients import client, make_source

INTERRUPTED = """
import os, sys, apsw
main, other, when = sys.argv[1:]
class Dying(apsw.VFS):
    def __init__(self):
        super().__init__("dying", "")
    def xDelete(self, name, sync):
        if "-mj" in name and when == "before":
            os._exit(0)
        super().xDelete(name, sync)
        if "-mj" in name:
            os._exit(0)
dying = Dying()
connection = apsw.Connection(main, vfs="dying")
connection.execute("ATTACH ? AS other", (other,))
connection.execute("BEGIN; UPDATE main.device SET note = 'new'; UPDATE other.device SET note = 'new'; COMMIT")
os._exit(1)
"""
OLD, NEW = [("one",), ("two",), (None,)], [("new",)] * 3


def interrupted(folder: Path, when: str) -> Path:
    """A transaction over two files whose program died just before or after the moment of its commit."""
    folder.mkdir()
    main, other = make_source(folder / "main.db"), make_source(folder / "other.db")
    subprocess.run([sys.executable, "-c", INTERRUPTED, str(main), str(other), when], check=True)
    assert super_journal.named_by(main) is not None
    return main


def notes(path: Path) -> list[tuple[str | None]]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute("SELECT note FROM device ORDER BY id").fetchall()


@pytest.mark.parametrize(("when", "content"), [("before", OLD), ("after", NEW)])
def test_an_interrupted_transaction_ends_as_the_super_journal_says(
    tmp_path: Path, when: str, content: list[tuple[str | None]]
) -> None:
    main = interrupted(tmp_path / "app", when)
    cloning.clone(main, tmp_path / "clone.db")
    assert notes(tmp_path / "clone.db") == content
    fence.raise_fence(main, run_id=RUN)
    manifest = backup.take(main, tmp_path / "backups", None, run_id=RUN, plan="p")
    assert notes(manifest.file) == content
    restore.restore(main, manifest, tmp_path / "kept")
    assert notes(main) == content
    assert notes(main.with_name("other.db")) == content, "the other file is recovered as well"


@pytest.mark.parametrize("original_stays", [True, False])
def test_from_another_folder_half_of_a_transaction_is_never_taken_for_whole(tmp_path: Path, original_stays: bool) -> None:
    main = interrupted(tmp_path / "app", "before")
    copied = shutil.copytree(main.parent, tmp_path / "copy") / "main.db"
    if original_stays:
        assert notes(main) == notes(main.with_name("other.db")) == OLD  # recovered, and the super-journal is gone
    else:
        shutil.rmtree(main.parent)
    before = {item.name: item.read_bytes() for item in copied.parent.iterdir()}
    with pytest.raises(CannotCheck, match="transaction over several database files was interrupted"):
        cloning.clone(copied, tmp_path / "clone.db")
    with pytest.raises(CannotCheck, match=r"main\.db-journal belongs to a transaction over several files and names"):
        fence.raise_fence(copied, run_id=RUN)
    assert {item.name: item.read_bytes() for item in copied.parent.iterdir()} == before


def test_a_way_back_takes_such_a_file_for_damaged(tmp_path: Path) -> None:
    whole = make_source(tmp_path / "main.db")
    manifest = backup.take(whole, tmp_path / "backups", None, run_id=RUN, plan="p")
    moved = interrupted(tmp_path / "app", "before").parent.rename(tmp_path / "moved") / "main.db"
    found = found_file.examine(moved, manifest, manifest.file)
    assert found.state == "damaged" and not found.replaceable and "over several files" in found.faults


def test_the_other_files_of_the_application_are_named(tmp_path: Path) -> None:
    source, other = make_source(tmp_path / "main.db"), make_source(tmp_path / "settings.db")
    assert companions.warnings(source) == []
    with client(source) as application:
        assert companions.warnings(source) == []
        application.ask(f"ATTACH '{other}' AS settings;; SELECT count(*) FROM settings.device")
        (warning,) = companions.warnings(source)
        assert "not part of this cutover; their rows stay there" in warning
        assert f"{other} (pid {application.process.pid} python" in warning and "main.db" not in warning
    assert companions.warnings(source) == []


def test_views_and_triggers_on_tables_of_an_attached_file_do_no_harm(tmp_path: Path) -> None:
    source = make_source(tmp_path / "main.db")
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE VIEW shown AS SELECT * FROM settings")
        connection.execute("CREATE VIEW counted AS SELECT application_s_own(name) FROM device JOIN settings")
        connection.execute("CREATE TRIGGER t AFTER UPDATE ON device BEGIN INSERT INTO audit SELECT 1 FROM settings; END")
    cloning.sound_clone(source, tmp_path / "clone.db")
    with snapshots.snapshot(tmp_path / "clone.db") as connection:
        assert schema.counts(connection, schema.tables(connection)) == {"device": 3, "doomed": 1}
        assert {"view shown", "view counted", "trigger t"} <= set(schema.schema_objects(connection))
    fence.raise_fence(source, run_id=RUN)
    manifest = backup.take(source, tmp_path / "backups", None, run_id=RUN, plan="p")
    restored = restore.restore(source, manifest, tmp_path / "kept").found
    assert restored is not None and restored.state == "fenced"
