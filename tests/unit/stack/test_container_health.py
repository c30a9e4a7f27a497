"""The health checks of docker-compose.yaml, against a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from include.cutover.stack import container_health
from include.cutover.stack.postgres import free_port

HEALTH = {"metadatabase": {"status": "healthy"}, "triggerer": {"status": "unhealthy"}, "dag_processor": {"status": None}}


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/busy": 503, "/closed": 401, "/moved": 302, "/accepted": 202}.get(self.path, 200))
        if self.path == "/moved":
            self.send_header("Location", "/")
        self.end_headers()
        self.wfile.write(b"<html>log in</html>" if self.path == "/page" else json.dumps(HEALTH).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("metadatabase", ""),
        ("triggerer", "triggerer is unhealthy\n"),
        ("dag_processor", "dag_processor is unknown\n"),
        ("scheduler", "scheduler is unknown\n"),
    ],
)
def test_a_part_is_healthy_only_when_the_api_server_reports_it(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str, said: str
) -> None:
    monkeypatch.setattr(container_health, "API", address)
    assert container_health.main(["part", part]) == bool(said)
    assert capsys.readouterr().err == said


def test_a_page_is_no_word_of_health(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_health, "API", f"{address}/page")
    assert container_health.main(["part", "scheduler"]) == 1


@pytest.mark.parametrize(
    ("look", "path", "status"),
    [
        ("url", "/", 0),
        ("url", "/busy", 1),
        ("url", "/moved", 1),
        ("url", "/accepted", 1),
        ("answers", "/closed", 0),
        ("answers", "/moved", 0),
    ],
)
def test_url_needs_status_200_and_answers_takes_any_status(address: str, look: str, path: str, status: int) -> None:
    assert container_health.main([look, address + path]) == status


@pytest.mark.parametrize("look", ["url", "answers"])
def test_a_missing_server_is_a_problem(capsys: pytest.CaptureFixture[str], look: str) -> None:
    assert container_health.main([look, f"http://127.0.0.1:{free_port()}"]) == 1
    assert "Connection refused" in capsys.readouterr().err
