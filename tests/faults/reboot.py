"""The host reboots: everything on it is killed at once, and what starts by itself starts by itself.

The receivers of notices and the proxies stay: they stand for other hosts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from examples.ward_ops import supervised
from examples.ward_ops.local_site import DAGS
from include.cutover.stack.processes import members
from tests.faults.site import FaultSite, sha256, until

SETTLED = frozenset({"RUNNING", "FATAL", "EXITED", "STOPPED"})


@dataclass(frozen=True)
class Booted:
    """The services and the database that came up by themselves.

    Attributes:
        services: Names of the services that run.
        database: The database that the application says it works on; empty where it is not well.
    """

    services: frozenset[str]
    database: str


def reboot(site: FaultSite, *, airflow: bool = True, also: Iterable[int] = ()) -> Booted:
    """Kill everything on the host, then start PostgreSQL, let the services start by themselves, start Airflow.

    Args:
        site: The site.
        airflow: False where Airflow does not come back.
        also: Process ids of commands that the harness itself runs there.
    """
    power_cut(site, also)
    booted = boot(site)
    if airflow:
        start_airflow(site)
    return booted


def power_cut(site: FaultSite, also: Iterable[int] = ()) -> None:
    """Kill Airflow with its database, the target, supervisord and its services: no process learns of it."""
    root = site.ward_ops.root
    ours = [leader for leader in site.roster.leaders() if leader.name == "target"]
    _kill(also)
    while True:
        supervisord = supervised._supervisord(root)
        found = [*members([*site.stack.roster.leaders(), *ours]), *([supervisord] if supervisord else [])]
        found += supervised.service_processes(root)
        if not found:
            break
        _kill(found)
        time.sleep(0.05)
    if site.ward_ops._process is not None:
        site.ward_ops._process.wait()
    for process in site.commands:
        process.wait()


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def boot(site: FaultSite) -> Booted:
    """Start PostgreSQL and let the services start by themselves, with whatever configuration and database lie there."""
    observe(site)
    site.start_cluster()
    site.ward_ops._start_supervisord()

    def settled() -> bool:
        programs = site.ward_ops._programs()
        return bool(programs) and all(program["statename"] in SETTLED for program in programs)

    until(settled, site.pulse.patience(60), "the services have started by themselves, or not")
    services = frozenset(site.ward_ops.pids())
    health = until(lambda: _health(site), site.pulse.patience(15)) if "api" in services else None
    return Booted(services, str((health or {}).get("database", "")) if (health or {}).get("status") == "ok" else "")


def observe(site: FaultSite) -> None:
    """Note the source as it is before the services start on it by themselves, or by a person's hand."""
    source = site.ward_ops.database
    seen = {
        "time": time.time(),
        "pid": os.getpid(),
        "step": "boot",
        "at": "begin",
        "sha256": sha256(source) if source.exists() else None,
        "beside": sorted(path.name for path in source.parent.glob(f"{source.name}-*")),
    }
    with (site.points / "seen.jsonl").open("a") as file:
        file.write(json.dumps(seen) + "\n")


def start_airflow(site: FaultSite) -> None:
    """Start Airflow again on its own database, at the same address."""
    site.stack.stop()  # forgets the dead
    del site.__dict__["stack"]  # the next has the heart-beat of this moment
    site.stack.start(DAGS, seconds=site.pulse.patience(300))


def _health(site: FaultSite) -> dict[str, str]:
    with contextlib.suppress(httpx.HTTPError, ValueError):
        health: dict[str, str] = httpx.get(f"{site.ward_ops.url}/api/v1/health", timeout=10, trust_env=False).json()
        return health
    return {}
