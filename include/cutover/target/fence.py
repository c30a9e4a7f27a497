"""The fence around the target: the application's role is shut out until go-live, and again at a rollback.

Shutting out goes in three layers, each committed before the next begins, so that a process that is killed in between leaves
the earlier ones standing:

1. The role loses all rights to the schema and to what the pipeline made there. PostgreSQL looks at the rights to a table
   each time a statement is executed, also a prepared one in a session that was open before: nothing that begins after this
   can write.
2. With ``target_fence: login`` the role may not log in any more.
3. Its sessions are ended, which rolls back what they had begun, and waited for.

What the three cannot reach is looked for and told: a prepared transaction of the role outlives its session and can still be
committed, and with ``target_fence: privileges`` rights may come from elsewhere, such as PUBLIC. ``target.lock_tables`` then
waits for every writer, whoever it is, before anything is renamed.

``faults`` says before the window what would make the fence worthless, and the statement that corrects it.
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
from include.cutover.target import session as target_session
from include.cutover.target.ledger import Guard
from include.cutover.target.session import session

log = logging.getLogger(__name__)

Way = Literal["login", "privileges"]
"""``target_fence`` of the plan."""

SESSION_SECONDS = 10.0
_PAUSE = 0.05
_SHOWN = 10


@dataclass(frozen=True)
class Fault:
    """Something that makes the fence worthless.

    Attributes:
        found: What it is.
        do: How to correct it; begins with SQL that can be run as it stands where SQL corrects it.
    """

    found: str
    do: str


# --- before the window --------------------------------------------------------------------------------------------------


def faults(connection: psycopg.Connection, schema: str, role: str, way: Way) -> list[Fault]:
    """Why the role could not be shut out; empty where it can be. Tries what it needs and takes it back: changes nothing."""
    found = _unfit(connection, schema, role, way)
    if not found and way == "login":
        found = _may_alter(connection, role)
    return found


def _unfit(connection: psycopg.Connection, schema: str, role: str, way: Way) -> list[Fault]:
    """What the role is, or is a member of, that no fence holds against."""
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
    name = _quoted(role)
    if role == me:
        own = "Give the application a role of its own, and name it in the plan's connection of the application."
        return [Fault("it is the pipeline's own role", own)]
    if superuser:
        return [Fault("it is a superuser", f"ALTER ROLE {name} NOSUPERUSER;")]
    found = []
    if member:
        found.append(Fault(f"it is a member of the pipeline's role {me}", f"REVOKE {_quoted(me)} FROM {name};"))
    elif owns:
        do = f"ALTER SCHEMA {_quoted(schema)} OWNER TO {_quoted(me)};"
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
    """What an administrator runs so that the pipeline's role may shut the application's role out.

    From PostgreSQL 16 on CREATEROLE alone is not enough: it reaches only roles that one has ADMIN OPTION on.
    """
    return (
        f"ALTER ROLE {_quoted(pipeline)} CREATEROLE; GRANT {_quoted(role)} TO {_quoted(pipeline)} WITH ADMIN OPTION;"
        " Or set target_fence: privileges in the plan."
    )


def open_doors(connection: psycopg.Connection, role: str, way: Way) -> list[Fault]:
    """What is left of the role, or acts as it, that the fence does not reach; looked at before the window."""
    found = []
    members = _actors(connection, role)
    if members:
        do = f"REVOKE {_quoted(role)} FROM {', '.join(map(_quoted, members))};"
        found.append(Fault(f"others act as it: {_listed(members)}", do))
    if way == "login":
        elsewhere = _names(
            connection,
            "SELECT DISTINCT datname FROM pg_stat_activity WHERE usename = %s AND datname <> current_database()",
            role,
        )
        if elsewhere:
            do = "Give the application a role of its own, or set target_fence: privileges in the plan."
            found.append(Fault(f"it is used in other databases, and would not be let in there: {_listed(elsewhere)}", do))
    return found + _prepared(connection, role)


def _actors(connection: psycopg.Connection, role: str) -> list[str]:
    """Roles with the rights of the role: direct members that inherit from it or may take it on. Not the pipeline's own."""
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
    return [Fault(f"prepared transactions of it: {_listed(found)}", do)] if found else []


# --- shutting out, letting in -------------------------------------------------------------------------------------------


def shut_out(
    conninfo: str, schema: str, role: str, way: Way, guard: Guard | None = None, *, seconds: float = SESSION_SECONDS
) -> int:
    """Shut the role out of the target, end its sessions, wait until they are gone, and look that nothing is left open.

    Safe to run again, and after it was killed anywhere. A role that does not exist is shut out. When this raises, the layers
    before the one that failed stand.

    Args:
        seconds: How long a session may take to end.

    Returns:
        How many sessions were ended.

    Raises:
        Refused: When the role cannot be shut out, or the pipeline's role lacks the right to; says the statement.
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
    """Let the role log in, read and write the tables of the schema, and no more. All at once; safe to run again.

    Raises:
        Refused: When the pipeline's role lacks the right to.
        StepFailed: When the role lacks something afterwards.
        LeaseLost: From ``guard``.
    """
    with session(conninfo, schema) as connection:
        with _changing(connection, guard, role):
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
            if way == "login":
                connection.execute(sql.SQL("ALTER ROLE {role} LOGIN").format(**names))
        lacks = _lacks(connection, schema, role)
    if lacks:
        raise StepFailed(
            "the application's role lacks rights in the target",
            where=f"role {role}, schema {schema}",
            expected="CONNECT on the database, LOGIN, and to read and write every table",
            found=f"without {'; '.join(lacks)}",
            do="Grant what it lacks, then run the step again.",
        )


@contextmanager
def _changing(connection: psycopg.Connection, guard: Guard | None, role: str) -> Iterator[None]:
    """A transaction under the guard, in which a missing right is told with the statement that gives it."""
    try:
        with connection.transaction():
            if guard is not None:
                guard(connection)
            yield
    except errors.InsufficientPrivilege as error:
        me = _row(connection, "SELECT current_user") or ("",)
        raise Refused(
            "the pipeline's role may not shut the application's role out, or let it in",
            where=f"role {role}",
            found=target_session.primary_message(error),
            do=required_grants(str(me[0]), role),
        ) from None


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
    # Databases older than version 15 let everybody make tables in the schema public.
    connection.execute(sql.SQL("REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC CASCADE").format(**names))
    tables, sequences = catalog.own_relations(connection, schema)
    for statement, objects in (
        ("REVOKE ALL ON {names} FROM {role} CASCADE", tables),
        ("REVOKE ALL ON SEQUENCE {names} FROM {role} CASCADE", sequences),
    ):
        if objects:
            connection.execute(sql.SQL(statement).format(names=_identifiers(schema, objects), **names))


def _end_sessions(connection: psycopg.Connection, role: str, way: Way, guard: Guard | None, seconds: float) -> int:
    """End the role's sessions, and return how many there were when all of them are gone.

    A role that may still log in comes again and again. There the sessions of the first look are waited for: those that began
    later began without rights.
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
                do=f"GRANT {_quoted(role)} TO {_quoted(str(me[0]))};",
            ) from None
        for pid, name, _ in rows:
            if pid not in ended:
                log.warning("ended session %s (%s) of the application's role %s", pid, name, role)
        ended |= {pid for pid, _, _ in rows}
        if wanted is None and way == "privileges":
            wanted = set(ended)
        # Twice, as one that was let in just before the door closed may appear a moment later.
        empty = empty + 1 if not rows else 0
        if empty == 2:
            return len(ended)
        if time.monotonic() > deadline:
            raise Unreachable(
                "a session of the application's role does not end",
                where=f"role {role}",
                expected=f"its end within {seconds:g} s",
                found=", ".join(f"pid {pid} ({name})" for pid, name, _ in rows) or "new ones again and again",
                do="Find out on the server why it does not end; then try again.",
            )
        time.sleep(_PAUSE)


def _ways_in(connection: psycopg.Connection, schema: str, role: str, way: Way) -> list[Fault]:
    """How the role could still write, read from the catalog after everything was committed."""
    found = _prepared(connection, role)
    if way == "login":
        if _may_log_in(connection, role):
            found.append(Fault("it may log in", f"ALTER ROLE {_quoted(role)} NOLOGIN;"))
        return found
    # Whatever the rights come from: itself, PUBLIC, a role that it is a member of.
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
        found.append(Fault(f"it may write to {_listed(writable)}", do))
    row = _row(
        connection, "SELECT has_schema_privilege(%s, oid, 'CREATE') FROM pg_namespace WHERE nspname = %s", role, schema
    )
    if row is not None and row[0]:
        do = f"REVOKE CREATE ON SCHEMA {_quoted(schema)} from the roles that it is a member of."
        found.append(Fault("it may make tables in the schema", do))
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
        return ["the role itself: there is none"]
    wanted = ("LOGIN", "CONNECT on the database", f"USAGE on the schema {schema}")
    lacks = [right for right, has in zip(wanted, row, strict=True) if not has]
    closed = [
        table
        for table in catalog.tables(connection, schema)
        if not (_row(connection, _READS_AND_WRITES, role, sql.Identifier(schema, table).as_string(connection)) or [False])[0]
    ]
    return lacks + ([f"rights to {_listed(closed)}"] if closed else [])


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


def _quoted(name: str) -> str:
    """An identifier as it stands in SQL, for a statement that a person will run."""
    return '"' + name.replace('"', '""') + '"'


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
