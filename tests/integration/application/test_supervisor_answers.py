"""A server in supervisord's place whose answer never ends: the time and the memory that it takes are limited."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from include.cutover.application import services
from include.cutover.application.control import supervisor
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
