"""The target's schema as a whole, on a real PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from include.cutover.errors import LeaseLost, Unreachable
from include.cutover.places import ROOT
from include.cutover.target import schema as target_schema
from include.cutover.target import session as target_session
from tests.integration.target.test_ledger import wait_until_blocked


@pytest.fixture
def loaded(conninfo: str) -> str:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE devices (id int PRIMARY KEY); INSERT INTO devices VALUES (1), (2)")
        connection.execute("CREATE TABLE schema_migrations (name text)")
    return conninfo


def schemas(conninfo: str) -> set[str]:
    with psycopg.connect(conninfo) as connection:
        return {
            name for (name,) in connection.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information'")
        }


def test_the_planned_schema_is_read_and_nothing_is_left_behind(conninfo: str) -> None:
    before = schemas(conninfo)
    planned = target_schema.planned_schema(conninfo, ROOT / "include" / "sql" / "ward_ops")
    assert len(planned.columns) == 25
    assert planned.primary_keys["users"] == ["id"]
    assert any(
        key.table == "snmp_credentials" and key.referenced_table == "standalone_devices" for key in planned.foreign_keys
    )
    assert schemas(conninfo) == before


def test_schema_is_set_aside_with_its_rows_and_an_empty_one_takes_its_place(loaded: str) -> None:
    kept = target_schema.keep_schema(loaded, "public", "manual__1")
    assert kept.rows == {"devices": 2}
    with psycopg.connect(loaded) as connection:
        found = connection.execute(f'SELECT count(*) FROM "{kept.name}".devices').fetchone()
        assert found == (2,)
        assert connection.execute("SELECT to_regclass('public.devices')").fetchone() == (None,)


def test_setting_aside_twice_changes_nothing_more(loaded: str) -> None:
    first = target_schema.keep_schema(loaded, "public", "manual__1")
    with psycopg.connect(loaded) as connection:
        connection.execute("CREATE TABLE public.of_the_next_run (id int)")
    assert target_schema.keep_schema(loaded, "public", "manual__1") == first
    with psycopg.connect(loaded) as connection:
        assert connection.execute("SELECT to_regclass('public.of_the_next_run')").fetchone() != (None,)


def test_callback_sees_the_schema_under_its_name_without_writers(loaded: str) -> None:
    seen: list[object] = []

    def before(connection: psycopg.Connection) -> None:
        seen.append(connection.execute("SELECT count(*) FROM public.devices").fetchone())
        with psycopg.connect(loaded, autocommit=True) as other:
            other.execute("SET lock_timeout = '50ms'")
            assert other.execute("SELECT count(*) FROM devices").fetchone() == (2,), "readers are not kept out"
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("INSERT INTO devices VALUES (9)")

    target_schema.keep_schema(loaded, "public", "manual__1", None, before)
    assert seen == [(2,)]
    target_schema.keep_schema(loaded, "public", "manual__1", None, before)
    assert len(seen) == 1, "a schema that was kept stays as it is"


def test_open_writer_is_waited_for_and_named(loaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_session, "LOCK_TIMEOUT", "300ms")
    with psycopg.connect(loaded, application_name="somebody's psql") as writer:
        writer.execute("INSERT INTO devices VALUES (3)")
        before = schemas(loaded)
        with pytest.raises(Unreachable, match=rf"pid {writer.info.backend_pid}, postgres \(somebody's psql\)"):
            target_schema.keep_schema(loaded, "public", "manual__1")
        assert schemas(loaded) == before
        monkeypatch.setattr(target_session, "LOCK_TIMEOUT", "60s")
        with ThreadPoolExecutor(1) as pool:
            kept = pool.submit(target_schema.keep_schema, loaded, "public", "manual__1")
            wait_until_blocked(loaded)
            writer.commit()
            assert kept.result().rows == {"devices": 3}


def test_a_prepared_transaction_is_named(loaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_session, "LOCK_TIMEOUT", "100ms")
    with psycopg.connect(loaded, autocommit=True) as connection:
        connection.execute("BEGIN; INSERT INTO devices VALUES (3); PREPARE TRANSACTION 'left behind'")
        with pytest.raises(Unreachable, match="prepared transaction 'left behind' of postgres"):
            target_schema.keep_schema(loaded, "public", "manual__1")
        connection.execute("ROLLBACK PREPARED 'left behind'")
    assert target_schema.keep_schema(loaded, "public", "manual__1").rows == {"devices": 2}


def test_run_without_the_lease_sets_no_schema_aside(loaded: str) -> None:
    def lost(_: psycopg.Connection) -> None:
        raise LeaseLost("lost")

    before = schemas(loaded)
    with pytest.raises(LeaseLost):
        target_schema.keep_schema(loaded, "public", "manual__1", lost)
    assert schemas(loaded) == before


def test_names_of_kept_schemas_fit_and_differ() -> None:
    names = {target_schema.kept_name("ა" * 40, f"run {number}") for number in range(100)}
    assert len(names) == 100 and all(len(name.encode()) <= 63 for name in names)
