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

from include.cutover.plan import ROOT
from include.cutover.processes import exit_on
from tests.faults import cells as _  # noqa: F401
from tests.faults.matrix import CELLS
from tests.faults.run import try_cell
from tests.faults.site import FaultSite
from tests.faults.trial import count

FOLDER = ROOT / "var" / "faults"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that match; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Run the fault matrix.")
    parser.add_argument("only", nargs="*", metavar="PATTERN", help="names of cells, such as 'kill-*'")
    given = parser.parse_args(arguments)
    cells = [cell for cell in CELLS if not given.only or any(fnmatch.fnmatch(cell.name, only) for only in given.only)]
    FaultSite(FOLDER).stop()
    shutil.rmtree(FOLDER, ignore_errors=True)
    failed = 0
    with FaultSite(FOLDER).running() as site:
        count(site)
        for number, cell in enumerate(cells):
            began = time.monotonic()
            results = try_cell(site, cell)
            for result in results:
                failed += not result.survived
                took = "" if result.seconds is None else f" {result.seconds:.1f} s"
                print(f"{number + 1:3}/{len(cells)} {cell.name} {result.task}: {'survived' if result.survived else 'FAILED'},"
                      f" {result.state}{took}", flush=True)
                for problem in result.problems:
                    print(f"        {problem}", flush=True)
            print(f"        the cell took {time.monotonic() - began:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    exit_on(signal.SIGTERM, signal.SIGHUP)
    sys.exit(main())
