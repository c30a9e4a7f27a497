"""All cells; importing this enters them into the matrix."""

from tests.faults.cells import files, people, processes, reboots, surroundings, target_changes

__all__ = ["files", "people", "processes", "reboots", "surroundings", "target_changes"]
