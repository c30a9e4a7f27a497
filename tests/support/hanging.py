"""Servers that hang: a proxy that falls silent, a process that is stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator

from tests.support.proxy import How, Proxy


@contextlib.contextmanager
def through_proxy(conninfo: str, after: int, how: How = "silent") -> Iterator[str]:
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
