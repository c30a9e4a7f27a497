"""The worker of the stand-in: takes ping jobs and writes their results, a batch every 0.2 seconds.

python -m examples.ward_ops.worker
"""

from __future__ import annotations

import sys
import uuid

import sqlalchemy as sa

from examples.ward_ops.background import run
from examples.ward_ops.database import next_devices, write_pings

PAUSE_SECONDS = 0.2
BATCH = 5


class PingJobs:
    """A round of all enabled devices, ``BATCH`` of them at a time."""

    def __init__(self) -> None:
        self._last: uuid.UUID | None = None

    def __call__(self, connection: sa.Connection) -> str:
        """Write one batch."""
        devices = next_devices(connection, self._last, BATCH)
        count = write_pings(connection, devices)
        self._last = devices[-1].id if devices else None
        return f"wrote {count} ping results"


if __name__ == "__main__":
    sys.exit(run("worker", PAUSE_SECONDS, PingJobs()))
