"""Checks of the target: real servers and roles."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from include.cutover.assessment.target import read_target
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, Refused
from include.cutover.plan.model import Plan
from include.cutover.preflight import target as preflight_target
from include.cutover.preflight import target_disk, target_prepared, target_server
from include.cutover.stack.postgres import Cluster, binaries, free_port
from tests.support.assessing import sql_folder
from tests.support.full_disk import small_disk
from tests.support.preflight import bad, by_name, change

MEGABYTE = 1 << 20


def check_target(
    conninfo: str, plan: Plan, *, source_bytes: int = MEGABYTE, application_role: str | None = None
) -> list[Check]:
    return preflight_target.check_target(conninfo, plan=plan, source_bytes=source_bytes, application_role=application_role)


def test_a_good_target_passes_every_check(conninfo: str, plan: Plan) -> None:
    checks = check_target(conninfo, plan)
    assert bad(checks) == {}
    assert list(by_name(checks)) == [
        "target_reachable",
        "target_sessions",
        "target_version",
        "target_encoding",
        "target_writable",
        "target_database_size",
        "target_free_disk",
        "target_free_connections",
        "target_commit",
        "target_may_create_schema",
        "target_may_create_tables",
        "target_may_rename_schema",
        "target_application_role",
        "target_fence",
        "target_open_doors",
        "target_writes",
        "target_prepared",
        "target_may_end_sessions",
        "target_schema_free",
        "target_clock",
    ]
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()
    assert row is not None and by_name(checks)["target_database_size"].found == row[0]
    assert conninfo.rpartition("dbname=")[2] in checks[0].where and "password" not in checks[0].where


def test_a_prepared_transaction_that_concerns_the_schema_or_was_forgotten_is_named(
    conninfo: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(conninfo, "CREATE TABLE public.theirs (id int)", "CREATE SCHEMA elsewhere", "CREATE TABLE elsewhere.jobs (id int)")
    run(conninfo, "BEGIN; INSERT INTO elsewhere.jobs VALUES (1); PREPARE TRANSACTION 'of today'")
    assert by_name(check_target(conninfo, plan))["target_prepared"].outcome == "passed"
    monkeypatch.setattr(target_prepared, "OLD_SECONDS", 0)
    check = by_name(check_target(conninfo, plan))["target_prepared"]
    assert check.outcome == "failed" and "'of today' of postgres in database" in check.found
    assert "ROLLBACK PREPARED 'of today'; or COMMIT PREPARED 'of today';" in check.do
    monkeypatch.undo()
    run(conninfo, "ROLLBACK PREPARED 'of today'", "BEGIN; DELETE FROM public.theirs; PREPARE TRANSACTION 'here'")
    assert "'here' of postgres" in by_name(check_target(conninfo, plan))["target_prepared"].found
    run(conninfo, "ROLLBACK PREPARED 'here'")


def test_unreachable_target_gives_one_failed_check(plan: Plan) -> None:
    conninfo = f"host=127.0.0.1 port={free_port()} user=ward password=hunter2 dbname=shop"
    (check,) = check_target(conninfo, plan)
    assert (check.name, check.outcome) == ("target_reachable", "failed")
    assert "refused" in check.found and "hunter2" not in str(check)


def test_wrong_password_is_reported_without_it(cluster: Cluster, plan: Plan) -> None:
    (check,) = check_target(cluster.conninfo().replace(cluster.password, "hunter2"), plan)
    assert "password authentication failed" in check.found and "hunter2" not in str(check)


def test_unreadable_connection_string_is_not_repeated(plan: Plan) -> None:
    with pytest.raises(CannotCheck) as caught:
        check_target("postgres host=x password=hunter2", plan)
    assert "hunter2" not in str(caught.value)


def test_another_encoding_fails(cluster: Cluster, plan: Plan) -> None:
    name = f"latin_{secrets.token_hex(4)}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            assert bad(check_target(cluster.conninfo(name), plan)) == {"target_encoding": "LATIN1"}
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_read_only_server_fails(conninfo: str, plan: Plan) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    assert bad(check_target(conninfo, plan)) == {
        "target_writable": "sessions are read-only by default",
        "target_writes": f'default_transaction_read_only = on of DATABASE "{name}": every write is refused',
    }


def test_a_standby_fails(cluster: Cluster, plan: Plan, tmp_path: Path) -> None:
    standby = Cluster(tmp_path / "standby", free_port())
    standby.folder.mkdir()
    done = subprocess.run(
        [binaries() / "pg_basebackup", "-d", cluster.conninfo(), "-D", standby.folder / "data", "-R", "-c", "fast", "-N"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (standby.folder / "password").write_text(cluster.password)
    if os.geteuid() == 0:
        owner = (cluster.folder / "data").stat()
        for path in [standby.folder / "data", *(standby.folder / "data").rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    standby.start({"hot_standby": "on", "max_prepared_transactions": "5"})
    try:
        found = bad(check_target(standby.conninfo(), plan))
        with pytest.raises(Refused, match=r"the target accepts no writes.*Name the primary server"):
            read_target(standby.conninfo(), sql_folder(tmp_path / "sql", "CREATE TABLE devices (id int)"))
    finally:
        standby.stop()
    assert found["target_writable"] == "a standby"


def test_a_full_disk_fails_and_says_which(conninfo: str, plan: Plan, cluster: Cluster) -> None:
    check = by_name(check_target(conninfo, plan, source_bytes=1 << 60))["target_free_disk"]
    assert check.outcome == "failed"
    assert check.expected == "4194304 TB free (4 times the source)"
    assert str(cluster.folder / "data") in check.found


@contextlib.contextmanager
def server_with_its_log_at(place: Path) -> Iterator[Cluster]:
    """A server whose write-ahead log lies elsewhere, below folders that are open to others."""
    with tempfile.TemporaryDirectory(prefix="wal-elsewhere-") as folder:
        Path(folder).chmod(0o755)
        server = Cluster(Path(folder) / "server", free_port())
        server.create()
        journal = server.folder / "data" / "pg_wal"
        shutil.copytree(journal, place / "wal")
        owner = journal.stat()
        for path in (place / "wal", *(place / "wal").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        shutil.rmtree(journal)
        journal.symlink_to(place / "wal")
        server.start({"max_prepared_transactions": "5"})
        try:
            yield server
        finally:
            server.stop()


def free_disk(conninfo: str, plan: Plan) -> Check:
    return by_name(check_target(conninfo, plan, source_bytes=8 << 20))["target_free_disk"]


def test_the_disk_of_the_write_ahead_log_counts(plan: Plan, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40) as disk:
        disk.chmod(0o755)
        with server_with_its_log_at(disk) as server:
            check = free_disk(server.conninfo(), plan)
            assert (check.outcome, check.found.endswith("data/pg_wal")) == ("failed", True), check.found

            # Another user of the host sees the data folder and nothing in it.
            conninfo = server.conninfo()
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.setresuid(4243, 4243, 4243)
                seen = free_disk(conninfo, plan)
                os.write(writing, json.dumps([seen.outcome, seen.found]).encode())
                os._exit(0)
            os.waitpid(child, 0)
            os.close(writing)
            with os.fdopen(reading, "rb") as pipe:
                outcome, found = json.load(pipe)
            assert outcome == "unknown" and "pg_wal is closed to this user, and may lead to another disk" in found, found


@pytest.mark.parametrize("how", ["the database", "its default", "its sorts", "the plan's SQL"])
def test_the_disk_of_each_tablespace_that_grows_counts(
    plan: Plan, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("CUTOVER_SQL", str(tmp_path / "sql"))
    plan.sql_folder.mkdir(parents=True)
    database = f"t_{secrets.token_hex(6)}"
    with (
        tempfile.TemporaryDirectory(prefix="tablespace-") as folder,
        small_disk(Path(folder) / "disk", 24) as disk,
        psycopg.connect(cluster.conninfo(), autocommit=True) as connection,
    ):
        owner = Path(f"/proc/{cluster.postmaster()}").stat()
        Path(folder).chmod(0o755)
        os.chown(disk, owner.st_uid, owner.st_gid)
        connection.execute(f"CREATE TABLESPACE \"Small one\" LOCATION '{disk}'".encode())
        connection.execute(f"CREATE DATABASE {database} STRATEGY file_copy".encode())
        try:
            assert free_disk(cluster.conninfo(database), plan).outcome == "passed"
            if how == "the database":
                connection.execute(f'ALTER DATABASE {database} SET TABLESPACE "Small one"'.encode())
            elif how == "the plan's SQL":
                (plan.sql_folder / "001.sql").write_text('CREATE INDEX more ON users (email) Tablespace "Small one";')
            else:
                name = "default_tablespace" if how == "its default" else "temp_tablespaces"
                connection.execute(f"ALTER DATABASE {database} SET {name} = 'Small one'".encode())
            check = free_disk(cluster.conninfo(database), plan)
        finally:
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())
            connection.execute(b'DROP TABLESPACE "Small one"')
    assert (check.outcome, check.found.endswith(f"at {disk}")) == ("failed", True), check.found


def test_the_disk_of_a_server_that_is_not_here_is_unknown(
    conninfo: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a tunnel a server seems to be on loopback; its processes are not to be seen here."""
    monkeypatch.setattr(target_disk, "_PROCESSES", tmp_path)
    check = by_name(check_target(conninfo, plan))["target_free_disk"]
    assert check.outcome == "unknown"
    assert "preflight.accept_unknown" in check.do and "go/no-go" in check.do


def test_too_few_connections_fail(conninfo: str, plan: Plan) -> None:
    few = bad(check_target(conninfo, change(plan, preflight__free_connections=99)))
    assert list(few) == ["target_free_connections"]
    assert few["target_free_connections"].endswith("of 100 in use, 3 reserved")


@pytest.fixture
def role(cluster: Cluster) -> Iterator[str]:
    """A role that may log in and nothing more; gone after the database is."""
    name = f"r_{secrets.token_hex(6)}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'ro:le'")
    try:
        yield name
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f"DROP ROLE {name}")


@pytest.fixture
def other_role(cluster: Cluster) -> Iterator[str]:
    """A second one, for the application."""
    name = f"a_{secrets.token_hex(6)}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
    try:
        yield name
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f"DROP ROLE {name}")


def as_role(conninfo: str, role: str) -> str:
    return psycopg.conninfo.make_conninfo(conninfo, user=role, password="ro:le")


def run(conninfo: str, *statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def wait_until_left(conninfo: str) -> None:
    """Until the server has ended the sessions that were closed before."""
    deadline = time.monotonic() + 20
    with psycopg.connect(conninfo, dbname="postgres", autocommit=True) as connection:
        database = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        while connection.execute(query, [database]).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_missing_rights_of_a_role_are_named(role: str, other_role: str, conninfo: str, plan: Plan) -> None:
    checks = check_target(as_role(conninfo, role), plan, application_role=other_role)
    assert bad(checks) == {
        "target_free_disk": "the role may not see where the server keeps its data",
        "target_may_create_schema": "not granted",
        "target_may_create_tables": "not granted",
        "target_may_rename_schema": "the schema public belongs to pg_database_owner; no CREATE on the database",
        "target_fence": f"{role} may not alter it",
        "target_may_end_sessions": f"{role} does not have it",
    }
    named = by_name(checks)
    assert named["target_free_disk"].outcome == "unknown"
    assert "could write to the target after a rollback" in named["target_may_end_sessions"].do

    # The commands that the checks name are enough, each as it stands there.
    run(
        conninfo,
        named["target_may_create_schema"].do,
        named["target_may_create_tables"].do,
        named["target_may_rename_schema"].do.partition(";")[0],
        *named["target_fence"].do.split(";")[:2],
    )
    assert bad(check_target(as_role(conninfo, role), plan, application_role=other_role)) == {
        "target_free_disk": "the role may not see where the server keeps its data"
    }
    run(as_role(conninfo, role), "ALTER SCHEMA public RENAME TO kept", "CREATE SCHEMA public")


def test_database_owner_lacks_only_fence_and_ending_sessions(role: str, other_role: str, conninfo: str, plan: Plan) -> None:
    database = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
    run(conninfo, f'ALTER DATABASE "{database}" OWNER TO {role}', f"GRANT pg_read_all_settings TO {role}")
    owner = as_role(conninfo, role)
    lacking = ["target_fence", "target_may_end_sessions"]
    assert list(bad(check_target(owner, plan, application_role=other_role))) == lacking
    # Where the fence is the rights alone, it needs what an owner has, and what the check says to end sessions.
    weaker = change(plan, target_fence="privileges")
    checks = check_target(owner, weaker, application_role=other_role)
    assert list(bad(checks)) == ["target_may_end_sessions"]
    run(conninfo, by_name(checks)["target_may_end_sessions"].do.partition(";")[0])
    assert bad(check_target(owner, weaker, application_role=other_role)) == {}
    # No fence holds against the pipeline's own role.
    assert bad(check_target(owner, plan, application_role=role)) == {"target_fence": "it is the pipeline's own role"}
    # A superuser's sessions are out of reach.
    run(conninfo, f"ALTER ROLE {other_role} SUPERUSER")
    ends = by_name(check_target(owner, plan, application_role=other_role))["target_may_end_sessions"]
    assert ends.outcome == "failed" and "Take SUPERUSER from" in ends.do


def test_the_application_s_role_must_be_there_and_may_log_in(role: str, conninfo: str, plan: Plan) -> None:
    found = bad(check_target(conninfo, plan, application_role="nobody_of_that_name"))
    assert found == dict.fromkeys(
        ("target_application_role", "target_fence", "target_may_end_sessions"), "there is no such role"
    )
    database = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
    run(conninfo, f"ALTER ROLE {role} NOLOGIN", f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC')
    # An earlier rollback took its log-in; where that is the fence, go-live gives it back.
    assert bad(check_target(conninfo, plan, application_role=role)) == {"target_application_role": "without CONNECT"}
    weaker = change(plan, target_fence="privileges")
    checks = check_target(conninfo, weaker, application_role=role)
    assert bad(checks) == {"target_application_role": "without CONNECT and LOGIN"}
    run(conninfo, by_name(checks)["target_application_role"].do)
    for fenced in (plan, weaker):
        assert bad(check_target(conninfo, fenced, application_role=role)) == {}


def test_fence_is_tried_without_a_change(role: str, conninfo: str, plan: Plan) -> None:
    checks = by_name(check_target(conninfo, plan, application_role=role))
    assert (checks["target_fence"].outcome, checks["target_fence"].found) == ("passed", "tried, and rolled back")
    with psycopg.connect(as_role(conninfo, role), autocommit=True) as session:
        session.execute("BEGIN")
        doors = by_name(check_target(conninfo, plan, application_role=role))["target_open_doors"]
        assert (doors.outcome, doors.found) == ("passed", "1 open sessions of it, which the cutover will end")
        session.execute("SELECT 1")


def test_a_setting_that_changes_the_applications_writes_is_found_before_the_window(
    role: str, conninfo: str, plan: Plan
) -> None:
    name = "target_writes"
    assert by_name(check_target(conninfo, plan, application_role=role))[name].outcome == "passed"
    run(conninfo, f"ALTER ROLE {role} SET session_replication_role = replica")
    check = by_name(check_target(conninfo, plan, application_role=role))[name]
    assert check.outcome == "failed" and "triggers and foreign keys do nothing" in check.found
    run(conninfo, check.do)
    assert by_name(check_target(conninfo, plan, application_role=role))[name].outcome == "passed"


def test_connection_limits_of_role_and_database_count(role: str, conninfo: str, plan: Plan) -> None:
    database = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
    run(conninfo, f"ALTER ROLE {role} CONNECTION LIMIT 5")
    name = "target_free_connections"
    assert bad(check_target(as_role(conninfo, role), plan))[name] == "4 free: 1 of the role's 5 in use"
    run(conninfo, f'ALTER DATABASE "{database}" CONNECTION LIMIT 3')
    wait_until_left(conninfo)
    assert bad(check_target(as_role(conninfo, role), plan))[name] == "2 free: 1 of the database's 3 in use"
    # A superuser is not held to either.
    assert bad(check_target(conninfo, plan)) == {}


def test_rows_and_foreign_objects_in_the_schema_fail(conninfo: str, plan: Plan) -> None:
    run(
        conninfo,
        "CREATE TABLE devices (id bigserial PRIMARY KEY)",
        "CREATE TABLE pings (id int PRIMARY KEY, day date) ",
        "CREATE TABLE schema_migrations (name text)",
        "INSERT INTO schema_migrations VALUES ('001')",
    )
    assert bad(check_target(conninfo, plan)) == {}  # the plan's own tables, still empty
    run(
        conninfo,
        "INSERT INTO devices DEFAULT VALUES",
        "CREATE VIEW busy AS SELECT 1",
        'CREATE TABLE "Other" (id int)',
        "CREATE SEQUENCE loose",
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE elsewhere.not_ours (id int)",
    )
    assert bad(check_target(conninfo, plan)) == {"target_schema_free": "rows in devices; other objects: Other, busy, loose"}


def test_partitions_belong_to_their_table(conninfo: str, plan: Plan) -> None:
    run(
        conninfo,
        "CREATE TABLE pings (day date) PARTITION BY RANGE (day)",
        "CREATE TABLE pings_2025 PARTITION OF pings FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    )
    assert bad(check_target(conninfo, plan)) == {}
    run(conninfo, "INSERT INTO pings VALUES ('2025-10-11')")
    assert bad(check_target(conninfo, plan)) == {"target_schema_free": "rows in pings"}


def test_locked_table_is_unknown_after_the_lock_timeout(conninfo: str, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(target_server._WAITS, "lock_timeout", 0.2)
    run(conninfo, "CREATE TABLE devices (id int)")
    with psycopg.connect(conninfo) as holder:
        holder.execute("LOCK TABLE devices")
        check = by_name(check_target(conninfo, plan))["target_schema_free"]
    assert check.outcome == "unknown" and "lock timeout" in check.found


def test_missing_schema_passes(conninfo: str, plan: Plan) -> None:
    assert bad(check_target(conninfo, change(plan, target_schema="Shop data"))) == {}
