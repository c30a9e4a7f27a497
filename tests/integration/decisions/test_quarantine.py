"""Originals of touched rows, kept in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.cutover.decisions import quarantine
from include.cutover.errors import LeaseLost, Refused
from include.cutover.target import ledger
from tests.support.deciding import EVERYTHING_GOES, PLANNED, SECRET, U2, carry_out, run_sql, sites_plan


def quarantined(conninfo: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo) as connection:
        query = "SELECT run_id, table_name, key, kind, reason, row FROM cutover.quarantine ORDER BY 1, 2, 3"
        return connection.execute(query).fetchall()


def test_rows_are_kept_whole_in_the_target(place: Path, sites: Path, conninfo: str) -> None:
    run_sql(sites, "UPDATE alerts SET note = ? WHERE id = 2", b"\0\xff")
    run_sql(sites, "UPDATE devices SET main = CAST(x'ff' AS TEXT) || 'ა' WHERE id = 'd1'")
    run_sql(sites, "UPDATE alerts SET note = 'nul' || char(0) WHERE id = 3; UPDATE alerts SET note = 9e999 WHERE id = 4")
    plan = sites_plan(EVERYTHING_GOES)
    decided = carry_out(place, sites, plan, PLANNED)
    expected = {"alerts": 4, "devices": 3, "sites": 1}
    assert quarantine.stored(conninfo, "run 1") == {}
    assert quarantine.store(conninfo, "run 1", quarantine.rows(decided, plan)) == expected
    first = quarantined(conninfo)
    rows = {(table, key): row for _, table, key, _, _, row in first}
    assert rows["devices", "id=d2"] == {"id": "d2", "site": "{" + U2 + "}", "main": None, "secret": SECRET}
    assert rows["devices", "id=d1"]["main"] == {"text": "ff" + "ა".encode().hex()}
    assert rows["alerts", "id=2"]["note"] == {"blob": "00ff"}
    assert rows["alerts", "id=3"]["note"] == {"text": b"nul\0".hex()}
    assert rows["alerts", "id=4"]["note"] == {"real": "Infinity"}
    reasons = {(table, key): (kind, reason) for _, table, key, kind, reason, _ in first}
    assert reasons["alerts", "id=2"] == ("taken out", "alerts_device_fkey: the row that it refers to is in quarantine")

    assert quarantine.store(conninfo, "run 1", quarantine.rows(decided, plan)) == expected
    assert quarantined(conninfo) == first
    assert quarantine.store(conninfo, "run 2", []) == {}
    assert quarantine.stored(conninfo, "run 1") == expected
    ledger.ensure(conninfo)


def test_a_lost_lease_keeps_the_quarantine_as_it_is(place: Path, sites: Path, conninfo: str) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    decided = carry_out(place, sites, plan, PLANNED)
    ledger.ensure(conninfo)
    epoch = ledger.open_run(conninfo, "run 1", "house")
    guard = ledger.guard("run 1", epoch)
    assert sum(quarantine.store(conninfo, "run 1", quarantine.rows(decided, plan), guard).values()) == 6
    ledger.take_over(conninfo, "run 1", "rollback")
    with pytest.raises(LeaseLost):
        quarantine.store(conninfo, "run 1", [], guard)
    assert sum(quarantine.stored(conninfo, "run 1").values()) == 6


def test_failed_write_leaves_the_rows_of_the_earlier_one(place: Path, sites: Path, conninfo: str) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    decided = carry_out(place, sites, plan, PLANNED)
    quarantine.store(conninfo, "run 1", quarantine.rows(decided, plan))

    def broken() -> Iterator[quarantine.QuarantinedRow]:
        yield next(quarantine.rows(decided, plan))
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        quarantine.store(conninfo, "run 1", broken())
    assert sum(quarantine.stored(conninfo, "run 1").values()) == 6


def test_another_table_of_that_name_is_left_alone(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE SCHEMA cutover; CREATE TABLE cutover.quarantine (patient text)")
    with pytest.raises(Refused, match="is not the quarantine"):
        quarantine.store(conninfo, "run 1", [])
