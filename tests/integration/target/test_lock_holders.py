"""Sessions and prepared transactions that hold the tables are named, wherever a lock is not granted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from include.cutover.errors import Unreachable
from include.cutover.target import lock_holders, sql_runner
from include.cutover.target import session as target_session

SCHEMA = "app"


@pytest.fixture
def administrator(conninfo: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA app; CREATE TABLE app.devices (id int PRIMARY KEY); CREATE TABLE jobs (id int)")
        yield connection
        for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
            connection.execute(f"ROLLBACK PREPARED '{gid}'".encode())


def prepare(connection: psycopg.Connection, statement: str, name: str) -> None:
    connection.execute(f"BEGIN; {statement}; PREPARE TRANSACTION '{name}'".encode())


@pytest.mark.parametrize(
    ("statement", "concerns"),
    [
        ("INSERT INTO app.devices VALUES (1)", True),
        ("SELECT FROM app.devices FOR UPDATE", True),
        ("LOCK TABLE app.devices IN ACCESS EXCLUSIVE MODE", True),
        ("CREATE TABLE app.later (id int)", True),
        ("GRANT SELECT ON app.devices TO PUBLIC", True),
        ("ALTER ROLE CURRENT_USER SET work_mem = '8MB'", True),
        ("INSERT INTO public.jobs VALUES (1)", False),
    ],
)
def test_a_prepared_transaction_that_may_change_the_schema_is_told_from_one_that_works_elsewhere(
    administrator: psycopg.Connection, statement: str, concerns: bool
) -> None:
    prepare(administrator, statement, "a ''quoted'' one")
    (found,) = lock_holders.prepared(administrator, SCHEMA)
    assert found.concerns is concerns
    assert found.text.startswith("prepared transaction 'a ''quoted'' one' of postgres in database t_")
    administrator.execute(found.do.partition(";")[0].encode())
    assert lock_holders.prepared(administrator, SCHEMA) == []


def test_ddl_that_waits_in_vain_for_a_prepared_transaction_names_it(
    administrator: psycopg.Connection, conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_session, "LOCK_TIMEOUT", "50ms")
    prepare(administrator, "INSERT INTO app.devices VALUES (1)", "left behind")
    folder = tmp_path / "pre_data"
    folder.mkdir()
    (folder / "001_more.sql").write_text("ALTER TABLE devices ADD COLUMN note text;")
    with pytest.raises(Unreachable) as refused:
        sql_runner.apply(conninfo, tmp_path, "pre_data", schema=SCHEMA, run_id="one")
    assert "prepared transaction 'left behind' of postgres" in refused.value.found
    assert "RowExclusiveLock on devices" in refused.value.found and "ROLLBACK PREPARED" in refused.value.do


def test_a_lock_that_a_session_holds_is_reported_with_that_session(administrator: psycopg.Connection, conninfo: str) -> None:
    with psycopg.connect(conninfo, application_name="a report") as reader:
        reader.execute("SELECT FROM app.devices")
        with (
            pytest.raises(Unreachable, match=r"postgres \(a report\), AccessShareLock on devices"),
            target_session.session(conninfo, SCHEMA, settings={"lock_timeout": "50ms"}) as connection,
        ):
            connection.execute("DROP TABLE devices")
