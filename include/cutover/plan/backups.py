"""The plan's part about what is kept: the backup, what is kept beside it, and PostgreSQL's own backups."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from include.cutover.plan.types import AbsolutePath, Identifier, Model


class Backup(Model):
    """Places of the backup of the SQLite file.

    Attributes:
        directory: Folder of the backups.
        second_copy: Folder of a second copy, preferably on another disk.
    """

    directory: AbsolutePath
    second_copy: AbsolutePath | None = None


class RedisSnapshot(Model):
    """A snapshot of Redis or Valkey, taken while the services are stopped.

    Attributes:
        url: ``redis://host:port``, ``rediss://`` for TLS, or ``unix:///path``; without a password.
        username: User to log in as; the default user when left out.
        password_env: Environment variable that holds the password.
        kind: ``rdb``: the server streams its dump, as to a replica. ``bgsave``: the server writes its dump file, which is
            copied; the tasks must see that file.
        file: Path of the dump file for ``bgsave``; the server reports it when left out.
        seconds: Time limit of the snapshot, in seconds.
        required: True: without the snapshot there is no go-live. False: a missing snapshot is a warning.
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
        name: Name of the archive.
        paths: Files and folders, archived whole, with owner and mode. A symbolic link is kept as a link, not followed.
        required: True: without every file there is no go-live. False: a missing file is a warning.
    """

    name: Identifier
    paths: tuple[AbsolutePath, ...] = Field(min_length=1)
    required: bool = False


class Extras(Model):
    """Snapshots and archives beside the backup of the database, for a restore by hand. Nothing restores them automatically.

    Attributes:
        redis: Snapshot of Redis or Valkey.
        archives: Archives of files and folders.
    """

    redis: RedisSnapshot | None = None
    archives: tuple[Archive, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Extras:
        names = ["redis", *(archive.name for archive in self.archives)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"archives: the name {', '.join(twice)} is taken; choose another")
        return self

    @property
    def wanted(self) -> bool:
        """True when the plan asks for a snapshot or an archive."""
        return self.redis is not None or bool(self.archives)

    @property
    def required(self) -> bool:
        """True when a snapshot or an archive is required before go-live."""
        return any(archive.required for archive in self.archives) or (self.redis is not None and self.redis.required)


class DatabaseBackups(Model):
    """PostgreSQL's own backups, which ``doctor`` checks: a site needs them before its application runs on PostgreSQL.

    Attributes:
        archiving: The write-ahead log must be archived, and archiving must work.
        files: Pattern of the files or folders of base backups or dumps, as this host sees them.
        at_most_hours: Maximum age of the newest of them, in hours.
    """

    archiving: bool = True
    files: Annotated[str, Field(pattern=r"^/")] | None = None
    at_most_hours: float = Field(default=26, gt=0, le=876_000)
