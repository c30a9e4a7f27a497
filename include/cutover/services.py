"""The application's services: stopped in the reverse order of the plan, started in its order, and looked at afterwards.

Whether a service obeyed is never taken from the answer to the order; the service is looked at until it is at rest, or
runs. Orders are bounded by ``stop_seconds`` and ``start_seconds`` of the service, every single request and command too.

A command that leaves a process behind should redirect that process's output: what it inherits is a file without a name.
"""

from __future__ import annotations

import base64
import http.client
import logging
import os
import signal
import subprocess
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit
from xml.parsers.expat import ExpatError

from include.cutover.errors import CannotCheck, CutoverError, StepFailed, Unreachable
from include.cutover.masking import mask
from include.cutover.plan import CommandControl, Service, SupervisorControl

log = logging.getLogger(__name__)

LOG_LINES = 20
_LOG_BYTES = 64 * 1024
_KEPT_BYTES = 8 << 20
_LINE_LENGTH = 300
_REQUEST_SECONDS = 5.0
_STATUS_SECONDS = 10.0
_PAUSE = 0.1

# Faults of supervisord's interface, see supervisor/xmlrpc.py.
_SHUTDOWN_STATE, _BAD_NAME, _ALREADY_STARTED, _NOT_RUNNING = 6, 10, 60, 70
# supervisord starts an exited program again within its next turn of a second, when it does so at all.
_RESTART_SECONDS = 2


@dataclass(frozen=True)
class State:
    """What a service does now.

    Attributes:
        name: ``running``, ``stopped``, or a state of supervisord in lower case (``starting``, ``stopping``, ``backoff``,
            ``exited``, ``fatal``, ``unknown``).
        running: It runs and is past its start.
        at_rest: It does not run and will not start by itself. Neither holds for what is between the two.
        detail: What its supervisor says about it, masked.
    """

    name: str
    running: bool
    at_rest: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name


@dataclass(frozen=True)
class ServiceResult:
    """What became of one service.

    Attributes:
        was: State before, e.g. ``running``.
        now: State after.
        already: It was in the wanted state before; nothing was ordered.
        seconds: How long it took.
        last_log: Its last lines of log, masked; empty where there is none.
    """

    name: str
    was: str
    now: str
    already: bool
    seconds: float
    last_log: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One phrase for a person."""
        if self.already:
            return f"{self.name} was already {self.now}"
        return f"{self.name} is {self.now} after {self.seconds:.1f} s"


def stop(services: Sequence[Service]) -> list[ServiceResult]:
    """Stop the services, the last of the plan first, and confirm that all of them rest.

    Safe to run again: what rests already is left alone and said so.

    Raises:
        StepFailed: When a service does not stop in time, or one that had stopped runs again. Services before it in the
            plan were not touched then.
        Unreachable: When what controls a service does not answer.
        CannotCheck: When it answers and the state of a service cannot be told.
    """
    return _each(list(reversed(services)), "stop")


def start(services: Sequence[Service]) -> list[ServiceResult]:
    """Start the services in the order of the plan, each after the one before runs, and confirm that all of them run.

    Safe to run again: what runs already is left alone and said so. A program that supervisord would go on trying to start
    is stopped, so that it does not come up later, unasked.

    Raises:
        StepFailed: When a service does not run in time, ends or fails. Services after it were not started then.
        Unreachable: When what controls a service does not answer.
        CannotCheck: When it answers and the state of a service cannot be told.
    """
    return _each(list(services), "start")


def states(services: Sequence[Service]) -> dict[str, State]:
    """The state of each service, in the order given.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return {service.name: _controller(service).state() for service in services}


def status(services: Sequence[Service]) -> dict[str, bool]:
    """Whether each service is up. True for everything that is not at rest: what may still write, or may start again.

    Raises:
        Unreachable, CannotCheck: As ``stop``.
    """
    return {name: not state.at_rest for name, state in states(services).items()}


def kept_logs(services: Sequence[Service], secrets: Collection[str] = ()) -> tuple[dict[str, str], dict[str, str]]:
    """The last megabytes of each service's log, masked: what an inquiry wants to see of the time before.

    Args:
        secrets: Known ones, taken out wherever they stand.

    Returns:
        Service to its log, and service to the reason why there is none. Raises nothing: it must not be in anybody's way.
    """
    found, missing = {}, {}
    for service in services:
        try:
            text = _tail(service.log, _KEPT_BYTES) if service.log is not None else _controller(service).output()
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


class _Disobeyed(Exception):
    """The service did not do what it was told; the text says what it does instead."""


class _Controller(Protocol):
    where: str

    def state(self) -> State: ...

    def stop(self, deadline: float) -> None: ...

    def start(self, deadline: float) -> None: ...

    def output(self) -> str: ...


def _each(services: list[Service], order: str) -> list[ServiceResult]:
    results: list[ServiceResult] = []
    for service in services:
        try:
            results.append(_one(service, order))
        except CutoverError as error:
            if results:
                done = ", ".join(result.summary for result in results)
                error.do = f"{error.do} Before it: {done}.".strip()
            raise
        log.info("%s", results[-1].summary)
    # What was done first may have changed while the others were waited for.
    for service in services:
        controller = _controller(service)
        state = controller.state()
        if not _obeyed(state, order):
            raise _failure(
                service, controller, order, str(state), "It had obeyed and then changed; see who or what did that."
            )
    return results


def _obeyed(state: State, order: str) -> bool:
    return state.at_rest if order == "stop" else state.running


def _one(service: Service, order: str) -> ServiceResult:
    controller = _controller(service)
    begun = time.monotonic()
    was = controller.state()
    already = _obeyed(was, order)
    if not already:
        try:
            if order == "stop":
                controller.stop(begun + service.stop_seconds)
            else:
                controller.start(begun + service.start_seconds)
        except _Disobeyed as disobeyed:
            raise _failure(
                service, controller, order, str(disobeyed), "Look at its log; then run this step again."
            ) from None
    now = controller.state()
    name = "stopped" if order == "stop" else now.name
    return ServiceResult(
        service.name, was.name, name, already, round(time.monotonic() - begun, 3), tuple(_last_lines(service, controller)[1])
    )


def _failure(service: Service, controller: _Controller, order: str, found: str, do: str) -> StepFailed:
    source, lines = _last_lines(service, controller)
    text = "\n".join(f"  {line}" for line in lines)
    seconds = service.stop_seconds if order == "stop" else service.start_seconds
    return StepFailed(
        f"the service did not {order}",
        where=f"service {service.name}, {controller.where}",
        expected=f"{'at rest' if order == 'stop' else 'running'} within {seconds} s",
        found=f"{found}; last lines of {source}:\n{text}\n" if lines else f"{found}; {source} is empty",
        do=do,
    )


def _last_lines(service: Service, controller: _Controller) -> tuple[str, list[str]]:
    """Where the log is, and its last lines, masked before they are cut."""
    if service.log is not None:
        source = str(service.log)
        try:
            text = _tail(service.log)
        except OSError as error:
            return f"{source} (not readable: {error.strerror})", []
    else:
        source, text = "its output", controller.output()
    lines = [_printable(line)[:_LINE_LENGTH] for line in mask(text).splitlines()]
    return source, [line for line in lines if line.strip()][-LOG_LINES:]


def _tail(path: Path, limit: int = _LOG_BYTES) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit))
        content = file.read(limit)
    if size > limit:  # the first line is a part of one, and a part of a secret is not recognised
        content = content.partition(b"\n")[2]
    return content.decode("utf-8", errors="replace")


def _printable(line: str) -> str:
    """Without control characters: log lines end up on terminals."""
    return "".join(character if character.isprintable() else " " for character in line).rstrip()


def _controller(service: Service) -> _Controller:
    if isinstance(service.control, SupervisorControl):
        return _Supervisor(service.control)
    return _Commands(service.control)


def _wait(deadline: float, look: Callable[[], bool]) -> bool:
    """Look until it is so; at least once, and once more at the deadline."""
    while True:
        late = time.monotonic() >= deadline
        if look():
            return True
        if late:
            return False
        time.sleep(_PAUSE)


class _Transport(xmlrpc.client.Transport):
    """HTTP with a time limit for connecting and for every read."""

    connection_class: type[http.client.HTTPConnection] = http.client.HTTPConnection

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._connection and host == self._connection[0] and self._connection[1] is not None:
            return self._connection[1]
        address, self._extra_headers, _ = self.get_host_info(host)
        self._connection = host, self.connection_class(address, timeout=_REQUEST_SECONDS)
        return self._connection[1]


class _SecureTransport(_Transport):
    connection_class = http.client.HTTPSConnection


class _Supervisor:
    """One program under supervisord."""

    def __init__(self, control: SupervisorControl) -> None:
        parts = urlsplit(control.url)
        address = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit(parts._replace(netloc=address))
        self.where = f"program {control.program} of supervisord at {self.url}"
        self._program = control.program
        headers = []
        if control.password_env is not None:
            password = os.environ.get(control.password_env)
            if not password:
                raise CannotCheck(
                    "the password of supervisord's interface is not set",
                    where=self.where,
                    expected=f"the environment variable {control.password_env}",
                    do="Set it where the tasks run, from the secret store.",
                )
            token = base64.b64encode(f"{control.username}:{password}".encode()).decode()
            headers.append(("Authorization", f"Basic {token}"))
        transport = (_SecureTransport if parts.scheme == "https" else _Transport)(headers=headers)
        # The URL may carry a log-in of its own, which xmlrpc would use; what the plan names comes from the environment.
        url = self.url if headers else control.url
        self._server = xmlrpc.client.ServerProxy(url, transport=transport, allow_none=True)

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _SHUTDOWN_STATE:
                raise Unreachable(
                    "supervisord is shutting down", where=self.where, do="Start supervisord; then run this step again."
                ) from None
            if fault.faultCode == _BAD_NAME:
                raise CannotCheck(
                    "supervisord does not know the program",
                    where=self.where,
                    expected=f"a program {self._program}",
                    do="Compare the plan's services with 'supervisorctl status'.",
                ) from None
            raise
        except xmlrpc.client.ProtocolError as error:
            if error.errcode in (401, 403):
                raise CannotCheck(
                    "supervisord refuses the log-in",
                    where=self.where,
                    found=f"status {error.errcode}",
                    do="Compare user name and password with supervisord's [inet_http_server].",
                ) from None
            raise self._unreachable(f"status {error.errcode} {error.errmsg}") from None
        except (ExpatError, xmlrpc.client.ResponseError):
            raise self._unreachable("an answer that is not XML-RPC") from None
        except TimeoutError:
            raise self._unreachable(f"no answer in {_REQUEST_SECONDS:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(f"{type(error).__name__}: {error}") from None

    def _unreachable(self, found: str) -> Unreachable:
        return Unreachable(
            "supervisord does not answer",
            where=self.where,
            found=mask(found),
            do="Check that supervisord runs and that the plan names its [inet_http_server].",
        )

    def state(self) -> State:
        info = self._ask("getProcessInfo", self._program)
        name = str(info["statename"]).lower()
        # A program that exited by itself a moment ago may be started again by supervisord's autorestart.
        at_rest = name in ("stopped", "fatal") or (name == "exited" and abs(info["now"] - info["stop"]) >= _RESTART_SECONDS)
        detail = info["spawnerr"] or (info["description"] if name not in ("running", "stopped") else "")
        return State(name, running=name == "running", at_rest=at_rest, detail=mask(str(detail)))

    def stop(self, deadline: float) -> None:
        def rests() -> bool:
            state = self.state()
            if not state.at_rest and state.name not in ("stopping", "exited"):
                # Also when it was ordered before: it may have been started again between two looks.
                self._order("stopProcess", _NOT_RUNNING)
            return state.at_rest

        if not _wait(deadline, rests):
            raise _Disobeyed(str(self.state()))

    def start(self, deadline: float) -> None:
        state = self.state()
        if state.name in ("backoff", "stopping"):  # what is left of an earlier order
            self.stop(deadline)
        if state.name != "starting":
            self._order("startProcess", _ALREADY_STARTED)
        seen = self.state()

        def decided() -> bool:
            nonlocal seen
            seen = self.state()
            return seen.name != "starting"

        _wait(deadline, decided)
        if seen.running:
            return
        if seen.name == "backoff":
            self.stop(time.monotonic() + _REQUEST_SECONDS)
        raise _Disobeyed(str(seen))

    def _order(self, method: str, harmless: int) -> None:
        try:
            self._ask(method, self._program, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != harmless:
                raise _Disobeyed(f"supervisord refuses: {mask(fault.faultString)}") from None

    def output(self) -> str:
        parts = []
        for stream in ("Stdout", "Stderr"):
            try:
                parts.append(str(self._ask(f"tailProcess{stream}Log", self._program, 0, _LOG_BYTES)[0]))
            except (xmlrpc.client.Fault, CutoverError):
                continue  # there is no such log; the failure that is told matters more
        return "\n".join(parts)


class _Commands:
    """A service that is driven by commands."""

    def __init__(self, control: CommandControl) -> None:
        self.where = f"command {control.status[0]}"
        self._control = control
        self._output = ""

    def state(self) -> State:
        code = self._run(self._control.status, _STATUS_SECONDS)
        if code is None:
            raise Unreachable(
                "the status command does not end",
                where=self.where,
                expected=f"an exit status within {_STATUS_SECONDS:.0f} s",
                found=self._excerpt(),
                do="Run it by hand and see what it waits for.",
            )
        if code < 0 or code in (126, 127):
            raise CannotCheck(
                "the status command failed",
                where=self.where,
                expected="exit status 0 when the service runs, another when it does not",
                found=f"{_exit(code)}, {self._excerpt()}",
                do="Run it by hand as the user of the tasks.",
            )
        return State("running" if code == 0 else "stopped", running=code == 0, at_rest=code != 0)

    def stop(self, deadline: float) -> None:
        self._order(self._control.stop, deadline, lambda: self.state().at_rest, "it still runs")

    def start(self, deadline: float) -> None:
        self._order(self._control.start, deadline, lambda: self.state().running, "it does not run")

    def _order(self, command: Sequence[str], deadline: float, done: Callable[[], bool], otherwise: str) -> None:
        seconds = max(deadline - time.monotonic(), _PAUSE)
        code = self._run(command, seconds)
        if code is None:
            raise _Disobeyed(f"the command {command[0]} did not end in {seconds:.0f} s and was killed: {self._excerpt()}")
        if code != 0:
            raise _Disobeyed(f"the command {command[0]} ended with {_exit(code)}: {self._excerpt()}")
        ordered = self._output
        if not _wait(deadline, done):
            self._output = ordered + self._output
            raise _Disobeyed(f"{otherwise} after the command {command[0]}")

    def _run(self, command: Sequence[str], seconds: float) -> int | None:
        """Exit status, None when it took too long. Its whole process group is killed then, or when this is interrupted."""
        # A file and not a pipe: a service that the command leaves behind would keep a pipe open, and us waiting.
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True, env=_environment(),
                )  # fmt: skip
            except OSError as error:
                raise CannotCheck(
                    "a command of the plan cannot be run",
                    where=str(command[0]),
                    found=error.strerror or type(error).__name__,
                    do="Name programs that the user of the tasks may run.",
                ) from None
            try:
                code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                _kill(process)
                code = None
            except BaseException:
                _kill(process)
                raise
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - _LOG_BYTES))
            self._output = output.read(_LOG_BYTES).decode("utf-8", errors="replace")
        return code

    def _excerpt(self) -> str:
        lines = [_printable(line) for line in mask(self._output).splitlines() if line.strip()]
        return " | ".join(lines[-3:])[:_LINE_LENGTH] or "no output"

    def output(self) -> str:
        return self._output


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not waited for: the group's number is still taken, no other group can be hit
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _environment() -> dict[str, str]:
    """Ours, without Airflow's settings and connections: a service started from here must not inherit those secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW"))}
