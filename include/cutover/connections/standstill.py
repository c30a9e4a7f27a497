"""A process that stood still while it waited: a limit that passed meanwhile says nothing about the other side."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Self, TypeVar

log = logging.getLogger(__name__)

NOTED_SECONDS = 2.0
"""A shorter standstill is that of a busy machine."""
_TICK_SECONDS = 0.2

_Answer = TypeVar("_Answer")


def once_more(request: Callable[[], _Answer], given_up: type[Exception], where: str) -> _Answer:
    """Return the answer of a request; repeat it once where it was given up while this process stood still.

    Args:
        request: Carries it out; twice must do no harm.
        given_up: The error that it raises when there is no answer in time.
        where: Its other side, for the log.
    """
    with _Standstill() as standstill:
        try:
            return request()
        except given_up:
            if not standstill.noted:
                raise
    log.warning("%s: this process stood still during a request, so it is repeated", where)
    return request()


class _Standstill:
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
