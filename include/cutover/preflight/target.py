"""Checks of the target before anything stops."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg.conninfo import conninfo_to_dict

from include.cutover.checks import Check
from include.cutover.connections import tls
from include.cutover.errors import CannotCheck
from include.cutover.masking import mask
from include.cutover.plan.model import Plan
from include.cutover.preflight import (
    target_commit,
    target_disk,
    target_prepared,
    target_rights,
    target_server,
    target_sessions,
)
from include.cutover.preflight.answers import Answer, ExaminedTarget
from include.cutover.target.session import connect, connection_problem, primary_message

_REACHABLE = "The target answers"
_OWN_SESSION = "A session with the target keeps its settings and locks"
_CHECKS: tuple[tuple[str, str, Callable[[ExaminedTarget], Answer]], ...] = (
    ("target_reachable", _REACHABLE, target_server.reachable),
    ("target_version", "The target is PostgreSQL 14 or newer", target_server.version),
    ("target_encoding", "The target stores text as UTF-8", target_server.encoding),
    ("target_writable", "The target accepts writes", target_server.writable),
    ("target_database_size", "Size of the target database", target_server.database_size),
    ("target_free_disk", "The target has room for the data", target_disk.free_disk),
    ("target_free_connections", "The target has free connections", target_server.free_connections),
    ("target_commit", "The target confirms a commit", target_commit.commits),
    ("target_may_create_schema", "The role may create schemas", target_rights.may_create_schema),
    ("target_may_create_tables", "The role may create tables in the schema", target_rights.may_create_tables),
    ("target_may_rename_schema", "The role may rename the schema at a rollback", target_rights.may_rename_schema),
    ("target_application_role", "The application's role may log in to the target", target_rights.application_role),
    ("target_fence", "The application can be shut out of the target", target_rights.may_shut_out),
    ("target_open_doors", "Nothing else lets the application write to the target", target_rights.open_doors),
    ("target_writes", "Nothing outside the schema changes the application's writes", target_rights.writes_unchanged),
    ("target_prepared", "No prepared transaction was left in the target", target_prepared.none_prepared),
    ("target_may_end_sessions", "The role may end the application's sessions", target_rights.may_end_sessions),
    ("target_schema_free", "The schema holds none of the application's data", target_server.schema_free),
    ("target_clock", "The target's clock agrees with this host's", target_server.clock),
)


def check_target(conninfo: str, *, plan: Plan, source_bytes: int, application_role: str | None) -> list[Check]:
    """Check that PostgreSQL is fit for the cutover, with the rights that cutover and rollback need and a free schema.

    Args:
        conninfo: The target, with the role that the pipeline uses.
        plan: Sets limits, schema, tables and the kind of fence.
        source_bytes: Size of the source file; the free disk is measured by it.
        application_role: Role that the application will log in with; None where the plan moves no application.

    Returns:
        Only ``target_reachable`` when the server cannot be reached; that and ``target_sessions`` behind a pooler that shares
        its sessions: whatever the other checks set would reach the sessions of others.

    Raises:
        CannotCheck: When ``conninfo`` is not a connection string.
    """
    try:
        where = _target_name(conninfo)
    except psycopg.ProgrammingError:  # its text quotes the string, which holds the password
        raise CannotCheck(
            "the connection string of the target cannot be read", do="Correct the connection in Airflow."
        ) from None
    try:
        connection = connect(conninfo, seconds=5)
    except psycopg.Error as error:
        reason = _reason(error, conninfo)
        insecure = tls.problem(reason)
        do = insecure[1] if insecure else "Check that the server runs and that the connection in Airflow is right."
        return [Check("target_reachable", _REACHABLE, "failed", found=reason, do=do, where=where)]
    target = ExaminedTarget(conninfo, connection, plan, source_bytes, application_role)
    with connection:
        own = _own_session(target, where)
        if own.outcome == "failed":
            return [Check("target_reachable", _REACHABLE, "passed", found="logged in to a pooler", where=where), own]
        checks = []
        for name, title, examine in _CHECKS:
            try:
                answer = examine(target)
            except psycopg.Error as error:
                do = "Check the target's log, then run this step again."
                answer = Answer("unknown", found=_reason(error, conninfo), do=do)
            checks.append(Check(name, title, answer.outcome, answer.expected, answer.found, answer.do, where))
    return [checks[0], own, *checks[1:]]


def _own_session(target: ExaminedTarget, where: str) -> Check:
    try:
        answer = target_sessions.own_server_session(target.conninfo, target.connection)
    except psycopg.Error as error:
        do = "Check the target's log, then run this step again."
        answer = Answer("unknown", found=_reason(error, target.conninfo), do=do)
    return Check("target_sessions", _OWN_SESSION, answer.outcome, answer.expected, answer.found, answer.do, where)


def _target_name(conninfo: str) -> str:
    info = conninfo_to_dict(conninfo)
    return f"PostgreSQL at {info.get('host', 'the local socket')}:{info.get('port', 5432)}, database {info.get('dbname')}"


def _reason(error: psycopg.Error, conninfo: str) -> str:
    """Return the message of the server or of libpq, in one line, without the password."""
    if error.sqlstate:
        return mask(primary_message(error))
    return connection_problem(error, str(conninfo_to_dict(conninfo).get("password") or ""))
