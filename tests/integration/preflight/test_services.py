"""Checks of services: real commands and a server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from include.cutover.plan.application import CommandControl, Service, SmokeTests
from include.cutover.preflight import services as preflight_services
from tests.support.preflight import bad


def service(name: str, *status: str) -> Service:
    return Service(name=name, control=CommandControl(kind="command", start=("true",), stop=("true",), status=status))


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that says the same to everybody."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def smoke(url: str) -> SmokeTests:
    return SmokeTests.model_validate({"base_url": url, "health": {"path": "/health"}})


def test_services_that_answer_and_a_healthy_application_pass() -> None:
    with answering(b'{"status": "ok", "database": "sqlite"}') as url:
        checks = preflight_services.check_services([service("api", "true"), service("beat", "false")], smoke(url))
    assert bad(checks) == {}
    assert [(check.name, check.found) for check in checks] == [
        ("service_api", "running"),
        ("service_beat", "stopped"),
        ("application_health_before", "status ok, database sqlite"),
    ]


def test_unreachable_service_and_application_on_the_target_fail() -> None:
    with answering(b'{"status": "ok", "database": "postgresql"}') as url:
        checks = preflight_services.check_services([service("api", "/nonexistent/program")], smoke(url))
    assert bad(checks) == {
        "service_api": "a command of the plan cannot be run: No such file or directory",
        "application_health_before": "status ok, database postgresql",
    }
