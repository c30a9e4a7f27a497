"""One local Airflow for all of these tests: what people do with it, who may, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from include.cutover.errors import CannotCheck, Refused, StepFailed, Unreachable
from include.cutover.people.roles import Accounts
from include.cutover.stack.api_client import Client, GateState, TaskState
from include.cutover.stack.local import Stack
from include.cutover.stack.processes import Leader, members
from include.cutover.stack.settings import StackSettings
from tests.support.patience import RUN_SECONDS

DAGS = """
import os
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Connection, DAG, Param, task

with DAG("gate", schedule=None, params={"word": Param("none", type="string", maxLength=10)}):

    @task
    def say(params=None):
        print("the word is", params["word"], "and", os.environ["WORD_OF_ENVIRONMENT"])
        for name in ("somewhere", "from_the_shell"):
            print("the connection", name, "leads to", Connection.get(name).host)

    ask = HITLOperator(
        task_id="ask", subject="Go on?", options=["Go", "No-go"], assigned_users=[{"id": "1", "name": "lead"}]
    )

    @task(trigger_rule="all_done")
    def fail():
        raise RuntimeError("as intended")

    say() >> ask >> fail()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "dags").mkdir()
    (folder / "plugins").mkdir()
    (folder / "dags" / "gate.py").write_text(DAGS)
    settings = StackSettings(
        {"somewhere": '{"conn_type": "http", "host": "nowhere.example"}'},
        {"WORD_OF_ENVIRONMENT": "known"},
        dags_folder=folder / "dags",
        plugins_folder=folder / "plugins",
        accounts=Accounts(users={"lead": ("Op",), "observer": ("Viewer",), "communicator": ("Viewer",)}),
        parallelism=2,
    )
    stack = Stack(folder / "airflow", settings)
    with stack.roster.guarded():
        with pytest.MonkeyPatch.context() as shell:
            shell.setenv("AIRFLOW_CONN_FROM_THE_SHELL", "http://elsewhere.example")
            shell.setenv("AIRFLOW__CORE__AUTH_MANAGER", "another.Airflow.Setting")
            stack.start(["gate"])
        yield stack


@pytest.fixture
def lead(stack: Stack) -> Iterator[Client]:
    with stack.client("lead") as client:
        yield client


def wait_for(condition: Callable[[], GateState | None], seconds: float = 180) -> GateState:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found is not None:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def test_a_run_is_triggered_followed_and_its_gate_answered(stack: Stack, lead: Client) -> None:
    run_id = lead.trigger("gate", {"word": "hello"})
    gate = wait_for(lambda: next(iter(lead.gates("gate", run_id)), None))
    assert (gate.subject, gate.options, gate.answer, gate.by) == ("Go on?", ("Go", "No-go"), None, None)

    with stack.client("observer") as observer, pytest.raises(Refused, match="observer may not"):
        observer.answer("gate", run_id, gate, "Go")
    with pytest.raises(Refused, match="Invalid options"):
        lead.answer("gate", run_id, gate, "Perhaps")
    lead.answer("gate", run_id, gate, "No-go")
    with pytest.raises(Refused, match="already been updated"):
        lead.answer("gate", run_id, gate, "Go")

    seen: list[TaskState] = []
    assert lead.wait("gate", run_id, seconds=RUN_SECONDS, on_task=seen.append) == "failed"
    assert [task.state for task in seen if task.task_id == "say"] == ["success"]
    assert [task.state for task in seen if task.task_id == "fail"][-1] == "failed"
    (answered,) = lead.gates("gate", run_id)
    assert (answered.answer, answered.by) == ("No-go", "lead")

    said, failed = (next(task for task in lead.tasks("gate", run_id) if task.task_id == name) for name in ("say", "fail"))
    assert "the word is hello and known" in lead.log("gate", run_id, said)
    assert "the connection somewhere leads to nowhere.example" in lead.log("gate", run_id, said)
    assert "the connection from_the_shell leads to elsewhere.example" in lead.log("gate", run_id, said)
    assert "RuntimeError: as intended" in lead.log("gate", run_id, failed)


def test_users_may_do_only_what_their_roles_allow(stack: Stack, lead: Client) -> None:
    with stack.client("observer") as observer:
        assert observer.dag_ready("gate")
        with pytest.raises(Refused, match="observer may not"):
            observer.trigger("gate")
        with pytest.raises(Refused, match="observer may not"):
            observer.pause("gate")
    with Client(stack.url, "lead", "not the password") as stranger, pytest.raises(Refused, match="log-in") as refused:
        stranger.run_state("gate", "any")
    assert "not the password" not in str(refused.value)
    with pytest.raises(Refused, match="word: "):
        lead.trigger("gate", {"word": "far longer than ten letters"})
    with pytest.raises(CannotCheck, match="does not know"):
        lead.run_state("gate", "no such run")
    assert not lead.dag_ready("no_such_dag")


def test_a_token_that_a_clock_set_back_made_void_is_replaced(stack: Stack, lead: Client) -> None:
    lead.log_in()
    lead._http.headers["Authorization"] += "x"  # Airflow answers 403, as to one that was issued in the future
    assert lead.dag_ready("gate")


def test_a_wait_that_takes_too_long_says_so(lead: Client) -> None:
    run_id = lead.trigger("gate")
    with pytest.raises(StepFailed, match="has not ended in time"):
        lead.wait("gate", run_id, seconds=0)


def test_passwords_are_for_the_owner_only_and_required(stack: Stack) -> None:
    assert set(stack.logins) == {"lead", "observer", "communicator"}
    for name in ("passwords.json", "secrets.json"):
        assert stat.S_IMODE((stack.folder / name).stat().st_mode) == 0o600
    assert httpx.get(f"{stack.url}/api/v2/dags", trust_env=False).status_code == 401
    for log in (stack.folder / "logs").glob("*.log"):
        text = log.read_text()
        assert not [user for user, password in stack.logins.items() if password in text], log


def test_a_second_start_names_the_address(stack: Stack) -> None:
    with pytest.raises(Refused, match=stack.url):
        Stack(stack.folder).start()
    assert stack.running


def test_a_dag_that_does_not_parse_is_reported_with_its_error(stack: Stack, lead: Client) -> None:
    file = stack.folder.parent / "dags" / "broken.py"
    file.write_text("from airflow.sdk import DAG\nraise ValueError('a fault of ours')\n")
    try:
        deadline = time.monotonic() + 180
        while not lead.import_errors() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert lead.import_errors() == {"broken.py": "ValueError: a fault of ours"}
    finally:
        file.unlink()


def test_people_that_change_get_their_accounts_and_the_history_stays(tmp_path: Path) -> None:
    first, second = Accounts(users={"lead": ("Op",)}), Accounts(users={"lead": ("Op",), "late": ("Viewer",)})
    query = (
        "SELECT u.username, r.name FROM ab_user u JOIN ab_user_role ur ON ur.user_id = u.id JOIN ab_role r ON r.id = role_id"
    )
    stack = Stack(tmp_path / "airflow")
    with stack.roster.guarded():
        with psycopg.connect(stack._start_metadata(first).conninfo("airflow")) as connection:
            connection.execute("INSERT INTO log (event, dttm) VALUES ('a night of last week', now())")
            assert connection.execute(query).fetchall() == [("lead", "Op")]
        stack.stop()
        with psycopg.connect(stack._start_metadata(second).conninfo("airflow")) as connection:
            assert sorted(connection.execute(query).fetchall()) == [("late", "Viewer"), ("lead", "Op")]
            (kept,) = connection.execute("SELECT count(*) FROM log WHERE event = 'a night of last week'").fetchall()
            assert kept == (1,)
            ((known,),) = connection.execute("SELECT is_encrypted FROM variable WHERE key = 'cutover_identities'").fetchall()
            assert known, "what is written with the stack's key can be read with it"
        stack.stop()


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = Stack(tmp_path / "other", StackSettings(port=port))
        with pytest.raises(Refused, match=f"the port {port} cannot be used"):
            other.start()
    assert other.roster.leaders() == []


def test_an_address_without_airflow_is_unreachable(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with Client(url, "lead", "secret") as client, pytest.raises(Unreachable, match="does not answer") as unreachable:
        client.run_state("gate", "any")
    assert "secret" not in str(unreachable.value)
    with pytest.raises(CannotCheck, match="no local Airflow was started here"):
        _ = Stack(tmp_path / "never").url


def kill(leaders: list[Leader]) -> None:
    """Kill everything in these sessions, as a power cut does."""
    while found := members(leaders):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for leader in leaders:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(leader.pid, os.WNOHANG)


def test_after_a_crash_one_start_keeps_what_runs_and_goes_on_with_the_run(stack: Stack, lead: Client) -> None:
    run_id = lead.trigger("gate")
    wait_for(lambda: next(iter(lead.gates("gate", run_id)), None))
    before, url = {leader.name: leader for leader in stack.roster.leaders()}, stack.url
    again = Stack(stack.folder, stack._settings)

    kill([before["dag-processor"]])
    assert stack.running and not stack.complete
    again.start(["gate"])
    now = {leader.name: leader for leader in stack.roster.leaders()}
    assert stack.complete and {name for name in now if now[name] != before[name]} == {"dag-processor"}

    kill(stack.roster.leaders())
    assert not stack.running
    again.start(["gate"])
    assert stack.complete and len(stack.roster.leaders()) == 4 and stack.url == url
    with stack.client() as later:
        gate = wait_for(lambda: next((gate for gate in later.gates("gate", run_id) if gate.answer is None), None))
        later.answer("gate", run_id, gate, "Go")
        assert later.wait("gate", run_id, seconds=RUN_SECONDS) == "failed", "its last task fails as intended"


def test_start_that_fails_leaves_running_what_ran(stack: Stack) -> None:
    before = {leader.name: leader for leader in stack.roster.leaders()}
    kill([before["dag-processor"]])
    file = stack.folder.parent / "dags" / "broken.py"
    file.write_text("from airflow.sdk import dag\nraise ValueError('a fault of ours')\n")
    try:
        with pytest.raises(StepFailed, match="does not parse"):
            Stack(stack.folder, stack._settings).start(["no_such_dag"])
    finally:
        file.unlink()
    left = {leader.name: leader for leader in stack.roster.running}
    assert left == {name: leader for name, leader in before.items() if name != "dag-processor"}


def test_stop_leaves_nothing_even_of_a_killed_scheduler(stack: Stack) -> None:
    if not stack.complete:
        Stack(stack.folder, stack._settings).start()
    leaders = sorted(stack.roster.leaders(), key=lambda leader: leader.name == "scheduler")
    assert sorted(leader.name for leader in leaders) == ["api-server", "dag-processor", "metadata", "scheduler"]
    everything = members(leaders)
    os.kill(leaders[-1].pid, signal.SIGKILL)
    while leaders[-1].alive:
        time.sleep(0.01)
    assert len(members([leaders[-1]])) >= 2, "the killed scheduler's workers go on"
    ended = stack.stop()
    assert sorted(ended) == ["api-server", "dag-processor", "metadata"] and ended[-1] == "metadata"
    assert not [pid for pid in everything if pid in members(leaders)]
    assert not stack.running
