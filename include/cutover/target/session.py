"""Sessions in the target: connecting, time limits, and errors in words."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row

from include.cutover.connections import tls
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed, Unreachable
from include.cutover.masking import mask

if TYPE_CHECKING:
    from psycopg.abc import PQGen

_Result = TypeVar("_Result")


OLDEST_VERSION = 140000  # client_connection_check_interval, which every session sets, is not known before PostgreSQL 14


URL_FORM = "postgresql://USER@HOST:PORT/DATABASE, with the password behind USER or in PGPASSWORD"


CONNECT_SECONDS = 10


ANSWER_SECONDS = 15.0  # beyond its own time-outs; a server that is silent for longer hangs, or what is between does


LOCK_TIMEOUT = "10s"  # the target is ours alone: whoever holds a lock longer than this is somebody to be told about


STATEMENT_TIMEOUT = "30min"  # half of a maintenance window


# After kill -9 of a client its statement goes on in the server until the server looks at the connection.
CONNECTION_CHECK = "1s"


# How long a peer that is gone without a word goes unnoticed, where the connection string says nothing else.
_NETWORK = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "30000"}


def primary_message(error: psycopg.Error) -> str:
    """The server's one-line message, without what may hold rows.

    DETAIL and CONTEXT quote rows, and so does the message itself where a value could not be converted; of that only the
    kind of error is told.
    """
    if error.sqlstate is None:
        return " ".join(str(error).split()) or type(error).__name__
    if error.sqlstate.startswith("22"):
        return f"{type(error).__name__} (SQLSTATE {error.sqlstate})"
    return f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})"


def connection_problem(error: psycopg.Error, password: str) -> str:
    """Why no session could be opened, in one line, without the password."""
    # libpq's first line tells why; the others give advice, or tell of the same at other addresses.
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("connection failed: ")
    return mask(said.replace(password, "***") if password else said)


def libpq_url(url: str) -> str:
    """A URL as libpq takes it: SQLAlchemy's names of drivers are nothing to libpq.

    Raises:
        CannotCheck: When it is empty: libpq would then take whatever server it finds.
    """
    if not url.strip():
        raise CannotCheck("the target has no address", expected=URL_FORM)
    scheme, there, rest = url.partition("://")
    return f"postgresql://{rest}" if there and scheme.startswith(("postgresql+", "postgres+")) else url


def as_cutover_error(error: psycopg.Error, where: str) -> CutoverError:
    """What a psycopg error means to a step. Raise it ``from None``: the original's text may quote rows."""
    found = primary_message(error)
    code = error.sqlstate or ""
    if isinstance(error, errors.LockNotAvailable):
        return Unreachable(
            "a lock was not granted in time",
            where=where,
            found=found,
            do="See in pg_stat_activity and pg_locks who works on these tables; try again when that has ended.",
        )
    if isinstance(error, errors.DeadlockDetected | errors.SerializationFailure | errors.TooManyConnections):
        return Unreachable("the target could not serve this now", where=where, found=found, do="Try again.")
    shut_down = errors.AdminShutdown | errors.CrashShutdown | errors.CannotConnectNow
    broken = not code and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if broken or code.startswith("08") or isinstance(error, shut_down):
        return Unreachable(
            "the connection to the target broke",
            where=where,
            found=found,
            do="Check that the server runs, then try again.",
        )
    if isinstance(error, errors.DiskFull):
        return StepFailed(
            "the target's disk is full",
            where=where,
            found=found,
            do="Make room where the server keeps its data, its write-ahead log and its temporary files.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return Refused(
            "the pipeline's role may not do this",
            where=where,
            found=found,
            do="Let the role of the target connection own the schema and what is in it, then try again.",
        )
    if isinstance(error, errors.QueryCanceled):
        return StepFailed(
            "the target cancelled a statement", where=where, expected=f"less than {STATEMENT_TIMEOUT}", found=found
        )
    return StepFailed("the target refused a statement", where=where, found=found)


class Connection(psycopg.Connection[Any]):
    """A connection that gives a silent server up.

    A server or a proxy that is there and says nothing keeps libpq waiting for ever: its host still answers TCP, and the
    server's own time-outs hang with it. So every wait ends here, and the connection with it.

    Attributes:
        patience: Seconds that one answer may take.
    """

    patience = ANSWER_SECONDS

    def wait_for_statements(self) -> None:
        """Be as patient as the session's ``statement_timeout``, and a little longer."""
        query = "SELECT extract(epoch FROM current_setting('statement_timeout')::interval)::float8"
        row = self.cursor(row_factory=tuple_row).execute(query).fetchone()
        self.patience = (row[0] if row else 0.0) + ANSWER_SECONDS

    def wait(self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        """psycopg's own; everything that waits for the server comes through here."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.patience)
        except errors._WaitTimeout:
            self.pgconn.finish()  # it is in the middle of something: nothing can be asked over it any more
            raise psycopg.OperationalError(f"no answer in {self.patience:g} s: the server or the network hangs") from None

    def cut(self) -> None:
        """End the connection from another thread: who waits for an answer over it gets an error at once, hung or not.

        The server notices soon, and ends what it was at.
        """
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as it:
            it.shutdown(socket.SHUT_RDWR)


def connect(conninfo: str, *, application_name: str | None = None, seconds: int | None = None) -> Connection:
    """Log in to the target, in autocommit mode and in UTF-8.

    Args:
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
    """A session with the target in which unqualified names mean ``schema``.

    It is in autocommit mode so that every transaction is a visible ``with connection.transaction()``. Waits are bounded,
    also for a server that hangs, times are UTC, and the server ends the session's work soon after this process is gone.

    Args:
        application_name: Instead of the one in ``conninfo``.
        settings: Server settings beside these defaults.

    Raises:
        Unreachable: When the server does not answer, refuses the log-in, or the connection breaks.
        CannotCheck: When the server is older than ``OLDEST_VERSION``, or ``conninfo`` is no connection string.
        StepFailed: When the server refuses a statement; see ``as_cutover_error``.
    """
    try:
        given = psycopg.conninfo.conninfo_to_dict(conninfo)
        where = f"PostgreSQL at {given.get('host', 'localhost')}:{given.get('port', '5432')}"
        connection = connect(conninfo, application_name=application_name)
    except psycopg.OperationalError as error:
        found = connection_problem(error, str(given.get("password") or ""))
        answered = "FATAL:" in found  # the server's word; libpq itself has no such
        if (insecure := tls.problem(found)) is not None:
            raise Unreachable(insecure[0], where=where, found=found, do=insecure[1]) from None
        raise Unreachable(
            "the target does not let this user in" if answered else "the target does not answer",
            where=where,
            found=found,
            do=f"Check {'database, user and password' if answered else 'that the server runs, and host and port'} of the"
            " connection.",
        ) from None
    except psycopg.ProgrammingError:
        # libpq's message quotes the string, and the string holds the password.
        raise CannotCheck(
            "the connection string of the target is not one of libpq's",
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
    try:
        effective = {
            "TimeZone": "UTC",
            "DateStyle": "ISO, YMD",
            "lock_timeout": LOCK_TIMEOUT,
            "statement_timeout": STATEMENT_TIMEOUT,
            "client_connection_check_interval": CONNECTION_CHECK,
            **(settings or {}),
        }
        for name, value in effective.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        connection.wait_for_statements()
        use_schema(connection, schema)
        yield connection
    except psycopg.Error as error:
        raise as_cutover_error(error, f"schema {schema}") from None
    finally:
        connection.close()


def use_schema(connection: psycopg.Connection, schema: str) -> None:
    """Let unqualified names mean ``schema``, from here to the end of the session."""
    connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", [schema])
