"""Airflow's connections from the environment, ``AIRFLOW_CONN_…``, read without Airflow: as JSON or as a URL."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
from psycopg.conninfo import make_conninfo

from include.cutover.connections import ssh
from include.cutover.connections.ssh import Ssh
from include.cutover.errors import CannotCheck


def variable(connection: str) -> str:
    """Return the environment variable of a connection."""
    return f"AIRFLOW_CONN_{connection.upper()}"


def conninfo(connection: str) -> str | None:
    """Return a connection as libpq's connection string, which holds the password; None where it is not defined.

    Raises:
        CannotCheck: When it cannot be read; without its text, which may hold the password.
    """
    text = _text(connection)
    if not text:
        return None
    try:
        if not text.startswith("{"):
            return make_conninfo(text)
        found = _from_json(text)
        fields = {"host": "host", "port": "port", "login": "user", "password": "password", "schema": "dbname"}
        return make_conninfo("", **{name: found[key] for key, name in fields.items() if found.get(key)}, **found["extra"])
    except (ValueError, TypeError, psycopg.ProgrammingError):
        raise _unreadable(connection, "postgresql://…") from None


def fields(connection: str) -> dict[str, Any] | None:
    """Return ``host``, ``user``, ``password``, ``port`` and ``extra`` of a connection; None where it is not defined.

    Raises:
        CannotCheck: As ``conninfo``.
    """
    text = _text(connection)
    if not text:
        return None
    try:
        if text.startswith("{"):
            found = _from_json(text)
            return {"user": found.get("login"), **{name: found.get(name) for name in ("host", "port", "password", "extra")}}
        parts = urlsplit(text)
        extra = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "__extra__" in extra:  # Airflow's form for values beyond text
            extra = json.loads(extra["__extra__"])
        given = {"host": parts.hostname, "user": parts.username, "password": parts.password}
        decoded = {name: None if value is None else unquote(value) for name, value in given.items()}
        return {**decoded, "port": parts.port, "extra": extra}
    except (ValueError, TypeError):
        raise _unreadable(connection, "ssh://…") from None


def host(connection: str, *, unverified: Collection[str] = ()) -> Ssh:
    """Return the host of an SSH connection.

    Args:
        connection: Its id.
        unverified: Connections whose host key need not be checked.

    Raises:
        CannotCheck: When it is not defined, or cannot be used.
    """
    found = fields(connection)
    if found is None:
        raise CannotCheck(
            "the SSH connection of a host of the plan is not defined",
            where=f"connection {connection}",
            expected=f"{variable(connection)} in the environment",
            do="Define it.",
        )
    return Ssh(ssh.login(connection, may_be_unverified=connection in unverified, **found))


def _text(connection: str) -> str:
    return os.environ.get(variable(connection), "").strip()


def _from_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    extra = found.get("extra") or {}
    return {**found, "extra": json.loads(extra) if isinstance(extra, str) else extra}


def _unreadable(connection: str, url: str) -> CannotCheck:
    return CannotCheck(
        "the connection cannot be read", where=variable(connection), expected=f"JSON, or {url}", do="Correct it."
    )
