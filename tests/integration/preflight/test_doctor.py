"""The doctor on a site that really runs: the stand-in under supervisord, its target, receivers of notices; no Airflow."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from examples.receivers import read_mail, read_slack
from examples.ward_ops.local_site import DATABASE, LocalSite
from include.cutover.application import dotenv_file
from include.cutover.cli import main as cli_main
from include.cutover.connections import environment
from include.cutover.evidence.record import Evidence
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan, parse_plan
from include.cutover.preflight import doctor_application, doctor_backups, doctor_source, doctor_target
from include.cutover.preflight.doctor_site import Site
from include.cutover.stack.postgres import free_port

WARD_OPS = yaml.safe_load((ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSite]:
    site = LocalSite(tmp_path_factory.mktemp("site"))
    with site.roster.guarded():
        site.ward_ops.prepare(pings=500)
        try:
            site.start_without_airflow()
            with closing(sqlite3.connect(site.ward_ops.database)) as reading:  # which answers means that it is there
                assert reading.execute("SELECT count(*) FROM users").fetchone()
            yield site
        finally:
            site.stop()


class Ask:
    """Runs the command with changes to the plan; its status, and its checks by name."""

    def __init__(self, site: LocalSite, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._site, self._plans, self._capsys = site, folder / "plans", capsys
        self._dumps = folder / "dumps"
        for made in (self._plans, self._dumps):
            made.mkdir()
        (self._dumps / "ward_flux.dump").write_text("a dump")

    def write_plan(self, **changes: Any) -> None:
        changes = {"database_backups": {"archiving": False, "files": f"{self._dumps}/*.dump"}, **changes}
        text = yaml.safe_dump({**WARD_OPS, **changes}, allow_unicode=True)
        (self._plans / "ward_ops.yaml").write_text(text, encoding="utf-8")

    def __call__(self, *options: str, **changes: Any) -> tuple[int, dict[str, dict[str, Any]]]:
        self.write_plan(**changes)
        status = cli_main.main(["doctor", "--plan", "ward_ops", "--json", *options])
        told = self._capsys.readouterr()
        for secret in self._site.secrets:
            assert secret not in told.out + told.err
        content = json.loads(told.out)
        checks = {item["name"]: item for item in content["checks"]}
        assert status == {"passed": 0, "failed": 1, "unknown": 2}[content["outcome"]]
        for item in checks.values():
            assert item["outcome"] == "passed" or item["do"], f"{item['name']} does not say what to do"
        return status, checks


@pytest.fixture
def ask(site: LocalSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """With the environment that the tasks would have."""
    for name, value in {**site.environment, **site.airflow_connections}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path / "plans"))
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(tmp_path / "evidence"))
    return Ask(site, tmp_path, capsys)


def bad(checks: dict[str, dict[str, Any]], outcome: str = "failed") -> dict[str, str]:
    return {name: item["found"] for name, item in checks.items() if item["outcome"] == outcome}


def test_ready_site_passes_every_check(site: LocalSite, ask: Ask) -> None:
    status, checks = ask()
    assert (status, bad(checks), bad(checks, "unknown")) == (0, {}, {})
    assert {
        "target_reachable", "target_version", "target_free_disk", "target_fence", "target_clock", "time_zone", "target_tls",
        "access_pipeline", "access_roles", "access_application_ddl", "access_reporting_secrets", "application_login",
        "base_backup", "sql_files", "source_file", "source_integrity", "schema_version", "schema_freeze", "backup_directory",
        "second_copy_directory", "configuration_keys", "sqlite_fallback", "reads_configuration_api", "service_beat",
        "application_health_before", "channel_slack", "channel_mail", "extras_configuration",
    } <= set(checks)  # fmt: skip
    assert "which the cutover applies" in checks["sql_files"]["found"]
    assert read_mail(site.received) == [], "without --send nobody gets a message"


def looked(site: LocalSite, look: Callable[[Site], Any], **changes: Any) -> dict[str, dict[str, Any]]:
    """One group of checks, with changes to the plan."""
    plan = parse_plan(yaml.safe_dump({**WARD_OPS, **changes}, allow_unicode=True), "ward_ops.yaml", dict(site.environment))
    found = look(Site(plan, environment.conninfo("ward_ops_target"), site.ward_ops.database))
    checks = {item.name: item.as_dict() for item in (found if isinstance(found, list) else [found])}
    assert all(item["outcome"] == "passed" or item["do"] for item in checks.values())
    return checks


def test_output_has_one_line_per_check(site: LocalSite, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    ask.write_plan()
    assert cli_main.main(["doctor", "--plan", "ward_ops"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert all(line.startswith("good ") for line in lines) and last == f"{len(lines)} good, 0 bad, 0 could not be checked"


def test_send_delivers_and_a_dead_channel_fails(site: LocalSite, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    status, checks = ask("--send")
    assert status == 0 and checks["channel_mail"]["found"].startswith("delivered")
    mail, _to_the_lead = read_mail(site.received)
    (slack,) = read_slack(site.received)
    assert "test of the notices" in mail.subject and "Nothing happens now" in slack.text
    from include.cutover.tasks.channels import channels

    plan = load_plan("ward_ops")
    monkeypatch.setenv("AIRFLOW_CONN_WARD_OPS_MAIL", f"smtp://127.0.0.1:{free_port()}/?disable_ssl=true&disable_tls=true")
    found = doctor_application.channel_checks(Site(plan, None, None, channels=lambda: channels(plan)), send=True)
    assert {item.name: item.outcome for item in found} == {
        "channel_slack": "passed",
        "channel_mail": "failed",
        "channel_lead": "failed",
    }


def test_missing_connections_are_unknown_and_never_pass(site: LocalSite, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in site.airflow_connections:
        monkeypatch.delenv(name)
    status, checks = ask()
    assert status == 2 and bad(checks) == {}
    assert {"target_connection", "source_connection", "channel_mail", "channel_slack"} <= set(bad(checks, "unknown"))
    # Options of the command line replace the connections.
    status, checks = ask("--target", site.target.url(DATABASE), "--source", str(site.ward_ops.database))
    assert status == 1 and bad(checks)["access_pipeline"] == "role postgres"
    assert {"target_version", "source_integrity"} <= set(checks)


def test_unreadable_connection_is_reported_without_its_text(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask.write_plan()
    for key in ("AIRFLOW_CONN_WARD_OPS_APPLICATION", "AIRFLOW_CONN_WARD_OPS_TARGET"):
        monkeypatch.setenv(key, '{"password": "hunter2", ')
        assert cli_main.main(["doctor", "--plan", "ward_ops"]) == 2
        told = capsys.readouterr()
        assert key in told.out + told.err and "hunter2" not in told.out + told.err


def test_server_down_fails_and_dependent_checks_are_unknown(
    site: LocalSite, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = json.loads(site.airflow_connections["AIRFLOW_CONN_WARD_OPS_TARGET"])
    monkeypatch.setenv("AIRFLOW_CONN_WARD_OPS_TARGET", json.dumps({**given, "port": free_port()}))
    status, checks = ask()
    assert status == 1 and set(bad(checks)) == {"target_reachable"}
    assert {"time_zone", "target_tls"} <= set(bad(checks, "unknown"))


def test_switched_configuration_is_checked(site: LocalSite, ask: Ask) -> None:
    settings = WARD_OPS["configuration"]
    look = doctor_application.configuration_checks
    live = {**settings["live"], "ALLOW_SQLITE_FALLBACK": "true", "DB_POOL": "5"}
    found = bad(looked(site, look, configuration={**settings, "live": live}))
    assert found == {"configuration_keys": "without DB_POOL", "sqlite_fallback": "ALLOW_SQLITE_FALLBACK stays on"}
    only = {"DATABASE_URL": settings["live"]["DATABASE_URL"]}
    found = bad(looked(site, look, configuration={**settings, "live": only}))
    assert "sqlite_fallback" in found, "the file turns it on, and nothing in the plan turns it off"
    # A service whose environment goes over the file: switching that would change nothing.
    held = dotenv_file.read(site.ward_ops.dotenv)
    try:
        dotenv_file.switch(site.ward_ops.dotenv, {"PATH": "/nowhere"}, keep_as=site.ward_ops.root / ".env.kept")
        found = bad(looked(site, look, configuration={**settings, "live": {**settings["live"], "PATH": "x"}}))
        assert "another value of PATH" in found["reads_configuration_worker"]
    finally:
        dotenv_file.restore(site.ward_ops.dotenv, site.ward_ops.root / ".env.kept", held, held)


def test_plan_accepts_an_unknown_check_by_name(site: LocalSite, ask: Ask) -> None:
    command = {"kind": "command", "start": ["true"], "stop": ["true"], "status": ["true"]}
    status, checks = ask(services=[{"name": "api", "control": command}])
    assert status == 2
    assert bad(checks, "unknown") == {"reads_configuration_api": "its environment cannot be seen from here"}
    accepted = {"accept_unknown": ["reads_configuration_api"]}
    assert ask(services=[{"name": "api", "control": command}], preflight=accepted)[0] == 0


def test_schema_version_and_drift_are_checked(site: LocalSite, ask: Ask) -> None:
    def look(**changes: Any) -> dict[str, dict[str, Any]]:
        ignored = {"alembic_version": "the application's own record of its schema"}
        return looked(site, doctor_source.source_checks, ignored_tables=ignored, **changes)

    assert "no revision" in bad(look(schema_version="abc123"))["schema_version"]
    with closing(sqlite3.connect(site.ward_ops.database, timeout=30)) as source:
        source.executescript("CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('abc123')")
    try:
        assert bad(look(schema_version="abc123")) == {}
        checks = look()
        assert "revision abc123" in bad(checks, "unknown")["schema_version"]
        assert "schema_version: abc123" in checks["schema_version"]["do"]
        assert bad(look(schema_version="older"))["schema_version"] == "revision abc123"
        # A run proved a schema, and a release came after it.
        run = Evidence.of("ward_ops", "proven")
        run.append("run.opened", run_id="proven", plan="ward_ops")
        run.append("source.schema", fingerprint="x", objects={"table gone": "", "column gone.id": "INTEGER"})
        drifted = bad(look(schema_version="abc123"))["schema_freeze"]
        assert "removed" in drifted and "gone" in drifted
    finally:
        with closing(sqlite3.connect(site.ward_ops.database, timeout=30)) as source:
            source.execute("DROP TABLE alembic_version")


def test_missing_and_old_backups_are_reported(site: LocalSite, ask: Ask, tmp_path: Path) -> None:
    def look(settings: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
        return looked(site, doctor_backups.backup_checks, database_backups=settings)

    assert set(bad(look(None), "unknown")) == {"database_backups"}
    old = tmp_path / "old.dump"
    old.write_text("x")
    os.utime(old, (0, 0))
    found = bad(look({"files": str(old)}))
    assert found["wal_archiving"] == "archive_mode is off" and "hours old" in found["base_backup"]
    assert "nothing matches" in bad(look({"archiving": False, "files": f"{tmp_path}/none-*"}))["base_backup"]
    assert set(bad(look({"archiving": False}), "unknown")) == {"base_backup"}


def test_working_archiving_passes_and_failing_archiving_fails(site: LocalSite, ask: Ask, tmp_path: Path) -> None:
    target = site.target
    switch = "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()"
    wait = (
        "DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM pg_stat_clear_snapshot();"
        " EXIT WHEN (SELECT archived_count + failed_count > 0 FROM pg_stat_archiver); PERFORM pg_sleep(0.05);"
        " END LOOP; END $$"
    )

    def look(command: str, *then: str) -> dict[str, Any]:
        with psycopg.connect(target.conninfo(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET archive_command = '{command}'".encode())
            connection.execute("SELECT pg_reload_conf(), pg_stat_reset_shared('archiver')")
            for statement in then:
                connection.execute(statement.encode())
        return looked(site, doctor_backups.backup_checks, database_backups={"files": str(tmp_path / "*")})["wal_archiving"]

    target.stop()
    target.start({"archive_mode": "on"})
    try:
        assert look("")["found"] == "no command and no library is set"
        assert look("true")["outcome"] == "unknown", "a command alone has archived nothing yet"
        assert look("true", switch, wait)["outcome"] == "passed"
        failing = look("false", switch, wait)
        assert failing["outcome"] == "failed" and "failures, the last at" in failing["found"]
    finally:
        with psycopg.connect(target.conninfo(), autocommit=True) as connection:
            connection.execute(
                "ALTER SYSTEM SET archive_command = 'true'"
            )  # what waits is done with, or stopping waits for it
            connection.execute("SELECT pg_reload_conf()")
        target.stop()
        target.start()


@pytest.mark.parametrize(
    ("before", "after", "look", "name", "found"),
    [
        (f"ALTER DATABASE {DATABASE} SET timezone = 'Asia/Kathmandu'", f"ALTER DATABASE {DATABASE} RESET timezone",
         doctor_target.time_zone_check, "time_zone", "Asia/Kathmandu"),
        ("ALTER ROLE ward_ops_reporting CREATEDB", "ALTER ROLE ward_ops_reporting NOCREATEDB",
         doctor_target.role_checks, "access_roles", "NOCREATEDB"),
        ("GRANT cutover TO ward_ops_reporting", "REVOKE cutover FROM ward_ops_reporting",
         doctor_target.role_checks, "access_members", "cutover"),
    ],
)  # fmt: skip
def test_faults_of_the_target_are_found(
    site: LocalSite, ask: Ask, before: str, after: str, look: Callable[[Site], Any], name: str, found: str
) -> None:
    with psycopg.connect(site.target.conninfo(DATABASE), autocommit=True) as connection:
        connection.execute(before.encode())
        try:
            checks = looked(site, look)
            assert checks[name]["outcome"] != "passed" and found in checks[name]["found"]
        finally:
            connection.execute(after.encode())


def test_missing_plan_exits_with_status_2() -> None:
    assert cli_main.main(["doctor", "--plan", "nothing"]) == 2
