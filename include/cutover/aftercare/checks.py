"""Checks of the application and its data after go-live: health, latency, scheduled jobs, sequences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import sql

from include.cutover.aftercare import statistics
from include.cutover.application import requests
from include.cutover.checks import Check, Outcome
from include.cutover.errors import CannotCheck
from include.cutover.plan.afterwards import Aftercare, GrowingTable
from include.cutover.plan.application import SmokeTests
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.target import sequences as target_sequences

_ENOUGH = 5.0  # fewer expected rows are too few for a result
_SECONDS = 120.0


# --- the application ----------------------------------------------------------------------------------------------------


def health_and_latency(smoke: SmokeTests, limits: Aftercare) -> tuple[list[Check], dict[str, float]]:
    """Ask for the application's health several times, and measure the answers.

    Returns:
        Both checks, and the percentiles in seconds, of the healthy answers only.
    """
    asked = [requests.timed_health(smoke) for _ in range(limits.requests)]
    sick = [check for check, _ in asked if check.outcome != "passed"]
    health = Check(
        "aftercare_health",
        "The application is healthy and runs on PostgreSQL",
        "failed" if sick else "passed",
        f"{limits.requests} healthy answers",
        f"{len(sick)} of {limits.requests} were not healthy: {sick[-1].found}" if sick else asked[-1][0].found,
        "Read the application's log." if sick else "",
        asked[-1][0].where,
    )
    times = sorted(seconds for check, seconds in asked if check.outcome == "passed")
    if not times:
        latency = Check(
            "aftercare_latency", "The application answers quickly", "unknown", found="no healthy answer",
            do="Restore its health first.", where=health.where,
        )  # fmt: skip
        return [health, latency], {}
    figures = {"p50": percentile(times, 50), "p95": percentile(times, 95), "max": times[-1]}
    passed = figures["p50"] <= limits.p50_seconds and figures["p95"] <= limits.p95_seconds
    latency = Check(
        "aftercare_latency",
        "The application answers quickly",
        "passed" if passed else "failed",
        f"half within {limits.p50_seconds:g} s, 95 of 100 within {limits.p95_seconds:g} s",
        ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in figures.items()),
        "" if passed else "Find slow queries in pg_stat_activity, and check the load of both hosts.",
        health.where,
    )
    return [health, latency], {name: round(seconds, 4) for name, seconds in figures.items()}


def percentile(times: Sequence[float], percent: float) -> float:
    """Return the percentile by nearest rank: the smallest of the sorted values that so many of a hundred do not exceed."""
    return times[max(0, math.ceil(percent / 100 * len(times)) - 1)]


# --- the scheduled jobs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """The speed at which a table grew before the cutover.

    Attributes:
        rows: Rows of the time before the services stopped.
        seconds: How long that time was.
        problem: Why the rate is unknown; empty otherwise.
    """

    rows: int
    seconds: float
    problem: str = ""

    @property
    def per_second(self) -> float:
        """Rows in a second; 0 where the rate is unknown."""
        return self.rows / self.seconds if self.seconds > 0 and not self.problem else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it for the evidence."""
        return asdict(self)


def rate_before(snapshot: Path, plan: Plan, growing: GrowingTable, stopped: datetime) -> Rate:
    """Return the rate at which rows came in the last ``baseline_minutes`` before the services stopped. Never raises.

    Naive times count as UTC, as everywhere in the copy.

    Args:
        snapshot: The SQLite file that was copied.
        plan: The cutover's plan.
        growing: The table, and its column of times.
        stopped: When the services stopped.
    """
    table, column = f"main.{source_schema.quote(growing.table)}", source_schema.quote(growing.column)
    decision = plan.tables[growing.table].columns.get(growing.column)
    kind = decision.datetime if decision is not None else None
    number = {"unix": "{c}", "unix_ms": "{c} / 1000.0", "julian": "({c} - 2440587.5) * 86400"}.get(kind or "", "NULL")
    moment = (
        f"CASE typeof({column}) WHEN 'text' THEN unixepoch({column}, 'subsec')"
        f" WHEN 'null' THEN NULL ELSE {number.format(c=column)} END"
    )
    end, seconds = stopped.timestamp(), growing.baseline_minutes * 60
    # Text that begins with an earlier day cannot be of that time in any time zone; an index may help with that.
    day = (stopped - timedelta(seconds=seconds, days=1)).strftime("%Y-%m-%d")
    recent = f"(typeof({column}) <> 'text' OR {column} >= ?3)"
    try:
        with snapshots.snapshot(snapshot) as reading:
            query = (
                f"SELECT count(*), min(moment) FROM (SELECT {moment} AS moment FROM {table} WHERE {recent})"  # noqa: S608
                " WHERE moment >= ?1 AND moment < ?2"
            )
            rows, first = reading.execute(query, (end - seconds, end, day)).fetchall()[0]
            older = reading.execute(
                f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {moment} < ?1)",  # noqa: S608 - quoted identifiers
                (end - seconds,),
            ).get
    except Exception as error:  # noqa: BLE001  # apsw's own, and a missing file: reported as unknown
        return Rate(0, 0, f"{type(error).__name__}: the snapshot cannot be read")
    if not rows:
        return Rate(0, seconds, "the snapshot has no row from that time")
    # An application younger than that time began with its first row.
    return Rate(int(rows), seconds if older else max(1.0, end - float(str(first))))


@dataclass(frozen=True)
class Observation:
    """The time in which rows are counted.

    Attributes:
        started: When the services had started on the target; older rows were copied.
        since: The previous round.
        now: This round.
        own_rows: Times at which our own tests made the application write a row into the table.
        last: No later round follows, which could decide what this one cannot yet.
        clock: Says that the clock was set in that time; empty where it was not.
    """

    started: datetime
    since: datetime
    now: datetime
    own_rows: Sequence[datetime] = ()
    last: bool = False
    clock: str = ""


def growth(conninfo: str, schema: str, growing: GrowingTable, rate: Rate, seen: Observation) -> Check | None:
    """Check that rows come as fast as before: since the previous round, or for longer where few rows are expected.

    Args:
        conninfo: The target's.
        schema: Schema of the application's tables.
        growing: The table, and how many rows may be missing.
        rate: How fast it grew before the cutover.
        seen: The time in which rows are counted.

    Returns:
        The check; None where it is too early to decide.

    Raises:
        Unreachable, StepFailed: See ``target.session``.
    """
    name, title = f"aftercare_growth_{growing.table}", f"{growing.table} grows as fast as before"
    do = "Check that the scheduler and its workers run, and read their logs."

    def check(outcome: Outcome, wanted: str, found: str) -> Check:
        return Check(name, title, outcome, wanted, found, "" if outcome == "passed" else do, growing.table)

    if rate.per_second <= 0:
        return check("unknown", "", f"the rate before the cutover is unknown: {rate.problem}")
    if seen.clock:
        return check("unknown", "", f"rows cannot be counted by their times: {seen.clock}")
    share = 1 - growing.tolerance
    begin = max(seen.started, min(seen.since, seen.now - timedelta(seconds=_ENOUGH / (rate.per_second * share))))
    seconds = (seen.now - begin).total_seconds()
    expected = rate.per_second * seconds * share
    if expected < _ENOUGH * 0.999:
        if not seen.last:
            return None
        return check("unknown", f"{expected:.1f} rows or more", "too few rows expected during the aftercare for a result")
    query = sql.SQL("SELECT count(*) FROM {} WHERE {column} >= %s AND {column} < %s").format(
        sql.Identifier(schema, growing.table), column=sql.Identifier(growing.column)
    )
    with statistics.reading(conninfo, schema, seconds=_SECONDS) as connection:
        row = connection.execute(query, [begin, seen.now]).fetchone()
    rows = max(0, (int(row[0]) if row else 0) - sum(begin <= moment < seen.now for moment in seen.own_rows))
    before = f"{rate.per_second * 60:,.1f} a minute before"
    return check(
        "passed" if rows >= expected else "failed",
        f"{expected:,.0f} rows or more in {seconds:,.0f} s ({before}, {growing.tolerance:.0%} may be missing)",
        f"{rows:,} rows",
    )


# --- sequences ----------------------------------------------------------------------------------------------------------


def sequences(conninfo: str, schema: str, sqlite_sequence: Mapping[str, int]) -> list[Check]:
    """Check that every sequence is still ahead of the keys in its columns: one check, which names those that are not.

    Raises:
        CannotCheck, Unreachable, StepFailed: See ``target.sequences``.
    """
    found = target_sequences.check_sequences(conninfo, schema, sqlite_sequence, draw=False)
    bad = [check for check in found if check.outcome != "passed"]
    return [
        Check(
            "aftercare_sequences",
            "Every sequence is ahead of its keys",
            "failed" if bad else "passed",
            f"{len(found)} sequences ahead",
            "; ".join(f"{check.where}: {check.found}, expected {check.expected}" for check in bad) or "all of them",
            bad[0].do if bad else "",
            "; ".join(check.where for check in bad),
        )
    ]


def could_not(name: str, title: str, error: Exception) -> Check:
    """Return the unknown check in the place of one that could not be made."""
    if isinstance(error, CannotCheck):
        return Check(name, title, "unknown", error.expected, error.found or error.message, error.do, error.where)
    return Check(name, title, "unknown", found=getattr(error, "message", type(error).__name__), do=getattr(error, "do", ""))
