"""Processes that this project starts, and must be able to end: exactly those, and all of them.

Each is the leader of a session of its own. Airflow's task processes leave the process group of the worker that forked them,
and idle workers ignore SIGTERM, but only a daemon leaves its session on purpose: so whole sessions are ended. A roster file
remembers leaders by process id and start time, so that a process id which the kernel used again is never mistaken for ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from include.cutover.errors import StepFailed
from include.cutover.files import write_atomically
from include.cutover.locks import locked
from include.cutover.places import ROOT


class _Stat(NamedTuple):
    state: str
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    """Return the kernel's entry of a process; None where there is none, or only its unreaped exit status."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else _Stat(fields[0], int(fields[3]), int(fields[19]))


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Leader:
    """A process that leads a session of this project.

    Attributes:
        name: Of its part, e.g. ``scheduler``.
        pid: Its process id, and the number of its session.
        started: Start time in clock ticks since boot; with ``pid`` it identifies one process for ever.
        boot: Id of the machine's boot.
        ending: The signal that asks it to end.
        stage: Higher stages are ended first, a stage at a time.
    """

    name: str
    pid: int
    started: int
    boot: str
    ending: str = "SIGTERM"
    stage: int = 1

    @property
    def alive(self) -> bool:
        """True when the leader itself still runs."""
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and self.boot == _boot()

    def owns(self, pid: int, stat: _Stat) -> bool:
        """Return True when a process belongs to this leader's session, which outlives the leader and keeps its number."""
        return (
            stat.session == self.pid and stat.started >= self.started and (pid != self.pid or stat.started == self.started)
        )


def members(leaders: Sequence[Leader]) -> list[int]:
    """Return the ids of all processes in the sessions of ``leaders``."""
    boot, found = _boot(), []
    # A process with a leader's number and another start time got the number after the whole session had ended.
    sessions = [item for item in leaders if item.boot == boot and (item.alive or _stat(item.pid) is None)]
    if not sessions:
        return []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            pid = int(entry.name)
            stat = _stat(pid)
            if stat is not None and any(item.owns(pid, stat) for item in sessions):
                found.append(pid)
    return found


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _reap(leaders: Sequence[Leader]) -> None:
    """Collect the exit status of ended leaders that are children of this process."""
    for leader in leaders:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(leader.pid, os.WNOHANG)


@dataclass(frozen=True)
class Roster:
    """The file of the leaders that were started for one purpose, e.g. one local stack."""

    path: Path

    def leaders(self) -> list[Leader]:
        """Return all leaders that were started and not yet ended through this roster, in the order of starting."""
        try:
            return [Leader(**item) for item in json.loads(self.path.read_text())]
        except FileNotFoundError:
            return []

    @property
    def running(self) -> list[Leader]:
        """The leaders that still run."""
        return [leader for leader in self.leaders() if leader.alive]

    def add(self, name: str, pid: int, *, ending: str = "SIGTERM", stage: int = 1) -> Leader:
        """Remember a process that was started as the leader of a session.

        Args:
            name: Of its part.
            pid: Its process id.
            ending: The signal that asks it to end.
            stage: Higher stages are ended first.

        Raises:
            StepFailed: When it has ended already.
        """
        stat = _stat(pid)
        if stat is None:
            raise StepFailed("the process ended immediately", where=name, found=f"no process {pid}", do="Read its log.")
        leader = Leader(name, pid, stat.started, _boot(), ending, stage)
        with locked(self.path.with_suffix(".lock")):
            self._write([*self.leaders(), leader])
        return leader

    def start(
        self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str], ending: str = "SIGTERM"
    ) -> Leader:
        """Start a process in a session of its own and remember it.

        Args:
            name: Of its part.
            command: The program and its arguments.
            log: File that its standard output and error are appended to.
            environment: Its whole environment.
            ending: The signal that asks it to end.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=ROOT, env=dict(environment), start_new_session=True,
            )  # fmt: skip
        try:
            return self.add(name, process.pid, ending=ending)
        except BaseException:
            process.kill()
            process.wait()
            raise

    def stop(self, seconds: float = 5.0, *, only: Collection[str] | None = None) -> list[str]:
        """End every process of every session here, and forget them.

        Leaders get their signal first; the processes left in their sessions after ``seconds`` are killed.

        Args:
            seconds: How long the leaders of a stage get.
            only: Names of the leaders to end; None for all.

        Returns:
            Names of the leaders that still ran, in the order of ending.

        Raises:
            StepFailed: When a process survives SIGKILL.
        """
        leaders = [leader for leader in self.leaders() if only is None or leader.name in only]
        ended: list[str] = []
        for stage in sorted({leader.stage for leader in leaders}, reverse=True):
            group = [leader for leader in leaders if leader.stage == stage]
            ended += [leader.name for leader in reversed(group) if leader.alive]
            for leader in group:
                if leader.alive:
                    _signal([leader.pid], signal.Signals[leader.ending])
            if not _gone(group, seconds):
                self._kill(group)
        self._forget(leaders)
        return ended

    def clear(self) -> list[str]:
        """Kill what leaders that have ended left in their sessions, and forget these leaders. Others are not touched.

        Returns:
            Their names.

        Raises:
            StepFailed: When a process survives SIGKILL.
        """
        ended = [leader for leader in self.leaders() if not leader.alive]
        if members(ended):
            self._kill(ended)
        self._forget(ended)
        return [leader.name for leader in ended]

    def _kill(self, group: Sequence[Leader]) -> None:
        _signal(members(group), signal.SIGKILL)
        if not _gone(group, 10, kill=True):
            raise StepFailed(
                "processes do not end", where=str(self.path), found=f"pids {members(group)} after SIGKILL",
                do="Find out with ps what they wait for in the kernel.",
            )  # fmt: skip

    def _forget(self, leaders: Sequence[Leader]) -> None:
        with locked(self.path.with_suffix(".lock")):
            self._write([leader for leader in self.leaders() if leader not in leaders])

    @contextlib.contextmanager
    def guarded(self, also: Sequence[str] = ()) -> Iterator[Roster]:
        """End everything here when the block ends, and also when this process dies within it, even by SIGKILL.

        A second process does it, as soon as the pipe closes that only this process holds open.

        Args:
            also: Command that the second process runs first.

        Raises:
            StepFailed: When something could not be ended.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        guard = subprocess.Popen(
            [sys.executable, "-m", "include.cutover.stack.processes", str(self.path), *also],
            stdin=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip
        try:
            yield self
        finally:
            guard.communicate()  # closes the pipe
        if guard.returncode != 0:
            raise StepFailed(
                "some processes could not be ended",
                where=str(self.path),
                found=f"status {guard.returncode}",
                do="Find them with ps, and end them.",
            )

    def _write(self, leaders: list[Leader]) -> None:
        write_atomically(self.path, json.dumps([asdict(leader) for leader in leaders], indent=1).encode() + b"\n")


def _gone(leaders: Sequence[Leader], seconds: float, *, kill: bool = False) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        _reap(leaders)
        left = members(leaders)
        if not left:
            return True
        if time.monotonic() >= deadline:
            return False
        if kill:  # a process may have been forked while the list was made
            _signal(left, signal.SIGKILL)
        time.sleep(0.05)


def exit_on(*signals: signal.Signals) -> None:
    """Make these signals end this process through its ``finally`` blocks, with the exit status that a shell uses."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number in signals:
        signal.signal(number, leave)


def _guard(path: Path, also: Sequence[str]) -> int:
    """Wait until the other end of standard input is closed, then end everything in the roster."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    status = subprocess.run(list(also), stdin=subprocess.DEVNULL, check=False).returncode if also else 0
    try:
        Roster(path).stop()
    except StepFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(_guard(Path(sys.argv[1]), sys.argv[2:]))
