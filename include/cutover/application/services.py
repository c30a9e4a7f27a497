"""The application's services: stopped in the reverse order of the plan, started in its order, and verified afterwards.

The answer to an order proves nothing: the service is polled until it is at rest, or runs. ``stop_seconds`` and
``start_seconds`` of the service bound an order and every single request and command.

The orders are given one after another, then all services are waited for at once, so that they stop or start side by side.
``wait`` in the plan makes the others wait for a service.

A command that leaves a process behind should redirect that process's output: it inherits a file without a name, or on
another host a pipe that is closed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from include.cutover.application.control.command import Commands
from include.cutover.application.control.compose import Compose
from include.cutover.application.control.controller import (
    LOG_BYTES,
    LOG_LINES,
    LOOK_SECONDS,
    Controller,
    Disobeyed,
    ServiceState,
)
from include.cutover.application.control.supervisor import Supervisor
from include.cutover.application.control.systemd import Systemd
from include.cutover.connections.commands import Local, Remote, Runner, lines, no_remote
from include.cutover.errors import CannotCheck, CutoverError, StepFailed
from include.cutover.masking import mask
from include.cutover.plan.application import ComposeControl, Service, SupervisorControl, SystemdControl

log = logging.getLogger(__name__)

_KEPT_BYTES = 8 << 20
_ORDER_SECONDS = 1.0  # with less time an order would fail for this host's load, not for the service
_PAUSE = 0.1
_QUIET_SECONDS = 5.0


@dataclass(frozen=True)
class ServiceResult:
    """The result of an order to one service.

    Attributes:
        was: State before, e.g. ``running``.
        now: State after.
        already: It was in the wanted state before; no order was given.
        seconds: From the order until the wanted state was seen.
    """

    name: str
    was: str
    now: str
    already: bool
    seconds: float

    @property
    def summary(self) -> str:
        """The result in one phrase."""
        if self.already:
            return f"{self.name} was already {self.now}"
        return f"{self.name} is {self.now} after {self.seconds:.1f} s"


def stop(services: Sequence[Service], remote: Remote = no_remote) -> list[ServiceResult]:
    """Stop the services, the last of the plan first, and verify that all of them have stopped.

    Safe to run again: a service that has stopped already is not changed, and reported so.

    Args:
        services: In the plan's order.
        remote: The host of an SSH connection, for services that are not on this one.

    Returns:
        One for each service, in the order of the orders.

    Raises:
        StepFailed: When a service does not stop in time, or one that had stopped runs again; with its last log lines.
        Unreachable: When a service's controller does not answer. Services before it in the plan were not stopped then.
        CannotCheck: When it answers and a service's state is not clear. Services before it were not stopped either.
    """
    return _all(list(reversed(services)), "stop", remote)


def start(services: Sequence[Service], remote: Remote = no_remote) -> list[ServiceResult]:
    """Start the services, in the order of the plan, and verify that all of them run and stay up.

    Safe to run again: a service that runs already is not changed, and reported so. A service that its controller would go on
    trying to start is stopped, so that it does not come up later by itself.

    Raises:
        StepFailed: When a service does not run in time, ends or fails; with its last log lines. When it refused the order,
            services after it were not started.
        Unreachable, CannotCheck: As ``stop``.
    """
    return _all(list(services), "start", remote)


def states(services: Sequence[Service], remote: Remote = no_remote) -> dict[str, ServiceState]:
    """Return the state of each service, in the order given.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return {service.name: _controller(service, remote)[0].state() for service in services}


def status(services: Sequence[Service], remote: Remote = no_remote) -> dict[str, bool]:
    """Return for each service whether it is up: True for all that are not at rest and may still write or start again.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return {name: not state.at_rest for name, state in states(services, remote).items()}


def may_control(service: Service, remote: Remote = no_remote) -> str:
    """Return why orders to the service would be refused; empty where no reason is known. Changes nothing.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return _controller(service, remote)[0].may_control()


def environment(service: Service, remote: Remote = no_remote) -> Mapping[str, str] | None:
    """Return the environment of its running process, secrets included; None where it cannot be read.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return _controller(service, remote)[0].environment()


def kept_logs(
    services: Sequence[Service], secrets: Collection[str] = (), remote: Remote = no_remote
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the last megabytes of each service's log, masked, for a later investigation. Never raises.

    Args:
        services: Whose logs.
        secrets: Known ones, replaced everywhere.
        remote: As for ``stop``.

    Returns:
        Service → its log, and service → the reason why there is none.
    """
    found, missing = {}, {}
    for service in services:
        try:
            controller, runner = _controller(service, remote)
            text = _log_text(service, controller, runner, _KEPT_BYTES)
        except (OSError, CutoverError) as error:
            missing[service.name] = mask(getattr(error, "strerror", None) or str(error))
            continue
        text = mask(text)
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        if text:
            found[service.name] = text
        else:
            missing[service.name] = "it is empty"
    return found, missing


class _Order:
    """An order to one service."""

    def __init__(self, service: Service, order: str, remote: Remote) -> None:
        self.service = service
        self.order = order
        self.controller, self._runner = _controller(service, remote)
        self._seconds = service.stop_seconds if order == "stop" else service.start_seconds
        self._steady_since: float | None = None
        self._start = ""
        self.was = self.controller.state()
        self._begun = time.monotonic()
        self._deadline = self._begun + self._seconds
        self.already = self._obeyed(self.was)
        # A service that runs already must stay up too: it may end and be started again and again.
        sure = self.already and (order == "stop" or self.controller.steady_seconds == 0)
        self.result: ServiceResult | None = self._result(self.was) if sure else None

    def give(self) -> None:
        """Send the order; it may take the remaining time."""
        left = max(self._deadline - time.monotonic(), _PAUSE)
        try:
            if self.order == "stop":
                self.controller.stop(left)
            else:
                self.controller.start(left)
        except Disobeyed as disobeyed:
            raise self._failure(str(disobeyed)) from None

    def poll(self) -> None:
        """Set ``result`` when the service has obeyed; raise when it did not in time, or cannot any more."""
        late = time.monotonic() >= self._deadline
        state = self.controller.state()
        if self._obeyed(state):
            if self._steady(state):
                self.result = self._result(state)
                log.info("%s", self.result.summary)
            return
        if self.order == "stop":
            if time.monotonic() < self._deadline - _ORDER_SECONDS and self.controller.must_stop_again(state):
                self.give()
        elif self.controller.hopeless(state) or self._steady_since is not None:
            self._quieten(state)
            raise self._failure(str(state))
        if late:
            raise self._failure(str(state))

    def verify(self) -> None:
        """Raise when the service has changed since it obeyed."""
        state = self.controller.state()
        if not self._obeyed(state):
            raise self._failure(
                str(state), "It obeyed, then changed: find the program that changed it, then run this step again."
            )

    def _obeyed(self, state: ServiceState) -> bool:
        return state.at_rest if self.order == "stop" else state.running

    def _steady(self, state: ServiceState) -> bool:
        """Return True when it has been running long enough since one and the same start."""
        now = time.monotonic()
        if self.order == "stop":
            return True
        if self._steady_since is None:
            self._steady_since, self._start = now, state.start
        if state.start != self._start:
            self._quieten(state)
            raise self._failure(f"{state}, started again: it ended within {self.controller.steady_seconds:g} s")
        return now - self._steady_since >= self.controller.steady_seconds

    def _result(self, state: ServiceState) -> ServiceResult:
        name = "stopped" if self.order == "stop" else state.name
        return ServiceResult(self.service.name, self.was.name, name, self.already, round(time.monotonic() - self._begun, 3))

    def _quieten(self, state: ServiceState) -> None:
        """Stop a service that would keep trying to start. Errors are only logged: the first failure matters more."""
        deadline = time.monotonic() + _QUIET_SECONDS
        try:
            while not state.at_rest and time.monotonic() < deadline:
                if self.controller.must_stop_again(state):
                    self.controller.stop(_QUIET_SECONDS)
                time.sleep(_PAUSE)
                state = self.controller.state()
        except (Disobeyed, CutoverError) as error:
            log.warning("%s may come up later: %s", self.service.name, error)

    def _failure(self, found: str, do: str = "Read its log; then run this step again.") -> StepFailed:
        source, last = _last_lines(self.service, self.controller, self._runner)
        text = "\n".join(f"  {line}" for line in last)
        return StepFailed(
            f"the service did not {self.order}",
            where=f"service {self.service.name}, {self.controller.where}",
            expected=f"{'stopped' if self.order == 'stop' else 'running'} within {self._seconds} s",
            found=f"{found}; last lines of {source}:\n{text}\n" if last else f"{found}; {source} is empty",
            do=do,
        )


def _all(services: list[Service], order: str, remote: Remote) -> list[ServiceResult]:
    orders: list[_Order] = []
    try:
        for service in services:
            if order == "stop" and service.wait:
                _wait(orders)
            orders.append(_Order(service, order, remote))
            if not orders[-1].already:
                orders[-1].give()
            if order == "start" and service.wait:
                _wait(orders)
        _wait(orders)
    except CutoverError as error:
        done = ", ".join(item.result.summary for item in orders if item.result is not None)
        if done:
            error.do = f"{error.do} Before it: {done}.".strip()
        raise
    # The first services may have changed while the others were waited for.
    for item in orders:
        item.verify()
    return [item.result for item in orders if item.result is not None]


def _wait(orders: Sequence[_Order]) -> None:
    """Wait until all have obeyed. The first that does not ends the waiting."""
    while True:
        for item in orders:
            if item.result is None:
                item.poll()
        if all(item.result is not None for item in orders):
            return
        time.sleep(_PAUSE)


def _controller(service: Service, remote: Remote) -> tuple[Controller, Runner]:
    control = service.control
    runner: Runner = Local() if control.ssh is None else remote(control.ssh)
    if isinstance(control, SupervisorControl):
        return Supervisor(control, runner), runner
    if isinstance(control, SystemdControl):
        return Systemd(control, runner), runner
    if isinstance(control, ComposeControl):
        return Compose(control, runner), runner
    return Commands(control, runner), runner


def _last_lines(service: Service, controller: Controller, runner: Runner) -> tuple[str, list[str]]:
    """Return where the log is, and its last lines, masked."""
    source = "its output" if service.log is None else str(service.log)
    try:
        text = _log_text(service, controller, runner, LOG_BYTES)
    except OSError as error:
        return f"{source} (not readable: {error.strerror})", []
    except CutoverError as error:  # the failure of the service matters more
        return f"{source} (not readable: {error.found or error.message})", []
    return source, lines(text)[-LOG_LINES:]


def _log_text(service: Service, controller: Controller, runner: Runner, limit: int) -> str:
    """Return the end of a service's log, wherever it is."""
    if service.log is None:
        return controller.output()
    if service.control.ssh is None:
        return _tail(service.log, limit)
    ran = runner.run(["tail", "-c", str(limit), "--", str(service.log)], LOOK_SECONDS)
    if ran.code != 0:
        raise CannotCheck("the log cannot be read", where=str(service.log), found=ran.excerpt(output=False))
    return _whole_lines(ran.output, limit)


def _tail(path: Path, limit: int = LOG_BYTES) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit))
        return _whole_lines(file.read(limit).decode("utf-8", errors="replace"), limit)


def _whole_lines(text: str, limit: int = LOG_BYTES) -> str:
    """Drop the first line where it may be incomplete: a part of a secret is not recognised."""
    return text if len(text.encode()) < limit else text.partition("\n")[2]
