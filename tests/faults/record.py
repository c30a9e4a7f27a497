"""The last result of every cell, kept in ``docs/faults.json``, and the page ``docs/faults.md`` that shows them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from include.cutover.files import write_atomically
from include.cutover.places import ROOT
from tests.faults.matrix import CELLS, FAULTS, Cell
from tests.faults.trial import Result

FILE = ROOT / "docs" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"

HEAD = """\
# Faults, and what became of them

Written by `make faults`, which runs every cell against real processes: a local Airflow, an embedded PostgreSQL, the stand-in
for Ward OPS under supervisord. `make faults ONLY='kill-*'` tries some; the others keep their last result, with its date.

**Survived** means: after the fault and one retry or one rollback, exactly one of these holds, judged from outside (content
compared value by value, writes tried on both ends, the application asked, the chain of the evidence computed anew):

- **live on PostgreSQL**: content equal to the verified backup but for what the application wrote since, sequences ahead,
  constraints valid, the source fenced;
- **on SQLite, never stopped**, or **fence lifted**: content equal, nothing overwritten;
- **on SQLite, restored**: the file's hash equal to the backup's at the moment before the services start, no side files.

Never both writable, never a green run that is not live. Seconds are from the fault to the end of the run, or, where many
tasks are killed in one run, from the kill to the task's pass. The stack of the matrix is quicker than a real one: a
task is declared dead after 8 s without a heart-beat, not after 30 s. Tables that are empty in the stand-in are left out.
"""


@dataclass
class Entry:
    """A result as it is kept."""

    tried: str
    survived: bool
    state: str
    seconds: float | None
    problems: list[str]


def key(cell: Cell, task: str = "") -> str:
    """Under which a result is kept."""
    return f"{cell.name}/{task}" if task else cell.name


def load(file: Path = FILE) -> dict[str, Entry]:
    """All results that are known."""
    if not file.exists():
        return {}
    return {name: Entry(**fields) for name, fields in json.loads(file.read_text()).items()}


def note(cell: Cell, results: Iterable[Result], file: Path = FILE) -> None:
    """Keep the results of a cell in the place of its last ones."""
    others = {other.name for other in CELLS} - {cell.name}  # a cell that is no more is forgotten
    known = {name: entry for name, entry in load(file).items() if name.partition("/")[0] in others}
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    for result in results:
        problems = [problem.partition("\n")[0][:300] for problem in result.problems if not problem.startswith("Traceback")]
        known[key(cell, result.task)] = Entry(today, result.survived, result.state, result.seconds, problems)
    text = json.dumps({name: asdict(entry) for name, entry in sorted(known.items())}, indent=1, ensure_ascii=False)
    write_atomically(file, text.encode() + b"\n")


def render(cells: Sequence[Cell], known: Mapping[str, Entry]) -> str:
    """The page."""
    by_row: dict[int, list[str]] = defaultdict(list)
    survived = failed = untried = 0
    for cell in cells:
        entries = [(name.partition("/")[2], entry) for name, entry in known.items() if name.partition("/")[0] == cell.name]
        if not entries:
            untried += 1
            by_row[cell.row].append(f"| {cell.fault} | {cell.task} | not tried | | | |")
        for task, entry in entries:
            survived, failed = survived + entry.survived, failed + (not entry.survived)
            where = f"`{task}` {cell.task}" if task else cell.task
            seconds = "" if entry.seconds is None else f"{entry.seconds:.1f}"
            outcome = "survived" if entry.survived else f"**failed**: {'; '.join(entry.problems[:3])}".replace("|", "\\|")
            by_row[cell.row].append(f"| {cell.fault} | {where} | {outcome} | {entry.state} | {seconds} | {entry.tried} |")
    lines = [HEAD, f"{survived} survived, {failed} failed, {untried} not tried.", ""]
    for row, title in FAULTS.items():
        lines += [f"## {row}. {title[0].upper()}{title[1:]}", ""]
        if by_row[row]:
            lines += ["| fault | task | | end state | seconds | tried |", "|---|---|---|---|---|---|", *by_row[row]]
        else:
            lines += ["Not tried."]
        lines += [""]
    return "\n".join(lines)


def write_page(cells: Sequence[Cell]) -> None:
    """Write the page from what is kept."""
    PAGE.write_text(render(cells, load()), encoding="utf-8")
