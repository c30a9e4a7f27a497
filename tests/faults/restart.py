"""The application's own proof of an end state: it writes over HTTP, reads back, is restarted, and still has the row."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from typing import Any

import httpx

from include.cutover.errors import CutoverError
from tests.faults.acknowledged import Ledger
from tests.faults.site import FaultSite, until

COUNTED = ("standalone_devices", "branches", "alert_rules")
"""Tables whose number of rows the application's page shows, and which nothing changes by itself."""


def problems_of_restart(site: FaultSite, ledger: Ledger) -> list[str]:
    """Let the application write, read, stop, start and read again; return what did not hold.

    The services are stopped and started by their supervisor, with the configuration that lies there.
    """
    written = ledger.write(1)
    if not written:
        return ["the application acknowledged no row"]
    before = ledger.read(written[0].id)
    if before is None:
        return [f"the application does not read back {written[0]}"]
    found = []
    try:
        site.stop_services()
        site.start_services()
    except (CutoverError, OSError) as error:
        return [f"the application does not start again: {error}"]
    after = until(lambda: ledger.read(written[0].id), site.pulse.patience(12))
    if after != before:
        found.append(f"after a restart the application reads {after}, not {before}")
    database = _health(site).get("database")
    if database != written[0].on:
        found.append(f"after a restart the application runs on {database}, not on {written[0].on}")
    return found + _counts(site)


def _health(site: FaultSite) -> dict[str, Any]:
    with contextlib.suppress(httpx.HTTPError, ValueError):
        health: dict[str, Any] = httpx.get(f"{site.ward_ops.url}/api/v1/health", timeout=10, trust_env=False).json()
        return health
    return {}


def _counts(site: FaultSite) -> list[str]:
    """Return the tables of which the application shows another number than the source had before the cell."""
    try:
        page = httpx.get(f"{site.ward_ops.url}/monitor", timeout=10, trust_env=False).text
    except httpx.HTTPError as error:
        return [f"after a restart the application's page does not answer: {type(error).__name__}"]
    found = []
    with contextlib.closing(sqlite3.connect(site.pristine / "ward_ops.db")) as source:
        for table in COUNTED:
            wanted = source.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            shown = re.search(rf'data-table="{table}">([0-9]+)<', page)
            if shown is None or int(shown[1]) != wanted:
                found.append(f"after a restart the application shows {shown and shown[1]} {table}, not {wanted}")
    return found
