"""Sessions and threads that compute the digests of both sides at once, each side from one moment."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import apsw
import psycopg

from include.cutover.errors import CannotCheck
from include.cutover.proof import canonical, digests
from include.cutover.proof.parts import Bounds, ComparedTable, Cuts, Part
from include.cutover.proof.reading import reading as target_reading
from include.cutover.source import snapshots
from include.cutover.target.session import Connection
from include.cutover.target.sides import Sides

T = TypeVar("T")


class _Sessions(Generic[T]):
    """Connections that are opened when one is needed and none is free, and given back after use."""

    def __init__(self, stack: ExitStack, opener: Callable[[], AbstractContextManager[T]]) -> None:
        self._stack, self._opener, self._lock = stack, opener, threading.Lock()
        self._free: queue.SimpleQueue[T] = queue.SimpleQueue()
        self.opened: list[T] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[T]:
        """Yield a connection that no other thread has."""
        try:
            session = self._free.get_nowait()
        except queue.Empty:
            with self._lock:
                session = self._stack.enter_context(self._opener())
                self.opened.append(session)
        try:
            yield session
        finally:
            self._free.put(session)


@dataclass(frozen=True)
class Readers:
    """The snapshot and the target, each with its sessions and threads; all sessions of the target see the same moment."""

    schema: str
    reading: apsw.Connection
    connection: psycopg.Connection
    _sources: _Sessions[apsw.Connection]
    _targets: _Sessions[Connection]
    _at_source: ThreadPoolExecutor
    _at_target: ThreadPoolExecutor
    _begun: list[Future[dict[str, Part]]] = field(default_factory=list)

    def of_source(self, compared: ComparedTable, cuts: Cuts, bounds: Sequence[Bounds] | None) -> Future[dict[str, Part]]:
        """Start computing some of the source's digests."""

        def work() -> dict[str, Part]:
            with self._sources.one() as reading:
                return digests.of_source(reading, compared, cuts, bounds)

        self._begun.append(self._at_source.submit(work))
        return self._begun[-1]

    def of_target(self, compared: ComparedTable, cuts: Cuts, bounds: Sequence[Bounds] | None) -> Future[dict[str, Part]]:
        """Start computing some of the target's digests."""

        def work() -> dict[str, Part]:
            with self._targets.one() as connection, connection.transaction():
                return digests.of_target(connection, self.schema, compared, cuts, bounds)

        self._begun.append(self._at_target.submit(work))
        return self._begun[-1]

    def give_up(self) -> None:
        """End the work under way: its result is not needed, and it might run for minutes."""
        self._at_source.shutdown(wait=False, cancel_futures=True)
        self._at_target.shutdown(wait=False, cancel_futures=True)
        # A cancelled one never ends, as no thread waits for it.
        running = [future for future in self._begun if not future.cancelled()]
        # One that is about to begin would miss a single call.
        while running and wait(running, timeout=0.05).not_done:
            for reading in self._sources.opened:
                reading.interrupt()
            for session in self._targets.opened:
                session.cut()


@contextlib.contextmanager
def opened(sides: Sides, workers: int, seconds: float) -> Iterator[Readers]:
    """Open both sides; no transaction of the target sees more than the first.

    Args:
        sides: The snapshot and the target.
        workers: Threads and sessions of each side.
        seconds: How long one statement in the target may take.

    Raises:
        CannotCheck: When the snapshot cannot be read, or the target does not store UTF-8.
        Unreachable: When the target does not answer.
    """

    @contextlib.contextmanager
    def source_session() -> Iterator[apsw.Connection]:
        with snapshots.snapshot(sides.snapshot) as reading:
            canonical.prepare(reading)
            yield reading

    @contextlib.contextmanager
    def target_session(moment: str | None = None) -> Iterator[Connection]:
        with target_reading(sides.conninfo, sides.schema, seconds=seconds) as connection:
            if moment is not None:
                connection.execute(f"SET TRANSACTION SNAPSHOT '{moment}'".encode())
            connection.execute("SET LOCAL jit = off")  # the statements are short and many
            yield connection

    with ExitStack() as sessions:
        reading = sessions.enter_context(source_session())
        connection = sessions.enter_context(target_session())
        moment = _moment(connection, sides.schema)
        sources = _Sessions(sessions, source_session)
        targets = _Sessions(sessions, lambda: target_session(moment))
        with _threads(workers, "source-digests") as at_source, _threads(workers, "target-digests") as at_target:
            both = Readers(sides.schema, reading, connection, sources, targets, at_source, at_target)
            try:
                yield both
            except BaseException:
                both.give_up()
                raise


def _moment(connection: psycopg.Connection, schema: str) -> str:
    """Return the name by which other sessions see the same moment as this one."""
    row = connection.execute("SELECT pg_export_snapshot(), current_setting('server_encoding')").fetchone()
    if row is None or row[1] != "UTF8":
        raise CannotCheck(
            "the target database does not store UTF-8, so its text cannot be compared byte by byte",
            where=f"schema {schema}",
            expected="server_encoding UTF8",
            do="Create the database with ENCODING 'UTF8'.",
        )
    return str(row[0])


@contextlib.contextmanager
def _threads(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Start threads whose waiting work is given up when the block ends early."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
