"""The plan's SQL in a scratch schema that leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.cutover.errors import StepFailed
from include.cutover.target import catalog, scratch_schema
from tests.unit.target.test_sql_files import write

TABLE = "CREATE TABLE first (id integer);"


def ask(conninfo: str, query: str, *values: Any) -> Any:
    """The first column of the first row; None where there is no row."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query.encode(), values).fetchone()
        return None if row is None else row[0]


def test_scratch_schema_shows_the_catalog_and_leaves_nothing(conninfo: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        pre_data__001_a=TABLE + "SET search_path = pg_temp;",
        post_data__001_k="ALTER TABLE first ADD PRIMARY KEY (id);",
    )
    with scratch_schema.build(conninfo, tmp_path) as (connection, schema):
        assert catalog.primary_key(connection, schema, "first") == ["id"]
    with scratch_schema.build(conninfo, tmp_path, ["pre_data"]) as (connection, schema):
        assert catalog.primary_key(connection, schema, "first") == []
    assert ask(conninfo, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cutover%%'") == 0


def test_scratch_schema_finds_faults_in_files_of_the_window(conninfo: str, tmp_path: Path) -> None:
    write(
        tmp_path, pre_data__001_a=TABLE, foreign_keys__001_f="ALTER TABLE first ADD FOREIGN KEY (id) REFERENCES gone (id);"
    )
    with (
        pytest.raises(StepFailed, match=r'foreign_keys/001_f\.sql.*relation "gone" does not exist'),
        scratch_schema.build(conninfo, tmp_path),
    ):
        pass
    assert ask(conninfo, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cutover%%'") == 0
