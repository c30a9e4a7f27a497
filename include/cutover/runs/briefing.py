"""What people are told about rehearsals: before go/no-go, in the report of a cutover, and in that of a rehearsal itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from include.cutover.evidence.record import Event
from include.cutover.runs import rehearsals, runbook

Fact = tuple[str, str]
"""A label and what is said to it, in plain text."""

_SHOWN = 5
_NONE = "none: this move has never been tried on a copy"


def facts(events: Sequence[Event]) -> list[Fact]:
    """The last rehearsal before a cutover, and what is different now; empty where the cutover has not looked for one yet."""
    told = next((event for event in reversed(events) if event["event"] == rehearsals.EVENT), None)
    if told is None:
        return []
    if told.get("run_id") is None:
        return [("Last rehearsal", _NONE)]
    failure = f": {told['first_failure']}" if told.get("first_failure") else ""
    found = [
        ("Last rehearsal", f"{_moment(told['at'])}, {told['result']}{failure} ({told['run_id']})"),
        ("Rehearsed on", _on(told)),
    ]
    green = told.get("green")
    if green is None:
        found.append(("Last green one of the same", "none: what this run does was never rehearsed with success"))
    elif green["run_id"] != told["run_id"]:
        found.append(("Last green one of the same", f"{_moment(green['at'])} ({green['run_id']})"))
    ends = {event["step"]: event for event in events if event["event"] == "step.end"}
    found.append(("Rows since then", _rows(told.get("rows") or {}, _rows_now(ends))))
    size = _figures(ends, runbook.CHECK_SOURCE).get("bytes")
    if size and told.get("bytes"):
        found.append(("Size since then", f"{told['bytes']:,} to {size:,} bytes, {100 * (size / told['bytes'] - 1):+.1f} %"))
    new = [text for name, text in rehearsals.findings(events).items() if name not in (told.get("findings") or {})]
    found.append(("Findings since then", _listed(new) if new else "none"))
    for label, key, without in (
        ("Expected downtime", "downtime", ", without the time that people take at the gate"),
        ("Expected way back", "rollback", ""),
    ):
        expected = told.get(key)
        found.append(
            (label, "not known: no green rehearsal of the same" if expected is None else _expected(expected) + without)
        )
    return found


def of_rehearsal(events: Sequence[Event]) -> list[Fact]:
    """What a rehearsal made, measured and kept; empty for any other run."""
    opened = next((event for event in events if event["event"] == "run.opened"), {})
    if not opened.get("rehearsal"):
        return []
    found = [("Live file", f"{opened.get('live')}, which was cloned in one step and not touched")]
    database = next((event for event in reversed(events) if event["event"] == rehearsals.DATABASE), None)
    if database is not None:
        state = {"making": "made", "made": "made"}.get(database["state"], database["state"])
        found.append(("Disposable database", f"{database['name']}, {state}"))
    spans = rehearsals.spans(events)
    if spans.down is not None:
        found.append(("From the fence to the proof", duration(spans.down)))
    if spans.back is not None:
        found.append(("The way back", duration(spans.back)))
    sealed = next((event for event in reversed(events) if event["event"] == "sealed"), None)
    if sealed is not None:
        kept = "; ".join(sealed.get("kept") or [])
        found.append(("Kept until the next rehearsal", kept or "nothing"))
    return found


def _on(told: Mapping[str, Any]) -> str:
    prints = f"schema {str(told.get('schema'))[:12] or 'unknown'}, plan {str(told.get('plan'))[:12]}"
    if not told.get("differs"):
        return f"the same schema, plan, SQL and code ({prints})"
    return f"NOT the same: {', '.join(told['differs'])} changed since ({prints})"


def _figures(ends: Mapping[str, Event], step: str) -> Mapping[str, Any]:
    return (ends.get(step) or {}).get("figures") or {}


def _rows_now(ends: Mapping[str, Event]) -> Mapping[str, int]:
    """Rows of the backup, or as the assessment found them before there is one."""
    assessed = _figures(ends, runbook.ASSESS_SOURCE).get("tables")
    return _figures(ends, runbook.TAKE_BACKUP).get("counts") or assessed or {}


def _rows(before: Mapping[str, int], now: Mapping[str, int]) -> str:
    if not now:
        return "not counted yet"
    if not before:
        return "not known: that rehearsal did not come to its backup"
    changes = {table: now[table] - before[table] for table in now if table in before and now[table] != before[table]}
    lost = [f"{table} is new" for table in now if table not in before]
    total = f"{sum(now.values()):,} now"
    if not changes and not lost:
        return f"the same, {total}"
    most = sorted(changes.items(), key=lambda item: -abs(item[1]))
    return f"{sum(changes.values()):+,}, {total}: {_listed([f'{table} {rows:+,}' for table, rows in most] + lost, ', ')}"


def _listed(texts: Sequence[str], between: str = "; ") -> str:
    more = f"{between}and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return between.join(" ".join(text.split()) for text in texts[:_SHOWN]) + more


def _expected(expected: Mapping[str, Any]) -> str:
    runs = int(expected["runs"])
    spread = (
        f"{duration(expected['low'])} to {duration(expected['high'])} in the last {runs} rehearsals"
        if runs > 1
        else "by one rehearsal, so without a spread"
    )
    parts = "; ".join(
        f"{what} {duration(seconds)} {known}"
        for what, seconds, known in expected["parts"]
        if seconds or known == rehearsals.REHEARSED
    )
    return f"{duration(expected['seconds'])}, {spread} ({parts})"


def duration(seconds: float) -> str:
    """``0.4 s``, ``75.2 s``, ``12 min``."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if re.match(r"\d{4}-", text) else text
