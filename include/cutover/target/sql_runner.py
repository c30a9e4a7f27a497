"""The runner of SQL files: each file once, in one transaction together with its record.

Files name no schema and run as they are in psql; ``search_path`` sets where they go. PostgreSQL's own parser decides where a
statement ends: PL/pgSQL's EXECUTE runs a file as a whole. EXECUTE was chosen over a simple query because it cannot end the
transaction it runs in. In a simple query, a COMMIT in the middle of a file would make the first half permanent; here it is
an error that leaves nothing behind. ``$$ … COMMIT; … $$`` in the body of a procedure is not a statement of the file and is
fine.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg import errors, sql

from include.cutover.errors import CutoverError, Refused, StepFailed, Unreachable
from include.cutover.target import lock_holders
from include.cutover.target import session as target_session
from include.cutover.target.catalog import RECORD_TABLE
from include.cutover.target.ledger import Guard
from include.cutover.target.sql_files import KINDS, SqlFile, discover, read

log = logging.getLogger(__name__)

_NEEDS = {
    "pre_data": (),
    "migrations": ("pre_data",),
    "post_data": ("pre_data", "migrations"),
    "reference": ("pre_data", "migrations"),
    "foreign_keys": ("pre_data", "migrations", "post_data"),
}
_RUNNER_WAIT = "30s"


@dataclass(frozen=True)
class Applied:
    """The record of an applied file."""

    name: str
    sha256: str
    applied_at: datetime
    run_id: str


def applied(conn: psycopg.Connection, schema: str) -> list[Applied]:
    """Return the records of a schema in the order of applying; empty where no file was applied yet.

    Raises:
        Refused: When the schema has a table of that name which this runner did not make.
    """
    table = _record_table(schema)
    found = {
        name
        for (name,) in conn.execute(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [table.as_string(conn)],
        )
    }
    if not found:
        return []
    if not found >= {"kind", "name", "sha256", "applied_at", "run_id", "made"}:
        raise Refused(
            "the schema has another table of this name",
            where=f"{schema}.{RECORD_TABLE}",
            expected="the record of applied SQL files",
            found=f"columns {', '.join(sorted(found))}",
            do="Use an empty target schema, or rename that table.",
        )
    query = sql.SQL("SELECT name, sha256, applied_at, run_id FROM {} ORDER BY applied_at, name").format(table)
    return [Applied(*row) for row in conn.execute(query)]


def apply(
    conninfo: str,
    plan_sql_folder: Path,
    kind: str,
    *,
    schema: str,
    run_id: str,
    guard: Guard | None = None,
    application_name: str | None = None,
) -> list[str]:
    """Apply the files of one kind that were not applied yet, and return their names.

    A missing schema is created. Safe to run twice and from two processes at once: a file and its record commit
    together, one runner at a time works on a schema, and a file with a record is skipped. After a kill, the next call goes
    on after the last file that committed.

    Args:
        conninfo: The target.
        plan_sql_folder: The plan's SQL folder.
        kind: One of ``KINDS``.
        schema: Where the files' objects go.
        run_id: Recorded with each file.
        guard: Called first in each file's transaction.
        application_name: Shown in pg_stat_activity; default is the one in ``conninfo``.

    Raises:
        PlanInvalid: When names, numbers or contents of the folder are wrong. Nothing was changed.
        Refused: When an applied file was changed or removed, when an earlier kind is not applied, or when a file ends
            its own transaction or cannot run in one. The file left nothing behind.
        StepFailed: When the target refuses a file; names file, line and column. The file left nothing behind.
        Unreachable: When the target does not answer, or another runner is at work. A retry may help.
        LeaseLost: From ``guard``.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind}; the kinds are {', '.join(KINDS)}")
    files = discover(plan_sql_folder, KINDS)
    with target_session.session(conninfo, schema, application_name=application_name) as connection:
        done = {record.name: record for record in applied(connection, schema)}
    _agree(files, done, kind, schema)
    names = []
    for file in files:
        if (
            file.folder == kind
            and file.name not in done
            and _apply_one(conninfo, file, schema, run_id, guard, application_name)
        ):
            log.info("applied %s to schema %s", file.name, schema)
            names.append(file.name)
    return names


def _agree(files: Iterable[SqlFile], done: dict[str, Applied], kind: str, schema: str) -> None:
    """Refuse files that differ from those that were applied, of any kind: the schema was built by those."""
    by_name = {file.name: file for file in files}
    differences = []
    for name, record in done.items():
        if name not in by_name:
            differences.append(f"{name} was applied by {record.run_id} and is missing now")
        elif by_name[name].sha256 != record.sha256:
            differences.append(f"{name} was changed after {record.run_id} applied it")
    if differences:
        raise Refused(
            "the SQL files are not the ones that were applied",
            where=f"schema {schema}",
            found="; ".join(differences),
            do="Restore the applied files, and make the change in a new file with the next number.",
        )
    for file in by_name.values():
        if file.folder in _NEEDS[kind] and file.name not in done:
            raise Refused(
                f"{kind} comes after {file.folder}",
                where=f"schema {schema}",
                expected=f"{file.name} applied",
                found="no record of it",
                do=f"Apply {file.folder} first.",
            )
    last = max((item.number for item in by_name.values() if item.folder == kind and item.name in done), default=0)
    for file in by_name.values():
        if file.folder == kind and file.number < last and file.name not in done:
            raise Refused(
                "a later file was applied before this one",
                where=f"schema {schema}, {file.name}",
                expected=f"a record for each file up to {last:03}",
                found="no record of it",
                do="Find out who removed the record; the file may have been applied.",
            )


def _apply_one(
    conninfo: str, file: SqlFile, schema: str, run_id: str, guard: Guard | None, application_name: str | None
) -> bool:
    """Apply one file in a session of its own, so that no setting of it reaches the next; False when another runner did."""
    text = read(file)
    record_table = _record_table(schema)
    with target_session.session(conninfo, schema, application_name=application_name) as connection:
        try:
            with connection.transaction():
                if guard is not None:
                    guard(connection)
                hold_runner_lock(connection, schema)
                _prepare(connection, schema)
                row = connection.execute(
                    sql.SQL("SELECT sha256 FROM {} WHERE kind = {} AND name = {}").format(
                        record_table, sql.Literal(file.folder), sql.Literal(file.name)
                    )
                ).fetchone()
                if row is not None and row[0] == file.sha256:
                    return False
                if row is not None:
                    raise Refused(
                        "another runner applied other content under this name",
                        where=file.name,
                        do="Find out who changed the file, then run the step again.",
                    )
                before = objects(connection, schema)
                _execute(connection, text)
                made = sorted(objects(connection, schema) - before)
                # Literals, as a % in the schema's name would be read as a parameter.
                values = (file.folder, file.name, file.sha256, run_id, made)
                connection.execute(
                    sql.SQL("INSERT INTO {} (kind, name, sha256, run_id, made) VALUES ({})").format(
                        record_table, sql.SQL(", ").join(map(sql.Literal, values))
                    )
                )
        except psycopg.Error as error:
            raise _failure(error, file, text, lock_holders.of_error(connection, schema, error)) from None
    return True


def hold_runner_lock(connection: psycopg.Connection, schema: str) -> None:
    """Take the lock under which objects of SQL files are applied to or dropped from ``schema``, for this transaction.

    Raises:
        Unreachable: When another session holds it for longer than half a minute.
    """
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [_RUNNER_WAIT])
    try:
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('cutover.migrations:' || %s, 0))", [schema])
    except errors.LockNotAvailable:
        raise Unreachable(
            "another process applies SQL files to this schema",
            where=f"schema {schema}",
            expected=f"it to be done within {_RUNNER_WAIT}",
            do="Wait for its end, then retry; files that it applied are skipped.",
        ) from None
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [target_session.LOCK_TIMEOUT])


def objects(connection: psycopg.Connection, schema: str) -> set[str]:
    """Return every object that lies in the schema by itself, as ``<type> <identity>``: the text after DROP."""
    return {
        text
        for (text,) in connection.execute(
            "SELECT named.type || ' ' || named.identity"
            " FROM pg_depend AS depend CROSS JOIN LATERAL pg_identify_object(depend.classid, depend.objid, 0) AS named"
            " WHERE depend.refclassid = 'pg_namespace'::regclass AND depend.refobjid = to_regnamespace(quote_ident(%s))"
            " AND depend.deptype = 'n'",
            [schema],
        )
    }


def execute(connection: psycopg.Connection, file: SqlFile) -> None:
    """Run one file within the open transaction; refuse a file that would end the transaction.

    Raises:
        StepFailed: When the target refuses the file; names file, line and column.
        Refused: When a statement of it cannot be part of a transaction.
    """
    text = read(file)
    try:
        _execute(connection, text)
    except psycopg.Error as error:
        raise _failure(error, file, text) from None


def _record_table(schema: str) -> sql.Identifier:
    return sql.Identifier(schema, RECORD_TABLE)


def _prepare(connection: psycopg.Connection, schema: str) -> None:
    """Create schema and record table where they are missing, in the transaction of the first file."""
    # Not IF NOT EXISTS alone: it asks for the right to create a schema even where the schema is there.
    if connection.execute("SELECT to_regnamespace(quote_ident(%s))", [schema]).fetchone() == (None,):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    connection.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} ("
            " kind text NOT NULL,"
            " name text NOT NULL,"
            " sha256 text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),"
            " run_id text NOT NULL,"
            " made text[] NOT NULL,"  # objects that the file added to the schema; dropped when the run is abandoned
            " PRIMARY KEY (kind, name))"
        ).format(_record_table(schema))
    )


def _execute(connection: psycopg.Connection, text: str) -> None:
    connection.execute("SELECT set_config('cutover.file', %s, true)", [text])
    connection.execute(
        "DO $cutover$ DECLARE file text := current_setting('cutover.file');"
        " BEGIN PERFORM set_config('cutover.file', '', true); EXECUTE file; END $cutover$"
    )


def _failure(error: psycopg.Error, file: SqlFile, text: str, holders: Sequence[str] = ()) -> CutoverError:
    """Return the error of a file, with line and column where PostgreSQL gives a position."""
    diag = error.diag
    place = _place(text, diag.internal_query, diag.internal_position)
    where = f"{file.name}:{place[0]}:{place[1]}" if place else file.name
    if error.sqlstate == "0A000" and diag.source_function == "exec_stmt_dynexecute":
        return Refused(
            "a statement of the file cannot be part of the file's transaction",
            where=where,
            expected="no BEGIN, COMMIT, ROLLBACK or SAVEPOINT, no COPY from or to the client, no SELECT INTO at the end",
            found=target_session.primary_message(error),
            do="Remove it: each file is one transaction already. Nothing of the file was applied.",
        )
    if isinstance(error, errors.InvalidTransactionTermination):
        return Refused(
            "the file calls code that ends the transaction",
            where=where,
            found=target_session.primary_message(error),
            do="Remove the call: each file is one transaction. Nothing of the file was applied.",
        )
    if isinstance(error, errors.ActiveSqlTransaction):
        return Refused(
            "a statement of the file cannot run in a transaction",
            where=where,
            found=target_session.primary_message(error),
            do="Leave out CONCURRENTLY: these tables are not in use yet. Nothing of the file was applied.",
        )
    general = target_session.as_cutover_error(error, where, holders)
    if type(general) is not StepFailed or isinstance(error, errors.QueryCanceled) or _is_of_the_server(error):
        return general
    # With a position the message is about the file's text, not about a row.
    found = f"{diag.message_primary} (SQLSTATE {error.sqlstate})" if place else target_session.primary_message(error)
    names = [
        f"{label} {name}"
        for label, name in (("table", diag.table_name), ("column", diag.column_name), ("constraint", diag.constraint_name))
        if name and f'"{name}"' not in found
    ]
    return StepFailed(
        "PostgreSQL refused the file",
        where=where,
        found=", ".join([found, *names]),
        do="Correct the file; nothing of it was applied.",
    )


def _is_of_the_server(error: psycopg.Error) -> bool:
    """Report whether the server lacked something or is broken; the file is then not to blame.

    The classes of SQLSTATE: 53 insufficient resources, such as a full disk, 58 errors of the system, XX internal errors.
    """
    return (error.sqlstate or "")[:2] in ("53", "58", "XX")


def _place(text: str, query: str | None, position: str | None) -> tuple[int, int] | None:
    """Return line and column of an error, both from 1. ``query`` is the file, or a body that stands in it once."""
    if not query or not position or text.count(query) != 1:
        return None
    before = text[: text.index(query) + int(position) - 1]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
