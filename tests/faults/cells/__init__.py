"""All cells; importing this enters them into the matrix."""

from tests.faults.cells import files, people, processes, surroundings

__all__ = ["files", "people", "processes", "surroundings"]
