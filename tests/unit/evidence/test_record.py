"""The evidence: durable, chained, and honest about what is torn or changed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from include.cutover.errors import CannotCheck, Refused
from include.cutover.evidence.record import EVENTS, Evidence, runs, runs_below
from include.cutover.files import slug, write_atomically
from include.cutover.runs.verdict import has_passed


@pytest.fixture
def evidence() -> Evidence:
    return Evidence.of("plan", "manual__2026-11-23T12:00:00+00:00")


def test_events_come_back_in_order(evidence: Evidence) -> None:
    evidence.append("run.opened", run_id="a")
    evidence.append("step.begin", step="copy.users")
    evidence.append("step.end", step="copy.users", outcome="passed")
    assert [event["event"] for event in evidence.events()] == ["run.opened", "step.begin", "step.end"]
    assert has_passed(evidence.events(), "copy.users")
    evidence.append("step.begin", step="copy.users")
    assert not has_passed(evidence.events(), "copy.users"), "a step that began again has not passed"


def test_a_changed_line_is_found(evidence: Evidence) -> None:
    for number in range(3):
        evidence.append("step.end", step=f"s{number}", outcome="failed")
    path = evidence.folder / EVENTS
    path.write_text(path.read_text().replace('"failed"', '"passed"', 1))
    with pytest.raises(CannotCheck, match=r"events\.jsonl line 2"):
        evidence.events()


def test_a_line_taken_out_is_found(evidence: Evidence) -> None:
    for number in range(3):
        evidence.append("step.end", step=f"s{number}")
    path = evidence.folder / EVENTS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(CannotCheck, match="chain"):
        evidence.events()


def test_a_torn_last_line_is_set_aside(evidence: Evidence) -> None:
    evidence.append("run.opened")
    with (evidence.folder / EVENTS).open("ab") as file:
        file.write(b'{"seq":1,"event":"step.e')
    assert [event["event"] for event in evidence.events()] == ["run.opened"]
    evidence.append("step.begin", step="x")
    assert [event["event"] for event in evidence.events()] == ["run.opened", "step.begin"]
    assert len(list(evidence.folder.glob("torn-*"))) == 1


def _append_many(folder: Path, name: str) -> None:
    for number in range(100_000):
        Evidence(folder).append("step.end", step=name, number=number)


def test_writers_side_by_side_and_killed_keep_the_chain(evidence: Evidence) -> None:
    evidence.append("run.opened")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(evidence.folder, f"w{number}")) for number in range(3)]
    for writer in writers:
        writer.start()
    time.sleep(0.5)
    for writer in writers:
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
    evidence.append("sealed", outcome="live")
    events = evidence.events()
    assert events[-1]["event"] == "sealed"
    assert len(events) > 10


def test_missing_evidence_is_an_error(evidence: Evidence) -> None:
    with pytest.raises(CannotCheck, match="no evidence"):
        evidence.events()


def test_rollback_reopens_a_sealed_run(evidence: Evidence) -> None:
    evidence.append("run.opened")
    assert evidence.sealed is None
    evidence.append("sealed", outcome="live")
    sealed = evidence.sealed
    assert sealed is not None and sealed["outcome"] == "live"
    evidence.append("reopened", by="lead")
    assert evidence.sealed is None


def test_file_outside_the_folder_is_refused(evidence: Evidence) -> None:
    evidence.append("run.opened")
    with pytest.raises(Refused):
        evidence.save("../outside.txt", "x")
    path = evidence.save("reports/a.txt", "ა")
    assert path.read_text(encoding="utf-8") == "ა"
    assert evidence.events()[-1]["name"] == "reports/a.txt"


def test_run_ids_become_folder_names() -> None:
    assert slug("manual__2026-11-23T12:00:00+00:00") == "manual__2026-11-23T12_00_00_00_00"
    assert "/" not in slug("../../etc/passwd") and not slug("..").startswith(".")


def test_runs_are_listed_oldest_first() -> None:
    for name in ("b", "a"):
        Evidence.of("plan", name).append("run.opened")
    assert [run.folder.name for run in runs("plan")] == ["b", "a"]


def test_an_atomic_write_leaves_no_temporary_file_and_no_wider_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret.env"
    write_atomically(path, b"A=1\n", 0o600)
    assert path.read_bytes() == b"A=1\n" and path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir() if item.name != "evidence"] == ["secret.env"]


def test_events_are_one_json_line_each(evidence: Evidence) -> None:
    evidence.append("step.end", step="x", summary="two\nlines\tand ქართული")
    (line,) = (evidence.folder / EVENTS).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["summary"] == "two\nlines\tand ქართული"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_evidence_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    evidence = Evidence(tmp_path / "plan" / "run")
    evidence.append("run.opened")
    evidence.folder.chmod(0o700)
    actions: list[Callable[[], object]] = [evidence.events, lambda: evidence.exists, lambda: runs_below(tmp_path / "plan")]
    with as_nobody():
        for action in actions:
            with pytest.raises(CannotCheck, match="Permission denied") as caught:
                action()
            assert str(tmp_path / "plan") in caught.value.where and "owner" in caught.value.do


def test_evidence_on_a_broken_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence(tmp_path / "plan" / "run")
    evidence.append("run.opened")

    def broken(_: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(CannotCheck, match="Input/output error"):
        evidence.events()


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
