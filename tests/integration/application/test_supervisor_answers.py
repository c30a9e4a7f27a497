"""A server in supervisord's place: its answer never ends, which is limited; or it comes while the step stands still."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from xmlrpc.server import SimpleXMLRPCServer

import pytest

from include.cutover.application import services
from include.cutover.application.control import supervisor
from include.cutover.connections import standstill
from include.cutover.errors import Unreachable
from include.cutover.plan.application import Service, SupervisorControl

BEGIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def endless(part: bytes, pause: float) -> Iterator[Service]:
    """A service under a server that answers in chunks without an end."""
    server = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(BEGIN)
            while not ending.wait(pause):
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))

    threading.Thread(target=serve, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/RPC2"
        yield Service(name="api", control=SupervisorControl(kind="supervisor", url=url, program="api"))
    finally:
        ending.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_answer_without_an_end_is_cut_off() -> None:
    tracemalloc.start()
    try:
        with endless(b" " * 60_000, 0.0) as service, pytest.raises(Unreachable, match=r"an answer of more than \d+ MB"):
            services.states([service])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def test_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "REQUEST_SECONDS", 0.5)
    with endless(b" ", 0.02) as service, pytest.raises(Unreachable, match="no answer in"):
        services.states([service])


INFO = {"statename": "RUNNING", "now": 9, "stop": 0, "start": 1, "spawnerr": "", "description": ""}


@pytest.mark.parametrize("stops", [1, 2])
def test_a_step_that_stood_still_asks_once_more(monkeypatch: pytest.MonkeyPatch, stops: int) -> None:
    """Its time limit passed while it was stopped, as on a machine that is paused; the answer was there all the time."""
    monkeypatch.setattr(supervisor, "REQUEST_SECONDS", 1.0)
    requests = 0

    def info(_: str) -> dict[str, object]:
        nonlocal requests
        requests += 1
        if requests <= stops:
            time.sleep(0.3)
            os.kill(step.pid or 0, signal.SIGSTOP)
            time.sleep(standstill.NOTED_SECONDS + 0.5)
            os.kill(step.pid or 0, signal.SIGCONT)
            time.sleep(0.3)
        return INFO

    with SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
        server.register_function(info, "supervisor.getProcessInfo")  # type: ignore[arg-type]
        url = f"http://127.0.0.1:{server.server_address[1]}/RPC2"
        service = Service(name="api", control=SupervisorControl(kind="supervisor", url=url, program="api"))
        fork = multiprocessing.get_context("fork")
        said = fork.SimpleQueue()

        def ask() -> None:
            try:
                said.put(services.states([service])["api"].name)
            except Unreachable as error:
                said.put(error.found)

        step = fork.Process(target=ask)
        step.start()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert said.get() == ("running" if stops == 1 else "no answer in 1 s")
        finally:
            server.shutdown()
            step.join()
