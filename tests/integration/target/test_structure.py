"""The comparison of the schema with the plan's SQL: one object of every kind that can change what a write does."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import psycopg
import pytest

from include.cutover.checks import Check
from include.cutover.target import sql_runner, structure
from tests.support.target_schema import prepare

PRE_DATA = """
    CREATE DOMAIN "e-mail" AS text CHECK (VALUE LIKE '%@%');
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TYPE place AS (street text, number integer);
    CREATE TYPE span AS RANGE (subtype = integer);
    CREATE SEQUENCE shared;
    CREATE TABLE people (
        id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL, mail "e-mail", mood mood DEFAULT 'good', home place,
        moods mood[], years span, twice text GENERATED ALWAYS AS (name || name) STORED,
        number bigint DEFAULT nextval('shared')
    );
    CREATE TABLE staff (room integer) INHERITS (people);
    CREATE TABLE pings (id bigint, at date NOT NULL, note text) PARTITION BY RANGE (at);
    CREATE TABLE pings_2024 PARTITION OF pings FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE pings_2025 PARTITION OF pings FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
    CREATE TABLE pings_2025_one PARTITION OF pings_2025 FOR VALUES IN (1);
    CREATE TABLE log (what text);
    CREATE TABLE tenants (id integer, at tstzrange);
"""
POST_DATA = """
    ALTER TABLE people ADD PRIMARY KEY (id);
    ALTER TABLE pings ADD PRIMARY KEY (id, at);
    ALTER TABLE tenants ADD PRIMARY KEY (id), ADD CONSTRAINT apart EXCLUDE USING gist (at WITH &&);
    CREATE INDEX ON pings (at);
    CREATE FUNCTION helper(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
    CREATE FUNCTION lowered() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.name := helper(NEW.name); RETURN NEW; END';
    CREATE TRIGGER lowered BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION lowered();
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (TG_OP); RETURN NULL; END';
    CREATE TRIGGER noted AFTER INSERT ON pings FOR EACH ROW EXECUTE FUNCTION noted();
    CREATE TRIGGER of_one AFTER INSERT ON pings_2024 FOR EACH ROW EXECUTE FUNCTION noted();
    ALTER TABLE pings_2024 ENABLE ALWAYS TRIGGER of_one;
    CREATE RULE kept AS ON DELETE TO log DO INSTEAD INSERT INTO log VALUES ('kept');
    ALTER TABLE tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON tenants AS RESTRICTIVE FOR UPDATE USING (id > 0) WITH CHECK (id > 1);
    CREATE FUNCTION safe() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS 'SELECT 1::text';
    CREATE VIEW names AS SELECT name FROM people;
    CREATE TRIGGER named INSTEAD OF INSERT ON names FOR EACH ROW EXECUTE FUNCTION lowered();
"""
FOREIGN_KEYS = """
    CREATE TABLE orders (id integer PRIMARY KEY, person bigint REFERENCES people ON DELETE CASCADE DEFERRABLE);
"""

OTHER_FUNCTION = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "

PLANTED: dict[str, tuple[str, str, str]] = {
    "a rule that drops inserts": (
        "CREATE RULE gone AS ON INSERT TO orders DO INSTEAD NOTHING", "rule", "orders.gone is not in the plan"),
    "a rule that sends rows elsewhere": (
        "CREATE RULE away AS ON UPDATE TO people DO INSTEAD INSERT INTO log VALUES ('x')", "rule", "people.away is not"),
    "a rule on a partition": (
        "CREATE RULE gone AS ON DELETE TO pings_2024 DO INSTEAD NOTHING", "rule", "pings_2024.gone is not in the plan"),
    "a dropped rule": ("DROP RULE kept ON log", "rule", "log.kept is missing"),
    "a disabled rule": ("ALTER TABLE log DISABLE RULE kept", "rule", "log.kept: planned"),
    "a trigger": (
        OTHER_FUNCTION + "CREATE TRIGGER t BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION f()",
        "trigger", "orders.t is not in the plan"),
    "a trigger on a partition": (
        OTHER_FUNCTION + "CREATE TRIGGER t BEFORE INSERT ON pings_2025_one FOR EACH ROW EXECUTE FUNCTION f()",
        "trigger", "pings_2025_one.t is not in the plan"),
    "a constraint trigger": (
        OTHER_FUNCTION + "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION f()", "trigger", "orders.t is not in the plan"),
    "a disabled trigger": ("ALTER TABLE people DISABLE TRIGGER lowered", "trigger", "people.lowered: planned"),
    "a trigger made ENABLE ALWAYS and disabled": (
        "ALTER TABLE pings_2024 DISABLE TRIGGER of_one", "trigger", "pings_2024.of_one: planned"),
    "a trigger that no longer fires always": (
        "ALTER TABLE pings_2024 ENABLE TRIGGER of_one", "trigger", "pings_2024.of_one: planned"),
    "a foreign key that checks nothing": (
        "ALTER TABLE orders DISABLE TRIGGER ALL", "trigger", "orders.orders_person_fkey is not in the plan (the check of"),
    "row security": ("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", "table", "orders: planned table, found with row"),
    "row security for the owner": (
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", "table",
        "orders: planned table, found with row security forced"),
    "row security taken away": ("ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY", "table", "tenants: planned with row"),
    "a policy": ("CREATE POLICY few ON orders FOR SELECT USING (id < 3)", "policy", "orders.few is not in the plan"),
    "a wider policy": ("ALTER POLICY own ON tenants USING (true)", "policy", "tenants.own: planned restrictive for UPDATE"),
    "a policy for others": ("ALTER POLICY own ON tenants TO pg_monitor", "policy", "tenants.own: planned"),
    "another default": ("ALTER TABLE people ALTER mood SET DEFAULT 'bad'", "column", "people.mood: planned mood default"),
    "another generated value": (
        "ALTER TABLE people ALTER twice SET EXPRESSION AS (name)", "column", "people.twice: planned text generated"),
    "a value that is no longer generated": (
        "ALTER TABLE people ALTER twice DROP EXPRESSION", "column", "people.twice: planned text generated"),
    "another identity": (
        "ALTER TABLE people ALTER id SET GENERATED BY DEFAULT", "column", "people.id: planned bigint NOT NULL identity"),
    "a sequence with an end": ("ALTER SEQUENCE shared MAXVALUE 20", "sequence", "people.number: planned bigint increment 1"),
    "a dropped exclusion constraint": (
        "ALTER TABLE tenants DROP CONSTRAINT apart", "constraint", "tenants.apart is missing (EXCLUDE"),
    "an exclusion constraint": (
        "ALTER TABLE orders ADD CONSTRAINT x EXCLUDE USING btree (person WITH =)", "constraint", "orders.x is not in"),
    "a domain with another check": (
        'ALTER DOMAIN "e-mail" DROP CONSTRAINT "e-mail_check"', "type", 'people."e-mail": planned domain over text'),
    "a domain with a default": (
        "ALTER DOMAIN \"e-mail\" SET DEFAULT 'a@b'", "type", 'people."e-mail": planned domain over text'),
    "a domain without NULL": ('ALTER DOMAIN "e-mail" SET NOT NULL', "type", 'people."e-mail": planned domain over text'),
    "an enum with another label": ("ALTER TYPE mood RENAME VALUE 'bad' TO 'sad'", "type", "people.mood: planned enum"),
    "a composite type": ("ALTER TYPE place ADD ATTRIBUTE city text CASCADE", "type", "people.place: planned composite"),
    "a view without its trigger": ("DROP TRIGGER named ON names", "view", "names: "),
    "a view with a rule": ("CREATE RULE gone AS ON UPDATE TO names DO INSTEAD NOTHING", "view", "names: "),
    "a view with a default": ("ALTER VIEW names ALTER name SET DEFAULT 'x'", "view", "names: "),
    "a child": ("CREATE TABLE more () INHERITS (orders)", "inheritance", "orders.more is not in the plan (child)"),
    "a parent": (
        "CREATE TABLE above (id integer NOT NULL); ALTER TABLE orders INHERIT above", "inheritance",
        "orders.above is not in the plan (parent)"),
    "a child set free": ("ALTER TABLE staff NO INHERIT people", "inheritance", "people.staff is missing (child)"),
    "a detached partition": (
        "ALTER TABLE pings DETACH PARTITION pings_2024", "inheritance", "pings.pings_2024 is missing (partition FOR VALUES"),
    "another bound": (
        "ALTER TABLE pings DETACH PARTITION pings_2024; ALTER TABLE pings ATTACH PARTITION pings_2024"
        " FOR VALUES FROM ('2023-01-01') TO ('2025-01-01')", "inheritance", "pings.pings_2024: planned partition"),
    "a default partition": ("CREATE TABLE rest PARTITION OF pings DEFAULT", "inheritance", "pings.rest is not in the plan"),
    "an unlogged partition": (
        "CREATE UNLOGGED TABLE p PARTITION OF pings FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')", "inheritance",
        "pings.p is not in the plan"),
    "a partition with a trigger": (
        "CREATE TABLE p PARTITION OF pings FOR VALUES FROM ('2030-01-01') TO ('2031-01-01'); " + OTHER_FUNCTION
        + "CREATE TRIGGER t BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION f()", "inheritance", "pings.p is not in"),
    "a partition with a check": (
        "CREATE TABLE p PARTITION OF pings (CHECK (id > 5)) FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')", "inheritance",
        "pings.p is not in the plan"),
    "a partition that takes no NULL": (
        "CREATE TABLE p PARTITION OF pings FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');"
        " ALTER TABLE p ALTER note SET NOT NULL", "inheritance", "pings.p is not in the plan"),
    "a table made a partition": (
        "CREATE TABLE whole (LIKE log) PARTITION BY LIST (what);"
        " ALTER TABLE whole ATTACH PARTITION log FOR VALUES IN ('x')", "inheritance", "log.whole is not in"),
    "another trigger function": (
        "CREATE OR REPLACE FUNCTION lowered() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'", "function",
        "lowered(): planned CREATE OR REPLACE FUNCTION lowered()"),
    "another function below it": (
        "CREATE OR REPLACE FUNCTION helper(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''x'''", "function",
        "helper(text): planned"),
    "a function of the same name": (
        "CREATE FUNCTION helper(varchar) RETURNS text LANGUAGE sql AS 'SELECT ''x'''", "function",
        "helper(character varying) is not in the plan"),
    "another view": ("CREATE OR REPLACE VIEW names AS SELECT upper(name) AS name FROM people", "view", "names: planned"),
    "a view in the place of a table": (
        "ALTER TABLE orders RENAME TO old; CREATE VIEW orders AS SELECT * FROM old", "table",
        "orders: planned table, found not a table but a view"),
    "a materialized view in its place": (
        "ALTER TABLE orders RENAME TO old; CREATE MATERIALIZED VIEW orders AS SELECT * FROM old", "table",
        "orders: planned table, found not a table but a materialized view"),
    "a foreign table in its place": (
        "DROP TABLE orders; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        " CREATE FOREIGN TABLE orders (id integer, person bigint) SERVER s", "table",
        "orders: planned table, found not a table but a foreign table"),
    "a partitioned table in its place": (
        "DROP TABLE orders; CREATE TABLE orders (id integer PRIMARY KEY, person bigint) PARTITION BY LIST (id)", "table",
        "orders: planned table, found partitioned LIST (id)"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, conninfo: str) -> Path:
    """The plan's SQL, applied to the schema ``app``."""
    sql_folder = tmp_path / "sql"
    for kind, text in (("pre_data", PRE_DATA), ("post_data", POST_DATA), ("foreign_keys", FOREIGN_KEYS)):
        (sql_folder / kind).mkdir(parents=True)
        (sql_folder / kind / "001_objects.sql").write_text(text, encoding="utf-8")
        sql_runner.apply(conninfo, sql_folder, kind, schema="app", run_id="run")
    return sql_folder


def red(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.found for check in checks if check.outcome != "passed"}


def test_objects_of_every_kind_that_the_plan_makes_are_green(conninfo: str, folder: Path) -> None:
    assert red(structure.checks(conninfo, "app", folder)) == {}
    with psycopg.connect(conninfo, options="-c search_path=app") as connection:
        found = structure.definitions(connection, "app", "app", ["people", "pings", "log", "tenants", "orders"])
    assert {kind for kind, _, _ in found} == set(get_args(structure.Kind))


@pytest.mark.parametrize("planted", PLANTED)
def test_an_object_that_changes_writes_is_red_and_named(conninfo: str, folder: Path, planted: str) -> None:
    statement, kind, expected = PLANTED[planted]
    prepare(conninfo, statement)
    found = red(structure.checks(conninfo, "app", folder))
    assert f"structure_{kind}" in found, found
    assert any(one.startswith(expected) for one in found[f"structure_{kind}"].split("; ")), found


def test_what_others_have_in_the_schema_is_no_fault(conninfo: str, folder: Path) -> None:
    prepare(
        conninfo,
        "CREATE TABLE others (id integer); CREATE RULE r AS ON INSERT TO others DO INSTEAD NOTHING;"
        " CREATE FUNCTION theirs() RETURNS text LANGUAGE sql AS 'SELECT 1::text'; CREATE VIEW seen AS SELECT 1 AS one;"
        " CREATE TYPE unused AS ENUM ('x')",
    )
    assert red(structure.checks(conninfo, "app", folder)) == {}


def test_a_plain_partition_that_the_application_adds_is_reported_and_no_fault(conninfo: str, folder: Path) -> None:
    prepare(conninfo, "CREATE TABLE pings_2026 PARTITION OF pings FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
    checks = {check.name: check for check in structure.checks(conninfo, "app", folder)}
    assert red(list(checks.values())) == {}
    assert checks["structure_inheritance"].found.startswith("pings.pings_2026 is not in the plan (partition FOR VALUES")
