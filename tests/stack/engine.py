"""A project of docker-compose.yaml under Docker or Podman, brought up in steps: podman-compose does not wait for health."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from include.cutover.errors import StepFailed
from include.cutover.places import ROOT

FILE = ROOT / "docker-compose.yaml"
_KINDS = (
    (["rm", "-f"], ["ps", "-aq"]),
    (["volume", "rm", "-f"], ["volume", "ls", "-q"]),
    (["network", "rm", "-f"], ["network", "ls", "-q"]),
)
STARTED = ("api-server", "dag-processor", "scheduler", "triggerer")


@dataclass(frozen=True)
class Engine:
    """A container engine, and the command that reads compose files."""

    program: str
    compose: tuple[str, ...]

    @property
    def is_podman(self) -> bool:
        return self.program == "podman"

    @classmethod
    def found(cls) -> Engine | None:
        """Docker where its daemon answers and knows ``compose``, else Podman with podman-compose; None where neither is."""
        if _works("docker", "info") and _works("docker", "compose", "version"):
            return cls("docker", ("docker", "compose"))
        if _works("podman", "info") and _works("podman-compose", "--version"):
            return cls("podman", ("podman-compose",))
        return None

    def has(self, image: str) -> bool:
        """Return True when an image is on this machine."""
        return subprocess.run([self.program, "image", "inspect", image], capture_output=True, check=False).returncode == 0


def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@dataclass(frozen=True)
class Container:
    """A container that runs.

    Attributes:
        pid: Of its first process, on this host.
        restarts: True where the engine starts it again by its policy.
    """

    id: str
    service: str
    pid: int
    restarts: bool


class Project:
    """One project with volumes and secrets of its own.

    Args:
        folder: Where its ``.env`` and ``.env.tasks`` lie.
        profiles: Profiles that are on.
        settings: Differences from the ``.env`` that ``make env`` writes.
        tasks: The same of ``.env.tasks``.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        profiles: Sequence[str],
        settings: Mapping[str, str],
        tasks: Mapping[str, str],
    ) -> None:
        self.engine = engine
        self.name = f"cutover-test-{secrets.token_hex(3)}"
        self.folder = folder
        self._profiles = tuple(profiles)
        command = ["python3", str(ROOT / "scripts" / "make_env.py"), str(folder)]
        _checked(subprocess.run(command, capture_output=True, text=True, check=False, timeout=60), "make env")
        self.values = {"CUTOVER_TASKS_ENV": str(folder / ".env.tasks"), **settings}
        for name, lines in ((".env", self.values), (".env.tasks", tasks)):
            with (folder / name).open("a", encoding="utf-8") as file:
                file.writelines(f"{key}={value}\n" for key, value in lines.items())

    def secret(self, name: str) -> str:
        """The value of a line of ``.env``; the last one counts."""
        lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
        return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")][-1].strip("'\"")

    # --- compose ---------------------------------------------------------------------------------------------------------

    def compose(
        self, *arguments: str, seconds: float = 600, check: bool = True, env_file: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One compose command on this project; what it printed is in the result."""
        profiles = [part for profile in self._profiles for part in ("--profile", profile)]
        files = ["--env-file", str(env_file or self.folder / ".env"), "-p", self.name, "-f", str(FILE)]
        command = [*self.engine.compose, *files, *profiles, *arguments]
        # Nothing of this process's own settings may fill what the file needs.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CUTOVER_", "DEMO_"))}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=seconds
        )
        return _checked(done, f"compose {' '.join(arguments[:3])}") if check else done

    def start(self, *services: str, seconds: float = 240) -> None:
        """Start services, and wait until each is healthy."""
        self.compose("up", "--detach", "--no-deps", "--no-build", *services)
        for service in services:
            self.wait_healthy(service, seconds)

    def run_job(self, service: str, seconds: float = 300) -> None:
        """Start a service that ends, and wait for its exit status."""
        self.compose("up", "--detach", "--no-deps", "--no-build", service)
        done = self._engine("wait", self.container(service), seconds=seconds)
        if done.strip() != "0":
            raise StepFailed(f"the job {service} failed", found=self.logs(service)[-2000:])

    def command(self, *arguments: str, seconds: float = 600, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of ``include.cutover`` in a container of its own."""
        run = ("--profile", "break-glass", "run", "--rm", "--no-deps", "-T", "break-glass")
        return self.compose(*run, *arguments, seconds=seconds, check=check)

    def down(self) -> None:
        """Take everything down, volumes too."""
        self.compose("down", "--volumes", "--timeout", "5", seconds=300, check=False)
        for remove, listed in _KINDS:  # also of a run that was interrupted
            if left := self._all(listed):
                self._engine(*remove, *left, check=False)

    def left(self) -> list[str]:
        """Containers, volumes and networks of the project."""
        return [found for _, listed in _KINDS for found in self._all(listed)]

    def _all(self, listed: Sequence[str]) -> list[str]:
        return self._engine(*listed, "--filter", f"label=com.docker.compose.project={self.name}").split()

    # --- containers ------------------------------------------------------------------------------------------------------

    def container(self, service: str) -> str:
        """Id of a service's container."""
        found = self._engine(
            "ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}",
            "--filter", f"label=com.docker.compose.service={service}",
        ).split()  # fmt: skip
        if len(found) != 1:
            raise StepFailed(f"the service {service} has {len(found)} containers", where=self.name, expected="1")
        return found[0]

    def healthy(self, service: str) -> bool:
        """Return True when its health check passes now."""
        container = self.container(service)
        if self.engine.is_podman:  # which checks by itself only under systemd
            return self._run("healthcheck", "run", container).returncode == 0
        return self._engine("inspect", "--format", "{{.State.Health.Status}}", container).strip() == "healthy"

    def wait_healthy(self, service: str, seconds: float = 240) -> None:
        """Wait until its health check passes."""
        deadline = time.monotonic() + seconds
        while not self.healthy(service):
            if time.monotonic() > deadline:
                raise StepFailed(f"{service} did not become healthy in {seconds:.0f} s", found=self.logs(service)[-2000:])
            time.sleep(1)

    def restart(self, service: str, *, kill: bool = False) -> None:
        """Restart one container, as an engine does after its host came up again; with ``kill`` without a warning."""
        container = self.container(service)
        if kill:
            self._engine("kill", container)
            self._engine("start", container)
        else:
            self._engine("restart", "--time", "10", container)

    def running(self) -> list[Container]:
        """Return the containers of the project that run now, those of single commands too."""
        ids = self._all(["ps", "-q"])
        found: list[dict[str, Any]] = json.loads(self._engine("inspect", *ids)) if ids else []
        return [
            Container(
                item["Id"],
                item["Config"]["Labels"]["com.docker.compose.service"],
                item["State"]["Pid"],
                item["HostConfig"]["RestartPolicy"]["Name"] in ("always", "unless-stopped"),
            )
            for item in found
            if item["State"]["Pid"]
        ]

    def kill(self, containers: Sequence[str]) -> None:
        """Kill containers, all with one command."""
        self._engine("kill", "--signal", "KILL", *containers)

    def start_again(self, containers: Sequence[str]) -> None:
        """Start containers that have ended, without regard to what they depend on."""
        self._engine("start", *containers)

    def begin(self, service: str, *command: str) -> subprocess.Popen[str]:
        """Begin a command in a running container, with its standard input and output as pipes."""
        return subprocess.Popen(
            [self.engine.program, "exec", "-i", self.container(service), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def execute(self, service: str, *command: str, seconds: float = 120, text: str = "") -> str:
        """Return the output of a command in a running container."""
        return self._engine("exec", "-i", self.container(service), *command, seconds=seconds, text=text)

    def fetch(self, service: str, folder: str, to: Path) -> Path:
        """Copy a folder out of a container."""
        done = subprocess.run(
            [self.engine.program, "exec", self.container(service), "tar", "-C", folder, "-c", "."],
            capture_output=True, check=True, timeout=300,
        )  # fmt: skip
        to.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
            archive.extractall(to, filter="data")
        return to

    def logs(self, service: str) -> str:
        """Return the output of a container, both streams."""
        done = self._run("logs", "--tail", "200", self.container(service))
        return done.stdout + done.stderr

    def inspect(self, service: str) -> dict[str, Any]:
        """Return the engine's record of a container."""
        found: list[dict[str, Any]] = json.loads(self._engine("inspect", self.container(service)))
        return found[0]

    def _engine(self, *arguments: str, seconds: float = 120, check: bool = True, text: str = "") -> str:
        done = self._run(*arguments, seconds=seconds, text=text)
        return _checked(done, f"{self.engine.program} {' '.join(arguments[:3])}").stdout if check else done.stdout

    def _run(self, *arguments: str, seconds: float = 120, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.engine.program, *arguments], input=text, capture_output=True, text=True, check=False, timeout=seconds
        )


def _checked(done: subprocess.CompletedProcess[str], what: str) -> subprocess.CompletedProcess[str]:
    if done.returncode != 0:
        raise StepFailed(f"{what} failed", found=(done.stderr.strip() or done.stdout.strip())[-3000:])
    return done
