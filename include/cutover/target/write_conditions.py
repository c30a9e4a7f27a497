"""Conditions outside the schema that change what the application's writes do.

Settings of its role and of the database, tables that hide those of the plan from it, replication, and event triggers.
They are read from the catalog: nothing is changed, and the application's password is not needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import psycopg

from include.cutover.checks import Check
from include.cutover.target.session import session
from include.cutover.target.wording import listed, quoted

_NO_ROLE = "the plan moves no application; only the settings of the database"
_DANGEROUS: Mapping[str, tuple[str, str]] = {
    "session_replication_role": ("origin", "triggers and foreign keys do nothing"),
    "default_transaction_read_only": ("off", "every write is refused"),
    "transaction_read_only": ("off", "every write is refused"),
    "row_security": ("on", "a query that a policy would filter is refused"),
    "role": ("none", "statements run as another role"),
    "standard_conforming_strings": ("on", "a backslash in a text is no longer itself"),
    "transform_null_equals": ("off", "a comparison with NULL finds other rows"),
    "array_nulls": ("on", "NULL in an array becomes a text"),
}
"""Setting → the value that changes no write, and the effect of another."""

_OFF_ON = {"false": "off", "no": "off", "0": "off", "true": "on", "yes": "on", "1": "on"}
_DEFAULT_PATH = '"$user", public'


def checks(conninfo: str, schema: str, tables: Collection[str], role: str | None) -> list[Check]:
    """Check everything outside the schema that changes what a write to its tables does. Safe to run again; reads only.

    Args:
        conninfo: The target, with the pipeline's role.
        schema: The plan's target schema.
        tables: Those of the plan.
        role: The application's role; None where the plan moves no application.

    Raises:
        Unreachable: When the target does not answer.
    """
    with session(conninfo, schema) as connection:
        return [*lasting_checks(connection, schema, tables, role), _replication_check(connection, schema, tables)]


def lasting_checks(connection: psycopg.Connection, schema: str, tables: Collection[str], role: str | None) -> list[Check]:
    """Return those of the checks that can be made before the tables are there; see ``checks``.

    Args:
        connection: A session with the target.
        schema: The plan's target schema; need not exist.
        tables: Those of the plan.
        role: The application's role; None where the plan moves no application.
    """
    return [
        _settings_check(connection, role),
        _path_check(connection, schema, tables, role),
        _event_triggers_check(connection),
    ]


def _settings_check(connection: psycopg.Connection, role: str | None) -> Check:
    """Check the settings that the application's sessions get from its role and from the database."""
    found, do, others = [], [], []
    for name, (value, place) in sorted(_settings(connection, role).items()):
        harmless, effect = _DANGEROUS.get(name, ("", ""))
        if effect and _OFF_ON.get(value.lower(), value.lower()) != harmless:
            found.append(f"{name} = {value} of {place}: {effect}")
            do.append(f"ALTER {place} RESET {name};")
        else:
            others.append(f"{name} = {value}")
    return _check(
        "writes_settings",
        "No setting of the application's role or of the database changes what a write does",
        found,
        " ".join(do),
        others=(f"other settings: {listed(others)}" if others else "none") + ("" if role else f" ({_NO_ROLE})"),
        where=f"role {role}" if role else "database",
    )


def _event_triggers_check(connection: psycopg.Connection) -> Check:
    """Check that no event trigger acts on the log-in of the application; those for DDL are reported."""
    rows = connection.execute("SELECT evtname, evtevent FROM pg_event_trigger WHERE evtenabled <> 'D' ORDER BY evtname")
    events: dict[str, str] = dict(rows.fetchall())
    found = [f"{name} acts on every log-in" for name, event in events.items() if event == "login"]
    others = [f"{name} on {event}" for name, event in events.items() if event != "login"]
    return _check(
        "writes_event_triggers",
        "No event trigger acts on the application's log-in",
        found,
        "As a superuser, ALTER EVENT TRIGGER … DISABLE; such a trigger can change settings before every write.",
        others=f"for DDL: {listed(others)}" if others else "none",
        where="database",
    )


def _settings(connection: psycopg.Connection, role: str | None) -> dict[str, tuple[str, str]]:
    """Return the settings by name: the value that applies, and the place that sets it, as ALTER has it."""
    rows = connection.execute(
        """
        SELECT setting.setconfig, setting.setrole <> 0, setting.setdatabase <> 0, current_database()
        FROM pg_db_role_setting AS setting
        LEFT JOIN pg_roles AS owner ON owner.oid = setting.setrole
        WHERE setting.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
          AND (setting.setrole = 0 OR owner.rolname = %s)
        ORDER BY setting.setrole <> 0, setting.setdatabase <> 0
        """,  # the later ones take precedence
        [role],
    )
    found = {}
    for settings, of_role, of_database, database in rows.fetchall():
        place = f"DATABASE {quoted(database)}"
        if of_role and role is not None:
            place = f"ROLE {quoted(role)}" + (f" IN {place}" if of_database else "")
        for setting in settings or ():
            name, _, value = setting.partition("=")
            found[name.lower()] = (value, place)
    return found


def _path_check(connection: psycopg.Connection, schema: str, tables: Collection[str], role: str | None) -> Check:
    """Check that an unqualified name of a planned table cannot mean another relation."""
    path, place = _settings(connection, role).get("search_path", (None, ""))
    if path is None:
        path, place = _usual_path(connection), "the server"
    before = _schemas_before(path, schema, role)
    rows = connection.execute(
        """
        SELECT namespace.nspname || '.' || class.relname
        FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = ANY (%s) AND class.relname = ANY (%s) AND class.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        ORDER BY 1
        """,
        [["pg_catalog", *before], list(tables)],
    )
    hiding = [name for (name,) in rows.fetchall()]
    inside = schema in _names(path, role)
    return _check(
        "writes_search_path",
        "No other table hides one of the plan from the application",
        [f"{name} comes before the table of {schema}" for name in hiding],
        f"Drop or rename these, or let the search path of the application's role begin with {quoted(schema)}.",
        others=f"search_path = {path} of {place}"
        + ("" if inside else f"; {schema} is not in it: the application must name it or set its own"),
        where=f"role {role}" if role else "database",
    )


def _usual_path(connection: psycopg.Connection) -> str:
    """Return the server's search path, where the session's own role does not have another."""
    row = connection.execute(
        "SELECT reset_val FROM pg_settings WHERE name = 'search_path' AND NOT EXISTS ("
        " SELECT FROM pg_db_role_setting WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = session_user)"
        " AND array_to_string(setconfig, ' ') LIKE '%search_path=%')"
    ).fetchone()
    return str(row[0]) if row else _DEFAULT_PATH


def _names(path: str, role: str | None) -> list[str]:
    """Return the schemas of a search path; a quoted one may hold commas."""
    names, text, inside = [], "", False
    for character in f"{path},":
        if character == '"':
            inside = not inside
            text += character
        elif character == "," and not inside:
            name = text.strip()
            names.append(name[1:-1].replace('""', '"') if name.startswith('"') else name.lower())
            text = ""
        else:
            text += character
    return [role if name == "$user" and role else name for name in names if name]


def _schemas_before(path: str, schema: str, role: str | None) -> list[str]:
    """Return the schemas in which an unqualified name is looked up before ``schema``."""
    names = _names(path, role)
    return names[: names.index(schema)] if schema in names else names


def _replication_check(connection: psycopg.Connection, schema: str, tables: Collection[str]) -> Check:
    """Check that no subscription writes into the tables, and that no publication keeps their rows from being changed."""
    values: dict[str, Any] = {"schema": schema, "tables": list(tables)}
    named = """
        named AS (
            SELECT below.relid AS oid, class.relname
            FROM pg_class AS class
            CROSS JOIN LATERAL (SELECT class.oid UNION SELECT relid FROM pg_partition_tree(class.oid)) AS below (relid)
            WHERE class.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND class.relname = ANY (%(tables)s)
              AND class.relkind IN ('r', 'p')
        )
    """
    subscribed = connection.execute(
        f"WITH {named} SELECT DISTINCT 'a subscription writes into ' || relname"  # noqa: S608  # a constant
        " FROM named JOIN pg_subscription_rel ON srrelid = named.oid ORDER BY 1".encode(),
        values,
    ).fetchall()
    refused = connection.execute(
        f"""
        WITH {named}
        SELECT DISTINCT 'the publication ' || publication.pubname || ' has ' || named.relname
                        || ', whose changed and deleted rows no replica identity names'
        FROM named
        JOIN pg_class AS class ON class.oid = named.oid AND class.relkind = 'r'
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        JOIN pg_publication_tables AS published
            ON published.schemaname = namespace.nspname AND published.tablename IN (class.relname, named.relname)
        JOIN pg_publication AS publication USING (pubname)
        WHERE (publication.pubupdate OR publication.pubdelete)
          AND CASE class.relreplident
              WHEN 'n' THEN true
              WHEN 'd' THEN NOT EXISTS (SELECT FROM pg_index WHERE indrelid = class.oid AND indisprimary)
              WHEN 'i' THEN NOT EXISTS (SELECT FROM pg_index WHERE indrelid = class.oid AND indisreplident)
              ELSE false END
        ORDER BY 1
        """.encode(),  # noqa: S608  # a constant
        values,
    ).fetchall()
    return _check(
        "writes_replication",
        "No subscription writes into the tables, and no publication keeps rows from being changed",
        [text for (text,) in [*subscribed, *refused]],
        "Drop the subscription, or take the table out of the publication or give it a REPLICA IDENTITY.",
        others="none",
        where=f"schema {schema}",
    )


def _check(name: str, title: str, wrong: list[str], do: str, *, others: str, where: str) -> Check:
    found = "; ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" if len(wrong) > 10 else "")
    return Check(name, title, "failed" if wrong else "passed", "none", found or others, do if wrong else "", where)
