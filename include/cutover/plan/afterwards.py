"""The plan's part about the time after go-live: the aftercare, and how long backups are kept."""

from __future__ import annotations

from pydantic import Field, model_validator

from include.cutover.plan.types import Model, RegularExpression

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
"""Patterns of log lines that report a database problem: SQL errors and connection failures."""


class GrowingTable(Model):
    """A table into which the application's own jobs write all the time.

    Attributes:
        table: Name of the table.
        column: Column that holds the time of writing.
        baseline_minutes: The rate before go-live is measured over these minutes before the services stopped.
        tolerance: Share of that rate that may be missing: 0.5 accepts half the rate.
    """

    table: str
    column: str
    baseline_minutes: float = Field(default=60, gt=0, le=7 * 24 * 60)
    tolerance: float = Field(default=0.5, ge=0, lt=1)


class FirstBackup(Model):
    """The first backup of PostgreSQL: made by pg_dump, restored into a scratch database and compared.

    Attributes:
        wanted: False where the site makes its backups by other means.
        pg_dump: Path of pg_dump, of the server's major version or newer; ``pg_restore`` must be beside it.
        directory: Folder of the dump; ``postgresql`` below ``backup.directory`` when left out.
        minutes: Time limit for the dump and for the restore, in minutes each.
    """

    wanted: bool = True
    pg_dump: str = Field(default="pg_dump", min_length=1)
    directory: str | None = Field(default=None, pattern=r"^/")
    minutes: float = Field(default=30, gt=0, le=24 * 60)


class Aftercare(Model):
    """Checks after go-live: how often, for how long, and the limits beyond which a check is red.

    Attributes:
        enabled: False: no aftercare starts after a cutover.
        minutes: Duration in minutes. It begins seconds after the services start on the target.
        interval_seconds: Seconds from one round of checks to the next.
        questions: Maximum number of times that a red round asks whether to roll back.
        accept_unknown: Names of checks that may stay "could not check".
        requests: Requests to the application's health path in each round.
        p50_seconds: Limit for half of the requests, in seconds.
        p95_seconds: Limit for 95 of 100 requests, in seconds.
        log_patterns: Regular expressions; a line of a service's log that matches one is an error.
        ignored_log_patterns: Regular expressions; a line that matches one is not an error.
        log_errors: Error lines accepted since the last round.
        deadlocks: Deadlocks accepted since go-live.
        rollback_percent: Limit for rolled-back transactions, in percent of all since go-live. SQLAlchemy and others end each
            read with a rollback, so the default is exceeded only by an application that hardly ever commits. Lower it where
            most transactions write.
        lost_sessions: Sessions accepted since go-live that the client abandoned, that were killed or that ended by an error.
        connections_percent: Limit for connections in use, in percent of those that the server, the database and the
            application's role allow.
        transaction_seconds: Limit for the age of an open transaction, in seconds.
        idle_in_transaction_seconds: Limit for a transaction that waits for its client, in seconds.
        cache_hit_percent: Minimum share of reads from the cache since go-live, in percent.
        growth_megabytes: Limit for the growth of the tables since go-live, in megabytes.
        growing: Tables that must keep growing, which proves that the application's scheduled jobs run.
        first_backup: The first backup of PostgreSQL.
    """

    enabled: bool = True
    minutes: float = Field(default=60, gt=0, le=24 * 60)
    interval_seconds: float = Field(default=300, ge=1, le=3600)
    questions: int = Field(default=3, ge=1, le=10)
    accept_unknown: tuple[str, ...] = ()
    requests: int = Field(default=20, ge=1, le=1000)
    p50_seconds: float = Field(default=0.5, gt=0, le=60)
    p95_seconds: float = Field(default=2, gt=0, le=60)
    log_patterns: tuple[RegularExpression, ...] = LOG_PATTERNS
    ignored_log_patterns: tuple[RegularExpression, ...] = ()
    log_errors: int = Field(default=0, ge=0)
    deadlocks: int = Field(default=0, ge=0)
    rollback_percent: float = Field(default=90, ge=0, le=100)
    lost_sessions: int = Field(default=0, ge=0)
    connections_percent: float = Field(default=80, gt=0, le=100)
    transaction_seconds: float = Field(default=300, gt=0, le=1_000_000)
    idle_in_transaction_seconds: float = Field(default=60, gt=0, le=1_000_000)
    cache_hit_percent: float = Field(default=90, ge=0, le=100)
    growth_megabytes: float = Field(default=10_240, gt=0, le=1e9)
    growing: tuple[GrowingTable, ...] = ()
    first_backup: FirstBackup = FirstBackup()

    @model_validator(mode="after")
    def _two_rounds(self) -> Aftercare:
        if self.interval_seconds > self.minutes * 60:
            raise ValueError("interval_seconds must not be more than minutes: there would be no second round")
        return self


class Retention(Model):
    """How long the files and schemas of a run are kept, in days. Evidence is kept forever.

    Attributes:
        enabled: False: nothing is archived or removed automatically.
        archive_days: Age at which backups of SQLite are compressed.
        backup_days: Age at which backups of SQLite are removed.
        kept_target_days: Age at which the schema that a rolled-back run left in the target is dropped.
        hour: Hour of the day, UTC, at which the retention runs.
    """

    enabled: bool = True
    archive_days: float = Field(default=2, ge=0, le=36_500)
    backup_days: float = Field(default=30, ge=1, le=36_500)
    kept_target_days: float = Field(default=30, ge=1, le=36_500)
    hour: int = Field(default=3, ge=0, le=23)

    @model_validator(mode="after")
    def _in_order(self) -> Retention:
        if self.archive_days > self.backup_days:
            raise ValueError("archive_days must not be more than backup_days")
        return self
