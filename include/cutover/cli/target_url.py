"""Reads the URL of a target from the command line and tries it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from include.cutover.cli.options import URL_FORM
from include.cutover.errors import Refused, Unreachable
from include.cutover.target import session as target_session


def postgres_connection(url: str, where: str = "--target") -> dict[str, Any]:
    """Return an Airflow connection from a URL; it holds the password.

    Args:
        url: The URL.
        where: The option that the URL came from.

    Raises:
        Refused: When the URL does not have that form. The message does not repeat it: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        raise Refused("the target's URL cannot be read", where=where, expected=URL_FORM) from None
    if parts.scheme not in ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"):
        found = f"a scheme {parts.scheme!r}" if parts.scheme.isalnum() else "no scheme"
        raise Refused("the target is not a PostgreSQL URL", where=where, expected=URL_FORM, found=found)
    database = unquote(parts.path.removeprefix("/"))
    missing = [
        name for name, value in (("host", parts.hostname), ("user", parts.username), ("database", database)) if not value
    ]
    if missing or "/" in database:
        found = f"no {' and no '.join(missing)}" if missing else "a path with more than a database"
        raise Refused("the target's URL is not complete", where=where, expected=URL_FORM, found=found)
    return {
        "conn_type": "postgres",
        "host": parts.hostname,
        "port": port,
        "login": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "schema": database,
        "extra": dict(parse_qsl(parts.query)),
    }


def require_reachable(login: Mapping[str, Any]) -> None:
    """Log in to the target once.

    Raises:
        Unreachable: When that does not work.
    """
    import psycopg

    try:
        psycopg.connect(
            host=login["host"], port=login["port"], user=login["login"], password=login["password"],
            dbname=login["schema"], **{"connect_timeout": 10, **login["extra"]},
        ).close()  # fmt: skip
    except psycopg.Error as error:
        found = target_session.connection_problem(error, login["password"])
        where = f"{login['host']}:{login['port']}, database {login['schema']}, user {login['login']}"
        do = "Check that the server runs, and every part of --target."
        raise Unreachable("the target does not let this user in", where=where, found=found, do=do) from None
