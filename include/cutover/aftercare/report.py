"""The post-cutover report: the cutover's result, the findings of every round since, and the decisions.

Derived from the evidence of both alone, so it can be made at any time, also during the aftercare. Every value is masked once
more and escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from include.cutover.aftercare import record
from include.cutover.evidence.record import Event, Evidence
from include.cutover.masking import mask
from include.cutover.plan.model import Plan
from include.cutover.report import page as report_page
from include.cutover.report import pages, words
from include.cutover.runs.verdict import course

FILE = "post_cutover.html"

_TONES = {"quiet": "good", "green": "good", "red": "bad", "unclear": "warn", "unfinished": "bad", "rolled_back": "warn"}


def render(evidence: Evidence, cutover: Evidence, plan: Plan) -> str:
    """Return the whole page.

    Args:
        evidence: The aftercare's.
        cutover: The cutover's.
        plan: Its plan.

    Raises:
        CannotCheck: When there is no evidence of one of both, or its chain is broken.
    """
    events = evidence.events()
    opened = next(event for event in events if event["event"] == record.OPENED)
    made = record.looks(events)
    closed = next((event for event in reversed(events) if event["event"] == record.CLOSED), None)
    state, tone = _state(closed, made, cutover)
    parts = [
        f"<h1>After the cutover of {_text(plan.application)}</h1>",
        f'<p><span class="badge {tone}">{_text(state)}</span></p>',
        _facts(opened, closed, cutover, plan),
        "<h2>Looks</h2>",
        _looks(made),
        "<h2>Every check, with the worst that was found</h2>",
        _checks(made),
        "<h2>First backup of PostgreSQL</h2>",
        _backup(events),
        "<h2>Questions and answers</h2>",
        _answers(events),
        "<h2>Notices</h2>",
        _notices(events),
    ]
    return pages.page(f"After the cutover: {plan.application}", "".join(parts))


def _state(closed: Event | None, made: Sequence[Event], cutover: Evidence) -> tuple[str, str]:
    if closed is not None:
        return str(closed["summary"]), _TONES.get(str(closed["outcome"]), "warn")
    if course(cutover.events()) != "live":
        return "the application was rolled back", "warn"
    return f"in progress; the last round was {made[-1]['outcome']}" if made else "in progress; no round yet", "busy"


def _facts(opened: Event, closed: Event | None, cutover: Evidence, plan: Plan) -> str:
    summary = report_page.summary(cutover, plan)
    downtime = summary["downtime_seconds"]
    rows = [
        ("Run", opened["run_id"]),
        ("Taken live by", opened.get("actor") or "unknown"),
        ("Live since", _moment(opened["started"])),
        ("Aftercare until", _moment(closed["time"] if closed else opened["until"])),
        ("Rows moved", f"{summary['rows']:,} in {summary['tables']} tables"),
        ("Downtime", "none" if downtime is None else words.duration(downtime)),
        ("Checks before go-live", f"{summary['checks_passed']} passed, {summary['checks_failed']} failed"),
    ]
    if closed is not None and closed.get("written"):
        rows.append(("Written to PostgreSQL since go-live", closed["written"]))
    return _table((), rows)


def _looks(made: Sequence[Event]) -> str:
    if not made:
        return "<p>None yet.</p>"
    rows = []
    for event in made:
        latency = {name: f"{1000 * seconds:.0f} ms" for name, seconds in (event.get("latency") or {}).items()}
        rows.append(
            (
                event["number"],
                _moment(event["time"]),
                _Badge(event["outcome"]),
                latency.get("p50", ""),
                latency.get("p95", ""),
                latency.get("max", ""),
                event["summary"] or "no fault found",
            )
        )
    return _table(("Look", "Time", "Outcome", "p50", "p95", "Slowest", "Findings"), rows)


def _checks(made: Sequence[Event]) -> str:
    order = {"passed": 0, "unknown": 1, "failed": 2}
    worst: dict[str, tuple[Mapping[str, Any], Event]] = {}
    counts: dict[str, int] = {}
    for event in made:
        for check in event["checks"]:
            name = check["name"]
            counts[name] = counts.get(name, 0) + (check["outcome"] != "passed")
            if name not in worst or order[check["outcome"]] >= order[worst[name][0]["outcome"]]:
                worst[name] = (check, event)
    rows = [
        (
            check["title"],
            _Badge(check["outcome"]),
            check["expected"],
            check["found"],
            _moment(event["time"]),
            f"{counts[name]} of {len(made)} rounds" if counts[name] else "",
        )
        for name, (check, event) in sorted(worst.items(), key=lambda item: -order[item[1][0]["outcome"]])
    ]
    return _table(("Check", "Worst", "Expected", "Found", "When", "Not passed"), rows) if rows else "<p>None yet.</p>"


def _backup(events: Sequence[Event]) -> str:
    found = [event for event in events if event["event"] == record.BACKUP]
    if not found:
        return "<p>None yet.</p>"
    dump = found[-1]["dump"]
    rows: list[tuple[Any, ...]] = [(check["title"], _Badge(check["outcome"]), check["found"], check["do"])
                                   for check in found[-1]["checks"]]  # fmt: skip
    shown = _table(("Check", "Outcome", "Found", "Next step"), rows)
    if dump.get("file"):
        shown += f"<p><code>{_text(dump['file'])}</code>, {dump['bytes']:,} bytes, SHA-256 <code>{dump['sha256']}</code></p>"
    return shown


def _answers(events: Sequence[Event]) -> str:
    rows: list[tuple[Any, ...]] = []
    for event in events:
        if event["event"] == record.ASKED:
            rows.append((_moment(event["time"]), "asked whether to roll back", ""))
        elif event["event"] == record.ANSWERED:
            rows.append((_moment(event["time"]), event["answer"], event.get("by") or "no answer in time"))
        elif event["event"] == record.REQUESTED:
            rows.append((_moment(event["time"]), f"rollback {event['rollback_run_id']}", event["by"]))
    return _table(("Time", "What", "By"), rows) if rows else "<p>None.</p>"


def _notices(events: Sequence[Event]) -> str:
    delivered: dict[str, list[str]] = {}
    for event in events:
        if event["event"] == "notice.delivery":
            delivered.setdefault(event["notice"], []).append(f"{event['channel']} {event['outcome']}")
    rows = [
        (
            _moment(event["time"]),
            event["subject"],
            event["text"],
            ", ".join(delivered.get(event["notice"], ())) or "not delivered",
        )
        for event in events
        if event["event"] == "notice"
    ]
    return _table(("Time", "Subject", "Text", "Delivered"), rows) if rows else "<p>None.</p>"


class _Badge(str):
    """A coloured word."""


def _table(head: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{names}</tr></thead>' if names else ''}<tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, _Badge):
        tone = _TONES.get(value, value)
        return f'<span class="badge {escape(tone)}">{escape(value)}</span>'
    return _text(value)


def _text(value: Any) -> str:
    return escape(mask(str(value)))


def _moment(text: str) -> str:
    return f"{text[:19].replace('T', ' ')} UTC"
