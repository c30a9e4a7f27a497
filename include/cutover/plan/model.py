"""The plan: one YAML file per application, read into frozen models.

A plan says what cannot be found out: names, places, people, limits, texts. What the target's catalog knows (columns,
foreign keys, sequences) is read there and never typed here.

``${NAME}`` and ``${NAME:-default}`` in any value are replaced from the environment before validation, so that one plan
serves several hosts. No credential belongs in a plan: connections are named, their secrets stay in Airflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from include.cutover.places import sql_root
from include.cutover.plan.access import Access, DatabaseBackups, Secrets, Tls
from include.cutover.plan.afterwards import EVIDENCE_ASIDE, Aftercare, Retention
from include.cutover.plan.application import AnyConfiguration, Service, SmokeTests
from include.cutover.plan.people import Channels, Notices, People
from include.cutover.plan.types import AbsolutePath, Identifier, Model, Reason, known_encoding


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
    encoding: Annotated[str, AfterValidator(known_encoding)] | None = None
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
    columns: dict[str, ColumnDecision] = Field(default_factory=dict)
    foreign_keys: dict[str, ForeignKeyDecision] = Field(default_factory=dict)


class Backup(Model):
    """Where backups go. ``second_copy`` should be another disk."""

    directory: AbsolutePath
    second_copy: AbsolutePath | None = None


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
    ignored_tables: dict[str, Reason] = Field(default_factory=dict)
    source_objects: dict[str, Reason] = Field(default_factory=dict)
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
