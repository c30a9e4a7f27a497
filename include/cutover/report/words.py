"""Values of the evidence as text for people: numbers, times, paths, keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from include.cutover.masking import one_line


def duration(seconds: Any) -> str:
    """Return ``0.42 s``, ``12.3 s``, ``1 min 05 s`` or ``2 h 03 min``; a dash for a value that is not a number."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return "–"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def answer_text(gate: Mapping[str, Any]) -> str:
    """Return ``Go by lead``, ``No-go: no answer in time`` or ``Go, automatically, as the plan allows``."""
    answer = str(gate.get("answer"))
    if gate.get("automatic"):
        return f"{answer}, automatically, as the plan allows"
    return f"{answer} by {gate['by']}" if gate.get("by") else f"{answer}: no answer in time"


def only_time(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a notice of which only the time is known."""
    return {"time": event["time"], "subject": "", "text": ""}


def clock_text(moment: datetime) -> str:
    """Return ``12:00:05``, in UTC."""
    return f"{moment.astimezone(UTC):%H:%M:%S}"


def moment_text(moment: Any) -> str:
    """Return ``2026-03-01 12:00:05 UTC``; text that is not a time is returned unchanged."""
    if isinstance(moment, datetime):
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    text = str(moment or "")
    try:
        return moment_text(datetime.fromisoformat(text))
    except ValueError:
        return text


def md(text: Any) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    flat = one_line("" if text is None else str(text))
    return re.sub(r"([\\`*\[\]|<>#]|(?<!\w)_|_(?!\w))", r"\\\1", flat)


def as_words(name: str) -> str:
    """Return a name with spaces in the place of underscores."""
    return name.replace("_", " ")


def as_number(value: Any) -> int:
    """Return the number; 0 for a value that is not one."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0


def grouped_text(value: Any) -> str:
    """Return ``12,345``; a dash for None, other values as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if value is None else str(value)


def signed(value: Any) -> str:
    """Return ``+12``, ``−3`` or ``0``."""
    number = as_number(value)
    return f"{number:+,}".replace("-", "−") if number else grouped_text(value)


def is_plain(value: Any) -> bool:
    """Report whether a value can be shown in one line."""
    return value is not None and not isinstance(value, dict | list) and value != ""


def plain_value(value: Any) -> str:
    """Return a value as text, without regard to its name."""
    return value_text("", value)


def value_text(key: str, value: Any) -> str:
    """Return a value as text, by its name: ``bytes`` with their unit, ``time`` as a moment."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "bytes":
        return f"{as_number(value):,} bytes"
    if key == "time":
        return moment_text(value)
    return grouped_text(value)


def keys_text(key: Any) -> str:
    """Return the columns of a key as ``id=5, device_id=0af1``."""
    return ", ".join(f"{name}={value}" for name, value in key.items()) if isinstance(key, dict) else str(key)


def address_text(path: Any) -> str:
    """Return a relative path as an address."""
    text = path.as_posix() if isinstance(path, Path) else str(path)
    return quote(text, safe="/")


def weblink_of(url: Any) -> str:
    """Return the address if a page may link to it, else an empty text."""
    return str(url) if re.match(r"(?:https?://|/(?!/))[^\s<>\"]+$", str(url or "")) else ""
