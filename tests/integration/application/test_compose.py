"""Services of a Compose project: real containers where there is an engine, and what Docker Compose prints, played back.

The outputs of Docker Compose are those of its versions 2.17 and 2.26, whose forms differ.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from include.cutover.application import services
from include.cutover.application.control.compose import Container, containers
from include.cutover.errors import CannotCheck, StepFailed, Unreachable
from include.cutover.plan.application import ComposeControl, Service

IMAGE = "python:3.11-slim-bookworm"
ENGINES = (("docker", "compose"), ("podman-compose",))


def usable(engine: tuple[str, ...]) -> bool:
    """Return True when it can run containers from an image of this machine."""
    program = {"docker": "docker", "podman-compose": "podman"}[engine[0]]
    if shutil.which(engine[0]) is None or shutil.which(program) is None:
        return False
    for command in ([*engine, "version"], [program, "image", "inspect", IMAGE]):
        try:
            if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0:
                return False
        except subprocess.TimeoutExpired:
            return False
    return True


# Each line is written at once: podman tears one apart, and loses it, that was written in parts.
COMPOSE = r"""
services:
  api:
    image: python:3.11-slim-bookworm
    command:
      - python3
      - -c
      - import os, time; os.write(1, f'up on {os.environ["DATABASE_URL"]}\n'.encode()); time.sleep(600)
    environment:
      DATABASE_URL: ${DATABASE_URL}
    stop_signal: SIGINT
    stop_grace_period: 5s
  stubborn:
    image: python:3.11-slim-bookworm
    command:
      - python3
      - -c
      - >-
        import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(1, b'not listening\n');
        time.sleep(600)
    stop_grace_period: 4s
  dying:
    image: python:3.11-slim-bookworm
    command: ["python3", "-c", "import sys; print('password=hunter2'); sys.exit('no such table: devices')"]
  looping:
    image: python:3.11-slim-bookworm
    command: ["python3", "-c", "print('once more')"]
    restart: always
"""


@dataclass(frozen=True)
class Project:
    folder: Path
    engine: tuple[str, ...]

    def service(self, name: str, *, start_seconds: int = 60, stop_seconds: int = 60, **settings: Any) -> Service:
        given = {"kind": "compose", "directory": str(self.folder), "service": name, "engine": self.engine, **settings}
        control = ComposeControl.model_validate(given)
        return Service(name="ward", control=control, start_seconds=start_seconds, stop_seconds=stop_seconds)

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.engine, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout + done.stderr

    def wait_for(self, text: str, service: str = "api") -> None:
        """Until the service has said so."""
        deadline = time.monotonic() + 60
        while text not in (found := self.compose("logs", service)):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project that is up nowhere yet."""
    engine = next((engine for engine in ENGINES if usable(engine)), None)
    if engine is None:
        pytest.skip(f"NO CONTAINER WAS RUN: neither 'docker compose' nor podman-compose works here with the image {IMAGE}")
    folder = tmp_path_factory.mktemp("compose") / f"ward{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    (folder / "compose.yaml").write_text(COMPOSE)
    (folder / ".env").write_text("DATABASE_URL=sqlite:///ward_ops.db\n")
    project = Project(folder, engine)
    try:
        yield project
    finally:
        project.compose("down", "-t", "0", "-v")


def test_a_service_starts_on_the_configuration_of_the_moment_and_stops(project: Project) -> None:
    api = project.service("api")
    assert services.states([api])["ward"].name == "absent"
    (started,) = services.start([api])
    assert (started.was, started.now, started.already) == ("absent", "running", False)
    assert services.start([api])[0].already
    project.wait_for("up on sqlite:///ward_ops.db")

    (stopped,) = services.stop([api])
    assert (stopped.was, stopped.now, stopped.already) == ("running", "stopped", False)
    assert not services.states([api])["ward"].running

    # A container keeps its environment; the one that starts now must have the new one.
    (project.folder / ".env").write_text("DATABASE_URL=postgresql://ward@db/ward\n")
    services.start([api])
    project.wait_for("up on postgresql://ward@db/ward")
    services.stop([api])


def test_a_service_that_ignores_its_signal_is_reported_and_then_killed_by_the_engine(project: Project) -> None:
    services.start([project.service("stubborn")])
    project.wait_for("not listening", "stubborn")
    with pytest.raises(StepFailed, match=r"did not end in 1 s and was killed") as caught:
        services.stop([project.service("stubborn", stop_seconds=1)])
    assert "not listening" in caught.value.found
    assert services.stop([project.service("stubborn")])[0].now == "stopped"
    assert "137" in services.states([project.service("stubborn")])["ward"].detail


def test_a_service_that_ends_at_its_start_is_reported_with_its_log(project: Project) -> None:
    with pytest.raises(StepFailed, match="the service did not start") as caught:
        services.start([project.service("dying", start_seconds=300)])
    assert "no such table: devices" in caught.value.found and "hunter2" not in str(caught.value)


def test_a_service_that_is_restarted_for_ever_is_neither_started_nor_at_rest(project: Project) -> None:
    project.compose("up", "-d", "--no-deps", "looping")
    looping = project.service("looping", stop_seconds=30)
    with pytest.raises(StepFailed, match="the service did not start"):
        services.start([project.service("looping", start_seconds=300, steady_seconds=5)])
    project.compose("up", "-d", "--no-deps", "looping")
    assert services.status([looping]) == {"ward": True}
    try:
        services.stop([looping])
    except StepFailed:
        assert services.status([looping]) == {"ward": True}  # said to run, and so it does
        return
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert not services.states([looping])["ward"].running
        time.sleep(0.2)


def test_a_missing_project_or_service_is_an_error_and_not_a_stopped_service(project: Project, tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="has no such service"):
        services.stop([project.service("ghost")])
    with pytest.raises(CannotCheck, match="No such file"):
        services.stop([project.service("api", directory=str(tmp_path / "none"))])
    with pytest.raises(Unreachable, match="Compose does not answer"):
        services.stop([project.service("api", directory=str(tmp_path))])
    # Containers under another name are not seen, and that is not taken for rest before the window.
    other = services.states([project.service("api", project="another")])["ward"]
    assert other.failing and "check the project's name" in str(other)


# --- Docker Compose, played back ----------------------------------------------------------------------------------------

FAKE = dedent(f"""\
    #!{sys.executable} -S
    import json, os, sys
    from pathlib import Path

    folder = Path(__file__).parent
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps([os.getcwd(), *sys.argv[1:]]) + "\\n")
    answers = json.loads((folder / "answers").read_text())
    verb = next(word for word in sys.argv[1:] if word in answers)
    answer = answers[verb]
    if verb == "ps" and len(answer) > 1:
        answers["ps"] = answer[1:]
    if verb in ("up", "stop"):
        answers["ps"] = answer[1:]
    (folder / "answers").write_text(json.dumps(answers))
    if isinstance(answer[0], int):
        print("Error response from daemon: no", file=sys.stderr)
        sys.exit(answer[0])
    print("time=now level=warning msg=obsolete", file=sys.stderr)
    print(answer[0])
""")


def by_line(
    state: str, status: str, *, service: str = "api", health: str = "", id: str = "d2763e024a10", **more: Any
) -> str:
    """A line of ``docker compose ps --format json`` since 2.21."""
    labels = f"com.docker.compose.depends_on=,com.docker.compose.service={service},com.docker.compose.oneoff=False"
    row = {"Command": '"python3 -m api"', "CreatedAt": "2025-10-11 12:21:53 +0400 +04", "ExitCode": 0, "Health": health,
           "ID": id, "Image": "ward", "Labels": labels, "LocalVolumes": "1", "Mounts": "", "Name": f"ward-{service}-1",
           "Names": f"ward-{service}-1", "Networks": "ward_default", "Ports": "", "Project": "ward", "Publishers": None,
           "RunningFor": "2 seconds ago", "Service": service, "Size": "0B", "State": state, "Status": status,
           **more}  # fmt: skip
    return json.dumps(row)


UP = by_line("running", "Up 2 seconds")
EXITED = by_line("exited", "Exited (0) 1 second ago")
ONE_OFF = by_line("running", "Up", id="c", Labels="com.docker.compose.oneoff=True")
WORKER = by_line("running", "Up 3 days", service="worker", id="aa")


@dataclass(frozen=True)
class Docker:
    folder: Path

    def plays(self, *ps: str | int, **answers: list[Any]) -> None:
        logs = ["ward-api-1  | \x1b[31mlast words\x1b[0m of postgresql://ward:hunter2@db/x"]
        given = {"ps": ps, "config": ["api\nworker"], "logs": logs, **answers}
        (self.folder / "answers").write_text(json.dumps(given))
        (self.folder / "calls").write_text("")

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    (tmp_path / "docker").write_text(FAKE)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Docker(tmp_path)


def api(docker: Docker, **settings: Any) -> Service:
    given = {"kind": "compose", "directory": str(docker.folder), "service": "api", "steady_seconds": 0.2, **settings}
    return Service(name="api", control=ComposeControl.model_validate(given), start_seconds=5, stop_seconds=5)


def test_docker_s_command_lines(docker: Docker) -> None:
    docker.plays(f"{WORKER}\n{EXITED}", up=["", f"{WORKER}\n{UP}"], stop=["", f"{WORKER}\n{EXITED}"])
    service = api(docker, project="ward", files=["compose.yaml", "compose.site.yaml"], recreate=True)
    assert services.start([service])[0].now == "running"
    assert services.stop([service])[0].now == "stopped"
    head = [str(docker.folder), "compose", "-p", "ward", "-f", "compose.yaml", "-f", "compose.site.yaml"]
    tails = [call[len(head) :] for call in docker.calls() if call[: len(head)] == head]
    assert len(tails) == len(docker.calls())
    assert {tuple(tail) for tail in tails} == {
        ("ps", "--all", "--format", "json"),
        ("up", "--detach", "--no-deps", "--no-build", "--force-recreate", "api"),
        ("stop", "api"),
    }


@pytest.mark.parametrize(
    ("shown", "name", "running", "at_rest", "failing"),
    [
        (UP, "running", True, False, False),
        (by_line("running", "Up 9 seconds (health: starting)", health="starting"), "running", True, False, False),
        (by_line("running", "Up 9 seconds (unhealthy)", health="unhealthy"), "unhealthy", False, False, True),
        (EXITED, "exited", False, True, False),
        (by_line("restarting", "Restarting (1) 2 seconds ago"), "restarting", False, False, True),
        (by_line("paused", "Up 3 hours (Paused)"), "paused", False, False, False),
        (by_line("created", "Created"), "created", False, True, False),
        (by_line("dead", "Dead"), "dead", False, True, True),
        (f"{UP}\n{by_line('exited', 'Exited (1) now', id='b')}", "exited, running", False, False, False),
        (f"{EXITED}\n{ONE_OFF}", "exited", False, True, False),
        (WORKER, "absent", False, True, True),
        ("", "absent", False, True, True),
    ],
)  # fmt: skip
def test_the_states_that_docker_shows_are_read(
    docker: Docker, shown: str, name: str, running: bool, at_rest: bool, failing: bool
) -> None:
    docker.plays(shown)
    state = services.states([api(docker)])["api"]
    assert (state.name, state.running, state.at_rest, state.failing) == (name, running, at_rest, failing)


def test_the_environment_is_that_of_the_container(docker: Docker) -> None:
    docker.plays(WORKER + "\n" + UP, inspect=[json.dumps(["DATABASE_URL=sqlite:///a=b.db", "EMPTY="])])
    assert services.environment(api(docker)) == {"DATABASE_URL": "sqlite:///a=b.db", "EMPTY": ""}
    assert docker.calls()[-1][1:] == ["inspect", "--format", "{{json .Config.Env}}", "d2763e024a10"]
    docker.plays(WORKER, inspect=["[]"])
    assert services.environment(api(docker)) is None, "there is no container of it"
    docker.plays(UP, inspect=[1])
    assert services.environment(api(docker)) is None


def test_all_three_forms_of_the_list_are_read() -> None:
    array = (
        '[{"ID":"1","Name":"w-api-1","Image":"","Command":"x","Project":"w","Service":"api","Created":1,"State":"running",'
        '"Status":"Up","Health":"","ExitCode":0,"Publishers":[]}]'
    )
    assert list(containers(array)) == [Container("1", "api", "running", "Up")]
    podman = [{"Id": "2", "State": "exited", "Status": "Exited (137) 1 second ago", "Exited": True, "ExitedAt": 1795501703,
               "StartedAt": 1795501684,
               "ExitCode": 137, "Labels": {"com.docker.compose.service": "api"}, "Names": ["w_api_1"]}]  # fmt: skip
    assert list(containers(json.dumps(podman, indent=2))) == [
        Container("2", "api", "exited", "Exited (137) 1 second ago", ended="1795501703", started="1795501684")
    ]
    assert [item.id for item in containers(f"{UP}\n{WORKER}\n")] == ["d2763e024a10", "aa"]
    assert list(containers("")) == list(containers("[]")) == []


def test_a_container_that_docker_restarts_has_not_started(docker: Docker) -> None:
    again = by_line("restarting", "Restarting (1) 1 second ago")
    docker.plays(EXITED, up=["", UP, again], stop=["", EXITED])
    with pytest.raises(StepFailed, match="found restarting") as caught:
        services.start([api(docker)])
    assert "ward-api-1  | last words of postgresql://ward:***@db/x" in caught.value.found
    assert ["stop", "api"] in [call[2:] for call in docker.calls()]  # so that it does not come up later, unasked


def test_an_unknown_service_a_dead_daemon_and_a_missing_program_are_reported(docker: Docker, tmp_path: Path) -> None:
    docker.plays("", config=["web"])
    with pytest.raises(CannotCheck, match="no such service; expected a service api"):
        services.states([api(docker)])
    docker.plays(1)
    with pytest.raises(Unreachable, match="exit status 1, Error response from daemon: no"):
        services.states([api(docker)])
    docker.plays("no JSON")
    with pytest.raises(CannotCheck, match="list of containers cannot be read"):
        services.states([api(docker)])
    (tmp_path / "docker").unlink()
    with pytest.raises(CannotCheck, match=r"docker: a command of the plan cannot be run.*No such file"):
        services.states([api(docker)])
