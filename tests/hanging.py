"""Servers that hang: a proxy that falls silent, a process that is stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """A TCP proxy that forwards so many bytes to the server and then either cuts the connection or falls silent."""

    def __init__(self, port: int, after: int, how: str) -> None:
        self._target, self._after, self._how = port, after, how
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for one, other, limit in ((near, far, self._after), (far, near, None)):
                    threading.Thread(target=self._forward, args=(one, other, limit), daemon=True).start()

    def _forward(self, one: socket.socket, other: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                passed += len(data)
                if limit is not None and passed > limit:
                    if self._how == "cut":
                        one.shutdown(socket.SHUT_RDWR)
                        other.shutdown(socket.SHUT_RDWR)
                    return
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for item in self._sockets:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)  # a thread that reads from it would keep it open
            item.close()


@contextlib.contextmanager
def through_proxy(conninfo: str, after: int, how: str = "silent") -> Iterator[str]:
    """The connection string by way of a ``Proxy``."""
    found = re.search(r"port=(\d+)", conninfo)
    assert found is not None
    proxy = Proxy(int(found[1]), after, how)
    try:
        yield conninfo.replace(found[0], f"port={proxy.port}")
    finally:
        proxy.close()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs during the block, as one does whose disk or machine does not answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
