"""Gives up a connection whose other side is silent."""

from __future__ import annotations

import logging
import math
import threading
import time

from include.cutover.target import session as target_session

log = logging.getLogger(__name__)


class Watchdog:
    """Shuts a connection's socket down when the other side is silent for too long.

    A peer that is there but silent (a hung proxy, a stopped server) keeps libpq waiting for ever; no setting of it helps.
    The wait then ends with a broken connection, and the server rolls back.

    Attributes:
        seconds: How long the other side may be silent.
    """

    def __init__(self, connection: target_session.Connection, seconds: float) -> None:
        self.seconds = seconds
        self._connection = connection
        self._moved = math.inf
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="copy watchdog", daemon=True)

    def moved(self) -> None:
        """Start to wait for the other side: something was just sent or answered."""
        self._moved = time.monotonic()

    def rest(self) -> None:
        """Stop waiting until the next ``moved``: a slow disk of our own is not the other side's silence."""
        self._moved = math.inf

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self._moved > self.seconds:
                log.error("the target was silent for %g s: closing the connection", self.seconds)
                self._connection.cut()
                return
