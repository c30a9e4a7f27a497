"""Conditions outside the schema that change the application's writes are found in the catalog."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from include.cutover.checks import Check
from include.cutover.target import write_conditions
from tests.support.target_schema import prepare

TABLES = ["devices", "pings", "log"]


@pytest.fixture
def role(conninfo: str) -> Iterator[str]:
    """The application's role, and its tables."""
    name = f"Application {secrets.token_hex(4)}"
    prepare(
        conninfo,
        f'CREATE ROLE "{name}" LOGIN; CREATE TABLE devices (id integer PRIMARY KEY); CREATE TABLE log (what text);'
        " CREATE TABLE pings (id integer, at date) PARTITION BY LIST (id);"
        " CREATE TABLE pings_one PARTITION OF pings FOR VALUES IN (1); ALTER TABLE pings_one ADD PRIMARY KEY (id)",
    )
    try:
        yield name
    finally:
        prepare(conninfo, f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')


def checked(conninfo: str, role: str | None) -> dict[str, Check]:
    return {check.name: check for check in write_conditions.checks(conninfo, "app", TABLES, role)}


def red(conninfo: str, role: str | None) -> dict[str, str]:
    return {name: check.found for name, check in checked(conninfo, role).items() if check.outcome != "passed"}


@pytest.mark.parametrize(
    ("setting", "effect"),
    [
        ("session_replication_role = replica", "triggers and foreign keys do nothing"),
        ("default_transaction_read_only = on", "every write is refused"),
        ("row_security = off", "a query that a policy would filter is refused"),
        ("standard_conforming_strings = off", "a backslash in a text is no longer itself"),
        ("transform_null_equals = true", "a comparison with NULL finds other rows"),
    ],
)
@pytest.mark.parametrize("place", ['ROLE "{role}"', 'DATABASE "{database}"', 'ROLE "{role}" IN DATABASE "{database}"'])
def test_a_setting_that_changes_writes_is_red_wherever_it_stands(
    conninfo: str, role: str, setting: str, effect: str, place: str
) -> None:
    assert red(conninfo, role) == {}
    where = place.format(role=role, database=conninfo_to_dict(conninfo)["dbname"])
    prepare(conninfo, f"ALTER {where} SET {setting}")
    found = red(conninfo, role)
    assert list(found) == ["writes_settings"]
    assert effect in found["writes_settings"] and where in found["writes_settings"]
    with psycopg.connect(conninfo, options="-c default_transaction_read_only=off") as connection:
        connection.execute(checked(conninfo, role)["writes_settings"].do.encode())
    assert red(conninfo, role) == {}


def test_a_role_that_acts_as_another_is_red(conninfo: str, role: str) -> None:
    prepare(conninfo, f'ALTER ROLE "{role}" SET role = pg_monitor')
    assert "statements run as another role" in red(conninfo, role)["writes_settings"]


def test_the_setting_of_the_role_in_the_database_takes_precedence_and_harmless_ones_are_shown(
    conninfo: str, role: str
) -> None:
    database = conninfo_to_dict(conninfo)["dbname"]
    prepare(
        conninfo,
        f'ALTER ROLE "{role}" SET row_security = off; ALTER ROLE "{role}" IN DATABASE "{database}" SET row_security = on;'
        f""" ALTER ROLE "{role}" SET timezone = 'Asia/Tbilisi'""",
    )
    check = checked(conninfo, role)["writes_settings"]
    assert check.outcome == "passed" and "timezone = asia/tbilisi" in check.found.lower()


def test_without_an_application_the_settings_of_the_database_count(conninfo: str, role: str) -> None:
    prepare(conninfo, f'ALTER ROLE "{role}" SET session_replication_role = replica')
    assert red(conninfo, None) == {}
    database = conninfo_to_dict(conninfo)["dbname"]
    prepare(conninfo, f'ALTER DATABASE "{database}" SET session_replication_role = replica')
    assert list(red(conninfo, None)) == ["writes_settings"]


@pytest.mark.parametrize(
    ("path", "hiding"),
    [
        ("app", ""),
        ("app, other", ""),
        ("other, app", "other.devices"),
        ('"Other, too", app', "Other, too.devices"),
        ('"$user", public', "{role}.devices"),
        ("", ""),
    ],
)
def test_a_table_of_the_same_name_earlier_in_the_search_path_is_red(
    conninfo: str, role: str, path: str, hiding: str
) -> None:
    prepare(
        conninfo,
        f'CREATE SCHEMA other; CREATE SCHEMA "Other, too"; CREATE SCHEMA "{role}";'
        ' CREATE TABLE other.devices (id integer); CREATE VIEW "Other, too".devices AS SELECT 1 AS id;'
        f' CREATE TABLE "{role}".devices (id integer)',
    )
    with psycopg.connect(conninfo) as connection:
        named = sql.SQL("ALTER ROLE {} SET search_path = ").format(sql.Identifier(role))
        connection.execute(named + sql.SQL("{}").format(sql.SQL(path or "''")))
    found = red(conninfo, role)
    prepare(conninfo, f'DROP SCHEMA "{role}" CASCADE')
    assert found == ({"writes_search_path": f"{hiding.format(role=role)} comes before the table of app"} if hiding else {})


def test_the_usual_search_path_counts_where_nothing_sets_another(conninfo: str, role: str) -> None:
    check = checked(conninfo, role)["writes_search_path"]
    assert check.outcome == "passed" and "app is not in it: the application must name it" in check.found
    prepare(conninfo, "CREATE TABLE public.log (what text)")
    assert red(conninfo, role) == {"writes_search_path": "public.log comes before the table of app"}


def test_a_publication_is_red_where_it_keeps_rows_from_being_changed(conninfo: str, role: str) -> None:
    prepare(conninfo, "CREATE PUBLICATION a FOR TABLE devices, pings")
    prepare(conninfo, "CREATE PUBLICATION b FOR TABLE log WITH (publish = insert)")
    assert red(conninfo, role) == {}
    prepare(conninfo, "CREATE PUBLICATION everything FOR ALL TABLES")
    assert red(conninfo, role) == {
        "writes_replication": "the publication everything has log, whose changed and deleted rows no replica identity names"
    }
    prepare(conninfo, "ALTER TABLE log REPLICA IDENTITY FULL; ALTER TABLE pings_one REPLICA IDENTITY NOTHING")
    assert "the publication everything has pings," in red(conninfo, role)["writes_replication"]


def test_a_subscription_that_writes_into_a_table_is_red(conninfo: str, role: str) -> None:
    name = f"s_{secrets.token_hex(4)}"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        settings = "WITH (connect = false, slot_name = NONE)"
        connection.execute(f"CREATE SUBSCRIPTION {name} CONNECTION 'dbname=none' PUBLICATION p {settings}".encode())
        try:
            connection.execute("SET allow_system_table_mods = on")  # instead of a second server that publishes
            connection.execute(
                "INSERT INTO pg_subscription_rel SELECT oid, 'app.devices'::regclass, 'r' FROM pg_subscription"
                " WHERE subname = %s",
                [name],
            )
            assert red(conninfo, role) == {"writes_replication": "a subscription writes into devices"}
        finally:
            connection.execute(f"DROP SUBSCRIPTION {name}".encode())


def test_an_event_trigger_on_log_in_is_red_and_one_for_ddl_is_reported(conninfo: str, role: str) -> None:
    prepare(
        conninfo,
        "CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        " CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION e()",
    )
    check = checked(conninfo, role)["writes_event_triggers"]
    assert (check.outcome, check.found) == ("passed", "for DDL: on_ddl on ddl_command_end")
    prepare(conninfo, "CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION e()")
    assert red(conninfo, role) == {"writes_event_triggers": "on_login acts on every log-in"}
