"""Prints the checks and the JSON of the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from include.cutover.checks import Check, Outcome

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
    sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def print_lines(checks: Iterable[Check]) -> None:
    """Write one line for each check: good, bad with what to do, or could not check."""
    for item in checks:
        place = f" ({item.where})" if item.where and item.outcome != "passed" else ""
        text = f"{_WORDS[item.outcome]} {item.title}{place}" + (f": {item.found}" if item.found else "")
        do = f". {item.do}" if item.do and item.outcome != "passed" else ""
        sys.stdout.write(" ".join(f"{text.rstrip('.')}{do}".split()) + "\n")


def print_marked(checks: Iterable[Check], console: Console) -> None:
    """Print each check with its mark, and for those that did not pass what was expected, found and to do."""
    for item in checks:
        console.print(f"{MARKS[item.outcome]} {escape(item.title)}", soft_wrap=True)
        if item.outcome != "passed":
            console.print(f"    expected {escape(item.expected)}, found {escape(item.found)}", soft_wrap=True)
            console.print(f"    {escape(item.where)} {escape(item.do)}", soft_wrap=True)
