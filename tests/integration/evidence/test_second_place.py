"""The evidence's volume becomes read-only while the application is down: the way back goes on in the second place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.cutover.errors import CutoverError, StepFailed
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
        monkeypatch.setattr(second_place, "problem", lambda _first: "Read-only file system")
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
