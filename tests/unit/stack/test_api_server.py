"""The wait for the API server, against a real HTTP server that comes up late."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from include.cutover.places import ROOT
from include.cutover.stack import api_server
from include.cutover.stack.postgres import free_port
from tests.unit.stack.test_compose_file import SERVICES

ANSWERS = 3


class _Server(HTTPServer):
    asked: list[str]


class _Late(BaseHTTPRequestHandler):
    """Answers 503 twice, as a server that starts behind a proxy, and then 200."""

    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200 if len(self.server.asked) >= ANSWERS else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def late() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Late)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_command_begins_when_the_api_server_takes_calls_of_tasks(late: _Server) -> None:
    environment = {**os.environ, api_server.ADDRESS: f"http://127.0.0.1:{late.server_port}/execution/"}
    command = [sys.executable, "-m", api_server.__name__, "echo", "it runs"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "it runs\n"
    assert late.asked == ["/execution/health"] * ANSWERS


def test_a_scheduler_waits_after_its_imports(late: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from include.cutover.stack import preload

    became: list[list[str]] = []
    monkeypatch.setenv(api_server.ADDRESS, f"http://127.0.0.1:{late.server_port}/execution/")
    monkeypatch.setattr(preload, "load", lambda _: None)
    monkeypatch.setattr("runpy.run_module", lambda *_, **__: became.append([*sys.argv, str(len(late.asked))]))
    monkeypatch.setattr(sys, "argv", ["preload", "project", "scheduler", "--skip-serve-logs"])
    preload.main()
    monkeypatch.setattr(sys, "argv", ["preload", "project", "dag-processor"])
    preload.main()
    assert became == [["airflow", "scheduler", "--skip-serve-logs", "3"], ["airflow", "dag-processor", "3"]]


def test_nothing_answers_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "refused" in api_server._problem(f"http://127.0.0.1:{free_port()}/health")


def test_without_an_address_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(api_server.ADDRESS, raising=False)
    api_server.wait()


def test_every_service_that_starts_tasks_waits() -> None:
    """At a restart of the host an engine starts all containers at once: ``depends_on`` counts for ``up`` alone."""
    starting = {name: s["command"] for name, s in SERVICES.items() if {"scheduler", "celery"} & set(s.get("command", []))}
    assert set(starting) == {"scheduler", "worker", "worker-source"}
    for name, command in starting.items():
        assert command[:2] == ["python", "-m"], name
        assert command[2] in (api_server.__name__, "include.cutover.stack.preload"), name
