"""Services under a real supervisord and behind real commands, obedient ones and others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from textwrap import dedent
from threading import Thread

import pytest

from include.cutover.application import services
from include.cutover.application.control import controller, supervisor
from include.cutover.application.control.controller import ServiceState
from include.cutover.connections import ssh
from include.cutover.errors import CannotCheck, StepFailed, Unreachable
from include.cutover.plan.application import CommandControl, Service, SmokeTests, SupervisorControl
from include.cutover.preflight import services as preflight_services
from include.cutover.stack.postgres import free_port
from tests.support.ssh_host import Host, running

PASSWORD = "pass:of@supervisor"
ENV = "TEST_SUPERVISOR_PASSWORD"

SLEEPING = "import time; print('up', flush=True); time.sleep(600)"
PROGRAMS = {
    "api": (SLEEPING, "startsecs=0"),
    "worker": (SLEEPING, "startsecs=0"),
    "beat": (SLEEPING, "startsecs=1"),
    "stubborn": (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('not listening', flush=True);"
        " time.sleep(600)",
        "startsecs=1\nstopwaitsecs=300",
    ),
    "dying": (
        "print('cannot connect to postgresql://ward:hunter2@db/x\\npassword=hunter2\\ngAAAAABhunter2hunter2hunter2');"
        " raise SystemExit(3)",
        "startsecs=5\nstartretries=5",
    ),
    "missing": (None, "startsecs=0"),
    "reviving": ("import time; time.sleep(0.2)", "startsecs=0\nautorestart=true"),
    "finished": ("pass", "startsecs=0\nautorestart=false"),
    "slow": (SLEEPING, "startsecs=300"),
    "steady": (SLEEPING, "startsecs=2"),
    "steadier": (SLEEPING, "startsecs=2"),
    "leaving": (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit())); time.sleep(600)",
        "startsecs=1",
    ),
}


@dataclass(frozen=True)
class Supervisord:
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/RPC2"

    def service(self, name: str, *, stop_seconds: int = 10, start_seconds: int = 10, program: str = "") -> Service:
        control = SupervisorControl(
            kind="supervisor", url=self.url, program=program or name, username="cutover", password_env=ENV
        )
        log = self.folder / f"{name}.log"
        return Service(name=name, control=control, stop_seconds=stop_seconds, start_seconds=start_seconds, log=log)

    def pid(self, name: str) -> int:
        """Process id of a program, 0 when it does not run."""
        command = [
            sys.executable,
            "-m",
            "supervisor.supervisorctl",
            "-c",
            str(self.folder / "supervisord.conf"),
            "pid",
            name,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return int(done.stdout.strip() or 0)


@pytest.fixture(scope="module")
def supervisord(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisord]:
    """A supervisord with all programs, none of them started."""
    folder = tmp_path_factory.mktemp("supervisord")
    port = free_port()
    sections = [
        f"[supervisord]\nnodaemon=true\nlogfile={folder}/supervisord.log\npidfile={folder}/pid\nuser={os.geteuid()}",
        f"[inet_http_server]\nport=127.0.0.1:{port}\nusername=cutover\npassword={PASSWORD}",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        f"[supervisorctl]\nserverurl=http://127.0.0.1:{port}\nusername=cutover\npassword={PASSWORD}",
    ]
    for name, (code, settings) in PROGRAMS.items():
        command = "/nonexistent/program"
        if code is not None:
            (folder / f"{name}.py").write_text(code)
            command = f"{sys.executable} {folder}/{name}.py"
        sections.append(
            f"[program:{name}]\ncommand={command}\nautostart=false\nredirect_stderr=true\n"
            f"stdout_logfile={folder}/{name}.log\n{settings}"
        )
    (folder / "supervisord.conf").write_text("\n\n".join(sections))
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(folder / "supervisord.conf")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    server = Supervisord(folder, port)
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield server
    finally:
        stubborn = server.pid("stubborn")
        if stubborn:
            os.kill(stubborn, signal.SIGKILL)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, PASSWORD)


# --- supervisord --------------------------------------------------------------------------------------------------------


def test_services_start_in_order_and_stop_the_other_way_round(supervisord: Supervisord) -> None:
    three = [supervisord.service(name) for name in ("api", "worker", "beat")]
    assert services.status(three) == {"api": False, "worker": False, "beat": False}

    started = services.start(three)
    assert [(item.name, item.was, item.now, item.already) for item in started] == [
        ("api", "stopped", "running", False),
        ("worker", "stopped", "running", False),
        ("beat", "stopped", "running", False),
    ]
    assert services.status(three) == {"api": True, "worker": True, "beat": True}
    pids = [supervisord.pid(name) for name in ("api", "worker", "beat")]

    again = services.start(three)
    assert [(item.name, item.already) for item in again] == [("api", True), ("worker", True), ("beat", True)]
    assert again[0].summary == "api was already running"
    assert [supervisord.pid(name) for name in ("api", "worker", "beat")] == pids

    stopped = services.stop(three)
    assert [(item.name, item.was, item.now) for item in stopped] == [
        ("beat", "running", "stopped"),
        ("worker", "running", "stopped"),
        ("api", "running", "stopped"),
    ]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert [item.already for item in services.stop(three)] == [True, True, True]


def test_services_start_side_by_side_in_the_order_of_the_plan(supervisord: Supervisord) -> None:
    two = [supervisord.service(name) for name in ("steady", "steadier")]
    seen: list[dict[str, ServiceState]] = []

    def look(_: float) -> None:
        seen.append(services.states(two))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", look)
        services.start(two)
    # Both were on their way at the same time, and no later one before an earlier one.
    names = [tuple(state.name for state in found.values()) for found in seen]
    assert ("starting", "starting") in names and ("stopped", "starting") not in names
    assert services.status(two) == {"steady": True, "steadier": True}
    services.stop(two)


def test_the_services_after_one_that_is_waited_for_start_once_it_runs(supervisord: Supervisord) -> None:
    first = supervisord.service("steady").model_copy(update={"wait": True})
    second = supervisord.service("leaving")
    three = [first, second, supervisord.service("beat")]
    seen: list[tuple[str, ...]] = []

    def look(_: float) -> None:
        seen.append(tuple(state.name for state in services.states(three).values()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", look)
        services.start(three)
        started = seen[:]
        seen.clear()
        services.stop(three)
    assert ("starting", "stopped", "stopped") in started
    assert {names[1:] for names in started if names[0] != "running"} == {("stopped", "stopped")}
    # The other way round, it stops only once the others rest.
    assert {names[0] for names in seen if names[1] != "stopped"} == {"running"}
    assert services.status(three) == {"steady": False, "leaving": False, "beat": False}


def test_a_service_that_refuses_its_order_keeps_those_after_it_from_starting(supervisord: Supervisord) -> None:
    with pytest.raises(StepFailed, match="service missing"):
        services.start([supervisord.service("missing"), supervisord.service("beat")])
    assert services.status([supervisord.service("beat")]) == {"beat": False}


def test_a_service_that_ignores_the_order_fails_with_its_log(supervisord: Supervisord) -> None:
    stubborn = supervisord.service("stubborn", stop_seconds=1)
    api = supervisord.service("api")
    services.start([api, stubborn])
    try:
        with pytest.raises(StepFailed) as caught:
            services.stop([api, stubborn])
        assert caught.value.message == "the service did not stop"
        assert caught.value.expected == "stopped within 1 s"
        assert caught.value.found.startswith("stopping")
        assert "not listening" in caught.value.found
        # It was told to stop as well, without waiting for the one that does not.
        assert services.stop([api])[0].already
    finally:
        os.kill(supervisord.pid("stubborn"), signal.SIGKILL)
    # Run again after the obstacle is gone, the step completes.
    assert [item.now for item in services.stop([api, stubborn])] == ["stopped", "stopped"]


def test_a_program_that_dies_at_its_start_is_found_at_once_and_not_tried_again(supervisord: Supervisord) -> None:
    dying = supervisord.service("dying", start_seconds=300)
    begun = time.monotonic()
    with pytest.raises(StepFailed) as caught:
        services.start([supervisord.service("api"), dying])
    assert time.monotonic() - begun < 60
    assert caught.value.found.startswith("backoff")
    assert "cannot connect to postgresql://ward:***@db/x" in caught.value.found
    assert "hunter2" not in str(caught.value)
    assert "Before it: api is running" in caught.value.do
    assert services.status([supervisord.service("api")]) == {"api": True}
    assert services.status([dying]) == {"dying": False}
    services.stop([supervisord.service("api")])


def test_a_program_that_cannot_be_run_says_why(supervisord: Supervisord) -> None:
    with pytest.raises(StepFailed, match="/nonexistent/program"):
        services.start([supervisord.service("missing")])


def test_a_program_that_does_not_come_up_in_time_fails(supervisord: Supervisord) -> None:
    slow = supervisord.service("slow", start_seconds=1)
    with pytest.raises(StepFailed, match="found starting"):
        services.start([slow])
    assert services.status([slow]) == {"slow": True}
    assert [item.was for item in services.stop([slow])] == ["starting"]


def test_a_program_that_is_restarted_automatically_is_not_at_rest(supervisord: Supervisord) -> None:
    reviving = supervisord.service("reviving")
    services.start([reviving])
    deadline = time.monotonic() + 30
    while services.states([reviving])["reviving"].name != "exited":  # the moment between its end and its restart
        assert time.monotonic() < deadline
    services.stop([reviving])
    pause = time.monotonic() + 1.5  # longer than supervisord waits before it starts a program again
    while time.monotonic() < pause:
        assert services.status([reviving]) == {"reviving": False}
        time.sleep(0.1)


def test_a_program_that_ends_by_itself_does_not_count_as_started(supervisord: Supervisord) -> None:
    # It is running when it is looked at first, and has ended by the time the one after it runs.
    beat = supervisord.service("beat")
    with pytest.raises(StepFailed, match=r"service finished.* did not start.*found exited"):
        services.start([supervisord.service("finished"), beat])
    services.stop([beat])


def test_the_log_of_supervisord_is_shown_where_the_plan_names_none(supervisord: Supervisord) -> None:
    service = supervisord.service("dying").model_copy(update={"log": None})
    with pytest.raises(StepFailed, match=r"last lines of its output:\n(.|\n)*cannot connect to postgresql://ward:\*\*\*@"):
        services.start([service])


def test_only_the_last_twenty_lines_are_shown(supervisord: Supervisord, tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("first\n" * 50_000 + "".join(f"line {number}\x1b[31m\n" for number in range(25)))
    service = supervisord.service("dying").model_copy(update={"log": log})
    with pytest.raises(StepFailed) as caught:
        services.start([service])
    lines = caught.value.found.splitlines()[1:]
    assert [line.strip() for line in lines] == [f"line {number}" for number in range(5, 25)]


def test_a_missing_log_does_not_hide_the_failure(supervisord: Supervisord, tmp_path: Path) -> None:
    service = supervisord.service("dying").model_copy(update={"log": tmp_path / "none.log"})
    with pytest.raises(StepFailed, match=r"backoff.*none\.log \(not readable: No such file"):
        services.start([service])


def test_an_unknown_program_is_an_error_and_not_a_stopped_one(supervisord: Supervisord) -> None:
    with pytest.raises(CannotCheck, match="supervisord does not know the program"):
        services.stop([supervisord.service("api", program="ghost")])


def test_a_wrong_password_is_reported_without_showing_it(supervisord: Supervisord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, "hunter2")
    with pytest.raises(CannotCheck, match="refuses the log-in") as caught:
        services.status([supervisord.service("api")])
    assert not isinstance(caught.value, Unreachable)
    assert "hunter2" not in str(caught.value)


def test_a_password_that_is_not_set_is_reported(supervisord: Supervisord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV)
    with pytest.raises(CannotCheck, match=ENV):
        services.status([supervisord.service("api")])


def unreachable(url: str) -> Unreachable:
    control = SupervisorControl(kind="supervisor", url=url, program="api")
    with pytest.raises(Unreachable) as caught:
        services.status([Service(name="api", control=control)])
    assert caught.value.retry_helps
    return caught.value


def test_a_missing_supervisord_is_named_without_its_password() -> None:
    port = free_port()
    error = unreachable(f"http://cutover:hunter2@127.0.0.1:{port}/RPC2")
    assert f"http://127.0.0.1:{port}/RPC2" in error.where
    assert "hunter2" not in str(error)


def test_a_supervisord_that_hangs_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "REQUEST_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/RPC2")
    assert error.found.startswith("no answer in")


def test_another_server_on_the_port_is_unreachable() -> None:
    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>not XML-RPC")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            assert unreachable(f"http://127.0.0.1:{server.server_address[1]}/RPC2").found == "an answer that is not XML-RPC"
        finally:
            server.shutdown()


# --- commands -----------------------------------------------------------------------------------------------------------

DAEMON = dedent("""
    import os, signal, subprocess, sys, time
    from pathlib import Path

    pidfile, order = Path(sys.argv[1]), sys.argv[2]

    def pid():
        try:
            number = int(pidfile.read_text())
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return 0
        return 0 if state in "ZX" else number

    if order == "status":
        raise SystemExit(0 if pid() else 3)
    if order == "start":
        # The daemon keeps the command's output open, as many a service script lets it.
        daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
        pidfile.write_text(str(daemon.pid))
        print("AIRFLOW" in "".join(os.environ) and "it sees Airflow's settings" or "it sees nothing of Airflow")
    if order == "stop" and pid():
        os.kill(pid(), signal.SIGTERM)
""")


@dataclass(frozen=True)
class Daemon:
    folder: Path

    @property
    def pidfile(self) -> Path:
        return self.folder / "daemon.pid"

    def command(self, order: str) -> tuple[str, ...]:
        return (sys.executable, str(self.folder / "daemon.py"), str(self.pidfile), order)

    def service(self, **changes: tuple[str, ...]) -> Service:
        orders = {order: self.command(order) for order in ("start", "stop", "status")}
        control = CommandControl.model_validate({"kind": "command", **orders, **changes})
        return Service(name="daemon", control=control, stop_seconds=2, start_seconds=2)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    (tmp_path / "daemon.py").write_text(DAEMON)
    try:
        yield daemon
    finally:
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(daemon.pidfile.read_text()), signal.SIGKILL)


def test_commands_start_and_stop_a_service(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "hunter2")
    service = daemon.service()
    (started,) = services.start([service])
    assert (started.was, started.now, started.already) == ("stopped", "running", False)
    pid = int(daemon.pidfile.read_text())
    assert services.status([service]) == {"daemon": True}
    assert services.start([service])[0].already
    assert int(daemon.pidfile.read_text()) == pid

    (stopped,) = services.stop([service])
    assert (stopped.was, stopped.now, stopped.already) == ("running", "stopped", False)
    assert services.stop([service])[0].already


def test_a_service_does_not_inherit_airflow_s_secrets(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "hunter2")
    check = "import os, sys; sys.exit([name for name in os.environ if 'AIRFLOW' in name] != [])"
    assert services.status([daemon.service(status=(sys.executable, "-c", check))]) == {"daemon": True}


def test_a_failed_command_is_reported_with_its_output(daemon: Daemon) -> None:
    code = "import sys; print('no such unit', file=sys.stderr); print('token=hunter2'); sys.exit(5)"
    with pytest.raises(StepFailed) as caught:
        services.start([daemon.service(start=(sys.executable, "-c", code))])
    assert "exit status 5" in caught.value.found and "no such unit" in caught.value.found
    assert "hunter2" not in str(caught.value)


def test_a_command_that_succeeds_without_effect_fails(daemon: Daemon) -> None:
    with pytest.raises(StepFailed, match="found stopped"):
        services.start([daemon.service(start=("true",))])
    services.start([daemon.service()])
    with pytest.raises(StepFailed, match="found running"):
        services.stop([daemon.service(stop=("true",))])


def test_a_command_that_hangs_is_killed_with_its_children(daemon: Daemon) -> None:
    child = daemon.folder / "child.pid"
    code = f"import subprocess, time; p = subprocess.Popen(['sleep', '600']); open({str(child)!r}, 'w').write(str(p.pid));"
    hanging = daemon.service(start=(sys.executable, "-c", code + "time.sleep(600)"))
    with pytest.raises(StepFailed, match="did not end in 2 s and was killed"):
        services.start([hanging])
    pid = int(child.read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_status_command_that_hangs_or_is_killed_is_an_error(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "LOOK_SECONDS", 0.3)
    with pytest.raises(Unreachable, match="does not end"):
        services.stop([daemon.service(status=("sleep", "600"))])
    killed = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(CannotCheck, match="signal 9"):
        services.stop([daemon.service(status=killed)])
    with pytest.raises(CannotCheck, match="exit status 127"):
        services.stop([daemon.service(status=("sh", "-c", "no-such-program-at-all"))])


def test_a_missing_command_is_an_error_and_not_a_stopped_service(daemon: Daemon) -> None:
    with pytest.raises(CannotCheck, match="cannot be run"):
        services.stop([daemon.service(status=("/nonexistent/program",))])


def test_nothing_is_run_by_a_shell(daemon: Daemon) -> None:
    trap = daemon.folder / "trap"
    services.status([daemon.service(status=("true", f"; touch {trap}", f"$(touch {trap})"))])
    assert not trap.exists()


# --- on another host ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host that is reached over SSH."""
    with running("asyncssh", tmp_path_factory.mktemp("host")) as host:
        yield host


def over_ssh(service: Service, log: Path | None = None) -> Service:
    control = service.control.model_copy(update={"ssh": "ward_ops_host"})
    return service.model_copy(update={"control": control, "log": log})


def test_a_service_on_another_host_is_driven_by_commands(daemon: Daemon, host: Host, tmp_path: Path) -> None:
    log = tmp_path / "it's the log.txt"
    log.write_text("".join(f"line {number}\n" for number in range(50_000)) + "password=hunter2\nlast words\n")
    service = over_ssh(daemon.service(), log)
    with host.ssh() as there:
        (started,) = services.start([service], lambda _: there)
        assert (started.was, started.now) == ("stopped", "running")
        assert services.status([service], lambda _: there) == {"daemon": True}
        (stopped,) = services.stop([service], lambda _: there)
        assert (stopped.was, stopped.now) == ("running", "stopped")

        failing = over_ssh(daemon.service(start=("sh", "-c", "echo no such unit >&2; exit 5")), log)
        with pytest.raises(StepFailed, match="exit status 5: no such unit") as caught:
            services.start([failing], lambda _: there)
        assert "on 127.0.0.1: the service did not start" in str(caught.value)
        assert "last lines of " + str(log) in caught.value.found
        assert [line.strip() for line in caught.value.found.splitlines()[-2:]] == ["password=***", "last words"]

        with pytest.raises(StepFailed, match=r"not readable: .*No such file"):
            services.start([over_ssh(failing, tmp_path / "none")], lambda _: there)
        with pytest.raises(StepFailed, match="did not end in 2 s and was killed"):
            services.start([over_ssh(daemon.service(start=("sleep", "600")))], lambda _: there)


def test_a_supervisord_on_another_host_is_reached_through_the_connection(supervisord: Supervisord, host: Host) -> None:
    service = over_ssh(supervisord.service("api"))
    with host.ssh() as there:
        assert services.start([service], lambda _: there)[0].now == "running"
        assert services.states([service], lambda _: there)["api"].running
        (stopped,) = services.stop([service], lambda _: there)
        assert stopped.now == "stopped"
        with pytest.raises(StepFailed, match="cannot connect to postgresql"):
            services.start([over_ssh(supervisord.service("dying"))], lambda _: there)
        control = SupervisorControl(kind="supervisor", url=f"http://127.0.0.1:{free_port()}", program="api")
        nobody = over_ssh(Service(name="api", control=control))
        with pytest.raises(Unreachable, match=r"on 127\.0\.0\.1: supervisord does not answer.*no tunnel"):
            services.states([nobody], lambda _: there)


def test_a_host_that_is_down_is_found_before_anything_is_stopped(daemon: Daemon) -> None:
    smoke = SmokeTests.model_validate({"base_url": "http://127.0.0.1:1", "health": {"path": "/"}})
    pytest.importorskip("paramiko", reason="SSH WAS NOT TRIED: paramiko is not installed")
    down = ssh.Ssh(ssh.login("ward_ops_host", host="127.0.0.1", port=free_port(), extra={"host_key": ""}))
    check = preflight_services.check_services([over_ssh(daemon.service())], smoke, lambda _: down)[0]
    assert (check.name, check.outcome) == ("service_daemon", "failed")
    assert check.found.startswith("the host does not answer over SSH") and "ward_ops_host" in check.where
    # Where no host can be reached at all.
    check = preflight_services.check_services([over_ssh(daemon.service())], smoke)[0]
    assert (check.outcome, check.found) == ("failed", "no other host can be reached from here")
