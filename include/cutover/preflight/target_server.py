"""Checks of the target's server and database: version, encoding, writes, connections, clock, and a free schema."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from psycopg import sql

from include.cutover.preflight.answers import Answer, ExaminedTarget
from include.cutover.target import catalog
from include.cutover.target.session import OLDEST_VERSION
from include.cutover.target.wording import listed

CLOCK_SECONDS = 30.0
_WAITS = {"statement_timeout": 15.0, "lock_timeout": 3.0}  # no longer wait for the lock of another session


def reachable(target: ExaminedTarget) -> Answer:
    """Report database and role, and set the time limits of the checks that follow."""
    for name, seconds in _WAITS.items():
        target.connection.execute("SELECT set_config(%s, %s, false)", [name, f"{seconds * 1000:.0f}ms"])
    target.connection.wait_for_statements()
    role, database = target.row("SELECT current_user, current_database()")
    return Answer("passed", found=f"logged in to {database} as {role}")


def version(target: ExaminedTarget) -> Answer:
    """Check that the server is new enough."""
    info, oldest = target.connection.info, OLDEST_VERSION
    found = f"PostgreSQL {info.parameter_status('server_version')}"
    expected = f"PostgreSQL {oldest // 10000} or newer"
    return Answer.when(info.server_version >= oldest, expected, found, "Use a newer server.")


def encoding(target: ExaminedTarget) -> Answer:
    """Check that the database stores UTF-8."""
    (found,) = target.row("SELECT current_setting('server_encoding')")
    return Answer.when(found == "UTF8", "UTF8", found, "Create the database again with ENCODING 'UTF8' TEMPLATE template0.")


def writable(target: ExaminedTarget) -> Answer:
    """Check that the server is not a standby and that sessions may write."""
    standby, read_only = target.row("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean")
    found = "a standby" if standby else "sessions are read-only by default" if read_only else "accepted"
    do = "Name the primary server in the connection." if standby else "Set default_transaction_read_only = off."
    return Answer.when(not standby and not read_only, "a server that accepts writes", found, do)


def database_size(target: ExaminedTarget) -> Answer:
    """Report the size of the database."""
    (size,) = target.row("SELECT pg_size_pretty(pg_database_size(current_database()))")
    return Answer("passed", found=size)


def free_connections(target: ExaminedTarget) -> Answer:
    """Check the free connections of server, role and database against the plan."""
    largest, reserved, used, role_limit, role_used, database_limit, database_used, unlimited = target.row(
        "SELECT current_setting('max_connections')::int,"
        " current_setting('superuser_reserved_connections')::int"
        "  + coalesce(current_setting('reserved_connections', true)::int, 0),"
        " (SELECT coalesce(sum(numbackends), 0)::int FROM pg_stat_database),"
        " r.rolconnlimit, (SELECT count(*)::int FROM pg_stat_activity WHERE usesysid = r.oid),"
        " d.datconnlimit, (SELECT numbackends FROM pg_stat_database WHERE datid = d.oid),"
        " r.rolsuper FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()"
    )
    wanted = target.plan.preflight.free_connections
    free = [(largest - reserved - used, f"{used} of {largest} in use, {reserved} reserved")]
    if not unlimited and role_limit >= 0:
        free.append((role_limit - role_used, f"{role_used} of the role's {role_limit} in use"))
    if not unlimited and database_limit >= 0:
        free.append((database_limit - database_used, f"{database_used} of the database's {database_limit} in use"))
    least, why = min(free)
    do = "Close idle sessions, or raise max_connections or the limit named here."
    return Answer.when(least >= wanted, f"at least {wanted} free", f"{max(least, 0)} free: {why}", do)


def schema_free(target: ExaminedTarget) -> Answer:
    """Check that the plan's tables are empty and that the schema holds no other objects."""
    expected = f"no rows in the plan's tables in {target.schema}, and nothing else but {catalog.RECORD_TABLE}"
    relations = target.connection.execute(
        "SELECT c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT c.relispartition"
        # What belongs to an extension, and the sequence that belongs to a column, come and go with their owner.
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid"
        "  AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))"
        " ORDER BY c.relname",
        [target.schema],
    ).fetchall()
    filled, foreign = [], []
    for name, kind in relations:
        if name == catalog.RECORD_TABLE:
            continue
        if name not in target.plan.tables or kind not in ("r", "p"):
            foreign.append(name)
            continue
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(target.schema, name))
        if target.row(query)[0]:
            filled.append(name)
    found = []
    if filled:
        found.append(f"rows in {listed(filled)}")
    if foreign:
        found.append(f"other objects: {listed(foreign)}")
    do = "Roll the earlier run back, which keeps them under another name, or move them out of the schema."
    return Answer.when(not found, expected, "; ".join(found) or "free", do)


def clock(target: ExaminedTarget) -> Answer:
    """Compare the server's clock with this host's."""
    before = datetime.now(UTC)
    begun = time.monotonic()
    (server,) = target.row("SELECT clock_timestamp()")
    travel = time.monotonic() - begun
    ahead = (server - before).total_seconds() - travel / 2
    do = "Set both hosts by the same time server (NTP)."
    found = "the same" if abs(ahead) < 0.5 else f"{abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}"
    return Answer.when(abs(ahead) <= CLOCK_SECONDS, f"less than {CLOCK_SECONDS:.0f} s apart", found, do)
