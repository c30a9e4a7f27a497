"""Sessions with the target: log-in, time limits, and PostgreSQL's errors as errors of this project."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row

from include.cutover.connections import tls
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed, Unreachable
from include.cutover.masking import mask
from include.cutover.target import lock_holders

if TYPE_CHECKING:
    from psycopg.abc import PQGen

_Result = TypeVar("_Result")


OLDEST_VERSION = 140000  # client_connection_check_interval, which every session sets, is new in PostgreSQL 14
URL_FORM = "postgresql://USER@HOST:PORT/DATABASE, with the password behind USER or in PGPASSWORD"
CONNECT_SECONDS = 10
ANSWER_SECONDS = 15.0  # beyond the server's own time-outs; if it is silent for longer, the server or the network hangs
LOCK_TIMEOUT = "10s"  # only the cutover uses the target: a lock that is held longer is a reason to stop and report
STATEMENT_TIMEOUT = "30min"  # half of a maintenance window

# After kill -9 of a client its statement goes on in the server until the server checks the connection.
CONNECTION_CHECK = "1s"

# ERRCODE_CANNOT_CONNECT_NOW (57P03), as the server's messages in English word it: libpq gives no SQLSTATE for a log-in.
_NOT_NOW = re.compile(
    r"the database system is (starting up|shutting down|in recovery mode|not (yet )?accepting connections)"
)

_ITS_LOG = "Where it does not run, the end of its log gives the reason, for instance a full disk."

# How long a peer that vanished goes unnoticed, where the connection string sets nothing else.
_NETWORK = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "30000"}


def primary_message(error: psycopg.Error) -> str:
    """Return the server's one-line message, without parts that may hold rows.

    DETAIL and CONTEXT quote rows, and so does the message itself where a value could not be converted: then only the kind
    of error is reported.
    """
    if error.sqlstate is None:
        return " ".join(str(error).split()) or type(error).__name__
    if error.sqlstate.startswith("22"):
        return f"{type(error).__name__} (SQLSTATE {error.sqlstate})"
    return f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})"


def connection_problem(error: psycopg.Error, password: str) -> str:
    """Return why no session could be opened, in one line, without the password."""
    # libpq's first line gives the reason; the others give advice, or repeat it for other addresses.
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("connection failed: ")
    return mask(said.replace(password, "***") if password else said)


def one_row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    """Return the row of a query that always gives one."""
    row = cursor.fetchone()
    if row is None:
        raise CannotCheck("a query that must give a row gave none")
    return tuple(row)


def libpq_url(url: str) -> str:
    """Return a URL that libpq takes: without SQLAlchemy's name of a driver.

    Raises:
        CannotCheck: When it is empty: libpq would then take whatever server it finds.
    """
    if not url.strip():
        raise CannotCheck("the target has no address", expected=URL_FORM)
    scheme, there, rest = url.partition("://")
    return f"postgresql://{rest}" if there and scheme.startswith(("postgresql+", "postgres+")) else url


def as_cutover_error(error: psycopg.Error, where: str, holders: Sequence[str] = ()) -> CutoverError:
    """Translate a psycopg error into an error of a step. Raise it ``from None``: the original text may quote rows.

    ``holders`` hold the lock that was not granted; see ``lock_holders``.
    """
    found = primary_message(error)
    code = error.sqlstate or ""
    if isinstance(error, errors.LockNotAvailable):
        return Unreachable(
            "a lock was not granted in time",
            where=where,
            found="; ".join([found, *holders]),
            do=lock_holders.END_IT
            if holders
            else "Find in pg_stat_activity and pg_locks which session uses these tables; retry after its end.",
        )
    if isinstance(error, errors.DeadlockDetected | errors.SerializationFailure | errors.TooManyConnections):
        return Unreachable("the target could not serve this now", where=where, found=found, do="Retry.")
    shut_down = errors.AdminShutdown | errors.CrashShutdown | errors.CannotConnectNow
    broken = not code and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if broken or code.startswith("08") or isinstance(error, shut_down):
        return Unreachable(
            "the connection to the target broke",
            where=where,
            found=found,
            do=f"Check that the server runs, then retry. {_ITS_LOG}",
        )
    if isinstance(error, errors.DiskFull):
        return StepFailed(
            "the target's disk is full",
            where=where,
            found=found,
            do="Free disk space where the server keeps its data, its write-ahead log and its temporary files. When its"
            " write-ahead log cannot grow, the server ends: start it again then.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return Refused(
            "the pipeline's role may not do this",
            where=where,
            found=found,
            do="Let the role of the target connection own the schema and what is in it, then retry.",
        )
    if isinstance(error, errors.QueryCanceled):
        return StepFailed(
            "the target cancelled a statement",
            where=where,
            expected=f"less than {STATEMENT_TIMEOUT}",
            found=found,
            do="Check the server's load, then retry.",
        )
    return StepFailed("the target refused a statement", where=where, found=found, do="Read the server's log.")


class Connection(psycopg.Connection[Any]):
    """A connection that gives up on a silent server.

    A server or a proxy that accepts TCP and says nothing keeps libpq waiting for ever: its host still answers, and the
    server's own time-outs hang with it. So every wait has a limit here; when it is reached, the connection is closed.

    Attributes:
        patience: Seconds that one answer may take.
    """

    patience = ANSWER_SECONDS

    def wait_for_statements(self) -> None:
        """Wait as long as the session's ``statement_timeout``, and ``ANSWER_SECONDS`` longer."""
        query = "SELECT extract(epoch FROM current_setting('statement_timeout')::interval)::float8"
        row = self.cursor(row_factory=tuple_row).execute(query).fetchone()
        self.patience = (row[0] if row else 0.0) + ANSWER_SECONDS

    def wait(self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        """Wait for the server, no longer than ``patience``; every wait of psycopg comes through here."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.patience)
        except errors._WaitTimeout:
            self.pgconn.finish()  # a statement is still running: this connection cannot be used again
            raise psycopg.OperationalError(f"no answer in {self.patience:g} s: the server or the network hangs") from None

    def cut(self) -> None:
        """End the connection from another thread: a wait for an answer over it fails immediately, hung or not.

        The server notices soon, and ends the statement.
        """
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as it:
            it.shutdown(socket.SHUT_RDWR)


def connect(conninfo: str, *, application_name: str | None = None, seconds: int | None = None) -> Connection:
    """Log in to the target, in autocommit mode and in UTF-8.

    Args:
        conninfo: libpq connection string or URL.
        application_name: Instead of the one in ``conninfo``.
        seconds: For logging in; default is what ``conninfo`` says, or ``CONNECT_SECONDS``.

    Raises:
        psycopg.OperationalError: When the server does not answer or refuses the log-in.
        psycopg.ProgrammingError: When ``conninfo`` is not a connection string; its text quotes the password.
    """
    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    overrides: dict[str, Any] = {name: value for name, value in _NETWORK.items() if name not in given}
    if application_name is not None:
        overrides["application_name"] = application_name
    limit = seconds or given.get("connect_timeout") or CONNECT_SECONDS
    return Connection.connect(conninfo, autocommit=True, client_encoding="UTF8", connect_timeout=limit, **overrides)


@contextmanager
def session(
    conninfo: str, schema: str, *, application_name: str | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Connection]:
    """Open a session with the target in which unqualified names mean ``schema``.

    It is in autocommit mode so that every transaction is a visible ``with connection.transaction()``. Waits are bounded,
    also for a server that hangs, times are UTC, and the server ends the session's work soon after this process is gone.

    Args:
        conninfo: libpq connection string or URL.
        schema: Need not exist.
        application_name: Instead of the one in ``conninfo``.
        settings: Server settings beside these defaults.

    Raises:
        Unreachable: When the server does not answer, refuses the log-in, or the connection breaks.
        CannotCheck: When the server is older than ``OLDEST_VERSION``, or ``conninfo`` is not a connection string.
        StepFailed: When the server refuses a statement; see ``as_cutover_error``.
    """
    connection = _open(conninfo, application_name)
    try:
        _configure(connection, settings or {})
        use_schema(connection, schema)
        yield connection
    except psycopg.Error as error:
        raise as_cutover_error(error, f"schema {schema}", lock_holders.of_error(connection, schema, error)) from None
    finally:
        connection.close()


def _open(conninfo: str, application_name: str | None) -> Connection:
    """Log in with the transaction mode of every session; refuse a server that is too old."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(conninfo)
        where = f"PostgreSQL at {given.get('host', 'localhost')}:{given.get('port', '5432')}"
        connection = connect(conninfo, application_name=application_name)
    except psycopg.OperationalError as error:
        raise _not_open(connection_problem(error, str(given.get("password") or "")), where) from None
    except psycopg.ProgrammingError:
        # libpq's message quotes the string, and the string holds the password.
        raise CannotCheck(
            "the connection string of the target cannot be read",
            expected=URL_FORM,
            do="Percent-encode what a URL cannot hold as it is, such as blanks and slashes in the password.",
        ) from None
    if connection.info.server_version < OLDEST_VERSION:
        found = f"PostgreSQL {connection.info.parameter_status('server_version')}"
        connection.close()
        raise CannotCheck(
            "the target is too old",
            where=where,
            expected=f"PostgreSQL {OLDEST_VERSION // 10000} or newer",
            found=found,
            do="Name a newer server.",
        )
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = False
    return connection


def _not_open(found: str, where: str) -> Unreachable:
    """Return the error for a log-in that failed: TLS, a server between stop and start, refused by it, or not answered."""
    if (insecure := tls.problem(found)) is not None:
        return Unreachable(insecure[0], where=where, found=found, do=insecure[1])
    if _NOT_NOW.search(found):
        return Unreachable(
            "the target accepts no sessions now: it starts, stops or recovers from a crash",
            where=where,
            found=found,
            do="Read the end of its log: a full disk, for one, keeps it from starting. Then retry.",
        )
    if "FATAL:" in found:  # sent by the server, never by libpq itself
        do = "Check database, user and password of the connection."
        return Unreachable("the target does not let this user in", where=where, found=found, do=do)
    do = f"Check that the server runs, and host and port of the connection. {_ITS_LOG}"
    return Unreachable("the target does not answer", where=where, found=found, do=do)


def _configure(connection: Connection, settings: Mapping[str, str]) -> None:
    effective = {
        "TimeZone": "UTC",
        "DateStyle": "ISO, YMD",
        "lock_timeout": LOCK_TIMEOUT,
        "statement_timeout": STATEMENT_TIMEOUT,
        "client_connection_check_interval": CONNECTION_CHECK,
        **settings,
    }
    for name, value in effective.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    connection.wait_for_statements()


def use_schema(connection: psycopg.Connection, schema: str) -> None:
    """Resolve unqualified names in ``schema``, from here to the end of the session."""
    connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", [schema])
