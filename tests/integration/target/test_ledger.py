"""The ledger: one holder of the target at a time, and nobody who lost it can still commit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from include.cutover.errors import LeaseLost, Refused, Unreachable
from include.cutover.places import ROOT
from include.cutover.target import ledger
from include.cutover.target import session as target_session

# Writes under its guard, stops itself in the middle of COPY, and tries to commit when it is woken.
ZOMBIE = """
import os, signal, sys
from include.cutover.target import ledger
from include.cutover.target.session import session
conninfo, run_id, epoch, name = sys.argv[1:5]
with session(conninfo, "public", application_name=name) as connection:
    with connection.transaction():
        ledger.guard(run_id, int(epoch))(connection)
        with connection.cursor().copy("COPY t FROM STDIN") as copy:
            copy.write("1\\n" * 100_000)
            print("in the middle", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            copy.write("2\\n")
print("committed", flush=True)
"""


@pytest.fixture
def target(conninfo: str) -> str:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE t (a integer)")
    ledger.ensure(conninfo)
    return conninfo


def write(conninfo: str, run_id: str, epoch: int, value: int = 1) -> None:
    with psycopg.connect(conninfo) as connection:
        ledger.guard(run_id, epoch)(connection)
        connection.execute("INSERT INTO t VALUES (%s)", [value])


def written(conninfo: str) -> list[int]:
    with psycopg.connect(conninfo) as connection:
        return [value for (value,) in connection.execute("SELECT DISTINCT a FROM t ORDER BY a")]


def test_concurrent_calls_make_the_ledger_once(conninfo: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(ledger.ensure, conninfo) for _ in range(8)]:
            done.result()
    found = ledger.lease(conninfo)
    assert found == ledger.TargetLease(None, None, 0, None)


def test_there_is_no_lease_without_a_ledger(conninfo: str) -> None:
    assert ledger.lease(conninfo) is None


def test_foreign_schema_of_that_name_is_refused(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE SCHEMA cutover")
        connection.execute("CREATE TABLE cutover.run (id integer)")
    with pytest.raises(Refused, match=r"cutover\.run.*not part of the ledger"):
        ledger.ensure(conninfo)


def test_one_run_holds_the_target(target: str) -> None:
    epoch = ledger.open_run(target, "first", "ward_ops")
    assert ledger.open_run(target, "first", "ward_ops") == epoch
    with pytest.raises(Refused, match="first since"):
        ledger.open_run(target, "second", "ward_ops")
    write(target, "first", epoch)
    assert ledger.release(target, "first", epoch)
    assert not ledger.release(target, "first", epoch)
    assert ledger.open_run(target, "second", "ward_ops") == epoch + 1
    with pytest.raises(LeaseLost, match="second under epoch"):
        write(target, "first", epoch)
    assert written(target) == [1]


def test_of_many_runs_at_once_one_gets_the_lease(target: str) -> None:
    def open_run(number: int) -> int | None:
        try:
            return ledger.open_run(target, f"run{number}", "ward_ops")
        except Refused:
            return None

    with ThreadPoolExecutor(6) as pool:
        epochs = [epoch for epoch in pool.map(open_run, range(6)) if epoch is not None]
    assert epochs == [1]


def test_guard_outside_of_a_transaction_raises(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    with psycopg.connect(target, autocommit=True) as connection, pytest.raises(RuntimeError, match="transaction"):
        ledger.guard("run", epoch)(connection)


def test_taking_over_shuts_the_old_epoch_out(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    taken = ledger.take_over(target, "run", "rollback_ward_ops/7")
    assert taken > epoch
    with pytest.raises(LeaseLost, match="taken over by rollback_ward_ops/7"):
        write(target, "run", epoch)
    with pytest.raises(Refused, match="taken over by"):
        ledger.open_run(target, "run", "ward_ops")
    write(target, "run", taken, 2)
    assert ledger.take_over(target, "run", "rollback_ward_ops/7") > taken
    assert not ledger.release(target, "run", epoch)
    assert written(target) == [2]


def test_taking_over_works_where_there_is_no_ledger_yet(conninfo: str) -> None:
    epoch = ledger.take_over(conninfo, "run", "somebody")
    ledger.check(conninfo, "run", epoch)
    with pytest.raises(LeaseLost):
        ledger.check(conninfo, "run", epoch - 1)


def test_a_transaction_that_ends_by_itself_is_waited_for(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    with psycopg.connect(target) as connection, ThreadPoolExecutor(1) as pool:
        ledger.guard("run", epoch)(connection)
        connection.execute("INSERT INTO t VALUES (1)")
        taken = pool.submit(ledger.take_over, target, "run", "rollback", lock_seconds=60)
        wait_until_blocked(target)
        connection.commit()
        assert taken.result() == epoch + 1
    assert written(target) == [1]


def wait_until_blocked(conninfo: str) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while connection.execute(query).fetchone() == (0,):
            pass


@pytest.mark.parametrize("name", ["named", "somebody's psql"])
def test_a_transaction_that_does_not_end_is_ended(target: str, name: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    if name == "named":
        name = ledger.application_name("run", "copy.t")
    with contextlib.closing(psycopg.connect(target, application_name=name)) as connection:
        ledger.guard("run", epoch)(connection)
        connection.execute("INSERT INTO t VALUES (1)")
        assert ledger.take_over(target, "run", "rollback", lock_seconds=0.1) == epoch + 1
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    assert written(target) == []


def test_sessions_of_others_are_left_alone(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    with (
        contextlib.closing(psycopg.connect(target, application_name="run:copy.t")) as old,
        contextlib.closing(psycopg.connect(target, application_name="runner")) as other,
    ):
        other.execute("INSERT INTO t VALUES (5)")
        ledger.guard("run", epoch)(old)
        ledger.take_over(target, "run", "rollback", lock_seconds=0.1)
        other.commit()
    assert written(target) == [5]


@contextlib.contextmanager
def zombie(conninfo: str, run_id: str, epoch: int, name: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE, conninfo, run_id, str(epoch), name],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_client_stopped_inside_copy_cannot_commit_when_it_wakes(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    with zombie(target, "run", epoch, ledger.application_name("run", "copy.t")) as process:
        taken = ledger.take_over(target, "run", "rollback", lock_seconds=0.2)
        write(target, "run", taken, 3)
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "committed" not in output
    assert "Unreachable" in errors
    assert written(target) == [3]


def test_lease_that_stays_locked_is_reported(target: str) -> None:
    ledger.open_run(target, "run", "ward_ops")
    with psycopg.connect(target) as connection:  # not a guard: a person's LOCK TABLE, whom nobody may end
        connection.execute("LOCK TABLE cutover.lease IN SHARE MODE")
        with pytest.raises(Unreachable, match=f"still locked.*pid {connection.info.backend_pid} "):
            ledger.take_over(target, "run", "rollback", lock_seconds=0.05, attempts=2)
    ledger.take_over(target, "run", "rollback")


@pytest.mark.parametrize(
    ("run_id", "step"),
    [("manual__2025-10-11T08:00:00+00:00", "copy.t.1"), ("x" * 200, "y" * 200), ("გაშვება", "ბიჯი")],
)
def test_a_session_keeps_the_whole_name_it_is_given(target: str, run_id: str, step: str) -> None:
    name = ledger.application_name(run_id, step)
    assert name.startswith(ledger.application_name(run_id, ""))
    with target_session.session(target, "public", application_name=name) as connection:
        assert connection.execute("SHOW application_name").fetchone() == (name,)
