"""The interface of every controller: read a service's state, order it to stop or start, and show its last output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from include.cutover.connections.commands import Ran, Runner
from include.cutover.errors import CannotCheck, Unreachable

LOOK_SECONDS = 10.0
"""How long one request for a service's state may take."""

LOG_LINES = 20
LOG_BYTES = 64 * 1024


@dataclass(frozen=True)
class ServiceState:
    """The state of a service now.

    Attributes:
        name: ``running``, ``stopped``, or its controller's name for the state, in lower case.
        running: It runs and is past its start.
        at_rest: It does not run and will not start by itself. Between the two, neither is true.
        failing: Something is wrong with it, whatever was ordered.
        detail: Its controller's words about it, masked.
        start: An id of this start; another one after it was started again. Empty where it is unknown.
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
    """The service did not obey an order; the text says what it does instead."""


class Controller(Protocol):
    """One service, seen through its controller.

    Attributes:
        where: The service as its controller calls it.
        steady_seconds: How long it must run before it counts as started.
    """

    where: str
    steady_seconds: float

    def state(self) -> ServiceState:
        """Return the state of the service.

        Raises:
            Unreachable: When the controller does not answer.
            CannotCheck: When it answers and the state is not clear.
        """
        ...

    def stop(self, seconds: float) -> None:
        """Order it to stop. May wait until it has, but no longer than ``seconds``.

        Raises:
            Disobeyed: When the order is refused.
        """
        ...

    def start(self, seconds: float) -> None:
        """Order it to start. May wait until it has, but no longer than ``seconds``.

        Raises:
            Disobeyed: When the order is refused.
        """
        ...

    def must_stop_again(self, state: ServiceState) -> bool:
        """Return True when an order to stop must be repeated: it was started again."""
        ...

    def hopeless(self, state: ServiceState) -> bool:
        """Return True when it will not run any more after the order to start, so that waiting cannot help."""
        ...

    def may_control(self) -> str:
        """Return why its orders would be refused; empty where no reason is known. Changes nothing."""
        ...

    def environment(self) -> Mapping[str, str] | None:
        """Return the environment of its running process, secrets included; None where it cannot be read.

        Raises:
            CutoverError: As ``state``.
        """
        ...

    def output(self) -> str:
        """Return the last lines that it wrote, where its controller keeps them; not masked.

        Raises:
            CutoverError: When they cannot be read.
        """
        ...


def environment_of(runner: Runner, pid: int) -> Mapping[str, str] | None:
    """Return the environment that a process was started with; None without a process, or where this user may not read it."""
    if pid <= 0:
        return None
    ran = runner.run(["cat", f"/proc/{pid}/environ"], LOOK_SECONDS, secret=True)
    if ran.code != 0:
        return None
    return dict(part.partition("=")[::2] for part in ran.output.split("\0") if "=" in part)


class ByCommands:
    """The common part of controllers that run commands."""

    where = ""
    steady_seconds = 1.0

    def __init__(self, runner: Runner, what: str) -> None:
        self._runner = runner
        self.where = f"{what} {runner.where}".strip()

    def _look(self, command: Sequence[str], *, directory: str | None = None) -> Ran:
        """Run a command that reads something."""
        ran = self._runner.run(command, LOOK_SECONDS, directory=directory)
        if ran.code is None:
            raise Unreachable(
                "the status command does not end",
                where=self.where,
                expected=f"an exit status within {LOOK_SECONDS:.0f} s",
                found=ran.excerpt(),
                do="Run it by hand and find out what it waits for.",
            )
        if ran.code < 0 or ran.code in (126, 127):
            raise CannotCheck(
                "the status command failed",
                where=self.where,
                expected="an exit status about the service",
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

    def must_stop_again(self, state: ServiceState) -> bool:
        """Return False: an order is given once, unless the controller knows better."""
        return False

    def hopeless(self, state: ServiceState) -> bool:
        """Return True when it failed, or ended."""
        return state.failing or state.at_rest

    def may_control(self) -> str:
        """Return no reason."""
        return ""

    def environment(self) -> Mapping[str, str] | None:
        """Return None: a command does not say which process it started."""
        return None
