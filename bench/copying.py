r"""How fast the copy is, against psql's ``\copy`` of a CSV file that is ready.

    python -m bench.copying [--rows 5000000] [--rounds 3]

Both bring the same ``ping_results`` rows into the same table of the plan's own SQL, typed and without indexes, on the same
embedded PostgreSQL with its default settings, fsync on. The rounds interleave, because machines drift: only the ratio within
one run means something. ``\copy`` gets a finished CSV file and checks nothing; the copy reads SQLite, checks and escapes
every column, and records its chunks. A third way, two streams at once, is for information.

Measured is the wall time of ``\copy`` including psql's start, and of ``copy_table`` in a process that has its imports done,
with connecting, planning the chunks and all commits. Files that are made once are kept under ``var/bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from include.cutover.copying.chunks import CHUNK_ROWS, Share
from include.cutover.copying.table_copy import RunLease
from include.cutover.copying.tables import copy_table
from include.cutover.places import ROOT, sql_root
from include.cutover.stack.postgres import Cluster, binaries, free_port
from include.cutover.target import ledger, sql_runner
from include.cutover.target.sides import Sides

FOLDER = ROOT / "var" / "bench"
TABLE = "ping_results"


@dataclass(frozen=True)
class Measured:
    """One way in one round.

    Attributes:
        cpu: Seconds of processor time of the client's processes; the server's come on top.
        peak: Greatest memory of one client process, in MB.
    """

    seconds: float
    cpu: float
    peak: float


def source_file(rows: int) -> Path:
    """Return the SQLite file with that many pings, generated unless it is there."""
    file = FOLDER / f"pings-{rows}.db"
    if not file.exists():
        print(f"generating {rows:,} pings …", flush=True)
        command = [sys.executable, "-m", "examples.ward_ops.generate", "--to", str(file), "--pings", str(rows)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return file


def csv_file(cluster: Cluster, rows: int) -> Path:
    """Return the same rows as CSV, unless it is there: copied once, and written by PostgreSQL itself."""
    file = FOLDER / f"pings-{rows}.csv"
    if not file.exists():
        print("writing the CSV file …", flush=True)
        copy(cluster, source_file(rows), streams=1)
        partial = file.with_suffix(".partial")
        with psycopg.connect(cluster.conninfo()) as connection, partial.open("wb") as out:
            statement = sql.SQL("COPY {} TO STDOUT (FORMAT csv)").format(sql.Identifier(TABLE))
            with connection.cursor().copy(statement) as copying:
                for data in copying:
                    out.write(data)
        partial.replace(file)
    return file


def empty(cluster: Cluster) -> None:
    """Empty the table, and leave no work over from the round before."""
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(TABLE)))
        connection.execute("CHECKPOINT")


def count(cluster: Cluster) -> int:
    """Count the rows in the target's table."""
    with psycopg.connect(cluster.conninfo()) as connection:
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(TABLE))).fetchone()
    return int(row[0]) if row else 0


def psql(cluster: Cluster, csv: Path) -> Measured:
    r"""Run ``\copy`` of the ready file."""
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD": cluster.password, "PGCLIENTENCODING": "UTF8"}
    command = [
        str(binaries() / "psql"), "--no-psqlrc", "--quiet", "--host", "127.0.0.1", "--port", str(cluster.port),
        "--username", "postgres", "--dbname", "postgres", "--set", "ON_ERROR_STOP=1",
        "--command", f"\\copy {TABLE} FROM '{csv}' WITH (FORMAT csv)",
    ]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def copy(cluster: Cluster, snapshot: Path, *, streams: int) -> Measured:
    """Run ``copy_table`` in one process per stream."""
    conninfo = cluster.conninfo()
    run_id = f"bench-{time.time_ns()}"
    epoch = ledger.open_run(conninfo, run_id, "bench")
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.copying", "--child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for _ in range(streams)
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()  # its imports are done
        for stream, child in enumerate(children):
            assert child.stdin is not None
            task = {"snapshot": str(snapshot), "conninfo": conninfo, "run_id": run_id, "epoch": epoch}
            child.stdin.write(json.dumps({**task, "stream": stream, "streams": streams}) + "\n")
            child.stdin.flush()
        results = [json.loads(child.communicate()[0]) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
        ledger.release(conninfo, run_id, epoch)
    begin = min(result["begin"] for result in results)
    end = max(result["end"] for result in results)
    return Measured(end - begin, sum(result["cpu"] for result in results), max(result["peak"] for result in results))


def child() -> None:
    """Run the copying process: report that it is ready, read its task, report the time it took."""
    print("ready", flush=True)
    task = json.loads(sys.stdin.readline())
    sides = Sides(Path(task["snapshot"]), task["conninfo"], "public")
    lease, share = RunLease(task["run_id"], task["epoch"]), Share(task["stream"], task["streams"])
    begin, before = time.monotonic(), time.process_time()  # one clock for all processes of a machine
    copy_table(sides, lease, TABLE, chunk_rows=CHUNK_ROWS, share=share, on_progress=lambda _: None)
    end, after = time.monotonic(), time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"begin": begin, "end": end, "cpu": after - before, "peak": peak}))


def report(rows: int, measured: dict[str, list[Measured]]) -> None:
    r"""Print medians, spread, and the ratio to ``\copy``."""
    baseline = statistics.median(item.seconds for item in measured["psql \\copy, ready CSV"])
    print(f"\n{'way':24} {'rows/s':>10} {'ratio':>6} {'seconds':>8} {'spread':>14} {'client CPU s':>13} {'peak MB':>8}")
    for way, items in measured.items():
        seconds = sorted(item.seconds for item in items)
        middle, peak = statistics.median(seconds), max(item.peak for item in items)
        spread = f"{seconds[0]:.2f}-{seconds[-1]:.2f}"
        cpu = statistics.median(item.cpu for item in items)
        ratio = baseline / middle
        print(f"{way:24} {rows / middle:>10,.0f} {ratio:>6.2f} {middle:>8.2f} {spread:>14} {cpu:>13.2f} {peak:>8.0f}")
    pairs = zip(measured["psql \\copy, ready CSV"], measured["copy_table, 1 stream"], strict=True)
    print("ratio of each round, 1 stream:", ", ".join(f"{one.seconds / other.seconds:.2f}" for one, other in pairs))


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.copying", description="copy_table against psql \\copy.")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of ping_results (5000000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (3)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child()
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    snapshot = source_file(arguments.rows)
    cluster = Cluster(FOLDER / "postgres", free_port())
    cluster.start()
    try:
        sql_runner.apply(cluster.conninfo(), sql_root() / "ward_ops", "pre_data", schema="public", run_id="bench")
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS cutover CASCADE")  # the lease of a benchmark that was killed
        ledger.ensure(cluster.conninfo())
        empty(cluster)
        csv = csv_file(cluster, arguments.rows)
        ways: dict[str, Callable[[], Measured]] = {
            "psql \\copy, ready CSV": lambda: psql(cluster, csv),
            "copy_table, 1 stream": lambda: copy(cluster, snapshot, streams=1),
            "copy_table, 2 streams": lambda: copy(cluster, snapshot, streams=2),
        }
        measured: dict[str, list[Measured]] = {way: [] for way in ways}
        for number in range(arguments.rounds):
            for way, run in ways.items():
                empty(cluster)
                measured[way].append(run())
                found = count(cluster)
                assert found == arguments.rows, f"{way} brought {found:,} rows"
                print(f"round {number + 1}: {way}: {measured[way][-1].seconds:.2f} s", flush=True)
        report(arguments.rows, measured)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
