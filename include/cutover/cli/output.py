"""Prints the checks and the JSON of the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from include.cutover.checks import Check, Outcome
from include.cutover.masking import one_line, visible_json

STATUS: Mapping[Outcome, int] = {"passed": 0, "failed": 1, "unknown": 2}
"""Exit status of a command that makes checks, by their outcome."""

MARKS: Mapping[str, str] = {
    "passed": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "error": "[red]✗[/]",
    "refused": "[red]✗[/]",
    "unknown": "[yellow]?[/]",
}
"""Mark of an outcome on a terminal."""

_WORDS: Mapping[Outcome, str] = {"passed": "good", "failed": "bad", "unknown": "could not check"}


def print_json(content: Mapping[str, Any]) -> None:
    """Write JSON to standard output."""
    sys.stdout.write(visible_json(json.dumps(content, indent=1, ensure_ascii=False, default=str)) + "\n")


def print_lines(checks: Iterable[Check]) -> None:
    """Write one line for each check: good, bad with what to do, or could not check."""
    for item in checks:
        place = f" ({item.where})" if item.where and item.outcome != "passed" else ""
        text = f"{_WORDS[item.outcome]} {item.title}{place}" + (f": {item.found}" if item.found else "")
        do = f". {item.do}" if item.do and item.outcome != "passed" else ""
        sys.stdout.write(one_line(f"{text.rstrip('.')}{do}") + "\n")


def print_marked(checks: Iterable[Check], console: Console) -> None:
    """Print each check with its mark, and for those that did not pass what was expected, found and to do; a line each."""
    for item in checks:
        console.print(f"{MARKS[item.outcome]} {_plain(item.title)}", soft_wrap=True)
        if item.outcome != "passed":
            console.print(f"    expected {_plain(item.expected)}, found {_plain(item.found)}", soft_wrap=True)
            console.print(f"    {_plain(item.where)} {_plain(item.do)}", soft_wrap=True)


def _plain(text: str) -> str:
    return escape(one_line(text))
