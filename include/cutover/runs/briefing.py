"""Facts about rehearsals for people: before go/no-go, in the report of a cutover, and in that of a rehearsal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from include.cutover.evidence.record import Event
from include.cutover.runs import rehearsals

Fact = tuple[str, str]
"""A label and its text, both plain."""

_SHOWN = 5
_NONE = "none: this migration has never been rehearsed"


def facts(events: Sequence[Event]) -> list[Fact]:
    """Return the last rehearsal before a cutover, and what changed since; empty until the cutover has looked for one."""
    recorded = next((event for event in reversed(events) if event["event"] == rehearsals.EVENT), None)
    if recorded is None:
        return []
    if recorded.get("run_id") is None:
        return [("Last rehearsal", _NONE)]
    failure = f": {recorded['first_failure']}" if recorded.get("first_failure") else ""
    found = [
        ("Last rehearsal", f"{_moment(recorded['at'])}, {recorded['result']}{failure} ({recorded['run_id']})"),
        ("Rehearsed on", _on(recorded)),
    ]
    green = recorded.get("green")
    if green is None:
        found.append(("Last green, unchanged since", "none: this schema, plan, SQL and code never passed a rehearsal"))
    elif green["run_id"] != recorded["run_id"]:
        found.append(("Last green, unchanged since", f"{_moment(green['at'])} ({green['run_id']})"))
    ends = {event["step"]: event for event in events if event["event"] == "step.end"}
    found.append(("Rows since then", _rows(recorded.get("rows") or {}, _rows_now(ends))))
    size = (_figures(ends, "check_source")).get("bytes")
    if size and (then := recorded.get("bytes")):
        found.append(("Size since then", f"{then:,} to {size:,} bytes, {100 * (size / then - 1):+.1f} %"))
    new = [text for name, text in rehearsals.findings(events).items() if name not in (recorded.get("findings") or {})]
    found.append(("Findings since then", _listed(new) if new else "none"))
    for label, key, without in (
        ("Expected downtime", "downtime", ", without the wait at the gate"),
        ("Expected rollback time", "rollback", ""),
    ):
        expected = recorded.get(key)
        found.append(
            (label, "not known: no green rehearsal since the change" if expected is None else _expected(expected) + without)
        )
    return found


def of_rehearsal(events: Sequence[Event]) -> list[Fact]:
    """Return what a rehearsal made, measured and kept; empty for any other run."""
    opened = next((event for event in events if event["event"] == "run.opened"), {})
    if not opened.get("rehearsal"):
        return []
    found = [("Live file", f"{opened.get('live')}, cloned in one step and otherwise not touched")]
    database = next((event for event in reversed(events) if event["event"] == rehearsals.DATABASE), None)
    if database is not None:
        state = {"making": "made", "made": "made"}.get(database["state"], database["state"])
        found.append(("Disposable database", f"{database['name']}, {state}"))
    spans = rehearsals.spans(events)
    if spans.down is not None:
        found.append(("From the fence to the proof", _duration(spans.down)))
    if spans.back is not None:
        found.append(("The way back", _duration(spans.back)))
    sealed = next((event for event in reversed(events) if event["event"] == "sealed"), None)
    if sealed is not None:
        kept = "; ".join(sealed.get("kept") or [])
        found.append(("Kept until the next rehearsal", kept or "nothing"))
    return found


def _on(recorded: Mapping[str, Any]) -> str:
    prints = f"schema {str(recorded.get('schema'))[:12] or 'unknown'}, plan {str(recorded.get('plan'))[:12]}"
    if not recorded.get("differs"):
        return f"the same schema, plan, SQL and code ({prints})"
    return f"NOT the same: {', '.join(recorded['differs'])} changed since ({prints})"


def _figures(ends: Mapping[str, Event], step: str) -> Mapping[str, Any]:
    return (ends.get(step) or {}).get("figures") or {}


def _rows_now(ends: Mapping[str, Event]) -> Mapping[str, int]:
    """Return the rows by table, of the backup; before there is one, as the assessment counted them."""
    return _figures(ends, "take_backup").get("counts") or _figures(ends, "assess_source").get("tables") or {}


def _rows(before: Mapping[str, int], now: Mapping[str, int]) -> str:
    if not now:
        return "not counted yet"
    if not before:
        return "not known: that rehearsal did not reach its backup"
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
        f"{_duration(expected['low'])} to {_duration(expected['high'])} in the last {runs} rehearsals"
        if runs > 1
        else "by one rehearsal"
    )
    parts = "; ".join(
        f"{part} {_duration(seconds)} {known}"
        for part, seconds, known in expected["parts"]
        if seconds or known == rehearsals.REHEARSED
    )
    return f"{_duration(expected['seconds'])}, {spread} ({parts})"


def _duration(seconds: float) -> str:
    """Return ``0.4 s``, ``75.2 s`` or ``12.0 min``."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if re.match(r"\d{4}-", text) else text
