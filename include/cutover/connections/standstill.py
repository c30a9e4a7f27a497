"""A process that stood still while it waited: a limit that passed meanwhile says nothing about the other side."""

from __future__ import annotations

import threading
import time
from typing import Self

NOTED_SECONDS = 2.0
"""A shorter standstill is that of a busy machine."""
_TICK_SECONDS = 0.2


class Standstill:
    """A watch, as a context manager: a process stands still that is stopped, or whose machine is paused or overloaded."""

    def __init__(self) -> None:
        self._longest, self._last = 0.0, time.monotonic()
        self._over = threading.Event()

    @property
    def noted(self) -> bool:
        """Return True when the process stood still for ``NOTED_SECONDS`` or longer since the watch began."""
        return max(self._longest, time.monotonic() - self._last) >= NOTED_SECONDS

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="standstill", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(_TICK_SECONDS):
            now = time.monotonic()
            self._longest, self._last = max(self._longest, now - self._last), now
