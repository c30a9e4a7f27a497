"""The ledger finds a lost row, and believes no record that is too early, too small or of another table."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from examples.ward_ops.generate import generate
from examples.ward_ops.supervised import WardOps
from include.cutover.stack.postgres import Cluster, free_port
from tests.faults import pulse
from tests.faults.acknowledged import Kept, Ledger, Row, rows_of_sqlite, rows_of_target
from tests.support.loaded import ward_ops

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROW = Row(7, "10.0.0.1", "2026-01-01T00:00:00.000123", "postgresql", NOW.timestamp())
THERE = {7: ("10.0.0.1", "2026-01-01 00:00:00.000123")}
FIGURES = {"inserted": 1, "updated": 0, "deleted": 0, "in_words": "1 inserted"}


def judged(
    *rows: Row, live: Mapping[int, tuple[str, str]] | None = None, events: list[dict[str, Any]] | None = None
) -> Kept:
    ledger = Ledger("http://127.0.0.1:1")
    ledger.rows = list(rows)
    return ledger.judged(live or {}, [events or []])


def event(after: float = 1.0, **fields: Any) -> dict[str, Any]:
    return {"event": "step.end", "time": (NOW + timedelta(seconds=after)).isoformat(), **fields}


def named(tables: Any, **more: Any) -> dict[str, Any]:
    return event(figures={"rows_written_after_go_live": tables}, **more)


def test_a_row_that_is_there_is_found_on_both_databases() -> None:
    assert judged(ROW, live=THERE).live == 1
    assert judged(replace(ROW, moment="2026-01-01T04:00:00.000123+04:00"), live=THERE).live == 1


@pytest.mark.parametrize(
    "live", [{}, {7: ("10.0.0.2", "2026-01-01 00:00:00.000123")}, {7: ("10.0.0.1", "2026-01-01 00:00:01")}]
)
def test_a_row_that_is_gone_is_lost_also_where_its_key_was_given_again(live: dict[int, tuple[str, str]]) -> None:
    found = judged(ROW, live=live)
    assert (found.live, found.named, len(found.lost)) == (0, 0, 1)


def test_a_row_that_was_named_is_left_behind() -> None:
    for events in (
        [named({"ping_results": FIGURES})],
        [named("unknown")],
        [{**event(), "event": "rows.written", "tables": {"ping_results": FIGURES}}],
        [{**event(), "event": "rows.written", "tables": None}],
    ):
        assert judged(ROW, events=events) == Kept(live=0, named=1)


@pytest.mark.parametrize(
    "events",
    [
        [named({"users": FIGURES})],
        [named({})],
        [named({"ping_results": FIGURES}, after=-60)],
        [event(figures={"rows": {"ping_results": 12}})],
    ],
)
def test_a_record_of_something_else_names_no_row(events: list[dict[str, Any]]) -> None:
    assert judged(ROW, events=events).named == 0


def test_a_number_smaller_than_what_is_missing_names_no_row() -> None:
    found = judged(ROW, replace(ROW, id=8), events=[named({"ping_results": FIGURES})])
    assert (found.named, len(found.lost)) == (0, 2)


def test_a_count_that_forgets_the_rows_names_none() -> None:
    counted = {**event(), "event": "rows.written", "tables": {"ping_results": FIGURES}}
    forgets = {**event(2.0), "event": "rows.written", "tables": {"ping_results": {"inserted": 0, "deleted": 21_591}}}
    assert judged(ROW, events=[counted, forgets]).named == 0
    assert judged(ROW, events=[forgets]).named == 0
    assert judged(ROW, events=[forgets, counted]).named == 1


def test_an_application_that_does_not_run_acknowledges_nothing() -> None:
    assert Ledger(f"http://127.0.0.1:{free_port()}").write() == []


def test_a_running_application_acknowledges_and_the_rows_are_in_its_file(tmp_path: Path) -> None:
    site = WardOps(tmp_path, port=free_port(), supervisor_port=free_port(), password="only-for-this-test")
    site.prepare(pings=50)
    site.start()
    try:
        ledger = Ledger(site.url)
        assert len(ledger.write(3)) == 3
        assert len({row.device_ip for row in ledger.rows}) == 3 and {row.on for row in ledger.rows} == {"sqlite"}
        assert ledger.judged(rows_of_sqlite(site.database), []) == Kept(live=3)
        with closing(sqlite3.connect(site.database, timeout=10)) as connection, connection:
            connection.execute("DELETE FROM ping_results WHERE id = ?", [ledger.rows[1].id])
        found = ledger.judged(rows_of_sqlite(site.database), [])
        assert found.live == 2 and [str(ledger.rows[1]) in text for text in found.lost] == [True]
    finally:
        site.stop()


def test_the_target_is_read_as_it_is(cluster: Cluster, tmp_path: Path) -> None:
    source = generate(tmp_path / "plain.db", pings=20).file
    with ward_ops(cluster, tmp_path, pings=20) as loaded, psycopg.connect(loaded.conninfo):
        found, wanted = rows_of_target(loaded.conninfo), rows_of_sqlite(source)
    assert set(found) == set(wanted) and len(found) == 20


def test_the_heart_beat_follows_the_machine_between_its_floor_and_its_ceiling() -> None:
    assert [pulse.of(seconds).task for seconds in (0.1, 1.1, 2.0, 5.0, 100.0)] == [8, 8, 12, 30, 60]
    quiet, busy = pulse.of(1.0), pulse.of(5.0)
    assert (quiet.scheduler, busy.scheduler) == (5, 19)
    assert (quiet.patience(12), busy.patience(12)) == (12, 45)
    assert not quiet.follows(busy) and not busy.follows(quiet)
    assert busy.follows(pulse.of(4.0)) and quiet.follows(quiet)


def test_the_heart_beat_is_measured_with_what_a_task_imports() -> None:
    assert pulse.FLOOR <= pulse.measured().task <= pulse.CEILING
