"""A TCP proxy that can fail the way networks do: cut, fall silent, crawl, refuse."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal

How = Literal["pass", "cut", "silent", "slow", "refuse"]

SLOW_SECONDS = 0.05
_SLOW_BYTES = 8192


class Proxy:
    """Forwards connections to a port of this machine, until it has to fail.

    Args:
        port: Where to.
        after: So many bytes of a connection reach the server before ``how`` begins.
        how: See ``fail``.
    """

    def __init__(self, port: int, after: int = 0, how: How = "pass") -> None:
        self._target, self._after, self.how = port, after, how
        self._open: list[socket.socket] = []
        self.port = 0
        self._listen()

    def fail(self, how: How) -> None:
        """From now on connections are cut, fall silent in both directions, crawl, or are refused; open ones too."""
        if self.how == "refuse" and how != "refuse":
            self._listen()
        self._after, self.how = 0, how
        if how == "refuse":
            self._listening.close()
        if how in ("cut", "refuse"):
            self._end()

    def mend(self) -> None:
        """Forward new connections again. One that fell silent stays silent."""
        self.fail("pass")

    def close(self) -> None:
        """Listen no more, and end every connection."""
        self._listening.close()
        self._end()

    def _listen(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _end(self) -> None:
        while self._open:
            item = self._open.pop()
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            if self.how == "refuse":  # it was in the queue of the closed socket
                near.close()
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            for one, other, to_server in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._forward, args=(one, other, to_server), daemon=True).start()

    def _forward(self, one: socket.socket, other: socket.socket, to_server: bool) -> None:
        passed = 0
        try:
            while data := one.recv(65536):
                passed += len(data)
                failing = self.how != "pass" and (not self._after or (to_server and passed > self._after))
                if failing and self.how == "cut":
                    break
                if failing and self.how == "silent":
                    return
                if failing and self.how == "slow":
                    for start in range(0, len(data), _SLOW_BYTES):
                        time.sleep(SLOW_SECONDS)
                        other.sendall(data[start : start + _SLOW_BYTES])
                else:
                    other.sendall(data)
            else:
                other.shutdown(socket.SHUT_WR)
                return
        except OSError:
            pass  # reset by one end: the other one hears of it too
        for item in (one, other):
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
