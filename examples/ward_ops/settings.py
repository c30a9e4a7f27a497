"""The database of the stand-in: ``DATABASE_URL`` from the environment, else from ``.env`` in WARD_OPS_ROOT."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dotenv import dotenv_values


class SettingsInvalid(Exception):
    """The settings do not allow a start. The message never holds the URL: it may carry a password."""


@dataclass(frozen=True)
class Settings:
    """The settings that a service of the stand-in starts with."""

    database_url: str = field(repr=False)
    host: str
    port: int

    @property
    def database(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return "sqlite" if self.database_url.startswith("sqlite") else "postgresql"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read environment and ``.env``; the environment wins.

    SQLite is a fallback that must be allowed: ``ALLOW_SQLITE_FALLBACK=true``.

    Raises:
        SettingsInvalid: No URL, another kind of database, SQLite without permission, or no usable port.
    """
    own = os.environ if environment is None else environment
    file = Path(own.get("WARD_OPS_ROOT") or ".") / ".env"
    # Without interpolation: a password may hold ${.
    values = {**dotenv_values(file, interpolate=False), **own}
    url = values.get("DATABASE_URL") or ""
    if not url:
        raise SettingsInvalid(f"DATABASE_URL is set neither in the environment nor in {file}")
    scheme = url.partition("://")[0]
    if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        url = "postgresql+psycopg://" + url.partition("://")[2]
    elif scheme != "sqlite":
        raise SettingsInvalid("DATABASE_URL must begin with postgresql:// (or sqlite:/// where that is allowed)")
    elif (values.get("ALLOW_SQLITE_FALLBACK") or "").strip().lower() != "true":
        raise SettingsInvalid("DATABASE_URL names SQLite; set it to PostgreSQL, or set ALLOW_SQLITE_FALLBACK=true")
    port = values.get("WARD_OPS_PORT") or "5001"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise SettingsInvalid("WARD_OPS_PORT must be a number from 1 to 65535")
    return Settings(url, values.get("WARD_OPS_HOST") or "127.0.0.1", int(port))


def leave(service: str, error: SettingsInvalid) -> NoReturn:
    """Write the error to stderr and end the process with status 78 (EX_CONFIG)."""
    print(f"ward_ops {service} does not start: {error}.", file=sys.stderr, flush=True)
    sys.exit(os.EX_CONFIG)
