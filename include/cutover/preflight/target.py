"""Checks of the target before anything stops: server, rights, room, clock, and a free schema."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from include.cutover.checks import Check, Outcome
from include.cutover.connections import tls
from include.cutover.errors import CannotCheck
from include.cutover.masking import mask
from include.cutover.plan.model import Plan
from include.cutover.preflight.places import listed, pretty
from include.cutover.target import catalog
from include.cutover.target import fence as target_fence
from include.cutover.target import session as target_session

CLOCK_SECONDS = 30.0


_PROCESSES = Path("/proc")


_WAITS = {"statement_timeout": 15.0, "lock_timeout": 3.0}  # nobody else's lock is waited for longer


def check_target(conninfo: str, *, plan: Plan, source_bytes: int, application_role: str | None) -> list[Check]:
    """PostgreSQL: reachable, fit, large enough, with the rights that a cutover and a rollback need, and the schema free.

    Args:
        conninfo: The target, with the role that the pipeline uses.
        source_bytes: Size of the source file; the free disk is measured by it.
        application_role: Role that the application will log in with; None where the plan moves no application.

    Returns:
        Only ``target_reachable`` when the server cannot be reached.

    Raises:
        CannotCheck: When ``conninfo`` is not a connection string.
    """
    try:
        where = _target_name(conninfo)
    except psycopg.ProgrammingError:  # its text quotes the string, which holds the password
        raise CannotCheck("the connection string of the target is not one of libpq's") from None
    title = "The target answers"
    try:
        connection = target_session.connect(conninfo, seconds=5)
    except psycopg.Error as error:
        reason = _reason(error, conninfo)
        insecure = tls.problem(reason)
        do = insecure[1] if insecure else "Check that the server runs and that the connection in Airflow is right."
        return [Check("target_reachable", title, "failed", found=reason, do=do, where=where)]
    target = _Target(connection, conninfo, plan, source_bytes, application_role)
    with connection:
        looks: list[tuple[str, str, Callable[[], _Found]]] = [
            ("target_reachable", title, target.reachable),
            ("target_version", "The target is PostgreSQL 14 or newer", target.version),
            ("target_encoding", "The target stores text as UTF-8", target.encoding),
            ("target_writable", "The target takes writes", target.writable),
            ("target_database_size", "Size of the target database", target.database_size),
            ("target_free_disk", "The target has room for the data", target.free_disk),
            ("target_free_connections", "The target has free connections", target.free_connections),
            ("target_may_create_schema", "The role may create schemas", target.may_create_schema),
            ("target_may_create_tables", "The role may create tables in the schema", target.may_create_tables),
            ("target_may_rename_schema", "The role may rename the schema at a rollback", target.may_rename_schema),
            ("target_application_role", "The application's role may log in to the target", target.role_exists),
            ("target_fence", "The application can be shut out of the target", target.may_shut_out),
            ("target_open_doors", "Nothing else lets the application write to the target", target.open_doors),
            ("target_may_end_sessions", "The role may end the application's sessions", target.may_end_sessions),
            ("target_schema_free", "The schema holds none of the application's data", target.schema_free),
            ("target_clock", "The target's clock agrees with this host's", target.clock),
        ]
        checks = []
        for name, title, look in looks:
            try:
                found = look()
            except psycopg.Error as error:
                do = "Look at the target's log, then run this step again."
                found = _Found("unknown", found=_reason(error, conninfo), do=do)
            checks.append(Check(name, title, found.outcome, found.expected, found.found, found.do, where))
    return checks


@dataclass(frozen=True)
class _Found:
    outcome: Outcome
    expected: str = ""
    found: str = ""
    do: str = ""

    @classmethod
    def when(cls, passed: bool, expected: str, found: str, do: str) -> _Found:
        return cls("passed" if passed else "failed", expected, found, "" if passed else do)


def _target_name(conninfo: str) -> str:
    info = conninfo_to_dict(conninfo)
    return f"PostgreSQL at {info.get('host', 'the local socket')}:{info.get('port', 5432)}, database {info.get('dbname')}"


def _reason(error: psycopg.Error, conninfo: str) -> str:
    """What the server or libpq said, in one line, without the password."""
    if error.sqlstate:
        return mask(target_session.primary_message(error))
    return target_session.connection_problem(error, str(conninfo_to_dict(conninfo).get("password") or ""))


class _Target:
    """One look per method, all over one connection."""

    def __init__(
        self,
        connection: target_session.Connection,
        conninfo: str,
        plan: Plan,
        source_bytes: int,
        application_role: str | None,
    ) -> None:
        self._connection = connection
        self._conninfo = conninfo
        self._plan = plan
        self._schema = plan.target_schema
        self._source_bytes = source_bytes
        self._application_role = application_role

    def _row(self, query: LiteralString | sql.Composed, *values: Any) -> tuple[Any, ...]:
        row = self._connection.execute(query, values or None).fetchone()
        return () if row is None else row

    def reachable(self) -> _Found:
        for name, seconds in _WAITS.items():
            self._connection.execute("SELECT set_config(%s, %s, false)", [name, f"{seconds * 1000:.0f}ms"])
        self._connection.wait_for_statements()
        role, database = self._row("SELECT current_user, current_database()")
        return _Found("passed", found=f"logged in to {database} as {role}")

    def version(self) -> _Found:
        info, oldest = self._connection.info, target_session.OLDEST_VERSION
        found = f"PostgreSQL {info.parameter_status('server_version')}"
        expected = f"PostgreSQL {oldest // 10000} or newer"
        return _Found.when(info.server_version >= oldest, expected, found, "Use a newer server.")

    def encoding(self) -> _Found:
        (found,) = self._row("SELECT current_setting('server_encoding')")
        return _Found.when(found == "UTF8", "UTF8", found, "Make the database anew with ENCODING 'UTF8' TEMPLATE template0.")

    def writable(self) -> _Found:
        standby, read_only = self._row(
            "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean"
        )
        found = "a standby" if standby else "sessions are read-only by default" if read_only else "it does"
        do = "Name the primary server in the connection." if standby else "Set default_transaction_read_only = off."
        return _Found.when(not standby and not read_only, "a server that takes writes", found, do)

    def database_size(self) -> _Found:
        (size,) = self._row("SELECT pg_size_pretty(pg_database_size(current_database()))")
        return _Found("passed", found=size)

    def free_disk(self) -> _Found:
        needed = int(self._source_bytes * self._plan.preflight.target_disk_factor)
        expected = f"{pretty(needed)} free ({self._plan.preflight.target_disk_factor:g} times the source)"
        do = (
            "Look there yourself; then the lead accepts it at the go/no-go, or the plan states it as target_free_disk under"
            " preflight.accept_unknown."
        )
        if not self._on_this_host():
            unseen = "the server is on another host, or in a container: its disk cannot be seen from here"
            return _Found("unknown", expected, unseen, do)
        try:
            places = self._data_places()
        except psycopg.errors.InsufficientPrivilege:
            unseen = "the role may not see where the server keeps its data"
            return _Found("unknown", expected, unseen, f"{do} Or GRANT pg_read_all_settings to the role.")
        smallest: tuple[int, Path] | None = None
        for place in places:
            try:
                disk = os.statvfs(place)
            except OSError as error:
                return _Found("unknown", expected, f"{place}: {error.strerror}", do)
            free = disk.f_bavail * disk.f_frsize
            if smallest is None or free < smallest[0]:
                smallest = free, place
        if smallest is None:
            return _Found("unknown", expected, "the server names no folder", do)
        found = f"{pretty(smallest[0])} free at {smallest[1]}"
        return _Found.when(smallest[0] >= needed, expected, found, "Free disk there, or use a larger one.")

    def _on_this_host(self) -> bool:
        """Whether our own session's server process runs here. A loopback address alone could be a tunnel."""
        server, port, pid = self._row("SELECT inet_server_addr()::text, inet_client_port(), pg_backend_pid()")
        if server is not None and not ipaddress.ip_interface(server).ip.is_loopback:
            return False
        try:
            title = (_PROCESSES / str(pid) / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return False
        return title.startswith("postgres") and ("[local]" if port is None or port < 0 else f"({port})") in title

    def _data_places(self) -> list[Path]:
        """Folders that will grow: the data, its write-ahead log, and the tablespaces that new tables go to."""
        data, database, default = self._row(
            "SELECT current_setting('data_directory'), pg_tablespace_location(d.dattablespace),"
            " (SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = current_setting('default_tablespace'))"
            " FROM pg_database d WHERE d.datname = current_database()"
        )
        places = [Path(data), *(Path(place) for place in (database, default) if place)]
        journal = Path(data, "pg_wal")  # often a link to a disk of its own, and often closed to other users
        if os.access(journal, os.F_OK):
            places.append(journal)
        return places

    def free_connections(self) -> _Found:
        largest, reserved, used, role_limit, role_used, database_limit, database_used, unlimited = self._row(
            "SELECT current_setting('max_connections')::int,"
            " current_setting('superuser_reserved_connections')::int"
            "  + coalesce(current_setting('reserved_connections', true)::int, 0),"
            " (SELECT coalesce(sum(numbackends), 0)::int FROM pg_stat_database),"
            " r.rolconnlimit, (SELECT count(*)::int FROM pg_stat_activity WHERE usesysid = r.oid),"
            " d.datconnlimit, (SELECT numbackends FROM pg_stat_database WHERE datid = d.oid),"
            " r.rolsuper FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()"
        )
        wanted = self._plan.preflight.free_connections
        free = [(largest - reserved - used, f"{used} of {largest} in use, {reserved} reserved")]
        if not unlimited and role_limit >= 0:
            free.append((role_limit - role_used, f"{role_used} of the role's {role_limit} in use"))
        if not unlimited and database_limit >= 0:
            free.append((database_limit - database_used, f"{database_used} of the database's {database_limit} in use"))
        least, why = min(free)
        do = "Close idle sessions, or raise max_connections or the limit named here."
        return _Found.when(least >= wanted, f"at least {wanted} free", f"{max(least, 0)} free: {why}", do)

    def may_create_schema(self) -> _Found:
        role, database, may = self._row(
            "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE')"
        )
        do = f"GRANT CREATE ON DATABASE {_quoted(database)} TO {_quoted(role)};"
        return _Found.when(may, f"CREATE on the database {database}", "granted" if may else "not granted", do)

    def _schema_rights(self) -> tuple[str, str, bool, bool] | None:
        """Current role, the schema's owner, whether the role may create in it, whether it acts as the owner."""
        row = self._row(
            "SELECT current_user, pg_get_userbyid(nspowner), has_schema_privilege(oid, 'CREATE'),"
            " pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = %s",
            self._schema,
        )
        return None if not row else (row[0], row[1], row[2], row[3])

    def may_create_tables(self) -> _Found:
        rights = self._schema_rights()
        expected = f"CREATE on the schema {self._schema}"
        if rights is None:  # the first migration makes it, with the right of may_create_schema
            return _Found("passed", expected, "there is no such schema yet")
        role, _, may, _ = rights
        do = f"GRANT USAGE, CREATE ON SCHEMA {_quoted(self._schema)} TO {_quoted(role)};"
        return _Found.when(may, expected, "granted" if may else "not granted", do)

    def may_rename_schema(self) -> _Found:
        rights = self._schema_rights()
        if rights is None:
            return _Found("passed", "the schema's owner", "there is no such schema yet; the role will own it")
        role, owner, _, owns = rights
        (may_create,) = self._row("SELECT has_database_privilege(current_database(), 'CREATE')")
        found = f"the schema {self._schema} belongs to {owner}" + ("" if may_create else "; no CREATE on the database")
        do = (
            f"ALTER SCHEMA {_quoted(self._schema)} OWNER TO {_quoted(role)}; without it a rollback cannot put the target's"
            " data aside, and the next cutover finds it in the way."
        )
        return _Found.when(owns and may_create, f"{role} owns the schema and may create another", found, do)

    def role_exists(self) -> _Found:
        if self._application_role is None:
            return _Found("passed", found="the plan moves no application")
        # Where the fence is the log-in, the role has none until go-live: an earlier rollback took it.
        wanted = ["CONNECT"] if self._plan.target_fence == "login" else ["CONNECT", "LOGIN"]
        expected = f"the role {self._application_role} with {' and '.join(wanted)}"
        row = self._row(
            "SELECT has_database_privilege(oid, current_database(), 'CONNECT'), rolcanlogin"
            " FROM pg_roles WHERE rolname = %s",
            self._application_role,
        )
        name = _quoted(self._application_role)
        if not row:
            return _Found("failed", expected, "there is no such role", f"CREATE ROLE {name} LOGIN with its password.")
        lacks = [right for right, has in zip(wanted, row, strict=False) if not has]
        (database,) = self._row("SELECT current_database()")
        commands = {
            "CONNECT": f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {name};",
            "LOGIN": f"ALTER ROLE {name} LOGIN;",
        }
        do = " ".join(commands[right] for right in lacks)
        return _Found.when(not lacks, expected, f"without {' and '.join(lacks)}" if lacks else "it is there", do)

    def may_shut_out(self) -> _Found:
        """Tried and taken back; see ``target_fence``."""
        if self._application_role is None:
            return _Found("passed", found="the plan moves no application")
        how = {"login": "log-in and rights", "privileges": "rights"}[self._plan.target_fence]
        expected = f"{self._application_role} without {how} until go-live, and from the first step of a rollback on"
        if not self._row("SELECT true FROM pg_roles WHERE rolname = %s", self._application_role):
            return _Found("unknown", expected, "there is no such role", "Create the application's role first.")
        return self._faults(
            expected,
            target_fence.faults(self._connection, self._schema, self._application_role, self._plan.target_fence),
            "tried, and taken back",
        )

    def open_doors(self) -> _Found:
        if self._application_role is None:
            return _Found("passed", found="the plan moves no application")
        (sessions,) = self._row(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND datname = current_database()",
            self._application_role,
        )
        return self._faults(
            f"nobody acts as {self._application_role}, and it has left nothing open",
            target_fence.open_doors(self._connection, self._application_role, self._plan.target_fence),
            f"{sessions} open sessions of it, which the cutover will end" if sessions else "nothing",
        )

    @staticmethod
    def _faults(expected: str, faults: Sequence[target_fence.Fault], otherwise: str) -> _Found:
        found = "; ".join(fault.found for fault in faults) or otherwise
        return _Found.when(not faults, expected, found, " ".join(fault.do for fault in faults))

    def may_end_sessions(self) -> _Found:
        if self._application_role is None:
            return _Found("passed", found="the plan moves no application")
        expected = f"the right to end sessions of {self._application_role}"
        row = self._row(
            "SELECT current_user, me.rolsuper, app.rolsuper, pg_has_role(app.oid, 'USAGE'),"
            " pg_has_role('pg_signal_backend', 'USAGE')"
            " FROM pg_roles me, pg_roles app WHERE me.rolname = current_user AND app.rolname = %s",
            self._application_role,
        )
        if not row:
            return _Found("unknown", expected, "there is no such role", "Create the application's role first.")
        me, superuser, application_is_superuser, member, signaller = row
        may = superuser or (not application_is_superuser and (member or signaller))
        lost = "without it a rollback cannot cut the application off, and it may go on writing into the target."
        if application_is_superuser and not superuser:
            do = f"Take SUPERUSER from {_quoted(self._application_role)}: only a superuser may end its sessions; {lost}"
        else:
            do = f"GRANT {_quoted(self._application_role)} TO {_quoted(me)}; {lost}"
        return _Found.when(may, expected, f"{me} has it" if may else f"{me} has it not", do)

    def schema_free(self) -> _Found:
        expected = f"no rows in the plan's tables in {self._schema}, and nothing else but {catalog.RECORD_TABLE}"
        relations = self._connection.execute(
            "SELECT c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT c.relispartition"
            # What belongs to an extension, and the sequence that belongs to a column, come and go with their owner.
            " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid"
            "  AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))"
            " ORDER BY c.relname",
            [self._schema],
        ).fetchall()
        filled, foreign = [], []
        for name, kind in relations:
            if name == catalog.RECORD_TABLE:
                continue
            if name not in self._plan.tables or kind not in ("r", "p"):
                foreign.append(name)
                continue
            query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(self._schema, name))
            if self._row(query)[0]:
                filled.append(name)
        found = []
        if filled:
            found.append(f"rows in {listed(filled)}")
        if foreign:
            found.append(f"other objects: {listed(foreign)}")
        do = "Roll the earlier run back, which keeps them under another name, or move them out of the schema."
        return _Found.when(not found, expected, "; ".join(found) or "free", do)

    def clock(self) -> _Found:
        before = datetime.now(UTC)
        begun = time.monotonic()
        (server,) = self._row("SELECT clock_timestamp()")
        travel = time.monotonic() - begun
        ahead = (server - before).total_seconds() - travel / 2
        do = "Let both hosts take their time from the same server (NTP)."
        found = "the same" if abs(ahead) < 0.5 else f"{abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}"
        return _Found.when(abs(ahead) <= CLOCK_SECONDS, f"less than {CLOCK_SECONDS:.0f} s apart", found, do)


def _quoted(name: str) -> str:
    """An identifier as it stands in SQL, for a command that a person will run."""
    return '"' + name.replace('"', '""') + '"'
