"""The timeline of a run, drawn as SVG."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any

from include.cutover.report.steps import StepHistory
from include.cutover.report.story import Story


class TimelineChart:
    """Steps along a time scale on which long waits are cut short, so that a step of one second stays visible."""

    _LONGEST_WAIT = 8.0  # seconds without any step that are drawn as they are
    _WAIT_WIDTH = 0.03  # part of the whole that a cut wait takes

    def __init__(self, story: Story) -> None:
        self._story = story
        spans = self._spans_between(self._moments())
        shown = sum((end - begin).total_seconds() for begin, end, idle in spans if not self._is_cut(begin, end, idle))
        cuts = sum(self._is_cut(*span) for span in spans)
        unit = shown / max(0.3, 1 - cuts * self._WAIT_WIDTH) or 1.0
        self._pieces: list[tuple[datetime, datetime, float, float]] = []
        self.waits: list[tuple[float, float, float]] = []
        at = 0.0
        for begin, end, idle in spans:
            seconds = (end - begin).total_seconds()
            cut = self._is_cut(begin, end, idle)
            width = self._WAIT_WIDTH if cut else seconds / unit
            self._pieces.append((begin, end, at, width))
            if cut:
                self.waits.append((100 * at, 100 * width, seconds))
            at += width

    def _moments(self) -> list[datetime]:
        """Return the run's start, then by turns the begin and the end of each time with a step at work, then its end."""
        attempts = sorted((item.begin, item.end) for step in self._story.steps.values() for item in step.attempts)
        busy: list[list[datetime]] = []
        for begin, end in attempts:
            if busy and begin <= busy[-1][1]:
                busy[-1][1] = max(busy[-1][1], end)
            else:
                busy.append([begin, end])
        run = self._story.run
        return [run.start, *(moment for span in busy for moment in span), max([run.end, *(end for _, end in attempts)])]

    @staticmethod
    def _spans_between(moments: list[datetime]) -> list[tuple[datetime, datetime, bool]]:
        """Return begin and end of each span between two moments, and whether no step was at work in it."""
        spans = enumerate(pairwise(moments))
        return [(begin, end, number % 2 == 0) for number, (begin, end) in spans if end > begin]

    def _is_cut(self, begin: datetime, end: datetime, idle: bool) -> bool:
        return idle and (end - begin).total_seconds() > self._LONGEST_WAIT

    def percent(self, moment: datetime) -> float:
        """Return the position of a moment, in percent."""
        for begin, end, at, width in self._pieces:
            if moment <= end:
                share = (moment - begin).total_seconds() / (end - begin).total_seconds()
                return 100 * (at + width * min(1.0, max(0.0, share)))
        return 100.0 if self._pieces else 0.0

    def bars(self, step: StepHistory) -> list[dict[str, Any]]:
        """Return one bar for each try."""
        found = []
        for attempt in step.attempts:
            left = min(self.percent(attempt.begin), 99.6)
            width = max(0.4, self.percent(attempt.end) - left)
            found.append({"left": f"{left:.2f}", "width": f"{width:.2f}", "outcome": attempt.outcome})
        return found

    @property
    def shade(self) -> str:
        """Background of the lanes as CSS: the time without services, and the waits that are cut short."""
        layers = []
        for begin, end in self._story.figures.outages:
            layers.append(_band("--down", self.percent(begin), self.percent(end or self._story.run.end)))
        layers += [_band("--wait", left, left + width) for left, width, _ in self.waits]
        return ", ".join(layers) or "none"

    @property
    def phases(self) -> list[tuple[str, list[StepHistory], float]]:
        """The parts of the runbook in the order in which they began, with their steps and how long they took."""
        grouped: dict[str, list[StepHistory]] = {}
        for step in self._story.steps.values():
            grouped.setdefault(step.phase, []).append(step)
        phases = []
        for name, steps in grouped.items():
            begin = min(item.begin for step in steps for item in step.attempts)
            end = max(item.end for step in steps for item in step.attempts)
            phases.append((name, steps, (end - begin).total_seconds()))
        return phases


def _band(colour: str, left: float, right: float) -> str:
    return (
        f"linear-gradient(90deg, transparent {left:.2f}%, var({colour}) {left:.2f}% {right:.2f}%, transparent {right:.2f}%)"
    )
