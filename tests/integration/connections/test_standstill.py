"""A process that is stopped during an HTTP request, as on a machine that is paused; the answer was there all the time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from include.cutover.connections import standstill
from include.cutover.connections.http_answers import Limits, NotUsable, fetch


@pytest.mark.parametrize(("method", "expected", "requests"), [("GET", "fine", 2), ("POST", "answer in 1 s", 1)])
def test_what_only_reads_is_repeated_and_what_writes_is_not(method: str, expected: str, requests: int) -> None:
    fork = multiprocessing.get_context("fork")
    said = fork.SimpleQueue()
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.command)
            if len(asked) == 1:
                time.sleep(0.3)
                os.kill(step.pid or 0, signal.SIGSTOP)
                time.sleep(standstill.NOTED_SECONDS + 0.5)
                os.kill(step.pid or 0, signal.SIGCONT)
                time.sleep(0.3)
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"fine")

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    def ask() -> None:
        with httpx.Client(trust_env=False) as client:
            try:
                said.put(fetch(client, client.build_request(method, url), Limits(1.0, 1 << 10)).body)
            except NotUsable as late:
                said.put(str(late))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        step = fork.Process(target=ask)
        step.start()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert said.get().endswith(expected)
            assert len(asked) == requests
        finally:
            server.shutdown()
            step.join()
