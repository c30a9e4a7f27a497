"""The fence around the target: the application's role is shut out until go-live, and again at a rollback.

It has three layers, each committed before the next begins: a process that is killed in between leaves the earlier ones in
place.

1. The role loses all rights to the schema and to the objects that the pipeline made there. PostgreSQL checks the rights to a
   table each time a statement is executed, also a prepared one in an older session: no statement that begins after this can
   write.
2. With ``target_fence: login`` the role may no longer log in.
3. Its sessions are ended, which rolls back their transactions, and waited for.

A check reports what the three do not reach: a prepared transaction of the role outlives its session and can still be
committed, and with ``target_fence: privileges`` rights may come from elsewhere, such as PUBLIC. ``schema.lock_tables`` then
waits for every writer of any role before anything is renamed.

``faults`` reports before the window what would make the fence worthless, and the statement that corrects it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import errors, sql

from include.cutover.errors import Refused, StepFailed, Unreachable
from include.cutover.target import catalog
from include.cutover.target.ledger import Guard
from include.cutover.target.session import primary_message, session
from include.cutover.target.wording import listed, quoted

log = logging.getLogger(__name__)

Way = Literal["login", "privileges"]
"""``target_fence`` of the plan."""

SESSION_SECONDS = 10.0
_PAUSE = 0.05


@dataclass(frozen=True)
class Fault:
    """Something that makes the fence worthless.

    Attributes:
        found: The fault.
        do: How to correct it; begins with SQL that can be run as it stands where SQL corrects it.
    """

    found: str
    do: str


# --- before the window --------------------------------------------------------------------------------------------------


def faults(connection: psycopg.Connection, schema: str, role: str, way: Way) -> list[Fault]:
    """Return why the role cannot be shut out; empty where it can be.

    It tries the change that it needs and rolls it back: nothing is changed.

    Args:
        connection: A session of the pipeline's role.
        schema: The plan's target schema.
        role: The application's role.
        way: ``target_fence`` of the plan.
    """
    found = _unfit(connection, schema, role, way)
    if not found and way == "login":
        found = _may_alter(connection, role)
    return found


def _unfit(connection: psycopg.Connection, schema: str, role: str, way: Way) -> list[Fault]:
    """Return attributes and memberships of the role that no fence holds against."""
    row = _row(
        connection,
        """
        SELECT current_user, application.rolsuper,
               pg_has_role(application.oid, current_user, 'MEMBER'),
               pg_get_userbyid(namespace.nspowner), pg_has_role(application.oid, namespace.nspowner, 'MEMBER'),
               pg_has_role(application.oid, 'pg_write_all_data', 'MEMBER')
        FROM pg_roles AS application
        LEFT JOIN pg_namespace AS namespace ON namespace.nspname = %s
        WHERE application.rolname = %s
        """,
        schema,
        role,
    )
    if row is None:
        return []
    me, superuser, member, owner, owns, writes_all = row
    name = quoted(role)
    if role == me:
        own = "Give the application a role of its own, and name it in the plan's connection of the application."
        return [Fault("it is the pipeline's own role", own)]
    if superuser:
        return [Fault("it is a superuser", f"ALTER ROLE {name} NOSUPERUSER;")]
    found = []
    if member:
        found.append(Fault(f"it is a member of the pipeline's role {me}", f"REVOKE {quoted(me)} FROM {name};"))
    elif owns:
        do = f"ALTER SCHEMA {quoted(schema)} OWNER TO {quoted(me)};"
        found.append(Fault(f"it acts as {owner}, the owner of the schema", do))
    if writes_all and way == "privileges":
        found.append(Fault("it is a member of pg_write_all_data", f"REVOKE pg_write_all_data FROM {name};"))
    return found


def _may_alter(connection: psycopg.Connection, role: str) -> list[Fault]:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role)))
    except errors.InsufficientPrivilege:
        me = _row(connection, "SELECT current_user") or ("",)
        return [Fault(f"{me[0]} may not alter it", required_grants(str(me[0]), role))]
    return []


def required_grants(pipeline: str, role: str) -> str:
    """Return what an administrator runs so that the pipeline's role may shut the application's role out.

    Since PostgreSQL 16, CREATEROLE alone is not enough: it covers only roles with ADMIN OPTION.
    """
    return (
        f"ALTER ROLE {quoted(pipeline)} CREATEROLE; GRANT {quoted(role)} TO {quoted(pipeline)} WITH ADMIN OPTION;"
        " Or set target_fence: privileges in the plan."
    )


def open_doors(connection: psycopg.Connection, role: str, way: Way) -> list[Fault]:
    """Return other roles, databases and prepared transactions that the fence does not reach; checked before the window."""
    found = []
    members = _actors(connection, role)
    if members:
        do = f"REVOKE {quoted(role)} FROM {', '.join(map(quoted, members))};"
        found.append(Fault(f"other roles act as it: {listed(members)}", do))
    if way == "login":
        elsewhere = _names(
            connection,
            "SELECT DISTINCT datname FROM pg_stat_activity WHERE usename = %s AND datname <> current_database()",
            role,
        )
        if elsewhere:
            do = "Give the application a role of its own, or set target_fence: privileges in the plan."
            found.append(Fault(f"it is used in other databases, and would not be let in there: {listed(elsewhere)}", do))
    return found + _prepared(connection, role)


def _actors(connection: psycopg.Connection, role: str) -> list[str]:
    """Return roles with the rights of the role: direct members that inherit from it or may set it; not the pipeline's."""
    # Before version 16 every member may; since then a role that made another has only ADMIN OPTION on it at first.
    acts = "SET" if connection.info.server_version >= 160000 else "MEMBER"
    return _names(
        connection,
        """
        SELECT DISTINCT member.rolname
        FROM pg_auth_members AS membership
        JOIN pg_roles AS member ON member.oid = membership.member
        JOIN pg_roles AS application ON application.oid = membership.roleid AND application.rolname = %s
        WHERE member.rolname <> current_user AND NOT member.rolsuper
          AND (pg_has_role(member.oid, application.oid, 'USAGE') OR pg_has_role(member.oid, application.oid, %s))
        """,
        role,
        acts,
    )


def _prepared(connection: psycopg.Connection, role: str) -> list[Fault]:
    found = _names(connection, "SELECT gid FROM pg_prepared_xacts WHERE owner = %s AND database = current_database()", role)
    do = f"As {role} or a superuser, COMMIT PREPARED or ROLLBACK PREPARED each of them; it could be committed at any time."
    return [Fault(f"prepared transactions of it: {listed(found)}", do)] if found else []


# --- shutting out, letting in -------------------------------------------------------------------------------------------


def shut_out(
    conninfo: str, schema: str, role: str, way: Way, guard: Guard | None = None, *, seconds: float = SESSION_SECONDS
) -> int:
    """Shut the role out of the target, end its sessions, wait until they are gone, and verify that it cannot write.

    Safe to run again, also after a kill at any point. A role that does not exist counts as shut out. When this raises, the
    layers before the one that failed stay in place.

    Args:
        conninfo: The target, with the pipeline's role.
        schema: The plan's target schema.
        role: The application's role.
        way: ``target_fence`` of the plan.
        guard: Called first in each transaction.
        seconds: How long a session may take to end.

    Returns:
        Number of sessions that were ended.

    Raises:
        Refused: When the role cannot be shut out, or the pipeline's role lacks a right; names the statement.
        Unreachable: When a session does not end.
        StepFailed: When the role could still write afterwards; says how.
        LeaseLost: From ``guard``.
    """
    with session(conninfo, schema) as connection:
        if _row(connection, "SELECT FROM pg_roles WHERE rolname = %s", role) is None:
            return 0
        _refuse(schema, role, _unfit(connection, schema, role, way))
        with _changing(connection, guard, role):
            _take_rights(connection, schema, role)
        if way == "login":
            with _changing(connection, guard, role):
                if _may_log_in(connection, role):
                    connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role)))
        ended = _end_sessions(connection, role, way, guard, seconds)
        left = _ways_in(connection, schema, role, way)
        if left:
            raise StepFailed(
                "the application's role could still write to the target",
                where=f"role {role}, schema {schema}",
                found="; ".join(fault.found for fault in left),
                do=" ".join(fault.do for fault in left),
            )
        return ended


def let_in(conninfo: str, schema: str, role: str, way: Way, guard: Guard | None = None) -> None:
    """Allow the role to log in, read and write the tables of the schema, and no more. Atomic; safe to run again.

    Args:
        conninfo: The target, with the pipeline's role.
        schema: The plan's target schema.
        role: The application's role.
        way: ``target_fence`` of the plan.
        guard: Called first in the transaction.

    Raises:
        Refused: When the pipeline's role lacks a right.
        StepFailed: When the role lacks a right afterwards.
        LeaseLost: From ``guard``.
    """
    with session(conninfo, schema) as connection:
        with _changing(connection, guard, role):
            grant_entry(connection, schema, role, way)
        require_entry(connection, schema, role)


def grant_entry(connection: psycopg.Connection, schema: str, role: str, way: Way) -> None:
    """Grant what ``let_in`` grants, within the caller's transaction.

    Args:
        connection: A session of the pipeline's role, in a transaction that called the guard.
        schema: The plan's target schema.
        role: The application's role.
        way: ``target_fence`` of the plan.

    Raises:
        Refused: When the pipeline's role lacks a right; the transaction cannot go on.
    """
    try:
        grant(connection, schema, role)
        if way == "login":
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(role)))
    except errors.InsufficientPrivilege as error:
        raise _may_not(role, connection.info.user, error) from None


def require_entry(connection: psycopg.Connection, schema: str, role: str) -> None:
    """Require that the role may log in, read and write, after the transaction that lets it in.

    Raises:
        StepFailed: When it lacks a right.
    """
    lacks = _lacks(connection, schema, role)
    if lacks:
        raise StepFailed(
            "the application's role lacks rights in the target",
            where=f"role {role}, schema {schema}",
            expected="CONNECT on the database, LOGIN, and to read and write every table",
            found=f"without {'; '.join(lacks)}",
            do="Grant what it lacks, then run the step again.",
        )


def grant(connection: psycopg.Connection, schema: str, role: str) -> None:
    """Grant the role the rights that it has from go-live on, within the caller's transaction.

    Args:
        connection: A session of the pipeline's role, in a transaction that called the guard.
        schema: The plan's target schema.
        role: The application's role.
    """
    tables, sequences = catalog.own_relations(connection, schema)
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
    record = [name for name in tables if name == catalog.RECORD_TABLE]
    statements = [
        ("GRANT USAGE ON SCHEMA {schema} TO {role}", [schema]),
        ("GRANT SELECT, INSERT, UPDATE, DELETE ON {names} TO {role}", [n for n in tables if n not in record]),
        ("GRANT SELECT ON {names} TO {role}", record),
        ("GRANT USAGE, SELECT ON SEQUENCE {names} TO {role}", sequences),
    ]
    for statement, objects in statements:
        if objects:
            connection.execute(sql.SQL(statement).format(names=_identifiers(schema, objects), **names))


@contextmanager
def _changing(connection: psycopg.Connection, guard: Guard | None, role: str) -> Iterator[None]:
    """Open a transaction under the guard; report a missing right with the statement that grants it."""
    try:
        with connection.transaction():
            if guard is not None:
                guard(connection)
            yield
    except errors.InsufficientPrivilege as error:
        me = _row(connection, "SELECT current_user") or ("",)
        raise _may_not(role, str(me[0]), error) from None


def _may_not(role: str, pipeline: str, error: psycopg.Error) -> Refused:
    return Refused(
        "the pipeline's role may not shut the application's role out, or let it in",
        where=f"role {role}",
        found=primary_message(error),
        do=required_grants(pipeline, role),
    )


def _refuse(schema: str, role: str, found: list[Fault]) -> None:
    if found:
        raise Refused(
            "the application's role cannot be shut out of the target",
            where=f"role {role}, schema {schema}",
            found="; ".join(fault.found for fault in found),
            do=" ".join(fault.do for fault in found),
        )


def _take_rights(connection: psycopg.Connection, schema: str, role: str) -> None:
    if _row(connection, "SELECT FROM pg_namespace WHERE nspname = %s", schema) is None:
        return
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
    connection.execute(sql.SQL("REVOKE ALL ON SCHEMA {schema} FROM {role} CASCADE").format(**names))
    # Databases older than version 15 let every role make tables in the schema public.
    connection.execute(sql.SQL("REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC CASCADE").format(**names))
    tables, sequences = catalog.own_relations(connection, schema)
    for statement, objects in (
        ("REVOKE ALL ON {names} FROM {role} CASCADE", tables),
        ("REVOKE ALL ON SEQUENCE {names} FROM {role} CASCADE", sequences),
    ):
        if objects:
            connection.execute(sql.SQL(statement).format(names=_identifiers(schema, objects), **names))


def _end_sessions(connection: psycopg.Connection, role: str, way: Way, guard: Guard | None, seconds: float) -> int:
    """End the role's sessions, wait until they are gone, and return their number.

    A role that may still log in opens new sessions. Then only the sessions of the first query are waited for: later ones
    began without rights.
    """
    deadline = time.monotonic() + seconds
    ended: set[int] = set()
    wanted: set[int] | None = None
    empty = 0
    while True:
        try:
            with connection.transaction():
                if guard is not None:
                    guard(connection)
                rows = connection.execute(
                    "SELECT pid, coalesce(nullif(application_name, ''), 'no name'), pg_terminate_backend(pid)"
                    " FROM pg_stat_activity WHERE usesysid = (SELECT oid FROM pg_roles WHERE rolname = %s)"
                    " AND datname = current_database() AND (%s::int[] IS NULL OR pid = ANY(%s))",
                    [role, None if wanted is None else list(wanted), list(wanted or ())],
                ).fetchall()
        except errors.InsufficientPrivilege:
            me = _row(connection, "SELECT current_user") or ("",)
            raise Refused(
                "the pipeline's role may not end the sessions of the application's role",
                where=f"role {role}",
                do=f"GRANT {quoted(role)} TO {quoted(str(me[0]))};",
            ) from None
        for pid, name, _ in rows:
            if pid not in ended:
                log.warning("ended session %s (%s) of the application's role %s", pid, name, role)
        ended |= {pid for pid, _, _ in rows}
        if wanted is None and way == "privileges":
            wanted = set(ended)
        # Twice: a session that logged in just before the change may appear a moment later.
        empty = empty + 1 if not rows else 0
        if empty == 2:
            return len(ended)
        if time.monotonic() > deadline:
            raise Unreachable(
                "a session of the application's role does not end",
                where=f"role {role}",
                expected=f"its end within {seconds:g} s",
                found=", ".join(f"pid {pid} ({name})" for pid, name, _ in rows) or "new ones again and again",
                do="Find out on the server why it does not end; then retry.",
            )
        time.sleep(_PAUSE)


def _ways_in(connection: psycopg.Connection, schema: str, role: str, way: Way) -> list[Fault]:
    """Return how the role could still write, by the catalog, after everything was committed."""
    found = _prepared(connection, role)
    if way == "login":
        if _may_log_in(connection, role):
            found.append(Fault("it may log in", f"ALTER ROLE {quoted(role)} NOLOGIN;"))
        return found
    # Rights of any origin: its own, PUBLIC's, of a role that it is a member of.
    writable = _names(
        connection,
        """
        SELECT class.relname
        FROM pg_class AS class
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace AND namespace.nspname = %(schema)s
        WHERE class.relkind IN ('r', 'p')
          AND (has_table_privilege(%(role)s, class.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
               OR has_any_column_privilege(%(role)s, class.oid, 'INSERT, UPDATE'))
        """,
        schema=schema,
        role=role,
    )
    if writable:
        do = "Take these rights from PUBLIC and from the roles that it is a member of."
        found.append(Fault(f"it may write to {listed(writable)}", do))
    row = _row(
        connection, "SELECT has_schema_privilege(%s, oid, 'CREATE') FROM pg_namespace WHERE nspname = %s", role, schema
    )
    if row is not None and row[0]:
        do = f"REVOKE CREATE ON SCHEMA {quoted(schema)} from the roles that it is a member of."
        found.append(Fault("it may create tables in the schema", do))
    return found


def _lacks(connection: psycopg.Connection, schema: str, role: str) -> list[str]:
    row = _row(
        connection,
        "SELECT rolcanlogin, has_database_privilege(oid, current_database(), 'CONNECT'),"
        " has_schema_privilege(oid, %s, 'USAGE') FROM pg_roles WHERE rolname = %s",
        schema,
        role,
    )
    if row is None:
        return ["the role itself, which does not exist"]
    wanted = ("LOGIN", "CONNECT on the database", f"USAGE on the schema {schema}")
    lacks = [right for right, has in zip(wanted, row, strict=True) if not has]
    closed = [
        table
        for table in catalog.tables(connection, schema)
        if not (_row(connection, _READS_AND_WRITES, role, sql.Identifier(schema, table).as_string(connection)) or [False])[0]
    ]
    return lacks + ([f"rights to {listed(closed)}"] if closed else [])


_READS_AND_WRITES: LiteralString = (
    "SELECT bool_and(has_table_privilege(%s, %s::regclass, wanted))"
    " FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted"
)


def _may_log_in(connection: psycopg.Connection, role: str) -> bool:
    row = _row(connection, "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", role)
    return row is not None and bool(row[0])


def _row(connection: psycopg.Connection, query: LiteralString, *values: Any) -> tuple[Any, ...] | None:
    return connection.execute(query, values or None).fetchone()


def _names(connection: psycopg.Connection, query: LiteralString, *values: Any, **named: Any) -> list[str]:
    return sorted(str(name) for (name,) in connection.execute(query, named or values))


def _identifiers(schema: str, names: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
