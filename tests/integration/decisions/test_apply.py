"""The plan's decisions applied to real SQLite files: once, again, killed, and read by copy and proof."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from include.cutover.checks import worst
from include.cutover.copying import tables as copying
from include.cutover.copying.table_copy import RunLease
from include.cutover.decisions import decided_snapshot, quarantine
from include.cutover.decisions.apply import apply_decisions
from include.cutover.decisions.audit import audit
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.errors import Refused, WrongData
from include.cutover.target import ledger, row_counts
from include.cutover.target import schema as target_schema
from include.cutover.target.sides import Sides
from tests.support.deciding import (
    EVERYTHING_GOES,
    PLANNED,
    SECRET,
    U1,
    U2,
    U3,
    carry_out,
    database,
    failed,
    plan_of,
    rows_of,
    run_sql,
    schema_of,
    sha256,
    sites_plan,
)
from tests.support.killing import kill_at_every_step


def test_without_a_decision_the_backup_is_not_read(tmp_path: Path) -> None:
    missing = tmp_path / "no backup"
    decided = apply_decisions(missing, tmp_path / "new" / "decided.db", plan_of({"t": {}}), schema_of({"t": {"x": "date"}}))
    assert decided.file == missing and not decided.made
    assert not (tmp_path / "new").exists()


def test_decisions_that_touch_no_row_make_no_file(tmp_path: Path) -> None:
    snapshot = database(
        tmp_path / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, x DATETIME, p INTEGER)",
        {"p": [(1,)], "t": [(1, "2025-10-10 08:08:59", 1), (2, None, None)]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "x": "timestamp with time zone", "p": "integer"}},
        [("t", "t_p_fkey", "p", "p", "id")],
    )
    plan = plan_of(
        {
            "p": {},
            "t": {
                "columns": {"x": {"empty_as_null": True, "strip_nul": True, "datetime": "unix"}},
                "foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}},
            },
        }
    )
    decided = apply_decisions(snapshot, tmp_path / "new" / "decided.db", plan, planned, listing=tmp_path / "evidence")
    assert decided == decided_snapshot.untouched(snapshot)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db"]
    assert decided.expected_rows({"p": 1, "t": 2}) == {"p": 1, "t": 2}
    assert worst(audit(decided, plan, planned)) == "passed"
    assert [*quarantine.rows(decided, plan)] == []


def test_backup_with_a_wal_header_is_cloned_without_it(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x DATE)",
        {"t": [(1, ""), (2, "2025-01-01")]},
    )
    with snapshot.open("r+b") as file:
        file.seek(18)
        file.write(b"\2\2")
    plan, planned = (
        plan_of({"t": {"columns": {"x": {"empty_as_null": True}}}}),
        schema_of({"t": {"id": "integer!", "x": "date"}}),
    )
    decided = carry_out(place, snapshot, plan, planned)
    assert sorted(path.name for path in place.iterdir() if path.name.startswith("decided")) == [
        "decided.db",
        "decided.db.manifest.json",
        "decided.db.record",
    ]
    assert decided.file.read_bytes()[18:20] == b"\1\1"
    assert {path.stat().st_mode & 0o777 for path in place.glob("decided.db*")} == {0o600}


def test_second_run_keeps_the_snapshot_and_writes_the_listing_again(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    first = carry_out(place, sites, plan, PLANNED)
    assert first.listing is not None
    listed, made = first.listing.file.read_bytes(), first.file.stat()
    first.listing.file.unlink()
    assert carry_out(place, sites, plan, PLANNED) == first
    assert first.listing.file.read_bytes() == listed
    assert (first.file.stat().st_ino, first.file.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert decided_snapshot.load(first.file, sites) == replace(first, listing=None)
    assert Decided.from_dict(json.loads(json.dumps(first.as_dict()))) == first


def test_changed_snapshot_is_made_again_with_the_same_bytes(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    first = carry_out(place, sites, plan, PLANNED)
    record = sha256(first.record)
    run_sql(first.file, "DELETE FROM alerts")
    second = carry_out(place, sites, plan, PLANNED)
    assert second == first and sha256(second.record) == record
    assert rows_of(second.file, "SELECT count(*) FROM alerts") == [(1,)]


def test_other_decisions_make_another_snapshot(place: Path, sites: Path) -> None:
    first = carry_out(place, sites, sites_plan(EVERYTHING_GOES), PLANNED)
    other = carry_out(place, sites, sites_plan({**EVERYTHING_GOES, "devices_site_fkey": "set_null"}), PLANNED)
    assert first.sha256 != other.sha256 and sha256(other.file) == other.sha256


def test_killed_at_any_step_it_is_whole_or_not_there(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    reference = carry_out(place, sites, plan, PLANNED)
    original = sha256(sites)

    def begin() -> None:
        for path in [*place.glob("*decided.db*"), *place.glob("evidence")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def action() -> None:
        apply_decisions(sites, place / "decided.db", plan, PLANNED, listing=place / "evidence")

    wheres = []
    for where in kill_at_every_step(begin, action):
        wheres.append(where)
        found = decided_snapshot.load(place / "decided.db", sites)
        assert found is None or sha256(found.file) == reference.sha256, where
        assert sha256(sites) == original
        if len(wheres) % 5 == 0:
            assert carry_out(place, sites, plan, PLANNED) == reference, where
    assert len(wheres) > 20


def test_killed_while_values_change_the_next_run_makes_the_snapshot(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x DATETIME);"
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, i FROM n",
    )
    planned = schema_of({"t": {"id": "integer!", "x": "timestamp with time zone"}})
    plan = plan_of({"t": {"columns": {"x": {"datetime": "unix"}}}})
    child = os.fork()
    if child == 0:
        apply_decisions(snapshot, place / "decided.db", plan, planned)
        os._exit(0)
    while not (place / ".decided.db.partial" / "record").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (place / "decided.db").exists()
    decided = carry_out(place, snapshot, plan, planned)
    assert decided.touched == {"t": {"datetime": 20_000}}
    assert not (place / ".decided.db.partial").exists()


def test_too_little_free_disk_is_refused_before_the_clone(place: Path, sites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    with pytest.raises(Refused, match="free disk"):
        apply_decisions(sites, place / "decided.db", sites_plan(EVERYTHING_GOES), PLANNED)
    assert sorted(path.name for path in place.iterdir()) == [".decided.db.lock", "backup.db"]


def test_errors_and_checks_show_no_secret(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (token TEXT PRIMARY KEY, x TEXT); INSERT INTO t VALUES ('" + SECRET + "', CAST(x'81' AS TEXT))",
    )
    plan = plan_of({"t": {"secret": ["token"], "columns": {"x": {"encoding": "cp1252"}}}})
    planned = schema_of({"t": {"token": "text!", "x": "text"}})
    with pytest.raises(WrongData) as caught:
        apply_decisions(snapshot, place / "decided.db", plan, planned)
    assert SECRET not in str(caught.value) and "token=***" in str(caught.value)
    plan = plan_of({"t": {"secret": ["token"], "columns": {"x": {"encoding": "latin-1"}}}})
    decided = carry_out(place, snapshot, plan, planned)
    run_sql(decided.file, "UPDATE t SET x = 'other'")
    checks = audit(decided, plan, planned)
    assert "decided_values" in failed(checks) and SECRET not in json.dumps([check.as_dict() for check in checks])


def test_copy_and_proof_read_the_decided_snapshot(place: Path, conninfo: str, tmp_path: Path) -> None:
    folder = tmp_path / "sql"
    for name, sql in {
        "pre_data": (
            "CREATE TABLE sites (id uuid NOT NULL, since timestamptz, open boolean, name varchar(20));"
            "CREATE TABLE devices (id uuid NOT NULL, site uuid NOT NULL, tags jsonb, seen timestamptz)"
        ),
        "post_data": "ALTER TABLE sites ADD PRIMARY KEY (id); ALTER TABLE devices ADD PRIMARY KEY (id)",
        "foreign_keys": "ALTER TABLE devices ADD CONSTRAINT devices_site_fkey FOREIGN KEY (site) REFERENCES sites (id)",
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "001_all.sql").write_text(sql)
    planned = target_schema.planned_schema(conninfo, folder)
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE sites (id UUID PRIMARY KEY, since DATETIME, open VARCHAR(5), name VARCHAR(20));"
        "CREATE TABLE devices (id UUID PRIMARY KEY, site VARCHAR(36) NOT NULL, tags JSON, seen DATETIME)",
        {
            "sites": [(U1.replace("-", ""), 1627301106, "true", "Caf\0"), (U2, "2021-07-26 12:05:06", "false", b"Caf\xe9")],
            "devices": [
                (U1, U1.upper(), r'{"a": "\u0000x"}', ""),
                (U2, U3, None, 1627301106.25),
                (U3, U2, "[1]", 1627301106.25),
            ],
        },
    )
    plan = plan_of(
        {
            "sites": {
                "columns": {
                    "since": {"datetime": "unix"},
                    "open": {"boolean": {"true": True, "false": False}},
                    "name": {"strip_nul": True, "encoding": "latin-1"},
                }
            },
            "devices": {
                "columns": {"tags": {"strip_nul": True}, "seen": {"empty_as_null": True, "datetime": "unix"}},
                "foreign_keys": {"devices_site_fkey": {"orphans": "quarantine", "at_most": 1}},
            },
        }
    )
    decided = carry_out(place, snapshot, plan, planned)
    with psycopg.connect(conninfo) as connection:
        connection.execute((folder / "pre_data" / "001_all.sql").read_bytes())
    ledger.ensure(conninfo)
    epoch = ledger.open_run(conninfo, "run 1", "house")
    for table in plan.tables:
        copying.copy_table(Sides(decided.file, conninfo, "public"), RunLease("run 1", epoch), table)
    with psycopg.connect(conninfo) as connection:
        for name in ("post_data", "foreign_keys"):
            connection.execute((folder / name / "001_all.sql").read_bytes())
        connection.execute("SET TimeZone = 'UTC'")
        assert connection.execute("SELECT since::text, open, name FROM sites ORDER BY id").fetchall() == [
            ("2021-07-26 12:05:06+00", True, "Caf"),
            ("2021-07-26 12:05:06+00", False, "Café"),
        ]
        assert connection.execute("SELECT tags, seen::text FROM devices ORDER BY id").fetchall() == [
            ({"a": "x"}, None),
            ([1], "2021-07-26 12:05:06.25+00"),
        ]
        counts = row_counts.of_schema(connection, "public")
    assert counts == decided.expected_rows({"sites": 2, "devices": 3})
    from include.cutover.proof import content

    results = content.compare(Sides(decided.file, conninfo, "public"), list(plan.tables))
    assert {result.outcome for result in results} == {"passed"}, results


def test_two_processes_at_once_make_one_snapshot(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                apply_decisions(sites, place / "decided.db", plan, PLANNED, listing=place / "evidence")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert carry_out(place, sites, plan, PLANNED).quarantined == {"alerts": 3, "devices": 2, "sites": 1}
