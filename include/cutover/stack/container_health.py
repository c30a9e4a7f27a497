"""The health check of the part of Airflow in this container. docker-compose.yaml runs it every few seconds, so it is cheap.

    python -m include.cutover.stack.container_health part NAME     the API server reports it healthy, e.g. the dag_processor
    python -m include.cutover.stack.container_health url URL       an HTTP answer with status 200
    python -m include.cutover.stack.container_health answers URL   any HTTP answer
    python -m include.cutover.stack.container_health celery        the worker of this container answers over the broker

Exit status 0 when it is healthy; stderr names the problem.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, ProxyHandler, build_opener

SECONDS = 5.0
API = "http://api-server:8080/api/v2/monitor/health"

_MAX_BYTES = 1 << 20


class _NoRedirects(HTTPRedirectHandler):
    """Makes a redirect an HTTPError: the answer of another place says nothing about this container."""

    def redirect_request(self, *given: Any, **more: Any) -> None:
        return None


_open = build_opener(ProxyHandler({}), _NoRedirects).open


def part(name: str) -> str:
    """Return the problem of a part of Airflow as the API server reports it; empty when it is healthy."""
    with _open(API, timeout=SECONDS) as answer:
        body = answer.read(_MAX_BYTES)
    try:
        status = json.loads(body)[name]["status"]
    except (ValueError, KeyError, TypeError):
        status = None
    return "" if status == "healthy" else f"{name} is {status or 'unknown'}"


def url(address: str) -> str:
    """Return the problem of an HTTP server; empty when it answers with status 200."""
    with _open(address, timeout=SECONDS) as answer:
        return "" if answer.status == 200 else f"status {answer.status}"


def answers(address: str) -> str:
    """Return the same for a server that may answer with any status."""
    with contextlib.suppress(HTTPError):
        url(address)
    return ""


def celery() -> str:
    """Return the problem of this container's worker; empty when it answers over the broker."""
    from celery import Celery

    name = f"celery@{socket.gethostname()}"
    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    return "" if app.control.ping([name], timeout=SECONDS) else f"{name} does not answer"


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    checks: dict[str, Callable[..., str]] = {"part": part, "url": url, "answers": answers, "celery": celery}
    try:
        problem = checks[arguments[0]](*arguments[1:])
    except OSError as error:  # also what urllib and kombu raise
        problem = f"{type(error).__name__}: {error}"
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
