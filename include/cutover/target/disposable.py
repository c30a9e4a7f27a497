"""Disposable databases on the target's server: made like the target for a rehearsal, and dropped after it.

Only a database whose name was recorded before it was made is ever dropped; see ``name``.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from include.cutover.errors import Refused, StepFailed
from include.cutover.target import session as target_session

_PREFIX = "rehearsal"


def name(plan: str, run: str) -> str:
    """Return the name of the database of one rehearsal: ``rehearsal_<plan>_<8 hex digits>``, at most 60 characters.

    Args:
        plan: Name of the plan.
        run: The folder of the rehearsal's evidence: unique, also across hosts.
    """
    return f"{_PREFIX}_{plan}_{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def conninfo(target: str, database: str) -> str:
    """Return the target's connection string with another database."""
    return make_conninfo(target, dbname=database)


def make(target: str, database: str) -> tuple[bool, list[str]]:
    """Create a database with the encoding, the locale and the extensions of the target; keep one that exists.

    An extension that only an administrator may make is left out; the plan's SQL fails if it needs it.

    Args:
        target: Connection string of the target, which stays unchanged.
        database: From ``name``.

    Returns:
        True when it was made now, and the extensions that it lacks, each with the reason.

    Raises:
        Refused: When the role may not make databases.
        StepFailed: When the server does not make it.
    """
    with _session(target) as connection:
        known = _exists(connection, database)
        if not known:
            _make(connection, database)
        extensions = connection.execute(
            "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY extname"
        ).fetchall()
    # Also in one that exists: the attempt that made it may have been killed here.
    lacks = []
    with _session(conninfo(target, database)) as connection:
        for (extension,) in extensions:
            try:
                connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {} CASCADE").format(sql.Identifier(extension)))
            except psycopg.errors.InsufficientPrivilege as error:
                lacks.append(f"{extension} ({target_session.primary_message(error)})")
    return not known, lacks


def _make(connection: psycopg.Connection, database: str) -> None:
    (may,) = connection.execute("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() or (
        False,
    )
    if not may:
        (role,) = connection.execute("SELECT current_user").fetchone() or ("",)
        raise Refused(
            "the pipeline's role may not create databases, and a rehearsal needs one of its own",
            where=f"PostgreSQL at {connection.info.host}:{connection.info.port}",
            expected=f"CREATEDB for the role {role}",
            do=f'Let an administrator run: ALTER ROLE "{role}" CREATEDB;',
        )
    try:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(sql.Identifier(database), _settings(connection))
        )
    except psycopg.Error as error:
        raise StepFailed(
            "the disposable database could not be created",
            where=f"database {database}",
            found=target_session.primary_message(error),
            do="Check the server's log; then trigger a new rehearsal.",
        ) from None


def _settings(connection: psycopg.Connection) -> sql.Composable:
    """Return encoding and locale of the current database, as CREATE DATABASE takes them."""
    with connection.cursor(row_factory=dict_row) as cursor:
        # Which columns there are depends on the version.
        cursor.execute(
            "SELECT pg_encoding_to_char(encoding) AS encoding_name, * FROM pg_database WHERE datname = current_database()"
        )
        found = cursor.fetchone() or {}
    wanted: dict[str, str] = {
        "ENCODING": found["encoding_name"],
        "LC_COLLATE": found["datcollate"],
        "LC_CTYPE": found["datctype"],
    }
    locale = found.get("datlocale") or found.get("daticulocale")
    if found.get("datlocprovider") == "i" and locale:
        wanted |= {"LOCALE_PROVIDER": "icu", "ICU_LOCALE": locale}
        if found.get("daticurules"):
            wanted["ICU_RULES"] = found["daticurules"]
    elif found.get("datlocprovider") == "b" and locale:
        wanted |= {"LOCALE_PROVIDER": "builtin", "BUILTIN_LOCALE": locale}
    return sql.SQL(" ").join(sql.SQL("{} = {}").format(sql.SQL(key), sql.Literal(value)) for key, value in wanted.items())


def drop(target: str, database: str) -> bool:
    """Drop a database, and end all connections to it. Safe to run again.

    Returns:
        True when it existed.

    Raises:
        Refused: When ``name`` does not make such a name.
        StepFailed: When the server does not drop it.
    """
    if not database.startswith(f"{_PREFIX}_"):
        raise Refused("this is not a disposable database", where=f"database {database}")
    with _session(target) as connection:
        known = _exists(connection, database)
        try:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        except psycopg.Error as error:
            raise StepFailed(
                "the disposable database could not be dropped",
                where=f"database {database}",
                found=target_session.primary_message(error),
                do=f'Drop it by hand: DROP DATABASE "{database}" WITH (FORCE);',
            ) from None
        return known


def there(target: str, plan: str) -> list[str]:
    """Return the disposable databases of a plan's rehearsals on the server, those of other hosts included."""
    with _session(target) as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_database WHERE datname ~ %s ORDER BY datname", [f"^{_PREFIX}_{plan}_[0-9a-f]{{8}}$"]
        ).fetchall()
    return [row[0] for row in rows]


def _exists(connection: psycopg.Connection, database: str) -> bool:
    return connection.execute("SELECT FROM pg_database WHERE datname = %s", [database]).fetchone() is not None


def _session(target: str) -> AbstractContextManager[target_session.Connection]:
    """Open a session outside of transactions, as databases are made and dropped there."""
    return target_session.session(target, "pg_catalog", settings={"statement_timeout": "120s"})
