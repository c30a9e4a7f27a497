"""The rows that the application acknowledged during a cell: each is in the database that is live in the end, or was named.

The harness asks the application over HTTP to write, as a user's browser does, before the first run and whenever the
application runs again. An answer of 2xx is a promise. In the end each of these rows is looked for with sqlite3 or psycopg in
the database that is live. One that is not there counts as left behind only where the evidence holds a record, made after the
row was written, that names its table with at least as many rows, or says that their number is unknown, and where no later
count forgets them.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.faults.true_time import true_time

TABLE = "ping_results"
NAMED_IN = ("rows_written", "rows.written", "rows_beyond")
"""Beginnings of the keys and events of the evidence under which rows are named that a way back leaves behind."""

COUNTED = "rows.written"
"""The event of a count of the rows written to the target since go-live."""


@dataclass(frozen=True)
class Row:
    """A row of ping_results that the application answered 2xx for.

    Attributes:
        moment: Its timestamp as the application read it back; empty where it could not any more.
        on: ``sqlite`` or ``postgresql``, as the application said right before.
        when: When the answer came.
    """

    id: int
    device_ip: str
    moment: str
    on: str
    when: float

    def __str__(self) -> str:
        return f"{TABLE} {self.id} of {self.device_ip}, written on {self.on} at {datetime.fromtimestamp(self.when, UTC):%X}"


@dataclass
class Kept:
    """The whereabouts of a cell's rows at its end.

    Attributes:
        live: Rows that are in the database that is live.
        named: Rows that are not, and were named as left behind.
        lost: Rows that are neither, in words.
    """

    live: int = 0
    named: int = 0
    lost: list[str] = field(default_factory=list)


class Ledger:
    """The acknowledged rows of one cell.

    Args:
        url: Base URL of the application.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.rows: list[Row] = []

    def write(self, count: int = 2) -> list[Row]:
        """Ask the application for some rows; return those that it acknowledged, none where it does not run."""
        found = []
        with contextlib.suppress(httpx.HTTPError, ValueError, LookupError):
            for device in self._get(f"/api/v1/devices?limit={count}&offset={len(self.rows)}")["items"]:
                found.append(self._write(device["id"]))
                self.rows.append(found[-1])
        return found

    def _write(self, device: str) -> Row:
        on = str(self._get("/api/v1/health")["database"])
        answer = httpx.post(f"{self._url}/api/v1/devices/{device}/ping", timeout=15, trust_env=False)
        answer.raise_for_status()
        key, when = int(answer.json()["id"]), time.time()
        read = self.read(key) or {}
        return Row(key, str(answer.json()["device_ip"]), str(read.get("timestamp") or ""), on, when)

    def read(self, key: int) -> dict[str, Any] | None:
        """Return a row as the application reads it; None where it does not."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            return self._get(f"/api/v1/pings/{key}")
        return None

    def _get(self, path: str) -> dict[str, Any]:
        answer = httpx.get(self._url + path, timeout=10, trust_env=False)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    # ---- in the end --------------------------------------------------------------------------------------------------

    def judged(self, live: Mapping[int, tuple[str, str]], evidence: Sequence[Sequence[Mapping[str, Any]]]) -> Kept:
        """Return what became of the rows.

        Args:
            live: The rows of the database that is live: key → address and timestamp.
            evidence: The events of each run.
        """
        found = Kept()
        missing = [row for row in self.rows if not _is(row, live.get(row.id))]
        found.live = len(self.rows) - len(missing)
        for on in ("sqlite", "postgresql"):
            of_one = [row for row in missing if row.on == on]
            named = [row for row in of_one if _named(row, len(of_one), evidence)]
            found.named += len(named)
            found.lost += [
                f"acknowledged, and neither there nor named by the newest record: {row}"
                for row in of_one
                if row not in named
            ]
        return found


def _is(row: Row, found: tuple[str, str] | None) -> bool:
    if found is None or found[0] != row.device_ip:
        return False
    return not row.moment or _moment(found[1]) == _moment(row.moment)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _named(row: Row, count: int, evidence: Sequence[Sequence[Mapping[str, Any]]]) -> bool:
    """Report whether a record that was made after the row names its table, with at least ``count`` rows.

    A count that names them and is followed by one that does not is forgotten: documents show the newest.
    """
    named = False
    for events in evidence:
        later = [event for event in events if true_time(event) >= row.when - 1]
        naming = [event for event in later if any(number is None or number >= count for number in _numbers(event))]
        counts = [event for event in later if event["event"] == COUNTED]
        if counts and counts[-1] not in naming and any(event in naming for event in counts):
            return False
        named = named or bool(naming)
    return named


def _numbers(event: Mapping[str, Any]) -> Iterator[int | None]:
    """Yield the numbers of rows that an event names as left behind; None where it calls them unknown."""
    named = [value for key, value in _walk(event) if key.startswith(NAMED_IN)]
    if str(event["event"]).startswith(NAMED_IN):
        named.append("unknown" if event.get("tables") is None else event["tables"])
    for tables in named:
        if tables == "unknown":
            yield None
        elif isinstance(tables, Mapping) and isinstance(figures := tables.get(TABLE), Mapping):
            yield max((value for key, value in figures.items() if isinstance(value, int) and key != "deleted"), default=0)
        elif isinstance(tables, Mapping) and isinstance(figures, int):
            yield figures


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _walk(inner)


def rows_of_sqlite(database: Path) -> dict[int, tuple[str, str]]:
    """Return the rows of the table in a SQLite file that may be in use."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=15)) as connection:
        query = f'SELECT id, device_ip, "timestamp" FROM {TABLE}'
        return {key: (address, str(moment)) for key, address, moment in connection.execute(query)}


def rows_of_target(conninfo: str) -> dict[int, tuple[str, str]]:
    """Return the rows of the table in the target."""
    with psycopg.connect(conninfo) as connection:
        query = f'SELECT id, device_ip, "timestamp" FROM public.{TABLE}'
        return {key: (address, moment.isoformat()) for key, address, moment in connection.execute(query.encode())}


def events_in(folder: Path) -> list[list[dict[str, Any]]]:
    """Return the events of each run of a plan's evidence, as they lie there."""
    found = []
    for file in folder.glob("*/events.jsonl"):
        lines = file.read_bytes().split(b"\n")[:-1]
        found.append([json.loads(line) for line in lines if line.startswith(b"{")])
    return found
