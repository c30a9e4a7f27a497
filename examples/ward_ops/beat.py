"""The scheduler of the stand-in: every second it pings one device and records when that was last seen.

python -m examples.ward_ops.beat
"""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, datetime

import sqlalchemy as sa

from examples.ward_ops.background import run
from examples.ward_ops.database import next_devices, write_pings
from examples.ward_ops.tables import standalone_devices

PAUSE_SECONDS = 1.0


class Sweep:
    """A round of all enabled devices, one at a time."""

    def __init__(self) -> None:
        self._last: uuid.UUID | None = None

    def __call__(self, connection: sa.Connection) -> str:
        """Ping one device and update its ``last_seen``."""
        devices = next_devices(connection, self._last, 1)
        write_pings(connection, devices)
        for device in devices:
            connection.execute(
                sa.update(standalone_devices).where(standalone_devices.c.id == device.id).values(last_seen=datetime.now(UTC))
            )
        self._last = devices[-1].id if devices else None
        return f"swept {len(devices)} device"


if __name__ == "__main__":
    sys.exit(run("beat", PAUSE_SECONDS, Sweep()))
