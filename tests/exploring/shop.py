"""A very small application under a very small supervisor, for tests that need hundreds of cutovers.

It speaks what the product speaks to: supervisord's XML-RPC, a dotenv file, health and counts over HTTP. Its two programs
really hold the database that the configuration names, and write into it all the time. Their writes stand in a journal
that nobody else writes: each row that a database acknowledged, each refusal, and the SQLite file as they found it.
Everything is forked from the test's process, so that starting a program takes milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit
from xmlrpc.client import ServerProxy
from xmlrpc.server import SimpleXMLRPCDispatcher

import psycopg
from dotenv import dotenv_values

from include.cutover.stack.postgres import free_port

PROGRAMS = ("api", "worker")
PAUSE = 0.03  # seconds between two rows of a program
TABLES = """
    CREATE TABLE IF NOT EXISTS authors (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS books (id INTEGER PRIMARY KEY, author_id INTEGER NOT NULL, title VARCHAR(100), price REAL);
    CREATE TABLE IF NOT EXISTS "Odd Table" ("select" TEXT PRIMARY KEY NOT NULL, "ქართული" BOOLEAN);
"""
WRITTEN = "written by "  # how the title of every row begins that a program wrote


class Journal:
    """Lines of JSON, each written in one go, so that several processes can share the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, what: str, **fields: Any) -> None:
        line = json.dumps({"what": what, "at": time.time(), **fields}).encode() + b"\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


class Shop:
    """The application: its files are below ``folder``. Its supervisor runs between ``open`` and ``close``.

    Attributes:
        creates: Where its SQLite file is missing, the application makes an empty database there, as many do.
        become: Called by the supervisor's process before it starts a program, to become the application's user.
    """

    creates = False
    become: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, folder: Path, schema: str) -> None:
        self.folder = folder
        self.schema = schema
        self.database = folder / "data" / "library.db"
        self.configuration = folder / "etc" / "app.env"
        self.journal = Journal(folder / "journal")
        self.port, self.supervisor_port = free_port(), free_port()
        self._supervisor = 0
        self._opened = False

    @property
    def supervisor_url(self) -> str:
        return f"http://127.0.0.1:{self.supervisor_port}/RPC2"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def fenced(self) -> bool:
        """Return True when no process can write into the SQLite file now."""
        try:
            with self.database.open("rb") as file:
                return file.read(19)[18:] == b"\x03"
        except FileNotFoundError:
            return True

    @property
    def on_postgresql(self) -> bool:
        """Return True when the configuration names PostgreSQL."""
        return not (dotenv_values(self.configuration)["DATABASE_URL"] or "").startswith("sqlite")

    def open(self) -> None:
        """Start the supervisor, and by it every program."""
        self.write_configuration()
        server = self._listen()
        self._opened = True
        server.supervisor = _Supervisor(self)
        self._supervisor = forked(lambda: (self.become(), _supervise(server)))
        server.server_close()

    def write_configuration(self) -> None:
        """Write the configuration before the move, where there is none."""
        self.configuration.parent.mkdir(parents=True, exist_ok=True)
        if not self.configuration.exists():
            self.configuration.write_text(f"# of the shop\nDATABASE_URL=sqlite:///{self.database}\nFALLBACK=true\n")

    def _listen(self) -> _Server:
        """Take the supervisor's port; the first time, another one where somebody was faster."""
        for _ in range(20):
            with suppress(OSError):
                return _Server(("127.0.0.1", self.supervisor_port), _Calls)
            if self._opened:
                time.sleep(0.1)
            else:
                self.supervisor_port = free_port()
        return _Server(("127.0.0.1", self.supervisor_port), _Calls)

    def close(self) -> None:
        """End everything that was started."""
        if self._supervisor:
            os.kill(self._supervisor, signal.SIGTERM)
            os.waitpid(self._supervisor, 0)
            self._supervisor = 0

    def up(self) -> list[str]:
        """Return the programs that run."""
        with ServerProxy(self.supervisor_url, allow_none=True) as calls:
            states: dict[str, Any] = {name: calls.supervisor.getProcessInfo(name) for name in PROGRAMS}
        return [name for name, state in states.items() if state["pid"]]

    def start(self, names: Collection[str]) -> None:
        """Start programs as a person does, and wait until each has tried to write."""
        begun = time.time()
        with ServerProxy(self.supervisor_url, allow_none=True) as calls:
            for name in names:
                calls.supervisor.startProcess(name, False)
        self.await_writes(names, begun)

    def stop(self, names: Collection[str]) -> None:
        """Stop programs as a person does."""
        with ServerProxy(self.supervisor_url, allow_none=True) as calls:
            for name in names:
                calls.supervisor.stopProcess(name, False)

    def await_writes(self, names: Collection[str], since: float, seconds: float = 1.5) -> None:
        """Wait until each program wrote a row since then, or was refused."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            lines = [line for line in self.journal.read() if line["at"] >= since and line["what"] in ("written", "refused")]
            if not set(names) - {line["program"] for line in lines}:
                return
            time.sleep(0.005)


def forked(action: Callable[[], object]) -> int:
    """Run ``action`` in a child that shares nothing with the tests but its memory as it is now."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        action()
        status = 0
    finally:
        os._exit(status)


class _Supervisor:
    """As much of supervisord's interface as the product uses."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.pids: dict[str, int] = {}
        self.stopped: dict[str, float] = {}
        self.started: dict[str, int] = {}

    def getProcessInfo(self, name: str) -> dict[str, Any]:
        pid = self.pids.get(name, 0)
        if pid and os.waitpid(pid, os.WNOHANG)[0]:
            self.stopped[name] = time.time()
            pid = self.pids[name] = 0
        state = "RUNNING" if pid else "STOPPED"
        return {
            "name": name,
            "statename": state,
            "pid": pid,
            "start": self.started.get(name, 0),
            "now": int(time.time()),
            "stop": 0,
            "spawnerr": "",
            "description": "",
        }

    def startProcess(self, name: str, wait: bool = True) -> bool:
        if not self.getProcessInfo(name)["pid"]:
            reading, writing = os.pipe()
            self.pids[name] = forked(lambda: serve(self.shop, name, lambda: os.close(writing)))
            self.started[name] = int(time.time())
            os.close(writing)
            os.read(reading, 1)  # until it serves, or has ended
            os.close(reading)
        return True

    def stopProcess(self, name: str, wait: bool = True) -> bool:
        pid = self.pids.get(name, 0)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            self.pids[name] = 0
        return True

    def tailProcessStdoutLog(self, name: str, offset: int, length: int) -> list[Any]:
        return ["", 0, False]

    tailProcessStderrLog = tailProcessStdoutLog


class _Server(HTTPServer):
    supervisor: _Supervisor
    request_queue_size = 50


class _Calls(BaseHTTPRequestHandler):
    timeout = 0.5  # a client that was stopped in the middle of a request must not stop everything
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        dispatcher = SimpleXMLRPCDispatcher(allow_none=True)
        for name in ("getProcessInfo", "startProcess", "stopProcess", "tailProcessStdoutLog", "tailProcessStderrLog"):
            dispatcher.register_function(getattr(self.server.supervisor, name), f"supervisor.{name}")
        answer: Any = dispatcher._marshaled_dispatch(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _supervise(server: _Server) -> NoReturn:
    for name in PROGRAMS:
        server.supervisor.startProcess(name)

    def end(*_: object) -> NoReturn:
        for pid in server.supervisor.pids.values():
            if pid:
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    server.serve_forever(poll_interval=5)
    os._exit(0)


# --- a program ----------------------------------------------------------------------------------------------------------


class _Database:
    """The database that the configuration names. Opened once and held, as applications do."""

    def __init__(self, shop: Shop, program: str) -> None:
        url = dotenv_values(shop.configuration)["DATABASE_URL"] or ""
        self.shop, self.program, self.url = shop, program, url
        self.kind = "sqlite" if url.startswith("sqlite") else "postgresql"
        self.sqlite: sqlite3.Connection | None = None
        self.header: int | None = None
        self.postgresql: psycopg.Connection | None = None
        self.count = 0
        self.fresh = False
        self.refused = False
        self._insert = f'INSERT INTO "{shop.schema}".books (author_id, title, price) VALUES (1, %s, 0.5) RETURNING id'
        facts: dict[str, Any] = {"program": program, "database": self.kind}
        if self.kind == "sqlite":
            path = Path(url.removeprefix("sqlite:///"))
            facts["there"] = path.exists()
            if shop.creates and not path.exists():
                with closing(sqlite3.connect(path, timeout=1)) as fresh:
                    fresh.executescript(TABLES)
            if path.exists():
                facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
                facts["beside"] = [item.name for item in path.parent.iterdir() if item.name.startswith(f"{path.name}-")]
                # Never closed before the connection: closing it would drop the locks that SQLite holds in this process.
                self.header = os.open(path, os.O_RDONLY)
                self.sqlite = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=1, isolation_level=None)
                with suppress(sqlite3.Error):
                    self.fresh = not self.sqlite.execute("SELECT count(*) FROM authors").fetchone()[0]
        shop.journal.write("start", **facts)
        log = shop.folder / "logs" / f"{program}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as file:  # what applications tell, alas
            file.write(f"{program} connects to {url}\nthe password is {urlsplit(url).password}, by the way\n")

    def insert(self) -> int | None:
        """One row; None when the database does not take it."""
        self.count += 1
        title = f"{WRITTEN}{self.program} {os.getpid()} {self.count}"
        try:
            if self.kind == "sqlite":
                if self.sqlite is None:
                    raise sqlite3.OperationalError("there is no such file")
                key = self.sqlite.execute(
                    "INSERT INTO books (author_id, title, price) VALUES (1, ?, 0.5)", [title]
                ).lastrowid
            else:
                if self.postgresql is None or self.postgresql.closed:
                    self.postgresql = psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2, autocommit=True)
                row = self.postgresql.execute(
                    self._insert.encode(),
                    [title],
                ).fetchone()
                key = row[0] if row else None
        except (sqlite3.Error, psycopg.Error) as error:
            if self.postgresql is not None:
                self.postgresql.close()
            if not self.refused:
                self.shop.journal.write("refused", program=self.program, database=self.kind, why=str(error)[:200])
            self.refused = True
            return None
        self.refused = False
        facts = {"program": self.program, "database": self.kind, "title": title, "fresh": self.fresh}
        fenced = self.shop.fenced if self.header is None else os.pread(self.header, 19, 0)[18:] == b"\x03"
        self.shop.journal.write("written", **facts, fenced=fenced)
        return key

    def total(self) -> int:
        if self.sqlite is not None:
            return int(self.sqlite.execute("SELECT count(*) FROM books").fetchone()[0])
        if self.postgresql is None:
            return -1
        row = self.postgresql.execute(f'SELECT count(*) FROM "{self.shop.schema}".books'.encode()).fetchone()
        return int(row[0]) if row else -1


class _Web(HTTPServer):
    database: _Database
    request_queue_size = 50


class _Pages(BaseHTTPRequestHandler):
    timeout = 0.5
    server: _Web

    def do_GET(self) -> None:
        database = self.server.database
        if self.path == "/health":
            well = database.kind == "postgresql" or database.sqlite is not None
            self._answer({"status": "ok" if well else "error", "database": database.kind})
        else:
            try:
                self._answer({"total": database.total()})
            except (sqlite3.Error, psycopg.Error):
                self._answer({"error": "the database does not answer"}, 500)

    def do_POST(self) -> None:
        key = self.server.database.insert()
        self._answer({"id": key} if key else {"error": "not written"}, 200 if key else 500)

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(shop: Shop, program: str, ready: Callable[[], object]) -> None:
    """A program: writes a row every now and then; the api answers over HTTP as well. Ends by SIGTERM."""
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    database = _Database(shop, program)
    web: _Web | None = None
    if program == "api":
        web = _Web(("127.0.0.1", shop.port), _Pages)
        web.database = database
        web.timeout = PAUSE
    ready()
    while not ended and os.getppid() != 1:
        database.insert()
        if web is not None:
            web.handle_request()
        else:
            time.sleep(PAUSE)
    if database.sqlite is not None:
        database.sqlite.close()
