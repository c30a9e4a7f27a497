"""The commands for when something is wrong, as they are typed: fence and evidence. The rollback has a file of its own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from include.cutover.cli.main import main
from include.cutover.evidence.record import EVENTS, Evidence
from include.cutover.source import backup, backup_manifest, fence, fence_note

Told = tuple[int, str, str]
Type = Callable[..., Told]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Type:
    """Types a command; gives its exit status and what it printed."""

    def call(*words: object) -> Told:
        capsys.readouterr()
        status = main([str(word) for word in words])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return status, told.out, told.err

    return call


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "app.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO t VALUES (1)")
    return file


# --- the fence ----------------------------------------------------------------------------------------------------------


def test_a_file_without_a_fence(typed: Type, database: Path) -> None:
    assert typed("fence", "status", "--source", database)[:2] == (1, f"{database}: no fence\n")
    status, told, _ = typed("fence", "status", "--source", database, "--json")
    assert status == 1 and json.loads(told)["raised"] is False


def test_a_fence_is_told_with_its_run(typed: Type, database: Path) -> None:
    state = fence.raise_fence(database, run_id="manual__1")
    status, told, _ = typed("fence", "status", "--source", database, "--json")
    found = json.loads(told)
    assert status == 0
    assert found == {
        "file": str(database), "raised": True, "intact": True, "run_id": "manual__1", "since": state.time,
        "note": str(fence_note.note_path(database)), "findings": [],
    }  # fmt: skip
    status, told, _ = typed("fence", "status", "--source", database)
    assert status == 0 and "fence of run manual__1" in told


def write_past_the_fence(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")


def remove_the_note(database: Path) -> None:
    fence_note.note_path(database).unlink()


@pytest.mark.parametrize(
    ("damage", "told"), [(write_past_the_fence, "its content changed"), (remove_the_note, "its note is missing")]
)
def test_a_broken_fence_has_a_status_of_its_own(
    typed: Type, database: Path, damage: Callable[[Path], None], told: str
) -> None:
    fence.raise_fence(database, run_id="one")
    database.chmod(0o644)
    damage(database)
    status, said, _ = typed("fence", "status", "--source", database)
    assert status == 3 and told in said


def test_only_the_named_fence_is_lifted(typed: Type, database: Path) -> None:
    fence.raise_fence(database, run_id="one")
    status, _, told = typed("fence", "lift", "--source", database, "--run", "two")
    assert status == 2 and "another run's" in told and "run one" in told
    assert fence.status(database).intact, "nothing was done"
    status, said, _ = typed("fence", "lift", "--source", database, "--run", "one")
    assert (status, said) == (0, f"{database}: the fence of one is lifted\n")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO t VALUES (2)")
    assert typed("fence", "lift", "--source", database, "--run", "one")[:2] == (0, f"{database}: there was no fence\n")


def test_what_was_broken_is_told_when_it_is_lifted(typed: Type, database: Path) -> None:
    fence.raise_fence(database, run_id="one")
    database.chmod(0o644)
    write_past_the_fence(database)
    status, told, _ = typed("fence", "lift", "--source", database, "--run", "one")
    assert status == 0 and "It was not intact: its content changed" in told


def test_a_fence_without_its_note_is_not_lifted_blindly(typed: Type, database: Path) -> None:
    fence.raise_fence(database, run_id="one")
    remove_the_note(database)
    status, _, told = typed("fence", "lift", "--source", database, "--run", "one")
    assert status == 2 and "set its bytes 18 and 19 to 1" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fence", "status"), "--source"),
        (("fence", "lift", "--source", "x"), "--run"),
        (("fence", "status", "--source", "/nowhere/app.db"), "the database cannot be read"),
        (("fence", "status", "--source", __file__), "not a SQLite database"),
        (("evidence", "check"), "Missing argument 'folder'"),
        (("evidence", "check", "/nowhere"), "there is no evidence of this run"),
        (("rollback", "--plan", "ward_ops", "--evidence", "/nowhere", "--reason", "a test"), "no evidence of this run"),
        (("rollback", "--plan", "ward_ops", "--evidence", "/nowhere", "--reason", "x"), "the reason is too short"),
        (("rollback", "--plan", "ward_ops", "--reason", "a test"), "--evidence"),
        (("rollback", "--evidence", "/nowhere", "--reason", "a test"), "--plan"),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(typed: Type, words: tuple[str, ...], told: str) -> None:
    status, _, said = typed(*words)
    assert status == 2
    assert told in said


# --- the evidence -------------------------------------------------------------------------------------------------------


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


def test_whole_evidence(typed: Type, evidence: Evidence) -> None:
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
        (change_the_report, "report.html is as it was recorded"),
        (remove_the_report, "no such file"),
        (remove_the_backup, "The backup is as it was taken"),
        (truncate_the_second_copy, "The second copy of the backup is as it was taken"),
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


def test_a_torn_event_at_the_end_is_told_and_changes_nothing(typed: Type, evidence: Evidence) -> None:
    with (evidence.folder / EVENTS).open("ab") as file:
        file.write(b'{"seq":4,"ti')
    before = (evidence.folder / EVENTS).read_bytes()
    status, told, _ = typed("evidence", "check", evidence.folder)
    assert status == 2 and "12 bytes of an event that was never finished" in told
    assert (evidence.folder / EVENTS).read_bytes() == before
    evidence.append("later")
    assert typed("evidence", "check", evidence.folder)[0] == 0, "the next event set it aside"


def test_events_cut_off_the_end_show_in_the_head(typed: Type, evidence: Evidence) -> None:
    head = json.loads(typed("evidence", "check", evidence.folder, "--json")[1])["head"]
    file = evidence.folder / EVENTS
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    status, told, _ = typed("evidence", "check", evidence.folder, "--json")
    assert status == 0 and json.loads(told)["head"] != head
