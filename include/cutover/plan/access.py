"""The plan's part about access to the target: roles, the place of the application's password, TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from include.cutover.plan.types import Model


def _role(name: str) -> str:
    if name.startswith("pg_") or name in ("public", "none") or "\0" in name or len(name.encode()) > 63:
        raise ValueError("not a name that PostgreSQL allows for a role")
    return name


RoleName = Annotated[str, Field(min_length=1), AfterValidator(_role)]
Tls = Literal["require", "verify-full"]


class Access(Model):
    """The roles in the target, each with only the rights that it needs; see docs/access.md.

    Attributes:
        pipeline: Role of the pipeline (the connection ``target``).
        application: Role of the application (the connection ``application``). It reads and writes rows; it has no DDL.
        owner: Role that owns the schema and its objects; it cannot log in. Left out, the pipeline's role is the owner.
        reporting: Role that reads every table except its secret columns. Left out, there is none.
        create_databases: The pipeline may create databases of its own, for rehearsals.
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
            raise ValueError("each role needs a name of its own; a shared name would share the rights")
        return self


class Secret(Model):
    """The place of a password; give exactly one.

    Attributes:
        env: Environment variable of the tasks.
        file: File that holds the password, as mounted secrets do. Its last line break is ignored. Other users must not
            be able to read it.
        connection: Airflow connection that holds the password, from any of Airflow's secrets backends.
    """

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    file: Path | None = None
    connection: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Secret:
        if sum(item is not None for item in (self.env, self.file, self.connection)) != 1:
            raise ValueError("set exactly one of env, file, connection")
        if self.file is not None and not self.file.is_absolute():
            raise ValueError("file: set an absolute path")
        return self


class Secrets(Model):
    """Places of passwords that are not in the connections.

    Attributes:
        application: Password of the application's role. Left out, the password of the connection ``application`` is used.
    """

    application: Secret | None = None
