"""The notices of a run with their delivery per channel, read from its events."""

from __future__ import annotations

from typing import Any

from include.cutover.report.events import RunEvents
from include.cutover.report.words import only_time


def notices_of(run: RunEvents) -> list[dict[str, Any]]:
    """Return each notice with its ``deliveries`` per channel, each with its ``tries``, and what people ``said`` about it.

    A notice that belonged to the open run and was never sent is left out once the run is over.
    """
    found: dict[str, dict[str, Any]] = {}
    for event in run.events:
        name = str(event.get("notice"))
        if event["event"] == "notice":
            found.setdefault(name, {"deliveries": {}, "said": []}).update(event)
            if event.get("by"):
                found[name]["said"].append(f"text by {event['by']}")
        elif event["event"] == "notice.delivery":
            entry = found.setdefault(name, {"notice": name, "deliveries": {}, "said": [], **only_time(event)})
            channel = str(event.get("channel"))
            before = entry["deliveries"].get(channel, {})
            if before.get("outcome") != "sent":
                entry["deliveries"][channel] = {**event, "tries": before.get("tries", 0) + 1}
        elif event["event"] in ("notice.released", "notice.withheld") and name in found:
            found[name]["said"].append(f"{event['event'].removeprefix('notice.')} by {event.get('by')}")
    over = bool(run.sealed or run.newest("live"))
    return [notice for notice in found.values() if notice["deliveries"] or not (over and notice.get("while_open"))]
