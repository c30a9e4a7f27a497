"""The guard on the tables of a migration: it stands on every table and partition, and nothing else passes for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw
import psycopg
import pytest

from include.cutover.copying.table_copy import RunLease
from include.cutover.copying.tables import copy_table
from include.cutover.errors import LeaseLost, Refused
from include.cutover.target import ledger, sql_runner, structure, write_guard
from include.cutover.target import schema as target_schema
from include.cutover.target.drop import drop_objects
from include.cutover.target.sides import Sides
from tests.support.target_schema import ask, lost, prepare

TABLES = """
    CREATE TABLE plain (id bigint PRIMARY KEY, name text);
    CREATE TABLE parts (id bigint, at date) PARTITION BY RANGE (at);
    CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE schema_migrations (name text);
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'
"""


def raised(conninfo: str) -> ledger.Guard:
    """Make the tables, and guard them for the run ``one``."""
    prepare(conninfo, TABLES)
    ledger.ensure(conninfo)
    guard = ledger.guard("one", ledger.open_run(conninfo, "one", "shop"))
    assert write_guard.raise_guard(conninfo, "app", guard) == ["parts", "parts_2026", "plain"]
    return guard


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO plain VALUES (1)",
        "INSERT INTO parts VALUES (1, '2026-05-05')",
        "INSERT INTO parts_2026 VALUES (1, '2026-05-05')",
        "UPDATE parts SET id = 2",
        "DELETE FROM parts_2026",
        "TRUNCATE plain",
        "MERGE INTO plain USING (SELECT 1 AS id) AS new ON new.id = plain.id WHEN NOT MATCHED THEN INSERT VALUES (1)",
    ],
)
def test_only_the_run_writes(conninfo: str, statement: str) -> None:
    guard = raised(conninfo)
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET search_path = app")
        with pytest.raises(psycopg.errors.ObjectInUse, match="only that run may write to it"):
            connection.execute(statement.encode())
        connection.rollback()
        connection.execute("SET search_path = app")
        guard(connection)
        connection.execute(statement.encode())
        connection.commit()
        connection.execute("SET search_path = app")
        with pytest.raises(psycopg.errors.ObjectInUse):  # the next transaction has to show its run again
            connection.execute(statement.encode())


def test_a_run_that_lost_the_lease_is_refused(conninfo: str) -> None:
    guard = raised(conninfo)
    with psycopg.connect(conninfo) as connection:
        guard(connection)
        connection.commit()
        ledger.take_over(conninfo, "one", "the rollback")
        connection.execute("SELECT set_config('cutover.run', 'one:1', true)")
        with pytest.raises(psycopg.errors.ObjectInUse):
            connection.execute("INSERT INTO app.plain VALUES (1)")
        connection.rollback()
        with pytest.raises(LeaseLost):
            guard(connection)


def test_it_is_raised_again_where_it_is_disabled_or_missing(conninfo: str) -> None:
    guard = raised(conninfo)
    prepare(conninfo, "ALTER TABLE plain DISABLE TRIGGER ALL; DROP TRIGGER cutover_guard ON parts_2026")
    assert write_guard.raise_guard(conninfo, "app", guard) == ["parts_2026", "plain"]
    with pytest.raises(LeaseLost):
        write_guard.raise_guard(conninfo, "app", lost)


def test_a_reader_does_not_hold_up_its_end(conninfo: str) -> None:
    guard = raised(conninfo)
    with psycopg.connect(conninfo) as reader:
        reader.execute("SELECT FROM app.plain, app.parts_2026")
        with psycopg.connect(conninfo) as connection:
            guard(connection)
            write_guard.disable(connection, "app")
        with psycopg.connect(conninfo) as other:
            other.execute("INSERT INTO app.plain VALUES (1)")
        assert write_guard.drop(conninfo, "app", guard) == ["parts_2026", "plain"]
    assert write_guard.drop(conninfo, "app", guard) == []
    assert ask(conninfo, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0


def test_a_trigger_that_was_left_and_enabled_again_stops_nobody_in_another_run(conninfo: str) -> None:
    guard = raised(conninfo)
    with psycopg.connect(conninfo) as connection:
        guard(connection)
        write_guard.disable(connection, "app")
    assert ledger.release(conninfo, "one", 1)
    prepare(conninfo, "ALTER TABLE plain ENABLE TRIGGER USER")
    other = ledger.guard("two", ledger.open_run(conninfo, "two", "another"))
    prepare(conninfo, "INSERT INTO plain VALUES (1)")
    assert write_guard.raise_guard(conninfo, "app", other) == ["parts", "parts_2026", "plain"]
    assert write_guard.raise_guard(conninfo, "app", other) == []
    with psycopg.connect(conninfo) as connection, pytest.raises(psycopg.errors.ObjectInUse, match="by the run two"):
        connection.execute("INSERT INTO app.plain VALUES (2)")
    assert ask(conninfo, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 3


def test_no_other_trigger_passes_for_it(conninfo: str, tmp_path: Path) -> None:
    raised(conninfo)
    with contextlib.closing(apsw.Connection(str(tmp_path / "s.db"))) as source:
        source.execute("CREATE TABLE plain (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO plain VALUES (1, 'x')")
    sides = Sides(tmp_path / "s.db", conninfo, "app")
    prepare(conninfo, "CREATE TRIGGER cutover_guard_2 BEFORE INSERT ON plain FOR EACH STATEMENT EXECUTE FUNCTION nothing()")
    with pytest.raises(Refused, match="found cutover_guard_2"):
        copy_table(sides, RunLease("one", 1), "plain")
    (tmp_path / "pre_data").mkdir()
    (tmp_path / "pre_data" / "001_tables.sql").write_text("CREATE TABLE plain (id bigint PRIMARY KEY, name text);")
    _, found = structure.differences(conninfo, "app", tmp_path, ["plain"])
    assert [(one.kind, one.name) for one in found] == [("trigger", "cutover_guard_2")]
    prepare(conninfo, "DROP TRIGGER cutover_guard_2 ON plain")
    assert copy_table(sides, RunLease("one", 1), "plain").rows == 1
    assert structure.differences(conninfo, "app", tmp_path, ["plain"])[1] == []


def test_a_schema_that_was_set_aside_is_dropped_and_the_next_run_guards_its_own(conninfo: str) -> None:
    guard = raised(conninfo)
    kept = target_schema.keep_schema(conninfo, "app", "one", guard).name
    assert ledger.release(conninfo, "one", 1)
    prepare(conninfo, "CREATE TABLE plain (id bigint PRIMARY KEY)")
    other = ledger.guard("two", ledger.open_run(conninfo, "two", "shop"))
    assert write_guard.raise_guard(conninfo, "app", other) == ["plain"]
    with psycopg.connect(conninfo) as connection:
        connection.execute(f"INSERT INTO {kept}.plain VALUES (1)".encode())
        with connection.transaction():
            drop_objects(connection, kept, sql_runner.objects(connection, kept))
            connection.execute(f"DROP SCHEMA {kept} RESTRICT".encode())
        with pytest.raises(psycopg.errors.ObjectInUse, match="by the run two"):
            connection.execute("INSERT INTO app.plain VALUES (1)")
