"""How long the proof of equal content takes, against the copy of the same rows.

    python -m bench.content [--rows 5000000] [--rounds 3] [--workers 2]

Each round copies the ``ping_results`` rows into an empty table of the plan's own SQL, builds the primary key, and compares
every value of both sides, on the same embedded PostgreSQL with its default settings. Copy and proof interleave, because
machines drift: only the ratio within one run means something.

Measured is the wall time of ``copy_table`` (one stream, and two) and of ``content.compare``, each in processes that have
their imports done: with connecting, and with everything that is computed on either side. The proof is taken with nothing
known of the source, and once more with the source's digests stored, as in a cutover that computed them beside the copy.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from bench.copying import FOLDER, TABLE, Measured, copy, empty, source_file
from include.cutover.places import ROOT, sql_root
from include.cutover.proof import content
from include.cutover.proof.digest_store import DigestStore
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.target import ledger, sql_runner
from include.cutover.target.sides import Sides

COPY, COPY_2 = "copy_table, 1 stream", "copy_table, 2 streams"
PROOF, TARGET_ONLY = "proof, both sides", "proof, source's digests stored"


def index(cluster: Cluster) -> None:
    """Make the primary key and the statistics, as the cutover does before the proof."""
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute("ALTER TABLE ping_results ADD CONSTRAINT ping_results_pkey PRIMARY KEY (id)")
        connection.execute("ANALYZE ping_results")


def clear(cluster: Cluster) -> None:
    """Restore the table as it was before the copy."""
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute("ALTER TABLE ping_results DROP CONSTRAINT IF EXISTS ping_results_pkey")
    empty(cluster)


def prove(cluster: Cluster, snapshot: Path, rows: int, workers: int, stored: Path | None) -> Measured:
    """Run ``content.compare`` in a process of its own.

    Args:
        cluster: The server with the target.
        snapshot: The source file.
        rows: Rows that both sides hold.
        workers: Sessions for each side.
        stored: File with the source's digests; None for a proof that computes them.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.content", "--child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()  # its imports are done
        task = {"snapshot": str(snapshot), "conninfo": cluster.conninfo(), "workers": workers, "stored": str(stored or "")}
        found = json.loads(child.communicate(json.dumps(task) + "\n")[0])
    finally:
        child.kill()
        child.wait()
    assert found["outcome"] == "passed" and found["rows"] == rows, found
    return Measured(**{name: found[name] for name in ("seconds", "peak", "cpu")})


def child() -> None:
    """Run the proving process: report that it is ready, read its task, report the time it took."""
    print("ready", flush=True)
    task = json.loads(sys.stdin.readline())
    begin, before = time.monotonic(), time.process_time()
    (result,) = content.compare(
        Sides(Path(task["snapshot"]), task["conninfo"], "public"),
        [TABLE],
        store=DigestStore(Path(task["stored"])) if task["stored"] else None,
        workers=task["workers"],
    )
    figures = {
        "seconds": time.monotonic() - begin,
        "cpu": time.process_time() - before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "outcome": result.outcome,
        "rows": result.target_rows,
    }
    print(json.dumps(figures))


def report(rows: int, measured: dict[str, list[Measured]]) -> None:
    """Print medians, spread, and the ratio to the copy."""
    middles = {way: statistics.median(item.seconds for item in items) for way, items in measured.items()}
    print(f"\n{'way':32} {'rows/s':>10} {'of copy':>8} {'seconds':>8} {'spread':>14} {'client CPU s':>13} {'peak MB':>8}")
    for way, items in measured.items():
        seconds = sorted(item.seconds for item in items)
        spread, peak = f"{seconds[0]:.2f}-{seconds[-1]:.2f}", max(item.peak for item in items)
        cpu, share = statistics.median(item.cpu for item in items), middles[way] / middles[COPY]
        rate = rows / middles[way]
        print(f"{way:32} {rate:>10,.0f} {share:>8.2f} {middles[way]:>8.2f} {spread:>14} {cpu:>13.2f} {peak:>8.0f}")
    for way in (COPY, COPY_2):
        pairs = zip(measured[PROOF], measured[way], strict=True)
        print(f"proof against {way}, each round:", ", ".join(f"{one.seconds / other.seconds:.2f}" for one, other in pairs))


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.content", description="The proof of content against the copy.")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of ping_results (5000000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (3)")
    parser.add_argument("--workers", type=int, default=content.WORKERS, help=f"sessions for each side ({content.WORKERS})")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child()
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    snapshot, stored = source_file(arguments.rows), FOLDER / f"pings-{arguments.rows}.digests.json"
    cluster = Cluster(FOLDER / "postgres-content", free_port())
    cluster.start()
    try:
        sql_runner.apply(cluster.conninfo(), sql_root() / "ward_ops", "pre_data", schema="public", run_id="bench")
        ledger.ensure(cluster.conninfo())
        stored.unlink(missing_ok=True)
        content.source_digests(Sides(snapshot, cluster.conninfo(), "public"), [TABLE], store=DigestStore(stored))
        ways: dict[str, Callable[[], Measured]] = {
            COPY_2: lambda: copy(cluster, snapshot, streams=2),
            COPY: lambda: copy(cluster, snapshot, streams=1),
            PROOF: lambda: prove(cluster, snapshot, arguments.rows, arguments.workers, None),
            TARGET_ONLY: lambda: prove(cluster, snapshot, arguments.rows, arguments.workers, stored),
        }
        measured: dict[str, list[Measured]] = {way: [] for way in ways}
        for number in range(arguments.rounds):
            for way, run in ways.items():
                if way in (COPY, COPY_2):
                    clear(cluster)
                elif way == PROOF:
                    index(cluster)
                measured[way].append(run())
                print(f"round {number + 1}: {way}: {measured[way][-1].seconds:.2f} s", flush=True)
        report(arguments.rows, measured)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
