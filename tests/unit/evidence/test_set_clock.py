"""Readers of the times of events where a host's clock was set: the aftercare, notices, rehearsals, backups."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.cutover.aftercare import record
from include.cutover.evidence import steady
from include.cutover.evidence.record import Evidence
from include.cutover.people import notices
from include.cutover.people.notices import Message
from include.cutover.plan.afterwards import Aftercare
from include.cutover.preflight import doctor_backups
from include.cutover.runs import rehearsals

needs_boot = pytest.mark.skipif(not steady.boot(), reason="this system has no boot id")


def event(seq: int, kind: str, shown: datetime, ago: float, **fields: Any) -> dict[str, Any]:
    """An event that was recorded so many seconds ago, when the clock showed that."""
    stamp = steady.stamp()
    return {"seq": seq, "event": kind, "time": shown.isoformat(), **stamp, "up": stamp["up"] - ago, **fields}


@needs_boot
@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "back"])
def test_aftercare_lasts_its_minutes_of_elapsed_time(jump: timedelta) -> None:
    now, settings = datetime.now(UTC), Aftercare(minutes=60, interval_seconds=300)
    opened = now - timedelta(minutes=10) - jump  # ten minutes ago; the clock was set after that
    until = (opened + timedelta(minutes=60)).isoformat()
    events = [event(0, record.OPENED, opened, 600, until=until), event(1, record.LOOK, opened, 599, outcome="green")]
    events.append(event(2, record.LOOK, now - timedelta(minutes=4), 240, outcome="green"))
    due = record.next_look(events, settings)
    assert due is not None
    assert 50 < (due - record.now_in(events)).total_seconds() < 70
    assert 50 < (record.wall_clock(due, events) - datetime.now(UTC)).total_seconds() < 70
    assert 49 < (record.end_of(events[0]) - record.now_in(events)).total_seconds() / 60 < 51


def test_notice_is_sent_where_the_clock_was_set_back_after_it_was_posted(tmp_path: Path) -> None:
    evidence, now = Evidence(tmp_path / "run"), datetime.now(UTC)
    notices.post(evidence, Message("start", "subject", "text"))
    notices.post(evidence, Message("deadline", "subject", "text", due=now + timedelta(minutes=30)))
    evidence.append("notice.delivery", notice="start", channel="slack", outcome="failed", error="down")
    assert notices.waiting(evidence.events(), ["slack"], now - timedelta(hours=1)) == {"slack": ["start"]}


STEPS = (rehearsals.FIRST_DOWN, rehearsals.LAST_PROVEN, rehearsals.FIRST_BACK, rehearsals.LAST_BACK)


def rehearsed(jump: float, boots: str) -> list[dict[str, Any]]:
    """The steps of a rehearsal, ten seconds each; the clock is set before the way back has ended."""
    events: list[dict[str, Any]] = []
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for number, step in enumerate(STEPS):
        for kind in ("step.begin", "step.end"):
            up = 10.0 * len(events)
            shown = start + timedelta(seconds=up + (jump if step == STEPS[-1] and kind == "step.end" else 0))
            fields = {"outcome": "passed", "seconds": 10.0} if kind == "step.end" else {}
            stamp = {"boot": boots[number], "up": up} if boots else {}
            events.append({"seq": len(events), "event": kind, "time": shown.isoformat(), "step": step, **stamp, **fields})
    return events


def test_rehearsal_is_measured_by_elapsed_time_or_not_at_all() -> None:
    for jump in (0.0, 3600.0, -3600.0):
        found = rehearsals.spans(rehearsed(jump, "aaaa"))
        assert (found.down, found.back) == (30.0, 30.0)
    unknown = rehearsals.spans(rehearsed(-3600.0, ""))
    assert (unknown.down, unknown.back, unknown.begins) == (None, None, {}), "a way back of less than no time"


def test_backup_from_the_future_is_no_recent_one(tmp_path: Path) -> None:
    backup = tmp_path / "ward.dump"
    backup.write_bytes(b"dump")
    found = doctor_backups._newest_backup(str(tmp_path / "*.dump"), 24, running=False)
    assert found.outcome == "passed"
    os.utime(backup, (time.time() + 7200, time.time() + 7200))
    found = doctor_backups._newest_backup(str(tmp_path / "*.dump"), 24, running=False)
    assert (found.outcome, found.found) == ("unknown", f"{backup}, from 2.0 hours in the future")
