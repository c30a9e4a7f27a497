"""The audit of decided snapshots, against files and records that were tampered with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from include.cutover.decisions.audit import audit
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.plan.model import Plan
from include.cutover.target.schema import PlannedSchema
from tests.support.deciding import carry_out, database, failed, plan_of, run_sql, schema_of, sha256


@pytest.fixture
def audited(place: Path) -> tuple[Decided, Plan, PlannedSchema]:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY, name TEXT);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER, x DATETIME, flag VARCHAR(3), note TEXT COLLATE NOCASE, r REAL);"
        "CREATE TABLE other (id INTEGER PRIMARY KEY, note TEXT); CREATE TABLE k (a TEXT PRIMARY KEY, b) WITHOUT ROWID",
        {
            "p": [(1, "one"), (2, "two")],
            "t": [
                (n, 1 if n % 4 else n, 1_600_000_000 + n if n % 3 else "2025-01-01", "yes", f"n{n}\0", n / 2)
                for n in range(40)
            ],
            "other": [(n, f"note {n}") for n in range(500)],
            "k": [("a", 1), ("b", 2)],
        },
    )
    kinds = {"id": "integer!", "p": "integer", "x": "timestamp with time zone", "flag": "boolean", "note": "text"}
    planned = schema_of(
        {
            "p": {"id": "integer!", "name": "text"},
            "t": {**kinds, "r": "double precision"},
            "other": {"id": "integer!", "note": "text"},
            "k": {"a": "text!", "b": "integer"},
        },
        [("t", "t_p_fkey", "p", "p", "id")],
    )
    plan = plan_of(
        {
            "p": {},
            "other": {},
            "k": {},
            "t": {
                "columns": {
                    "x": {"datetime": "unix"},
                    "flag": {"boolean": {"yes": True}},
                    "note": {"strip_nul": True},
                },
                "foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}},
            },
        }
    )
    return carry_out(place, snapshot, plan, planned), plan, planned


@pytest.mark.parametrize(
    ("tampering", "found_by"),
    [
        ("UPDATE t SET x = '2020-09-13 12:26:42.000001' WHERE id = 2", "decided_values"),
        ("UPDATE t SET x = 1200000002 WHERE id = 2", "decided_values"),
        ("UPDATE t SET flag = 0 WHERE id = 2", "decided_values"),
        ("UPDATE t SET note = 'N2' WHERE id = 2", "decided_values"),
        ("UPDATE t SET r = CAST(r AS INTEGER) + 0.5 WHERE id = 2", "decided_values"),
        ("UPDATE t SET x = '2025-01-02' WHERE id = 3", "decided_values"),
        ("UPDATE t SET p = NULL WHERE id = 2", "decided_values"),
        ("DELETE FROM t WHERE id = 2", "decided_counts"),
        ("DELETE FROM t WHERE id = 2", "decided_differences"),
        ("INSERT INTO t VALUES (1000, 1, NULL, 1, 'new', 0.5)", "decided_differences"),
        ("INSERT INTO t SELECT 8, p, x, flag, note, r FROM t WHERE id = 2", "decided_differences"),
        ("UPDATE t SET id = 1000 WHERE id = 2", "decided_differences"),
        ("UPDATE other SET note = 'note 3!' WHERE id = 3", "decided_others"),
        ("UPDATE other SET note = 'NOTE 3' WHERE id = 3", "decided_others"),
        ("DELETE FROM other WHERE id = 3", "decided_others"),
        ("INSERT INTO other VALUES (1000, NULL)", "decided_others"),
        ("UPDATE k SET b = 2.0 WHERE a = 'b'", "decided_others"),
        ("DELETE FROM k", "decided_others"),
        ("DELETE FROM p WHERE id = 2", "decided_others"),
        ("DELETE FROM p WHERE id = 1", "decided_orphans"),
        ("INSERT INTO p VALUES (8, 'eight')", "decided_references"),
        ("DROP TABLE other", "decided_schema"),
        ("CREATE TABLE more (id INTEGER)", "decided_schema"),
        ("ALTER TABLE other RENAME COLUMN note TO remark", "decided_schema"),
        ("ALTER TABLE other ADD COLUMN more", "decided_schema"),
        ("UPDATE sqlite_schema SET sql = replace(sql, 'TEXT COLLATE NOCASE', 'REAL') WHERE name = 't'", "decided_schema"),
    ],
)
def test_a_changed_decided_snapshot_is_found(
    audited: tuple[Decided, Plan, PlannedSchema], tampering: str, found_by: str
) -> None:
    decided, plan, planned = audited
    run_sql(decided.file, tampering)
    assert "decided_hash" in failed(audit(decided, plan, planned))
    # A fault of the code that made the file would be in its hash as well.
    checks = audit(replace(decided, sha256=sha256(decided.file)), plan, planned)
    assert found_by in failed(checks), failed(checks)
    assert "decided_hash" not in failed(checks)


@pytest.mark.parametrize(
    ("tampering", "found_by"),
    [
        ("DELETE FROM touched WHERE c = 'x' AND place = 2", "decided_values"),
        ("DELETE FROM touched WHERE place = 2", "decided_differences"),
        ("INSERT INTO touched SELECT t, 'p', 2, 'set_null', 't_p_fkey' FROM tables WHERE name = 't'", "decided_values"),
        ("INSERT INTO touched SELECT t, 'x', 3, 'datetime', NULL FROM tables WHERE name = 't'", "decided_values"),
        ("INSERT INTO touched SELECT t, 'x', 8, 'datetime', NULL FROM tables WHERE name = 't'", "decided_values"),
        ("DELETE FROM removed WHERE place = 8", "decided_differences"),
        ("INSERT INTO removed SELECT t, 2, 't_p_fkey', 0, 1 FROM tables WHERE name = 't'", "decided_differences"),
        ("UPDATE removed SET foreign_key = 'another'", "decided_references"),
        ("DELETE FROM touched WHERE place = 2", "decided_figures"),
    ],
)
def test_a_changed_record_is_found(audited: tuple[Decided, Plan, PlannedSchema], tampering: str, found_by: str) -> None:
    decided, plan, planned = audited
    run_sql(decided.record, tampering)
    assert found_by in failed(audit(decided, plan, planned))


def test_row_taken_out_without_need_is_found(audited: tuple[Decided, Plan, PlannedSchema]) -> None:
    """Row 2 refers to an existing row. Leaving it out with a record that says so is found as well."""
    decided, plan, planned = audited
    run_sql(decided.file, "DELETE FROM t WHERE id = 2")
    run_sql(decided.record, "INSERT INTO removed SELECT t, 2, 't_p_fkey', 0, 1 FROM tables WHERE name = 't'")
    run_sql(decided.record, "DELETE FROM touched WHERE place = 2")
    checks = audit(replace(decided, sha256=sha256(decided.file)), plan, planned)
    assert "decided_references" in failed(checks)
    assert not failed(checks) & {"decided_counts", "decided_differences", "decided_values"}


def test_rows_that_justify_only_one_another_are_found(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, up INTEGER)",
        {"t": [(1, 2), (2, 1), (3, 99), (4, 3)]},
    )
    planned = schema_of({"t": {"id": "integer!", "up": "integer"}}, [("t", "t_up_fkey", "up", "t", "id")])
    plan = plan_of({"t": {"foreign_keys": {"t_up_fkey": {"orphans": "quarantine"}}}})
    decided = carry_out(place, snapshot, plan, planned)
    assert decided.quarantined == {"t": 2}
    run_sql(decided.file, "DELETE FROM t")
    run_sql(decided.record, "INSERT INTO removed VALUES (0, 1, 't_up_fkey', 1, 9), (0, 2, 't_up_fkey', 1, 9)")
    checks = audit(replace(decided, sha256=sha256(decided.file), quarantined={"t": 4}, listing=None), plan, planned)
    assert failed(checks) == {"decided_ground"}


def test_more_than_the_plan_allows_is_found(audited: tuple[Decided, Plan, PlannedSchema]) -> None:
    decided, plan, planned = audited
    tables = {**plan.tables, "t": plan.tables["t"].model_copy(update={"foreign_keys": {}})}
    assert "decided_references" in failed(audit(decided, plan.model_copy(update={"tables": tables}), planned))


def test_a_changed_listing_or_backup_is_found(audited: tuple[Decided, Plan, PlannedSchema]) -> None:
    decided, plan, planned = audited
    assert decided.listing is not None
    content_of = decided.listing.file.read_text().splitlines(keepends=True)
    decided.listing.file.write_text("".join(content_of[1:]))
    assert failed(audit(decided, plan, planned)) == {"decided_listing"}
    decided.snapshot.touch()
    assert "decided_backup" in failed(audit(decided, plan, planned))


def test_tables_are_compared_row_by_row_where_their_pages_moved(place: Path) -> None:
    """With auto_vacuum, taking rows out moves pages of other tables."""
    snapshot = database(
        place / "backup.db",
        "PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL;"
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER, note TEXT);"
        "CREATE TABLE other (id INTEGER PRIMARY KEY, note TEXT, twice AS (note || note))",
        {"t": [(n, n, "x" * 400) for n in range(50)], "p": [(n,) for n in range(0, 50, 2)]},
    )
    run_sql(snapshot, "INSERT INTO other SELECT id, note || id FROM t")
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "p": "integer", "note": "text"}, "other": {"id": "integer!"}},
        [("t", "t_p_fkey", "p", "p", "id")],
    )
    plan = plan_of({"p": {}, "other": {}, "t": {"foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}}}})
    decided = carry_out(place, snapshot, plan, planned)
    assert decided.quarantined == {"t": 25}
    assert decided.file.stat().st_size < snapshot.stat().st_size
