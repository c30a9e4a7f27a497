"""Kernel locks on files: held by one process at a time, and released when it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from include.cutover import rights
from include.cutover.errors import StepFailed, Unreachable

log = logging.getLogger(__name__)

LOCK_SECONDS = 60.0
"""How long a lock is waited for."""

HUNG_SECONDS = 30.0
"""How long a brief lock may be held before its holder is killed."""


@contextmanager
def locked(path: Path, *, seconds: float = LOCK_SECONDS, brief: bool = False) -> Iterator[int]:
    """Hold an exclusive kernel lock on ``path`` (made where missing), and yield its descriptor.

    The lock ends with the process, in whichever way that ends.

    Args:
        path: The file.
        seconds: How long to wait for the lock.
        brief: All processes hold this lock for milliseconds only. A process of this host that still holds it after
            ``HUNG_SECONDS`` hangs, and is killed: every process here may be killed at any instant, and all others wait.

    Raises:
        Unreachable: When another process holds it for longer than ``seconds``.
        StepFailed: When this user may not open it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError as error:
        raise StepFailed(
            "the place cannot be written",
            where=str(path),
            found=rights.reason(error, path),
            do="Fix its owner or its rights, then run the step again.",
        ) from None
    try:
        lock(descriptor, path, seconds, brief=brief)
        yield descriptor
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path, seconds: float = LOCK_SECONDS, *, brief: bool = False) -> None:
    """Lock an open file until it is closed.

    Args:
        descriptor: The open file.
        path: Its path, for errors and the log.
        seconds: As for ``locked``.
        brief: As for ``locked``.

    Raises:
        Unreachable: As for ``locked``.
    """
    begun, pause, ended = time.monotonic(), 0.001, False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - begun
            if waited > seconds:
                raise Unreachable(
                    "another process keeps this file locked",
                    where=str(path),
                    expected=f"the lock within {seconds:g} s",
                    do="Find that process with lsof; kill it if it hangs, then run the step again.",
                ) from None
            if brief and waited > HUNG_SECONDS and not ended:
                ended = end_holders(descriptor, str(path))
            time.sleep(pause)
            pause = min(0.05, 2 * pause)


def end_holders(descriptor: int, what: str) -> bool:
    """Kill the other processes of this host that hold a kernel lock on an open file.

    Args:
        descriptor: The open file.
        what: Words for the log.

    Returns:
        True when one was killed. False also where the holders cannot be seen.
    """
    status = os.fstat(descriptor)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    found = (re.fullmatch(r"\d+: FLOCK +\w+ +\w+ (\d+) (\S+) .*", line) for line in lines)
    ended = False
    for pid in {int(match[1]) for match in found if match and match[2] == file} - {os.getpid(), 0}:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError) as error:
            log.warning("%s: process %s could not be killed: %s", what, pid, error.strerror)
            continue
        log.warning("%s: killed process %s, which hung", what, pid)
        ended = True
    return ended
