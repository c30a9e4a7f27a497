"""The last result of every cell, kept in ``docs/faults.json``, and the page ``docs/faults.md`` that sums them up."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from include.cutover.files import write_atomically
from include.cutover.places import ROOT
from include.cutover.runs.runbook import phase_of
from tests.faults import pulse
from tests.faults.matrix import CELLS, FAULTS, Cell
from tests.faults.trial import Result

FILE = ROOT / "docs" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"

HEAD = f"""\
# Faults and their outcomes

Written by `make faults`, which runs every cell against real processes: a local Airflow, an embedded PostgreSQL, the stand-in
for Ward OPS under supervisord. `make faults ONLY='kill-*'` runs some cells; the others keep their last result. This page
counts the results by fault and phase, and lists each cell that failed or was not tried. All cells, with end state, seconds
and date, are in [faults.json](faults.json).

**Survived** means that after the fault, and one retry or one rollback, exactly one of these states holds. The judge works
from outside: it compares content value by value, tries to write on both ends, queries the application, and computes the
chain of the evidence again. Then the application itself writes a row over HTTP, reads it back, is restarted by its
supervisor, and must still have that row and the source's counts.

- **live on PostgreSQL**: content equal to the verified backup except for rows that the application wrote since, sequences
  ahead, constraints valid, the source fenced;
- **on SQLite, never stopped**, or **fence lifted**: content equal, nothing overwritten;
- **on SQLite, restored**: the file's hash equal to the backup's at the moment before the services start, no side files.

The two ends are never writable at the same time, and a run that is not live is never green. Seconds count from the fault to
the end of the run, or, where many tasks are killed in one run, from the kill to the task's pass. The stack of the matrix is
quicker than a real one: on a quiet machine it declares a task dead after {pulse.FLOOR} s without a heartbeat, not 30 s.
It measures how slow the machine is before each cell, and waits up to {pulse.CEILING} s where needed. Tables that are empty
in the stand-in are omitted.
"""

ROWS = """\
In each cell the application is asked over HTTP for rows, before the run and whenever it runs again. It acknowledged {:,}
rows: {:,} are in the database that was live at the end of their cell, {:,} were named in the evidence as left behind by a
rollback. A row that is neither is a failure of its cell."""


@dataclass
class Entry:
    """A stored result."""

    tried: str
    survived: bool
    state: str
    seconds: float | None
    problems: list[str]
    acknowledged: int = 0
    left_behind: int = 0


def key(cell: Cell, task: str = "") -> str:
    """Return the key under which a result is kept."""
    return f"{cell.name}/{task}" if task else cell.name


def load(file: Path = FILE) -> dict[str, Entry]:
    """Load all known results."""
    if not file.exists():
        return {}
    return {name: Entry(**fields) for name, fields in json.loads(file.read_text()).items()}


def note(cell: Cell, results: Iterable[Result], file: Path = FILE) -> None:
    """Replace the results of a cell with new ones; one that could not be tried here leaves those that are known."""
    results = [result for result in results if result.tried]
    if not results:
        return
    others = {other.name for other in CELLS} - {cell.name}  # a cell that no longer exists is dropped
    known = {name: entry for name, entry in load(file).items() if name.partition("/")[0] in others}
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    for result in results:
        problems = [problem.partition("\n")[0][:300] for problem in result.problems if not problem.startswith("Traceback")]
        rows = (result.acknowledged, result.left_behind)
        known[key(cell, result.task)] = Entry(today, result.survived, result.state, result.seconds, problems, *rows)
    text = json.dumps({name: asdict(entry) for name, entry in sorted(known.items())}, indent=1, ensure_ascii=False)
    write_atomically(file, text.encode() + b"\n")


ALL_PHASES, AFTER_THE_RUN = "All phases", "After the run"

# One step of each phase, in the order of the runbook: the columns of the matrix.
_ORDER = ("open_run", "stop_services", "copy.users", "analyze_tables", "check_tables", "start_services",
          "release.start_services", "rollback.start_services", "close_run")  # fmt: skip
PHASES = (*dict.fromkeys(phase_of(step) for step in _ORDER), AFTER_THE_RUN, ALL_PHASES)

# Moments of cells that are not named after a step: the step that stands for them, or a column of their own.
MOMENTS = {
    "DDL": phase_of("apply_ddl"),
    "after finish_target": phase_of("analyze_tables"),
    "after go-live": AFTER_THE_RUN,
    "after go-live, before the run ends": phase_of("announce_completion"),
    "after it ended live": AFTER_THE_RUN,
    "after it ended rolled back": AFTER_THE_RUN,
    "after a rollback": AFTER_THE_RUN,
    "after check_tables": phase_of("check_tables"),
    "at approve": phase_of("approve"),
    "at its begin, automatic rollback": phase_of("open_rollback"),
    "at its end, automatic rollback": phase_of("open_rollback"),
    "before the proof": phase_of("analyze_tables"),
    "from the decision to the end": phase_of("start_services"),
    "from the stop to the proof": phase_of("copy.users"),
    "after its end, before Airflow knows": ALL_PHASES,
    "at its start": ALL_PHASES,
    "both gates": ALL_PHASES,
    "copy": phase_of("copy.users"),
    "eight steps that change something, in one run": ALL_PHASES,
    "every notice": ALL_PHASES,
    "from before the run to its end": ALL_PHASES,
    "from copy on": phase_of("copy.users"),
    "from the start": ALL_PHASES,
    "in its middle": ALL_PHASES,
    "index build": phase_of("build_keys_and_indexes"),
    "just before its end": ALL_PHASES,
    "manual rollback of a live run": phase_of("open_rollback"),
    "next cutover": AFTER_THE_RUN,
    "preflight": phase_of("check_source"),
    "quiesce": phase_of("stop_services"),
    "restore_test, copy, verify": phase_of("copy.users"),
    "rollback": phase_of("open_rollback"),
    "verify": phase_of("check_tables"),
    "start_aftercare": phase_of("announce_completion"),
}


def phase(cell: Cell, task: str = "") -> str:
    """Return the column of a result: the phase of its task, or the moment that the cell names."""
    if task:
        return phase_of(task)
    if cell.task in MOMENTS:
        return MOMENTS[cell.task]
    word = cell.task.removeprefix("before ").partition(",")[0]
    names = (word, word.rpartition(".")[2], f"rollback.{word}" if word == "restore_source" else word)
    return next((found for found in map(phase_of, names) if found in PHASES), phase_of(word))


@dataclass
class Tally:
    """Results of one fault in one phase."""

    survived: int = 0
    tried: int = 0

    def __str__(self) -> str:
        return f"{self.survived} of {self.tried} survived" if self.tried else "–"


def render(cells: Sequence[Cell], known: Mapping[str, Entry]) -> str:
    """Render the page: the explanation, the matrix, and each cell that failed or was not tried."""
    matrix: dict[int, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    survived = failed = untried = acknowledged = left_behind = 0
    listed = []
    for cell in cells:
        entries = [(name.partition("/")[2], entry) for name, entry in known.items() if name.partition("/")[0] == cell.name]
        if not entries:
            untried += 1
            matrix[cell.row][phase(cell)].tried += 1
            listed.append(f"| `{cell.name}` | {cell.fault} | {cell.task} | not tried | |")
        for task, entry in entries:
            tally = matrix[cell.row][phase(cell, task)]
            tally.tried += 1
            tally.survived += entry.survived
            survived, failed = survived + entry.survived, failed + (not entry.survived)
            acknowledged, left_behind = acknowledged + entry.acknowledged, left_behind + entry.left_behind
            if not entry.survived:
                where = f"`{task}` {cell.task}" if task else cell.task
                problems = "; ".join(entry.problems[:3]).replace("|", "\\|")
                listed.append(f"| `{cell.name}` | {cell.fault} | {where} | **failed**: {problems} | {entry.tried} |")
    phases = [*PHASES, *sorted({name for row in matrix.values() for name in row} - {*PHASES})]
    lines = [HEAD, f"{survived} survived, {failed} failed, {untried} not tried.", ""]
    lines += [ROWS.format(acknowledged, acknowledged - left_behind, left_behind), "", "## Faults by phase", ""]
    lines += [f"| fault | {' | '.join(phases)} |", f"|---|{'---|' * len(phases)}"]
    for row, title in FAULTS.items():
        lines.append(f"| {row}. {title} | {' | '.join(str(matrix[row][name]) for name in phases)} |")
    lines += ["", "## Failed or not tried", ""]
    lines += ["| cell | fault | task | outcome | tried |", "|---|---|---|---|---|", *listed] if listed else ["None."]
    return "\n".join([*lines, ""])


def write_page(cells: Sequence[Cell]) -> None:
    """Write the page from the stored results."""
    PAGE.write_text(render(cells, load()), encoding="utf-8")
