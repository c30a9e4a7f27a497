"""The doctor's check of the evidence's folder: real files, rights and owners."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from include.cutover.checks import Check
from include.cutover.evidence.record import Evidence
from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan
from include.cutover.preflight.doctor_evidence import evidence_check
from include.cutover.preflight.doctor_site import Site
from tests.support.sqlite_files import NOBODY

PLAN = parse_plan((ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8"), "ward_ops.yaml", {})


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root of the evidence, with one run, in a folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="doctor-"))
    folder.chmod(0o755)
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(folder / "evidence"))
    monkeypatch.setenv("CUTOVER_EVIDENCE_SECOND", str(folder / "second"))
    Evidence.of("ward_ops", "run").append("run.opened", run_id="run", plan="ward_ops")
    yield folder / "evidence"
    for closed in [path for path in folder.rglob("*") if path.is_dir()]:
        closed.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Act as a user without rights where root runs this."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def look() -> Check:
    return evidence_check(Site(PLAN, None, None))


def test_its_owner_can_write_and_nothing_is_left_there(evidence: Path) -> None:
    before = sorted(evidence.rglob("*"))
    assert look().outcome == "passed"
    assert sorted(evidence.rglob("*")) == before


def test_a_missing_folder_is_judged_by_the_one_above_and_is_not_made(evidence: Path) -> None:
    shutil.rmtree(evidence)
    assert look().outcome == "passed" and not evidence.exists()


def test_a_folder_that_its_user_cannot_write_is_red(evidence: Path) -> None:
    evidence.chmod(0o555)
    for folder in evidence.rglob("*"):
        folder.chmod(0o555)
    with ordinary_user():
        found = look()
    assert found.outcome == "failed" and str(evidence) in found.found + found.where and "chown" in found.do


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_root_cannot_speak_for_the_owner(evidence: Path) -> None:
    for path in (evidence, *evidence.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    found = look()
    assert found.outcome == "unknown" and "user 0 (root)" in found.found and f"user {NOBODY}" in found.found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_one_folder_that_root_left_in_the_plans_evidence_is_red_for_the_tasks_user(evidence: Path) -> None:
    os.chown(evidence, NOBODY, NOBODY)
    with ordinary_user():
        found = look()
    assert found.outcome == "failed" and str(evidence / "ward_ops") in found.found, found.found
