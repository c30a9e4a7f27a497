"""An application over HTTP whose answers a test chooses."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from include.cutover.plan.application import SmokeTests

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's routes; the longest pattern that fits wins."""

    server: Site

    def do_GET(self) -> None:
        for pattern, answer in self.server.routes.items():
            if re.fullmatch(pattern, self.path):
                self.server.asked.append(f"{self.command} {self.path}")
                answer(self)
                return
        self.say(404, "nothing here")

    do_POST = do_GET

    def say(self, status: int, body: Any, **headers: str) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Site(ThreadingHTTPServer):
    """An application; ``routes`` may be changed while it runs."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.ending = threading.Event()
        self.routes: dict[str, Answer] = {
            "/health": says({"status": "ok", "database": "postgresql", "version": 3}),
            "/api/devices": says({"total": 3, "items": []}),
            "/monitor": says('<b data-table="pings">5</b>'),
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what some of these tests are about."""

    def smoke(self, seconds: int = 1, **changes: Any) -> SmokeTests:
        return SmokeTests.model_validate({
            "base_url": f"http://127.0.0.1:{self.server_address[1]}",
            "seconds": seconds,
            "health": {"path": "/health"},
            "counts": [
                {"path": "/api/devices", "field": "total", "table": "devices"},
                {"path": "/monitor", "pattern": 'data-table="pings">([0-9]+)<', "table": "pings", "growing": True},
            ],
            "write": {"path": "/api/devices/{key}/ping", "for_table": "devices", "table": "pings", "returns": "id"},
            **changes,
        })  # fmt: skip


def says(body: Any, status: int = 200, **headers: str) -> Answer:
    return lambda handler: handler.say(status, body, **headers)
