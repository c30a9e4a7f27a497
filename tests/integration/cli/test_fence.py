"""The commands ``fence``, and wrong arguments of the commands for an emergency."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from include.cutover.source import fence, fence_note

Type = Callable[..., tuple[int, str, str]]


def test_a_file_without_a_fence_gives_1(typed: Type, database: Path) -> None:
    assert typed("fence", "status", "--source", database)[:2] == (1, f"{database}: no fence\n")
    status, told, _ = typed("fence", "status", "--source", database, "--json")
    assert status == 1 and json.loads(told)["raised"] is False


def test_a_fence_is_shown_with_its_run(typed: Type, database: Path) -> None:
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
def test_a_broken_fence_gives_3(typed: Type, database: Path, damage: Callable[[Path], None], told: str) -> None:
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


def test_damage_is_reported_when_a_broken_fence_is_lifted(typed: Type, database: Path) -> None:
    fence.raise_fence(database, run_id="one")
    database.chmod(0o644)
    write_past_the_fence(database)
    status, told, _ = typed("fence", "lift", "--source", database, "--run", "one")
    assert status == 0 and "It was not intact: its content changed" in told


def test_a_fence_without_its_note_is_not_lifted(typed: Type, database: Path) -> None:
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
        (("fence", "status", "--source", __file__), "not an SQLite database"),
        (("evidence", "check"), "Missing argument 'folder'"),
        (("evidence", "check", "/nowhere"), "there is no evidence of this run"),
        (("rollback", "--plan", "ward_ops", "--evidence", "/nowhere", "--reason", "a test"), "no evidence of this run"),
        (("rollback", "--plan", "ward_ops", "--evidence", "/nowhere", "--reason", "x"), "the reason is too short"),
        (("rollback", "--plan", "ward_ops", "--reason", "a test"), "--evidence"),
        (("rollback", "--evidence", "/nowhere", "--reason", "a test"), "--plan"),
    ],
)
def test_wrong_arguments_give_2_and_a_sentence(typed: Type, words: tuple[str, ...], told: str) -> None:
    status, _, said = typed(*words)
    assert status == 2
    assert told in said
