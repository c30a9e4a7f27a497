"""The SQL of Ward OPS, applied as a cutover applies it and as psql does."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.cutover.errors import StepFailed
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.stack.postgres import binaries
from include.cutover.target import (
    catalog,
    constraints,
    drop,
    planner_statistics,
    scratch_schema,
    sequences,
    sql_files,
    sql_runner,
)

SCHEMA = "ward"
SQL = ROOT / "include" / "sql" / "ward_ops"
SMOKE = sorted((SQL / "smoke").glob("*.sql"))

TYPES = {
    "INTEGER": "integer", "TEXT": "text", "REAL": "numeric(9,6)", "BOOLEAN": "boolean", "JSON": "jsonb", "UUID": "uuid",
    "DATETIME": "timestamp with time zone", "TIMESTAMP": "timestamp with time zone",
}  # fmt: skip
TELEMETRY = {"ping_results", "traceroute_results", "mtr_results", "performance_baselines"}


def apply(conninfo: str, *kinds: str, schema: str = SCHEMA) -> list[str]:
    names = []
    for kind in kinds or sql_files.KINDS:
        names += sql_runner.apply(conninfo, SQL, kind, schema=schema, run_id="run-1")
    return names


def ask(conninfo: str, query: str) -> list[Any]:
    """All rows, with the schema as search_path; a row of one column as its value."""
    with psycopg.connect(conninfo) as connection:
        connection.execute(f"SET search_path = {SCHEMA}".encode())
        cursor = connection.execute(query.encode())
        rows = cursor.fetchall() if cursor.description else []
        return [row[0] if len(row) == 1 else row for row in rows]


def smoke(conninfo: str) -> dict[str, tuple[bool, str]]:
    found = {}
    for path in SMOKE:
        for name, passed, told in ask(conninfo, path.read_text()):
            found[name] = (passed, told)
    return found


def source() -> dict[str, list[tuple[str, str, bool]]]:
    """Name, declared type and NOT NULL of the columns in the stand-in application's SQLite database."""
    connection = sqlite3.connect(":memory:")
    connection.executescript((ROOT / "examples" / "ward_ops" / "source_tables.sql").read_text())
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall()
    return {
        name: [(row[1], row[2], bool(row[3] or row[5])) for row in connection.execute(f"PRAGMA table_info({name})")]
        for (name,) in names
    }


def test_all_files_apply_to_another_schema_and_twice(conninfo: str) -> None:
    names = apply(conninfo)
    assert names == [migration.name for migration in sql_files.discover(SQL, sql_files.KINDS)]
    assert apply(conninfo) == []
    keys = constraints.validate_foreign_keys(conninfo, SCHEMA, secret={})
    assert len(keys) == 14
    assert all(key.validated for key in keys)
    sequences.set_sequences(conninfo, SCHEMA, {})
    planner_statistics.gather(conninfo, SCHEMA)
    assert {check.outcome for check in sequences.check_sequences(conninfo, SCHEMA, {})} == {"passed"}
    with psycopg.connect(conninfo) as connection:
        assert catalog.tables(connection, "public") == []
        assert catalog.invalid_indexes(connection, SCHEMA) == []
        assert catalog.unvalidated_constraints(connection, SCHEMA) == []


def test_a_role_that_only_owns_the_database_can_apply_all_files(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        database = connection.info.dbname
        role = f"r_{database}"
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'".encode())
        try:
            connection.execute(f"ALTER DATABASE {database} OWNER TO {role}".encode())
            own = psycopg.conninfo.make_conninfo(conninfo, user=role, password="p")
            with scratch_schema.build(own, SQL):
                pass
            apply(own)
            constraints.validate_foreign_keys(own, SCHEMA, secret={})
            sequences.set_sequences(own, SCHEMA, {"georgian_cities": 82})
            planner_statistics.gather(own, SCHEMA)
            assert {check.outcome for check in sequences.check_sequences(own, SCHEMA, {"georgian_cities": 82})} == {"passed"}
        finally:
            connection.execute(f"ALTER DATABASE {database} OWNER TO CURRENT_USER".encode())
            connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
            connection.execute(f"DROP ROLE {role}".encode())


def test_a_rehearsal_applies_all_files(conninfo: str) -> None:
    with scratch_schema.build(conninfo, SQL) as (connection, schema):
        assert len(catalog.tables(connection, schema)) == 25


def test_the_tables_and_secret_columns_are_those_of_the_plan(conninfo: str) -> None:
    apply(conninfo, "pre_data")
    plan = load_plan("ward_ops")
    with psycopg.connect(conninfo) as connection:
        columns = catalog.columns(connection, SCHEMA)
    assert set(columns) == set(plan.tables)
    assert len(columns) == 25
    for name, table in plan.tables.items():
        assert set(table.secret) <= {column.name for column in columns[name]}
        hidden = {column.name for column in columns[name] if column.name.endswith(("_encrypted", "password"))}
        assert hidden <= set(table.secret)


def test_columns_agree_with_the_source_by_name_order_type_and_null(conninfo: str) -> None:
    apply(conninfo, "pre_data", "migrations")
    with psycopg.connect(conninfo) as connection:
        target = catalog.columns(connection, SCHEMA)
    tables = source()
    assert set(tables) == set(target)
    for table, columns in tables.items():
        expected = []
        for name, declared, not_null in columns:
            kind = TYPES.get(declared) or declared.lower().replace("varchar", "character varying")
            if (table, name) == ("branches", "id") or name == "branch_id":
                kind = "uuid"
            elif name == "id" and declared == "INTEGER" and table in TELEMETRY:
                kind = "bigint"
            expected.append((name, kind, not_null))
        assert [(column.name, column.type, column.not_null) for column in target[table]] == expected, table


def test_integer_keys_are_identities_that_take_given_values_and_uuid_keys_fill_themselves(conninfo: str) -> None:
    apply(conninfo, "pre_data")
    with psycopg.connect(conninfo) as connection:
        for table, columns in catalog.columns(connection, SCHEMA).items():
            key = columns[0]
            assert key.name == "id"
            assert key.identity == (key.type in ("integer", "bigint")), table
            assert (key.default == "gen_random_uuid()") == (key.type == "uuid"), table
        with connection.cursor().copy(f"COPY {SCHEMA}.system_config (id, key) FROM STDIN") as copy:
            copy.write_row((17, "given"))
        assert connection.execute(f"SELECT id FROM {SCHEMA}.system_config").fetchone() == (17,)


def test_an_explicit_null_stays_null_wherever_the_source_may_hold_one(conninfo: str) -> None:
    """A row with nothing but the NOT NULL columns, all others NULL, is accepted by every table."""
    apply(conninfo, "pre_data", "migrations", "post_data")
    fill = {
        "integer": "1", "bigint": "1", "uuid": "gen_random_uuid()", "boolean": "true", "text": "'x'",
        "timestamp with time zone": "now()", "numeric(9,6)": "-179.999999",
    }  # fmt: skip
    with psycopg.connect(conninfo) as connection:
        for table, columns in catalog.columns(connection, SCHEMA).items():
            values = [
                ("'hybrid'" if column.name == "mode" else fill.get(column.type, "'x'")) if column.not_null else "NULL"
                for column in columns
            ]
            connection.execute(f"INSERT INTO {SCHEMA}.{table} VALUES ({', '.join(values)})".encode())
            row = connection.execute(f"SELECT * FROM {SCHEMA}.{table}".encode()).fetchone()
            assert row is not None
            assert [value is not None for value in row] == [column.not_null for column in columns], table


def test_roles_are_the_four_names(conninfo: str) -> None:
    apply(conninfo, "pre_data")
    insert = "INSERT INTO users (username, email, hashed_password, role) VALUES ('u', 'e', 'h', '{}')"
    for role in ("ADMIN", "REGIONAL_MANAGER", "TECHNICIAN", "VIEWER"):
        ask(conninfo, insert.format(role))
    with pytest.raises(psycopg.errors.CheckViolation):
        ask(conninfo, insert.format("admin"))


def test_every_foreign_key_has_an_index_on_its_columns(conninfo: str) -> None:
    apply(conninfo)
    leading = ask(
        conninfo,
        f"""SELECT class.relname || '.' || attribute.attname FROM pg_index AS index
        JOIN pg_class AS class ON class.oid = index.indrelid
        JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attnum = index.indkey[0]
        WHERE class.relnamespace = '{SCHEMA}'::regnamespace AND index.indpred IS NULL""",
    )
    with psycopg.connect(conninfo) as connection:
        for key in catalog.foreign_keys(connection, SCHEMA):
            assert f"{key.table}.{key.columns[0]}" in leading
            nullable = not {item.name: item for item in catalog.columns(connection, SCHEMA)[key.table]}[
                key.columns[0]
            ].not_null
            assert key.on_delete == ("SET NULL" if nullable else "CASCADE"), key.name
            assert not key.validated


def test_reference_data_into_empty_tables(conninfo: str) -> None:
    apply(conninfo)
    assert ask(conninfo, "SELECT count(*) FROM georgian_regions") == [11]
    assert ask(conninfo, "SELECT count(*) FROM georgian_cities") == [82]
    query = "SELECT region.name_en FROM georgian_cities AS city JOIN georgian_regions AS region ON region.id = region_id"
    assert ask(conninfo, f"{query} WHERE city.name_ka = 'ბათუმი'") == ["Adjara"]
    # Georgia lies between 41.0 and 43.6 north, 40.0 and 46.8 east; every name is in its own script.
    for table in ("georgian_regions", "georgian_cities"):
        assert ask(
            conninfo,
            f"SELECT name_en FROM {table} WHERE latitude NOT BETWEEN 41.0 AND 43.6 OR longitude NOT BETWEEN 40.0 AND 46.8"
            " OR name_ka !~ '^[ა-ჰ -]+$' OR name_en !~ '^[A-Za-z -]+$' OR created_at IS NULL",
        ) == []  # fmt: skip
    assert ask(conninfo, "SELECT count(DISTINCT region_id) FROM georgian_cities") == [11]
    assert ask(conninfo, "SELECT count(*) FROM georgian_cities WHERE NOT is_active") == [0]
    states = {state.table: state.next_value for state in sequences.set_sequences(conninfo, SCHEMA, {})}
    assert (states["georgian_regions"], states["georgian_cities"]) == (12, 83)


def test_reference_rows_of_the_source_stay_unchanged(conninfo: str) -> None:
    apply(conninfo, "pre_data", "migrations")
    ask(
        conninfo,
        "INSERT INTO georgian_regions (id, name_en, latitude, longitude) VALUES (5, 'Adjara', 1, 2);"
        "INSERT INTO georgian_cities (id, name_en, region_id, latitude, longitude) VALUES (9, 'Batumi', 5, 1, 2)",
    )
    apply(conninfo, "reference")
    assert ask(conninfo, "SELECT id FROM georgian_regions") == [5]
    assert ask(conninfo, "SELECT id FROM georgian_cities") == [9]


def test_cities_join_the_regions_that_the_source_brought(conninfo: str) -> None:
    apply(conninfo, "pre_data", "migrations")
    names = [
        "Adjara", "Guria", "Imereti", "Kakheti", "Kvemo Kartli", "Mtskheta-Mtianeti", "Racha-Lechkhumi and Kvemo Svaneti",
        "Samegrelo-Zemo Svaneti", "Samtskhe-Javakheti", "Shida Kartli", "Tbilisi",
    ]  # fmt: skip
    for number, name in enumerate(names, start=100):
        ask(conninfo, f"INSERT INTO georgian_regions (id, name_en, latitude, longitude) VALUES ({number}, '{name}', 1, 2)")
    apply(conninfo, "reference")
    assert ask(conninfo, "SELECT count(*) FROM georgian_cities WHERE region_id >= 100") == [82]


def test_a_missing_region_is_an_error(conninfo: str) -> None:
    apply(conninfo, "pre_data", "migrations")
    ask(conninfo, "INSERT INTO georgian_regions (name_en, latitude, longitude) VALUES ('Adjara', 1, 2)")
    with pytest.raises(StepFailed, match=r"reference/002_georgian_cities\.sql.*region_id"):
        apply(conninfo, "reference")
    assert ask(conninfo, "SELECT count(*) FROM georgian_cities") == [0]


def fill(conninfo: str, pings: int) -> None:
    ask(
        conninfo,
        f"""INSERT INTO branches (name, display_name) VALUES ('b', 'b');
        INSERT INTO standalone_devices (name, ip, branch_id)
        SELECT 'd', '10.0.0.' || n, (SELECT id FROM branches) FROM generate_series(1, 50) AS n;
        INSERT INTO alert_rules (name, expression, severity, device_id)
        SELECT 'r', 'x > 1', 'HIGH', id FROM standalone_devices LIMIT 4;
        INSERT INTO ping_results (device_ip, "timestamp")
        SELECT '10.0.0.' || n % 40, timestamptz '2025-10-11 00:00Z' + n * interval '1 s'
        FROM generate_series(1, {pings}) AS n""",
    )


def test_smoke_tests_of_a_whole_database_pass(conninfo: str) -> None:
    apply(conninfo)
    fill(conninfo, 2_000)
    found = smoke(conninfo)
    assert {name: passed for name, (passed, _) in found.items()} == dict.fromkeys(found, True)
    assert found["devices_exist"][1] == "50 devices, 50 enabled"
    assert found["ping_results_newest_per_device"][1] == (
        "39 of 50 devices have pings, the newest of 2025-10-11 00:33:19 UTC"
    )
    assert found["alert_rules_find_what_they_name"][1] == "4 rules, 4 enabled"


def test_smoke_tests_find_what_is_wrong(conninfo: str) -> None:
    apply(conninfo)
    fill(conninfo, 100)
    faults = {
        "devices_exist": "DELETE FROM standalone_devices",
        "ping_results_newest_per_device": "UPDATE ping_results SET device_ip = '0.0.0.0'",
        "ping_results_index_is_usable": "DROP INDEX ping_results_device_ip_timestamp_idx",
        "devices_find_their_branches": """
            ALTER TABLE standalone_devices DROP CONSTRAINT standalone_devices_branch_id_fkey; DELETE FROM branches""",
        "alert_rules_find_what_they_name": """
            ALTER TABLE alert_rules DROP CONSTRAINT alert_rules_device_id_fkey; DELETE FROM standalone_devices""",
        "open_alerts_find_their_rules": """
            ALTER TABLE alert_history DROP CONSTRAINT alert_history_rule_id_fkey;
            INSERT INTO alert_history (rule_id, severity, message) VALUES (gen_random_uuid(), 'HIGH', 'm')""",
        "cities_find_their_regions": "DELETE FROM georgian_cities",
    }
    assert set(faults) == set(smoke(conninfo))
    with psycopg.connect(conninfo) as connection:
        connection.execute(f"SET search_path = {SCHEMA}".encode())
        for name, fault in faults.items():
            with connection.transaction(force_rollback=True):
                connection.execute(fault.encode())
                found = {row[0]: row[1] for query in SMOKE for row in connection.execute(query.read_text().encode())}
                assert found[name] is False, name


def test_smoke_tests_of_an_application_without_pings_pass(conninfo: str) -> None:
    apply(conninfo)
    fill(conninfo, 0)
    assert all(passed for passed, _ in smoke(conninfo).values())


def test_the_newest_ping_of_each_device_is_one_index_search(conninfo: str) -> None:
    apply(conninfo)
    fill(conninfo, 20_000)
    planner_statistics.gather(conninfo, SCHEMA)
    query = (SQL / "smoke" / "002_ping_results.sql").read_text()
    plan = "\n".join(ask(conninfo, f"EXPLAIN {query}"))
    assert "using ping_results_device_ip_timestamp_idx on ping_results" in plan
    assert "Seq Scan on ping_results result" not in plan


def test_psql_makes_the_same_schema(conninfo: str, tmp_path: Path) -> None:
    apply(conninfo)
    for path in [migration.path for migration in sql_files.discover(SQL, sql_files.KINDS)]:
        with psycopg.connect(conninfo) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS by_hand")
        subprocess.run(
            [str(binaries() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-f", str(path)],
            check=True, env={**os.environ, "PGOPTIONS": "-c search_path=by_hand"}, cwd=tmp_path,
        )  # fmt: skip
    with psycopg.connect(conninfo) as connection:
        for read in (catalog.columns, catalog.foreign_keys, catalog.sequences, catalog.unvalidated_constraints):
            assert read(connection, "by_hand") == read(connection, SCHEMA)
    definitions = (
        "SELECT regexp_replace(pg_get_indexdef(indexrelid), '(ward|by_hand)\\.', '') FROM pg_index"
        " JOIN pg_class ON pg_class.oid = indrelid"
        " WHERE relnamespace = '{}'::regnamespace AND relname <> 'schema_migrations' ORDER BY 1"
    )
    assert ask(conninfo, definitions.format("by_hand")) == ask(conninfo, definitions.format(SCHEMA))


def test_an_abandoned_run_drops_its_empty_tables(conninfo: str) -> None:
    apply(conninfo, "pre_data", "migrations")
    assert len(drop.drop_empty_schema_objects(conninfo, SCHEMA, "run-1")) == 25
    with psycopg.connect(conninfo) as connection:
        assert sql_runner.objects(connection, SCHEMA) == set()
    assert len(apply(conninfo)) == len(sql_files.discover(SQL, sql_files.KINDS))
