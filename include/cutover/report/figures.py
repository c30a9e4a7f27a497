"""Figures of a run: its checks, row counts, orphans and downtime."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from include.cutover.report.events import RunEvents, time_of
from include.cutover.report.steps import StepHistory
from include.cutover.report.words import as_number


class RunFigures:
    """Figures over the steps of a run."""

    def __init__(self, run: RunEvents, steps: Mapping[str, StepHistory]) -> None:
        self._run = run
        self._steps = steps

    def of_step(self, step: str) -> dict[str, Any]:
        """Return the figures of a step, empty where it has none."""
        return dict((self._steps[step].figures if step in self._steps else None) or {})

    @cached_property
    def checks(self) -> list[dict[str, Any]]:
        """The checks of every step's newest end: failed before unknown before passed, then in the order of the run."""
        order = {"failed": 0, "unknown": 1, "passed": 2}
        found = [{**check, "step": step.name} for step in self._steps.values() for check in step.checks]
        return sorted(found, key=lambda check: order.get(str(check.get("outcome")), 1))

    def count(self, outcome: str) -> int:
        """Count the checks with that outcome; one that is neither passed nor failed is unknown."""
        known = ("passed", "failed")
        return sum(
            check.get("outcome") == outcome if outcome in known else check.get("outcome") not in known
            for check in self.checks
        )

    @cached_property
    def warnings(self) -> list[tuple[str, str]]:
        """Each warning once, with the title of the step that gave it first."""
        found: dict[str, str] = {}
        for step in self._steps.values():
            for text in step.warnings:
                found.setdefault(text, step.title)
        return [(title, text) for text, title in found.items()]

    @cached_property
    def row_counts(self) -> list[dict[str, Any]]:
        """Both sides of every table: those with a difference first, then by name."""
        rows = [row for row in self.of_step("check_tables").get("tables") or [] if isinstance(row, dict)]
        return sorted(rows, key=lambda row: (row.get("delta") == 0, str(row.get("table"))))

    @property
    def rows(self) -> int:
        """Rows in the target as counted; before that, as copied."""
        if self.row_counts:
            return sum(as_number(row.get("target_rows")) for row in self.row_counts)
        return sum(as_number((step.figures or {}).get("rows")) for step in self._copies)

    @property
    def tables(self) -> int:
        """Tables that were counted; before that, tables that were copied."""
        return len(self.row_counts) or len({(step.figures or {}).get("table") or step.name for step in self._copies})

    @property
    def _copies(self) -> list[StepHistory]:
        return [step for step in self._steps.values() if step.is_copy and step.outcome == "passed"]

    @cached_property
    def orphans(self) -> list[dict[str, Any]]:
        """Foreign keys with orphans and the orphans' keys."""
        return [item for item in self.of_step("check_tables").get("orphans") or [] if isinstance(item, dict)]

    @cached_property
    def outages(self) -> list[tuple[datetime, datetime | None]]:
        """Begin and end of each time without services; the end is None while they are down."""
        found: list[tuple[datetime, datetime | None]] = []
        for event in self._run.events:
            if event["event"] == "services.stopped" and (not found or found[-1][1] is not None):
                found.append((time_of(event), None))
            elif event["event"] == "services.started" and found and found[-1][1] is None:
                found[-1] = (found[-1][0], time_of(event))
        return found

    @property
    def downtime_seconds(self) -> float | None:
        """Sum of all outages, up to the last event while one lasts; None where nothing was stopped."""
        if not self.outages:
            return None
        return sum(((end or self._run.end) - begin).total_seconds() for begin, end in self.outages)

    @property
    def still_down(self) -> bool:
        """True while the services were stopped and are not recorded as started since."""
        return bool(self.outages) and self.outages[-1][1] is None
