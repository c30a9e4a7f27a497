"""The plan's part about the application: its services and how they are controlled, smoke tests, configuration."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from include.cutover.plan.types import AbsolutePath, Command, Identifier, Model, Steady, UrlPath


class Control(Model):
    """Control of a service.

    Attributes:
        ssh: Airflow connection of the host that the service runs on; this host when left out.
    """

    ssh: str | None = None


class SupervisorControl(Control):
    """A program under supervisord, controlled through its HTTP interface.

    Attributes:
        url: URL of the interface, as the host of ``ssh`` sees it.
        program: Name of the program in supervisord's configuration.
        username: User of the interface.
        password_env: Environment variable that holds the password of the interface.
    """

    kind: Literal["supervisor"]
    url: str = Field(pattern=r"^https?://")
    program: str = Field(min_length=1)
    username: str = "cutover"
    password_env: str | None = None

    @model_validator(mode="after")
    def _encrypted_once(self) -> SupervisorControl:
        if self.ssh is not None and not self.url.startswith("http://"):
            raise ValueError("url: write http:// beside ssh; SSH encrypts the connection already")
        return self


class CommandControl(Control):
    """A service controlled by commands: argument lists, never a shell.

    Attributes:
        start: Command that starts the service.
        stop: Command that stops it.
        status: Command that exits 0 when the service runs, and with another status when it does not.
        steady_seconds: Seconds that the service must stay running to count as started.
    """

    kind: Literal["command"]
    start: Command
    stop: Command
    status: Command
    steady_seconds: float = Steady


class ComposeControl(Control):
    """A service of a Compose project.

    Attributes:
        directory: Absolute path of the project's folder, on the host where it runs.
        service: Name of the service in the project.
        files: Compose files; the engine's usual names when left out.
        project: Name of the project; that of the folder when left out.
        engine: Command of the engine: ``[docker, compose]`` or ``[podman-compose]``.
        recreate: Recreate the container at each start, also when the engine sees no change: podman-compose does not read
            changes of an ``env_file``.
        steady_seconds: Seconds that the service must stay running to count as started.
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
        unit: Name of the unit.
        scope: ``user`` for a unit of the user that runs the commands.
        sudo: Run systemctl with ``sudo -n``, which never asks for a password.
        steady_seconds: Seconds that the service must stay running to count as started.
    """

    kind: Literal["systemd"]
    unit: str = Field(pattern=r"^[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]*$")
    scope: Literal["system", "user"] = "system"
    sudo: bool = False
    steady_seconds: float = Steady

    @model_validator(mode="after")
    def _whose(self) -> SystemdControl:
        if self.sudo and self.scope == "user":
            raise ValueError("sudo: remove it; a unit of the user needs no other user's rights")
        return self


class Service(Model):
    """One service of the application. The order of the list is the order of starting; stopping uses the reverse order.

    Each service is ordered to start or stop without waiting for the one before it, unless ``wait`` is set; then the pipeline
    waits for all of them.

    Attributes:
        name: Name of the service, as evidence and reports show it.
        control: How the service is started, stopped and observed.
        stop_seconds: Time limit for stopping, in seconds.
        start_seconds: Time limit for starting, in seconds.
        wait: The services after this one start only once it runs, and it stops only once they have stopped.
        log: File on the host of ``control.ssh``; its last lines are shown when the service does not start or stop in time.
            Left out, the lines come from the control.
    """

    name: Identifier
    control: Annotated[SupervisorControl | CommandControl | ComposeControl | SystemdControl, Field(discriminator="kind")]
    stop_seconds: int = Field(default=30, ge=1, le=600)
    start_seconds: int = Field(default=60, ge=1, le=600)
    wait: bool = False
    log: AbsolutePath | None = None


class HealthTest(Model):
    """The health request: ``GET path`` must answer 200 with JSON whose ``field`` names the database in use.

    Attributes:
        path: Path of the request.
        field: Field of the answer that names the database.
        source: Its value on SQLite.
        target: Its value on PostgreSQL.
        status_field: Field of the answer that holds the state of health.
        status: Its value when the application is healthy.
    """

    path: UrlPath
    field: str = "database"
    source: str = "sqlite"
    target: str = "postgresql"
    status_field: str = "status"
    status: str = "ok"


class CountTest(Model):
    """A number that the application shows, compared with the number of rows of a table.

    Attributes:
        path: Path of the request.
        table: Table whose rows are counted.
        field: Field of a JSON answer that holds the number.
        pattern: Regular expression for a page, with one group around the number.
        growing: The application may show more rows than the table had.
    """

    path: UrlPath
    table: str
    field: str | None = None
    pattern: str | None = None
    growing: bool = False

    @model_validator(mode="after")
    def _one_way_to_read(self) -> CountTest:
        if (self.field is None) == (self.pattern is None):
            raise ValueError("set either field (for JSON) or pattern (for a page)")
        if self.pattern is not None and re.compile(self.pattern).groups != 1:
            raise ValueError("pattern needs exactly one group, around the number")
        return self


class WriteTest(Model):
    """A request that makes the application write a row, which is then read from the target by its key.

    Attributes:
        path: Path of the request; ``{key}`` becomes the key of a row of ``for_table``.
        for_table: Table that provides the key.
        table: Table that the row is written to.
        returns: Field of the JSON answer that holds the primary key of the written row.
    """

    path: UrlPath
    for_table: str
    table: str
    returns: str = "id"


class SmokeTests(Model):
    """Requests that show from outside that the application is healthy.

    Attributes:
        base_url: URL that the paths of the requests are appended to.
        seconds: Time that the application may take to become healthy, in seconds.
        health: The health request.
        counts: Numbers compared with the rows of tables.
        write: A request that writes a row.
    """

    base_url: str = Field(pattern=r"^https?://")
    seconds: int = Field(default=60, ge=1, le=600)
    health: HealthTest
    counts: tuple[CountTest, ...] = ()
    write: WriteTest | None = None


class Configuration(Model):
    """Configuration values that decide which database the application uses.

    Values may hold ``{application_url}`` (the SQLAlchemy URL of the connection ``application``) and ``{source_path}`` (the
    SQLite file).

    Attributes:
        live: Values on PostgreSQL, by key.
        rolled_back: Values on SQLite, by key.
    """

    live: dict[str, str] = Field(min_length=1)
    rolled_back: dict[str, str] = Field(min_length=1)


class DotenvConfiguration(Configuration):
    """A dotenv file on this host.

    Attributes:
        file: Path of the file.
    """

    kind: Literal["dotenv"] = "dotenv"
    file: AbsolutePath


class CommandConfiguration(Configuration):
    """A store of secrets, used by commands: argument lists, never a shell. A value is never an argument.

    Attributes:
        set: Command that reads the new values from standard input.
        get: Command that prints the store's values on standard output.
        may_set: Command that exits 0 when ``set`` is allowed; it runs before anything is stopped.
        format: Format that ``set`` reads and ``get`` prints. ``json``: one object of texts by key. ``dotenv``: lines
            KEY=value. ``kubernetes``: ``set`` reads a patch of a Secret, ``get`` prints a Secret as JSON.
        whole: ``set`` replaces the store's whole content: it receives the output of ``get``, with the new values in it.
        seconds: Time limit of one command, and for the store to return the values that were set, in seconds.
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
            raise ValueError("whole: remove it; a patch leaves the other keys of a Secret as they are")
        if any(field in argument for argument in (*self.set, *self.get) for field in ("{application_url}", "{source_path}")):
            raise ValueError("set, get: values go through standard input; every user of the host can see arguments")
        return self


def _kind_of_configuration(data: Any) -> str:
    return str(data.get("kind", "dotenv") if isinstance(data, dict) else getattr(data, "kind", "dotenv"))


AnyConfiguration = Annotated[
    Annotated[DotenvConfiguration, Tag("dotenv")] | Annotated[CommandConfiguration, Tag("command")],
    Discriminator(_kind_of_configuration),
]
