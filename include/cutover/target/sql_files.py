"""The runner of SQL files: each file once, in one transaction together with its record.

The files of an application lie in one folder per kind, named ``NNN_name.sql`` and numbered from 001 without a gap:

=============  ==========================================================================================
pre_data       tables, types, checks, defaults; always there
migrations     incremental changes, before the load
post_data      primary and unique keys, then indexes
reference      rows that the application needs and the source may not have
foreign_keys   ``ADD CONSTRAINT … FOREIGN KEY … NOT VALID``; plain ``ADD`` on partitioned tables, which refuse NOT VALID
=============  ==========================================================================================

A kind without a folder has no files; a folder without files is a fault, because somebody took them away. ``smoke`` and
``rollback`` may lie beside, any other folder is a misspelling and a fault.

Files carry no schema and run as they are in psql; ``search_path`` says where they go. PostgreSQL's own parser decides where
a statement ends: a file is executed as a whole by PL/pgSQL's EXECUTE. That was chosen over a simple query because EXECUTE
cannot end the transaction it runs in. With a simple query a COMMIT in the middle of a file would have made the first half
permanent before anybody could notice; so it is an error that leaves nothing behind, while ``$$ … COMMIT; … $$`` in the body
of a procedure is no statement of the file and is fine.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg import errors, sql

from include.cutover.errors import CannotCheck, CutoverError, PlanInvalid, Refused, StepFailed, Unreachable
from include.cutover.target import catalog
from include.cutover.target import session as target_session

log = logging.getLogger(__name__)

Guard = Callable[[psycopg.Connection], None]
"""Called first in every transaction that changes the target; raises LeaseLost when the run may not act any more."""

KINDS = ("pre_data", "migrations", "post_data", "reference", "foreign_keys")
RECORD_TABLE = catalog.RECORD_TABLE

_BESIDE = frozenset({"smoke", "rollback"})
_NEEDS = {
    "pre_data": (),
    "migrations": ("pre_data",),
    "post_data": ("pre_data", "migrations"),
    "reference": ("pre_data", "migrations"),
    "foreign_keys": ("pre_data", "migrations", "post_data"),
}
_FILE_NAME = re.compile(r"([0-9]{3})_[a-z0-9][a-z0-9_]*\.sql")
_RUNNER_WAIT = "30s"


@dataclass(frozen=True)
class Migration:
    """One SQL file.

    Attributes:
        folder: Its kind.
        name: Its name relative to the plan's SQL folder, e.g. ``post_data/001_keys.sql``.
    """

    folder: str
    number: int
    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Applied:
    """The record of an applied file."""

    name: str
    sha256: str
    applied_at: datetime
    run_id: str


def discover(folder: Path, kinds: Sequence[str] = ("pre_data", "migrations")) -> list[Migration]:
    """The files of these kinds, in the order in which they are applied.

    Args:
        folder: The plan's SQL folder.

    Raises:
        PlanInvalid: With every fault of names, numbers and contents at once.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"unknown kind {', '.join(unknown)}; the kinds are {', '.join(KINDS)}")
    if not folder.is_dir():
        raise PlanInvalid("the plan has no SQL folder", [f"expected the folder {folder}"])
    faults = []
    for item in sorted(folder.iterdir()):
        if item.is_dir() and not item.name.startswith(".") and item.name not in {*KINDS, *_BESIDE}:
            faults.append(f"{item.name}/: unknown folder; the folders are {', '.join([*KINDS, *sorted(_BESIDE)])}")
        elif item.suffix == ".sql":
            faults.append(f"{item.name}: lies beside the folders; put it into one of them")
    found = [migration for kind in kinds for migration in _files(folder, kind, faults)]
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise PlanInvalid(f"the SQL folder has {count}", faults, where=str(folder))
    return found


def _files(folder: Path, kind: str, faults: list[str]) -> list[Migration]:
    if not (folder / kind).is_dir():
        if (folder / kind).exists():
            faults.append(f"{kind}: is a file; expected a folder")
        elif kind == "pre_data":
            faults.append("pre_data/: missing; it holds the tables")
        return []
    found: list[Migration] = []
    for path in sorted(item for item in (folder / kind).iterdir() if not item.name.startswith(".")):
        name = f"{kind}/{path.name}"
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            faults.append(f"{name}: not a file named NNN_name.sql (three digits; then a-z, 0-9 and _)")
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            faults.append(f"{name}: not readable: {error.strerror}")
            continue
        problem = _problem(content)
        if problem:
            faults.append(f"{name}: {problem}")
        found.append(Migration(kind, int(match.group(1)), name, path, hashlib.sha256(content).hexdigest()))
    if not found and not any(fault.startswith(f"{kind}/") for fault in faults):
        faults.append(f"{kind}/: holds no SQL file; put them back, or remove the folder if there are none")
    expected = 1
    for migration in found:
        if migration.number < expected:
            faults.append(f"{migration.name}: the number {migration.number:03} stands twice, or is not above 000")
        elif migration.number > expected:
            faults.append(f"{migration.name}: the number {expected:03} before it is missing")
        expected = max(expected, migration.number + 1)
    return found


def _problem(content: bytes) -> str:
    if not content.strip():
        return "empty"
    if b"\0" in content:
        return "holds a NUL character"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"not UTF-8 in line {line}"
    return ""


def applied(conn: psycopg.Connection, schema: str) -> list[Applied]:
    """The records of a schema in the order of applying; empty where nothing was applied yet.

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

    A schema that is missing is made. Safe to run twice and from two processes at once: a file and its record commit
    together, one runner at a time works on a schema, and what has a record is left alone. A run that was killed goes on
    after the last file that committed.

    Args:
        kind: One of ``KINDS``.
        application_name: What the target's administrator sees; default is the one in ``conninfo``.

    Raises:
        PlanInvalid: When names, numbers or contents of the folder are wrong. Nothing was changed.
        Refused: When an applied file was changed or taken away, when an earlier kind is not applied, or when a file ends
            its own transaction or cannot run in one. The file left nothing behind.
        StepFailed: When the target refuses a file; names file, line and column. The file left nothing behind.
        Unreachable: When the target does not answer, or another runner is at work. Trying again may help.
        LeaseLost: From ``guard``.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind}; the kinds are {', '.join(KINDS)}")
    files = discover(plan_sql_folder, KINDS)
    with target_session.session(conninfo, schema, application_name=application_name) as connection:
        done = {record.name: record for record in applied(connection, schema)}
    _agree(files, done, kind, schema)
    names = []
    for migration in files:
        if (
            migration.folder == kind
            and migration.name not in done
            and _apply_one(conninfo, migration, schema, run_id, guard, application_name)
        ):
            log.info("applied %s to schema %s", migration.name, schema)
            names.append(migration.name)
    return names


def _agree(files: Iterable[Migration], done: dict[str, Applied], kind: str, schema: str) -> None:
    """Refuse when the files are not the ones that were applied, whatever their kind: the schema was built by those."""
    by_name = {migration.name: migration for migration in files}
    differences = []
    for name, record in done.items():
        if name not in by_name:
            differences.append(f"{name} was applied by {record.run_id} and is not there any more")
        elif by_name[name].sha256 != record.sha256:
            differences.append(f"{name} was changed after {record.run_id} applied it")
    if differences:
        raise Refused(
            "the SQL files are not the ones that were applied",
            where=f"schema {schema}",
            found="; ".join(differences),
            do="Put the applied files back as they were, and bring the change as a new file with the next number.",
        )
    for migration in by_name.values():
        if migration.folder in _NEEDS[kind] and migration.name not in done:
            raise Refused(
                f"{kind} comes after {migration.folder}",
                where=f"schema {schema}",
                expected=f"{migration.name} applied",
                found="no record of it",
                do=f"Apply {migration.folder} first.",
            )
    last = max((item.number for item in by_name.values() if item.folder == kind and item.name in done), default=0)
    for migration in by_name.values():
        if migration.folder == kind and migration.number < last and migration.name not in done:
            raise Refused(
                "a later file was applied before this one",
                where=f"schema {schema}, {migration.name}",
                expected=f"a record for each file up to {last:03}",
                found="no record of it",
                do="Find out who took the record away; the file may have been applied.",
            )


def _apply_one(
    conninfo: str, migration: Migration, schema: str, run_id: str, guard: Guard | None, application_name: str | None
) -> bool:
    """Apply one file in a session of its own, so that no setting of a file reaches the next. False: another runner did."""
    text = _read(migration)
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
                        record_table, sql.Literal(migration.folder), sql.Literal(migration.name)
                    )
                ).fetchone()
                if row is not None and row[0] == migration.sha256:
                    return False
                if row is not None:
                    raise Refused("another runner applied other content under this name", where=migration.name)
                before = objects(connection, schema)
                _execute(connection, text)
                made = sorted(objects(connection, schema) - before)
                # Literals, as a % in the schema's name would be read as a parameter.
                values = (migration.folder, migration.name, migration.sha256, run_id, made)
                connection.execute(
                    sql.SQL("INSERT INTO {} (kind, name, sha256, run_id, made) VALUES ({})").format(
                        record_table, sql.SQL(", ").join(map(sql.Literal, values))
                    )
                )
        except psycopg.Error as error:
            raise _failure(error, migration, text) from None
    return True


def hold_runner_lock(connection: psycopg.Connection, schema: str) -> None:
    """Be the only one who applies or drops SQL files' objects in ``schema``, to the end of the transaction.

    Raises:
        Unreachable: When somebody else does so for longer than half a minute.
    """
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [_RUNNER_WAIT])
    try:
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('cutover.migrations:' || %s, 0))", [schema])
    except errors.LockNotAvailable:
        raise Unreachable(
            "another process applies SQL files to this schema",
            where=f"schema {schema}",
            expected=f"it to be done within {_RUNNER_WAIT}",
            do="Wait for its end, then try again; what it applied is left alone.",
        ) from None
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [target_session.LOCK_TIMEOUT])


def objects(connection: psycopg.Connection, schema: str) -> set[str]:
    """Everything that lies in the schema by itself, as ``<type> <identity>``: the text behind DROP."""
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


@contextmanager
def rehearsal(
    conninfo: str,
    plan_sql_folder: Path,
    kinds: Sequence[str] = KINDS,
    *,
    application_name: str | None = None,
) -> Iterator[tuple[psycopg.Connection, str]]:
    """Try all files in a scratch schema, and yield connection and schema for a look at the catalog; then roll back.

    All happens in one transaction: nothing is left behind, however this process ends. A fault in a file that would be
    applied only after the services were stopped shows before. The tables are empty, so it takes well under a second.

    Raises:
        Refused: When the server is a standby, or the role may not make a schema.
        CannotCheck: When the database does not store UTF-8.
        The other errors of ``apply``.
    """
    files = discover(plan_sql_folder, kinds)
    schema = f"cutover_rehearsal_{secrets.token_hex(6)}"
    with target_session.session(conninfo, schema, application_name=application_name) as connection:
        info, where = connection.info, f"database {connection.info.dbname}"
        if info.parameter_status("in_hot_standby") == "on":
            raise Refused("the target takes no writes", where=where, found="a standby", do="Name the primary server.")
        if (encoding := info.parameter_status("server_encoding")) != "UTF8":
            raise CannotCheck(
                "the target does not store text as UTF-8",
                where=where,
                expected="server_encoding UTF8",
                found=str(encoding),
                do="Make the database with ENCODING 'UTF8' TEMPLATE template0.",
            )
        with connection.transaction(force_rollback=True):
            try:
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            except errors.InsufficientPrivilege as error:
                raise Refused(
                    "the pipeline's role may not do this: make a scratch schema, in which the plan's SQL is tried",
                    where=where,
                    found=target_session.primary_message(error),
                    do=f'GRANT CREATE ON DATABASE "{info.dbname}" TO "{info.user}";',
                ) from None
            for migration in files:
                target_session.use_schema(connection, schema)
                execute(connection, migration)
            target_session.use_schema(connection, schema)
            yield connection, schema


def execute(connection: psycopg.Connection, migration: Migration) -> None:
    """Run one file within the open transaction; a file that would end the transaction is refused.

    Raises:
        StepFailed: When the target refuses the file; names file, line and column.
        Refused: When a statement of it cannot be part of a transaction.
    """
    text = _read(migration)
    try:
        _execute(connection, text)
    except psycopg.Error as error:
        raise _failure(error, migration, text) from None


def _record_table(schema: str) -> sql.Identifier:
    return sql.Identifier(schema, RECORD_TABLE)


def _prepare(connection: psycopg.Connection, schema: str) -> None:
    """Make schema and record table where they are missing, in the transaction of the first file."""
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
            " made text[] NOT NULL,"  # what the file added to the schema; taken back when the run is abandoned
            " PRIMARY KEY (kind, name))"
        ).format(_record_table(schema))
    )


def _read(migration: Migration) -> str:
    content = migration.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != migration.sha256:
        raise Refused("the file was changed while the files were being applied", where=migration.name, do="Try again.")
    return content.decode("utf-8-sig")


def _execute(connection: psycopg.Connection, text: str) -> None:
    connection.execute("SELECT set_config('cutover.file', %s, true)", [text])
    connection.execute(
        "DO $cutover$ DECLARE file text := current_setting('cutover.file');"
        " BEGIN PERFORM set_config('cutover.file', '', true); EXECUTE file; END $cutover$"
    )


def _failure(error: psycopg.Error, migration: Migration, text: str) -> CutoverError:
    """The error of a file, with line and column where PostgreSQL gives a position."""
    diag = error.diag
    place = _place(text, diag.internal_query, diag.internal_position)
    where = f"{migration.name}:{place[0]}:{place[1]}" if place else migration.name
    if error.sqlstate == "0A000" and diag.source_function == "exec_stmt_dynexecute":
        return Refused(
            "a statement of the file cannot be part of the file's transaction",
            where=where,
            expected="no BEGIN, COMMIT, ROLLBACK or SAVEPOINT, no COPY from or to the client, no SELECT INTO at the end",
            found=target_session.primary_message(error),
            do="Take it out: each file is one transaction already. Nothing of the file was applied.",
        )
    if isinstance(error, errors.InvalidTransactionTermination):
        return Refused(
            "the file calls code that ends the transaction",
            where=where,
            found=target_session.primary_message(error),
            do="Take the call out: each file is one transaction. Nothing of the file was applied.",
        )
    if isinstance(error, errors.ActiveSqlTransaction):
        return Refused(
            "a statement of the file cannot run in a transaction",
            where=where,
            found=target_session.primary_message(error),
            do="Leave out CONCURRENTLY: nobody else uses these tables yet. Nothing of the file was applied.",
        )
    general = target_session.as_cutover_error(error, where)
    if type(general) is not StepFailed or isinstance(error, errors.QueryCanceled):
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


def _place(text: str, query: str | None, position: str | None) -> tuple[int, int] | None:
    """Line and column of an error, both from 1. ``query`` is the file, or a body within it that stands there once."""
    if not query or not position or text.count(query) != 1:
        return None
    before = text[: text.index(query) + int(position) - 1]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
