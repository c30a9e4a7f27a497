"""The marker of go-live: the position of the target right before the application gets access to it.

``rows_since_go_live`` tells the rows that were written after it from those that were copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from include.cutover.target import ledger, row_versions
from include.cutover.target import schema as target_schema
from include.cutover.target import session as target_session
from include.cutover.target.ledger import Guard

MARKED = "go_live.marker"
"""Event of the cutover's evidence that holds the marker."""


@dataclass(frozen=True)
class Marker:
    """The position of the target right before the application gets access to it.

    Attributes:
        snapshot: PostgreSQL's ``pg_snapshot`` as text.
        at: The server's time.
        server: Its system identifier; empty where the role may not see it.
        rows: Table → rows that it held.
    """

    snapshot: str
    at: str
    server: str
    rows: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return it for ledger and evidence; ``from_dict`` reads it again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Marker:
        """Read ``as_dict``; other fields beside it are ignored."""
        return cls(fields["snapshot"], fields["at"], fields["server"], dict(fields["rows"]))

    @property
    def following(self) -> int:
        """The first transaction that had not begun."""
        return int(self.snapshot.split(":")[1])

    @property
    def open(self) -> list[int]:
        """Transactions before that one which had not ended."""
        return [int(number) for number in self.snapshot.split(":")[2].split(",") if number]


def mark(conninfo: str, schema: str, run_id: str, guard: Guard, rows: Mapping[str, int]) -> Marker:
    """Record the position of the target in the ledger, before the application gets access. Safe to run again.

    Args:
        conninfo: The target's.
        schema: Schema of the application's tables.
        run_id: The cutover's run.
        guard: Refuses when the run no longer holds its lease.
        rows: Table → rows that it holds, as the proof found them.

    Returns:
        The run's marker; a second call returns that of the first.

    Raises:
        Unreachable: When another session is writing to these tables, or the server does not answer.
        LeaseLost: From ``guard``.
    """
    with target_session.session(conninfo, schema) as connection, connection.transaction():
        guard(connection)
        target_schema.lock_tables(connection, schema)
        return mark_within(connection, run_id, rows)


def mark_within(connection: psycopg.Connection, run_id: str, rows: Mapping[str, int]) -> Marker:
    """Record the position as ``mark`` does, in a transaction that called the guard and keeps others from writing."""
    row = connection.execute("SELECT pg_current_snapshot()::text, clock_timestamp()::text").fetchone()
    assert row is not None
    marker = Marker(row[0], row[1], row_versions.server_identifier(connection), dict(rows))
    return Marker.from_dict(ledger.record_marker(connection, run_id, marker.as_dict()))


def recorded(connection: psycopg.Connection, run_id: str) -> Marker | None:
    """Return the marker of a run that has let its application in; None before."""
    found = ledger.value(connection, "SELECT marker FROM cutover.go_live WHERE run_id = %s", run_id)
    return None if found is None else Marker.from_dict(found)
