"""The steps of a run with all their attempts, read from its events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from include.cutover.evidence.record import Event
from include.cutover.report.events import RunEvents, time_of
from include.cutover.runs import runbook
from include.cutover.runs.terms import ROLLBACK

_WRITES_THE_REPORT = {row.name for row in runbook.ROWS if row.writes_report}
_GOES_BACK = {row.name for row in runbook.way(ROLLBACK)}


@dataclass(frozen=True)
class Attempt:
    """One try of a step.

    Attributes:
        begin: When it began.
        end: When it ended; without a recorded end, when the next try began, or the run's last event.
        outcome: ``passed``, ``failed``, ``error``, ``refused``; without a recorded end ``running``, or ``unfinished`` when
            the run went on without it.
        summary: One line about it.
    """

    begin: datetime
    end: datetime
    outcome: str
    summary: str

    @property
    def seconds(self) -> float:
        """Seconds that it took, or took until the last event."""
        return max(0.0, (self.end - self.begin).total_seconds())


@dataclass(frozen=True)
class StepHistory:
    """All tries of a step; its checks and figures are those of the last one."""

    name: str
    attempts: tuple[Attempt, ...]
    checks: tuple[Mapping[str, Any], ...] = ()
    figures: Mapping[str, Any] | None = None
    log_url: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def last(self) -> Attempt:
        """The newest try."""
        return self.attempts[-1]

    @property
    def outcome(self) -> str:
        """Outcome of the newest try."""
        return self.last.outcome

    @property
    def is_copy(self) -> bool:
        """True for a step that copies a table, or a part of one."""
        return runbook.is_copy(self.name)

    @property
    def title(self) -> str:
        """Plain words: ``rollback.restore_source`` is ``restore source``."""
        name = re.sub(r"^(rollback|release|way_back)\.", "", self.name)
        copied = re.fullmatch(r"copy\.(.+?)(?:\.(\d+))?", name)
        if copied:
            return f"copy {copied[1]}" + (f", stream {int(copied[2]) + 1}" if copied[2] else "")
        return name.replace("_", " ")

    @property
    def phase(self) -> str:
        """The part of the runbook that it belongs to."""
        return runbook.phase_of(self.name)


@dataclass
class _Try:
    """The records of one try; without ``end`` it has none yet."""

    begin: datetime
    log_url: Any = None
    end: Event | None = None


def step_histories(run: RunEvents) -> dict[str, StepHistory]:
    """Return every step that left a record, by name, in the order in which they began."""
    begun: dict[str, list[_Try]] = {}
    for event in run.events:
        kind, name = event["event"], str(event.get("step") or "")
        if not name or kind not in ("step.begin", "step.end"):
            continue
        tries = begun.setdefault(name, [])
        if kind == "step.begin":
            tries.append(_Try(time_of(event), event.get("log_url")))
            continue
        if not tries or tries[-1].end is not None:
            # A step that was refused before its begin never began.
            tries.append(_Try(_earlier(time_of(event), event.get("seconds"))))
        tries[-1].end = event
    return {name: _history(run, name, tries) for name, tries in begun.items()}


def failures_of(steps: Iterable[StepHistory]) -> list[StepHistory]:
    """Return the steps whose newest try did not pass, in the order in which that was known.

    A step without an end counts too, except the one that writes the report. Refused steps come last: another failure caused
    them.
    """
    bad = [
        step
        for step in steps
        if step.outcome not in ("passed", "running")
        and not (step.outcome == "unfinished" and step.name in _WRITES_THE_REPORT)
    ]
    return sorted(bad, key=lambda step: (step.outcome == "refused", step.name in _GOES_BACK, step.last.end))


def _history(run: RunEvents, name: str, tries: list[_Try]) -> StepHistory:
    following = [later.begin for later in tries[1:]]
    attempts = [_attempt(run, item, begin) for item, begin in zip(tries, [*following, None], strict=True)]
    last = tries[-1].end or {}
    checks = tuple(check for check in last.get("checks") or [] if isinstance(check, dict))
    figures = last.get("figures")
    log_url = next((str(item.log_url) for item in reversed(tries) if item.log_url), "")
    warnings = tuple(str(text) for text in last.get("warnings") or [])
    return StepHistory(name, tuple(attempts), checks, figures if isinstance(figures, dict) else {}, log_url, warnings)


def _attempt(run: RunEvents, item: _Try, following: datetime | None) -> Attempt:
    if item.end is not None:
        outcome, summary = str(item.end.get("outcome") or "unfinished"), str(item.end.get("summary") or "")
        return Attempt(item.begin, max(item.begin, time_of(item.end)), outcome, summary)
    end = max(item.begin, following or run.end)
    if following is not None or _went_on_after(run, item.begin):
        return Attempt(item.begin, end, "unfinished", "no end was recorded")
    return Attempt(item.begin, end, "running", "no end yet")


def _went_on_after(run: RunEvents, begin: datetime) -> bool:
    """Report whether the run decided, went back or was closed after that moment: a step without an end has then died."""
    over = ("decision", "sealed", "reopened", "rollback.asked")
    return any(
        time_of(event) >= begin
        and (event["event"] in over or (event["event"] == "step.begin" and event.get("step") in _GOES_BACK))
        for event in run.events
    )


def _earlier(moment: datetime, seconds: Any) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() - (seconds if isinstance(seconds, int | float) else 0), UTC)
