"""Poolers before a PostgreSQL: one written here, which shares server sessions as PgBouncer does, and PgBouncer itself."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.cutover.stack.postgres import free_port, without_root

Mode = Literal["session", "transaction", "statement"]

_SSL, _GSS = 80877103, 80877104
_PIDS = itertools.count(7_000_000)


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message of PostgreSQL's protocol."""
    return kind + struct.pack("!I", len(body) + 4) + body


class _Stream:
    """A socket that is read message by message."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def take(self, size: int) -> bytes:
        found: bytes = self._file.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def message(self) -> tuple[bytes, bytes]:
        """Return the kind of the next message, and all of it."""
        head = self.take(5)
        return head[:1], head + self.take(struct.unpack("!I", head[1:])[0] - 4)


class _Server(_Stream):
    """A logged-in session with the server, used over its socket from then on."""

    def __init__(self, conninfo: str) -> None:
        self._session = psycopg.connect(conninfo, autocommit=True)
        self.version = str(self._session.info.server_version // 10000)
        super().__init__(socket.socket(fileno=os.dup(self._session.fileno())))
        self.sock.setblocking(True)


class Pooler:
    """Shares ``size`` sessions of one database among its clients, and lets every client in.

    Args:
        conninfo: The server, with the database.
        mode: ``session``: a client keeps its session. ``transaction``: it gets one for each transaction.
        size: Server sessions.
    """

    def __init__(self, conninfo: str, mode: Mode, size: int) -> None:
        self._mode = mode
        self._free: queue.LifoQueue[_Server] = queue.LifoQueue()
        self._servers = [_Server(conninfo) for _ in range(size)]
        for server in self._servers:
            self._free.put(server)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more, and end all sessions."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(_Stream(client),), daemon=True).start()

    def _serve(self, client: _Stream) -> None:
        server: _Server | None = None
        with contextlib.suppress(OSError, EOFError), client.sock:
            self._let_in(client)
            while True:
                kind, whole = client.message()
                if kind == b"X":
                    break
                if server is None:
                    server = self._free.get()
                server.sock.sendall(whole)
                if kind in b"QS" and self._answer(client, server) and self._mode == "transaction":
                    self._free.put(server)
                    server = None
        if server is not None:
            with contextlib.suppress(OSError, EOFError):
                for query in (b"ROLLBACK\0", b"DISCARD ALL\0"):
                    server.sock.sendall(message(b"Q", query))
                    self._until_ready(server)
                self._free.put(server)

    def _let_in(self, client: _Stream) -> None:
        while True:
            (length,) = struct.unpack("!I", client.take(4))
            (code,) = struct.unpack("!I", client.take(length - 4)[:4])
            if code not in (_SSL, _GSS):
                break
            client.sock.sendall(b"N")
        settings = {"server_version": f"{self._servers[0].version}.0", "client_encoding": "UTF8", "DateStyle": "ISO, MDY",
                    "integer_datetimes": "on", "standard_conforming_strings": "on"}  # fmt: skip
        said = [message(b"S", f"{name}\0{value}\0".encode()) for name, value in settings.items()]
        key = message(b"K", struct.pack("!II", next(_PIDS), 1))
        client.sock.sendall(message(b"R", struct.pack("!I", 0)) + b"".join(said) + key + message(b"Z", b"I"))

    def _answer(self, client: _Stream, server: _Server) -> bool:
        """Pass on the answer. Return True when no transaction is open after it."""
        while True:
            kind, whole = server.message()
            client.sock.sendall(whole)
            if kind == b"Z":
                return whole[-1:] == b"I"
            if kind == b"G":  # the server waits for the rows of a COPY
                data = b"d"
                while data in b"dH":
                    data, row = client.message()
                    server.sock.sendall(row)

    def _until_ready(self, server: _Server) -> None:
        while server.message()[0] != b"Z":
            pass


@contextlib.contextmanager
def pooled(conninfo: str, mode: Mode, size: int = 3) -> Iterator[str]:
    """libpq connection string of the same database behind a pooler of ours."""
    pooler = Pooler(conninfo, mode, size)
    try:
        yield make_conninfo(conninfo, host="127.0.0.1", port=pooler.port)
    finally:
        pooler.close()


@contextlib.contextmanager
def pgbouncer(conninfo: str, mode: Mode, folder: Path, size: int = 3) -> Iterator[str]:
    """The same behind PgBouncer, which must be installed."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    assert program is not None
    given, port = conninfo_to_dict(conninfo), free_port()
    server = " ".join(f"{name}={given[name]}" for name in ("host", "port", "user", "password") if name in given)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{given['dbname']} = {server}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    for path in (folder, settings):
        path.chmod(0o755)
    process = subprocess.Popen(without_root([program, "-q", str(settings)]), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        behind, end = make_conninfo(conninfo, host="127.0.0.1", port=port), time.monotonic() + 20
        while True:
            assert process.poll() is None and time.monotonic() < end
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        yield behind
    finally:
        process.terminate()
        process.wait(20)
