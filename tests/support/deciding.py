"""Plans with decisions and real SQLite files for them, the decisions carried out on them and audited."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
from hypothesis import HealthCheck, settings

from include.cutover.checks import Check, worst
from include.cutover.decisions.apply import apply_decisions
from include.cutover.decisions.audit import audit
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.plan.model import Plan
from include.cutover.source import snapshots
from include.cutover.target.catalog import Column, ForeignKey
from include.cutover.target.schema import PlannedSchema

Made = Callable[..., Decided]


SECRET = "gAAAA-the-secret-of-the-house"


def plan_of(tables: Mapping[str, Any]) -> Plan:
    person = {"user": "lead", "name": "Lead", "email": "lead@example.org"}
    return Plan.model_validate(
        {
            "name": "house",
            "application": "House",
            "connections": {"source": "s", "target": "t", "application": "a"},
            "tables": {name: settings or {} for name, settings in tables.items()},
            "backup": {"directory": "/nowhere"},
            "people": {"lead": person, "observer": person, "communicator": person},
            "channels": {"mail_from": "a@example.org", "mail_to": ["b@example.org"]},
            "notices": {"start": "s", "completion": "c", "rollback": "r"},
        }
    )


def schema_of(tables: Mapping[str, Mapping[str, str]], keys: Sequence[tuple[str, str, str, str, str]] = ()) -> PlannedSchema:
    """Columns as ``type``, or ``type!`` for NOT NULL; keys as (table, name, columns, referenced table, its columns)."""
    return PlannedSchema(
        columns={
            table: [Column(name, kind.rstrip("!"), kind.endswith("!"), None, False, False) for name, kind in columns.items()]
            for table, columns in tables.items()
        },
        primary_keys={table: [next(iter(columns))] for table, columns in tables.items()},
        foreign_keys=[
            ForeignKey(name, table, tuple(own.split()), other, tuple(others.split()), "NO ACTION", False)
            for table, name, own, other, others in keys
        ],
    )


def database(path: Path, sql: str, rows: Mapping[str, Sequence[Sequence[Any]]] | None = None) -> Path:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA synchronous = OFF").fetchall()
    connection.execute(sql).fetchall()
    with connection:
        for table, items in (rows or {}).items():
            marks = ", ".join("?" for _ in items[0])
            connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', items)
    connection.close()
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    with snapshots.snapshot(path) as connection:
        return connection.execute(query).fetchall()


def run_sql(path: Path, sql: str, *bindings: Any) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    connection.execute(sql, bindings or None).fetchall()
    connection.close()


def lines(decided: Decided) -> list[dict[str, Any]]:
    assert decided.listing is not None
    return [json.loads(line) for line in decided.listing.file.read_text().splitlines()]


def failed(checks: Sequence[Check]) -> set[str]:
    return {check.name for check in checks if check.outcome != "passed"}


def carry_out(place: Path, snapshot: Path, plan: Plan, planned: PlannedSchema) -> Decided:
    """Apply, prove that the backup is as it was, and audit."""
    before = sha256(snapshot)
    decided = apply_decisions(snapshot, place / "decided.db", plan, planned, listing=place / "evidence")
    assert sha256(snapshot) == before
    checks = audit(decided, plan, planned)
    assert worst(checks) == "passed", [check for check in checks if check.outcome != "passed"]
    return decided


def one_column(
    place: Path, declared: str, kind: str, decision: Mapping[str, Any], values: Sequence[Any], table: str = ""
) -> tuple[list[tuple[Any, str]], Decided]:
    """The values of one column after the decision, each with its storage class."""
    snapshot = place / "backup.db"
    snapshot.unlink(missing_ok=True)
    shutil.rmtree(place / "evidence", ignore_errors=True)
    database(snapshot, table or f"CREATE TABLE t (id INTEGER PRIMARY KEY, x {declared})")
    connection = apsw.Connection(str(snapshot))
    with connection:
        for value in values:
            if isinstance(value, tuple):  # text as bytes
                connection.execute("INSERT INTO t (x) VALUES (CAST(? AS TEXT))", value)
            else:
                connection.execute("INSERT INTO t (x) VALUES (?)", (value,))
    connection.close()
    planned = schema_of({"t": {"id": "integer!", "x": kind}})
    decided = carry_out(place, snapshot, plan_of({"t": {"columns": {"x": decision}}}), planned)
    return rows_of(decided.file, "SELECT x, typeof(x) FROM t ORDER BY id"), decided


U1, U2, U3 = (f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "abc")


SITES = """
    CREATE TABLE regions (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE sites (id TEXT PRIMARY KEY, region INTEGER);
    CREATE TABLE devices (id TEXT PRIMARY KEY, site TEXT, main TEXT, secret TEXT);
    CREATE TABLE alerts (id INTEGER PRIMARY KEY, device TEXT, other TEXT, note BLOB);
"""


KEYS = [
    ("sites", "sites_region_fkey", "region", "regions", "id"),
    ("devices", "devices_site_fkey", "site", "sites", "id"),
    ("devices", "devices_main_fkey", "main", "devices", "id"),
    ("alerts", "alerts_device_fkey", "device", "devices", "id"),
    ("alerts", "alerts_other_fkey", "other", "devices", "id"),
]


PLANNED = schema_of(
    {
        "regions": {"id": "integer!", "name": "text"},
        "sites": {"id": "uuid!", "region": "integer"},
        "devices": {"id": "uuid!", "site": "uuid", "main": "uuid", "secret": "text"},
        "alerts": {"id": "integer!", "device": "uuid", "other": "uuid", "note": "bytea"},
    },
    KEYS,
)


def sites_plan(choices: Mapping[str, str], at_most: int = 100) -> Plan:
    tables: dict[str, Any] = {"regions": {}, "sites": {}, "devices": {"secret": ["secret"]}, "alerts": {}}
    for table, name, *_ in KEYS:
        if name in choices:
            tables[table].setdefault("foreign_keys", {})[name] = {"orphans": choices[name], "at_most": at_most}
    return plan_of(tables)


EVERYTHING_GOES = {name: "quarantine" for _, name, *_ in KEYS}


ANYTHING = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
