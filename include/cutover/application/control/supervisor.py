"""A program under supervisord, over its XML-RPC interface."""

from __future__ import annotations

import base64
import http.client
import os
import time
import xmlrpc.client
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from xml.parsers.expat import ExpatError

from include.cutover.application.control.controller import LOG_BYTES, Disobeyed, ServiceState, environment_of
from include.cutover.connections.commands import Runner
from include.cutover.connections.standstill import once_more
from include.cutover.errors import CannotCheck, CutoverError, Unreachable
from include.cutover.masking import mask
from include.cutover.plan.application import SupervisorControl

REQUEST_SECONDS = 5.0
ANSWER_SIZE = 4 * 1024 * 1024
"""Bytes of one answer, which holds ``LOG_BYTES`` of a log at most."""
_PAUSE = 0.1

# Faults of supervisord's interface, see supervisor/xmlrpc.py.
_SHUTDOWN_STATE, _BAD_NAME, _ALREADY_STARTED, _NOT_RUNNING = 6, 10, 60, 70
# supervisord starts an exited program again within its next turn of a second, when it does so at all.
_RESTART_SECONDS = 2


class _Answer(http.client.HTTPResponse):
    """An answer that is read for ``REQUEST_SECONDS``, and to ``ANSWER_SIZE``."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._left, self._end = ANSWER_SIZE, time.monotonic() + REQUEST_SECONDS

    def read(self, amt: int | None = None) -> bytes:
        found = super().read(self._left + 1 if amt is None else amt)
        self._left -= len(found)
        if self._left < 0:
            raise http.client.HTTPException(f"an answer of more than {ANSWER_SIZE >> 20} MB")
        if time.monotonic() > self._end:
            raise TimeoutError
        return found


class _Transport(xmlrpc.client.Transport):
    """HTTP with a time limit for connecting and for every read, from this host or from another."""

    accept_gzip_encoding = False  # a small answer could become a large one

    def __init__(self, runner: Runner, headers: list[tuple[str, str]]) -> None:
        super().__init__(headers=headers)
        self._runner = runner

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._connection and host == self._connection[0] and self._connection[1] is not None:
            return self._connection[1]
        address, self._extra_headers, _ = self.get_host_info(host)
        self._connection = host, self._to(address)
        return self._connection[1]

    def _to(self, address: str) -> http.client.HTTPConnection:
        return _From(self._runner, address)


class _From(http.client.HTTPConnection):
    """A connection from the host of the runner."""

    response_class = _Answer

    def __init__(self, runner: Runner, address: str) -> None:
        super().__init__(address, timeout=REQUEST_SECONDS)
        self._runner = runner

    def connect(self) -> None:
        self.sock = self._runner.tunnel(self.host, self.port, REQUEST_SECONDS)


class _Secure(http.client.HTTPSConnection):
    """A connection with TLS, from this host."""

    response_class = _Answer


class _SecureTransport(_Transport):
    def _to(self, address: str) -> http.client.HTTPConnection:
        return _Secure(address, timeout=REQUEST_SECONDS)


class Supervisor:
    """See ``plan.SupervisorControl``. Its ``startsecs`` decide when a program is past its start."""

    steady_seconds = 0.0

    def __init__(self, control: SupervisorControl, runner: Runner) -> None:
        """Send no request yet.

        Raises:
            CannotCheck: When the password is not set.
        """
        parts = urlsplit(control.url)
        address = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit(parts._replace(netloc=address))
        self.where = f"program {control.program} of supervisord at {self.url} {runner.where}".strip()
        self._program, self._runner = control.program, runner
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
        transport = (_SecureTransport if parts.scheme == "https" else _Transport)(runner, headers)
        # The URL may carry a log-in of its own, which xmlrpc would use; what the plan names comes from the environment.
        url = self.url if headers else control.url
        self._server = xmlrpc.client.ServerProxy(url, transport=transport, allow_none=True)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Return the answer of a method. Each may be called twice: an order that was obeyed already does no harm."""
        return once_more(lambda: self._request(method, *arguments), Unreachable, self.where)

    def _request(self, method: str, *arguments: Any) -> Any:
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
            raise self._unreachable(f"no answer in {REQUEST_SECONDS:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(f"{type(error).__name__}: {error}") from None

    def _unreachable(self, found: str) -> Unreachable:
        return Unreachable(
            "supervisord does not answer",
            where=self.where,
            found=mask(found),
            do="Check that supervisord runs and that the plan names its [inet_http_server].",
        )

    def state(self) -> ServiceState:
        """Read its process information. A program that exited by itself a moment ago may be started again."""
        info = self._ask("getProcessInfo", self._program)
        name = str(info["statename"]).lower()
        at_rest = name in ("stopped", "fatal") or (name == "exited" and abs(info["now"] - info["stop"]) >= _RESTART_SECONDS)
        detail = info["spawnerr"] or (info["description"] if name not in ("running", "stopped") else "")
        return ServiceState(
            name,
            running=name == "running",
            at_rest=at_rest,
            failing=name in ("backoff", "fatal", "unknown"),
            detail=mask(str(detail)),
            start=str(info["start"]),
        )

    def stop(self, seconds: float) -> None:
        """Order it to stop; supervisord kills it after its ``stopwaitsecs``."""
        self._order("stopProcess", _NOT_RUNNING)

    def must_stop_again(self, state: ServiceState) -> bool:
        """Return True when it was started again meanwhile."""
        return not state.at_rest and state.name not in ("stopping", "exited")

    def hopeless(self, state: ServiceState) -> bool:
        """Return True when it ended, or supervisord tries again."""
        return state.name not in ("starting", "running")

    def start(self, seconds: float) -> None:
        """Order it to start, after an earlier order has ended."""
        deadline = time.monotonic() + seconds
        state = self.state()
        if state.name in ("backoff", "stopping"):
            while not state.at_rest and time.monotonic() < deadline:
                if self.must_stop_again(state):
                    self.stop(seconds)
                time.sleep(_PAUSE)
                state = self.state()
        if state.name != "starting":
            self._order("startProcess", _ALREADY_STARTED)

    def may_control(self) -> str:
        """Return no reason: every user of supervisord's interface may give orders."""
        return ""

    def environment(self) -> Mapping[str, str] | None:
        """Return the environment of the process that supervisord started, where it runs."""
        return environment_of(self._runner, int(self._ask("getProcessInfo", self._program)["pid"]))

    def _order(self, method: str, harmless: int) -> None:
        try:
            self._ask(method, self._program, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != harmless:
                raise Disobeyed(f"supervisord refuses: {mask(fault.faultString)}") from None

    def output(self) -> str:
        """Return supervisord's logs of its output and errors."""
        parts = []
        for stream in ("Stdout", "Stderr"):
            try:
                parts.append(str(self._ask(f"tailProcess{stream}Log", self._program, 0, LOG_BYTES)[0]))
            except (xmlrpc.client.Fault, CutoverError):
                continue  # there is no such log; the reported failure matters more
        return "\n".join(parts)
