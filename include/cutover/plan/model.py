"""The plan: one YAML file per application, read into frozen models.

A plan says what cannot be found out: names, places, people, limits, texts. What the target's catalog knows (columns,
foreign keys, sequences) is read there and never typed here.

``${NAME}`` and ``${NAME:-default}`` in any value are replaced from the environment before validation, so that one plan
serves several hosts. No credential belongs in a plan: connections are named, their secrets stay in Airflow.
"""

from __future__ import annotations

import codecs
import os
import re
import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from include.cutover.errors import PlanInvalid
from include.cutover.plan.access import Access, DatabaseBackups, Secrets, Tls, passwords
from include.cutover.plan.afterwards import EVIDENCE_ASIDE, Aftercare, Retention

ROOT = Path(__file__).resolve().parents[3]

_NAME = r"^[a-z][a-z0-9_]{0,40}$"
Identifier = Annotated[str, Field(pattern=_NAME)]
Placeholders = frozenset({"time", "end", "freeze", "deadline", "lead", "application", "minutes", "reason", "run"})
_PLACEHOLDER = re.compile(r"<([^<>\n]+)>")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _known_placeholders(text: str, known: frozenset[str] = Placeholders) -> str:
    unknown = sorted(set(_PLACEHOLDER.findall(text)) - known)
    if unknown:
        allowed = ", ".join(f"<{name}>" for name in sorted(known))
        raise ValueError(f"unknown placeholder {', '.join(f'<{name}>' for name in unknown)}; allowed are {allowed}")
    return text


def _without_reason(text: str) -> str:
    return _known_placeholders(text, Placeholders - {"reason"})


def _absolute(path: Path) -> Path:
    return path if path.is_absolute() else ROOT / path


def _path_template(text: str) -> str:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"not a usable path: {error}") from None
    if fields - {"key"}:
        raise ValueError(f"unknown field {sorted(fields - {'key'})}; allowed is {{key}}")
    if not text.startswith("/"):
        raise ValueError("a path of the application starts with /")
    return text


def _one_argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("an argument of a command holds no NUL")
    return text


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError("not an encoding that Python knows, such as latin-1 or cp1251") from None
    return name


Template = Annotated[str, Field(min_length=1), AfterValidator(_known_placeholders)]
PlainTemplate = Annotated[str, Field(min_length=1), AfterValidator(_without_reason)]  # for what has no reason to tell
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Reason = Annotated[str, Field(min_length=3)]
UrlPath = Annotated[str, AfterValidator(_path_template)]
Command = Annotated[tuple[Annotated[str, AfterValidator(_one_argument)], ...], Field(min_length=1)]
Steady: Any = Field(default=1.0, ge=0, le=60, description="How long it must be seen running before it counts as started.")


class Model(BaseModel):
    """Frozen, and an unknown key is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Connections(Model):
    """Airflow connection ids. ``application`` is how the application itself logs in to the target after the cutover.

    Attributes:
        ssh_unverified: Connections of hosts that may be another host than they say: their ``no_host_key_check`` is obeyed.
    """

    source: str
    target: str
    application: str
    slack: str | None = None
    mail: str | None = None
    ssh_unverified: tuple[str, ...] = ()


class ColumnDecision(Model):
    """What becomes of values that the target would not take as they are. Without a decision they block the cutover.

    Attributes:
        empty_as_null: '' in a column that is no text becomes NULL.
        strip_nul: NUL characters are taken out of text, and ``\\u0000`` out of JSON.
        encoding: Bytes that are not UTF-8 are read in this encoding.
        datetime: How numbers in a date column are meant; ``iso`` means that there are none.
        boolean: Values that stand for true or false, as text: ``{"yes": true, "2": true}``.
    """

    empty_as_null: bool = False
    strip_nul: bool = False
    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = None
    datetime: Literal["iso", "unix", "unix_ms", "julian"] | None = None
    boolean: dict[str, bool] | None = None


class ForeignKeyDecision(Model):
    """What becomes of rows whose foreign key points nowhere.

    Attributes:
        orphans: ``block``, ``quarantine`` (the row goes whole into ``cutover.quarantine``, and so do its children when they
            would become orphans), or ``set_null``.
        at_most: More rows than this block all the same.
    """

    orphans: Literal["block", "quarantine", "set_null"] = "block"
    at_most: int = Field(default=100, ge=0)


class Table(Model):
    """What the catalog cannot know about a table.

    Attributes:
        secret: Columns whose content never appears anywhere but in the two databases.
        chunk_rows: Rows copied in one transaction.
        streams: Tasks that share the table's chunks.
        columns: Decisions about awkward values.
        foreign_keys: Decisions about orphans, by the name of the foreign key in the target.
    """

    secret: tuple[str, ...] = ()
    chunk_rows: int = Field(default=500_000, ge=1_000)
    streams: int = Field(default=1, ge=1, le=16)
    columns: dict[str, ColumnDecision] = {}
    foreign_keys: dict[str, ForeignKeyDecision] = {}


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


class Backup(Model):
    """Where backups go. ``second_copy`` should be another disk."""

    directory: AbsolutePath
    second_copy: AbsolutePath | None = None


class Person(Model):
    """Somebody with a part in the cutover. ``user`` is the log-in name in Airflow."""

    user: str = Field(min_length=1)
    name: str = Field(min_length=1)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    contact: str = ""


class People(Model):
    """The roles of the runbook. Deputies may do what the lead may."""

    lead: Person
    observer: Person
    communicator: Person
    deputies: tuple[Person, ...] = ()

    @property
    def deciders(self) -> tuple[Person, ...]:
        """Those who may start, approve and roll back."""
        return (self.lead, *self.deputies)


class Channels(Model):
    """Where notices go; the connections are named under ``connections``.

    Attributes:
        release: ``communicator``: a notice is held until the communicator has released it, or ``release_minutes`` are over.
    """

    slack_channel: str = "#ops"
    mail_from: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    mail_to: tuple[str, ...] = Field(min_length=1)
    release: Literal["automatic", "communicator"] = "automatic"
    release_minutes: float = Field(default=5, gt=0, le=60)


class Notices(Model):
    """Texts sent to people; what stands in ``<…>`` is filled in (see ``Placeholders``)."""

    start: PlainTemplate
    completion: PlainTemplate
    rollback: Template
    cancelled: Template = (
        "The migration of <application> to PostgreSQL did not take place: <reason> <application> runs on SQLite as before."
    )
    freeze: PlainTemplate = (
        "Change freeze for <application> from <freeze> until the migration to PostgreSQL is over: its window is <time> to "
        "<end>. Please change nothing but what the migration itself changes. Contact <lead>."
    )
    delay: Template = (
        "The migration of <application> to PostgreSQL is not through yet: <reason> The window ends at <end>. Contact <lead>."
    )
    deadline: Template = (
        "The migration of <application> to PostgreSQL: <reason> The window ends at <end>; a run that is not live before "
        "<deadline> goes back to SQLite by itself. Contact <lead>."
    )
    aftercare: Template = (
        "<application> on PostgreSQL needs a look: <reason> To go back to SQLite, answer the question in Airflow or roll "
        "<run> back. Contact <lead>."
    )
    closing: Template = "The aftercare of <application> on PostgreSQL is over. <reason>"


class RedisSnapshot(Model):
    """A snapshot of Redis or Valkey, taken while the services rest.

    Attributes:
        url: ``redis://host:port``, ``rediss://`` for TLS, ``unix:///path``; without a password.
        password_env: Environment variable that holds the password.
        kind: ``rdb``, the server streams its dump as it does to a replica; ``bgsave``, it writes its dump file, which is
            copied from where the tasks see it.
        file: That file, for ``bgsave``; by default where the server says that it is.
        seconds: How long it may take.
        required: Without it there is no go-live; else its absence is a warning.
    """

    url: str = Field(pattern=r"^(rediss?|unix)://[^@]+$")
    username: str | None = None
    password_env: str | None = None
    kind: Literal["rdb", "bgsave"] = "rdb"
    file: AbsolutePath | None = None
    seconds: int = Field(default=120, ge=1, le=3600)
    required: bool = False


class Archive(Model):
    """Files and folders that are kept in one archive, such as the configuration and its repositories.

    Attributes:
        name: Of the archive.
        paths: Taken whole, with owner and mode; a symbolic link is kept as one and not followed.
        required: Without every file of it there is no go-live; else what is missing is a warning.
    """

    name: Identifier
    paths: tuple[AbsolutePath, ...] = Field(min_length=1)
    required: bool = False


class Extras(Model):
    """What is kept beside the backup of the database, for going back by hand. Nothing of it is put back by itself."""

    redis: RedisSnapshot | None = None
    archives: tuple[Archive, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Extras:
        names = ["redis", *(archive.name for archive in self.archives)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"archives: the name {', '.join(twice)} is taken")
        return self

    @property
    def wanted(self) -> bool:
        """Whether there is anything to keep."""
        return self.redis is not None or bool(self.archives)

    @property
    def required(self) -> bool:
        """Whether anything of it must be there before going live."""
        return any(archive.required for archive in self.archives) or (self.redis is not None and self.redis.required)


class Window(Model):
    """The maintenance window, in minutes.

    Attributes:
        minutes: Its length.
        freeze_minutes: How long before its start nothing but the run may change the application any more.
        rollback_minutes: How long going back takes, as long as no rehearsal has measured it.
        rollback_margin: The deadline leaves that many times the rollback's time before the end of the window.
    """

    minutes: int = Field(default=60, ge=1, le=24 * 60)
    freeze_minutes: int = Field(default=15, ge=0, le=24 * 60)
    rollback_minutes: float = Field(default=5, gt=0, le=24 * 60)
    rollback_margin: float = Field(default=1.5, ge=1, le=10)

    @model_validator(mode="after")
    def _room_to_go_back(self) -> Window:
        if self.rollback_minutes * self.rollback_margin >= self.minutes:
            raise ValueError(
                "minutes must be more than rollback_minutes times rollback_margin, or the deadline is over at once"
            )
        return self


class Gates(Model):
    """The go/no-go questions. No answer within ``response_minutes`` means no-go."""

    response_minutes: float = Field(default=15, gt=0, le=24 * 60)
    allow_auto_approval: bool = False


class Preflight(Model):
    """Limits of the checks before anything is stopped.

    Attributes:
        accept_unknown: Names of checks that may stay "could not check" without the lead's word.
        target_disk_factor: Free disk on the target as a multiple of the source file's size.
        free_connections: Connections that must be free on the target.
    """

    accept_unknown: tuple[str, ...] = ()
    target_disk_factor: float = Field(default=4.0, ge=1)
    free_connections: int = Field(default=10, ge=1)


class Plan(Model):
    """Everything the pipeline must be told about one application. See the module's docstring.

    Attributes:
        target_fence: How the application's role is shut out of the target until go-live and at a rollback. ``login``: it may
            not log in, and has no rights. ``privileges``: it has no rights; for a site where the pipeline's role may not
            alter others. See docs/decisions/0004-the-targets-fence.md.
        source_queue: Queue of the workers beside the application: steps that need its files or its services run only there
            (see ``steps.queues``). Left out or empty, any worker is one.
        ignored_tables: Tables of the source that are left behind, each with the reason.
        source_objects: What became of the source's views, triggers and the like, by name.
        access: The roles in the target.
        secrets: Where passwords are found that are not in the connections.
        tls: What every session with the target must have, the pipeline's and the application's. ``require``: encrypted.
            ``verify-full``: and with the server that the connection names.
        database_backups: What ``doctor`` demands of PostgreSQL's own backups.
        schema_version: Revision of Alembic that the plan's SQL was written for; ``doctor`` compares it with the source's.
        require_rehearsal: No cutover without a green rehearsal of the same schema, plan, SQL and code.
        rehearsal_days: How old that rehearsal may be.
    """

    name: Identifier
    application: str = Field(min_length=1)
    connections: Connections
    target_schema: str = "public"
    target_fence: Literal["login", "privileges"] = "login"
    source_queue: str | None = None
    access: Access | None = None
    secrets: Secrets = Secrets()
    tls: Tls | None = None
    database_backups: DatabaseBackups | None = None
    schema_version: str | None = None
    tables: dict[str, Table] = Field(min_length=1)
    ignored_tables: dict[str, Reason] = {}
    source_objects: dict[str, Reason] = {}
    services: tuple[Service, ...] = ()
    smoke_tests: SmokeTests | None = None
    configuration: AnyConfiguration | None = None
    backup: Backup
    extras: Extras = Extras()
    window: Window = Window()
    gates: Gates = Gates()
    preflight: Preflight = Preflight()
    aftercare: Aftercare = Aftercare()
    retention: Retention = Retention()
    require_rehearsal: bool = False
    rehearsal_days: float = Field(default=7, gt=0, le=365)
    people: People
    channels: Channels
    notices: Notices

    @model_validator(mode="before")
    @classmethod
    def _tables_without_settings(cls, data: Any) -> Any:
        """``name:`` with nothing behind it is a table without settings."""
        if isinstance(data, dict) and isinstance(data.get("tables"), dict):
            data = {**data, "tables": {name: {} if value is None else value for name, value in data["tables"].items()}}
        return data

    @field_validator("source_queue")
    @classmethod
    def _empty_is_none(cls, value: str | None) -> str | None:
        return value or None

    @model_validator(mode="after")
    def _names_agree(self) -> Plan:
        problems = []
        names = [service.name for service in self.services]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"services: the name {name} stands more than once")
        if self.smoke_tests is not None:
            used = {test.table for test in self.smoke_tests.counts}
            if self.smoke_tests.write is not None:
                used |= {self.smoke_tests.write.table, self.smoke_tests.write.for_table}
            for table in sorted(used - set(self.tables)):
                problems.append(f"smoke_tests: the table {table} is not among the plan's tables")
        for table in sorted({item.table for item in self.aftercare.growing} - set(self.tables)):
            problems.append(f"aftercare: the table {table} is not among the plan's tables")
        if self.name in EVIDENCE_ASIDE:
            problems.append(f"name: {self.name} is taken; evidence of another kind lies in a folder of that name")
        if self.services and self.smoke_tests is None:
            problems.append("smoke_tests: needed where services are given, or nobody knows that they work")
        if self.services and self.configuration is None:
            problems.append("configuration: needed where services are given, or they start on the old database")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def sql_folder(self) -> Path:
        """Folder of this plan's SQL files."""
        return sql_root() / self.name


def plans_folder() -> Path:
    """Folder of the plan files; ``CUTOVER_PLANS`` overrides it."""
    return Path(os.environ.get("CUTOVER_PLANS") or ROOT / "include" / "plans")


def sql_root() -> Path:
    """Folder of the SQL folders, one per plan; ``CUTOVER_SQL`` overrides it."""
    return Path(os.environ.get("CUTOVER_SQL") or ROOT / "include" / "sql")


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML keeps the last of two equal keys in silence; here that is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def _expand(value: Any, path: str, environment: Mapping[str, str], faults: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _expand(item, f"{path}.{key}" if path else str(key), environment, faults) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, f"{path}.{index}", environment, faults) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = environment.get(name) or default
        if found is None:
            faults.append(f"{path}: the environment variable {name} is not set; set it or write ${{{name}:-default}}")
            return ""
        return found

    return _VARIABLE.sub(replace, value)


def _describe(error: dict[str, Any], hidden: Collection[str] = ()) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "the file"
    found = error.get("input")
    hide = isinstance(found, dict | list | tuple | BaseModel) or str(found) in hidden
    shown = "" if hide else f", found {found!r}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key{shown}; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{path}: missing"
    return f"{path}: {message}{shown}"


def parse_plan(text: str, where: str, environment: Mapping[str, str] | None = None) -> Plan:
    """Read a plan from YAML text.

    Raises:
        PlanInvalid: With every fault of the text, each with its path, what was found and what is allowed.
    """
    try:
        data = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise PlanInvalid("not readable as YAML", [str(error)], where=where) from None
    if not isinstance(data, dict):
        raise PlanInvalid("a plan is a mapping of keys", [f"the file: found {type(data).__name__}"], where=where)
    faults: list[str] = []
    data = _expand(data, "", os.environ if environment is None else environment, faults)
    secret, hidden = passwords(data)
    faults += secret
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        faults += [_describe(dict(item), hidden) for item in error.errors()]
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise PlanInvalid(f"the plan has {count}", faults, where=where)
    return plan


def load_plan(name: str) -> Plan:
    """The plan of that name. With ``CUTOVER_NO_SERVICES=1`` the data alone is moved, and nothing else done.

    Raises:
        PlanInvalid: When there is no such plan or it has faults.
    """
    path = plans_folder() / f"{name}.yaml"
    named = re.fullmatch(_NAME, name) is not None
    try:
        text = path.read_text(encoding="utf-8") if named else None
    except (FileNotFoundError, IsADirectoryError):
        text = None
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise PlanInvalid("the plan cannot be read", [], where=str(path), found=found, do="Mend its rights.") from None
    except UnicodeDecodeError:
        raise PlanInvalid("the plan is not UTF-8", [], where=str(path), do="Write it in UTF-8.") from None
    if text is None:
        known = ", ".join(sorted(item.stem for item in plans_folder().glob("*.yaml"))) or "none"
        shown = name if named else ascii(name)[:60]
        raise PlanInvalid(f"there is no plan {shown}", [], where=str(plans_folder()), expected=f"one of: {known}")
    plan = parse_plan(text, where=str(path))
    if plan.name != name:
        raise PlanInvalid(
            "the name differs from the file's", [f"name: found {plan.name!r}, expected {name!r}"], where=str(path)
        )
    if os.environ.get("CUTOVER_NO_SERVICES") == "1":
        unwatched = plan.aftercare.model_copy(update={"enabled": False})
        without = {"services": (), "smoke_tests": None, "configuration": None, "access": None, "aftercare": unwatched}
        return plan.model_copy(update=without)
    return plan
