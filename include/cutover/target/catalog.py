"""What the target's catalog knows about a schema, and how a session with the target is opened.

Tables, columns, keys and sequences are read from ``pg_catalog``, never typed into a plan. Two things are left out on
purpose: the pipeline's own table ``schema_migrations``, and tables that belong to an extension. A partition is a part of
its partitioned table and does not appear by itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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

RECORD_TABLE = "schema_migrations"

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

_ON_DELETE = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it.

    Attributes:
        type: As ``format_type`` writes it, e.g. ``character varying(50)``.
        default: The default's expression; None where there is none and for generated columns.
        generated: Computed from other columns; cannot be written.
        identity: ``GENERATED … AS IDENTITY``.
        domain_of: Where the type is a domain, the type that it is made from; else empty.
    """

    name: str
    type: str
    not_null: bool
    default: str | None
    generated: bool
    identity: bool
    domain_of: str = ""

    @property
    def stored_type(self) -> str:
        """The type that values have: of a domain, the one that it is made from."""
        return self.domain_of or self.type


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key between two tables of one schema; ``on_delete`` is spelled as in SQL, e.g. ``SET NULL``."""

    name: str
    table: str
    columns: tuple[str, ...]
    referenced_table: str
    referenced_columns: tuple[str, ...]
    on_delete: str
    validated: bool


@dataclass(frozen=True)
class IndexPart:
    """One part of an index's key: a column, or an expression as PostgreSQL writes it.

    Attributes:
        column: None for an expression.
        definition: As PostgreSQL writes it, quoted where that is needed.
        deterministic: Whether texts that its collation calls equal are equal byte by byte.
        collation: The index's collation as SQL has it; None where the part is compared as the column itself is.
    """

    column: str | None
    definition: str
    deterministic: bool
    collation: str | None = None


@dataclass(frozen=True)
class Index:
    """An index of a table.

    Attributes:
        method: ``btree``, ``gin``, ….
        predicate: Of a partial index.
        nulls_equal: ``NULLS NOT DISTINCT``.
    """

    name: str
    table: str
    parts: tuple[IndexPart, ...]
    unique: bool
    primary: bool
    method: str
    predicate: str | None
    nulls_equal: bool

    @property
    def columns(self) -> tuple[str | None, ...]:
        """Its columns; None for an expression."""
        return tuple(part.column for part in self.parts)


@dataclass(frozen=True)
class Sequence:
    """A sequence and a column that takes its values from it: by identity, by ownership (serial) or by its default."""

    name: str
    table: str
    column: str


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


def tables(conn: psycopg.Connection, schema: str) -> list[str]:
    """Names of the tables, in byte order; empty where the schema is empty or missing."""
    query = """
        SELECT class.relname
        FROM pg_class AS class
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s
          AND class.relkind IN ('r', 'p')
          AND NOT class.relispartition
          AND class.relname <> %(record)s
          AND NOT EXISTS (
              SELECT FROM pg_depend
              WHERE classid = 'pg_class'::regclass AND objid = class.oid AND deptype = 'e'
          )
        ORDER BY class.relname COLLATE "C"
    """
    return [name for (name,) in _rows(conn, query, schema, record=RECORD_TABLE)]


def own_relations(conn: psycopg.Connection, schema: str) -> tuple[list[str], list[str]]:
    """Names of the tables and views, and of the sequences, that the session's role has an owner's rights to.

    Partitions are listed, and so is the pipeline's own record; what belongs to an extension is not.
    """
    query = """
        SELECT class.relname, class.relkind = 'S'
        FROM pg_class AS class
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s
          AND class.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
          AND pg_has_role(class.relowner, 'USAGE')
          AND NOT EXISTS (
              SELECT FROM pg_depend
              WHERE classid = 'pg_class'::regclass AND objid = class.oid AND deptype = 'e'
          )
        ORDER BY class.relname COLLATE "C"
    """
    found = _rows(conn, query, schema)
    return [name for name, sequence in found if not sequence], [name for name, sequence in found if sequence]


def columns(conn: psycopg.Connection, schema: str) -> dict[str, list[Column]]:
    """The columns of every table, in the table's order."""
    found: dict[str, list[Column]] = {table: [] for table in tables(conn, schema)}
    query = """
        WITH RECURSIVE base AS (
            SELECT attribute.attrelid, attribute.attnum, attribute.atttypid AS type, attribute.atttypmod AS modifier,
                   attribute.attnotnull AS not_null, false AS is_domain
            FROM pg_attribute AS attribute
            JOIN pg_class AS class ON class.oid = attribute.attrelid
            JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
            WHERE namespace.nspname = %(schema)s AND class.relkind IN ('r', 'p')
              AND attribute.attnum > 0 AND NOT attribute.attisdropped
            UNION ALL
            SELECT base.attrelid, base.attnum, domain.typbasetype, domain.typtypmod, base.not_null OR domain.typnotnull, true
            FROM base JOIN pg_type AS domain ON domain.oid = base.type AND domain.typtype = 'd'
        )
        SELECT class.relname, attribute.attname, format_type(attribute.atttypid, attribute.atttypmod), base.not_null,
               CASE WHEN attribute.attgenerated = '' THEN pg_get_expr(attrdef.adbin, attrdef.adrelid) END,
               attribute.attgenerated <> '', attribute.attidentity <> '',
               CASE WHEN base.is_domain THEN format_type(base.type, base.modifier) ELSE '' END
        FROM base
        JOIN pg_type AS type ON type.oid = base.type AND type.typtype <> 'd'
        JOIN pg_class AS class ON class.oid = base.attrelid
        JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (base.attrelid, base.attnum)
        LEFT JOIN pg_attrdef AS attrdef ON (attrdef.adrelid, attrdef.adnum) = (base.attrelid, base.attnum)
        ORDER BY base.attrelid, base.attnum
    """
    for table, *rest in _rows(conn, query, schema):
        if table in found:
            found[table].append(Column(*rest))
    return found


def primary_key(conn: psycopg.Connection, schema: str, table: str) -> list[str]:
    """Columns of the primary key in the key's order; empty where there is none."""
    query = """
        SELECT attribute.attname
        FROM pg_constraint AS con
        JOIN pg_class AS class ON class.oid = con.conrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        CROSS JOIN LATERAL unnest(con.conkey) WITH ORDINALITY AS key (attnum, position)
        JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (con.conrelid, key.attnum)
        WHERE namespace.nspname = %(schema)s AND class.relname = %(table)s AND con.contype = 'p'
        ORDER BY key.position
    """
    return [name for (name,) in _rows(conn, query, schema, table=table)]


def foreign_keys(conn: psycopg.Connection, schema: str) -> list[ForeignKey]:
    """The foreign keys of the tables, by table and name. The parts of a partitioned table's key are not listed again.

    Raises:
        CannotCheck: When one refers to another schema: nothing here would follow it there.
    """
    query = """
        SELECT con.conname, class.relname,
               array(SELECT attname FROM unnest(con.conkey) WITH ORDINALITY AS key (attnum, position)
                     JOIN pg_attribute AS attribute USING (attnum)
                     WHERE attribute.attrelid = con.conrelid ORDER BY position)::text[],
               referenced.relname,
               array(SELECT attname FROM unnest(con.confkey) WITH ORDINALITY AS key (attnum, position)
                     JOIN pg_attribute AS attribute USING (attnum)
                     WHERE attribute.attrelid = con.confrelid ORDER BY position)::text[],
               con.confdeltype::text, con.convalidated, referenced.relnamespace = class.relnamespace
        FROM pg_constraint AS con
        JOIN pg_class AS class ON class.oid = con.conrelid
        JOIN pg_class AS referenced ON referenced.oid = con.confrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND con.contype = 'f' AND con.conparentid = 0
        ORDER BY class.relname COLLATE "C", con.conname COLLATE "C"
    """
    found = []
    for name, table, own, referenced, others, on_delete, validated, same_schema in _rows(conn, query, schema):
        if not same_schema:
            raise CannotCheck(
                "a foreign key leaves the schema",
                where=f"{table}.{name}",
                expected=f"a table of the schema {schema}",
                do="Keep all tables of one application in one schema.",
            )
        found.append(ForeignKey(name, table, tuple(own), referenced, tuple(others), _ON_DELETE[on_delete], validated))
    return found


def indexes(conn: psycopg.Connection, schema: str) -> dict[str, list[Index]]:
    """The indexes of every table by name, those behind keys among them; exclusion constraints are left out."""
    found: dict[str, list[Index]] = {table: [] for table in tables(conn, schema)}
    query = """
        SELECT class.relname, owner.relname,
               array_agg(attribute.attname::text ORDER BY place),
               array_agg(pg_get_indexdef(index.indexrelid, place::int, true) ORDER BY place),
               array_agg(coalesce(coll.collisdeterministic, true) ORDER BY place),
               array_agg(CASE WHEN coll.oid IS DISTINCT FROM attribute.attcollation THEN coll.oid::regcollation::text END
                         ORDER BY place),
               index.indisunique, index.indisprimary, method.amname, pg_get_expr(index.indpred, index.indrelid),
               coalesce((to_jsonb(index) ->> 'indnullsnotdistinct')::boolean, false)
        FROM pg_index AS index
        JOIN pg_class AS class ON class.oid = index.indexrelid
        JOIN pg_am AS method ON method.oid = class.relam
        JOIN pg_class AS owner ON owner.oid = index.indrelid
        JOIN pg_namespace AS namespace ON namespace.oid = owner.relnamespace
        CROSS JOIN LATERAL generate_series(1, index.indnkeyatts) AS place
        LEFT JOIN pg_attribute AS attribute
            ON attribute.attrelid = owner.oid AND attribute.attnum = index.indkey[place - 1] AND attribute.attnum > 0
        LEFT JOIN pg_collation AS coll ON coll.oid = index.indcollation[place - 1]
        WHERE namespace.nspname = %(schema)s AND NOT owner.relispartition AND NOT index.indisexclusion
        GROUP BY class.relname, owner.relname, method.amname, index.indisunique, index.indisprimary, index.indpred,
                 index.indrelid, index.indexrelid, to_jsonb(index)
        ORDER BY owner.relname COLLATE "C", class.relname COLLATE "C"
    """
    for name, table, columns, definitions, deterministic, collations, *rest in _rows(conn, query, schema):
        if table in found:
            parts = map(IndexPart, columns, definitions, deterministic, collations)
            found[table].append(Index(name, table, tuple(parts), *rest))
    return found


def sequences(conn: psycopg.Connection, schema: str) -> list[Sequence]:
    """Every column that takes its values from a sequence, by table and column. A shared sequence appears once per column.

    A sequence that no column uses is not listed: there is nothing that it could be behind of.

    Raises:
        CannotCheck: When such a sequence lies in another schema.
    """
    query = """
        WITH use AS (
            SELECT objid AS sequence, refobjid AS relation, refobjsubid AS attnum
            FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
              AND refobjsubid > 0 AND deptype IN ('a', 'i')
            UNION
            SELECT depend.refobjid, attrdef.adrelid, attrdef.adnum
            FROM pg_depend AS depend
            JOIN pg_attrdef AS attrdef ON attrdef.oid = depend.objid
            WHERE depend.classid = 'pg_attrdef'::regclass AND depend.refclassid = 'pg_class'::regclass
        )
        SELECT sequence.relname, class.relname, attribute.attname, sequence.relnamespace = class.relnamespace
        FROM use
        JOIN pg_class AS sequence ON sequence.oid = use.sequence AND sequence.relkind = 'S'
        JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (use.relation, use.attnum)
        JOIN pg_class AS class ON class.oid = use.relation
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s
        ORDER BY class.relname COLLATE "C", attribute.attname COLLATE "C", sequence.relname COLLATE "C"
    """
    known = set(tables(conn, schema))
    found = []
    for name, table, column, same_schema in _rows(conn, query, schema):
        if table not in known:
            continue
        if not same_schema:
            raise CannotCheck(
                "a column takes its values from a sequence of another schema",
                where=f"{table}.{column}",
                expected=f"a sequence of the schema {schema}",
                found=name,
                do="Keep all sequences of one application in its schema.",
            )
        found.append(Sequence(name, table, column))
    return found


def invalid_indexes(conn: psycopg.Connection, schema: str) -> list[str]:
    """Names of indexes that PostgreSQL does not use, left by a build that failed."""
    query = """
        SELECT class.relname
        FROM pg_index AS index
        JOIN pg_class AS class ON class.oid = index.indexrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND NOT (index.indisvalid AND index.indisready)
        ORDER BY class.relname COLLATE "C"
    """
    return [name for (name,) in _rows(conn, query, schema)]


def unvalidated_constraints(conn: psycopg.Connection, schema: str) -> list[str]:
    """``table.constraint`` of every constraint, of whatever kind, that existing rows were not held to."""
    return [f"{table}.{name}" for table, name in not_valid(conn, schema)]


def not_valid(conn: psycopg.Connection, schema: str) -> list[tuple[str, str]]:
    """The same as pairs of table and constraint."""
    query = """
        SELECT class.relname, con.conname
        FROM pg_constraint AS con
        JOIN pg_class AS class ON class.oid = con.conrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND NOT con.convalidated
        ORDER BY class.relname COLLATE "C", con.conname COLLATE "C"
    """
    return [(table, name) for table, name in _rows(conn, query, schema)]


def _rows(conn: psycopg.Connection, query: str, schema: str, **values: str) -> list[tuple[Any, ...]]:
    """The rows as tuples, whatever row factory the caller's connection has."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode(), {"schema": schema, **values}).fetchall()
