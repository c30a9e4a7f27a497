"""Backups of real databases: fenced and live, killed at every step, damaged afterwards, and tried by a restore."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from include.cutover.checks import worst
from include.cutover.errors import CannotCheck, CutoverError, Refused
from include.cutover.source import backup_copies, backup_manifest, fence, snapshots, trial_restore
from include.cutover.source import schema as source_schema
from tests.support.backups import RUN, dump, make_live, take, visible
from tests.support.killing import kill_at_every_step


def hidden(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.name.startswith(".") and not item.name.endswith(".lock"))


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
@pytest.mark.parametrize("fenced", [False, True])
def test_a_backup_is_the_database_without_the_fence(
    tmp_path: Path, places: tuple[Path, Path], journal_mode: str, fenced: bool
) -> None:
    live = make_live(tmp_path / "app" / "ward_ops.db", journal_mode)
    header = live.read_bytes()[18:20]
    if fenced:
        fence.raise_fence(live, run_id=RUN)
    before, listing = live.read_bytes(), sorted(live.parent.iterdir())
    manifest = take(live, places)
    assert live.read_bytes() == before
    assert sorted(live.parent.iterdir()) == listing
    assert re.fullmatch(r"ward_ops\.db\.[0-9]{8}-[0-9]{4}\.bak", manifest.file.name)
    assert manifest.second_file == places[1] / manifest.file.name
    for path in manifest.copies:
        assert dump(path) == dump(live)
        assert path.read_bytes()[18:20] == header
        assert (path.stat().st_size, stat.S_IMODE(path.stat().st_mode)) == (manifest.bytes, 0o600)
        assert visible(path.parent) == [path.name, f"{path.name}.manifest.json"]
        assert hidden(path.parent) == []
        assert backup_manifest.load(path.with_name(f"{path.name}.manifest.json")) == manifest
    assert manifest.counts == {"device": 2, "empty": 0, 'odd "name': 3, "pair": 3}
    assert manifest.sqlite_sequence == {"device": 3}
    assert (manifest.mode, manifest.uid, manifest.fenced) == (0o660, os.getuid(), fenced)
    with snapshots.snapshot(manifest.file) as connection:
        assert source_schema.schema_fingerprint(connection) == manifest.schema_fingerprint
    assert worst(backup_copies.verify(manifest)) == "passed"
    assert len(backup_copies.verify(manifest)) == 8


def test_the_wal_is_part_of_the_backup(tmp_path: Path, places: tuple[Path, Path]) -> None:
    live = make_live(tmp_path / "app" / "ward_ops.db", "wal")
    with closing(sqlite3.connect(live, isolation_level=None)) as application:
        application.execute("PRAGMA wal_autocheckpoint = 0")
        application.execute("INSERT INTO empty VALUES ('only in the WAL')")
        manifest = take(live, places)
        application.execute("INSERT INTO empty VALUES ('after the backup')")
    assert manifest.counts["empty"] == 1
    assert any("only in the WAL" in line for line in dump(manifest.file))
    assert "was not fenced" in " ".join(manifest.warnings)


def test_a_second_call_of_the_run_returns_the_first_backup(live: Path, places: tuple[Path, Path]) -> None:
    first = take(live, places)
    with closing(sqlite3.connect(live)) as connection, connection:
        connection.execute("INSERT INTO empty VALUES (1)")
    assert take(live, places) == first
    assert visible(places[0]) == [first.file.name, first.path.name]
    other = take(live, places, run_id="other")
    assert other.file != first.file
    assert other.counts["empty"] == 1
    assert worst(backup_copies.verify(first)) == "passed"


def test_a_fence_that_was_raised_again_takes_another_backup(live: Path, places: tuple[Path, Path]) -> None:
    fence.raise_fence(live, run_id=RUN)
    first = take(live, places)
    assert first.fenced and first.fenced_sha256 == fence.status(live).sha256
    assert take(live, places) == first == backup_manifest.load(first.path)
    fence.lift(live, run_id=RUN)
    with closing(sqlite3.connect(live)) as connection, connection:
        connection.execute("INSERT INTO empty VALUES ('since the backup')")
    assert take(live, places) == first, "no fence is there to compare with"
    fence.raise_fence(live, run_id=RUN)
    second = take(live, places)
    assert second.file != first.file and second.counts["empty"] == 1
    assert second.fenced_sha256 == fence.status(live).sha256
    assert take(live, places) == second
    assert worst(backup_copies.verify(first)) == "passed"


def test_a_backup_from_before_the_fence_is_not_the_fenced_one(live: Path, places: tuple[Path, Path]) -> None:
    first = take(live, places)
    assert first.fenced_sha256 is None and "fenced_sha256" not in first.path.read_text()
    fence.raise_fence(live, run_id=RUN)
    assert take(live, places).fenced


def test_a_name_that_is_taken_gets_the_run_behind_it(live: Path, places: tuple[Path, Path]) -> None:
    names = {take(live, places, run_id=f"run {number}").file.name for number in range(4)}
    assert len(names) == 4
    assert all(re.fullmatch(r"ward_ops\.db\.[0-9]{8}-[0-9]{4}(-run_[0-9])?\.bak", name) for name in names)


def test_without_a_second_place(live: Path, places: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = take(live, (places[0], None))
    assert (manifest.second_file, manifest.copies) == (None, (manifest.file,))
    assert worst(backup_copies.verify(manifest)) == "passed"
    assert len(backup_copies.verify(manifest)) == 4
    assert worst(trial_restore.restore_test(manifest, tmp_path / "scratch")) == "passed"


def test_copies_on_one_disk_are_a_warning(live: Path, tmp_path: Path) -> None:
    memory = Path(f"/dev/shm/cutover-test-{os.getpid()}")
    assert memory.parent.stat().st_dev != live.stat().st_dev
    words = "on the same device: one broken disk takes both"
    try:
        for places, said in (
            ((tmp_path / "a", tmp_path / "b"), f"both copies of the backup lie {words}"),
            ((memory / "a", memory / "b"), f"both copies of the backup lie {words}"),
            ((tmp_path / "a", None), f"the backup and the source lie {words}"),
            ((tmp_path / "a", memory / "b"), ""),
            ((memory / "a", None), ""),
        ):
            manifest = take(live, places, run_id=str(places))
            assert manifest.same_device is bool(said)
            assert manifest.warnings[:-1] == ((said,) if said else ())
            assert backup_manifest.facts(manifest)["same_device"] is bool(said)
    finally:
        shutil.rmtree(memory)


def test_everything_is_durable_before_the_backup_counts(
    live: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is synced before it gets its name, and the folder after it; the first manifest's name is the last of all."""
    done: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def synced(descriptor: int) -> None:
        done.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        done.append(("name", f"{path} {target}"))
        return rename(path, target)

    def replaced(path: Path, target: Path) -> Path:
        done.append(("name", f"{path} {target}"))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    manifest = take(live, places)
    named = {what.split(" ")[1]: (number, what.split(" ")[0]) for number, (kind, what) in enumerate(done) if kind == "name"}
    for copy in manifest.copies:
        for path in (copy, copy.with_name(f"{copy.name}.manifest.json")):
            number, before = named[str(path)]
            # What was written under the name that it had before, or before that.
            earlier = {before} | {old for new, (_, old) in named.items() if new == before}
            assert any(kind == "sync" and what in earlier for kind, what in done[:number]), path
            assert ("sync", str(path.parent)) in done[number:], path
    last = max(number for number, _ in named.values())
    assert done[last][1].split(" ")[1] == str(manifest.path)


def test_both_places_must_differ(live: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="the same"):
        take(live, (tmp_path / "a", tmp_path / "a"))


def test_too_little_room_is_refused_before_anything_is_written(live: Path, places: tuple[Path, Path]) -> None:
    os.truncate(live, 1 << 43)  # sparse: no disk has that much
    with pytest.raises(Refused, match="not enough free disk") as error:
        take(live, places)
    assert str(places[0]) in str(error.value)
    assert f"expected {(1 << 43) + (1 << 20):,} bytes free" in str(error.value)
    assert hidden(places[0]) == visible(places[0]) == []


def in_little_room(action: Callable[[], object]) -> str:
    """The error of an action in a process whose files may not grow past a megabyte: what a full disk does, without one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            action()
        except CutoverError as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_a_disk_that_fills_up_leaves_nothing_behind(live: Path, places: tuple[Path, Path], tmp_path: Path) -> None:
    with closing(sqlite3.connect(live)) as connection, connection:
        connection.execute("INSERT INTO empty VALUES (zeroblob(3000000))")
    assert in_little_room(lambda: take(live, places)) != ""
    assert [(visible(place), hidden(place)) for place in places] == [([], []), ([], [])]
    manifest = take(live, places)
    assert worst(backup_copies.verify(manifest)) == "passed"
    scratch = tmp_path / "scratch"
    found = in_little_room(lambda: trial_restore.restore_test(manifest, scratch))
    assert found.startswith(f"StepFailed: {scratch}")
    assert "the disk is full" in found
    assert list(scratch.iterdir()) == []


def test_a_damaged_source_gives_no_backup(live: Path, places: tuple[Path, Path]) -> None:
    data = bytearray(live.read_bytes())
    for page in range(1, 6):
        data[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    live.write_bytes(data)
    with pytest.raises(CutoverError):
        take(live, places)
    assert hidden(places[0]) == visible(places[0]) == []


def test_a_missing_source_is_named(tmp_path: Path, places: tuple[Path, Path]) -> None:
    with pytest.raises(CannotCheck, match=r"none\.db"):
        take(tmp_path / "none.db", places)


def test_killed_at_any_step_the_next_attempt_finishes(live: Path, places: tuple[Path, Path]) -> None:
    fence.raise_fence(live, run_id=RUN)
    expected = dump(live)

    def begin() -> None:
        for place in places:
            for item in place.iterdir() if place.exists() else []:
                item.unlink()

    for step in kill_at_every_step(begin, lambda: take(live, places), after=False):
        manifests = [path for place in places if place.exists() for path in place.glob("*.manifest.json")]
        for path in manifests:
            assert worst(backup_copies.verify(backup_manifest.load(path))) == "passed", (
                f"{step}: a manifest without whole copies"
            )
        manifest = take(live, places)
        assert worst(backup_copies.verify(manifest)) == "passed", step
        assert dump(manifest.file) == expected, step
        for place in places:
            assert (len(visible(place)), hidden(place)) == (2, []), step
