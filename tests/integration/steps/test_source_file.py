"""Programs that write past the fence: each is found before the services start on the target, and its rows stay."""

from __future__ import annotations

import mmap
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from include.cutover.errors import Refused
from include.cutover.plan.file import load_plan
from include.cutover.source import backup, backup_manifest, fence
from include.cutover.steps import go_live, rollback, source_file
from include.cutover.steps.step import Caller, Step
from tests.support.ends import UNREACHABLE, FakeEnds
from tests.support.sqlite_clients import make_source

PLAN, RUN = "ward_ops", "one"
INSERT = "INSERT INTO device (name) VALUES ('late')"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "ward.db")


def step_of(source: Path, name: str) -> Step:
    plan = load_plan(PLAN).model_copy(update={"services": (), "smoke_tests": None, "configuration": None})
    return Step(PLAN, name, Caller(f"cutover_{PLAN}", RUN, "lead"), FakeEnds(source, UNREACHABLE), plan)


def fenced(source: Path) -> Step:
    """A step behind the fence and the backup."""
    step = step_of(source, "go_live.start_services")
    step.evidence.append("run.opened", run_id=RUN)
    source_file.record(step)
    fence.raise_fence(source, run_id=RUN)
    manifest = backup.take(source, source.parent / "backups", None, run_id=RUN, plan=PLAN)
    step.evidence.append("backup", **backup_manifest.facts(manifest))
    step.evidence.append("step.end", step="take_backup", outcome="passed")
    return step


def image(source: Path) -> bytes:
    """The file with one more row and no fence, as an engine that ignores the fence writes it."""
    copy = source.with_name("image.db")
    shutil.copyfile(source, copy)
    with copy.open("r+b") as file:
        file.seek(18)
        file.write(b"\1\1")
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute(INSERT)
    content = copy.read_bytes()
    copy.unlink()
    return content


def write_bytes(source: Path) -> None:
    """An engine that writes whole images, such as sql.js, or a copy with rsync --inplace."""
    source.chmod(0o644)
    source.write_bytes(image(source))


def write_pages_below_the_header(source: Path) -> None:
    """An engine that neither reads nor writes the header's versions."""
    source.chmod(0o644)
    new = image(source)
    with source.open("r+b") as file:
        os.pwrite(file.fileno(), new[20:24], 20)
        os.pwrite(file.fileno(), new[28:92], 28)
        os.pwrite(file.fileno(), new[100:], 100)


def write_mapped(source: Path) -> None:
    """The same through a shared mapping."""
    source.chmod(0o644)
    new = image(source)
    with source.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[100:] = new[100 : len(mapped)]


def replace(source: Path) -> None:
    """A job that puts another file in the place, such as rsync or a restore."""
    new = source.with_name("new.db")
    new.write_bytes(image(source))
    new.rename(source)


def break_the_fence(source: Path) -> None:
    source.chmod(0o644)
    with source.open("r+b") as file:
        file.seek(18)
        file.write(b"\1")
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute(INSERT)


PAST = [write_bytes, write_pages_below_the_header, write_mapped, replace, break_the_fence]


def names_in(source: Path) -> list[str]:
    with closing(sqlite3.connect(source)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM device ORDER BY id")]


@pytest.mark.parametrize("write", PAST, ids=lambda item: item.__name__)
def test_no_service_starts_on_the_target_and_the_rows_stay(source: Path, write: Callable[[Path], None]) -> None:
    step = fenced(source)
    write(source)
    with pytest.raises(Refused):
        go_live.start_services(step)
    assert step.evidence.last("services.started") is None
    report = rollback.restore_source(step_of(source, "rollback.restore_source"))
    assert "device: 1 more than the backup" in report.summary
    assert "late" in names_in(source)


@pytest.mark.parametrize("write", PAST, ids=lambda item: item.__name__)
def test_rows_written_after_the_start_fail_the_smoke_test_by_name(source: Path, write: Callable[[Path], None]) -> None:
    step = fenced(source)
    go_live.start_services(step)
    assert go_live.smoke_test_application(step).outcome == "passed"
    write(source)
    report = go_live.smoke_test_application(step)
    assert report.outcome == "failed"
    assert "device: 1 more than the backup" in report.failure


def test_a_fence_that_was_only_lifted_after_the_start_is_named_and_no_fault(source: Path) -> None:
    step = fenced(source)
    go_live.start_services(step)
    fence.lift(source)
    report = go_live.smoke_test_application(step)
    assert report.outcome == "passed"
    assert "although its fence is not as it was raised" in next(iter(report.checks)).found
    source.rename(source.with_name("away.db"))
    report = go_live.smoke_test_application(step)
    assert report.outcome == "passed" and "the file is no longer there" in report.warnings[0]


@contextmanager
def open_transaction(source: Path, how: str) -> Iterator[sqlite3.Connection]:
    """A program with locks that the fence cannot see, in the middle of a transaction."""
    with closing(sqlite3.connect(f"file:{source}?{how}", uri=True, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size=-8")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(INSERT)
        yield connection


@pytest.mark.parametrize("how", ["nolock=1", "vfs=unix-none", "vfs=unix-dotfile"])
def test_a_transaction_without_locks_across_the_fence_is_found(source: Path, how: str) -> None:
    """Its COMMIT fails, because SQLite took its journal for one of a killed writer; what it wrote damages the file."""
    with open_transaction(source, how) as connection:
        step = fenced(source)
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("COMMIT")
    with pytest.raises(Refused, match="the source is not as this run fenced it"):
        go_live.start_services(step)
    with pytest.raises(Refused, match=r"damaged: .*device: 1 more than the backup"):
        rollback.restore_source(step_of(source, "rollback.restore_source"))
    step.evidence.append("rollback.asked", by="lead", reason="never committed", holder="x", give_up_rows=1)
    rollback.restore_source(step_of(source, "rollback.restore_source"))
    assert names_in(source) == ["a", "b", "c"]
