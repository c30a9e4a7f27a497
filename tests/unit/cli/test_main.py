"""The command line says in one sentence what is wrong, with status 2, and never a password."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from include.cutover.cli.main import main
from include.cutover.cli.target_url import postgres_connection
from include.cutover.errors import Refused
from include.cutover.places import ROOT
from include.cutover.stack.processes import Roster

PASSWORD = "s3cret-word"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "app.db"
    connection = apsw.Connection(str(file))
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    connection.close()
    return file


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run it, require status 2 and a single sentence on standard error, and return that."""
    assert main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("cutover: ")
    assert "Traceback" not in told.err
    assert PASSWORD not in told.err + told.out
    assert len(told.err.splitlines()) == 1
    return told.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], "No such command"),
        (["plan"], "Missing option '--plan'"),
        (["run", "--plan", "ward_ops"], "Missing option '--source'"),
        (["run", "--no-such-option"], "No such option"),
        (["stack", "up", "--port", "99999"], "--port"),
        (["stack", "up", "--port", "many"], "--port"),
    ],
)
def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    assert expected in refused(capsys, *arguments)


def test_a_missing_source_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = f"postgresql://me:{PASSWORD}@127.0.0.1:5/x"
    told = refused(capsys, "run", "--plan", "ward_ops", "--source", tmp_path / "gone.db", "--target", target)
    assert f"{tmp_path}/gone.db: there is no such file. Check the path" in told


def test_a_source_that_is_not_a_database_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but long enough to look like one")
    told = refused(capsys, "run", "--plan", "ward_ops", "--source", file, "--target", f"postgresql://me:{PASSWORD}@h/x")
    assert "not an SQLite database" in told


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"mysql://me:{PASSWORD}@h/x", "not a PostgreSQL URL"),
        (f"postgresql://me:{PASSWORD}@h:99999/x", "cannot be read"),
        (f"postgresql://me:{PASSWORD}@h:port/x", "cannot be read"),
        (f"postgresql://me:{PASSWORD}@h", "no database"),
        (f"postgresql://:{PASSWORD}@h/x", "no user"),
        ("postgresql:///x", "no host and no user"),
        (PASSWORD, "no scheme"),
    ],
)
def test_a_bad_target_url_is_not_repeated(
    capsys: pytest.CaptureFixture[str], database: Path, url: str, expected: str
) -> None:
    assert expected in refused(capsys, "run", "--plan", "ward_ops", "--source", database, "--target", url)


def test_a_target_that_does_not_answer_is_refused(capsys: pytest.CaptureFixture[str], database: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/x"
        told = refused(capsys, "run", "--plan", "ward_ops", "--source", database, "--target", url)
    assert f"127.0.0.1:{port}, database x, user me: the target does not let this user in" in told


def test_a_target_that_refuses_the_log_in_is_reported(
    capsys: pytest.CaptureFixture[str], database: Path, conninfo: str
) -> None:
    port = re.search(r"port=(\d+)", conninfo)
    assert port is not None
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:{port[1]}/x"
    told = refused(capsys, "run", "--plan", "ward_ops", "--source", database, "--target", url)
    assert "password authentication failed" in told


def test_automatic_approval_needs_the_plan(
    capsys: pytest.CaptureFixture[str], database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WARD_OPS_ALLOW_AUTO_APPROVAL", raising=False)
    url = f"postgresql://me:{PASSWORD}@h/x"
    told = refused(capsys, "run", "--plan", "ward_ops", "--source", database, "--target", url, "--approve", "auto")
    assert "gates.allow_auto_approval" in told


def test_a_taken_port_is_refused(
    capsys: pytest.CaptureFixture[str], database: Path, tmp_path: Path, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = dict(item.split("=", 1) for item in conninfo.split())
    url = f"postgresql://{parts['user']}:{parts['password']}@127.0.0.1:{parts['port']}/{parts['dbname']}"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = ["run", "--plan", "ward_ops", "--source", database, "--target", url, "--port", port, "--folder", tmp_path]
        told += ["--application", f"postgresql://app:{PASSWORD}@127.0.0.1/x"]
        assert f"the port {port} cannot be used" in refused(capsys, *told)
        assert parts["password"] not in capsys.readouterr().err
    assert Roster(tmp_path / "processes.json").leaders() == []


def test_the_application_needs_a_role_of_its_own(capsys: pytest.CaptureFixture[str], database: Path, conninfo: str) -> None:
    parts = dict(item.split("=", 1) for item in conninfo.split())
    url = f"postgresql://{parts['user']}:{parts['password']}@127.0.0.1:{parts['port']}/{parts['dbname']}"
    told = ["run", "--plan", "ward_ops", "--source", database, "--target", url]
    assert "needs a role of its own" in refused(capsys, *told)
    assert "needs a role of its own" in refused(capsys, *told, "--application", url)
    assert "--application: the target's URL is not complete" in refused(capsys, *told, "--application", "postgresql://x")


def test_a_plan_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--plan", "ward_ops"]) == 0
    told = capsys.readouterr().out
    assert "ward_ops: no faults" in told
    assert "25, copied by 26 tasks" in told
    assert "api, worker, beat" in told


def test_every_fault_of_a_plan_is_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path))
    (tmp_path / "small.yaml").write_text("name: small\nwindow: {minutes: 0}\nsurplus: 1\n")
    assert main(["plan", "--plan", "small"]) == 2
    told = capsys.readouterr().err
    assert "window.minutes" in told
    assert "surplus: unknown key" in told
    assert "application: missing" in told


def test_the_parts_of_a_target_url_reach_the_connection() -> None:
    login = postgres_connection("postgresql://me:a%40b%2Fc@db.example:6543/ward%20flux?sslmode=require")
    assert json.loads(json.dumps(login)) == {
        "conn_type": "postgres",
        "host": "db.example",
        "port": 6543,
        "login": "me",
        "password": "a@b/c",
        "schema": "ward flux",
        "extra": {"sslmode": "require"},
    }
    with pytest.raises(Refused):
        postgres_connection("postgresql://me@h/a/b")


def test_roles_are_made_in_the_fab_auth_manager_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGGING_LEVEL", "FAB_LOGGING_LEVEL"):
        monkeypatch.setenv(f"AIRFLOW__LOGGING__{name}", "ERROR")
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", "airflow.somewhere.SimpleAuthManager")
    for command in ("show", "apply"):
        assert main(["roles", command, "--plan", "ward_ops"]) == 2
        told = capsys.readouterr().err
        assert "expected FabAuthManager; found SimpleAuthManager" in told


def test_stack_status_gives_1_and_down_gives_0_where_nothing_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["stack", "status", "--folder", str(tmp_path)]) == 1
    assert main(["stack", "down", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("no local Airflow runs there") == 2


def test_the_module_runs_and_debug_shows_where(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "include.cutover", "plan", "--plan", "none_such", "--debug"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.match("cutover: [^ ]*/plans: there is no plan none_such; expected one of: ward_ops", done.stderr)
    assert "Traceback" in done.stderr


def test_all_notices_of_a_run_are_shown_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notices", "--plan", "ward_ops", "--window-start", "2026-03-01T22:00+04:00"]) == 0
    told = capsys.readouterr().out
    assert "window 2026-03-01 18:00 UTC to 2026-03-01 19:00 UTC, freeze from 2026-03-01 17:45 UTC" in told
    for heading in (
        "start · when the run opens, or is scheduled · to slack (#ops), mail (ops@ward-ops.example)\n",
        "freeze · 2026-03-01 17:45 UTC, while the run is open · to slack (#ops), mail (ops@ward-ops.example)\n",
        "delay.half · 2026-03-01 18:30 UTC",
        "delay.three_quarters · 2026-03-01 18:45 UTC",
        "deadline · 2026-03-01 18:52 UTC, while the run is open · to slack (#ops), mail (ops@ward-ops.example), "
        "lead (lead@ward-ops.example)\n",
        "completion · when it is live",
        "rollback · when it was rolled back",
        "cancelled · when it does not take place",
    ):
        assert f"\n{heading}" in told, heading
    assert "Heads up: Ward OPS database migration to PostgreSQL begins at 2026-03-01 18:00 UTC. Expect up to 60 min" in told
    assert "<" not in told, "nothing is left to be filled in"


def test_notices_that_cannot_be_written_are_faults(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not a date and time" in refused(capsys, "notices", "--plan", "ward_ops", "--window-start", "tonight")
    plan = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")
    (tmp_path / "ward_ops.yaml").write_text(plan.replace("begins at <time>", "begins at <tmie>"), encoding="utf-8")
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path))
    assert main(["notices", "--plan", "ward_ops"]) == 2
    assert "notices.start: unknown placeholder <tmie>" in capsys.readouterr().err
