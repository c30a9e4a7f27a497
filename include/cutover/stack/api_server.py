"""Waits for the API server: what starts tasks must not start before it, because a task that cannot reach it fails.

    python -m include.cutover.stack.api_server COMMAND…     wait, then become that command

After a restart of a host every part starts at once, whatever ``depends_on`` says, and the API server is the slowest. An
attempt of a step that gives up on it is lost, and after the last one the run goes back, although nothing is wrong.
"""

from __future__ import annotations

import os
import sys
import time
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

ADDRESS = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"
"""The environment variable with the address that tasks report to."""

_CALL_SECONDS = 30.0  # the first call after a start builds the server's routes
_PAUSE_SECONDS = 1.0
_TOLD_AFTER_SECONDS = 15.0

_open = build_opener(ProxyHandler({})).open


def wait() -> None:
    """Wait as long as it takes until the API server answers tasks. Without an address in the environment, return at once."""
    address = os.environ.get(ADDRESS, "")
    if not address:
        return
    url = f"{address.rstrip('/')}/health"
    told = time.monotonic()
    while problem := _problem(url):
        if time.monotonic() - told >= _TOLD_AFTER_SECONDS:
            sys.stderr.write(f"waiting for the API server at {url}: {problem}\n")
            sys.stderr.flush()
            told = time.monotonic()
        time.sleep(_PAUSE_SECONDS)


def _problem(url: str) -> str:
    """Return why the API server takes no calls of tasks; empty when it does."""
    try:
        with _open(url, timeout=_CALL_SECONDS) as answer:
            return "" if answer.status == 200 else f"status {answer.status}"
    except (OSError, HTTPException) as error:  # HTTPError is an OSError
        return f"{type(error).__name__}: {error}"


def main(arguments: list[str]) -> None:
    """Wait, then replace this process."""
    wait()
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
