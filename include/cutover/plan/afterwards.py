"""What a plan says about the time after go-live: the aftercare, and how long things are kept."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

EVIDENCE_ASIDE = frozenset({"aftercare", "retention", "rehearsals", "schedules"})
"""Folders of the evidence root that are no plan's: no plan may have such a name."""

LOG_PATTERNS = (
    r"\b(?:sqlalchemy\.exc|psycopg2?|asyncpg|sqlite3)\.\w+",
    r"\b(?:Operational|Programming|Integrity|Interface|Data|Internal|NotSupported|Database)Error\b",
    r"(?i)\bSQL ?(?:error|exception)|\bSQLSTATE\b",
    r"(?i)\b(?:relation|column|schema|type|function) \S+ does not exist",
    r"(?i)\bpermission denied for\b|\bduplicate key value\b|\bnull value in column\b|\bviolates \S+ constraint",
    r"(?i)\bdeadlock detected|\bcurrent transaction is aborted|\bcanceling statement due to|\bdatabase is locked",
    r"(?i)\bconnection (?:refused|reset|timed out|failed|is closed|already closed|to server)|\bcould not connect",
    r"(?i)\bserver closed the connection|\btoo many (?:clients|connections)|\bremaining connection slots|\bQueuePool limit",
    r"(?i)\bpassword authentication failed|\bno pg_hba\.conf entry|\bterminating connection",
)
"""Lines of a service's log that speak of the database: SQL errors and trouble with connections."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_pattern)]


class Settings(BaseModel):
    """Frozen, and an unknown key is a fault, as everywhere in a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GrowingTable(Settings):
    """A table into which the application's own jobs write all the time.

    Attributes:
        column: When a row was written.
        baseline_minutes: The rate before is that of the last so many minutes before the services stopped.
        tolerance: The share of that rate that may be missing.
    """

    table: str
    column: str
    baseline_minutes: float = Field(default=60, gt=0, le=7 * 24 * 60)
    tolerance: float = Field(default=0.5, ge=0, lt=1)


class FirstBackup(Settings):
    """The first backup of PostgreSQL, made by pg_dump, restored into a scratch database and compared.

    Attributes:
        wanted: False where there are other means, and nobody wants this one.
        pg_dump: The program, of the server's major version or a newer one; ``pg_restore`` lies beside it.
        directory: Where the dump stays; by default ``postgresql`` below the first place of the backups.
        minutes: How long each of dump and restore may take.
    """

    wanted: bool = True
    pg_dump: str = Field(default="pg_dump", min_length=1)
    directory: str | None = Field(default=None, pattern=r"^/")
    minutes: float = Field(default=30, gt=0, le=24 * 60)


class Aftercare(Settings):
    """What is looked at after go-live, how often and for how long, and from when on a look is red.

    Attributes:
        enabled: False: nothing looks after a cutover by itself.
        minutes: For how long, from its beginning, which follows the services' start on the target by seconds.
        interval_seconds: From one look to the next.
        questions: How often at most a red look asks whether to roll back.
        accept_unknown: Names of checks that may stay "could not check".
        requests: Of the application's health in each look.
        p50_seconds: Half of them must be answered within that.
        p95_seconds: And 95 of a hundred within that.
        log_patterns: Regular expressions; a line of a service's log that one of them is found in is an error.
        ignored_log_patterns: But not one that one of these is found in.
        log_errors: So many such lines since the last look are not red yet.
        deadlocks: So many since go-live are not red yet.
        rollback_percent: Of all transactions since go-live. SQLAlchemy and others end each read with one; so by itself only
            an application that hardly ever commits is red. Lower it where most transactions write.
        lost_sessions: So many sessions since go-live that their client abandoned, that were killed, or that ended by an
            error, are not red yet.
        connections_percent: Of the connections that the server, the database and the application's role allow.
        transaction_seconds: A transaction that is open for longer is red.
        idle_in_transaction_seconds: One that waits for its client for longer is.
        cache_hit_percent: At least so much is read from the cache since go-live.
        growth_megabytes: By so much the tables may have grown since go-live.
        growing: Tables that must go on growing: the application's scheduled jobs really run.
        first_backup: See there.
    """

    enabled: bool = True
    minutes: float = Field(default=60, gt=0, le=24 * 60)
    interval_seconds: float = Field(default=300, ge=1, le=3600)
    questions: int = Field(default=3, ge=1, le=10)
    accept_unknown: tuple[str, ...] = ()
    requests: int = Field(default=20, ge=1, le=1000)
    p50_seconds: float = Field(default=0.5, gt=0, le=60)
    p95_seconds: float = Field(default=2, gt=0, le=60)
    log_patterns: tuple[Pattern, ...] = LOG_PATTERNS
    ignored_log_patterns: tuple[Pattern, ...] = ()
    log_errors: int = Field(default=0, ge=0)
    deadlocks: int = Field(default=0, ge=0)
    rollback_percent: float = Field(default=90, ge=0, le=100)
    lost_sessions: int = Field(default=0, ge=0)
    connections_percent: float = Field(default=80, gt=0, le=100)
    transaction_seconds: float = Field(default=300, gt=0)
    idle_in_transaction_seconds: float = Field(default=60, gt=0)
    cache_hit_percent: float = Field(default=90, ge=0, le=100)
    growth_megabytes: float = Field(default=10_240, gt=0)
    growing: tuple[GrowingTable, ...] = ()
    first_backup: FirstBackup = FirstBackup()

    @model_validator(mode="after")
    def _looks_at_least_once(self) -> Aftercare:
        if self.interval_seconds > self.minutes * 60:
            raise ValueError("interval_seconds must not be more than minutes, or nothing is looked at again")
        return self


class Retention(Settings):
    """How long what a run left behind is kept. Evidence is kept for ever.

    Attributes:
        enabled: False: nothing is archived or removed by itself.
        archive_days: After so many days the backups of SQLite are compressed.
        backup_days: After so many they are removed.
        kept_target_days: The same for the schema that a rolled-back run left in the target.
        hour: Of the day, UTC, when it is looked after.
    """

    enabled: bool = True
    archive_days: float = Field(default=2, ge=0)
    backup_days: float = Field(default=30, ge=1)
    kept_target_days: float = Field(default=30, ge=1)
    hour: int = Field(default=3, ge=0, le=23)

    @model_validator(mode="after")
    def _in_order(self) -> Retention:
        if self.archive_days > self.backup_days:
            raise ValueError("archive_days must not be more than backup_days")
        return self
