"""The time of an event by the harness's own clock, whatever was done to the clock of the process that recorded it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any


def true_time(event: Mapping[str, Any]) -> float:
    """Return when an event was recorded, by the harness's own clock; by the event's where it is of another boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    if event.get("boot") and boot.startswith(str(event["boot"])):
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + float(event["up"])
    return datetime.fromisoformat(str(event["time"])).timestamp()
