"""The events of a run as the report reads them: masked, and as far as they are legible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from include.cutover.errors import CannotCheck
from include.cutover.evidence import steady
from include.cutover.evidence.record import EVENTS, Event, Evidence, sealing
from include.cutover.masking import mask


class RunEvents:
    """The events of a run. Every attribute copes with events that are missing.

    Attributes:
        folder: Folder of the evidence.
        damage: Why the evidence is damaged; empty where it is whole.
        events: Every legible event, in order, without secrets. Where the clock was set during the run, their times go on
            evenly from the first one's.
        jumps: Each time at which the clock was set during the run.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.folder = evidence.folder
        self.damage = ""
        try:
            events = evidence.events()
        except CannotCheck as problem:
            if not evidence.exists:
                raise
            events, self.damage = _legible(evidence.folder / EVENTS), mask(str(problem))
        self.events: list[Event] = [masked for event in events if _is_event(masked := _masked(event))]
        self.jumps = steady.jumps(self.events)
        if self.jumps:
            even = zip(self.events, steady.moments(self.events), strict=True)
            self.events = [{**event, "time": moment.isoformat()} for event, moment in even]

    def all(self, kind: str) -> list[Event]:
        """Return every event of a kind, in order."""
        return [event for event in self.events if event["event"] == kind]

    def newest(self, kind: str, **match: Any) -> Event:
        """Return the newest event of a kind whose fields equal ``match``, empty where there is none."""
        for event in reversed(self.all(kind)):
            if all(event.get(key) == value for key, value in match.items()):
                return event
        return {}

    @cached_property
    def opened(self) -> Event:
        """The event that opened the run; empty where there is none."""
        return self.newest("run.opened")

    @cached_property
    def sealed(self) -> Event:
        """The event that closed the run; empty while it is open."""
        return sealing(self.events) or {}

    @property
    def start(self) -> datetime:
        """Time of the first event."""
        return time_of(self.events[0]) if self.events else datetime.fromtimestamp(0, UTC)

    @property
    def end(self) -> datetime:
        """Time of the seal, or of the last event."""
        return time_of(self.sealed or self.events[-1]) if self.events else self.start


def time_of(event: Mapping[str, Any]) -> datetime:
    """Return the time of an event."""
    return datetime.fromisoformat(str(event["time"]))


def _legible(path: Path) -> list[Event]:
    """Return the events that can still be parsed in a file whose chain is broken."""
    events = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _is_event(event: Event) -> bool:
    try:
        return isinstance(event.get("event"), str) and time_of(event).tzinfo is not None
    except (TypeError, ValueError, KeyError):
        return False


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(str(key)): _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value
