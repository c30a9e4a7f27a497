"""A whole local site for a cutover of the stand-in: Ward OPS, its target, receivers of notices, a local Airflow."""

from __future__ import annotations

import json
import secrets
import shlex
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import psycopg
from psycopg import sql

from examples import receivers
from examples.ward_ops import supervised
from examples.ward_ops.supervised import WardOps
from include.cutover.evidence.record import Evidence, runs_below
from include.cutover.files import write_atomically
from include.cutover.people.roles import Accounts
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.stack.local import Stack
from include.cutover.stack.ports import free_port, require_free
from include.cutover.stack.postgres import Cluster, binaries
from include.cutover.stack.processes import Roster
from include.cutover.stack.settings import StackSettings
from include.cutover.target import access

PLAN = "ward_ops"
DATABASE = "ward_flux"
ROLE = "ward_ops"
PIPELINE_ROLE = "cutover"
DAGS = (
    "cutover_ward_ops",
    "rollback_ward_ops",
    "rehearsal_ward_ops",
    "incident_ward_ops",
    "aftercare_ward_ops",
    "retention_ward_ops",
)


class LocalSite:
    """One such site in a folder.

    Ports and passwords are made once and stay: after a cutover the application's configuration names them.

    Args:
        folder: All its files are below it.
        port: Of Airflow's UI; None takes a free one.
        frozen_code: See ``StackSettings``.
        aftercare_seconds: How long the aftercare of a cutover takes; None takes the plan's hour.
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, frozen_code: bool = False, aftercare_seconds: float | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.roster = Roster(self.folder / "site.json")
        self._port = port
        self._frozen_code = frozen_code
        self._aftercare_seconds = aftercare_seconds

    @cached_property
    def ward_ops(self) -> WardOps:
        """The application."""
        return WardOps(
            self.folder / "ward_ops",
            port=int(self._settings["port"]),
            supervisor_port=int(self._settings["supervisor_port"]),
            password=self._settings["supervisor_password"],
        )

    @cached_property
    def target(self) -> Cluster:
        """The PostgreSQL that the application moves to."""
        return Cluster(self.folder / "target", int(self._settings["target_port"]))

    @cached_property
    def stack(self) -> Stack:
        """The local Airflow."""
        settings = StackSettings(
            self._connections,
            self.environment,
            self._port,
            accounts=self._accounts,
            frozen_code=self._frozen_code,
        )
        return Stack(self.folder / "stack", settings)

    @property
    def _accounts(self) -> Accounts | None:
        """Log-ins to Airflow; None for those of its plans."""
        return None

    @property
    def evidence(self) -> Path:
        """Folder of the evidence."""
        return self.folder / "evidence"

    @property
    def received(self) -> Path:
        """Folder of the notices that arrived."""
        return self.folder / "received"

    def start(self, *, pings: int, credentials: int = 1, orphans: int = 0) -> None:
        """Start the parts that do not run yet, side by side, and wait until all of them answer. Existing data is kept.

        The application must become healthy unless a run is in flight or its way back is not complete.

        Args:
            pings: See ``generate``.
            credentials: See ``generate``.
            orphans: See ``generate``.

        Raises:
            CutoverError: When a part does not come up. The others run on; a further call continues.
        """
        if not self.ward_ops.running and not self._runs():
            # Once a run has begun, a missing file is the run's: a rollback may have been killed while it replaced it.
            self.ward_ops.prepare(pings=pings, credentials=credentials, orphans=orphans)
        stack = self.stack  # makes the files that the parts below share, before they start side by side
        self.start_without_airflow(lambda: None if stack.complete else stack.start(DAGS))

    def start_without_airflow(self, beside: Callable[[], object] = lambda: None) -> None:
        """Start the application, its target and the receivers of notices; ``beside`` is called meanwhile."""
        self._start_target()  # Ward OPS needs it when it was moved already
        with ThreadPoolExecutor() as pool:
            parts = [pool.submit(part) for part in (self._start_ward_ops, self._start_receivers)]
            beside()
        for part in parts:
            part.result()

    def running_parts(self) -> set[str]:
        """Return the names of the parts that run, wholly or in part."""
        parts = {
            "Airflow": self.stack.running,
            "Ward OPS": self.ward_ops.running,
            "PostgreSQL": self.target.postmaster() is not None,
            "the receivers of notices": any(leader.name == "receivers" for leader in self.roster.running),
        }
        return {name for name, runs in parts.items() if runs}

    def _runs(self) -> list[Evidence]:
        return runs_below(self.evidence / PLAN)

    def _settled(self) -> bool:
        """Return True when no run is in flight, and none has ended with an incomplete way back."""
        return all((sealed := run.sealed) is not None and sealed.get("outcome") != "failed"
                   for run in self._runs() if run.last("run.opened") is not None)  # fmt: skip

    def _start_ward_ops(self) -> None:
        self.ward_ops.start(must_be_healthy=self._settled)

    def stop(self) -> None:
        """Stop all processes of this folder, also those whose parent was killed."""
        if (self.folder / "stack").is_dir():
            Stack(self.folder / "stack").stop()
        if (self.folder / "ward_ops").is_dir():
            supervised.stop(self.folder / "ward_ops")
        self.roster.stop()
        Cluster(self.folder / "target", 0).stop()

    def service_pids(self) -> dict[str, int]:
        """Return the process id of each of the application's services; it changes with a restart."""
        with self.ward_ops.supervisor() as supervisor:
            programs = cast("list[dict[str, Any]]", supervisor.supervisor.getAllProcessInfo())
        return {program["name"]: program["pid"] for program in programs}

    @cached_property
    def _settings(self) -> dict[str, str]:
        file = self.folder / "settings.json"
        if not file.exists():
            ports = {f"{name}port": str(free_port()) for name in ("", "supervisor_", "target_", "smtp_", "http_")}
            fresh = {
                **ports,
                "supervisor_password": secrets.token_urlsafe(24),
                "application_password": secrets.token_urlsafe(24),
                "pipeline_password": secrets.token_urlsafe(24),
            }
            write_atomically(file, json.dumps(fresh, indent=1).encode(), 0o600)
        found: dict[str, str] = json.loads(file.read_text())
        return found

    @property
    def _connections(self) -> Mapping[str, str]:
        self.target.create()
        login = {"conn_type": "postgres", "host": "127.0.0.1", "port": self.target.port, "schema": DATABASE}
        token = quote(receivers.WEBHOOK.removeprefix("/services/"), safe="")
        webhook = quote(f"http://127.0.0.1:{self._settings['http_port']}/services", safe="")
        return {
            "ward_ops_source": json.dumps({"conn_type": "sqlite", "host": str(self.ward_ops.database)}),
            "ward_ops_target": json.dumps({
                **login, "login": PIPELINE_ROLE, "password": self._settings["pipeline_password"],
            }),
            "ward_ops_application": json.dumps({
                **login, "login": ROLE, "password": self._settings["application_password"],
            }),
            "ward_ops_slack": f"slackwebhook://:{token}@{webhook}",
            "ward_ops_mail": f"smtp://127.0.0.1:{self._settings['smtp_port']}/?disable_ssl=true&disable_tls=true",
        }  # fmt: skip

    @property
    def airflow_connections(self) -> dict[str, str]:
        """The same as variables of an environment."""
        return {f"AIRFLOW_CONN_{name.upper()}": value for name, value in self._connections.items()}

    @property
    def secrets(self) -> list[str]:
        """Every password of the site."""
        return [self.target.password, *(value for name, value in self._settings.items() if name.endswith("password"))]

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment that the plan and the evidence read; it holds the password of supervisord's interface."""
        short = (
            {}
            if self._aftercare_seconds is None
            else {
                "WARD_OPS_AFTERCARE_MINUTES": str(self._aftercare_seconds / 60),
                "WARD_OPS_AFTERCARE_INTERVAL": str(max(1.0, self._aftercare_seconds / 3)),
                # The stand-in runs for less than a minute before, on a machine with other work.
                "WARD_OPS_AFTERCARE_BASELINE": "0.3",
                "WARD_OPS_AFTERCARE_TOLERANCE": "0.9",
            }
        )
        return {
            **self.ward_ops.environment(),
            **short,
            "WARD_OPS_BACKUPS": str(self.folder / "backups"),
            "WARD_OPS_SECOND_COPY": str(self.folder / "second_copy"),
            "WARD_OPS_ALLOW_AUTO_APPROVAL": "true",
            "WARD_OPS_PG_DUMP": str(binaries() / "pg_dump"),
            "CUTOVER_EVIDENCE": str(self.evidence),
        }

    def write_environment(self) -> Path:
        """Write a file with passwords that a shell reads before commands of the pipeline at this site; return its path."""
        values = {**self.environment, **self.airflow_connections}
        text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        write_atomically(self.folder / "environment", text.encode(), 0o600)
        return self.folder / "environment"

    def _start_target(self) -> None:
        self.target.end_if_hung()
        self.roster.clear()
        if self.target.postmaster() is None:
            pid = self.target.start({"max_wal_size": "4GB", "shared_buffers": "256MB", "maintenance_work_mem": "256MB"})
            self.roster.add("target", pid, ending="SIGINT", stage=0)
        if self._settled():  # else a run decides who may do what in the target
            self._set_up_target()

    def _set_up_target(self) -> None:
        """Make database and roles, where they are missing."""
        # As a site's administrator does once. The application's role has no log-in: the cutover gives it one.
        passwords = {ROLE: self._settings["application_password"], PIPELINE_ROLE: self._settings["pipeline_password"]}
        with psycopg.connect(self.target.conninfo(), autocommit=True, connect_timeout=10) as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        access.apply(self.target.conninfo(DATABASE), load_plan("ward_ops"), roles=True)
        with psycopg.connect(self.target.conninfo(), autocommit=True, connect_timeout=10) as connection:
            for role, password in passwords.items():
                statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
                connection.execute(statement)

    def _start_receivers(self) -> None:
        if not any(leader.name == "receivers" for leader in self.roster.running):
            for name in ("smtp_port", "http_port"):
                require_free(int(self._settings[name]), "End that process; then start again.")
            ports = ["--smtp-port", self._settings["smtp_port"], "--http-port", self._settings["http_port"]]
            self.roster.start(
                "receivers",
                [sys.executable, "-m", "examples.receivers", "--folder", str(self.received), *ports],
                log=self.folder / "receivers.log",
                environment={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            )
