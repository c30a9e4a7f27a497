"""The site that faults are injected into: a whole local site with quick heart-beats, and a way back to its first state.

It is started once. ``reset`` brings it back between cells in a few seconds: source, configuration, target, evidence,
backups, services, and a heart-beat that the machine can keep (see ``pulse``). The traces of a cell (its evidence, its
observations) are kept in ``cells/<name>``.

Everything that may fail is reached through something that can: a proxy before PostgreSQL, the webhook and the mail server,
and a front before the application (see ``inject``).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psycopg
import yaml
from psycopg import sql

from examples.ward_ops.local_site import DAGS, DATABASE, PIPELINE_ROLE, ROLE, LocalSite
from include.cutover.errors import CutoverError
from include.cutover.people.roles import Accounts
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.stack.api_client import Client
from include.cutover.stack.postgres import free_port
from include.cutover.stack.processes import Leader, members
from tests.faults import pulse
from tests.faults.inject import Front
from tests.support.proxy import Proxy

PLAN = "ward_ops"
CUTOVER, ROLLBACK = DAGS[:2]
PINGS = 20_000
CHUNK_ROWS = 4_000

# Empty in the stand-in's data. A task for each of them makes a cell slower and no harder.
LEFT_OUT = frozenset({
    "organizations", "system_config", "setup_wizard_state", "monitoring_items", "alert_history", "traceroute_results",
    "mtr_results", "performance_baselines", "metric_baselines", "discovery_rules", "discovery_results", "discovery_jobs",
    "discovery_credentials", "network_topology",
})  # fmt: skip


class FaultSite(LocalSite):
    """The site of the demo, made to break.

    Args:
        folder: Everything lies below it.
        frozen_code: See ``Stack``; cells that change code while a run is in flight need it off.
    """

    def __init__(self, folder: Path, *, frozen_code: bool = True) -> None:
        super().__init__(folder, port=free_port(), frozen_code=frozen_code)  # the same after a reboot
        self.pulse = pulse.Pulse()
        self.commands: list[subprocess.Popen[str]] = []
        self.points = self.folder / "points"
        self.plans = self.folder / "plans"
        self.sql = self.folder / "sql"
        self.pristine = self.folder / "pristine"
        self.kept = self.folder / "cells"

    @cached_property
    def front(self) -> Front:
        """Between the pipeline's questions and the application."""
        return Front(self.ward_ops.url)

    @cached_property
    def to_target(self) -> Proxy:
        """Between the pipeline and PostgreSQL."""
        return Proxy(int(self._settings["target_port"]))

    @cached_property
    def to_slack(self) -> Proxy:
        """Between the pipeline and the receiver of webhooks."""
        return Proxy(int(self._settings["http_port"]))

    @cached_property
    def to_mail(self) -> Proxy:
        """Between the pipeline and the mail server."""
        return Proxy(int(self._settings["smtp_port"]))

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment,
            **self.pulse.settings,
            "WARD_OPS_URL": self.front.url,
            "CUTOVER_PLANS": str(self.plans),
            "CUTOVER_SQL": str(self.sql),
            "CUTOVER_FAULT_POINTS": str(self.points),
            "PYTHONPATH": f"{ROOT / 'tests' / 'faults' / 'hooks'}{os.pathsep}{ROOT}",
        }

    @property
    def _accounts(self) -> Accounts:
        people = Accounts.of([load_plan("ward_ops")])
        return replace(people, users={**people.users, "administrator": ("Admin",)})

    @property
    def _connections(self) -> Mapping[str, str]:
        found = dict(super()._connections)
        for name, real, proxy in (
            ("ward_ops_target", self._settings["target_port"], self.to_target),
            ("ward_ops_slack", self._settings["http_port"], self.to_slack),
            ("ward_ops_mail", self._settings["smtp_port"], self.to_mail),
        ):
            found[name] = found[name].replace(str(real), str(proxy.port))
        return found

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultSite]:
        """Everything started, and everything ended after the block."""
        before = dict(os.environ)
        try:
            self.pulse = pulse.measured()
            self._prepare()
            with self.roster.guarded():
                self.start(pings=PINGS, credentials=5)
                self._keep_pristine()
                yield self
        finally:
            self.stop()
            for part in ("to_target", "to_slack", "to_mail", "front"):
                if part in self.__dict__:
                    getattr(self, part).close()
            os.environ.clear()
            os.environ.update(before)

    def _prepare(self) -> None:
        for folder in ("fired", "release"):
            (self.points / folder).mkdir(parents=True, exist_ok=True)
        self._write_sql()
        self._write_plan()
        self.ward_ops.prepare(pings=PINGS, credentials=5)
        with contextlib.closing(sqlite3.connect(self.ward_ops.database)) as source:
            for table in LEFT_OUT:
                source.execute(f"DROP TABLE {table}")
        os.environ.update({name: value for name, value in self.environment.items() if name != "PYTHONPATH"})

    def _write_sql(self) -> None:
        """The SQL of Ward OPS without what it says about the tables that are left out."""
        shutil.copytree(ROOT / "include" / "sql" / PLAN, self.sql / PLAN)
        about = re.compile(rf"\b({'|'.join(LEFT_OUT)})\b")
        for file in (self.sql / PLAN).rglob("*.sql"):
            if about.search(file.read_text()):
                lines = [line.partition("--")[0] for line in file.read_text().splitlines()]
                kept = [part for part in re.split(r"(?<=;)\n", "\n".join(lines)) if not about.search(part)]
                file.write_text("\n".join(kept))
            if not file.read_text().strip():
                file.unlink()

    def _write_plan(self) -> None:
        """The plan of Ward OPS with waits of seconds, and with chunks that make several of twenty thousand pings."""
        plan = yaml.safe_load((ROOT / "include" / "plans" / f"{PLAN}.yaml").read_text())
        plan["tables"] = {name: table for name, table in plan["tables"].items() if name not in LEFT_OUT}
        plan["tables"]["ping_results"]["chunk_rows"] = CHUNK_ROWS
        plan["gates"]["response_minutes"] = self.pulse.patience(30) / 60
        plan["smoke_tests"]["seconds"] = self.pulse.patience(10)
        plan["aftercare"] = {"enabled": False}  # what comes after a cell is no part of it
        for service in plan["services"]:
            service |= {"stop_seconds": self.pulse.patience(15), "start_seconds": self.pulse.patience(15)}
        self.plans.mkdir(parents=True, exist_ok=True)
        (self.plans / f"{PLAN}.yaml").write_text(yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))

    def _keep_pristine(self) -> None:
        self.stop_services()
        self.pristine.mkdir()
        shutil.copy2(self.ward_ops.database, self.pristine / "ward_ops.db")
        shutil.copy2(self.ward_ops.dotenv, self.pristine / ".env")
        shutil.copytree(self.plans, self.pristine / "plans")
        self.start_services()

    # ---- the way back ------------------------------------------------------------------------------------------------

    def reset(self, cell: str) -> None:
        """Bring everything back to how it was after the start; nothing of the cell before is left at work.

        Args:
            cell: Name of the cell that begins.
        """
        self.set_rules(cell, [])
        for proxy in (self.to_target, self.to_slack, self.to_mail):
            proxy.mend()
        self.front.mend()
        for command in self.commands:
            command.kill()
            command.wait()
        self.commands.clear()
        self._airflow_as_new()
        self._keep_pace()
        self._end_tasks()
        self.stop_services()
        self._target_as_new()
        self._files_as_new()
        self.set_rules(cell, [])
        self.start_services()

    def set_rules(self, cell: str, rules: list[dict[str, Any]], *, count: bool = False) -> None:
        """Set the rules of the fault points from now on; a process that is held for another cell ends."""
        temporary = self.points / "rules.new"
        temporary.write_text(json.dumps({"cell": cell, "rules": rules, "count": count}))
        temporary.replace(self.points / "rules.json")

    def keep(self, cell: str) -> Path:
        """Put evidence and observations of a cell aside; returns where."""
        place = self.kept / cell
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for path in (self.evidence / PLAN, self.points / "seen.jsonl", self.points / "fired"):
            if path.exists():
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, place / path.name)
        return place

    def _airflow_as_new(self) -> None:
        self.ensure_airflow()
        with self.stack.client("administrator") as administrator:  # no role of the plan may delete a run
            for dag_id in DAGS:
                administrator.pause(dag_id, False)
                page = administrator._call("GET", f"/api/v2/dags/{dag_id}/dagRuns", query={"limit": 100})
                for run in page["dag_runs"]:
                    delete_run(administrator, dag_id, run["dag_run_id"])

    def ensure_airflow(self) -> None:
        """Start again what was killed of Airflow, and wait until it is healthy."""
        for leader in self.stack.roster.leaders():
            if leader.name.startswith("scheduler-"):
                self.kill(leader)
        for component in ("api-server", "scheduler", "dag-processor"):
            if not any(leader.name == component for leader in self.stack.roster.running):
                self.stack.start_again(component)
        until(self._airflow_is_healthy, self.pulse.patience(90), "Airflow is healthy")

    def _keep_pace(self) -> None:
        """Give the scheduler a heart-beat for the machine as it is now, where the present one is too quick or too slow."""
        needed = pulse.measured()
        if self.pulse.follows(needed):
            return
        self.pulse = needed
        self.stack._environment.update(needed.settings)
        self.kill(self.leader("scheduler"))
        self.ensure_airflow()

    def _airflow_is_healthy(self) -> bool:
        try:
            answer = httpx.get(f"{self.stack.url}/api/v2/monitor/health", timeout=5, trust_env=False).json()
        except (httpx.HTTPError, ValueError):
            return False
        return all(
            answer.get(part, {}).get("status") == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")
        )

    def _end_tasks(self) -> None:
        """Wait for steps in flight; kill those that do not end, and workers that a dead scheduler left behind."""
        running = {leader.name for leader in self.stack.roster.running}
        gone = [leader for leader in self.stack.roster.leaders() if leader.name not in running or not leader.alive]
        for leader in gone:
            self.kill(leader)
        lock = self.evidence / PLAN / ".claims" / "plan"
        if not lock.exists():
            return
        with lock.open("r+") as file:

            def free() -> bool:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

            if not until(free, 3):
                for pid in self.step_pids():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                until(free, 10, "no step is in flight")

    def step_pids(self) -> set[int]:
        """Processes of steps that began and did not end."""
        pids: set[int] = set()
        for file in (self.evidence / PLAN).glob("*/events.jsonl"):
            for line in file.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event["event"] == "step.begin":
                        pids.add(int(event["pid"]))
        ours = set(members(self.stack.roster.leaders()))
        return pids & ours

    def _target_as_new(self) -> None:
        self._start_target()
        with psycopg.connect(self.target.conninfo(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
            connection.execute(sql.SQL("DROP TABLESPACE IF EXISTS small"))
            for role in (PIPELINE_ROLE, ROLE):
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        self._set_up_target()

    def _files_as_new(self) -> None:
        data = self.ward_ops.database.parent
        for path in data.iterdir():
            path.unlink()
        for path in self.ward_ops.root.glob(".env*"):
            path.unlink()
        shutil.copy2(self.pristine / "ward_ops.db", self.ward_ops.database)
        shutil.copy2(self.pristine / ".env", self.ward_ops.dotenv)
        for place in (self.evidence / PLAN, self.folder / "backups", self.folder / "second_copy", self.received):
            shutil.rmtree(place, ignore_errors=True)
        self.received.mkdir()
        (self.points / "seen.jsonl").unlink(missing_ok=True)
        for folder in ("fired", "release"):
            for mark in (self.points / folder).iterdir():
                mark.unlink()
        for path in (self.pristine / "plans").iterdir():
            shutil.copy2(path, self.plans / path.name)

    # ---- parts -------------------------------------------------------------------------------------------------------

    def start_cluster(self) -> None:
        """Start the target's server as a service manager does at boot; nothing in it is changed."""
        pid = self.target.start({"max_wal_size": "4GB", "shared_buffers": "256MB", "maintenance_work_mem": "256MB"})
        self.roster.add("target", pid, ending="SIGINT", stage=0)

    def stop_services(self) -> None:
        """Stop the application's services; supervisord stays."""
        with self.ward_ops.supervisor() as supervisor:
            supervisor.supervisor.stopAllProcesses()

    def start_services(self) -> None:
        """Start them and wait until the application is healthy."""
        with self.ward_ops.supervisor() as supervisor:
            supervisor.supervisor.startAllProcesses()
        self.ward_ops.start()

    def leader(self, name: str) -> Leader:
        """A running component of Airflow."""
        return next(leader for leader in self.stack.roster.running if leader.name == name)

    def kill(self, leader: Leader) -> None:
        """SIGKILL to everything in a component's session."""
        for _ in range(20):
            found = members([leader])
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not found:
                return
            time.sleep(0.05)

    def administrator(self, database: str = DATABASE) -> str:
        """libpq connection string of the superuser, past the proxy."""
        return self.target.conninfo(database)

    def metadata(self) -> str:
        """libpq connection string of Airflow's own database."""
        return self.stack.metadata_url.replace("postgresql+psycopg2", "postgresql")

    def application_login(self) -> str:
        """libpq connection string of the application's role, past the proxy."""
        password = self._settings["application_password"]
        return psycopg.conninfo.make_conninfo(
            host="127.0.0.1", port=self.target.port, user=ROLE, password=password, dbname=DATABASE, connect_timeout=5
        )

    def lead(self) -> Client:
        """Airflow, as the lead."""
        return self.stack.client("lead")


def delete_run(administrator: Client, dag_id: str, run_id: str) -> bool:
    """Delete a run as an administrator can in the interface; one that runs is set to failed first, as Airflow demands.

    Returns:
        True when it is gone.
    """
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
    with contextlib.suppress(CutoverError):
        if administrator.run_state(dag_id, run_id) == "running":
            administrator._call("PATCH", path, {"state": "failed"})
        return administrator._authorised("DELETE", path, None, {}).is_success
    return False


def sha256(path: Path) -> str:
    """Of a file that is small enough to be read at once."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def until(look: Callable[[], Any], seconds: float, what: str = "", *, pause: float = 0.05) -> Any:
    """Look again and again until there is something, and return that; ``pause`` seconds lie between two looks.

    Raises:
        TimeoutError: After so many seconds, where ``what`` says what was waited for; else what was seen last is returned.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            if what:
                raise TimeoutError(f"not within {seconds:g} s: {what}")
            return found
        time.sleep(pause)
