"""Statistics of loaded tables."""

from __future__ import annotations

import psycopg
import pytest

from include.cutover.errors import LeaseLost, StepFailed
from include.cutover.target import (
    planner_statistics,
)
from tests.support.target_schema import ask, lost, prepare


def test_statistics_are_gathered_for_every_table(conninfo: str) -> None:
    prepare(conninfo, """CREATE TABLE "T" AS SELECT generate_series(1, 500) AS id; CREATE TABLE "წ" AS SELECT 1 AS id""")
    planner_statistics.gather(conninfo, "app")
    planner_statistics.gather(conninfo, "app")
    assert ask(conninfo, """SELECT reltuples FROM pg_class WHERE oid = '"T"'::regclass""") == 500
    assert ask(conninfo, "SELECT count(DISTINCT tablename) FROM pg_stats WHERE schemaname = 'app'") == 2
    with pytest.raises(LeaseLost):
        planner_statistics.gather(conninfo, "app", lost)


def test_a_table_that_postgresql_leaves_out_is_an_error(conninfo: str) -> None:
    prepare(conninfo, "CREATE TABLE t (id integer)")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        role = f"r_{connection.info.dbname}"
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'".encode())
        try:
            connection.execute(f"GRANT USAGE ON SCHEMA app TO {role}".encode())
            with pytest.raises(StepFailed, match=r'not gathered for every table.*"t"'):
                planner_statistics.gather(psycopg.conninfo.make_conninfo(conninfo, user=role, password="p"), "app")
        finally:
            connection.execute(f"DROP OWNED BY {role}".encode())
            connection.execute(f"DROP ROLE {role}".encode())
