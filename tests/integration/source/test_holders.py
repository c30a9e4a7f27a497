"""Processes that have a database open are found with what they hold, under any name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.cutover.source import holders
from tests.support.sqlite_clients import CLIENT, client, make_source


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_holders_are_found_with_what_they_hold(tmp_path: Path, journal_mode: str) -> None:
    source = make_source(tmp_path / "ward.db", journal_mode)
    assert holders.open_files(source) == []
    with client(source) as application:
        held = holders.open_files(source)
        assert {holder.pid for holder in held} == {application.process.pid}
        expected = {"ward.db"} if journal_mode == "delete" else {"ward.db", "ward.db-wal", "ward.db-shm"}
        assert {holder.file.name for holder in held} == expected
        assert all(holder.write for holder in held)
        assert held[0].command.startswith("python")
        assert CLIENT not in held[0].command
        assert holders.open_files(source, but=[application.process.pid]) == []
        check = holders.check_nobody_holds(source)
        assert check.outcome == "failed"
        assert str(application.process.pid) in check.found
    assert holders.open_files(source) == []


def test_holders_are_found_under_other_names_and_after_deletion(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other name"
    other.hardlink_to(source)
    with other.open("rb") as file:
        (holder,) = holders.open_files(source)
        assert (holder.pid, holder.file, holder.write) == (os.getpid(), other, False)
        assert file.read(6) == b"SQLite"
    journal = source.with_name(f"{source.name}-journal")
    with source.open("r+b"), journal.open("wb"):
        source.unlink()
        journal.unlink()
        make_source(source)
        held = holders.open_files(source)
        assert {holder.file.name for holder in held} == {"ward ops.db (deleted)", "ward ops.db-journal (deleted)"}
        assert all(holder.write for holder in held)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with (elsewhere / source.name).open("wb"):
        (elsewhere / source.name).unlink()
        assert holders.open_files(source) == []


def test_a_mapping_without_a_descriptor_is_found(source: Path) -> None:
    script = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); print(flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert [(holder.pid, holder.write) for holder in holders.open_files(source)] == [(process.pid, True)]
    finally:
        process.communicate("\n")


def test_processes_hidden_from_this_user_are_reported(source: Path) -> None:
    """As root nothing of this host stays hidden; as somebody else the processes of root do, but not their locks."""
    assert "not visible to this user" not in holders.hidden_processes() or os.geteuid() != 0
    if os.geteuid() != 0:
        return
    for folder in source.parents:
        folder.chmod(folder.stat().st_mode | 0o011)
    with client(source) as application:
        application.ask("BEGIN IMMEDIATE")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(4343)
            os.setuid(4242)
            check = holders.check_nobody_holds(source)
            answer = [holders.hidden_processes(), check.outcome, [holder.pid for holder in holders.open_files(source)]]
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        hidden, outcome, pids = json.loads(os.read(reading, 10_000))
        os.close(reading)
    assert "not visible to this user" in hidden
    assert outcome == "failed"
    assert pids == [application.process.pid]
