"""All cells; importing this enters them into the matrix."""

from tests.faults.cells import (
    clocks,
    files,
    outputs,
    people,
    poolers,
    processes,
    reboots,
    slowness,
    surroundings,
    target_changes,
)

__all__ = [
    "clocks",
    "files",
    "outputs",
    "people",
    "poolers",
    "processes",
    "reboots",
    "slowness",
    "surroundings",
    "target_changes",
]
