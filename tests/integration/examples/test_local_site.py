"""The local site after a crash: its parts start again, and the application as the state of the run allows; no Airflow."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.ward_ops.demo import main
from examples.ward_ops.local_site import PLAN, LocalSite
from examples.ward_ops.supervised import service_processes
from include.cutover.errors import Refused
from include.cutover.evidence.record import Evidence
from include.cutover.stack.processes import members


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSite]:
    site = LocalSite(tmp_path_factory.mktemp("site"))
    try:
        site.ward_ops.prepare(pings=100)
        site.start_without_airflow()
        yield site
    finally:
        site.stop()


def kill_everything(site: LocalSite) -> None:
    """As a power cut: no process gets a signal that it could handle, and every pid file stays."""
    supervisord = int((site.ward_ops.root / "supervisord.pid").read_text())
    first = [supervisord, *members(site.roster.leaders())]
    for pid in [*first, *service_processes(site.ward_ops.root)]:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue
    assert (site.ward_ops.root / "supervisord.pid").exists()
    assert (site.folder / "target" / "data" / "postmaster.pid").exists()


def begin_a_run(site: LocalSite) -> Evidence:
    evidence = Evidence(site.evidence / PLAN / "a_run")
    evidence.append("run.opened", run_id="a_run", dag_id=f"cutover_{PLAN}", plan=PLAN)
    evidence.append("step.begin", step="stop_services")
    evidence.append("services.stopped")
    evidence.append("step.end", step="stop_services", outcome="passed", summary="stopped")
    return evidence


def test_parts_that_run_are_kept_when_another_cannot_start(site: LocalSite) -> None:
    services, server = site.ward_ops.pids(), site.target.postmaster()
    site.roster.stop(only={"receivers"})
    port = int(site._settings["smtp_port"])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(Refused, match=rf"the port {port} cannot be used.*process {os.getpid()} "):
            site.start_without_airflow()
    assert (site.ward_ops.pids(), site.target.postmaster()) == (services, server)
    site.start_without_airflow()
    assert {"receivers", "target"} == {leader.name for leader in site.roster.running}
    assert (site.ward_ops.pids(), site.target.postmaster()) == (services, server)


def test_everything_killed_starts_again_healthy(site: LocalSite) -> None:
    for _ in range(2):
        kill_everything(site)
        site.start_without_airflow()
        assert site.ward_ops.health() == "healthy, configured for SQLite"
        assert set(site.ward_ops.pids()) == {"api", "worker", "beat"}


def test_stopped_service_is_started_while_no_run_is_in_flight(site: LocalSite) -> None:
    with site.ward_ops.supervisor() as supervisor:
        supervisor.supervisor.stopProcess("worker")
    site.start_without_airflow()
    assert "worker" in site.ward_ops.pids()


def test_application_that_a_run_keeps_down_is_no_error(
    site: LocalSite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTOVER_EVIDENCE", "")  # restored afterwards: the command sets the site's environment
    for name in site.environment:
        monkeypatch.setenv(name, "")
    evidence = begin_a_run(site)
    with site.ward_ops.supervisor() as supervisor:
        supervisor.supervisor.stopProcess("worker")
    site.start_without_airflow()
    assert "worker" not in site.ward_ops.pids(), "the run decides about the services"

    kill_everything(site)
    moved = Path(f"{site.ward_ops.database}.moved")
    site.ward_ops.database.rename(moved)  # as a rollback that was killed while it replaced the file
    site.ward_ops.dotenv.write_text("DATABASE_URL=sqlite:////nowhere/at_all.db\n")
    monkeypatch.setattr(type(site.stack), "complete", property(lambda _: True))
    site.start(pings=100)
    assert site.ward_ops.running and not site.ward_ops.database.exists(), "nothing is generated in the place of a run's file"
    assert "does not answer" in site.ward_ops.health()

    assert main(["status", "--folder", str(site.folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "a_run, in flight since" in said and "step stop_services: passed" in said
    assert "application stopped by the run, and perhaps up again since a restart of its host; its data is in SQLite" in said
    assert f"To go back: trigger rollback_{PLAN}" in said and f"--evidence {evidence.folder}" in said
    assert "answers Ward OPS does not answer" in said
    assert site._settings["supervisor_password"] not in said


def test_commands_get_their_environment_from_a_file_for_its_owner_only(site: LocalSite) -> None:
    file = site.write_environment()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    script = f'set -a; . {file}; set +a; printf \'%s\\0%s\' "$WARD_OPS_SUPERVISOR_PASSWORD" "$AIRFLOW_CONN_WARD_OPS_TARGET"'
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")
    assert read == [site._settings["supervisor_password"], site.airflow_connections["AIRFLOW_CONN_WARD_OPS_TARGET"]]
