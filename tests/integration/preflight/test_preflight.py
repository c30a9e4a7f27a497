"""Everything that is looked at before anything stops: real servers and roles, real files and disks, real services."""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest

from include.cutover.assessment.target import read_target
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, Refused
from include.cutover.places import ROOT
from include.cutover.plan.application import CommandControl, Service, SmokeTests
from include.cutover.plan.model import Plan
from include.cutover.preflight import places as preflight_places
from include.cutover.preflight import services as preflight_services
from include.cutover.preflight import source as preflight_source
from include.cutover.preflight import target as preflight_target
from include.cutover.source import cloning, fence
from include.cutover.stack.postgres import Cluster, binaries, free_port
from include.cutover.target.catalog import Column, ForeignKey
from include.cutover.target.schema import PlannedSchema
from tests.support.assessing import sql_folder

MEGABYTE = 1 << 20


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan for two tables, with places under the test's folder."""
    person = {"user": "lead", "name": "Nino", "email": "nino@example.org"}
    return Plan.model_validate({
        "name": "shop",
        "application": "Shop",
        "connections": {"source": "s", "target": "t", "application": "a"},
        "tables": {"devices": None, "pings": None},
        "backup": {"directory": str(tmp_path / "backups"), "second_copy": str(tmp_path / "second")},
        "people": {"lead": person, "observer": person, "communicator": person},
        "channels": {"mail_from": "a@example.org", "mail_to": ["b@example.org"]},
        "notices": {"start": "s", "completion": "c", "rollback": "r"},
    })  # fmt: skip


def change(plan: Plan, **changes: Any) -> Plan:
    """The plan with other values, given as ``preflight__free_connections=3``."""
    data = plan.model_dump()
    for name, value in changes.items():
        *folders, key = name.split("__")
        place = data
        for folder in folders:
            place = place[folder]
        place[key] = value
    return Plan.model_validate(data)


def by_name(checks: list[Check]) -> dict[str, Check]:
    names = {check.name: check for check in checks}
    assert len(names) == len(checks)
    return names


def bad(checks: list[Check]) -> dict[str, str]:
    """What did not pass, and what was found."""
    for check in checks:
        assert check.outcome == "passed" or check.do, f"{check.name} does not say what to do"
    return {check.name: check.found for check in checks if check.outcome != "passed"}


def check_target(
    conninfo: str, plan: Plan, *, source_bytes: int = MEGABYTE, application_role: str | None = None
) -> list[Check]:
    return preflight_target.check_target(conninfo, plan=plan, source_bytes=source_bytes, application_role=application_role)


# --- the target ---------------------------------------------------------------------------------------------------------


def test_a_good_target_passes_every_check(conninfo: str, plan: Plan) -> None:
    checks = check_target(conninfo, plan)
    assert bad(checks) == {}
    assert list(by_name(checks)) == [
        "target_reachable",
        "target_version",
        "target_encoding",
        "target_writable",
        "target_database_size",
        "target_free_disk",
        "target_free_connections",
        "target_may_create_schema",
        "target_may_create_tables",
        "target_may_rename_schema",
        "target_application_role",
        "target_fence",
        "target_open_doors",
        "target_may_end_sessions",
        "target_schema_free",
        "target_clock",
    ]
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()
    assert row is not None and by_name(checks)["target_database_size"].found == row[0]
    assert conninfo.rpartition("dbname=")[2] in checks[0].where and "password" not in checks[0].where


@pytest.mark.parametrize("size", [0, 1, 10239, 10240, 10 * MEGABYTE, 123_456_789, 12_345_678_901, 9 * 10**15])
def test_sizes_are_shown_as_psql_shows_them(cluster: Cluster, size: int) -> None:
    with psycopg.connect(cluster.conninfo()) as connection:
        row = connection.execute("SELECT pg_size_pretty(%s::bigint)", [size]).fetchone()
    assert row is not None and preflight_places.pretty(size) == row[0]


def test_a_target_that_is_not_there_gives_one_failed_check(plan: Plan) -> None:
    conninfo = f"host=127.0.0.1 port={free_port()} user=ward password=hunter2 dbname=shop"
    (check,) = check_target(conninfo, plan)
    assert (check.name, check.outcome) == ("target_reachable", "failed")
    assert "refused" in check.found and "hunter2" not in str(check)


def test_a_wrong_password_is_told_without_it(cluster: Cluster, plan: Plan) -> None:
    (check,) = check_target(cluster.conninfo().replace(cluster.password, "hunter2"), plan)
    assert "password authentication failed" in check.found and "hunter2" not in str(check)


def test_a_connection_string_that_is_none_is_not_repeated(plan: Plan) -> None:
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
    assert bad(check_target(conninfo, plan)) == {"target_writable": "sessions are read-only by default"}


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
        with pytest.raises(Refused, match=r"the target takes no writes.*Name the primary server"):
            read_target(standby.conninfo(), sql_folder(tmp_path / "sql", "CREATE TABLE devices (id int)"))
    finally:
        standby.stop()
    assert found["target_writable"] == "a standby"


def test_a_full_disk_fails_and_says_which(conninfo: str, plan: Plan, cluster: Cluster) -> None:
    check = by_name(check_target(conninfo, plan, source_bytes=1 << 60))["target_free_disk"]
    assert check.outcome == "failed"
    assert check.expected == "4194304 TB free (4 times the source)"
    assert str(cluster.folder / "data") in check.found


def test_the_disk_of_a_server_that_is_not_here_is_unknown(
    conninfo: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a tunnel a server seems to be on loopback; its processes are not to be seen here."""
    monkeypatch.setattr(preflight_target, "_PROCESSES", tmp_path)
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


def test_a_restricted_role_is_told_what_it_lacks(role: str, other_role: str, conninfo: str, plan: Plan) -> None:
    checks = check_target(as_role(conninfo, role), plan, application_role=other_role)
    assert bad(checks) == {
        "target_free_disk": "the role may not see where the server keeps its data",
        "target_may_create_schema": "not granted",
        "target_may_create_tables": "not granted",
        "target_may_rename_schema": "the schema public belongs to pg_database_owner; no CREATE on the database",
        "target_fence": f"{role} may not alter it",
        "target_may_end_sessions": f"{role} has it not",
    }
    named = by_name(checks)
    assert named["target_free_disk"].outcome == "unknown"
    assert "it may go on writing into the target" in named["target_may_end_sessions"].do

    # What the checks say to do is enough, each command as it stands there.
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


def test_a_database_s_owner_may_all_but_shut_out_and_end_sessions(
    role: str, other_role: str, conninfo: str, plan: Plan
) -> None:
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


def test_the_fence_is_tried_and_nothing_is_changed(role: str, conninfo: str, plan: Plan) -> None:
    checks = by_name(check_target(conninfo, plan, application_role=role))
    assert (checks["target_fence"].outcome, checks["target_fence"].found) == ("passed", "tried, and taken back")
    with psycopg.connect(as_role(conninfo, role), autocommit=True) as session:
        session.execute("BEGIN")
        doors = by_name(check_target(conninfo, plan, application_role=role))["target_open_doors"]
        assert (doors.outcome, doors.found) == ("passed", "1 open sessions of it, which the cutover will end")
        session.execute("SELECT 1")


def test_the_limits_of_role_and_database_count(role: str, conninfo: str, plan: Plan) -> None:
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


def test_a_table_that_somebody_holds_is_unknown_and_not_waited_for(
    conninfo: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(preflight_target._WAITS, "lock_timeout", 0.2)
    run(conninfo, "CREATE TABLE devices (id int)")
    with psycopg.connect(conninfo) as holder:
        holder.execute("LOCK TABLE devices")
        check = by_name(check_target(conninfo, plan))["target_schema_free"]
    assert check.outcome == "unknown" and "lock timeout" in check.found


def test_a_schema_that_is_not_there_yet_will_be_made(conninfo: str, plan: Plan) -> None:
    assert bad(check_target(conninfo, change(plan, target_schema="Shop data"))) == {}


# --- the source ---------------------------------------------------------------------------------------------------------

TEXT = "text"


def column(name: str, kind: str = TEXT, *, generated: bool = False) -> Column:
    return Column(name, kind, False, None, generated, False)


KEY = ForeignKey("pings_device_fkey", "pings", ("device",), "devices", ("id",), "CASCADE", False)
PLANNED = PlannedSchema(
    columns={
        "devices": [column("id", "uuid"), column("name")],
        "pings": [column("id", "bigint"), column("device", "uuid"), column("day", "date", generated=True)],
    },
    primary_keys={"devices": ["id"], "pings": ["id"]},
    foreign_keys=[KEY],
)
DEVICE = "0b51f0a48f144c4e9a530f6c2d6f7a01"


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A live source: two tables, the references spelled in both ways, in WAL mode with nobody connected."""
    path = tmp_path / "data" / "shop.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE devices (id UUID PRIMARY KEY, name VARCHAR(50))")
        connection.execute("CREATE TABLE pings (id INTEGER PRIMARY KEY AUTOINCREMENT, device UUID)")
        connection.execute("INSERT INTO devices VALUES (?, 'ერთი')", [DEVICE])
        connection.executemany("INSERT INTO pings (device) VALUES (?)", [(DEVICE,), (DEVICE.upper(),), (None,)])
        connection.execute("INSERT INTO pings (device) VALUES (?)", ["0b51f0a4-8f14-4c4e-9a53-0f6c2d6f7a01"])
        connection.commit()
    return path


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def check_source(live: Path, plan: Plan, planned: PlannedSchema = PLANNED) -> list[Check]:
    clone = live.parent / "clone.db"
    cloning.clone(live, clone)
    return preflight_source.check_source(live, clone, plan=plan, planned=planned)


def test_a_good_source_passes_every_check(live: Path, plan: Plan) -> None:
    before = live.read_bytes()
    checks = check_source(live, plan)
    assert bad(checks) == {}
    assert list(by_name(checks)) == [
        "source_file",
        "source_replaceable",
        "source_integrity",
        "source_tables_unknown",
        "source_tables_missing",
        "target_tables_missing",
        "target_tables_unknown",
        "source_columns_unknown",
        "source_columns_missing",
        "source_orphans_pings_device_fkey",
    ]
    assert by_name(checks)["source_file"].found == "20 kB, rollback journal"
    assert live.read_bytes() == before
    assert sorted(item.name for item in live.parent.iterdir()) == ["clone.db", "shop.db"]


def test_the_files_beside_a_live_database_are_told(live: Path, plan: Plan) -> None:
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("INSERT INTO pings (device) VALUES (NULL)")
        connection.commit()
        found = by_name(preflight_source.check_source_file(live))["source_file"].found
    assert found.startswith("20 kB, write-ahead log, beside it shop.db-wal of ")


def test_what_the_plan_does_not_know_is_named_both_ways(live: Path, plan: Plan) -> None:
    edit(live, "CREATE TABLE forgotten (id)", "DROP TABLE pings", "ALTER TABLE devices ADD COLUMN colour TEXT")
    columns = {"devices": [*PLANNED.columns["devices"], column("size")], "extra": [column("id")]}
    planned = replace(PLANNED, columns=columns)
    assert bad(check_source(live, plan, planned)) == {
        "source_tables_unknown": "forgotten",
        "source_tables_missing": "pings",
        "target_tables_missing": "pings",
        "target_tables_unknown": "extra",
        "source_columns_unknown": "devices.colour",
        "source_columns_missing": "devices.size",
    }


def test_orphans_are_counted_with_their_first_keys(live: Path, plan: Plan) -> None:
    with closing(sqlite3.connect(live)) as connection:
        connection.executemany("INSERT INTO pings (device) VALUES (?)", [(f"{number:032x}",) for number in range(30)])
        connection.commit()
    checks = check_source(live, plan)
    assert bad(checks) == {"source_orphans_pings_device_fkey": "30 orphans; keys id=5, id=6, id=7, id=8, id=9, …"}
    orphans = by_name(checks)["source_orphans_pings_device_fkey"]
    assert orphans.title == "Every pings.device exists in devices" and orphans.where == "pings.device"


def test_a_damaged_source_is_not_looked_into_further(live: Path, plan: Plan) -> None:
    edit(live, "CREATE INDEX pings_device ON pings (device)")
    clone = live.parent / "clone.db"
    cloning.clone(live, clone)
    content = bytearray(clone.read_bytes())
    content[4096 * 3 + 200 : 4096 * 4] = secrets.token_bytes(4096 - 200)
    clone.write_bytes(content)
    checks = preflight_source.check_clone(clone, plan=plan, planned=PLANNED)
    assert [(check.name, check.outcome) for check in checks] == [("source_integrity", "failed")]
    assert "fault" in checks[0].found

    clone.write_bytes(content[:5000])
    (check,) = preflight_source.check_clone(clone, plan=plan, planned=PLANNED)
    assert check.outcome == "failed" and "truncated" in check.found


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "an empty file"), (b"\x8f" * 4096, "not an SQLite database, or an encrypted one")],
)
def test_something_else_than_a_database_fails(live: Path, content: bytes, found: str) -> None:
    live.write_bytes(content)
    assert bad(preflight_source.check_source_file(live)) == {"source_file": found}


def test_a_source_that_is_not_there_fails(tmp_path: Path) -> None:
    found = bad(preflight_source.check_source_file(tmp_path / "absent.db"))
    assert found == {"source_file": "there is no such file", "source_replaceable": "No such file or directory"}


def test_a_fenced_source_fails_and_names_the_run(live: Path) -> None:
    fence.raise_fence(live, run_id="manual__2025-10-11")
    found = bad(preflight_source.check_source_file(live))
    assert "manual__2025-10-11" in found["source_file"]
    fence.lift(live)
    assert bad(preflight_source.check_source_file(live)) == {}


def test_a_link_to_the_source_is_followed(live: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(live)
    assert bad(preflight_source.check_source_file(link)) == {}


def test_a_mount_of_a_single_file_cannot_be_replaced(live: Path) -> None:
    """As in a container that was given the file itself; mounted in a namespace that ends with the command."""
    code = (
        "import sys; from pathlib import Path; from include.cutover.preflight import places as preflight;"
        "print(*[check.found for check in preflight.check_source_file(Path(sys.argv[1])) if check.outcome == 'failed'])"
    )
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    script = f'mount --bind "$1" "$1" && exec {sys.executable} -c "$2" "$1"'
    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", live, code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == "it is a mount of a single file", done.stderr


# --- places -------------------------------------------------------------------------------------------------------------


def test_places_on_one_disk_pass_with_a_word(live: Path, plan: Plan, tmp_path: Path) -> None:
    checks = by_name(preflight_places.check_places(live, plan=plan))
    assert bad(list(checks.values())) == {}
    assert list(checks) == [
        "backup_directory",
        "second_copy_directory",
        "backup_free_space",
        "second_copy_free_space",
        "second_copy_apart",
    ]
    apart = checks["second_copy_apart"]
    assert apart.found == "on the same disk as the source and the first backup" and "backup.second_copy" in apart.do
    # Nothing is left behind, and what was made is closed to others.
    assert list((tmp_path / "backups").iterdir()) == [] and list((tmp_path / "second").iterdir()) == []
    # Room for both copies and the one that the restore test opens, as they are on one disk.
    assert checks["backup_free_space"].expected == f"{preflight_places.pretty(3 * 1.2 * live.stat().st_size)} free"


def test_another_disk_is_told_from_the_same(live: Path, plan: Plan) -> None:
    shared_memory = Path("/dev/shm") / f"cutover-test-{secrets.token_hex(4)}"
    try:
        checks = by_name(preflight_places.check_places(live, plan=change(plan, backup__second_copy=shared_memory)))
        assert (checks["second_copy_apart"].found, checks["second_copy_apart"].do) == ("on another disk", "")
        assert checks["second_copy_free_space"].expected == f"{preflight_places.pretty(1.2 * live.stat().st_size)} free"
    finally:
        shared_memory.rmdir()


def test_without_a_second_copy_the_backup_itself_is_compared(live: Path, plan: Plan) -> None:
    checks = by_name(preflight_places.check_places(live, plan=change(plan, backup__second_copy=None)))
    assert checks["second_copy_apart"].found == "on the same disk as the source"


def test_places_that_take_no_file_fail(live: Path, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    changed = change(plan, backup__directory=tmp_path / "file" / "below", backup__second_copy=Path("/proc/nowhere"))
    found = bad(preflight_places.check_places(live, plan=changed))
    assert set(found) == {"backup_directory", "second_copy_directory"}
    assert found["backup_directory"] == "Not a directory"


def test_a_source_larger_than_the_disk_fails(live: Path, plan: Plan) -> None:
    with live.open("r+b") as file:
        file.truncate(1 << 43)  # sparse: 8 TB that take no room
    found = bad(preflight_places.check_places(live, plan=plan))
    assert set(found) == {"backup_free_space", "second_copy_free_space"}


def test_the_configuration_must_be_replaceable(live: Path, plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    values = {"file": file, "live": {"A": "1"}, "rolled_back": {"A": "2"}}
    found = bad(preflight_places.check_places(live, plan=change(plan, configuration=values)))
    assert found == {"configuration_replaceable": "No such file or directory"}
    file.write_text("A=1")
    assert bad(preflight_places.check_places(live, plan=change(plan, configuration=values))) == {}


def test_a_folder_closed_to_the_user_is_found_by_trying(live: Path, plan: Plan, tmp_path: Path) -> None:
    """As another user where the tests run as root, who may write everywhere."""
    for name in ("backups", "second"):
        (tmp_path / name).mkdir(mode=0o555)
    live.parent.chmod(0o555)
    code = (
        "import os, sys; from pathlib import Path;"
        "from include.cutover.preflight import places as preflight; from include.cutover.plan.model import Plan;"
        "plan = Plan.model_validate_json(sys.stdin.read()); live = Path(sys.argv[1]); os.geteuid() or os.setuid(65534);"
        "checks = [*preflight.check_places(live, plan=plan), *preflight.check_source_file(live)];"
        "print(*sorted(check.name for check in checks if check.outcome == 'failed'))"
    )
    closed = [folder for folder in tmp_path.parents if folder.stat().st_uid == os.geteuid()]
    modes = {folder: folder.stat().st_mode for folder in (tmp_path, *closed) if not folder.stat().st_mode & 0o001}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o011)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(live)], input=plan.model_dump_json(), capture_output=True, text=True,
            check=False, cwd=ROOT,
        )  # fmt: skip
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
        live.parent.chmod(0o755)
    assert done.stdout.split() == ["backup_directory", "second_copy_directory", "source_replaceable"], done.stderr


# --- services -----------------------------------------------------------------------------------------------------------


def service(name: str, *status: str) -> Service:
    return Service(name=name, control=CommandControl(kind="command", start=("true",), stop=("true",), status=status))


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that says the same to everybody."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def smoke(url: str) -> SmokeTests:
    return SmokeTests.model_validate({"base_url": url, "health": {"path": "/health"}})


def test_services_that_answer_and_a_healthy_application_pass() -> None:
    with answering(b'{"status": "ok", "database": "sqlite"}') as url:
        checks = preflight_services.check_services([service("api", "true"), service("beat", "false")], smoke(url))
    assert bad(checks) == {}
    assert [(check.name, check.found) for check in checks] == [
        ("service_api", "running"),
        ("service_beat", "stopped"),
        ("application_health_before", "status ok, database sqlite"),
    ]


def test_a_service_that_cannot_be_asked_and_an_application_already_elsewhere_fail() -> None:
    with answering(b'{"status": "ok", "database": "postgresql"}') as url:
        checks = preflight_services.check_services([service("api", "/nonexistent/program")], smoke(url))
    assert bad(checks) == {
        "service_api": "a command of the plan cannot be run: No such file or directory",
        "application_health_before": "status ok, database postgresql",
    }


# --- enough? ------------------------------------------------------------------------------------------------------------


def check(name: str, outcome: Any) -> Check:
    return Check(name, name, outcome)


@pytest.mark.parametrize(
    ("outcomes", "accepted", "expected"),
    [
        ({"a": "passed"}, (), "enough"),
        ({"a": "passed", "b": "unknown"}, (), "ask"),
        ({"a": "passed", "b": "unknown"}, ("b",), "enough"),
        ({"a": "unknown", "b": "unknown"}, ("b",), "ask"),
        ({"a": "failed", "b": "unknown"}, ("a", "b"), "stop"),
        ({}, (), "ask"),
    ],
)
def test_what_is_enough_to_go_on(outcomes: Mapping[str, str], accepted: tuple[str, ...], expected: str) -> None:
    checks = [check(name, outcome) for name, outcome in outcomes.items()]
    judged = preflight_places.sufficiency(checks, accepted)
    assert judged.outcome == expected
    assert {item.name for item in judged.accepted} == {name for name in accepted if outcomes.get(name) == "unknown"}
    assert not {item.name for item in judged.open} & set(accepted)
