"""The first backup of PostgreSQL: dumped, restored elsewhere, compared, and only then called a backup.

The dump is of one moment: one transaction exports its snapshot, pg_dump reads in it, and the digests that the restored
copy must have are computed in the same transaction. The scratch database is always dropped afterwards; one that a killed
attempt left is dropped by the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.cutover import files
from include.cutover.aftercare.statistics import OWN_SESSIONS
from include.cutover.checks import Check, Outcome
from include.cutover.errors import CannotCheck, CutoverError, StepFailed
from include.cutover.files import sync_folder
from include.cutover.masking import mask
from include.cutover.plan.model import Plan
from include.cutover.proof import canonical, digests
from include.cutover.proof.parts import ROWS, ComparedTable, Cuts, Part, target_columns
from include.cutover.target import catalog
from include.cutover.target import session as target_session

log = logging.getLogger(__name__)

SCRATCH = "cutover_scratch_"
_LIBPQ = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD",
          "dbname": "PGDATABASE", "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT",
          "sslkey": "PGSSLKEY", "options": "PGOPTIONS", "passfile": "PGPASSFILE", "service": "PGSERVICE"}  # fmt: skip
_VERSION = re.compile(r"\b(\d+)(?:\.\d+|devel|beta\d+|rc\d+)?\b")
_SMALL = ROWS


@dataclass(frozen=True)
class Dumped:
    """The result of the first backup.

    Attributes:
        checks: Of the dump and the restore; when all passed, it is a backup.
        file: The dump; None where there is none.
        bytes: Its size.
        sha256: Its hash.
        rows: Table → rows in it.
    """

    checks: Sequence[Check]
    file: Path | None = None
    bytes: int = 0
    sha256: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """True when it was restored and compared without a difference."""
        return self.file is not None and all(check.outcome == "passed" for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return it for the evidence."""
        fields = asdict(self) | {"proven": self.proven, "checks": [check.as_dict() for check in self.checks]}
        return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}


def folder(plan: Plan) -> Path:
    """Return the folder of the dump."""
    given = plan.aftercare.first_backup.directory
    return plan.backup.directory / "postgresql" if given is None else Path(given)


def take(conninfo: str, plan: Plan, run: str) -> Dumped:
    """Dump the target's database, restore the dump into a scratch database, compare, drop that. Safe to run again.

    The schemas that earlier rolled-back runs left are not in the dump.

    Args:
        conninfo: The target's.
        plan: The cutover's plan.
        run: The cutover's run as a file name; the dump bears it.

    Returns:
        An unknown check stands for each thing that was not possible: no pg_dump, or one older than the server, no space, no
        right to make a database. A dump that does not restore, or restores to other content, is a failed check.
    """
    settings, place = plan.aftercare.first_backup, folder(plan)
    try:
        dump, restore = _programs(settings.pg_dump)
        environment = _environment(conninfo)
        files.make_private(place)
        file = place / f"{plan.name}.{run}.dump"
        seconds = settings.minutes * 60
        with _one_moment(conninfo, plan.target_schema, seconds) as connection:
            _require_version(dump, connection.info.server_version)
            files.require_space({place: _size(connection)})
            expected = _content(connection, plan.target_schema)
            _dump(dump, environment, file, _snapshot(connection), f"{plan.target_schema}_rolled_back_*", seconds)
    except (CutoverError, psycopg.Error, OSError) as error:
        return Dumped([_could_not("aftercare_backup_taken", "PostgreSQL is backed up by pg_dump", error, place)])
    size, digest = file.stat().st_size, files.digest(file, from_disk=True)
    rows = {table: item.rows for table, item in expected.items()}
    taken = Check(
        "aftercare_backup_taken", "PostgreSQL is backed up by pg_dump", "passed", "a dump",
        f"{size:,} bytes, {sum(rows.values()):,} rows in {len(rows)} tables", "", str(file),
    )  # fmt: skip
    try:
        restored = _restored(conninfo, plan.target_schema, restore, environment, file, expected, run, seconds)
    except (CutoverError, psycopg.Error, OSError) as error:
        restored = [_could_not("aftercare_backup_restored", "The dump restores to the same content", error, file)]
    return Dumped([taken, *restored], file, size, digest, rows)


# --- the programs -------------------------------------------------------------------------------------------------------


def _programs(name: str) -> tuple[str, str]:
    dump = shutil.which(name)
    if dump is None:
        raise CannotCheck(
            "there is no pg_dump",
            where=name,
            expected="pg_dump of the server's major version or a newer one",
            found="no such program",
            do="Install the PostgreSQL client, or name it in aftercare.first_backup.pg_dump of the plan.",
        )
    beside = Path(dump).with_name("pg_restore")
    restore = str(beside) if os.access(beside, os.X_OK) else shutil.which("pg_restore")
    if restore is None:
        raise CannotCheck("there is no pg_restore beside pg_dump", where=dump, do="Install the PostgreSQL client.")
    return dump, restore


def _environment(conninfo: str) -> dict[str, str]:
    """Return the environment with the log-in; never among arguments, which every user of the host can see."""
    given = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    settings = {_LIBPQ[name]: unquote(value) if name == "host" else value for name, value in given.items() if name in _LIBPQ}
    return {**kept, **settings, "PGAPPNAME": f"{OWN_SESSIONS}:backup", "PGCONNECT_TIMEOUT": "10", "PGTZ": "UTC"}


def _require_version(dump: str, server: int) -> None:
    done = _run([dump, "--version"], {**os.environ}, 20)
    found = _VERSION.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise CannotCheck(
            "pg_dump does not print its version", where=dump, found=_said(done), do="Run it by hand with --version."
        )
    if int(found[1]) < server // 10000:
        raise CannotCheck(
            "pg_dump is older than the server",
            where=dump,
            expected=f"version {server // 10000} or newer",
            found=f"version {found[1]}",
            do="Install a newer PostgreSQL client, or name it in aftercare.first_backup.pg_dump of the plan.",
        )


def _dump(dump: str, environment: dict[str, str], file: Path, snapshot: str, but: str, seconds: float) -> None:
    partial = file.with_name(f".{file.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            command = [dump, "--format=custom", f"--snapshot={snapshot}", f"--exclude-schema={but}", "--no-password",
                       "--lock-wait-timeout=10s"]  # fmt: skip
            done = _run(command, environment, seconds, out=out.fileno())
            os.fsync(out.fileno())
        if done.returncode != 0:
            raise CannotCheck(
                "pg_dump failed", where=dump, found=_said(done), do="Grant its role the rights, or free disk space."
            )
        partial.rename(file)
        sync_folder(file.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _run(
    command: Sequence[str], environment: Mapping[str, str], seconds: float, out: int | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if out is None else out,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise CannotCheck(
            "the program did not end in time",
            where=command[0],
            expected=f"within {seconds:g} s",
            do="Give it more time in aftercare.first_backup.minutes.",
        ) from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of its errors, without lines that may hold rows."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and "DETAIL" not in line and "CONTEXT" not in line]
    return mask(lines[-1])[:300] if lines else f"exit status {done.returncode}"


# --- one moment ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_moment(conninfo: str, schema: str, seconds: float) -> Iterator[target_session.Connection]:
    settings = {"statement_timeout": f"{int(seconds * 1000)}ms", "row_security": "off"}
    with target_session.session(conninfo, schema, settings=settings) as connection:
        connection.wait_for_statements()
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():  # a rolled-back transaction would count as the application's
            yield connection


def _snapshot(connection: psycopg.Connection) -> str:
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return str(row[0])


def _size(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True)
class _Table:
    """The content of one table: its rows, the digests of its parts, and how it was cut for them."""

    rows: int
    parts: Mapping[str, Part]
    shape: ComparedTable
    cuts: Cuts
    rules: frozenset[str]


def _content(connection: psycopg.Connection, schema: str, like: Mapping[str, _Table] | None = None) -> dict[str, _Table]:
    """Return rows, digests, constraints and indexes of every table of the schema, computed by PostgreSQL.

    Args:
        connection: To the database.
        schema: The schema.
        like: Tables to cut alike, so that equal content has equal digests.
    """
    found = {}
    columns = target_columns(connection, schema)
    present = catalog.tables(connection, schema)
    for table in present:
        known = (like or {}).get(table)
        stored = tuple(
            canonical.of_column(name, kind) for name, (kind, generated) in columns[table].items() if not generated
        )
        key = [
            column for name in catalog.primary_key(connection, schema, table) for column in stored if column.column == name
        ]
        shape = ComparedTable(table, stored, tuple(key))
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))).fetchone()
        rows = int(row[0]) if row else 0
        cuts = known.cuts if known is not None else _cut(connection, schema, shape, rows)
        parts = digests.of_target(connection, schema, shape, cuts) if stored else {}
        found[table] = _Table(rows, parts, shape, cuts, _rules(connection, schema, table))
    return found


def _cut(connection: psycopg.Connection, schema: str, shape: ComparedTable, rows: int) -> Cuts:
    kind = canonical.base_type(shape.key[0].type) if len(shape.key) == 1 else ""
    if not rows or kind not in canonical.INTEGERS:
        digits = next(n for n in (0, 1, 2, 3, 4) if n == 4 or rows <= _SMALL * 16**n) if kind == "uuid" else 0
        return Cuts(rows, digits=digits, small=rows <= 2 * _SMALL * 16**digits)
    column = sql.Identifier(shape.key[0].column)
    query = sql.SQL(
        "SELECT min(k)::bigint, max(k)::bigint FROM (SELECT {column} AS k, row_number() OVER (ORDER BY {column}) - 1 AS n"
        " FROM {table}) AS own GROUP BY n / {most} ORDER BY 1"
    ).format(column=column, table=sql.Identifier(schema, shape.table), most=sql.Literal(_SMALL))
    return Cuts(rows, tuple((int(low), int(high)) for low, high in connection.execute(query)))


def _rules(connection: psycopg.Connection, schema: str, table: str) -> frozenset[str]:
    """Return constraints and indexes of a table, as PostgreSQL writes them.

    Of one with an expression only the name: PostgreSQL may write an expression in another way after reading its own text.
    """
    name = sql.Identifier(schema, table).as_string(connection)
    rows = connection.execute(
        """
        SELECT concat_ws(' ', conname, contype, convalidated,
                         CASE WHEN contype NOT IN ('c', 'x') THEN pg_get_constraintdef(oid) END)
        FROM pg_constraint WHERE conrelid = %(table)s::regclass
        UNION ALL
        SELECT concat_ws(' ', relname, indisunique, indisvalid,
                         CASE WHEN indexprs IS NULL AND indpred IS NULL THEN pg_get_indexdef(indexrelid) END)
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = %(table)s::regclass
        """,
        {"table": name},
    )
    return frozenset(text for (text,) in rows)


# --- restored -----------------------------------------------------------------------------------------------------------


def _restored(
    conninfo: str,
    schema: str,
    restore: str,
    environment: Mapping[str, str],
    file: Path,
    expected: Mapping[str, _Table],
    run: str,
    seconds: float,
) -> list[Check]:
    scratch = f"{SCRATCH}{hashlib.sha256(run.encode()).hexdigest()[:12]}"
    title = "The dump restores to the same content"
    with _scratch_database(conninfo, scratch):
        command = [
            restore,
            "--no-owner",
            "--no-privileges",
            "--exit-on-error",
            "--no-password",
            f"--dbname={scratch}",
            str(file),
        ]
        done = _run(command, {**environment, "PGDATABASE": scratch}, seconds)
        if done.returncode != 0:
            found = f"pg_restore: {_said(done)}"
            do = "Do not rely on this dump; find the cause in the server's log."
            return [Check("aftercare_backup_restored", title, "failed", "a complete restore", found, do, str(file))]
        with _one_moment(make_conninfo(conninfo, dbname=scratch), schema, seconds) as connection:
            found_tables = _content(connection, schema, expected)
    wrong = _differences(expected, found_tables)
    outcome: Outcome = "failed" if wrong else "passed"
    same = f"{sum(item.rows for item in expected.values()):,} rows in {len(expected)} tables, equal digests"
    return [
        Check(
            "aftercare_backup_restored", title, outcome, same, "; ".join(wrong[:5]) or "the same",
            "Do not rely on this dump; take another one." if wrong else "", str(file),
        )
    ]  # fmt: skip


def _differences(expected: Mapping[str, _Table], found: Mapping[str, _Table]) -> list[str]:
    wrong = []
    for table in sorted(expected.keys() | found.keys()):
        one, other = expected.get(table), found.get(table)
        if one is None or other is None:
            wrong.append(f"{table} is only {'in the dump' if one is None else 'in PostgreSQL'}")
        elif one.rows != other.rows:
            wrong.append(f"{table}: {one.rows:,} rows became {other.rows:,}")
        elif one.parts != other.parts:
            parts = sum(one.parts.get(name) != other.parts.get(name) for name in one.parts.keys() | other.parts.keys())
            wrong.append(f"{table}: {parts} parts differ")
        elif one.rules != other.rules:
            wrong.append(f"{table}: its constraints or indexes differ")
    return wrong


@contextlib.contextmanager
def _scratch_database(conninfo: str, name: str) -> Iterator[None]:
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with target_session.session(conninfo, "pg_catalog") as connection:
        try:
            connection.execute(drop)
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            raise CannotCheck(
                "the pipeline's role may not create a database to restore into",
                where="PostgreSQL",
                expected="CREATEDB",
                do="ALTER ROLE … CREATEDB, or restore the dump elsewhere and compare by hand.",
            ) from None
    try:
        yield
    finally:
        try:
            with target_session.session(conninfo, "pg_catalog") as connection:
                connection.execute(drop)
        except CutoverError as error:
            log.warning("the scratch database %s was not dropped: %s", name, error)


def _could_not(name: str, title: str, error: Exception, place: Path) -> Check:
    if isinstance(error, psycopg.Error):
        return Check(
            name, title, "unknown", found=target_session.primary_message(error), do="Check the server.", where=str(place)
        )
    if isinstance(error, StepFailed | CannotCheck | CutoverError):
        return Check(
            name, title, "unknown", error.expected, error.found or error.message, error.do, error.where or str(place)
        )
    found = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
    return Check(name, title, "unknown", found=found, do="Correct the folder or its disk.", where=str(place))
