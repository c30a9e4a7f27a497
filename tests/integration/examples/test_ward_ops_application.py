"""The stand-in for Ward OPS on SQLite and PostgreSQL: its data fit the target, its services do what the plan expects."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast
from xmlrpc.client import ProtocolError, ServerProxy

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from examples.ward_ops.generate import AWKWARD_TEXTS, generate
from examples.ward_ops.georgia import REGIONS
from examples.ward_ops.settings import SettingsInvalid, read_settings
from examples.ward_ops.supervised import DOTENV, WardOps, service_processes
from include.cutover.errors import Refused, StepFailed
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.target import catalog, constraints, sequences, sql_runner

SQL = ROOT / "include" / "sql" / "ward_ops"
PINGS = 1_000
TYPES = {
    "UUID": "uuid",
    "VARCHAR(36)": "uuid",
    "JSON": "jsonb",
    "DATETIME": "timestamp with time zone",
    "TIMESTAMP": "timestamp with time zone",
    "BOOLEAN": "boolean",
    "REAL": "numeric(9,6)",
    "TEXT": "text",
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("generated") / "ward_ops.db", pings=PINGS, credentials=20).file


@pytest.fixture
def root(tmp_path: Path, generated: Path) -> Path:
    """The folder of a stand-in on SQLite."""
    database = tmp_path / "data" / "ward_ops.db"
    database.parent.mkdir()
    database.write_bytes(generated.read_bytes())
    (tmp_path / ".env").write_text(DOTENV.format(database=database))
    return tmp_path


def url_of(conninfo: str) -> str:
    part = conninfo_to_dict(conninfo)
    return f"postgresql://{part['user']}:{part['password']}@{part['host']}:{part['port']}/{part['dbname']}"


@pytest.fixture(scope="module")
def loaded(cluster: Cluster, generated: Path) -> Iterator[str]:
    """Name of a database with the target's schema and the generated rows; copied, never changed."""
    name = "ward_ops_loaded"
    with database_of(cluster, name):
        load(cluster.conninfo(name), generated)
        yield name


@pytest.fixture
def target(cluster: Cluster, loaded: str) -> Iterator[str]:
    """Connection string of a target that holds the generated rows."""
    with database_of(cluster, f"ward_ops_{uuid.uuid4().hex[:12]}", loaded) as conninfo:
        yield conninfo


@contextmanager
def database_of(cluster: Cluster, name: str, template: str = "template0") -> Iterator[str]:
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy'.encode())
    try:
        yield cluster.conninfo(name)
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def load(conninfo: str, generated: Path) -> None:
    for kind in ("pre_data", "migrations"):
        sql_runner.apply(conninfo, SQL, kind, schema="public", run_id="test")
    with closing(sqlite3.connect(generated)) as source, psycopg.connect(conninfo, options="-c timezone=UTC") as connection:
        for table, columns in catalog.columns(connection, "public").items():
            if table not in load_plan("ward_ops").tables:
                continue
            values = sql.SQL(", ").join(sql.SQL("%s::text::" + column.type) for column in columns)
            insertion = sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(table), values)
            with connection.cursor() as cursor:
                cursor.executemany(insertion, source.execute(f'SELECT * FROM "{table}"').fetchall())
    for kind in ("post_data", "reference", "foreign_keys"):
        sql_runner.apply(conninfo, SQL, kind, schema="public", run_id="test")
    with closing(sqlite3.connect(generated)) as source:
        sequences.set_sequences(conninfo, "public", dict(source.execute("SELECT name, seq FROM sqlite_sequence")))


def use(root: Path, conninfo: str) -> None:
    """Switch the stand-in to PostgreSQL."""
    (root / ".env").write_text(f"# switched\nDATABASE_URL={url_of(conninfo)}\nALLOW_SQLITE_FALLBACK=false\n")


def clean_environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "ALLOW_SQLITE_FALLBACK")}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


@contextmanager
def service(module: str, root: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service as a process; its output is in ``<root>/<module>.log``."""
    with (root / f"{module}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"examples.ward_ops.{module}"],
            cwd=ROOT, env=clean_environment(WARD_OPS_ROOT=str(root), **environment), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def application(root: Path) -> Iterator[httpx.Client]:
    """The API as a process, and a client of it."""
    port = free_port()
    with (
        service("application", root, WARD_OPS_PORT=str(port)) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
    ):

        def answers() -> bool:
            assert process.poll() is None, (root / "application.log").read_text()
            try:
                client.get("/api/v1/health")
            except httpx.ConnectError:
                return False
            return True

        eventually(answers)
        yield client


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def scalar(database: Path | str, query: str) -> Any:
    """One value, from a SQLite file or a conninfo."""
    if isinstance(database, Path):
        with closing(sqlite3.connect(database, timeout=30)) as connection:
            return connection.execute(query).fetchone()[0]
    with psycopg.connect(database) as target:
        row = target.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


PINGS_SO_FAR = "SELECT count(*) FROM ping_results"
LAST_SEEN = "SELECT max(last_seen) FROM standalone_devices"


class TestData:
    def test_source_and_target_have_the_same_tables_columns_and_types(self, generated: Path, target: str) -> None:
        with psycopg.connect(target) as connection:
            columns = catalog.columns(connection, "public")
        with closing(sqlite3.connect(generated)) as source:
            for table in load_plan("ward_ops").tables:
                expected = []
                for _, name, declared, not_null, _, key in source.execute(f'PRAGMA table_info("{table}")'):
                    kind = TYPES.get(declared) or re.sub(r"^VARCHAR", "character varying", declared)
                    found = next((column.type for column in columns[table] if column.name == name), "missing")
                    if declared == "INTEGER" and found in ("integer", "bigint"):
                        kind = found
                    expected.append((name, kind, bool(not_null or key)))
                assert [(column.name, column.type, column.not_null) for column in columns[table]] == expected, table

    def test_source_and_target_have_the_same_keys(self, generated: Path, target: str) -> None:
        with psycopg.connect(target) as connection:
            foreign = {
                (key.table, key.columns[0], key.referenced_table) for key in catalog.foreign_keys(connection, "public")
            }
            unique = {
                (table, column)
                for table, column in connection.execute(
                    "SELECT conrelid::regclass::text, a.attname FROM pg_constraint"
                    " JOIN pg_attribute a ON attrelid = conrelid AND attnum = conkey[1] WHERE contype = 'u'"
                    " AND connamespace = 'public'::regnamespace"
                )
            }
        in_source, unique_in_source = set(), set()
        with closing(sqlite3.connect(generated)) as source:
            for table in load_plan("ward_ops").tables:
                for row in source.execute(f'PRAGMA foreign_key_list("{table}")'):
                    in_source.add((table, row[3], row[2]))
                for _, index, is_unique, origin, _ in source.execute(f'PRAGMA index_list("{table}")').fetchall():
                    if is_unique and origin != "pk":
                        unique_in_source.add((table, source.execute(f'PRAGMA index_info("{index}")').fetchone()[2]))
        assert in_source == foreign
        assert unique_in_source == unique

    def test_the_target_takes_all_of_it(self, generated: Path, target: str) -> None:
        constraints.validate_foreign_keys(target, "public", secret={})
        with psycopg.connect(target) as connection, closing(sqlite3.connect(generated)) as source:
            assert catalog.unvalidated_constraints(connection, "public") == []
            for table in load_plan("ward_ops").tables:
                query = f'SELECT count(*) FROM "{table}"'
                assert scalar(target, query) == source.execute(query).fetchone()[0], table
            found = {text for (text,) in connection.execute("SELECT description FROM standalone_devices")}
        assert found == set(AWKWARD_TEXTS)

    def test_places_are_those_of_the_reference_data(self, conninfo: str) -> None:
        for kind in ("pre_data", "migrations", "reference"):
            sql_runner.apply(conninfo, SQL, kind, schema="public", run_id="test")
        with psycopg.connect(conninfo) as connection:
            regions = connection.execute("SELECT name_en, name_ka FROM georgian_regions").fetchall()
            cities = connection.execute(
                "SELECT city.name_en, city.name_ka, region.name_en FROM georgian_cities city"
                " JOIN georgian_regions region ON region.id = region_id"
            ).fetchall()
        assert set(regions) == {(region.name_en, region.name_ka) for region in REGIONS}
        assert set(cities) == {
            (city.name_en, city.name_ka, region.name_en) for region, places in REGIONS.items() for city in places
        }


class TestApplication:
    def test_the_answers_are_the_same_on_both_databases(self, root: Path, target: str) -> None:
        answers = []
        for database in ("sqlite", "postgresql"):
            if database == "postgresql":
                use(root, target)
            with application(root) as client:
                health = client.get("/api/v1/health")
                assert health.status_code == 200
                assert (health.json()["status"], health.json()["database"]) == ("ok", database)
                page = client.get("/monitor")
                assert page.status_code == 200 and f'data-database="{database}"' in page.text
                answers.append((
                    client.get("/api/v1/devices", params={"limit": 1000}).json(),
                    client.get("/api/v1/alerts").json(),
                    re.findall(r'<td data-table="([a-z_]+)">([0-9]+)</td>', page.text),
                    re.findall(r"<tbody>.*?</tbody>", page.text, re.DOTALL),
                ))  # fmt: skip

        on_sqlite, on_postgresql = answers
        assert on_sqlite == on_postgresql
        devices, alerts, counts, _ = on_sqlite
        assert (devices["total"], len(devices["items"])) == (875, 875)
        assert (alerts["total"], len(alerts["items"])) == (4, 4)
        assert counts == [
            ("standalone_devices", "875"), ("branches", "128"), ("alert_rules", "4"), ("ping_results", str(PINGS))
        ]  # fmt: skip

    @pytest.mark.parametrize("database", ["sqlite", "postgresql"])
    def test_a_ping_writes_one_row(self, root: Path, target: str, database: str) -> None:
        where: Path | str = root / "data" / "ward_ops.db"
        if database == "postgresql":
            use(root, target)
            where = target
        with application(root) as client:
            device = client.get("/api/v1/devices", params={"limit": 1}).json()["items"][0]
            for spelling in (device["id"], uuid.UUID(device["id"]).hex):
                before = scalar(where, PINGS_SO_FAR)
                answer = client.post(f"/api/v1/devices/{spelling}/ping")
                assert answer.status_code == 200
                assert answer.json()["device_ip"] == device["ip"]
                assert answer.json()["id"] == scalar(where, "SELECT max(id) FROM ping_results") == before + 1
                assert scalar(where, PINGS_SO_FAR) == before + 1
                read = client.get(f"/api/v1/pings/{answer.json()['id']}").json()
                assert (read["device_ip"], read["is_reachable"] in (True, False)) == (device["ip"], True)
            assert client.get("/api/v1/pings/0").status_code == 404
            assert client.post(f"/api/v1/devices/{uuid.uuid4()}/ping").status_code == 404
            assert client.post("/api/v1/devices/no-uuid/ping").status_code == 404
        if database == "postgresql":  # the key came from the sequence, not from the application
            assert scalar(target, "SELECT last_value FROM ping_results_id_seq") == PINGS + 2

    def test_a_failing_query_is_503_and_heals(self, root: Path, target: str) -> None:
        use(root, target)
        password = str(conninfo_to_dict(target)["password"])
        with application(root) as client, psycopg.connect(target, autocommit=True) as administrator:
            administrator.execute("ALTER SCHEMA public RENAME TO kept")
            answer = client.get("/api/v1/health")
            assert answer.status_code == 503
            assert answer.json() == {"status": "error", "database": "postgresql", "error": "ProgrammingError"}
            administrator.execute("ALTER SCHEMA kept RENAME TO public")
            assert client.get("/api/v1/health").status_code == 200
            administrator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ward_ops_api'"
            )
            assert client.get("/api/v1/health").status_code == 200
        log = (root / "application.log").read_text()
        assert "SQL error: UndefinedTable" in log and password not in log

    def test_a_refused_log_in_leaks_nothing(self, root: Path, conninfo: str) -> None:
        password = str(conninfo_to_dict(conninfo)["password"])
        url = url_of(conninfo).replace(password, "S3cretButWrong")
        (root / ".env").write_text(f"DATABASE_URL={url}\n")
        with application(root) as client:
            answer = client.get("/api/v1/health")
        assert answer.status_code == 503
        log = (root / "application.log").read_text()
        assert "password authentication failed" in log
        assert "S3cretButWrong" not in log + answer.text

    def test_a_missing_sqlite_file_is_not_made(self, root: Path) -> None:
        file = root / "data" / "ward_ops.db"
        file.unlink()
        with application(root) as client:
            assert client.get("/api/v1/health").status_code == 503
        assert not file.exists()


class TestSettings:
    @pytest.mark.parametrize("module", ["application", "worker", "beat"])
    def test_sqlite_needs_permission(self, root: Path, module: str) -> None:
        database = root / "data" / "ward_ops.db"
        before = database.read_bytes()
        (root / ".env").write_text(f"DATABASE_URL=sqlite:///{database}\nALLOW_SQLITE_FALLBACK=false\n")
        with service(module, root) as process:
            assert process.wait(30) == os.EX_CONFIG
        log = (root / f"{module}.log").read_text()
        assert "does not start: DATABASE_URL names SQLite" in log and log.count("\n") == 1
        assert database.read_bytes() == before

    def test_a_broken_url_is_not_shown(self, root: Path) -> None:
        (root / ".env").write_text("DATABASE_URL=postgresql://ward:S3cret/word@host:port/db\n")
        with service("worker", root) as process:
            assert process.wait(30) == os.EX_CONFIG
        log = (root / "worker.log").read_text()
        assert "DATABASE_URL is not a usable URL" in log and "S3cret" not in log

    def test_the_environment_wins_over_the_file(self, root: Path) -> None:
        settings = read_settings({"WARD_OPS_ROOT": str(root), "DATABASE_URL": "postgresql://u:p@h/d"})
        assert settings.database_url == "postgresql+psycopg://u:p@h/d"
        assert (settings.database, settings.port) == ("postgresql", 5001)
        assert "u:p" not in repr(settings)

    @pytest.mark.parametrize(
        ("environment", "message"),
        [
            ({}, "DATABASE_URL is set neither in the environment nor in"),
            ({"DATABASE_URL": "mysql://u:p@h/d"}, "DATABASE_URL must begin with postgresql://"),
            ({"DATABASE_URL": "postgresql://h/d", "WARD_OPS_PORT": "x"}, "WARD_OPS_PORT must be a number"),
        ],
    )
    def test_settings_that_forbid_a_start_are_invalid(
        self, tmp_path: Path, environment: dict[str, str], message: str
    ) -> None:
        with pytest.raises(SettingsInvalid, match=message):
            read_settings({"WARD_OPS_ROOT": str(tmp_path), **environment})


class TestWriters:
    def test_on_sqlite_they_write_survive_a_lock_and_stop(self, root: Path) -> None:
        database = root / "data" / "ward_ops.db"
        seen = scalar(database, LAST_SEEN)
        with service("worker", root) as worker, service("beat", root) as beat:
            eventually(lambda: scalar(database, PINGS_SO_FAR) > PINGS + 10 and scalar(database, LAST_SEEN) != seen)

            with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as lock:
                lock.execute("BEGIN EXCLUSIVE")
                logs = [root / "worker.log", root / "beat.log"]
                eventually(lambda: all("database is locked" in log.read_text() for log in logs))
                lock.execute("ROLLBACK")

            before, seen = scalar(database, PINGS_SO_FAR), scalar(database, LAST_SEEN)
            eventually(lambda: scalar(database, PINGS_SO_FAR) > before + 10 and scalar(database, LAST_SEEN) != seen)
            for process in (worker, beat):
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
        stopped = scalar(database, PINGS_SO_FAR)
        assert scalar(database, "PRAGMA integrity_check") == "ok"
        assert scalar(database, PINGS_SO_FAR) == stopped

    def test_on_postgresql_they_write_reconnect_and_stop(self, root: Path, target: str) -> None:
        use(root, target)
        seen = scalar(target, LAST_SEEN)
        with service("worker", root) as worker, service("beat", root) as beat:
            eventually(lambda: scalar(target, PINGS_SO_FAR) > PINGS + 10 and scalar(target, LAST_SEEN) != seen)
            with psycopg.connect(target, autocommit=True) as administrator:
                ended = administrator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name IN ('ward_ops_worker', 'ward_ops_beat')"
                ).fetchall()
            assert len(ended) == 2
            before, seen = scalar(target, PINGS_SO_FAR), scalar(target, LAST_SEEN)
            eventually(lambda: scalar(target, PINGS_SO_FAR) > before + 10 and scalar(target, LAST_SEEN) != seen)
            for process in (worker, beat):
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
        assert scalar(target, "SELECT last_value FROM ping_results_id_seq") >= scalar(target, PINGS_SO_FAR)

    def test_a_statement_that_hangs_does_not_delay_the_stop(self, root: Path, target: str) -> None:
        use(root, target)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ward_ops_worker' AND wait_event_type = 'Lock'"
        )
        with psycopg.connect(target) as lock, service("worker", root) as process:
            lock.execute("LOCK TABLE ping_results IN ACCESS EXCLUSIVE MODE")
            eventually(lambda: bool(scalar(target, waiting)))
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) in (0, -signal.SIGALRM)
            lock.rollback()
        assert scalar(target, PINGS_SO_FAR) == PINGS


@pytest.fixture
def ward_ops(root: Path) -> Iterator[WardOps]:
    stand_in = WardOps(root, port=free_port(), supervisor_port=free_port(), password="a-local-password")
    try:
        yield stand_in
    finally:
        stand_in.stop()


def state(supervisor: ServerProxy, name: str) -> str:
    return str(cast("dict[str, Any]", supervisor.supervisor.getProcessInfo(name))["statename"])


class TestSupervised:
    def test_services_are_stopped_switched_and_started(self, ward_ops: WardOps, target: str) -> None:
        database, dotenv = ward_ops.database.read_bytes(), ward_ops.dotenv.read_bytes()
        assert ward_ops.prepare() is None
        assert (ward_ops.database.read_bytes(), ward_ops.dotenv.read_bytes()) == (database, dotenv)
        ward_ops.start()
        ward_ops.start()

        assert stat.S_IMODE((ward_ops.root / "supervisord.conf").stat().st_mode) == 0o600
        environment = ward_ops.environment()
        assert environment["WARD_OPS_URL"] == ward_ops.url
        stranger = environment["WARD_OPS_SUPERVISOR_URL"].replace("//", "//cutover:wrong-password@")
        with ServerProxy(stranger) as intruder, pytest.raises(ProtocolError, match="401"):
            intruder.supervisor.getState()

        with ward_ops.supervisor() as supervisor:
            before = ward_ops.pids()
            assert set(before) == {"api", "worker", "beat"}
            os.kill(before["worker"], signal.SIGKILL)
            eventually(lambda: ward_ops.pids().get("worker") not in (None, before["worker"]))
            assert {**ward_ops.pids(), "worker": before["worker"]} == before

            for name in ("beat", "worker", "api"):
                assert supervisor.supervisor.stopProcess(name) is True
                assert state(supervisor, name) == "STOPPED"
            rows = scalar(ward_ops.database, PINGS_SO_FAR)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{ward_ops.url}/api/v1/health", trust_env=False)

            use(ward_ops.root, target)
            for name in ("api", "worker", "beat"):
                assert supervisor.supervisor.startProcess(name, False) is True
        ward_ops.start()  # waits until healthy
        assert httpx.get(f"{ward_ops.url}/api/v1/health", trust_env=False).json()["database"] == "postgresql"
        eventually(lambda: scalar(target, PINGS_SO_FAR) > PINGS)
        assert scalar(ward_ops.database, PINGS_SO_FAR) == rows

        ward_ops.stop()
        assert not ward_ops.running
        assert ward_ops.pids() == {}
        assert all(ward_ops.log(name).stat().st_size for name in ("api", "worker", "beat", "supervisord"))

    def test_stopped_from_another_process_after_its_parent_was_killed(self, ward_ops: WardOps) -> None:
        command = [sys.executable, "-m", "examples.ward_ops.supervised"]
        ports = ["--port", str(ward_ops.port), "--supervisor-port", str(ward_ops.supervisor_port)]
        started = subprocess.run([*command, "start", "--root", str(ward_ops.root), *ports], cwd=ROOT, check=False)
        assert started.returncode == 0 and ward_ops.running
        supervisord = int((ward_ops.root / "supervisord.pid").read_text())
        os.kill(supervisord, signal.SIGKILL)
        eventually(lambda: not ward_ops.running)
        assert httpx.get(f"{ward_ops.url}/api/v1/health", trust_env=False).status_code == 200  # left behind

        stopped = subprocess.run([*command, "stop", "--root", str(ward_ops.root)], cwd=ROOT, check=False)

        assert stopped.returncode == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{ward_ops.url}/api/v1/health", trust_env=False)
        rows = scalar(ward_ops.database, PINGS_SO_FAR)
        assert service_processes(ward_ops.root) == []
        assert scalar(ward_ops.database, PINGS_SO_FAR) == rows

    def test_settings_that_forbid_a_start_are_reported(self, ward_ops: WardOps) -> None:
        ward_ops.dotenv.write_text(f"DATABASE_URL=sqlite:///{ward_ops.database}\n")
        with pytest.raises(StepFailed, match=r"the service \w+ does not start"):
            ward_ops.start()
        assert not ward_ops.running
        logs = "".join((ward_ops.root / "logs" / f"{name}.log").read_text() for name in ("api", "worker", "beat"))
        assert "does not start: DATABASE_URL names SQLite" in logs

    def test_prepare_makes_data_and_settings(self, tmp_path: Path) -> None:
        stand_in = WardOps(tmp_path / "new", port=1, supervisor_port=2, password="a-local-password")
        done = stand_in.prepare(pings=5)

        assert done is not None and done.rows["ping_results"] == 5
        assert f"DATABASE_URL=sqlite:///{stand_in.database}\n" in stand_in.dotenv.read_text()
        assert stat.S_IMODE(stand_in.dotenv.stat().st_mode) == 0o600
        stand_in.stop()

    @pytest.mark.parametrize("password", ["short", "with blank inside", "percent%(here)s", "new\nline12345"])
    def test_a_password_that_the_configuration_cannot_hold_is_refused(self, tmp_path: Path, password: str) -> None:
        with pytest.raises(Refused, match="password") as error:
            WardOps(tmp_path, port=1, supervisor_port=2, password=password)
        assert password not in str(error.value)
