"""A synchronous standby that is missing: every commit waits for it. On a server of its own: the setting is the server's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import psycopg
import pytest

from include.cutover.copying import watchdog
from include.cutover.copying.table_copy import RunLease
from include.cutover.copying.tables import copy_table
from include.cutover.errors import Unreachable
from include.cutover.plan.model import Plan
from include.cutover.preflight import target_commit
from include.cutover.preflight.target import check_target
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.target import ledger
from include.cutover.target import session as target_session
from include.cutover.target.sides import Sides
from tests.integration.preflight.conftest import plan as plan_of_preflight
from tests.support.preflight import bad, by_name, change

plan = plan_of_preflight


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL whose commits are synchronous."""
    server = Cluster(tmp_path_factory.mktemp("with_standby"), free_port())
    server.start({"fsync": "off", "full_page_writes": "off"})
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def database(server: Cluster) -> str:
    """libpq connection string of a new database."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return server.conninfo(name)


@contextmanager
def standby_missing(server: Cluster) -> Iterator[None]:
    """A standby is required from here on, and there is none."""

    def require(names: str) -> None:
        with psycopg.connect(server.conninfo(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SHOW synchronous_standby_names").fetchone() != (names,):
                pass

    require("missing")
    try:
        yield
    finally:
        require("")


def checked(database: str, plan: Plan) -> dict[str, str]:
    return bad(check_target(database, plan=plan, source_bytes=1 << 20, application_role=None))


def waiting(server: Cluster) -> int:
    """The sessions whose commit still waits."""
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchone()
    assert row is not None
    return int(row[0])


def test_preflight_finds_it_before_anything_stops(
    server: Cluster, database: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_commit, "COMMIT_SECONDS", 1.0)
    assert checked(database, plan) == {}
    with standby_missing(server):
        checks = by_name(check_target(database, plan=plan, source_bytes=1 << 20, application_role=None))
        assert {name for name, check in checks.items() if check.outcome != "passed"} == {"target_commit"}
        check = checks["target_commit"]
        assert check.found == "a commit waits for a standby: synchronous_standby_names = 'missing', 0 of them connected"
        assert "synchronous_standby_names" in check.do
        assert waiting(server) == 0, "the trial leaves no session behind"
        # Nothing waits where the sessions of this database do not wait for standbys.
        name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = local')
        assert checked(database, plan) == {}
    assert checked(database, plan) == {}


def test_role_without_rights_finds_it_too(
    server: Cluster, database: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_commit, "COMMIT_SECONDS", 1.0)
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    plain = psycopg.conninfo.make_conninfo(database, user="plain", password="plain")
    with standby_missing(server):
        found = checked(plain, change(plan, target_schema="other"))["target_commit"]
        assert found.startswith("a commit waits for a standby: synchronous_standby_names = 'missing'")
        assert waiting(server) == 0


def test_copy_says_so_and_continues_later(
    server: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.5)
    snapshot = tmp_path / "source.db"
    with closing(apsw.Connection(str(snapshot))) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        connection.execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t SELECT i FROM n"
        )
    with psycopg.connect(database, autocommit=True) as target:
        target.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
    ledger.ensure(database)
    lease = RunLease("run", ledger.open_run(database, "run", "ward_ops"))
    sides = Sides(snapshot, database, "public")
    with standby_missing(server):
        with pytest.raises(Unreachable) as caught:
            copy_table(sides, lease, "t", stall_seconds=3.0)
        assert "waits for a synchronous standby" in caught.value.message
        assert "synchronous_standby_names = 'missing'" in caught.value.found and caught.value.where == "table t"
        assert "ALTER SYSTEM SET synchronous_standby_names" in caught.value.do
        assert "a commit waits for a synchronous standby" in caplog.text
        with monkeypatch.context() as patch:  # the check of the lease waits for no standby: else this ends in an error
            patch.setattr(target_session.Connection, "wait_for_statements", lambda self: setattr(self, "patience", 10.0))
            ledger.check(database, lease.run_id, lease.epoch)
    assert copy_table(sides, lease, "t", stall_seconds=30.0).rows == 100
    with psycopg.connect(database) as target:
        assert target.execute("SELECT count(*) FROM t").fetchone() == (100,)
