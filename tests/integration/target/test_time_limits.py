"""Silent servers and terminated tasks: every wait ends in time, with an error that says why."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import psycopg
import pytest

from include.cutover.errors import StepFailed, Unreachable
from include.cutover.evidence.record import Evidence
from include.cutover.locks import locked
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.preflight import target as preflight_target
from include.cutover.preflight import target_server
from include.cutover.proof import content
from include.cutover.runs.terms import Terms
from include.cutover.stack.postgres import Cluster
from include.cutover.steps.step import Report, Step
from include.cutover.target import ledger
from include.cutover.target import session as target_session
from include.cutover.target.sides import Sides
from tests.support.hanging import stopped, through_proxy

SHORT = {"statement_timeout": "300ms"}
NAME = "time-limits"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are waited for as briefly as a test can bear."""
    monkeypatch.setattr(target_session, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(target_session.Connection, "patience", 1.0)
    monkeypatch.setattr(target_session, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(ledger, "_STATEMENT_TIMEOUT", "300ms")


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def sessions(conninfo: str, name: str) -> int:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        row = connection.execute(query, [name]).fetchone()
    return int(row[0]) if row else 0


# --- PostgreSQL hangs ----------------------------------------------------------------------------------------------------


def test_a_server_process_that_hangs_is_given_up_and_holds_nothing_afterwards(conninfo: str, impatient: None) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE t (id int)")
    with (
        pytest.raises(Unreachable) as caught,
        target_session.session(conninfo, "public", settings=SHORT, application_name=NAME) as connection,
        connection.transaction(),
    ):
        connection.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        hung = connection.info.backend_pid
        os.kill(hung, signal.SIGSTOP)
        connection.execute("SELECT 1")
    assert "no answer in 1.3 s" in caught.value.found and caught.value.retry_helps
    os.kill(hung, signal.SIGCONT)
    assert wait_until(lambda: sessions(conninfo, NAME) == 0)


def test_a_server_that_hangs_at_commit_is_given_up(conninfo: str, impatient: None) -> None:
    """The end of a transaction is a wait like any other; so is the rollback after an error."""
    for fault in (None, RuntimeError("ours")):
        with (
            pytest.raises((Unreachable, RuntimeError)),
            target_session.session(conninfo, "public", settings=SHORT) as connection,
            connection.transaction(),
        ):
            hung = connection.info.backend_pid
            os.kill(hung, signal.SIGSTOP)
            if fault is not None:
                raise fault
        os.kill(hung, signal.SIGCONT)


def test_a_postmaster_that_hangs_is_unreachable(cluster: Cluster, conninfo: str, impatient: None) -> None:
    plan = load_plan("ward_ops")
    with stopped(cluster.postmaster() or 0):
        with pytest.raises(Unreachable, match="the target does not answer"):
            ledger.take_over(conninfo, "run", "somebody")
        (check,) = preflight_target.check_target(conninfo, plan=plan, source_bytes=0, application_role=None)
        assert (check.name, check.outcome) == ("target_reachable", "failed") and "timeout" in check.found


@pytest.mark.parametrize("after", [0, 200, 700, 1_500])
def test_a_connection_that_falls_silent_is_given_up_wherever_it_does(conninfo: str, impatient: None, after: int) -> None:
    with (
        through_proxy(conninfo, after) as stalling,
        pytest.raises(Unreachable) as caught,
        target_session.session(stalling, "public", settings=SHORT) as connection,
    ):
        for _ in range(100):
            connection.execute("SELECT 1")
    assert "no answer" in caught.value.found or "timeout" in caught.value.found


def test_preflight_over_a_silent_connection_is_unknown(
    conninfo: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look waits to the end of its time; the connection is given up then, and the others find it closed."""
    monkeypatch.setitem(target_server._WAITS, "statement_timeout", 0.3)
    with through_proxy(conninfo, 1_500) as stalling:
        checks = preflight_target.check_target(stalling, plan=load_plan("ward_ops"), source_bytes=0, application_role=None)
    assert checks[0].outcome == "passed"
    found = [check.found for check in checks if check.outcome == "unknown"]
    assert found[0].startswith("no answer in 1.3 s") and set(found[1:]) == {"the connection is closed"}


def test_a_silent_target_ends_the_proof(tmp_path: Path, conninfo: str, impatient: None) -> None:
    with apsw.Connection(str(tmp_path / "source.db")) as source:
        source.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT)")
        source.executemany("INSERT INTO t VALUES (?, ?)", [(number, "x" * 20) for number in range(2_000)])
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, word text)")
        connection.execute("INSERT INTO t SELECT n, repeat('x', 20) FROM generate_series(0, 1999) n")
    (result,) = content.compare(Sides(tmp_path / "source.db", conninfo, "public"), ["t"], seconds=0.3)
    assert result.outcome == "passed"
    ended = 0
    for after in range(900, 3_000, 400):  # from the log-in on, until it is silent only after the last answer
        with through_proxy(conninfo, after) as stalling, contextlib.suppress(Unreachable):
            ended += 1
            (result,) = content.compare(Sides(tmp_path / "source.db", stalling, "public"), ["t"], seconds=0.3)
            if result.outcome == "passed":
                break
            assert result.outcome == "unknown"
    assert ended > 3


def test_work_that_is_given_up_does_not_wait_for_a_server_that_hangs(conninfo: str) -> None:
    """``cut`` from another thread ends a wait at once, whatever the time limits say."""
    with target_session.session(conninfo, "public") as connection:
        timer = threading.Timer(0.3, connection.cut)
        with stopped(connection.info.backend_pid):
            timer.start()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")


# --- a process is ended --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_session_of_an_ended_process_ends_too(conninfo: str, ending: signal.Signals) -> None:
    script = (
        "import signal, sys; from include.cutover.target.session import session\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"with session(sys.argv[1], 'public', application_name={NAME!r}) as connection:\n"
        "    connection.execute('SELECT pg_sleep(600)')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, conninfo], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: sessions(conninfo, NAME) == 1)
        process.send_signal(ending)
        process.wait(30)
        assert wait_until(lambda: sessions(conninfo, NAME) == 0)
    finally:
        process.kill()
        process.wait()


# --- a task is ended -----------------------------------------------------------------------------------------------------


def context(run_id: str = "run") -> Any:
    return {
        "dag_run": SimpleNamespace(dag_id="cutover_ward_ops", run_id=run_id, triggering_user_name="lead", run_after=None),
        "ti": SimpleNamespace(try_number=1, log_url=""),
        "params": {},
    }


def operator(body: Callable[[Step], Report], minutes: float = 15) -> Any:
    from include.cutover.tasks.operators import StepOperator

    limit = timedelta(minutes=minutes)
    return StepOperator(task_id="check_target", plan="ward_ops", body=body, terms=Terms(opens=True), execution_timeout=limit)


@contextlib.contextmanager
def as_airflow_ends_it(task: Any) -> Iterator[None]:
    """Handle SIGTERM as Airflow's task runner does: it calls ``on_kill`` and goes on with its work."""
    before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def test_terminated_task_ends_with_its_session(conninfo: str) -> None:
    Evidence.of("ward_ops", "run").append("run.opened", run_id="run")

    def body(step: Step) -> Report:
        with target_session.session(conninfo, "public", application_name=NAME) as connection:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            connection.execute("SELECT pg_sleep(600)")
        return Report("never")

    task = operator(body)
    with as_airflow_ends_it(task), pytest.raises(SystemExit):
        task.execute(context())
    assert wait_until(lambda: sessions(conninfo, NAME) == 0)
    end = Evidence.of("ward_ops", "run").step("check_target")
    assert end is not None and end["outcome"] == "error" and "ended this task" in end["summary"]
    task.on_kill()  # Airflow calls it once more after a time-out, when nothing is at work


def test_a_task_that_takes_too_long_says_where_it_was(conninfo: str) -> None:
    from airflow.sdk.execution_time.timeout import timeout

    Evidence.of("ward_ops", "run").append("run.opened", run_id="run")

    def body(step: Step) -> Report:
        with target_session.session(conninfo, "public", application_name=NAME) as connection:
            ledger.ensure(conninfo)
            connection.execute("SELECT pg_sleep(600)")
        return Report("never")

    with pytest.raises(RuntimeError, match="took too long"), timeout(1):
        operator(body, minutes=1 / 60).execute(context())
    assert wait_until(lambda: sessions(conninfo, NAME) == 0)
    end = Evidence.of("ward_ops", "run").step("check_target")
    assert end is not None and end["outcome"] == "error"
    assert "session.wait" in end["summary"] and "0.0166667 minutes" in end["summary"]


def test_task_stuck_outside_python_is_killed(tmp_path: Path) -> None:
    """SQLite at work for ever in one statement: no Python runs in between, so no exception can reach it."""
    script = f"""
import apsw, sys
from datetime import timedelta
from include.cutover.tasks import time_limits
time_limits.GRACE_SECONDS = 0
with time_limits.hard_limit(timedelta(seconds=1)):
    connection = apsw.Connection({str(tmp_path / "x.db")!r})
    connection.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n").fetchall()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "Timeout" in done.stderr


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unreachable("the target does not answer"), True),
        (OSError(5, "Input/output error"), True),
        (StepFailed("the service did not stop"), False),
        (KeyError("no such thing"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_only_errors_that_a_retry_can_help_are_retried(error: Exception, again: bool) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    def body(step: Step) -> Report:
        raise error

    with pytest.raises(Exception) as caught:  # which one is the question
        operator(body).execute(context())
    assert isinstance(caught.value, AirflowFailException) is not again


# --- locks ---------------------------------------------------------------------------------------------------------------


def test_wait_for_a_lock_of_a_hung_process_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from include.cutover.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True); time.sleep(600)\n"
    )
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with stopped(holder.pid), pytest.raises(Unreachable, match="keeps this file locked"), locked(path, seconds=0.3):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(path, seconds=0.3):
        pass
