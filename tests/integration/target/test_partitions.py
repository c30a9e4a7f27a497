"""Partitioned tables: every change of a partition counts as one of its table, and partitions out of reach are refused."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from include.cutover.errors import Refused
from include.cutover.target import catalog, catalog_state, constraints, ledger, schema, structure
from tests.support.target_schema import prepare

PARTS = """
    CREATE TABLE "Parts" (id bigint, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_2025 PARTITION OF "Parts" FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
    CREATE TABLE parts_2025_one PARTITION OF parts_2025 FOR VALUES IN (1);
    CREATE TABLE parts_2026 PARTITION OF "Parts" FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    INSERT INTO "Parts" VALUES (1, '2025-05-05')
"""


@pytest.fixture
def parted(conninfo: str) -> str:
    ledger.ensure(conninfo)
    prepare(conninfo, PARTS)
    return conninfo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pre_data").mkdir()
    (tmp_path / "pre_data" / "001_tables.sql").write_text(PARTS.rpartition(";")[0] + ";")
    return tmp_path


def state(conninfo: str) -> dict[catalog_state.Key, str]:
    with psycopg.connect(conninfo) as connection:
        return catalog_state.read(connection, "app", None)


def changed(conninfo: str, before: dict[catalog_state.Key, str]) -> set[str]:
    return {change.key[1] for change in catalog_state.changes(before, state(conninfo))}


def half_detach(conninfo: str) -> None:
    """Leave a partition whose rows no new query finds, and which the catalog still lists."""
    with psycopg.connect(conninfo) as reader, psycopg.connect(conninfo, autocommit=True) as other:
        reader.execute('SELECT FROM app."Parts"')
        other.execute("SET statement_timeout = '300ms'")
        with pytest.raises(errors.QueryCanceled):
            other.execute('ALTER TABLE app."Parts" DETACH PARTITION app.parts_2026 CONCURRENTLY')


def test_a_partition_that_was_written_anew_lets_its_table_be_compared_again(parted: str) -> None:
    before = state(parted)
    prepare(parted, "TRUNCATE parts_2025_one; INSERT INTO parts_2025_one VALUES (1, '2025-05-05')")
    assert catalog_state.new_files(before, state(parted)) == {"parts_2025_one", "parts_2025", "Parts"}


def test_an_empty_partition_that_was_half_detached_is_found(parted: str, folder: Path) -> None:
    before = state(parted)
    half_detach(parted)
    assert "Parts" in changed(parted, before)
    failed = {check.name: check.found for check in structure.checks(parted, "app", folder) if check.outcome == "failed"}
    assert "structure_inheritance" in failed
    assert "half detached" in failed["structure_inheritance"]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE \"Parts\" DETACH PARTITION parts_2026",
        "CREATE TABLE rest PARTITION OF \"Parts\" DEFAULT",
        "ALTER TABLE parts_2026 ADD CHECK (id > 5)",
        "CREATE UNIQUE INDEX ON parts_2026 (id)",
        "CREATE RULE r AS ON INSERT TO parts_2026 DO INSTEAD NOTHING",
        "ALTER TABLE parts_2026 ALTER at SET DEFAULT '2026-02-02'",
        'CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.p PARTITION OF "Parts" DEFAULT',
    ],
)  # fmt: skip
def test_a_change_of_a_partition_is_one_of_the_target(parted: str, statement: str) -> None:
    before = state(parted)
    prepare(parted, statement)
    assert changed(parted, before)


def test_an_additional_partition_in_another_schema_is_a_fault(parted: str, folder: Path) -> None:
    prepare(
        parted,
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.p PARTITION OF \"Parts\" FOR VALUES FROM ('2027-01-01')"
        " TO ('2028-01-01')",
    )
    failed = {check.name: check.found for check in structure.checks(parted, "app", folder) if check.outcome == "failed"}
    assert "elsewhere.p is not in the plan" in failed["structure_inheritance"]


@pytest.mark.parametrize("kind", ["foreign", "elsewhere"])
def test_a_plan_with_a_partition_out_of_reach_is_refused(conninfo: str, folder: Path, kind: str) -> None:
    more = {
        "foreign": "CREATE FOREIGN DATA WRAPPER none; CREATE SERVER away FOREIGN DATA WRAPPER none;"
        " CREATE TABLE far (id bigint) PARTITION BY LIST (id);"
        " CREATE FOREIGN TABLE far_1 PARTITION OF far FOR VALUES IN (1) SERVER away;",
        "elsewhere": "CREATE SCHEMA elsewhere; CREATE TABLE far (id bigint) PARTITION BY LIST (id);"
        " CREATE TABLE elsewhere.far_1 PARTITION OF far FOR VALUES IN (1);",
    }
    (folder / "pre_data" / "002_more.sql").write_text(more[kind])
    with pytest.raises(Refused) as caught:
        schema.planned_schema(conninfo, folder)
    assert "far_1" in str(caught.value)


def test_a_key_to_a_partitioned_table_is_validated_against_all_its_partitions(parted: str) -> None:
    prepare(
        parted,
        "INSERT INTO \"Parts\" VALUES (2, '2026-05-05'); CREATE TABLE uses (id bigint, at date);"
        " INSERT INTO uses VALUES (1, '2025-05-05'), (2, '2026-05-05');"
        ' ALTER TABLE uses ADD CONSTRAINT "of" FOREIGN KEY (id, at) REFERENCES "Parts" NOT VALID',
    )
    keys = constraints.validate_foreign_keys(parted, "app", secret={})
    assert [(key.name, key.validated) for key in keys] == [("of", True)]
    with psycopg.connect(parted) as connection:
        assert catalog.unvalidated_constraints(connection, "app") == []
