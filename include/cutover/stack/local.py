"""A local Airflow: metadata database, API server, scheduler and DAG processor, all in one folder.

Not ``airflow standalone``, which leaves its scheduler and API server running after SIGTERM. No triggerer runs: no task
defers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from include.cutover.errors import CannotCheck, PlanInvalid, Refused, StepFailed
from include.cutover.files import write_atomically
from include.cutover.people.roles import Accounts
from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan
from include.cutover.plan.model import Plan
from include.cutover.stack import metadata
from include.cutover.stack.api_client import Client
from include.cutover.stack.ports import free_port, require_free
from include.cutover.stack.postgres import Cluster
from include.cutover.stack.processes import Leader, Roster
from include.cutover.stack.settings import StackSettings, component_environment, secret_keys

log = logging.getLogger(__name__)


class Stack:
    """A local Airflow.

    Args:
        folder: Everything it writes lies here; it is made where missing. Runs, logs and log-ins in it outlive a stop.
        settings: Its owner's choices.
        roster: Where its processes are remembered; by default a file in ``folder``.
    """

    def __init__(self, folder: Path, settings: StackSettings | None = None, *, roster: Roster | None = None) -> None:
        self.folder = folder.resolve()
        self.roster = roster or Roster(self.folder / "processes.json")
        self._settings = settings or StackSettings()
        self._environment: dict[str, str] = {}

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """True when one of its processes runs."""
        return bool(self.roster.running)

    @property
    def complete(self) -> bool:
        """True when every part of it runs."""
        return {metadata.NAME, *self._components()} <= {leader.name for leader in self.roster.running}

    @property
    def url(self) -> str:
        """The address where people log in.

        Raises:
            CannotCheck: When it was never started.
        """
        return f"http://127.0.0.1:{self._state()['port']}"

    @property
    def logins(self) -> dict[str, str]:
        """User → password."""
        found: dict[str, str] = json.loads(self._passwords.read_text())
        return found

    def client(self, user: str = "lead") -> Client:
        """Return a client of the REST API, logged in as that user."""
        return Client(self.url, user, self.logins[user])

    def start(self, dags: Sequence[str] = (), seconds: float = 300.0) -> None:
        """Start the parts that do not run, and wait until Airflow is healthy and knows the DAGs.

        After a crash of the host, or of a part, what the ended parts left is cleared; a part that runs is kept. When
        Airflow does not come up, the parts that this call started are ended again.

        Args:
            dags: Ids of DAGs to wait for.
            seconds: How long that may take.

        Raises:
            Refused: When all of it runs already, or the port is taken.
            StepFailed: When a component ends, a DAG file does not parse, or the time is up.
        """
        if self.complete:
            raise Refused(
                "the local Airflow runs already", where=str(self.folder), found=self.url, do="'make down' ends it."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        ran, remembered = self._clear(), self._ports()
        port = remembered["port"] if ran - {metadata.NAME} else self._free_port(remembered.get("port"))
        deadline = time.monotonic() + seconds
        try:
            accounts = Accounts.of(self._plans()) if self._settings.accounts is None else self._settings.accounts
            cluster = self._start_metadata(accounts, remembered.get("metadata_port"))
            write_atomically(self._state_file, json.dumps({"port": port, "metadata_port": cluster.port}).encode())
            self._write_passwords(accounts, cluster)
            dags_folder = self._dags(keep=bool(ran))
            self._environment = component_environment(
                self.folder, self._settings, dags_folder, cluster.url("airflow", metadata.DRIVER), self._keys(), port
            )
            for name in self._components():
                if name not in ran:
                    self._start_component(name, name)
            self._wait_healthy(deadline)
            self._wait_for_dags(dags, cluster, deadline)
        except BaseException:
            self._stop_all_but(ran)
            raise

    def _clear(self) -> set[str]:
        """Clear what ended parts left, and return the names of those that run and are kept."""
        self.roster.clear()
        ran = {leader.name for leader in self.roster.running}
        known = self._ports()
        if ran and (not metadata.usable(self._metadata) or not {"port", "metadata_port"} <= known.keys()):
            self.stop()  # of a start that was killed in the middle: the database is not whole
            return set()
        if metadata.NAME not in ran:
            Cluster(self._metadata, 0).stop()  # a start that was killed in the middle may not have remembered it
        # The others know these two under their old ports only.
        for part, port in ((metadata.NAME, "metadata_port"), ("api-server", "port")):
            if ran - {metadata.NAME} and part not in ran and free_port(known[port]) != known[port]:
                self.roster.stop(only=ran - {metadata.NAME})
                ran &= {metadata.NAME}
        return ran

    def _free_port(self, last: int | None) -> int:
        """Return the port of the settings, else that of the last start, else a free one."""
        if self._settings.port is None:
            return free_port(last)
        require_free(self._settings.port, "Name another port, or none for a free one.")
        return self._settings.port

    def _stop_all_but(self, kept: Collection[str]) -> None:
        if not kept:
            self.stop()
            return
        self.roster.stop(only={leader.name for leader in self.roster.leaders()} - set(kept))

    def start_again(self, component: str, name: str | None = None) -> Leader:
        """Restart a component that ended, as a service manager would; with another name, start one beside the first.

        Args:
            component: ``api-server``, ``dag-processor`` or ``scheduler``.
            name: Its name in the roster and of its log.

        Raises:
            CannotCheck: When the stack was started by another object, which knows its environment.
        """
        if not self._environment:
            raise CannotCheck("this object did not start the local Airflow", where=str(self.folder))
        return self._start_component(component, name or component)

    def _start_component(self, component: str, name: str) -> Leader:
        command = [sys.executable, "-m", *self._components()[component]]
        log_file = self.folder / "logs" / f"{name}.log"
        return self.roster.start(name, command, log=log_file, environment=self._environment)

    def stop(self) -> list[str]:
        """End all its processes, also those of a killed component.

        Returns:
            Names of the components that still ran.
        """
        ended = self.roster.stop()
        Cluster(self._metadata, 0).stop()  # a start that was killed in the middle may not have remembered it
        return ended

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of its components, with its secrets; empty before this object has started it."""
        return dict(self._environment)

    @property
    def metadata_url(self) -> str:
        """SQLAlchemy URL of Airflow's own database, with its password; empty before this object has started it."""
        return self._environment.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")

    @property
    def _metadata(self) -> Path:
        return self.folder / "metadata"

    def _components(self) -> dict[str, list[str]]:
        """Return module and arguments of each component, in the order of starting."""
        frozen = self._settings.frozen_code
        preload = "libraries,project" if frozen else "libraries"
        processor = ["include.cutover.stack.preload", "project"] if frozen else ["airflow"]
        return {
            "api-server": ["airflow", "api-server"],
            "dag-processor": [*processor, "dag-processor"],
            # The pages show the logs from the folder; the scheduler need not serve them.
            "scheduler": ["include.cutover.stack.preload", preload, "scheduler", "--skip-serve-logs"],
        }

    def _dags(self, *, keep: bool) -> Path:
        """Return the folder of the DAG files to run; where code is frozen, of a copy, which may be kept."""
        if not self._settings.frozen_code:
            return self._settings.dags_folder
        copy = self.folder / "dags"
        if keep and copy.exists():
            return copy
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._settings.dags_folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
        return copy

    @property
    def _state_file(self) -> Path:
        return self.folder / "stack.json"

    @property
    def _passwords(self) -> Path:
        return self.folder / "passwords.json"

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text())
        except FileNotFoundError:
            raise CannotCheck(
                "no local Airflow was started here", where=str(self.folder), do="'make up' starts one."
            ) from None
        return state

    def _plans(self) -> Iterator[Plan]:
        """Yield the plans that its environment leads to. A plan with faults is shown by its DAG, and gives no rights."""
        values = {**os.environ, **self._settings.environment}
        for file in sorted(Path(values.get("CUTOVER_PLANS") or ROOT / "include" / "plans").glob("*.yaml")):
            try:
                yield parse_plan(file.read_text(encoding="utf-8"), str(file), values)
            except (PlanInvalid, OSError, UnicodeDecodeError) as error:
                log.warning("no rights are granted on this plan's DAGs: %s", error)

    def _ports(self) -> dict[str, int]:
        """Return the ports of the last start; empty before the first."""
        return {name: int(value) for name, value in self._state().items()} if self._state_file.exists() else {}

    def _start_metadata(self, accounts: Accounts, port: int | None = None) -> Cluster:
        return metadata.start(self._metadata, accounts, self.roster, self._keys()["CORE__FERNET_KEY"], port)

    def _keys(self) -> dict[str, str]:
        return secret_keys(self.folder / "secrets.json")

    def _write_passwords(self, accounts: Accounts, cluster: Cluster) -> None:
        known = json.loads(self._passwords.read_text()) if self._passwords.exists() else {}
        passwords = {user: known.get(user) or secrets.token_urlsafe(12) for user in accounts.users}
        write_atomically(self._passwords, json.dumps(passwords, indent=1).encode() + b"\n", 0o600)
        metadata.set_passwords(cluster, passwords)

    def _wait_healthy(self, deadline: float) -> None:
        parts = ("metadatabase", "scheduler", "dag_processor")
        warm = False
        while True:
            self._require_alive()
            try:
                answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5, trust_env=False).json()
            except (httpx.TransportError, ValueError):
                answer = {}
            waiting = [part for part in parts if answer.get(part, {}).get("status") != "healthy"]
            if answer and not warm:
                # Airflow builds the routes that tasks call at the first of these calls: 4 s that the first task would pay.
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"{self.url}/execution/health", timeout=60, trust_env=False)
                    warm = True
            if not waiting:
                return
            if time.monotonic() > deadline:
                found = f"not healthy: {', '.join(waiting)}" if answer else "the API server does not answer"
                raise StepFailed(
                    "Airflow did not come up in time",
                    where=str(self.folder / "logs"),
                    found=found,
                    do="Read the logs there.",
                )
            time.sleep(0.1)

    def _wait_for_dags(self, dags: Sequence[str], cluster: Cluster, deadline: float) -> None:
        """Ask the database: no account sees the DAGs of all plans."""
        with metadata.connect(cluster) as connection:
            while missing := set(dags) - {row[0] for row in connection.execute("SELECT dag_id FROM dag WHERE NOT is_stale")}:
                self._require_alive()
                if errors := connection.execute("SELECT filename, stacktrace FROM import_error").fetchall():
                    described = "; ".join(f"{file}: {trace.strip().splitlines()[-1]}" for file, trace in errors)
                    raise StepFailed(
                        "a DAG file does not parse",
                        where=str(self._settings.dags_folder),
                        found=described,
                        do="Correct the file.",
                    )
                if time.monotonic() > deadline:
                    found = f"missing: {', '.join(sorted(missing))}"
                    raise StepFailed(
                        "Airflow does not know a DAG",
                        where=str(self._settings.dags_folder),
                        found=found,
                        do="Check the plans and the log of the DAG processor.",
                    )
                time.sleep(0.1)

    def _require_alive(self) -> None:
        for leader in self.roster.leaders():
            if not leader.alive:
                file = self.folder / "logs" / f"{leader.name}.log"
                lines = file.read_text(errors="replace").splitlines() if file.exists() else []
                raise StepFailed(f"the {leader.name} ended", where=str(file), found=" | ".join(lines[-3:]))
