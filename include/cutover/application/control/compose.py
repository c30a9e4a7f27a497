"""A service of a Compose project: Docker Compose v2, or podman-compose."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from include.cutover.application.control.controller import LOG_LINES, LOOK_SECONDS, ByCommands, ServiceState
from include.cutover.connections.commands import Ran, Runner
from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.plan.application import ComposeControl

_AT_REST = frozenset({"exited", "dead", "created", "configured", "initialized"})
_ENDED = frozenset({"exited", "dead", "restarting", "stopped"})
_ENDING = frozenset({"stopping", "stopped", "removing"})
# podman starts an exited container again about a second later, where its restart policy says so, and does not show that.
_RESTART_SECONDS = 2.0
_LONG_AGO_SECONDS = 60.0


@dataclass(frozen=True)
class Container:
    """One container of a service, as ``ps`` shows it.

    Attributes:
        status: The state in words, with the exit status.
        ended: When it ended, in seconds of the epoch by its host's clock; empty where the engine does not say. Only podman
            does, and only podman shows a container as exited that it will start again by itself.
        started: When it was last started, where the engine says so.
        one_off: It was made by ``run`` beside the service.
    """

    id: str
    service: str
    state: str
    status: str
    health: str = ""
    ended: str = ""
    started: str = ""
    one_off: bool = False


class Compose(ByCommands):
    """See ``plan.ComposeControl``. A service runs when all of its containers do."""

    def __init__(self, control: ComposeControl, runner: Runner) -> None:
        """Run nothing yet."""
        super().__init__(runner, f"service {control.service} of the Compose project in {control.directory}")
        self.steady_seconds = control.steady_seconds
        self._control = control
        self._exits: dict[tuple[str, str], float] = {}
        # podman-compose shows all containers, and knows no option for it.
        self._all = [] if any(PurePosixPath(part).name == "podman-compose" for part in control.engine) else ["--all"]

    def state(self) -> ServiceState:
        """Read the state of its containers. A service that the project does not have counts as an error, not as stopped."""
        ran = self._ask("ps", *self._all, "--format", "json")
        try:
            found = [item for item in containers(ran.output) if item.service == self._control.service and not item.one_off]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise CannotCheck(
                "the list of containers cannot be read",
                where=self.where,
                expected="JSON from 'ps --format json' of Docker Compose v2 or podman-compose",
                found=ran.excerpt(),
                do="Compare the plan's engine with the installed program.",
            ) from None
        if found:
            return self._of(found)
        if self._control.service not in self._ask("config", "--services").output.split():
            raise CannotCheck(
                "the Compose project has no such service",
                where=self.where,
                expected=f"a service {self._control.service}",
                do="Compare the plan's services with 'config --services' there.",
            )
        return ServiceState("absent", False, True, failing=True, detail="no container; check the project's name")

    def _of(self, found: Sequence[Container]) -> ServiceState:
        rests = [self._rests(item) for item in found]
        unhealthy = any(item.health == "unhealthy" for item in found)
        running = all(item.state == "running" for item in found) and not unhealthy
        return ServiceState(
            "unhealthy" if unhealthy else ", ".join(sorted({item.state for item in found})),
            running=running,
            at_rest=all(rests),
            failing=unhealthy or any(item.state in ("restarting", "dead") for item in found),
            detail="" if running else "; ".join(item.status for item in found if item.status),
            start=",".join(sorted(f"{item.id} {item.started}" for item in found)),
        )

    def _rests(self, container: Container) -> bool:
        if container.state not in _AT_REST:
            return False
        if not container.ended or (container.ended.isdecimal() and time.time() - int(container.ended) > _LONG_AGO_SECONDS):
            return True
        first_seen = self._exits.setdefault((container.id, container.ended), time.monotonic())
        return time.monotonic() - first_seen >= _RESTART_SECONDS

    def stop(self, seconds: float) -> None:
        """Stop its containers. The engine kills those that are left after the project's ``stop_grace_period``."""
        self._tell(seconds, "stop", self._control.service)

    def start(self, seconds: float) -> None:
        """Start it alone. Not with ``start``: a container keeps the environment that it was made with."""
        anew = ["--force-recreate"] if self._control.recreate else []
        self._tell(seconds, "up", "--detach", "--no-deps", "--no-build", *anew, self._control.service)

    def must_stop_again(self, state: ServiceState) -> bool:
        """Return True when a restart policy brought it up again."""
        return not set(state.name.split(", ")) <= _AT_REST | _ENDING

    def hopeless(self, state: ServiceState) -> bool:
        """Return True when a container ended, even if a restart policy starts it again."""
        return state.failing or not _ENDED.isdisjoint(state.name.split(", "))

    def environment(self) -> Mapping[str, str] | None:
        """Return the environment that the first container shown by the engine was made with."""
        ran = self._ask("ps", *self._all, "--format", "json")
        try:
            found = [item.id for item in containers(ran.output) if item.service == self._control.service]
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        if not found:
            return None
        *head, last = self._control.engine
        engine = head if last == "compose" else [*head, last.removesuffix("-compose")]
        shown = self._runner.run(
            [*engine, "inspect", "--format", "{{json .Config.Env}}", found[0]], LOOK_SECONDS, secret=True
        )
        try:
            return dict(str(part).partition("=")[::2] for part in json.loads(shown.output)) if shown.code == 0 else None
        except (ValueError, TypeError):
            return None

    def output(self) -> str:
        """Return its containers' logs."""
        return self._ask("logs", "--no-color", "--tail", str(LOG_LINES), self._control.service).output

    def _command(self, *arguments: str) -> list[str]:
        project = ["-p", self._control.project] if self._control.project else []
        files = [part for file in self._control.files for part in ("-f", file)]
        return [*self._control.engine, *project, *files, *arguments]

    def _ask(self, *arguments: str) -> Ran:
        ran = self._look(self._command(*arguments), directory=self._control.directory)
        if ran.code != 0:
            raise Unreachable(
                "Compose does not answer",
                where=self.where,
                expected=f"an answer to '{' '.join(self._control.engine)} {arguments[0]}'",
                found=f"{ran.ended}, {ran.excerpt()}",
                do="Run it by hand there as the user of the tasks: the engine must run, and the project must be complete.",
            )
        return ran

    def _tell(self, seconds: float, *arguments: str) -> None:
        self._order(self._command(*arguments), seconds, directory=self._control.directory)


def containers(text: str) -> Iterator[Container]:
    """Read ``ps --format json``: one array (podman-compose, Docker Compose before 2.21), or one object on each line.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: When the text is something else.
    """
    text = text.strip()
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    for row in rows:
        labels = _labels(row.get("Labels"))
        status = str(row.get("Status") or "")
        yield Container(
            id=str(row.get("ID") or row["Id"]),
            service=str(row.get("Service") or labels["com.docker.compose.service"]),
            state=str(row["State"]).lower(),
            status=status,
            health=str(row.get("Health") or ("unhealthy" if "(unhealthy)" in status else "")).lower(),
            ended=str(row["ExitedAt"]) if row.get("Exited") else "",
            started=str(row.get("StartedAt") or ""),
            one_off=labels.get("com.docker.compose.oneoff", "").lower() == "true",
        )


def _labels(found: Any) -> Mapping[str, str]:
    """Read an object (podman) or a text of ``name=value`` (Docker), where a comma in a value makes a harmless name."""
    if isinstance(found, str):
        return dict(part.partition("=")[::2] for part in found.split(","))
    return found or {}
