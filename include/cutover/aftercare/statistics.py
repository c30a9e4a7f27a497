"""PostgreSQL's own statistics since go-live: deadlocks, rollbacks, connections, open transactions, cache, growth.

The counters of a database only grow, so their difference to go-live shows what happened since. A server that was restarted,
or whose statistics were reset, has lost them: that is reported as unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection

from include.cutover.checks import Check, Outcome
from include.cutover.plan.afterwards import Aftercare
from include.cutover.proof import reading as proof_reading
from include.cutover.target import session as target_session

SECONDS = 30.0
OWN_SESSIONS = "cutover-aftercare"
"""Beginning of the application name of our own sessions, which are not counted."""

_FEW_TRANSACTIONS = 100
_FEW_BLOCKS = 1_000
_LOST = ("sessions_abandoned", "sessions_fatal", "sessions_killed")
_COUNTERS = ("xact_commit", "xact_rollback", "deadlocks", "blks_hit", "blks_read", *_LOST)


@dataclass(frozen=True)
class Standing:
    """The statistics at one moment.

    Attributes:
        at: The server's time.
        started: When the server started.
        reset: When the database's statistics were reset last; empty where never.
        counters: Of ``pg_stat_database``.
        sizes: Table → bytes with its indexes.
    """

    at: str
    started: str
    reset: str
    counters: Mapping[str, int]
    sizes: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return it for the evidence; ``from_dict`` reads it again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Standing:
        """Read ``as_dict``; other fields beside it are ignored."""
        return cls(fields["at"], fields["started"], fields["reset"], dict(fields["counters"]), dict(fields["sizes"]))


@contextmanager
def reading(conninfo: str, schema: str, *, seconds: float = SECONDS) -> Iterator[target_session.Connection]:
    """Open a read-only transaction that sees one moment. It is committed: a rollback would count as the application's."""
    with proof_reading.session(conninfo, schema, seconds=seconds) as connection, connection.transaction():
        yield connection


def standing(conninfo: str, schema: str) -> Standing:
    """Return the statistics of the database now. Only reads.

    Raises:
        Unreachable, StepFailed: See ``target.session``.
    """
    with reading(conninfo, schema) as connection:
        return _standing(connection, schema)


def checks(conninfo: str, schema: str, limits: Aftercare, before: Standing | None, role: str | None) -> list[Check]:
    """Check the statistics against the plan's limits. Only reads.

    Args:
        conninfo: The target's.
        schema: Schema of the application's tables.
        limits: The plan's.
        before: Those at go-live; without them, what happened since is unknown.
        role: The application's; its limit of connections counts too.

    Raises:
        Unreachable, StepFailed: See ``target.session``.
    """
    with reading(conninfo, schema) as connection:
        now = _standing(connection, schema)
        found = [_connections(connection, limits, role), *_transactions(connection, limits)]
    return [*_since(now, before, limits), *found]


def _standing(connection: Connection, schema: str) -> Standing:
    row = connection.execute(
        f"SELECT clock_timestamp()::text, pg_postmaster_start_time()::text, coalesce(stats_reset::text, ''),"  # noqa: S608
        f" {', '.join(_COUNTERS)} FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    sizes = connection.execute(
        "SELECT c.relname, pg_total_relation_size(c.oid) FROM pg_class AS c"
        " WHERE c.relkind IN ('r', 'm') AND c.relnamespace = to_regnamespace(quote_ident(%s))",
        [schema],
    )
    return Standing(row[0], row[1], row[2], dict(zip(_COUNTERS, row[3:], strict=True)), dict(sizes.fetchall()))


def _since(now: Standing, before: Standing | None, limits: Aftercare) -> list[Check]:
    titles = {
        "deadlocks": "No deadlocks since go-live",
        "lost_sessions": "No session was lost since go-live",
        "transactions_rolled_back": "Few transactions were rolled back since go-live",
        "cache_hit": "PostgreSQL reads from its cache",
        "table_growth": "The tables grow within the limit",
    }
    if before is None:
        return [
            _check(name, title, "unknown", "", "the statistics at go-live are unknown", "Check the server.")
            for name, title in titles.items()
        ]
    restarted = datetime.fromisoformat(now.started) > datetime.fromisoformat(before.at)
    found = [
        _check(
            "server_uptime",
            "PostgreSQL has run since go-live",
            "failed" if restarted else "passed",
            f"started before {before.at[:19]}",
            f"started {now.started[:19]}",
            "Read the server's log: it was restarted, or it crashed.",
        )
    ]
    grown = {name: now.counters[name] - before.counters[name] for name in _COUNTERS}
    if restarted or now.reset != before.reset or min(grown.values()) < 0:
        lost = "the statistics were reset since go-live"
        found += [_check(name, titles[name], "unknown", "", lost, "Read the server's log.")
                  for name in titles if name != "table_growth"]  # fmt: skip
    else:
        judges = (_deadlocks, _lost_sessions, _rolled_back, _cache)
        found += [judge(titles, grown, limits) for judge in judges]
    return [*found, _growth(titles, now, before, limits)]


def _deadlocks(titles: Mapping[str, str], grown: Mapping[str, int], limits: Aftercare) -> Check:
    return _check(
        "deadlocks",
        titles["deadlocks"],
        "passed" if grown["deadlocks"] <= limits.deadlocks else "failed",
        f"at most {limits.deadlocks}",
        str(grown["deadlocks"]),
        "The server's log names the statements of each deadlock.",
    )


def _lost_sessions(titles: Mapping[str, str], grown: Mapping[str, int], limits: Aftercare) -> Check:
    return _check(
        "lost_sessions",
        titles["lost_sessions"],
        "passed" if sum(grown[name] for name in _LOST) <= limits.lost_sessions else "failed",
        f"at most {limits.lost_sessions}",
        ", ".join(f"{grown[name]} {name.removeprefix('sessions_')}" for name in _LOST),
        "Read the server's log and those of the services: connections broke.",
    )


def _rolled_back(titles: Mapping[str, str], grown: Mapping[str, int], limits: Aftercare) -> Check:
    transactions = grown["xact_commit"] + grown["xact_rollback"]
    share = 100 * grown["xact_rollback"] / transactions if transactions else 0.0
    few = transactions < _FEW_TRANSACTIONS
    return _check(
        "transactions_rolled_back",
        titles["transactions_rolled_back"],
        "passed" if few or share <= limits.rollback_percent else "failed",
        f"at most {limits.rollback_percent:g} %, of {_FEW_TRANSACTIONS} or more",
        f"{grown['xact_rollback']:,} of {transactions:,}, {share:.1f} %",
        "Read the services' logs: each may be an SQL error.",
    )


def _cache(titles: Mapping[str, str], grown: Mapping[str, int], limits: Aftercare) -> Check:
    blocks = grown["blks_hit"] + grown["blks_read"]
    share = 100 * grown["blks_hit"] / blocks if blocks else 100.0
    return _check(
        "cache_hit",
        titles["cache_hit"],
        "passed" if blocks < _FEW_BLOCKS or share >= limits.cache_hit_percent else "failed",
        f"at least {limits.cache_hit_percent:g} %, of {_FEW_BLOCKS:,} blocks or more",
        f"{share:.1f} % of {blocks:,} blocks",
        "Find queries without an index, and check shared_buffers.",
    )


def _growth(titles: Mapping[str, str], now: Standing, before: Standing, limits: Aftercare) -> Check:
    grown = {table: size - before.sizes.get(table, 0) for table, size in now.sizes.items()}
    total = sum(grown.values()) / 2**20
    most = sorted(grown, key=lambda table: grown[table], reverse=True)[:3]
    shown = ", ".join(f"{table} {grown[table] / 2**20:+.1f} MB" for table in most if grown[table])
    return _check(
        "table_growth",
        titles["table_growth"],
        "passed" if total <= limits.growth_megabytes else "failed",
        f"at most {limits.growth_megabytes:,g} MB since go-live",
        f"{total:,.1f} MB" + (f": {shown}" if shown else ""),
        "Find in pg_stat_activity which client writes so much, and check the free disk space.",
    )


def _connections(connection: Connection, limits: Aftercare, role: str | None) -> Check:
    row = connection.execute(
        """
        SELECT count(*) FILTER (WHERE backend_type = 'client backend' OR backend_type IS NULL),
               count(*) FILTER (WHERE datname = current_database()), count(*) FILTER (WHERE usename = %(role)s),
               current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
               (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
               (SELECT rolconnlimit FROM pg_roles WHERE rolname = %(role)s)
        FROM pg_stat_activity WHERE datname IS NOT NULL
        """,
        {"role": role},
    ).fetchone()
    assert row is not None
    of_server, of_database, of_role, server, database, own = row
    uses = [("the server", of_server, server)]
    others = (("the database", of_database, database), ("the application's role", of_role, own))
    uses += [use for use in others if use[2] is not None and use[2] >= 0]  # -1 is no limit
    worst = max(uses, key=lambda use: use[1] / max(1, use[2]))
    share = 100 * worst[1] / max(1, worst[2])
    return _check(
        "connections",
        "The server has free connections",
        "passed" if share <= limits.connections_percent else "failed",
        f"at most {limits.connections_percent:g} % in use",
        "; ".join(f"{used} of {limit} of {name}" for name, used, limit in uses),
        "Find their clients in pg_stat_activity; check the application's pool.",
    )


def _transactions(connection: Connection, limits: Aftercare) -> list[Check]:
    rows = connection.execute(
        """
        SELECT pid, coalesce(usename, '?'), coalesce(application_name, ''), state,
               extract(epoch FROM clock_timestamp() - xact_start)::float8,
               extract(epoch FROM clock_timestamp() - state_change)::float8
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
          AND (backend_type = 'client backend' OR backend_type IS NULL)
          AND coalesce(application_name, '') NOT LIKE %s
        """,
        [f"{OWN_SESSIONS}%"],
    ).fetchall()
    hidden = sum(state is None for _, _, _, state, _, _ in rows)
    seen = [row for row in rows if row[3] is not None]
    long = [(row, row[4]) for row in seen if row[4] is not None and row[4] > limits.transaction_seconds]
    idle = [
        (row, row[5])
        for row in seen
        if str(row[3]).startswith("idle in transaction") and row[5] > limits.idle_in_transaction_seconds
    ]
    found = []
    for name, title, sessions, limit in (
        ("long_transactions", "No transaction is open for long", long, limits.transaction_seconds),
        ("idle_transactions", "No transaction waits for its client", idle, limits.idle_in_transaction_seconds),
    ):
        shown = "; ".join(f"pid {row[0]}, {row[1]} ({row[2]}), {seconds:.0f} s" for row, seconds in sessions[:5])
        outcome: Outcome = "failed" if sessions else "unknown" if hidden else "passed"
        do = "GRANT pg_read_all_stats to the pipeline's role." if hidden and not sessions else "Find out what it waits for."
        shown = shown or (f"{hidden} sessions are not visible to the role" if hidden else f"none of {len(seen)} sessions")
        found.append(_check(name, title, outcome, f"none for more than {limit:g} s", shown, do))
    return found


def _check(name: str, title: str, outcome: Outcome, expected: str, found: str, do: str) -> Check:
    return Check(f"aftercare_{name}", title, outcome, expected, found, "" if outcome == "passed" else do, "PostgreSQL")
