"""The settings of a local Airflow: what its owner chooses, and the environment that its components get."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from include.cutover.files import write_atomically
from include.cutover.people.roles import Accounts
from include.cutover.places import ROOT

# Settings that only a local Airflow has; the others, with their reasons, are in airflow.env.
_LOCAL: Mapping[str, str] = {
    "CORE__EXECUTOR": "LocalExecutor",
    "SCHEDULER__ENABLE_HEALTH_CHECK": "false",
    "API__HOST": "127.0.0.1",
}


@dataclass(frozen=True)
class StackSettings:
    """The choices for one local Airflow.

    Attributes:
        connections: Airflow connections by id, as URI or JSON. They reach the components in their environment only.
        environment: More environment of every component and task, e.g. the values that plans refer to. A setting of
            Airflow that stands here wins over the project's.
        port: Of the API server; None takes a free one.
        accounts: Roles and log-ins; by default those of all plans that its environment leads to.
        parallelism: Tasks that may run at once, each in a worker process that is forked at the start.
        frozen_code: Tasks run the code as it is at the start, even when files of this project or of ``dags_folder`` change
            later. That saves each of them its imports. For an Airflow that lives for one cutover.
    """

    connections: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    accounts: Accounts | None = None
    dags_folder: Path = ROOT / "dags"
    plugins_folder: Path = ROOT / "plugins"
    parallelism: int = 8
    frozen_code: bool = False


def component_environment(
    folder: Path, settings: StackSettings, dags: Path, metadata_url: str, keys: Mapping[str, str], port: int
) -> dict[str, str]:
    """Return the whole environment of every component.

    Args:
        folder: The stack's.
        settings: Its owner's choices.
        dags: Folder of the DAG files that run.
        metadata_url: SQLAlchemy URL of the metadata database.
        keys: As ``secret_keys`` returns them.
        port: Of the API server.
    """
    values = {
        **_LOCAL,
        **keys,
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__PLUGINS_FOLDER": str(settings.plugins_folder),
        "CORE__PARALLELISM": str(settings.parallelism),
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "API__BASE_URL": f"http://127.0.0.1:{port}/",
        "API__PORT": str(port),
        "DATABASE__SQL_ALCHEMY_CONN": metadata_url,
        "LOGGING__BASE_LOG_FOLDER": str(folder / "logs" / "tasks"),
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(folder / "logs" / "dag_processor"),
    }
    return {
        **inherited_environment(folder / "airflow"),
        **common_settings(),
        **{f"AIRFLOW__{name}": value for name, value in values.items()},
        **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in settings.connections.items()},
        **settings.environment,
    }


def common_settings() -> dict[str, str]:
    """Return the environment of every Airflow that runs this pipeline, here and in containers."""
    values = dotenv_values(Path(__file__).with_name("airflow.env"), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def inherited_environment(home: Path) -> dict[str, str]:
    """Return this process's environment, with what every component needs and without another Airflow's settings.

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


def secret_keys(file: Path) -> dict[str, str]:
    """Return the keys in the file, made at the first call.

    They must be the same in all components and at the next start: sessions and metadata depend on them.
    """
    if not file.exists():
        fresh = {
            "API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "API__SECRET_KEY": secrets.token_urlsafe(32),
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        write_atomically(file, json.dumps(fresh).encode(), 0o600)
    found: dict[str, str] = json.loads(file.read_text())
    return found
