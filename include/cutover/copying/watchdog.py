"""Gives up a connection whose other side is silent, and reports a commit that waits for a standby."""

from __future__ import annotations

import logging
import math
import threading
import time

from include.cutover.errors import Unreachable
from include.cutover.target import session as target_session
from include.cutover.target import waits

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0


class Watchdog:
    """Shuts a connection's socket down when the other side is silent for too long.

    A peer that is there but silent (a hung proxy, a stopped server) keeps libpq waiting for ever; no setting of it helps.
    The wait then ends with a broken connection, and the server rolls back.

    Where the server is silent because a commit waits for a synchronous standby, it says so after ``LOOK_SECONDS``, over
    another session. Such a commit has taken place on the server; it becomes visible when the wait ends.

    Args:
        connection: The connection.
        seconds: How long the other side may be silent.
        conninfo: The target, for the other session.

    Attributes:
        seconds: As given.
    """

    def __init__(self, connection: target_session.Connection, seconds: float, conninfo: str) -> None:
        self.seconds = seconds
        self._connection, self._conninfo = connection, conninfo
        self._pid = waits.backend(connection)
        self._moved = math.inf
        self._found: tuple[float, str] = (math.inf, "")  # a reason, and the silence that it belongs to
        self._looking: threading.Thread | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="copy watchdog", daemon=True)

    def moved(self) -> None:
        """Start to wait for the other side: something was just sent or answered."""
        self._moved = time.monotonic()

    def rest(self) -> None:
        """Stop waiting until the next ``moved``: a slow disk of our own is not the other side's silence."""
        self._moved = math.inf

    def reason(self) -> Unreachable | None:
        """Return the error for a connection that was given up; None where only the other side's silence is known."""
        moved, found = self._found
        if not found or moved != self._moved:
            return None
        return Unreachable(
            "a commit on the target waits for a synchronous standby",
            expected=f"its confirmation within {self.seconds:g} s",
            found=f"{found}, and none of these standbys confirms",
            do=f"{waits.REMEDY} Then run the step again: it continues.",
        )

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = min(LOOK_SECONDS, self.seconds / 3)
        while not self._over.wait(min(1.0, self.seconds / 4)):
            moved = self._moved
            silent = time.monotonic() - moved
            if silent > self.seconds:
                error = self.reason()
                log.error("the target was silent for %g s: closing the connection. %s", self.seconds, error or "")
                self._connection.cut()
                return
            if silent > pause and self._found[0] != moved and (self._looking is None or not self._looking.is_alive()):
                # In a thread of its own: a server that hangs answers this one neither.
                self._looking = threading.Thread(target=self._look, args=(moved,), name="copy watchdog", daemon=True)
                self._looking.start()

    def _look(self, moved: float) -> None:
        found = waits.look(self._conninfo, self._pid)
        if found and moved == self._moved:
            self._found = (moved, found)
            log.warning("a commit waits for a synchronous standby: %s. %s", found, waits.REMEDY)
