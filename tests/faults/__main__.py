"""The matrix on the command line: ``python -m tests.faults [PATTERN …]``; no pattern means every cell.

Prints each cell as it ends and writes ``docs/faults.md``. Exit status 0 when every cell that was tried was survived.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import signal
import sys
import time
from collections.abc import Sequence

from include.cutover.places import ROOT
from include.cutover.stack.processes import exit_on
from tests.faults import cells as _  # noqa: F401
from tests.faults import record
from tests.faults.matrix import CELLS
from tests.faults.run import try_cell
from tests.faults.site import FaultSite
from tests.faults.trial import Result, count

FOLDER = ROOT / "var" / "faults"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that match; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Run the fault matrix.")
    parser.add_argument("only", nargs="*", metavar="PATTERN", help="names of cells, such as 'kill-*'")
    given = parser.parse_args(arguments)
    for only in given.only:
        if not any(fnmatch.fnmatch(cell.name, only) for cell in CELLS):
            parser.error(f"no cell's name matches {only!r}; docs/faults.json lists the names")
    wanted = [cell for only in given.only or ["*"] for cell in CELLS if fnmatch.fnmatch(cell.name, only)]
    cells = list(dict.fromkeys(wanted))  # in the order of the patterns
    FaultSite(FOLDER).stop()
    shutil.rmtree(FOLDER, ignore_errors=True)
    failed = 0
    with FaultSite(FOLDER).running() as site:
        count(site)
        for number, cell in enumerate(cells):
            began = time.monotonic()
            results = try_cell(site, cell)
            record.note(cell, results)
            record.write_page(CELLS)
            failed += tell(f"{number + 1:3}/{len(cells)} {cell.name:32}", results, time.monotonic() - began)
    return 1 if failed else 0


def tell(name: str, results: list[Result], took: float) -> int:
    """Print what became of a cell; returns how much of it was tried and not survived."""
    if not all(result.tried for result in results):
        print(f"{name} NOT TRIED: {'; '.join(dict.fromkeys(problem for result in results for problem in result.problems))}")
        return 0
    bad = [result for result in results if not result.survived]
    seconds = max((result.seconds for result in results if result.seconds is not None), default=None)
    recovered = "" if seconds is None else f", recovered after {seconds:.1f} s"
    many = f" ({len(results) - len(bad)} of {len(results)} tasks)" if len(results) > 1 else ""
    word = f"FAILED{many}" if bad else f"survived{many}"
    print(f"{name} {word}: {results[0].state}{recovered}; the cell took {took:.0f} s", flush=True)
    for problem in dict.fromkeys(f"{result.task} {problem}".strip() for result in bad for problem in result.problems):
        print(f"        {problem}", flush=True)
    return len(bad)


if __name__ == "__main__":
    exit_on(signal.SIGTERM, signal.SIGHUP)
    sys.exit(main())
