"""A position in the transactions of the target stays true after a crash of the server."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg

from include.cutover.proof import unchanged
from include.cutover.proof.unchanged import Subject
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.target import ledger
from include.cutover.target.session import one_row


def test_after_a_crash_no_number_before_the_position_is_given_out_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "postgres", free_port())
    cluster.start({"synchronous_commit": "off"})
    try:
        conninfo = cluster.conninfo()
        ledger.ensure(conninfo)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA app")
            connection.execute("CHECKPOINT")
            for _ in range(50):
                connection.execute("SELECT pg_current_xact_id()")  # leaves no trace in the write-ahead log
        baseline = unchanged.take(Subject(conninfo, "app", None), ())
        cluster.stop(signal.SIGQUIT)
        cluster.start()
        with psycopg.connect(conninfo) as connection:
            number = int(one_row(connection.execute("SELECT pg_current_xact_id()::text"))[0])
        assert number > baseline.position.following
    finally:
        cluster.stop()
