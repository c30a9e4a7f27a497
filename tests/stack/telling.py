"""Lines of progress, and requirements."""

from __future__ import annotations

import sys
import time

from include.cutover.errors import StepFailed

_began = time.monotonic()


def say(text: str) -> None:
    """Print one line, with the time since the beginning."""
    sys.stdout.write(f"{time.monotonic() - _began:7.1f} s  {text}\n")
    sys.stdout.flush()


def require(holds: bool, what: str, found: object = "") -> None:
    """Raise unless it holds."""
    if not holds:
        raise StepFailed(f"not so: {what}", found=str(found)[:2000])
