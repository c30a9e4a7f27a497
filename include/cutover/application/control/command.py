"""A service that is driven by commands of the plan."""

from __future__ import annotations

from collections.abc import Sequence

from include.cutover.application.control.controller import ByCommands, ServiceState
from include.cutover.connections.commands import Ran, Runner
from include.cutover.plan.application import CommandControl


class Commands(ByCommands):
    """See ``plan.CommandControl``. Its output is that of the last command."""

    def __init__(self, control: CommandControl, runner: Runner) -> None:
        """Run nothing yet."""
        super().__init__(runner, f"command {control.status[0]}")
        self.steady_seconds = control.steady_seconds
        self._control = control
        self._ordered = Ran(0)
        self._seen = Ran(0)

    def state(self) -> ServiceState:
        """Read the exit status of the plan's ``status``."""
        self._seen = self._look(self._control.status)
        running = self._seen.code == 0
        return ServiceState("running" if running else "stopped", running=running, at_rest=not running)

    def stop(self, seconds: float) -> None:
        """Run the plan's ``stop``."""
        self._tell(self._control.stop, seconds)

    def start(self, seconds: float) -> None:
        """Run the plan's ``start``."""
        self._tell(self._control.start, seconds)

    def _tell(self, command: Sequence[str], seconds: float) -> None:
        self._ordered = Ran(0)
        self._ordered = self._order(command, seconds)

    def hopeless(self, state: ServiceState) -> bool:
        """Return False: a program that goes into the background may write its pid after its command has ended."""
        return False

    def output(self) -> str:
        """Return the output of the last order and of the last status command."""
        return "\n".join((self._ordered.output, self._ordered.errors, self._seen.output, self._seen.errors))
