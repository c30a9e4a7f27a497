"""The proof of equal content: each side computes digests of its own rows, both at once, and they are compared.

On a difference the parts that differ are read row by row, and missing, extra and changed rows are told apart, with the
columns and the values that differ. The target is read in one moment, also by several connections. What cannot be compared is
never equal.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import apsw
import psycopg

from include.cutover.checks import Check, Outcome
from include.cutover.errors import CannotCheck, CutoverError, Unreachable
from include.cutover.proof import canonical, digests, reference_rows, words
from include.cutover.proof import reading as proof_reading
from include.cutover.proof.differences import NAMED, Kind, Row, RowDifference, Tally, key_text, tally
from include.cutover.proof.digests import Bounds, Cuts, Digests, Part, Shape
from include.cutover.proof.words import REFERENCE_DATA, SNAPSHOT, rows_text
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.target import session as session_target

log = logging.getLogger(__name__)

T = TypeVar("T")

WORKERS = 2
SECONDS = 1_800.0
_BATCH = 50  # parts that one statement computes
_CLOSE_LOOK = 20  # ranges that differ and are read row by row; more of them are only counted
DIFFERENT = "Do not go live. Find out who changed these rows or how the copy could; then start again with an empty target."


@dataclass(frozen=True)
class TableResult:
    """The comparison of one table.

    Attributes:
        source_rows: What the table must hold: the snapshot's rows, or those of the reference data; None where unknown.
        target_rows: What it holds; None where unknown.
        parts: Into how many parts it was cut.
        different: How many of them are not the same.
        missing: Rows that the target lacks.
        extra: Rows that only the target has.
        changed: Rows whose columns differ.
        counted: Whether those three are complete; else they are of the first parts that differ.
        differences: The first differences of each kind.
        faults: What is wrong with the table itself, such as a column that one side lacks.
        problem: Why it could not be compared; empty otherwise.
        origin: ``snapshot`` or ``reference data``.
        left_out: Columns that the target computes by itself and that were not compared.
    """

    table: str
    source_rows: int | None
    target_rows: int | None
    parts: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    changed: int = 0
    counted: bool = True
    differences: tuple[RowDifference, ...] = ()
    faults: tuple[str, ...] = ()
    problem: str = ""
    origin: str = SNAPSHOT
    left_out: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """``passed`` only when every row was compared and is the same."""
        if self.faults or self.different or self.missing or self.extra or self.changed:
            return "failed"
        return "unknown" if self.problem or self.source_rows is None or self.source_rows != self.target_rows else "passed"

    @property
    def summary(self) -> str:
        """One sentence about the table."""
        if self.outcome == "passed":
            notes = [self.origin] if self.origin != SNAPSHOT else []
            notes += [f"computed by the target and not compared: {', '.join(self.left_out)}"] if self.left_out else []
            return f"{rows_text(self.source_rows or 0)} equal" + (f" ({'; '.join(notes)})" if notes else "")
        shown = "; ".join(str(difference) for difference in self.differences[:3])
        return self.headline + (f": {shown}" if shown else "")

    @property
    def headline(self) -> str:
        """What is wrong with the table, without the rows."""
        told = [*self.faults]
        kinds = [f"{count:,} {kind}" for kind, count in self._kinds().items() if count]
        if kinds:
            told.append(("" if self.counted else "at least ") + ", ".join(kinds))
        if self.different and not kinds:
            told.append(f"{self.different} of {self.parts} parts differ")
        if self.problem:
            told.append(self.problem)
        return "; ".join(told)

    def _kinds(self) -> dict[Kind, int]:
        return {"missing": self.missing, "extra": self.extra, "changed": self.changed}

    def check(self, schema: str) -> Check:
        """The same as a check for the observer."""
        return Check(
            name=f"content_{words.identifier(self.table)}",
            title=f"every row of {self.table} is the same on both sides",
            outcome=self.outcome,
            expected="" if self.source_rows is None else f"{rows_text(self.source_rows)} ({self.origin})",
            found=self.summary,
            do={"passed": "", "failed": DIFFERENT, "unknown": words.UNCOUNTED}[self.outcome],
            where=f"{schema}.{self.table}",
        )


def compare(
    snapshot: Path,
    conninfo: str,
    schema: str,
    tables: Collection[str],
    *,
    secret: Mapping[str, Collection[str]] | None = None,
    stored: Path | None = None,
    identity: str = "",
    sql_folder: Path | None = None,
    workers: int = WORKERS,
    seconds: float = SECONDS,
    on_table: Callable[[TableResult], None] | None = None,
) -> list[TableResult]:
    """Compare the content of tables, both sides computing at once. Safe to run again, at any time: it reads only.

    A table that has no rows in the snapshot must be empty, or hold exactly what the plan's reference data brings.

    Args:
        snapshot: The verified backup, or what was made from it to be copied.
        conninfo: libpq connection string of the target.
        secret: Columns per table whose content is never shown.
        stored: File of the source's digests: read where it belongs to this snapshot, written where it does not yet.
        identity: What tells this snapshot's content from any other, such as its SHA-256; its place and time when left out.
        sql_folder: The plan's SQL, for the reference data; without it none is expected.
        workers: Sessions with the target, and threads that read the source.
        seconds: How long one statement in the target may take.
        on_table: Called with each table's result.

    Returns:
        One result per table. A table that could not be read is ``unknown``; the others are compared all the same.

    Raises:
        CannotCheck: When no table is named, or the snapshot cannot be read at all.
        Unreachable: When the target does not answer, or the connection breaks.
    """
    if not tables:
        raise CannotCheck("there is no table to compare", where=schema, expected="the tables of the plan")
    known_as = [identity] if identity else digests.identity_of(snapshot)
    hidden = secret or {}
    with _opened(snapshot, conninfo, schema, workers, seconds) as ends:
        wanted = digests.shapes(ends.reading, ends.connection, schema, tables)
        known = digests.load(stored, known_as, wanted)
        jobs = {table: _Job(ends, shape, known.get(table)) for table, shape in wanted.items()}
        results: dict[str, TableResult] = {}

        def tell(result: TableResult) -> None:
            log.info("%s: %s", result.table, result.summary)
            results[result.table] = result
            if on_table is not None:
                on_table(result)

        brought: dict[str, TableResult] = {}
        for table, job in jobs.items():
            result = job.result(hidden.get(table, ()))
            if sql_folder is not None and result.source_rows == 0 and result.extra and not result.faults:
                brought[table] = result
            else:
                tell(result)
        fresh = {table: job.ours for table, job in jobs.items() if table not in known and job.ours is not None}
        _keep(stored, known_as, wanted, fresh)
        if sql_folder is not None and brought:
            filled = [table for table in source_schema.tables(ends.reading) if table not in brought]
            for result in _reference_results(ends, conninfo, sql_folder, wanted, brought, filled, hidden):
                tell(result)
        return [results[table] for table in wanted]


def source_digests(
    snapshot: Path,
    conninfo: str,
    schema: str,
    tables: Collection[str],
    *,
    stored: Path | None = None,
    identity: str = "",
    workers: int = WORKERS,
) -> dict[str, str]:
    """Table → one digest of its whole content in the snapshot; equal for the snapshot and any true copy of it.

    Of the target only the columns' types are needed, so it can be computed while the copy is still going on. What is stored
    for this snapshot is not computed again, and what was computed is stored.

    Args:
        stored: As for ``compare``, and so is ``identity``.

    Raises:
        CannotCheck: When a table cannot be read, or is not on both sides.
        Unreachable: When the target does not answer.
    """
    known_as = [identity] if identity else digests.identity_of(snapshot)
    with _opened(snapshot, conninfo, schema, workers, SECONDS) as ends:
        wanted = digests.shapes(ends.reading, ends.connection, schema, tables)
        faults = [f"{table}: {', '.join(shape.faults)}" for table, shape in wanted.items() if shape.faults]
        if faults:
            raise CannotCheck("source and target do not have the same columns", where=schema, found="; ".join(faults))
        known = digests.load(stored, known_as, wanted)
        jobs = {table: _Job(ends, shape, None, source_only=True) for table, shape in wanted.items() if table not in known}
        fresh = {table: job.digests() for table, job in jobs.items()}
        _keep(stored, known_as, wanted, fresh)
        return {table: {**known, **fresh}[table].whole for table in wanted}


def _keep(stored: Path | None, identity: list[Any], wanted: Mapping[str, Shape], fresh: Mapping[str, Digests]) -> None:
    """Store what was computed. Where that cannot be done it is computed again the next time; nothing else depends on it."""
    if stored is None or not fresh:
        return
    try:
        digests.store(stored, identity, wanted, fresh)
    except OSError as error:
        log.warning("the digests of the source were not kept in %s: %s", stored, error.strerror)


def _reference_results(
    ends: _Ends,
    conninfo: str,
    sql_folder: Path,
    shapes: Mapping[str, Shape],
    brought: Mapping[str, TableResult],
    filled: Collection[str],
    secret: Mapping[str, Collection[str]],
) -> Iterator[TableResult]:
    """Tables without a row in the snapshot, compared with what the plan's reference data brings."""
    try:
        wanted = {table: shapes[table] for table in brought}
        compared = reference_rows.compare(conninfo, ends.schema, sql_folder, ends.connection, wanted, filled, secret)
    except Unreachable:
        raise
    except CutoverError as error:
        problem = f"the reference data could not be tried: {error}"
        yield from (TableResult(table, None, None, problem=problem, origin=REFERENCE_DATA) for table in brought)
        return
    for table, (expected, held, found) in compared.items():
        if not expected:
            yield brought[table]
            continue
        yield TableResult(
            table,
            expected,
            held,
            parts=1,
            different=1 if found.rows else 0,
            missing=found.missing,
            extra=found.extra,
            changed=found.changed,
            differences=tuple(found.named),
            origin=REFERENCE_DATA,
        )


# --- the two ends -----------------------------------------------------------------------------------------------------


class _Sessions(Generic[T]):
    """Connections that are opened when one is needed and none is free, and given back after use."""

    def __init__(self, stack: ExitStack, opener: Callable[[], AbstractContextManager[T]]) -> None:
        self._stack, self._opener, self._lock = stack, opener, threading.Lock()
        self._free: queue.SimpleQueue[T] = queue.SimpleQueue()
        self.opened: list[T] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[T]:
        """A connection that nobody else has."""
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
class _Ends:
    """The snapshot and the target, each with its sessions and threads; all sessions of the target see the same moment."""

    schema: str
    reading: apsw.Connection
    connection: psycopg.Connection
    _sources: _Sessions[apsw.Connection]
    _targets: _Sessions[session_target.Connection]
    _at_source: ThreadPoolExecutor
    _at_target: ThreadPoolExecutor
    _begun: list[Future[dict[str, Part]]] = field(default_factory=list)

    def of_source(self, shape: Shape, cuts: Cuts, bounds: Sequence[Bounds] | None) -> Future[dict[str, Part]]:
        """Start computing some of the source's digests."""

        def work() -> dict[str, Part]:
            with self._sources.one() as reading:
                return digests.of_source(reading, shape, cuts, bounds)

        self._begun.append(self._at_source.submit(work))
        return self._begun[-1]

    def of_target(self, shape: Shape, cuts: Cuts, bounds: Sequence[Bounds] | None) -> Future[dict[str, Part]]:
        """Start computing some of the target's digests."""

        def work() -> dict[str, Part]:
            with self._targets.one() as connection, connection.transaction():
                return digests.of_target(connection, self.schema, shape, cuts, bounds)

        self._begun.append(self._at_target.submit(work))
        return self._begun[-1]

    def give_up(self) -> None:
        """End what is under way: it is of no use any more, and might go on for minutes."""
        self._at_source.shutdown(wait=False, cancel_futures=True)
        self._at_target.shutdown(wait=False, cancel_futures=True)
        # A cancelled one never ends, as nobody is left to notice it.
        running = [future for future in self._begun if not future.cancelled()]
        # One that was about to begin would not notice a single call.
        while running and wait(running, timeout=0.05).not_done:
            for reading in self._sources.opened:
                reading.interrupt()
            for session in self._targets.opened:
                session.cut()


@contextlib.contextmanager
def _opened(snapshot: Path, conninfo: str, schema: str, workers: int, seconds: float) -> Iterator[_Ends]:
    @contextlib.contextmanager
    def source_session() -> Iterator[apsw.Connection]:
        with snapshots.snapshot(snapshot) as reading:
            canonical.prepare(reading)
            yield reading

    @contextlib.contextmanager
    def target_session(moment: str | None = None) -> Iterator[session_target.Connection]:
        with proof_reading.reading(conninfo, schema, seconds=seconds) as connection:
            if moment is not None:
                connection.execute(f"SET TRANSACTION SNAPSHOT '{moment}'".encode())
            connection.execute("SET LOCAL jit = off")  # the statements are short and many
            yield connection

    with ExitStack() as sessions:
        reading = sessions.enter_context(source_session())
        connection = sessions.enter_context(target_session())
        moment = _moment(connection, schema)
        sources = _Sessions(sessions, source_session)
        targets = _Sessions(sessions, lambda: target_session(moment))
        with _threads(workers, "source-digests") as at_source, _threads(workers, "target-digests") as at_target:
            ends = _Ends(schema, reading, connection, sources, targets, at_source, at_target)
            try:
                yield ends
            except BaseException:
                ends.give_up()
                raise


def _moment(connection: psycopg.Connection, schema: str) -> str:
    """What lets other sessions see the same as this one."""
    row = connection.execute("SELECT pg_export_snapshot(), current_setting('server_encoding')").fetchone()
    if row is None or row[1] != "UTF8":
        raise CannotCheck(
            "the target database does not store UTF-8, so its text cannot be compared byte by byte",
            where=f"schema {schema}",
            expected="server_encoding UTF8",
        )
    return str(row[0])


@contextlib.contextmanager
def _threads(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads whose waiting work is given up when the block ends early."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


# --- one table ----------------------------------------------------------------------------------------------------------


class _Job:
    """The comparison of one table; it begins at once, as far as there are threads."""

    def __init__(self, ends: _Ends, shape: Shape, known: Digests | None, *, source_only: bool = False) -> None:
        self._ends, self.shape, self.ours = ends, shape, known
        self._source: list[Future[dict[str, Part]]] = []
        self._target: list[Future[dict[str, Part]]] = []
        self.cuts, self._problem = Cuts(0), ""
        if not shape.columns:
            return
        try:
            self.cuts = digests.cut(ends.reading, shape) if known is None else known.cuts
        except (apsw.Error, ValueError) as error:
            self._problem = _source_problem(error)
            return
        slices: list[Sequence[Bounds] | None] = [None]
        if self.cuts.bounds:
            slices = [self.cuts.bounds[at : at + _BATCH] for at in range(0, len(self.cuts.bounds), _BATCH)]
        if known is None:
            self._source = [ends.of_source(shape, self.cuts, bounds) for bounds in slices]
        if not source_only:
            self._target = [ends.of_target(shape, self.cuts, bounds) for bounds in slices]

    def digests(self) -> Digests:
        """The source's digests."""
        if self.ours is None:
            self.ours = Digests(self.cuts, _joined(self._source))
        return self.ours

    def result(self, secret: Collection[str]) -> TableResult:
        """What came of it, after it has ended."""
        shape, rows = self.shape, self.cuts.rows if self.shape.columns and not self._problem else None
        result = TableResult(shape.table, rows, None, faults=shape.faults, problem=self._problem, left_out=shape.left_out)
        if rows is None:
            return result
        try:
            ours = self.digests().parts
        except (apsw.Error, ValueError) as error:
            return replace(result, problem=_source_problem(error))
        try:
            theirs = _joined(self._target)
            found = Tally()
            beyond = self._beyond(found, secret)
            names = ours.keys() | theirs.keys()
            different = [name for name in names if ours.get(name) != theirs.get(name)]
            result = replace(
                result,
                target_rows=sum(count for count, _ in theirs.values()) + beyond,
                parts=len(names),
                different=len(different),
            )
            counted = self._look_closely(found, different, secret) if different else True
        except psycopg.Error as error:
            if isinstance(session_target.as_cutover_error(error, shape.table), Unreachable):
                raise
            return replace(result, problem=proof_reading.query_problem(error))
        except (apsw.Error, ValueError) as error:
            return replace(result, problem=_source_problem(error))
        unexplained = different and counted and found.rows == beyond
        return replace(
            result,
            missing=found.missing,
            extra=found.extra,
            changed=found.changed,
            counted=counted,
            differences=tuple(found.named),
            problem="the digests differ, although each row by itself is the same" if unexplained else "",
        )

    def _beyond(self, found: Tally, secret: Collection[str]) -> int:
        """Count the rows whose keys lie beyond the source's, and name the first."""
        count, texts = digests.beyond(self._ends.connection, self._ends.schema, self.shape, self.cuts, NAMED)
        key = self.shape.key or self.shape.columns[:4]
        for number, text in enumerate(texts, start=1):
            name = key_text(key, text, secret)
            found.add(RowDifference(self.shape.table, "extra", name), count - number + 1 if number == len(texts) else 1)
        return count

    def _look_closely(self, found: Tally, different: Sequence[str], secret: Collection[str]) -> bool:
        """Read the parts that differ row by row. False where there are too many of them."""
        ends, shape, cuts = self._ends, self.shape, self.cuts
        if not cuts.bounds:
            wanted = set(different)

            def of_those(rows: Iterator[Row]) -> Iterator[Row]:
                return (row for row in rows if digests.digits_of(row[0], cuts.digits) in wanted)

            ours = of_those(digests.source_rows(ends.reading, shape, cuts, columns=True))
            with ends.connection.transaction():
                theirs = of_those(digests.target_rows(ends.connection, ends.schema, shape, columns=True))
                tally(found, shape.table, shape.columns, shape.key, ours, theirs, secret)
            return True
        chosen = [bounds for bounds in cuts.bounds if digests.name_of(bounds) in set(different)]
        for bounds in chosen[:_CLOSE_LOOK]:
            ours = digests.source_rows(ends.reading, shape, cuts, bounds, columns=True)
            with ends.connection.transaction():
                theirs = digests.target_rows(ends.connection, ends.schema, shape, bounds, columns=True)
                tally(found, shape.table, shape.columns, shape.key, ours, theirs, secret, order=int)
        return len(chosen) <= _CLOSE_LOOK


def _joined(futures: Sequence[Future[dict[str, Part]]]) -> dict[str, Part]:
    return {name: part for future in futures for name, part in future.result().items()}


def _source_problem(error: Exception) -> str:
    """Why the source could not be read. Only SQLite's own words: those of other errors may hold a value."""
    return f"the source cannot be read: {error}" if isinstance(error, apsw.Error) else "the source holds text that is none"
