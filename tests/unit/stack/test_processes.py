"""Processes are ended by session, exactly ours, also when the one who started them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from include.cutover.errors import StepFailed
from include.cutover.places import ROOT
from include.cutover.stack.processes import Roster, members

# A leader whose child leaves its process group and ignores SIGTERM, as Airflow's tasks and idle workers do.
FAMILY = """
import os, signal, sys, time
if os.fork() == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1], "w").write(str(os.getpid()))
while True:
    time.sleep(0.05)
"""

STARTER = """
import signal, sys, time
from pathlib import Path
from include.cutover.stack.processes import Roster
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
roster = Roster(Path(sys.argv[1]))
with roster.guarded([sys.executable, "-c", f"open({sys.argv[2]!r}, 'w').write('cleaned')"]):
    roster.start("sleeper", ["sleep", "600"], log=Path(sys.argv[1]).with_name("log"), environment={"PATH": "/usr/bin:/bin"})
    print("started", flush=True)
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], object], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[Roster]:
    roster = Roster(tmp_path / "processes.json")
    yield roster
    roster.stop(seconds=0)


def family(roster: Roster, tmp_path: Path) -> int:
    """Start one, and return the process id of the child that does not want to go."""
    file = tmp_path / "child"
    roster.start("family", [sys.executable, "-c", FAMILY, str(file)], log=tmp_path / "log", environment={"PATH": os.defpath})
    assert eventually(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def test_stop_ends_a_child_that_left_the_group_and_ignores_sigterm(roster: Roster, tmp_path: Path) -> None:
    child = family(roster, tmp_path)
    assert roster.stop(seconds=0.2) == ["family"]
    assert not alive(child)
    assert roster.leaders() == []


def test_stop_ends_what_a_killed_leader_left_behind(roster: Roster, tmp_path: Path) -> None:
    child = family(roster, tmp_path)
    (leader,) = roster.leaders()
    os.kill(leader.pid, signal.SIGKILL)
    assert eventually(lambda: not leader.alive)
    assert members([leader]) == [child]
    assert roster.stop(seconds=0.2) == []
    assert not alive(child)


def test_a_reused_process_id_is_not_ours(roster: Roster, tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        leader = roster.add("other", other.pid)
        recorded = json.loads(roster.path.read_text())
        recorded[0]["started"] = leader.started - 1
        roster.path.write_text(json.dumps(recorded))
        assert roster.running == []
        assert roster.stop() == []
        assert alive(other.pid)
        recorded[0] |= {"started": leader.started, "boot": "another boot of the machine"}
        roster.path.write_text(json.dumps(recorded))
        assert roster.stop() == []
        assert alive(other.pid)
    finally:
        other.kill()
        other.wait()


def test_stages_end_from_the_highest(roster: Roster, tmp_path: Path) -> None:
    for name, stage in (("database", 0), ("server", 1)):
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        roster.add(name, process.pid, stage=stage)
    assert roster.stop() == ["server", "database"]


def test_a_process_that_ended_at_once_is_an_error(roster: Roster) -> None:
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait()
    with pytest.raises(StepFailed, match="ended immediately"):
        roster.add("true", process.pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_starter_dies(tmp_path: Path, how: signal.Signals) -> None:
    path, cleaned = tmp_path / "processes.json", tmp_path / "cleaned"
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(path), str(cleaned)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        (sleeper,) = Roster(path).leaders()
        starter.send_signal(how)
        starter.wait()
        assert eventually(lambda: not sleeper.alive)
        assert eventually(lambda: Roster(path).leaders() == [])
        assert cleaned.read_text() == "cleaned"
    finally:
        starter.kill()
        starter.communicate()
        Roster(path).stop()


def test_all_that_start_at_once_are_remembered(roster: Roster) -> None:
    processes = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(8)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda process: roster.add("sleeper", process.pid), processes))
    assert sorted(leader.pid for leader in roster.leaders()) == sorted(process.pid for process in processes)
