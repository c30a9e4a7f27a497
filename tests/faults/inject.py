"""The faults: what breaks processes, disks, files and answers from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import httpx

Lie = Literal["no", "red", "hang", "lie", "refuse"]


class Front:
    """Answers for the application: truthfully, or not.

    Args:
        behind: Base URL of the application.
    """

    def __init__(self, behind: str) -> None:
        self.how: Lie = "no"
        front = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                front._answer(self, behind)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail(self, how: Lie) -> None:
        """From now on: status 503, no answer for 20 s, or 200 with an error inside."""
        self.how = how

    def mend(self) -> None:
        """Pass on every question and every answer."""
        self.how = "no"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, behind: str) -> None:
        status, kind, content = 503, "application/json", b'{"status": "error"}'
        if self.how == "hang":
            time.sleep(20)
        elif self.how == "lie":
            status, content = 200, b'{"status": "ok", "database": "postgresql", "error": "relation does not exist"}'
        elif self.how == "no":
            body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.request(request.command, behind + request.path, content=body, timeout=30, trust_env=False)
                status, content = answer.status_code, answer.content
                kind = answer.headers.get("content-type", kind)
        with contextlib.suppress(OSError):
            request.send_response(status)
            request.send_header("Content-Type", kind)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[None]:
    """A memory file system of that size at ``place``, whose content shows up in it and goes with it.

    Raises:
        PermissionError: When this user may not mount.
    """
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "faults", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise PermissionError(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Fill the disk of a folder to its last block; returns the file to delete."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0")
    return filler


def flip_bit(path: Path, at: float = 0.5) -> None:
    """One bit of a file, at that part of its length."""
    position = int(path.stat().st_size * at)
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))
    path.chmod(mode)


def truncate(path: Path) -> None:
    """The second half of a file is gone."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)
    path.chmod(mode)


class RogueWriter:
    """A process that nobody told of the window: writes a row to the SQLite file again and again, in a process of its own.

    Attributes:
        written: File that gets a line for each row that was committed.
    """

    _CODE = """
import sqlite3, sys, time
database, written = sys.argv[1:]
while True:
    try:
        connection = sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=0.2)
        with connection:
            connection.execute("UPDATE users SET language = 'rogue' WHERE id = (SELECT min(id) FROM users)")
        with open(written, "a") as file:
            file.write("written\\n")
        connection.close()
    except sqlite3.Error as error:
        with open(written + ".refused", "a") as file:
            file.write(f"{error}\\n")
    time.sleep(0.05)
"""

    def __init__(self, database: Path, folder: Path) -> None:
        import sys

        self.written = folder / "rogue"
        self.refused = folder / "rogue.refused"
        for path in (self.written, self.refused):
            path.unlink(missing_ok=True)
        self._process = subprocess.Popen([sys.executable, "-c", self._CODE, str(database), str(self.written)])

    def count(self) -> int:
        """How often it got through."""
        return len(self.written.read_text().splitlines()) if self.written.exists() else 0

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


class Holder:
    """A process that has the SQLite file open: with a write lock, or reading from it.

    Args:
        how: ``lock`` holds a write transaction, ``open`` only the file.
    """

    _CODE = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("SELECT count(*) FROM users").fetchone()
if sys.argv[2] == "lock":
    connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(3600)
"""

    def __init__(self, database: Path, how: Literal["lock", "open"]) -> None:
        import sys

        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE, str(database), how], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None and self._process.stdout.readline().strip() == "held"

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


def late_write(database: Path, *, through_the_fence: bool) -> bool:
    """A single row changed in the file; past a fence only by somebody who means it. Returns whether it got through."""
    if through_the_fence:
        database.chmod(0o644)
        with database.open("r+b") as file:
            file.seek(18)
            file.write(b"\1\1")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=2)) as connection, connection:
            connection.execute("UPDATE users SET language = 'late' WHERE id = (SELECT min(id) FROM users)")
    except sqlite3.Error:
        return False
    return True


def late_rows(database: Path) -> int:
    """Break the fence, change a row and insert one; return the key of the new row of ping_results."""
    if not late_write(database, through_the_fence=True):
        raise RuntimeError("the fence could not be broken, so nothing would be tried")
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=2)) as connection, connection:
        statement = "INSERT INTO ping_results (device_ip, device_name) VALUES ('192.0.2.1', 'rogue') RETURNING id"
        return int(connection.execute(statement).fetchone()[0])


def has_late_rows(database: Path, key: int) -> bool:
    """Report whether a file has both rows of ``late_rows``."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=15)) as connection:
        changed = "SELECT language FROM users WHERE id = (SELECT min(id) FROM users)"
        inserted = "SELECT device_name FROM ping_results WHERE id = ?"
        found = (connection.execute(changed).fetchone(), connection.execute(inserted, [key]).fetchone())
    return found == (("late",), ("rogue",))


def kill(pid: int) -> None:
    """SIGKILL, to one process."""
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Let a folder become a read-only volume for everything that is opened there from now on."""
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True, timeout=30)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True, timeout=30)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=30)
