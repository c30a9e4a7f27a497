"""The target as the SQL of the plan makes it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from include.cutover.assessment.target import read_target
from include.cutover.errors import Refused
from include.cutover.target.schema import PlannedSchema, planned_schema
from tests.support.assessing import sql_folder, target_of


def test_a_role_without_rights_is_refused(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        name = f"looker_{tmp_path.name[-8:]}".lower().replace("-", "_")
        connection.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'p'")
    try:
        with pytest.raises(Refused, match="may not create a scratch schema"):
            target_of(psycopg.conninfo.make_conninfo(conninfo, user=name, password="p"), tmp_path, "CREATE TABLE t (id int)")
    finally:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(f'DROP ROLE "{name}"')


TABLES = (
    "CREATE TABLE device (id uuid PRIMARY KEY)",
    "CREATE TABLE item (id int PRIMARY KEY, device_id uuid CONSTRAINT of_device REFERENCES device)",
    "CREATE TABLE reading (id int PRIMARY KEY, item_id int CONSTRAINT of_item REFERENCES item)",
)


def test_the_target_agrees_with_the_planned_schema(conninfo: str, tmp_path: Path) -> None:
    """The target as the assessment reads it is the one that the other steps read."""
    folder = sql_folder(tmp_path / "sql", *TABLES)
    found, planned = read_target(conninfo, folder), planned_schema(conninfo, folder)
    assert isinstance(planned, PlannedSchema)
    assert {table: list(made.details.values()) for table, made in found.tables.items()} == planned.columns
    assert {table: list(made.primary_key) for table, made in found.tables.items()} == planned.primary_keys
    assert list(found.foreign_keys) == planned.foreign_keys
