"""The plan's part about the application: services, their control, smoke tests and configuration."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from include.cutover.plan.types import AbsolutePath, Command, Identifier, Model, Steady, UrlPath


class Control(Model):
    """How a service is controlled.

    Attributes:
        ssh: Airflow connection of the host that it runs on; this host when left out.
    """

    ssh: str | None = None


class SupervisorControl(Control):
    """A program under supervisord, over its HTTP interface. With ``ssh``, ``url`` is how that host sees it.

    ``password_env`` names the environment variable that holds the password of the interface.
    """

    kind: Literal["supervisor"]
    url: str = Field(pattern=r"^https?://")
    program: str = Field(min_length=1)
    username: str = "cutover"
    password_env: str | None = None

    @model_validator(mode="after")
    def _encrypted_once(self) -> SupervisorControl:
        if self.ssh is not None and not self.url.startswith("http://"):
            raise ValueError("url: write http:// beside ssh; the way there is encrypted already")
        return self


class CommandControl(Control):
    """A service that is driven by commands: argument lists, never a shell.

    ``status`` exits 0 when the service runs, and with another status when it does not.
    """

    kind: Literal["command"]
    start: Command
    stop: Command
    status: Command
    steady_seconds: float = Steady


class ComposeControl(Control):
    """A service of a Compose project.

    Attributes:
        directory: The project's folder, on the host where it runs; absolute.
        files: Compose files, where they do not have one of the usual names.
        project: Its name, where it is not that of the folder.
        engine: What is run: ``[docker, compose]`` or ``[podman-compose]``.
        recreate: Make the container anew at each start, also when the engine sees no change: podman-compose does not look
            into an ``env_file``.
    """

    kind: Literal["compose"]
    directory: str = Field(pattern=r"^/")
    service: str = Field(pattern=r"^[A-Za-z0-9._][A-Za-z0-9._-]*$")
    files: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    project: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    engine: Command = ("docker", "compose")
    recreate: bool = False
    steady_seconds: float = Steady


class SystemdControl(Control):
    """A unit of systemd.

    Attributes:
        scope: ``user`` for a unit of the user that the commands run as.
        sudo: Run systemctl as ``sudo -n``, which never asks for a password.
    """

    kind: Literal["systemd"]
    unit: str = Field(pattern=r"^[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]*$")
    scope: Literal["system", "user"] = "system"
    sudo: bool = False
    steady_seconds: float = Steady

    @model_validator(mode="after")
    def _whose(self) -> SystemdControl:
        if self.sudo and self.scope == "user":
            raise ValueError("sudo: a unit of the user needs no other user's rights")
        return self


class Service(Model):
    """One service of the application. The list's order is the order of starting; stopping goes the other way round.

    Each is told without waiting for the one before it, unless ``wait`` says so; then all are waited for.

    Attributes:
        wait: The services after it are told to start only once this one runs, and this one to stop only once they rest.
        log: File whose last lines are shown when the service does not start or stop in time; on the host of ``control.ssh``.
            Without it, they are asked of what controls the service.
    """

    name: Identifier
    control: Annotated[SupervisorControl | CommandControl | ComposeControl | SystemdControl, Field(discriminator="kind")]
    stop_seconds: int = Field(default=30, ge=1, le=600)
    start_seconds: int = Field(default=60, ge=1, le=600)
    wait: bool = False
    log: AbsolutePath | None = None


class HealthTest(Model):
    """``GET path`` answers 200 with JSON whose ``field`` names the database in use."""

    path: UrlPath
    field: str = "database"
    source: str = "sqlite"
    target: str = "postgresql"
    status_field: str = "status"
    status: str = "ok"


class CountTest(Model):
    """A number that the application shows, compared with the rows of ``table``.

    ``field`` reads a JSON answer, ``pattern`` (one group) a page. With ``growing`` the application may show more.
    """

    path: UrlPath
    table: str
    field: str | None = None
    pattern: str | None = None
    growing: bool = False

    @model_validator(mode="after")
    def _one_way_to_read(self) -> CountTest:
        if (self.field is None) == (self.pattern is None):
            raise ValueError("give either field (for JSON) or pattern (for a page)")
        if self.pattern is not None and re.compile(self.pattern).groups != 1:
            raise ValueError("pattern needs exactly one group, around the number")
        return self


class WriteTest(Model):
    """A request that makes the application write a row, which is then read back from the target by its key.

    ``{key}`` in ``path`` becomes the key of some row of ``for_table``; the JSON answer's ``returns`` is the primary key of
    the row written into ``table``.
    """

    path: UrlPath
    for_table: str
    table: str
    returns: str = "id"


class SmokeTests(Model):
    """How the application is found healthy from outside."""

    base_url: str = Field(pattern=r"^https?://")
    seconds: int = Field(default=60, ge=1, le=600, description="How long the application may take to become healthy.")
    health: HealthTest
    counts: tuple[CountTest, ...] = ()
    write: WriteTest | None = None


class Configuration(Model):
    """What is switched when the application goes live: values by key.

    Values may hold ``{application_url}`` (the SQLAlchemy URL of the connection ``application``) and ``{source_path}`` (the
    SQLite file).
    """

    live: dict[str, str] = Field(min_length=1)
    rolled_back: dict[str, str] = Field(min_length=1)


class DotenvConfiguration(Configuration):
    """A dotenv file on this host."""

    kind: Literal["dotenv"] = "dotenv"
    file: AbsolutePath


class CommandConfiguration(Configuration):
    """A store of secrets, behind commands: argument lists, never a shell. No value is ever an argument.

    Attributes:
        set: Reads the new values from standard input.
        get: Prints the store's values on standard output.
        may_set: Exits 0 when ``set`` would be allowed; asked before anything is stopped.
        format: Of what ``set`` reads and ``get`` prints. ``json``: one object of texts by key. ``dotenv``: lines KEY=value.
            ``kubernetes``: ``set`` reads a patch of a Secret, ``get`` prints a Secret as JSON.
        whole: ``set`` replaces the store's whole content: it is given what ``get`` printed, with the new values put in.
        seconds: How long one command may take, and how long the store may take to give back what was set.
        ssh: Airflow connection of the host that the commands run on; this host when left out.
    """

    kind: Literal["command"]
    set: Command
    get: Command
    may_set: Command | None = None
    format: Literal["json", "dotenv", "kubernetes"] = "json"
    whole: bool = False
    seconds: int = Field(default=30, ge=1, le=600)
    ssh: str | None = None

    @model_validator(mode="after")
    def _agrees(self) -> CommandConfiguration:
        if self.whole and self.format == "kubernetes":
            raise ValueError("whole: a patch leaves the other keys of a Secret as they are")
        if any(field in argument for argument in (*self.set, *self.get) for field in ("{application_url}", "{source_path}")):
            raise ValueError("set, get: values go through standard input; everybody on the host can see arguments")
        return self


def _kind_of_configuration(data: Any) -> str:
    return str(data.get("kind", "dotenv") if isinstance(data, dict) else getattr(data, "kind", "dotenv"))


AnyConfiguration = Annotated[
    Annotated[DotenvConfiguration, Tag("dotenv")] | Annotated[CommandConfiguration, Tag("command")],
    Discriminator(_kind_of_configuration),
]
