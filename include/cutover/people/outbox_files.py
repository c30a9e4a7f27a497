"""Files beside the evidence: a marker on each run that may have something to send, and a lock per channel while it sends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from include.cutover.errors import Unreachable
from include.cutover.evidence.record import Evidence

_ENDING = ".pending"


def _folder(evidence: Evidence) -> Path:
    return evidence.folder.parent / ".outbox"


def marker(evidence: Evidence) -> Path:
    """Return the marker of a run that may have something to send."""
    return _folder(evidence) / f"{evidence.folder.name}{_ENDING}"


def marked(folder: Path) -> list[Evidence]:
    """List the runs below a folder of evidence that may have something to send. Reads one folder."""
    found = sorted(folder.glob(f".outbox/*{_ENDING}"))
    return [Evidence(folder / item.name.removesuffix(_ENDING)) for item in found]


@contextmanager
def claim(evidence: Evidence, channel: str, *, seconds: float = 0.0) -> Iterator[bool]:
    """Claim the right to send a run's notices to a channel while the block runs.

    Args:
        evidence: The run.
        channel: Name of the channel.
        seconds: How long to wait for it.

    Yields:
        True when it was free.
    """
    folder = _folder(evidence)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{evidence.folder.name}.{channel}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.05)
            else:
                yield True
                return
    finally:
        os.close(descriptor)


@contextmanager
def claims(evidence: Evidence, channels: Sequence[str], *, seconds: float) -> Iterator[None]:
    """Claim all these channels, so that no notice of the run is sent while the block runs.

    Raises:
        Unreachable: When another process still sends after ``seconds``.
    """
    with ExitStack() as stack:
        for channel in channels:
            if not stack.enter_context(claim(evidence, channel, seconds=seconds)):
                raise Unreachable("a notice is being sent right now", where=channel, do="Retry in a minute.")
        yield
