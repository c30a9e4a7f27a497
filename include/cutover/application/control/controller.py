"""What every controller can do: look at a service, tell it to stop or start, and show its last output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from include.cutover.connections.commands import Ran, Runner
from include.cutover.errors import CannotCheck, Unreachable

LOOK_SECONDS = 10.0
"""How long one look at a service may take."""

LOG_LINES = 20
LOG_BYTES = 64 * 1024


@dataclass(frozen=True)
class State:
    """What a service does now.

    Attributes:
        name: ``running``, ``stopped``, or a state of what controls it, in lower case.
        running: It runs and is past its start.
        at_rest: It does not run and will not start by itself. Neither holds for what is between the two.
        failing: Something is wrong with it, whatever it was told.
        detail: What its controller says about it, masked.
        start: Which of its starts this is; another one after it was started anew. Empty where that cannot be told.
    """

    name: str
    running: bool
    at_rest: bool
    failing: bool = False
    detail: str = ""
    start: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name


class Disobeyed(Exception):
    """The service did not do what it was told; the text says what it does instead."""


class Controller(Protocol):
    """One service, seen through what controls it.

    Attributes:
        where: The service as its controller calls it.
        steady_seconds: How long it must be seen running before it counts as started.
    """

    where: str
    steady_seconds: float

    def state(self) -> State:
        """What the service does.

        Raises:
            Unreachable: When the controller does not answer.
            CannotCheck: When it answers and the state cannot be told.
        """
        ...

    def stop(self, seconds: float) -> None:
        """Tell it to stop. May take until it has, but no longer than ``seconds``.

        Raises:
            Disobeyed: When the order is refused.
        """
        ...

    def start(self, seconds: float) -> None:
        """Tell it to start. May take until it has, but no longer than ``seconds``.

        Raises:
            Disobeyed: When the order is refused.
        """
        ...

    def must_stop_again(self, state: State) -> bool:
        """Whether an order to stop was lost on it: it runs anew."""
        ...

    def hopeless(self, state: State) -> bool:
        """Whether it will not run any more after the order to start, so that waiting is of no use."""
        ...

    def may_control(self) -> str:
        """Why its orders would be refused; empty where nothing says so. Changes nothing."""
        ...

    def environment(self) -> Mapping[str, str] | None:
        """The environment of its running process; it holds secrets. None where it cannot be seen.

        Raises:
            CutoverError: As ``state``.
        """
        ...

    def output(self) -> str:
        """The last lines that it wrote, where its controller keeps them; not masked.

        Raises:
            CutoverError: When they cannot be had.
        """
        ...


def environment_of(runner: Runner, pid: int) -> Mapping[str, str] | None:
    """The environment that a process was started with; None where it is not there, or is closed to this user."""
    if pid <= 0:
        return None
    ran = runner.run(["cat", f"/proc/{pid}/environ"], LOOK_SECONDS, secret=True)
    if ran.code != 0:
        return None
    return dict(part.partition("=")[::2] for part in ran.output.split("\0") if "=" in part)


class ByCommands:
    """What the controllers that run commands share."""

    where = ""
    steady_seconds = 1.0

    def __init__(self, runner: Runner, what: str) -> None:
        self._runner = runner
        self.where = f"{what} {runner.where}".strip()

    def _look(self, command: Sequence[str], *, directory: str | None = None) -> Ran:
        """Run a command that asks for something."""
        ran = self._runner.run(command, LOOK_SECONDS, directory=directory)
        if ran.code is None:
            raise Unreachable(
                "the status command does not end",
                where=self.where,
                expected=f"an exit status within {LOOK_SECONDS:.0f} s",
                found=ran.excerpt(),
                do="Run it by hand and see what it waits for.",
            )
        if ran.code < 0 or ran.code in (126, 127):
            raise CannotCheck(
                "the status command failed",
                where=self.where,
                expected="an exit status that says something about the service",
                found=f"{ran.ended}, {ran.excerpt()}",
                do="Run it by hand as the user of the tasks.",
            )
        return ran

    def _order(self, command: Sequence[str], seconds: float, *, directory: str | None = None) -> Ran:
        """Run a command that changes something."""
        ran = self._runner.run(command, seconds, directory=directory)
        if ran.code is None:
            raise Disobeyed(f"the command {command[0]} did not end in {seconds:.0f} s and was killed: {ran.excerpt()}")
        if ran.code != 0:
            raise Disobeyed(f"the command {command[0]} ended with {ran.ended}: {ran.excerpt()}")
        return ran

    def must_stop_again(self, state: State) -> bool:
        """An order is given once, unless the controller knows better."""
        return False

    def hopeless(self, state: State) -> bool:
        """It failed, or came to its end."""
        return state.failing or state.at_rest

    def may_control(self) -> str:
        """Nothing says that it may not."""
        return ""

    def environment(self) -> Mapping[str, str] | None:
        """A command does not say which process it started."""
        return None
