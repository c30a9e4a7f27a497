"""The part of the plan about who may do what, and how one logs in: roles, secrets, TLS, PostgreSQL's own backups."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _role(name: str) -> str:
    if name.startswith("pg_") or name in ("public", "none") or "\0" in name or len(name.encode()) > 63:
        raise ValueError("not a name that PostgreSQL takes for a role")
    return name


RoleName = Annotated[str, Field(min_length=1), AfterValidator(_role)]
Tls = Literal["require", "verify-full"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Access(_Model):
    """The roles in the target, each with no more rights than it needs; see docs/access.md.

    Attributes:
        pipeline: Logs in for the pipeline (the connection ``target``).
        application: Logs in for the application (the connection ``application``). Reads and writes rows, and no DDL.
        owner: Owns the schema and what is in it, and does not log in. Left out, the pipeline's role owns it.
        reporting: Reads every table but its secret columns. Left out, there is none.
        create_databases: The pipeline may make databases of its own, for rehearsals.
    """

    pipeline: RoleName
    application: RoleName
    owner: RoleName | None = None
    reporting: RoleName | None = None
    create_databases: bool = True

    @model_validator(mode="after")
    def _names_differ(self) -> Access:
        names = [name for name in (self.pipeline, self.application, self.owner, self.reporting) if name is not None]
        if len(set(names)) < len(names):
            raise ValueError("each role needs a name of its own, or one has the rights of the other")
        return self


class Secret(_Model):
    """Where a password is found; exactly one of these.

    Attributes:
        env: An environment variable of the tasks.
        file: A file that holds it, as secrets are mounted; its last line break is no part of it. Others must not read it.
        connection: An Airflow connection whose password it is, from whichever of Airflow's secrets backends.
    """

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    file: Path | None = None
    connection: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Secret:
        if sum(item is not None for item in (self.env, self.file, self.connection)) != 1:
            raise ValueError("give exactly one of env, file, connection")
        if self.file is not None and not self.file.is_absolute():
            raise ValueError("file: an absolute path")
        return self


class Secrets(_Model):
    """Passwords by whom they are for. Without one, the password of the connection counts."""

    application: Secret | None = None


class DatabaseBackups(_Model):
    """PostgreSQL's own backups, for ``doctor``: what a site must have before its application lives there.

    Attributes:
        archiving: The write-ahead log is archived, and the archiving works.
        files: Pattern of the files or folders of its base backups or dumps, as this host sees them.
        at_most_hours: How old the newest of them may be.
    """

    archiving: bool = True
    files: Annotated[str, Field(pattern=r"^/")] | None = None
    at_most_hours: float = Field(default=26, gt=0)


# --- no password in a plan ----------------------------------------------------------------------------------------------

_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s:@'\"]*:([^\s@'\"]+)@")
_IN_TEXT = re.compile(r"(?i)(?:^|[^A-Za-z_])(?:PG)?pass(?:word|wd)\s*=\s*('[^']+'|[^\s'\"{}]+)")
_KEY = re.compile(r"(?i)(?:^|[_.-])(?:password|passwd|passphrase|pwd|api_?key|secret_?key|access_?key|token)$")
_PLACEHOLDER = re.compile(r"\{\w+\}")
_NAMES_ONLY = ("tables", "ignored_tables", "source_objects")  # whose keys are names of the application's own


def passwords(data: Any) -> tuple[list[str], set[str]]:
    """The passwords that stand in a plan: a fault for each, which does not repeat it, and the values that hold them."""
    faults: list[str] = []
    values: set[str] = set()

    def look(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                look(item, (*path, str(key)))
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                look(item, (*path, str(number)))
        elif isinstance(value, str | int) and not isinstance(value, bool) and (found := _holds(str(value), path)):
            values.add(str(value))
            faults.append(
                f"{'.'.join(path)}: {found}; a plan is kept with the evidence of every run. Name the place of the secret:"
                " a connection, an environment variable or a file"
            )

    look(data, ())
    return faults, values


def _holds(text: str, path: tuple[str, ...]) -> str:
    url = _IN_URL.search(text)
    if url is not None and not _PLACEHOLDER.fullmatch(url[1]):
        return "a URL with a password"
    if _IN_TEXT.search(text):
        return "a text with a password"
    if path[0] not in _NAMES_ONLY and _KEY.search(path[-1]) and text and not _PLACEHOLDER.fullmatch(text):
        return "a password"
    return ""
