"""How fast the assessment is, against the copy of the same rows.

    python -m bench.assessment [--rows 5000000] [--rounds 3]

Both read the same generated source of Ward OPS. The copy brings ``ping_results`` into the table of the plan's own SQL on
the embedded PostgreSQL, as in ``bench.copying``; the assessment looks at every table, with unique keys, references,
sequences and objects. The rounds interleave, because machines drift: only the ratio within one run means something. At
least 0.5 is wanted.

Measured is the wall time in a process that has its imports done; of the assessment without the clone and without reading the
target, which take their time whatever the speed of the scan is. A third way is the same source with one value in a hundred
that the conditions inside SQLite do not know, so that Python looks at them one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from bench.copying import FOLDER, Measured, copy, empty, source_file
from include.cutover.assessment.assess import assess
from include.cutover.assessment.target import Target, read_target
from include.cutover.plan.file import load_plan
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.target import ledger, sql_runner

COPY, CLEAN, AWKWARD = "copy_table, 1 stream", "assess, clean", "assess, 1 % awkward"


def awkward_file(clean: Path) -> Path:
    """Make the same rows, one in a hundred with a boolean in words and a date in unix seconds."""
    file = clean.with_name(clean.name.replace("pings", "awkward"))
    if not file.exists():
        print("making the awkward source …", flush=True)
        partial = file.with_suffix(".partial")
        shutil.copyfile(clean, partial)
        with contextlib.closing(apsw.Connection(str(partial))) as connection:
            connection.execute("PRAGMA journal_mode = OFF").fetchall()
            connection.execute(
                "UPDATE ping_results SET is_reachable = 'yes', timestamp = unixepoch(timestamp) WHERE id % 100 = 0"
            )
        partial.replace(file)
    return file


def assessed(file: Path, target: Target, blocks: int) -> Measured:
    """Run one assessment, and require its number of blocking findings."""
    plan = load_plan("ward_ops")
    began, before = time.monotonic(), time.process_time()
    found = assess(file, plan, target)
    seconds, cpu = time.monotonic() - began, time.process_time() - before
    assert len(found.blocks) == blocks, found.blocks
    return Measured(seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def report(rows: int, measured: dict[str, list[Measured]]) -> None:
    """Print medians, spread, and the ratio to the copy."""
    baseline = statistics.median(item.seconds for item in measured[COPY])
    print(f"\n{'way':22} {'rows/s':>10} {'ratio':>6} {'seconds':>8} {'spread':>14} {'CPU s':>7} {'peak MB':>8}")
    for way, items in measured.items():
        seconds = sorted(item.seconds for item in items)
        middle, peak = statistics.median(seconds), max(item.peak for item in items)
        spread = f"{seconds[0]:.2f}-{seconds[-1]:.2f}"
        cpu = statistics.median(item.cpu for item in items)
        ratio = baseline / middle
        print(f"{way:22} {rows / middle:>10,.0f} {ratio:>6.2f} {middle:>8.2f} {spread:>14} {cpu:>7.2f} {peak:>8.0f}")
    pairs = zip(measured[COPY], measured[CLEAN], strict=True)
    print("ratio of each round, clean:", ", ".join(f"{one.seconds / other.seconds:.2f}" for one, other in pairs))


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.assessment", description="assess against copy_table.")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of ping_results (5000000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (3)")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    clean = source_file(arguments.rows)
    awkward = awkward_file(clean)
    cluster = Cluster(FOLDER / "postgres-of-the-assessment", free_port())
    cluster.start()
    try:
        folder = load_plan("ward_ops").sql_folder
        sql_runner.apply(cluster.conninfo(), folder, "pre_data", schema="public", run_id="bench")
        ledger.ensure(cluster.conninfo())
        target = read_target(cluster.conninfo(), folder)
        ways: dict[str, Callable[[], Measured]] = {
            COPY: lambda: copy(cluster, clean, streams=1),
            CLEAN: lambda: assessed(clean, target, blocks=0),
            AWKWARD: lambda: assessed(awkward, target, blocks=2),
        }
        measured: dict[str, list[Measured]] = {way: [] for way in ways}
        for number in range(arguments.rounds):
            for way, run in ways.items():
                empty(cluster)
                measured[way].append(run())
                print(f"round {number + 1}, {way}: {measured[way][-1].seconds:.2f} s", flush=True)
        report(arguments.rows, measured)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
