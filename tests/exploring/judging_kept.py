"""The judge's view of rows that are in no live database: kept somewhere, and named to the people who decide about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.exploring.site import SCHEMA, Site

Event = dict[str, Any]
FIGURE = "rows_written_after_go_live"


def events(folder: Path) -> list[Event]:
    """Read the events of a run, without the product's code."""
    file = folder / "events.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def unnamed(site: Site, schema: str, titles: set[str]) -> set[str]:
    """Return those of the rows in a schema of the target that no report, export or incident document of its run names."""
    left = set(titles)
    for folder in site.evidence.glob("*/*"):
        if not left:
            break
        happened = events(folder)
        keeps = any(event["event"] == "target.kept" and event.get("schema") == schema for event in happened)
        waits = schema == SCHEMA and any(event["event"] == "target.pending" for event in happened)
        if keeps or waits:
            left -= _exported(folder)
            if any(_names(figures, len(titles)) for figures in _figures(happened)):
                left.clear()
    return left


def _exported(folder: Path) -> set[str]:
    """Return the titles in the exports that the run wrote."""
    found: set[str] = set()
    for file in (folder / "kept").rglob("books*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            found |= set(_texts(json.loads(line)))
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _figures(happened: list[Event]) -> Iterator[Any]:
    for event in happened:
        if event["event"] == "step.end":
            yield event.get("figures", {}).get(FIGURE)


def _names(figures: Any, many: int) -> bool:
    """Report whether a step's figures speak of so many rows, or say plainly that their number is unknown."""
    if figures == "unknown":
        return True
    books = figures.get("books", {}) if isinstance(figures, dict) else {}
    return sum(int(books.get(kind) or 0) for kind in ("inserted", "updated")) >= many


def last_words(folder: Path) -> str:
    """Return what the last step said that did not pass; a person acts by these words."""
    failed = [event for event in events(folder) if event["event"] == "step.end" and event.get("outcome") != "passed"]
    ends = [event for event in failed if not str(event["step"]).startswith("close_")]
    if not ends:
        return ""
    found = [f"{check.get('found')} {check.get('do')}" for check in ends[-1].get("checks", [])]
    return " ".join([str(ends[-1].get("summary") or ""), *found])
