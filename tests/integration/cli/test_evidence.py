"""The command ``evidence check``: intact evidence, damage, torn and missing events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.cutover.evidence.record import EVENTS, Evidence
from include.cutover.source import backup, backup_manifest

Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evidence(tmp_path: Path, database: Path) -> Evidence:
    """The evidence of a run with a backup in two places and a report."""
    found = Evidence(tmp_path / "evidence" / "p" / "one")
    found.append("run.opened", run_id="one", plan="p")
    manifest = backup.take(database, tmp_path / "backups", tmp_path / "second", run_id="one", plan="p")
    found.append("backup", **backup_manifest.facts(manifest))
    found.save("report.html", "<p>as it was</p>")
    found.append("sealed", outcome="live")
    return found


def taken(evidence: Evidence) -> dict[str, Any]:
    event = evidence.last("backup")
    assert event is not None
    return event


def test_intact_evidence_gives_0(typed: Type, evidence: Evidence) -> None:
    status, told, _ = typed("evidence", "check", evidence.folder, "--json")
    found = json.loads(told)
    assert status == 0
    assert {check["name"]: check["outcome"] for check in found["checks"]} == {
        "evidence_chain": "passed", "evidence_file_report.html": "passed", "evidence_file": "passed",
        "evidence_second_file": "passed",
    }  # fmt: skip
    assert found["head"].startswith("4 ")
    status, told, _ = typed("evidence", "check", evidence.folder)
    assert status == 0 and told.count("✓") == 4 and found["head"] in told


def change_an_event(evidence: Evidence) -> None:
    file = evidence.folder / EVENTS
    file.write_bytes(file.read_bytes().replace(b'"run_id":"one"', b'"run_id":"two"', 1))


def take_an_event_out(evidence: Evidence) -> None:
    file = evidence.folder / EVENTS
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], *lines[2:]]))


def change_the_report(evidence: Evidence) -> None:
    (evidence.folder / "report.html").write_text("<p>as somebody would have it</p>")


def remove_the_report(evidence: Evidence) -> None:
    (evidence.folder / "report.html").unlink()


def remove_the_backup(evidence: Evidence) -> None:
    Path(taken(evidence)["file"]).unlink()


def truncate_the_second_copy(evidence: Evidence) -> None:
    with Path(taken(evidence)["second_file"]).open("r+b") as file:
        file.truncate(4096)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (change_an_event, "the chain of events is broken"),
        (take_an_event_out, "the chain of events is broken"),
        (change_the_report, "report.html is unchanged since it was recorded"),
        (remove_the_report, "no such file"),
        (remove_the_backup, "The backup is unchanged since it was taken"),
        (truncate_the_second_copy, "The second copy of the backup is unchanged since it was taken"),
    ],
)
def test_damage_is_found_and_named(typed: Type, evidence: Evidence, damage: Callable[[Evidence], None], told: str) -> None:
    damage(evidence)
    status, said, _ = typed("evidence", "check", evidence.folder)
    assert status == 1
    assert told in " ".join(said.split())
    assert said.count("✗") == 1
    status, said, _ = typed("evidence", "check", evidence.folder, "--json")
    assert status == 1 and [check["outcome"] for check in json.loads(said)["checks"]].count("failed") == 1


def test_a_torn_event_at_the_end_gives_2_and_changes_nothing(typed: Type, evidence: Evidence) -> None:
    with (evidence.folder / EVENTS).open("ab") as file:
        file.write(b'{"seq":4,"ti')
    before = (evidence.folder / EVENTS).read_bytes()
    status, told, _ = typed("evidence", "check", evidence.folder)
    assert status == 2 and "12 bytes of an event that was never finished" in told
    assert (evidence.folder / EVENTS).read_bytes() == before
    evidence.append("later")
    assert typed("evidence", "check", evidence.folder)[0] == 0, "the next event set it aside"


def test_missing_events_at_the_end_change_the_head(typed: Type, evidence: Evidence) -> None:
    head = json.loads(typed("evidence", "check", evidence.folder, "--json")[1])["head"]
    file = evidence.folder / EVENTS
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    status, told, _ = typed("evidence", "check", evidence.folder, "--json")
    assert status == 0 and json.loads(told)["head"] != head
