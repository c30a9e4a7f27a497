"""The plan as a whole: one YAML file per application, read into frozen models.

A plan holds what cannot be found out: names, places, people, limits, texts. It repeats nothing that the target's catalog
knows (columns, foreign keys, sequences). The models in this package are the reference of its keys.

``${NAME}`` and ``${NAME:-default}`` in any value are replaced from the environment before the plan is checked, so that one
plan serves several hosts. A plan must not hold a password: it names connections, whose secrets stay in Airflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from include.cutover.places import sql_root
from include.cutover.plan.access import Access, Secrets, Tls
from include.cutover.plan.afterwards import Aftercare, Retention
from include.cutover.plan.application import AnyConfiguration, Service, SmokeTests
from include.cutover.plan.backups import Backup, DatabaseBackups, Extras
from include.cutover.plan.people import Channels, Notices, People
from include.cutover.plan.tables import Table
from include.cutover.plan.types import RESERVED_NAMES, AbsolutePath, Identifier, Model, Reason, TimeZone


class Connections(Model):
    """Ids of Airflow connections.

    Attributes:
        source: The SQLite file.
        target: PostgreSQL, as the pipeline logs in.
        application: PostgreSQL, as the application logs in after the cutover.
        slack: Slack, for notices.
        mail: The mail server, for notices.
        ssh_unverified: SSH connections whose ``no_host_key_check`` is accepted: the host's identity is not verified.
    """

    source: str
    target: str
    application: str
    slack: str | None = None
    mail: str | None = None
    ssh_unverified: tuple[str, ...] = ()


class Window(Model):
    """The maintenance window.

    Attributes:
        minutes: Length of the window, in minutes.
        freeze_minutes: Minutes before the window from which only the run may change the application.
        rollback_minutes: Duration of a rollback in minutes, until a rehearsal has measured it.
        rollback_margin: Factor: the deadline is the end of the window minus the rollback's duration times this.
        time_zone: IANA name of the time zone of a window's start that a person enters without an offset.
    """

    minutes: int = Field(default=60, ge=1, le=24 * 60)
    freeze_minutes: int = Field(default=15, ge=0, le=24 * 60)
    rollback_minutes: float = Field(default=5, gt=0, le=24 * 60)
    rollback_margin: float = Field(default=1.5, ge=1, le=10)
    time_zone: TimeZone = "UTC"

    @model_validator(mode="after")
    def _room_to_go_back(self) -> Window:
        if self.rollback_minutes * self.rollback_margin >= self.minutes:
            raise ValueError(
                "minutes must be more than rollback_minutes times rollback_margin: the deadline would be before the window"
            )
        return self


class Gates(Model):
    """The go/no-go questions.

    Attributes:
        response_minutes: Time to answer, in minutes. No answer in time means no-go.
        allow_auto_approval: A run may be started with automatic approval, for demos and tests.
    """

    response_minutes: float = Field(default=15, gt=0, le=24 * 60)
    allow_auto_approval: bool = False


class Preflight(Model):
    """Limits of the checks before anything is stopped.

    Attributes:
        accept_unknown: Names of checks that may stay "could not check" without the lead's approval.
        target_disk_factor: Free disk required on the target, as a multiple of the source file's size.
        free_connections: Free connections required on the target.
    """

    accept_unknown: tuple[str, ...] = ()
    target_disk_factor: float = Field(default=4.0, ge=1, le=1_000)
    free_connections: int = Field(default=10, ge=1)


class Plan(Model):
    """The keys of a plan file.

    Attributes:
        name: Name of the plan: that of its file without ``.yaml``, and of its SQL folder.
        application: Name of the application, as notices and reports show it.
        connections: Airflow connections of both ends and of the channels.
        source_other_names: Hard links of the SQLite file: other paths by which a program may open it. Each must be the same
            file. No log may lie beside one when the source is fenced; a rollback links them to the restored file.
        target_schema: Schema of the application's tables in the target.
        target_fence: How the application's role is kept out of the target until go-live and during a rollback. ``login``: it
            cannot log in and has no rights. ``privileges``: it has no rights; for a site where the pipeline's role may not
            alter other roles. See docs/decisions/0004-the-targets-fence.md.
        source_queue: Queue of the workers beside the application: only they run the steps that need its files or services.
            Left out or empty, any worker runs them.
        access: The roles in the target.
        secrets: Places of passwords that are not in the connections.
        tls: Required of every session with the target, the pipeline's and the application's. ``require``: encryption.
            ``verify-full``: encryption, and the verified identity of the server.
        database_backups: Requirements of ``doctor`` for PostgreSQL's own backups.
        schema_version: Revision of Alembic that the plan's SQL was written for; ``doctor`` compares it with the source's.
        tables: Tables to copy, each with its settings; ``name:`` alone is a table without settings.
        ignored_tables: Tables of the source that are not copied, each with the reason.
        source_objects: Views, triggers and other objects of the source, by name, each with its replacement in the target.
        services: Services of the application, in the order of starting.
        smoke_tests: Requests that show that the application is healthy; required with services.
        configuration: Values that decide which database the application uses; required with services.
        backup: Places of the backup.
        extras: Snapshots and archives beside the backup.
        window: The maintenance window.
        gates: The go/no-go questions.
        preflight: Limits of the checks before anything is stopped.
        aftercare: Checks after go-live.
        retention: How long backups and schemas are kept.
        require_rehearsal: A cutover requires a green rehearsal with the same schema, plan, SQL and code.
        rehearsal_days: Maximum age of that rehearsal, in days.
        people: The roles of the runbook.
        channels: Channels of the notices.
        notices: Texts of the notices.
    """

    name: Identifier
    application: str = Field(min_length=1)
    connections: Connections
    source_other_names: tuple[AbsolutePath, ...] = ()
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
        """Read ``name:`` without a value as a table without settings."""
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
            problems.append(f"services: the name {name} is given more than once")
        if self.smoke_tests is not None:
            used = {test.table for test in self.smoke_tests.counts}
            if self.smoke_tests.write is not None:
                used |= {self.smoke_tests.write.table, self.smoke_tests.write.for_table}
            for table in sorted(used - set(self.tables)):
                problems.append(f"smoke_tests: the table {table} is not among the plan's tables")
        for table in sorted({item.table for item in self.aftercare.growing} - set(self.tables)):
            problems.append(f"aftercare: the table {table} is not among the plan's tables")
        if self.name in RESERVED_NAMES:
            problems.append(f"name: {self.name} is taken by a folder of the evidence; choose another")
        if self.services and self.smoke_tests is None:
            problems.append("smoke_tests: required with services, to verify that they work")
        if self.services and self.configuration is None:
            problems.append("configuration: required with services; without it they start on the old database")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def sql_folder(self) -> Path:
        """Folder of this plan's SQL files."""
        return sql_root() / self.name
