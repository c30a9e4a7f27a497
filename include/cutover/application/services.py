"""The application's services: stopped in the reverse order of the plan, started in its order, and looked at afterwards.

Whether a service obeyed is never taken from the answer to the order; the service is looked at until it is at rest, or
runs. Orders are bounded by ``stop_seconds`` and ``start_seconds`` of the service, every single request and command too.

Each service is told as soon as the one before it was told, and then all are waited for at once: what they need for their
start and their end passes side by side. ``wait`` in the plan makes a service one that the others wait for.

A command that leaves a process behind should redirect that process's output: what it inherits is a file without a name, or
on another host a pipe that is closed.
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
from include.cutover.application.control.controller import LOG_BYTES, LOG_LINES, LOOK_SECONDS, Controller, Disobeyed, State
from include.cutover.application.control.supervisor import Supervisor
from include.cutover.application.control.systemd import Systemd
from include.cutover.connections.commands import Local, Remote, Runner, lines, no_remote
from include.cutover.errors import CannotCheck, CutoverError, StepFailed
from include.cutover.masking import mask
from include.cutover.plan.application import ComposeControl, Service, SupervisorControl, SystemdControl

__all__ = ["ServiceResult", "State", "environment", "may_control", "start", "states", "status", "stop"]

log = logging.getLogger(__name__)

_KEPT_BYTES = 8 << 20
_ORDER_SECONDS = 1.0  # an order that has less time says more about this machine than about the service
_PAUSE = 0.1
_QUIET_SECONDS = 5.0


@dataclass(frozen=True)
class ServiceResult:
    """What became of one service.

    Attributes:
        was: State before, e.g. ``running``.
        now: State after.
        already: It was in the wanted state before; nothing was ordered.
        seconds: From the order until it was seen to have obeyed.
    """

    name: str
    was: str
    now: str
    already: bool
    seconds: float

    @property
    def summary(self) -> str:
        """One phrase for a person."""
        if self.already:
            return f"{self.name} was already {self.now}"
        return f"{self.name} is {self.now} after {self.seconds:.1f} s"


def stop(services: Sequence[Service], remote: Remote = no_remote) -> list[ServiceResult]:
    """Tell the services to stop, the last of the plan first, and confirm that all of them rest.

    Safe to run again: what rests already is left alone and said so.

    Args:
        remote: The host of an SSH connection, for services that are not on this one.

    Returns:
        One for each service, in the order of the orders.

    Raises:
        StepFailed: When a service does not stop in time, or one that had stopped runs again; with its last log lines.
        Unreachable: When what controls a service does not answer. Services before it in the plan were not told then.
        CannotCheck: When it answers and the state of a service cannot be told. The same holds.
    """
    return _all(list(reversed(services)), "stop", remote)


def start(services: Sequence[Service], remote: Remote = no_remote) -> list[ServiceResult]:
    """Tell the services to start, in the order of the plan, and confirm that all of them run and go on running.

    Safe to run again: what runs already is left alone and said so. A service that its controller would go on trying to start
    is stopped, so that it does not come up later, unasked.

    Raises:
        StepFailed: When a service does not run in time, ends or fails; with its last log lines. When it refused the order,
            services after it were not told.
        Unreachable, CannotCheck: As ``stop``.
    """
    return _all(list(services), "start", remote)


def states(services: Sequence[Service], remote: Remote = no_remote) -> dict[str, State]:
    """The state of each service, in the order given.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return {service.name: _controller(service, remote)[0].state() for service in services}


def status(services: Sequence[Service], remote: Remote = no_remote) -> dict[str, bool]:
    """Whether each service is up. True for everything that is not at rest: what may still write, or may start again.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return {name: not state.at_rest for name, state in states(services, remote).items()}


def may_control(service: Service, remote: Remote = no_remote) -> str:
    """Why orders to the service would be refused; empty where nothing says so. Changes nothing.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return _controller(service, remote)[0].may_control()


def environment(service: Service, remote: Remote = no_remote) -> Mapping[str, str] | None:
    """The environment of its running process, which holds secrets; None where it cannot be seen.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return _controller(service, remote)[0].environment()


def kept_logs(
    services: Sequence[Service], secrets: Collection[str] = (), remote: Remote = no_remote
) -> tuple[dict[str, str], dict[str, str]]:
    """The last megabytes of each service's log, masked: what an inquiry wants to see of the time before.

    Args:
        secrets: Known ones, taken out wherever they stand.

    Returns:
        Service to its log, and service to the reason why there is none. Raises nothing: it must not be in anybody's way.
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


class _Told:
    """One service and the order that it has been given."""

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
        # What runs already must go on running too: it may be one that ends and is started again and again.
        sure = self.already and (order == "stop" or self.controller.steady_seconds == 0)
        self.result: ServiceResult | None = self._result(self.was) if sure else None

    def tell(self) -> None:
        """Give the order; what it may take is what is left of the time."""
        left = max(self._deadline - time.monotonic(), _PAUSE)
        try:
            if self.order == "stop":
                self.controller.stop(left)
            else:
                self.controller.start(left)
        except Disobeyed as disobeyed:
            raise self._failure(str(disobeyed)) from None

    def look(self) -> None:
        """Set ``result`` when it has obeyed; raise when it did not in time, or never will."""
        late = time.monotonic() >= self._deadline
        state = self.controller.state()
        if self._obeyed(state):
            if self._steady(state):
                self.result = self._result(state)
                log.info("%s", self.result.summary)
            return
        if self.order == "stop":
            if time.monotonic() < self._deadline - _ORDER_SECONDS and self.controller.must_stop_again(state):
                self.tell()
        elif self.controller.hopeless(state) or self._steady_since is not None:
            self._quieten(state)
            raise self._failure(str(state))
        if late:
            raise self._failure(str(state))

    def look_again(self) -> None:
        """Raise when it has changed since."""
        state = self.controller.state()
        if not self._obeyed(state):
            raise self._failure(str(state), "It had obeyed and then changed; see who or what did that.")

    def _obeyed(self, state: State) -> bool:
        return state.at_rest if self.order == "stop" else state.running

    def _steady(self, state: State) -> bool:
        """Whether it has been seen running long enough, in one and the same start."""
        now = time.monotonic()
        if self.order == "stop":
            return True
        if self._steady_since is None:
            self._steady_since, self._start = now, state.start
        if state.start != self._start:
            self._quieten(state)
            raise self._failure(f"{state}, started anew: it ended within {self.controller.steady_seconds:g} s")
        return now - self._steady_since >= self.controller.steady_seconds

    def _result(self, state: State) -> ServiceResult:
        name = "stopped" if self.order == "stop" else state.name
        return ServiceResult(self.service.name, self.was.name, name, self.already, round(time.monotonic() - self._begun, 3))

    def _quieten(self, state: State) -> None:
        """Stop what would go on trying to start. How it failed matters more than whether that succeeds."""
        deadline = time.monotonic() + _QUIET_SECONDS
        try:
            while not state.at_rest and time.monotonic() < deadline:
                if self.controller.must_stop_again(state):
                    self.controller.stop(_QUIET_SECONDS)
                time.sleep(_PAUSE)
                state = self.controller.state()
        except (Disobeyed, CutoverError) as error:
            log.warning("%s may come up later: %s", self.service.name, error)

    def _failure(self, found: str, do: str = "Look at its log; then run this step again.") -> StepFailed:
        source, last = _last_lines(self.service, self.controller, self._runner)
        text = "\n".join(f"  {line}" for line in last)
        return StepFailed(
            f"the service did not {self.order}",
            where=f"service {self.service.name}, {self.controller.where}",
            expected=f"{'at rest' if self.order == 'stop' else 'running'} within {self._seconds} s",
            found=f"{found}; last lines of {source}:\n{text}\n" if last else f"{found}; {source} is empty",
            do=do,
        )


def _all(services: list[Service], order: str, remote: Remote) -> list[ServiceResult]:
    told: list[_Told] = []
    try:
        for service in services:
            if order == "stop" and service.wait:
                _wait(told)
            told.append(_Told(service, order, remote))
            if not told[-1].already:
                told[-1].tell()
            if order == "start" and service.wait:
                _wait(told)
        _wait(told)
    except CutoverError as error:
        done = ", ".join(item.result.summary for item in told if item.result is not None)
        if done:
            error.do = f"{error.do} Before it: {done}.".strip()
        raise
    # What was done first may have changed while the others were waited for.
    for item in told:
        item.look_again()
    return [item.result for item in told if item.result is not None]


def _wait(told: Sequence[_Told]) -> None:
    """Until all have obeyed. The first that does not ends the waiting."""
    while True:
        for item in told:
            if item.result is None:
                item.look()
        if all(item.result is not None for item in told):
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
    """Where the log is, and its last lines, masked."""
    source = "its output" if service.log is None else str(service.log)
    try:
        text = _log_text(service, controller, runner, LOG_BYTES)
    except OSError as error:
        return f"{source} (not readable: {error.strerror})", []
    except CutoverError as error:  # how the service failed matters more
        return f"{source} (not readable: {error.found or error.message})", []
    return source, lines(text)[-LOG_LINES:]


def _log_text(service: Service, controller: Controller, runner: Runner, limit: int) -> str:
    """The end of a service's log, where it is."""
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
    """Without the first line where it may be a part of one: a part of a secret is not recognised."""
    return text if len(text.encode()) < limit else text.partition("\n")[2]
