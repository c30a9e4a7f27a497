"""The target's schema as a whole, on a real PostgreSQL."""

from __future__ import annotations

import psycopg
import pytest

from include.cutover import target
from include.cutover.errors import LeaseLost
from include.cutover.plan import ROOT


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
    planned = target.planned_schema(conninfo, ROOT / "include" / "sql" / "ward_ops")
    assert len(planned.columns) == 25
    assert planned.primary_keys["users"] == ["id"]
    assert any(
        key.table == "snmp_credentials" and key.referenced_table == "standalone_devices" for key in planned.foreign_keys
    )
    assert schemas(conninfo) == before


def test_a_schema_is_kept_with_its_rows_and_an_empty_one_takes_its_place(loaded: str) -> None:
    kept = target.keep_schema(loaded, "public", "manual__1", None)
    assert kept.rows == {"devices": 2}
    with psycopg.connect(loaded) as connection:
        found = connection.execute(f'SELECT count(*) FROM "{kept.name}".devices').fetchone()
        assert found == (2,)
        assert connection.execute("SELECT to_regclass('public.devices')").fetchone() == (None,)


def test_keeping_twice_is_keeping_once(loaded: str) -> None:
    first = target.keep_schema(loaded, "public", "manual__1", None)
    with psycopg.connect(loaded) as connection:
        connection.execute("CREATE TABLE public.of_the_next_run (id int)")
    assert target.keep_schema(loaded, "public", "manual__1", None) == first
    with psycopg.connect(loaded) as connection:
        assert connection.execute("SELECT to_regclass('public.of_the_next_run')").fetchone() != (None,)


def test_the_applications_sessions_end_before_the_schema_is_renamed(cluster: object, loaded: str) -> None:
    with psycopg.connect(loaded, autocommit=True) as connection:
        role = connection.execute("SELECT 'app_' || substr(md5(random()::text), 1, 8)").fetchone()[0]  # type: ignore[index]
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        connection.execute(f"GRANT SELECT, INSERT ON devices TO {role}")
    application = psycopg.connect(psycopg.conninfo.make_conninfo(loaded, user=role, password="x"), autocommit=True)
    application.execute("INSERT INTO devices VALUES (3)")
    target.keep_schema(loaded, "public", "manual__1", role)
    with pytest.raises(psycopg.OperationalError):
        application.execute("INSERT INTO devices VALUES (4)")
    application.close()
    with psycopg.connect(loaded, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_who_lost_the_lease_keeps_nothing(loaded: str) -> None:
    def lost(_: psycopg.Connection) -> None:
        raise LeaseLost("lost")

    before = schemas(loaded)
    with pytest.raises(LeaseLost):
        target.keep_schema(loaded, "public", "manual__1", None, lost)
    assert schemas(loaded) == before


def test_names_of_kept_schemas_fit_and_differ() -> None:
    names = {target.kept_name("ა" * 40, f"run {number}") for number in range(100)}
    assert len(names) == 100 and all(len(name.encode()) <= 63 for name in names)


def test_the_application_may_write_rows_but_not_the_record_or_the_tables(loaded: str) -> None:
    with psycopg.connect(loaded, autocommit=True) as connection:
        role = connection.execute("SELECT 'app_' || substr(md5(random()::text), 1, 8)").fetchone()[0]  # type: ignore[index]
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    target.grant_application(loaded, "public", role)
    target.grant_application(loaded, "public", role)
    with psycopg.connect(psycopg.conninfo.make_conninfo(loaded, user=role, password="x"), autocommit=True) as application:
        application.execute("INSERT INTO devices VALUES (3)")
        for forbidden in ("INSERT INTO schema_migrations VALUES ('x')", "DROP TABLE devices", "CREATE TABLE mine (id int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                application.execute(forbidden)
    with psycopg.connect(loaded, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")
