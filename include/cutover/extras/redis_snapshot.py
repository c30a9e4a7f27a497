"""A snapshot of Redis, or of Valkey, taken in one of two ways and verified.

``rdb``: the server streams its dump, as it does to a new replica; nothing but the connection is needed.
``bgsave``: the server writes its dump file, which is then copied from where the tasks can read it.

A save that was under way before does not count: the dump must have been begun after it was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from include.cutover import files
from include.cutover.errors import CannotCheck, CutoverError, StepFailed, Unreachable
from include.cutover.extras import rdb
from include.cutover.masking import mask
from include.cutover.plan.backups import RedisSnapshot

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 10.0
_PAUSE = 0.1
_BLOCK = 1 << 20
_LONGEST_LINE = 1 << 12
_MARK = 40  # bytes at the end of a stream whose length the server did not know in advance
_SLACK = 8 << 20


@dataclass(frozen=True)
class TakenSnapshot:
    """A dump that was taken and verified.

    Attributes:
        bytes: Its size.
        sha256: Of the file.
        keys: Number of keys in all databases of the server, when the dump was asked for.
        dump: Its description of itself.
    """

    bytes: int
    sha256: str
    keys: int
    dump: rdb.Dump


def take(settings: RedisSnapshot, to: Path) -> TakenSnapshot:
    """Take a snapshot into the new file ``to``, durable and readable by its owner only, and verify it.

    Safe to run again: what a killed attempt left there is removed, and a failed one leaves nothing.

    Raises:
        Unreachable: When the server does not answer, or the snapshot does not finish in time.
        CannotCheck: When the server refuses, or its dump file cannot be read.
        StepFailed: When the dump is damaged or the place cannot be written.
        Refused: When there is not enough room.
    """
    server = _Server(settings)
    try:
        with server.errors():
            server.open()
            keys = server.keys()
            while True:
                asked = server.now()
                sha256 = server.stream(to) if settings.kind == "rdb" else server.saved(to)
                dump = rdb.read(to)
                if dump.created is None or dump.created >= asked:
                    return TakenSnapshot(to.stat().st_size, sha256, keys, dump)
                if settings.kind == "bgsave":
                    raise StepFailed(
                        "the dump file is not the one that the server has just written",
                        where=str(server.file),
                        expected=f"one begun at or after {asked}, by the server's clock",
                        found=str(dump.created),
                        do="Name the file as the tasks see it in extras.redis.file, or use kind: rdb.",
                    )
                log.info("%s gave the dump of a save that was under way; retrying", server.where)
                server.wait()
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    finally:
        server.close()


def probe(settings: RedisSnapshot) -> None:
    """Log in and make the requests of a snapshot that save nothing.

    Raises:
        Unreachable, CannotCheck: As ``take``.
    """
    server = _Server(settings)
    try:
        with server.errors():
            server.open()
            server.now()
            server.keys()
    finally:
        server.close()


class _Server:
    """One Redis server, through one client."""

    def __init__(self, settings: RedisSnapshot) -> None:
        self._settings = settings
        self._deadline = time.monotonic() + settings.seconds
        parts = urlsplit(settings.url)
        self.where = f"Redis at {parts.netloc or parts.path}"
        self.file: Path | None = settings.file
        self._client: Any = None
        self._password = ""

    def open(self) -> None:
        """Log in."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        if self._settings.password_env is not None:
            self._password = os.environ.get(self._settings.password_env, "")
            if not self._password:
                raise CannotCheck(
                    "the password of Redis is not set",
                    where=self.where,
                    expected=f"the environment variable {self._settings.password_env}",
                    do="Set it where the tasks run, from the secret store.",
                )
        self._client = redis.Redis.from_url(
            self._settings.url,
            username=self._settings.username,
            password=self._password or None,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),  # the caller of the step retries
            protocol=2,  # a replication stream has no other
        )
        self._client.ping()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the client's errors into errors that name the server and hold no password."""
        import redis.exceptions

        try:
            yield
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
            if isinstance(error, redis.exceptions.AuthenticationError):
                raise self._refused(error) from None
            raise Unreachable(
                "Redis does not answer",
                where=self.where,
                found=self._harmless(error),
                do="Check that it runs and that extras.redis.url of the plan is right.",
            ) from None
        except redis.exceptions.RedisError as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> CutoverError:
        return CannotCheck(
            "Redis refuses",
            where=self.where,
            found=self._harmless(error),
            do="A snapshot needs the rights +ping +info +time, and +sync +replconf, or +bgsave +lastsave +config|get.",
        )

    def _harmless(self, error: Exception) -> str:
        said = str(error)
        return mask(said.replace(self._password, "***") if self._password else said)

    def wait(self) -> None:
        """Pause shortly, unless the time is over."""
        if time.monotonic() > self._deadline:
            raise Unreachable(
                "the snapshot of Redis did not finish in time",
                where=self.where,
                expected=f"its end within {self._settings.seconds} s",
                do="Check the server's log; give it more time with extras.redis.seconds.",
            )
        time.sleep(_PAUSE)

    def now(self) -> int:
        """Return the server's clock, in whole seconds."""
        return int(self._client.time()[0])

    def keys(self) -> int:
        """Count the keys in all databases."""
        return sum(int(found["keys"]) for found in self._client.info("keyspace").values())

    # --- kind: bgsave

    def saved(self, to: Path) -> str:
        """Request a dump file from the server, and copy it. Returns the SHA-256 of the copy."""
        self._save()
        if self.file is None:
            folder, name = (self._client.config_get(key)[key] for key in ("dir", "dbfilename"))
            self.file = Path(_text(folder), _text(name))
        try:
            files.require_space({to.parent: self.file.stat().st_size + _SLACK})
        except FileNotFoundError:
            raise CannotCheck(
                "the server's dump file is not here",
                where=str(self.file),
                do="Name the file as the tasks see it in extras.redis.file, or use kind: rdb.",
            ) from None
        return files.copy(self.file, to)

    def _save(self) -> None:
        import redis.exceptions

        before = self._client.lastsave()
        while (
            int(before.timestamp()) >= self.now()
        ):  # LASTSAVE gives whole seconds: a second save within one could not be seen
            self.wait()
        while True:
            try:
                self._client.bgsave()
                break
            except redis.exceptions.ResponseError as error:
                if "in progress" not in str(error).lower():
                    raise
                self.wait()
        while True:
            state = self._client.info("persistence")
            if not state["rdb_bgsave_in_progress"]:
                if state.get("rdb_last_bgsave_status") != "ok":
                    raise StepFailed(
                        "the server could not save", where=self.where, do="Read its log; often its disk is full."
                    )
                if self._client.lastsave() > before:
                    return
            self.wait()

    # --- kind: rdb

    def stream(self, to: Path) -> str:
        """Receive the dump as a replica does. Returns its SHA-256."""
        import redis.exceptions

        connection = self._client.connection_pool.get_connection()
        try:
            for capability in (("capa", "eof"), ("rdb-only", "1")):
                connection.send_command("REPLCONF", *capability)
                with contextlib.suppress(redis.exceptions.ResponseError):  # older servers do not know rdb-only
                    connection.read_response()
            connection.send_command("SYNC")
            # From here on the server streams; the client only knows requests and answers.
            reader = _Reader(connection._sock, self._deadline, self.wait)
            first = reader.line()
            if not first.startswith("$"):
                raise redis.exceptions.ResponseError(first.removeprefix("-"))
            with files.disk_errors(to):
                to.unlink(missing_ok=True)
                descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb", buffering=0) as writing:
                    return self._receive(reader, first[1:], writing.fileno(), to)
        finally:
            connection.disconnect()

    def _receive(self, reader: _Reader, length: str, descriptor: int, to: Path) -> str:
        total = hashlib.sha256()

        def keep(block: bytes) -> None:
            total.update(block)
            while block:
                block = block[os.write(descriptor, block) :]

        if re.fullmatch(r"\d+", length):
            files.require_space({to.parent: int(length) + _SLACK})
            left = int(length)
            while left:
                block = reader.some(left)
                left -= len(block)
                keep(block)
        elif length.startswith("EOF:") and len(length) == len("EOF:") + _MARK:
            mark, tail = length.removeprefix("EOF:").encode(), b""
            while not tail.endswith(mark):
                tail += reader.some(_BLOCK)
                keep(tail[:-_MARK])
                tail = tail[-_MARK:]
        else:
            raise CannotCheck("the server began an unknown kind of stream", where=self.where, found=length[:60])
        os.fsync(descriptor)
        return total.hexdigest()


class _Reader:
    """The data from a socket, by lines or blocks, until a deadline."""

    def __init__(self, sock: socket.socket, deadline: float, wait: Callable[[], None]) -> None:
        self._socket, self._deadline, self._wait, self._buffer = sock, deadline, wait, b""

    def line(self) -> str:
        """Read the next line that is not empty: while the server writes its dump it sends empty ones."""
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if not end:
                if len(line) > _LONGEST_LINE:
                    raise CannotCheck(
                        "the server that answers is not Redis", found=f"a line of more than {_LONGEST_LINE} bytes"
                    )
                self._buffer += self._received(_LONGEST_LINE)
                continue
            self._buffer = rest
            if text := line.strip().decode(errors="replace"):
                return text

    def some(self, most: int) -> bytes:
        """Read at least one byte, at most ``most``."""
        if self._buffer:
            block, self._buffer = self._buffer[:most], self._buffer[most:]
            return block
        return self._received(min(most, _BLOCK))

    def _received(self, most: int) -> bytes:
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._wait()
            self._socket.settimeout(min(_ANSWER_SECONDS, max(left, _PAUSE)))
            try:
                block = self._socket.recv(most)
            except TimeoutError:
                continue
            if not block:
                raise ConnectionError("it ended the stream before its end")
            return block


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
