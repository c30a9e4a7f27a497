"""The evidence's volume becomes read-only while the application is down: the way back goes on in the second place."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from include.cutover import files
from include.cutover.errors import CannotCheck, CutoverError, StepFailed
from include.cutover.evidence import claims, lease, second_place
from include.cutover.evidence.record import Evidence, bring_back, evidence_root, first_root
from include.cutover.places import ROOT
from include.cutover.runs.terms import Terms
from include.cutover.runs.verdict import has_passed
from include.cutover.steps import decide as decide_steps
from include.cutover.steps.running import run
from include.cutover.steps.step import Report, Step
from tests.integration.evidence.test_full_disk import says, step
from tests.support.full_disk import fill, small_disk
from tests.support.killing import kill_at_every_step

BACK = Terms(way_back=True, opens=True)


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 48) as place:
        monkeypatch.setenv("CUTOVER_EVIDENCE", str(place))
        monkeypatch.setenv("CUTOVER_EVIDENCE_SECOND", str(tmp_path / "second"))
        monkeypatch.setenv("WARD_OPS_BACKUPS", str(tmp_path / "backups"))
        monkeypatch.setenv("WARD_OPS_SECOND_COPY", str(tmp_path / "second_copy"))
        try:
            yield place
        finally:
            remount(place, "rw")


def remount(place: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(place)], check=True)


def in_flight(tmp_path: Path) -> Evidence:
    """A run that stopped the services."""
    evidence = Evidence.of("ward_ops", "run")
    evidence.append("run.opened", run_id="run", plan="ward_ops")
    lease.acquire("ward_ops", "run", "cutover_ward_ops/run")
    assert run(step(tmp_path, "stop_services"), says("done"), Terms(opens=True)).outcome == "passed"
    return evidence


def test_a_step_forward_names_the_volume_and_the_way_back_goes_on_elsewhere(volume: Path, tmp_path: Path) -> None:
    in_flight(tmp_path).append("step.begin", step="copy.users")
    remount(volume, "ro")
    with pytest.raises(CutoverError, match=str(volume)) as caught:
        run(step(tmp_path, "copy.users"), says("again"), Terms(opens=True))
    assert "Read-only file system" in str(caught.value)
    assert evidence_root() == volume, "a step forward moves nothing"

    decided = run(step(tmp_path, "decide"), decide_steps.decide, BACK, {"at": "decide"})
    assert decided.figures["outcome"] == "release"
    assert any("copy.users began and never ended" in why for why in decided.figures["why"])
    assert run(step(tmp_path, "release.lift_fence"), says("done"), BACK).outcome == "passed"

    evidence = Evidence.of("ward_ops", "run")
    assert evidence.folder.is_relative_to(tmp_path / "second")
    moved = evidence.last("evidence.moved")
    assert moved is not None and moved["reason"] == "Read-only file system"
    assert has_passed(evidence.events(), "stop_services") and has_passed(evidence.events(), "release.lift_fence")
    assert lease.holds("ward_ops", "run", "cutover_ward_ops/run")


@pytest.mark.parametrize("spoilt", ["events", "folder"])
def test_an_old_run_that_cannot_be_read_stays_behind_and_is_named(
    volume: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    old = Evidence.of("ward_ops", "old")
    old.append("run.opened", run_id="old", plan="ward_ops")
    old.append("sealed", outcome="live", summary="")
    in_flight(tmp_path)
    broken = old.folder if spoilt == "folder" else old.folder / "events.jsonl"

    # Root reads everything: the disk's error is made where Python asks the kernel.
    def unreadable(call: Any) -> Any:
        def ask(path: Any, *more: Any, **named: Any) -> Any:
            if isinstance(path, str | os.PathLike) and Path(path) == broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return call(path, *more, **named)

        return ask

    monkeypatch.setattr(os, "scandir", unreadable(os.scandir))
    monkeypatch.setattr(io, "open", unreadable(io.open))
    remount(volume, "ro")
    assert run(step(tmp_path, "release.lift_fence"), says("done"), BACK).outcome == "passed"
    assert f"{old.folder} cannot be read (Input/output error) and stays in the first place" in caplog.text
    assert has_passed(Evidence.of("ward_ops", "run").events(), "stop_services")
    assert not Evidence.of("ward_ops", "old").exists


def test_the_evidence_returns_when_the_volume_does_and_no_run_is_open(volume: Path, tmp_path: Path) -> None:
    in_flight(tmp_path)
    remount(volume, "ro")
    run(step(tmp_path, "release.lift_fence"), says("done"), BACK)
    assert bring_back() == "" and evidence_root() != volume, "it is still read-only"
    remount(volume, "rw")
    assert bring_back() == "" and evidence_root() != volume, "the run is still open"
    Evidence.of("ward_ops", "run").append("sealed", outcome="released", summary="")
    written = Evidence.of("ward_ops", "run").events()
    run(step(tmp_path, "open_run", "two"), says("opened"), Terms(opens=True))
    assert evidence_root() == volume
    assert Evidence.of("ward_ops", "run").events() == written
    assert not list(volume.rglob("*.before-*"))
    lease.take_over("ward_ops", "two", "cutover_ward_ops/two")


def test_lines_that_a_forgotten_process_added_to_the_first_place_are_kept_beside(volume: Path, tmp_path: Path) -> None:
    evidence = in_flight(tmp_path)
    remount(volume, "ro")
    run(step(tmp_path, "release.lift_fence"), says("done"), BACK)
    remount(volume, "rw")
    evidence.append("step.end", step="copy.users", outcome="passed")  # its object knows the first place only
    Evidence.of("ward_ops", "run").append("sealed", outcome="released", summary="")
    assert bring_back() != ""
    again = Evidence.of("ward_ops", "run")
    assert again.sealed is not None and not has_passed(again.events(), "copy.users")
    (beside,) = again.folder.glob("events.jsonl.before-*")
    assert "copy.users" in beside.read_text()


def test_a_full_volume_without_a_reserve_is_left_too(volume: Path, tmp_path: Path) -> None:
    in_flight(tmp_path)
    (volume / "ward_ops" / ".reserve").unlink()
    fill(volume)
    run(step(tmp_path, "release.lift_fence"), says("done"), BACK)
    assert evidence_root() != volume
    assert has_passed(Evidence.of("ward_ops", "run").events(), "release.lift_fence")


def test_a_forgotten_step_still_excludes_the_way_back(volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim is a kernel lock on a file of the first place, which can be locked without writing."""
    in_flight(tmp_path)
    script = (
        "import time; from include.cutover.evidence import claims\n"
        "with claims.claim('ward_ops', 'run', 'copy.users'): print('held', flush=True); time.sleep(600)"
    )
    forgotten = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert forgotten.stdout is not None and forgotten.stdout.readline() == "held\n"
        # With a file open for writing, a remount would be refused; a disk error is not.
        monkeypatch.setattr(second_place, "problem", lambda _first, _run=None: "Read-only file system")
        monkeypatch.setattr(claims, "PATIENCE_SECONDS", 1.0)
        ended: list[int | None] = []

        def body(_: Step) -> Report:
            ended.append(forgotten.poll())
            return Report("done")

        assert run(step(tmp_path, "release.lift_fence"), body, Terms(way_back=True)).outcome == "passed"
        assert evidence_root() != volume
        assert ended == [-signal.SIGKILL], "the forgotten attempt was ended first"
    finally:
        forgotten.kill()
        forgotten.communicate()


def test_a_claim_needs_no_writable_volume(volume: Path, tmp_path: Path) -> None:
    in_flight(tmp_path)
    with claims.claim("ward_ops", "run", "copy.users"):
        pass
    remount(volume, "ro")
    with claims.claim("ward_ops", "run", "copy.users", alone=True):
        script = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_SH | fcntl.LOCK_NB)"
        plan = volume / "ward_ops" / ".claims" / "plan"
        assert subprocess.run([sys.executable, "-c", script, plan], stderr=subprocess.DEVNULL, check=False).returncode != 0


def test_a_place_that_somebody_else_made_is_not_trusted(volume: Path, tmp_path: Path) -> None:
    in_flight(tmp_path)
    second = second_place.of(first_root())
    second.mkdir(parents=True)
    second.chmod(0o777)
    (second / second_place.MARKER).write_text(json.dumps({"first": str(volume)}))
    assert evidence_root() == volume
    remount(volume, "ro")
    with pytest.raises(StepFailed, match="belongs to somebody else"):
        run(step(tmp_path, "release.lift_fence"), says("done"), BACK)


def test_without_a_name_the_place_outlives_a_restart(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUTOVER_EVIDENCE_SECOND")
    assert second_place.of(first_root()).parent == Path("/var/tmp")
    assert second_place.of(Path("/other")) != second_place.of(first_root())


# --- without a disk of its own ---------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evidence root with the events of one run; it counts as one that cannot be written, until ``repair``."""
    tmp_path.chmod(0o755)
    for folder in list(tmp_path.parents)[:-1]:
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o011)  # for other users, who are played here
    first = tmp_path / "disk" / "evidence"
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(first))
    monkeypatch.setenv("CUTOVER_EVIDENCE_SECOND", str(tmp_path / "second"))
    Evidence.of("ward_ops", "run").append("run.opened", run_id="run", plan="ward_ops")
    monkeypatch.setattr(second_place, "problem", lambda _first, _run=None: "Input/output error")
    return first


def repair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_place, "problem", lambda _first, _run=None: "")


def test_a_link_to_the_root_has_the_same_second_place(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(broken)
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(link))
    assert second_place.move(link) != ""
    Evidence.of("ward_ops", "run").append("services.stopped")
    assert second_place.in_force(broken) == evidence_root() != link
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(broken))
    assert Evidence.of("ward_ops", "run").last("services.stopped") is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_it_stays_in_force_when_the_volume_is_not_mounted_after_a_reboot(broken: Path) -> None:
    os.chown(broken, 65534, -1)
    second_place.move(broken)
    moved = evidence_root()
    assert {path.lstat().st_uid for path in second_place.of(broken).rglob("*") if path.name != second_place.MARKER} == {
        65534
    }
    broken.rename(broken.with_name("unmounted"))
    broken.mkdir()
    assert evidence_root() == moved, "for root: only root and it can have made a folder there"
    os.seteuid(65534)
    try:
        assert evidence_root() == moved
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_folder_that_a_stranger_made_in_a_public_place_is_never_read(broken: Path, tmp_path: Path) -> None:
    second = second_place.of(broken)
    second.mkdir(parents=True, mode=0o755)
    second.parent.chmod(0o1777)
    (second / "evidence-x").mkdir()
    (second / second_place.MARKER).write_text(json.dumps({"first": str(broken), "folder": "evidence-x", "empty": []}))
    os.chown(second, 4242, -1)
    assert evidence_root() == broken
    with pytest.raises(StepFailed, match="belongs to somebody else"):
        second_place.move(broken)
    broken.rename(broken.with_name("unmounted"))
    with pytest.raises(CannotCheck, match="is empty; the folder belongs to user 4242"):
        evidence_root()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_move_by_root_that_is_killed_anywhere_leaves_the_owner_the_first_place_or_all_of_the_second(broken: Path) -> None:
    for path in (broken.parent, broken, *broken.rglob("*")):
        os.chown(path, 65534, -1)

    def begin() -> None:
        shutil.rmtree(second_place.of(broken).parent, ignore_errors=True)

    seen = set()
    for killed in kill_at_every_step(begin, lambda: second_place.move(broken)):
        os.seteuid(65534)
        try:
            root = evidence_root()
            seen.add(root == broken)
            assert len(Evidence.of("ward_ops", "run").events()) == 1, killed
            if root != broken:
                Evidence.of("ward_ops", "run").append("services.stopped")
        finally:
            os.seteuid(0)
    assert seen == {True, False}


def test_stale_events_of_an_earlier_move_never_come_into_force(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second_place.move(broken)
    repair(monkeypatch)
    assert second_place.bring_back(broken) != ""
    Evidence.of("ward_ops", "run").append("services.stopped")
    monkeypatch.setattr(second_place, "problem", lambda _first, _run=None: "Input/output error")
    real = files.copy

    def copy(path: Path, to: Path, *, mode: int = 0o600) -> str:
        if path.name == "events.jsonl":
            raise CannotCheck("the file cannot be read", where=str(path), found="Input/output error")
        return real(path, to, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(files, "copy", copy)
        with pytest.raises(StepFailed, match=r"events\.jsonl(.|\n)*Input/output error"):
            second_place.move(broken)
    assert evidence_root() == broken
    assert second_place.move(broken) != ""
    assert Evidence.of("ward_ops", "run").last("services.stopped") is not None
    assert not list(second_place.of(broken).glob(".partial-*"))


def test_a_folder_that_cannot_be_listed_or_has_no_events_is_not_moved(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("/run"):
            raise OSError(5, "Input/output error", str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(StepFailed, match="Input/output error"):
            second_place.move(broken)
    (broken / "ward_ops" / "run" / "events.jsonl").rename(broken / "aside")
    with pytest.raises(StepFailed, match="no events"):
        second_place.move(broken)
    assert evidence_root() == broken


def test_it_is_not_brought_back_below_a_mount_point_without_its_volume(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_place.move(broken)
    moved = evidence_root()
    broken.rename(broken.with_name("unmounted"))
    broken.mkdir()
    repair(monkeypatch)
    assert second_place.bring_back(broken) == "" and evidence_root() == moved
    assert list(broken.iterdir()) == []
    broken.rmdir()
    broken.with_name("unmounted").rename(broken)
    assert second_place.bring_back(broken) != "" and evidence_root() == broken


def test_a_mark_that_was_removed_and_a_longer_file_come_back_so(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (broken / "ward_ops" / "outbox").mkdir()
    (broken / "ward_ops" / "outbox" / "run").touch()
    (broken / "ward_ops" / "other").write_text("a" * 5_000_000)
    second_place.move(broken)
    (evidence_root() / "ward_ops" / "outbox" / "run").unlink()
    (evidence_root() / "ward_ops" / "other").write_text("a" * 5_000_000 + "b")
    (evidence_root() / "ward_ops" / "new").write_text("new")
    repair(monkeypatch)
    second_place.bring_back(broken)
    assert sorted(path.name for path in broken.rglob("*") if path.is_file()) == ["events.jsonl", "new", "other"]
    assert (broken / "ward_ops" / "other").stat().st_size == 5_000_001
