"""One run per source, also across plans and evidence folders."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from include.cutover.errors import CannotCheck, Refused
from include.cutover.evidence import source_lease
from include.cutover.evidence.record import Evidence


def evidence(tmp_path: Path, name: str, *, sealed: bool = False) -> Evidence:
    found = Evidence(tmp_path / name)
    found.folder.mkdir(exist_ok=True)
    if not found.exists:
        found.append("run.opened", run_id=name, plan="a")
    if sealed:
        found.append("sealed", outcome="live")
    return found


def acquire(tmp_path: Path, run: str, plan: str = "a") -> None:
    source_lease.acquire(tmp_path / "app.db", plan=plan, run_id=run, evidence=evidence(tmp_path, run))


def test_a_run_of_another_plan_is_refused_with_the_holders_name(tmp_path: Path) -> None:
    acquire(tmp_path, "first")
    acquire(tmp_path, "first")
    with pytest.raises(Refused, match=r"found first of the plan a, since .*Wait for its end"):
        acquire(tmp_path, "second", plan="b")
    held = source_lease.read(tmp_path / "app.db")
    assert held is not None and held.run_id == "first"


def test_another_name_of_the_file_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "app.db")
    acquire(tmp_path, "first")
    with pytest.raises(Refused):
        source_lease.acquire(tmp_path / "link.db", plan="b", run_id="second", evidence=evidence(tmp_path, "second"))


def test_only_the_holder_releases_the_source(tmp_path: Path) -> None:
    acquire(tmp_path, "first")
    source_lease.release(tmp_path / "app.db", "second")
    with pytest.raises(Refused):
        acquire(tmp_path, "second")
    source_lease.release(tmp_path / "app.db", "first")
    source_lease.release(tmp_path / "app.db", "first")
    acquire(tmp_path, "second")


def test_closed_run_does_not_hold_the_source(tmp_path: Path) -> None:
    acquire(tmp_path, "first")
    evidence(tmp_path, "first", sealed=True)
    acquire(tmp_path, "second")


def test_run_with_unreadable_evidence_still_holds_the_source(tmp_path: Path) -> None:
    acquire(tmp_path, "first")
    (tmp_path / "first" / "events.jsonl").write_text("{}\n")
    with pytest.raises(Refused, match=r"remove .*app\.db\.lease\.json"):
        acquire(tmp_path, "second")


def test_half_written_lease_is_not_a_lease(tmp_path: Path) -> None:
    source_lease.path(tmp_path / "app.db").write_text('{"run_id": "fir')
    acquire(tmp_path, "second")


def test_of_many_simultaneous_runs_one_gets_the_source(tmp_path: Path) -> None:
    names = [f"run{number}" for number in range(8)]
    for name in names:
        evidence(tmp_path, name)
    got: list[str] = []

    def attempt(name: str) -> None:
        try:
            acquire(tmp_path, name)
        except Refused:
            return
        got.append(name)

    threads = [threading.Thread(target=attempt, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = source_lease.read(tmp_path / "app.db")
    assert held is not None and got == [held.run_id]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="No such file or directory"):
        source_lease.acquire(tmp_path / "none" / "app.db", plan="a", run_id="x", evidence=evidence(tmp_path, "x"))
