"""The rows that were written to the target after go-live: counted and exported, so that a rollback loses none unnoticed.

Right before the application gets access, ``marker.mark`` records PostgreSQL's own snapshot of the target, taken
while no session is writing. Each row carries the number of the transaction that wrote it (``xmin``). A row was written after
go-live when that transaction is not visible in the marker: inserted when the SQLite file that was copied has no row of its
key, else updated. The number of deletes is what is missing from the sum, their keys come from an anti-join.

``xmin`` holds 32 of a transaction's 64 bits; the others follow, because all rows of the target are younger than the cutover.
Freezing, VACUUM FULL and CLUSTER keep ``xmin``. Limits:

* A row that was written and is deleted again leaves no trace; one that was updated twice counts once; one whose key was
  changed is a delete and an insert. Rows that the smoke test wrote count too: they were written after go-live.
* Where a table has no key, or its rows came from the plan's reference data, an insert cannot be distinguished from an
  update, and deletes are a lower bound.
* An ALTER TABLE that rewrites a table, or a restore from a dump, makes every row look written: too many are counted and
  exported, never too few.
* After two thousand million transactions, or on another server, the answer is unknown.
* A transaction of another user that was open at go-live, had used a savepoint before and wrote to these tables afterwards
  inside it, is missed. The application was shut out then, so it is not the application's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apsw
import psycopg
from psycopg import errors

from include.cutover.aftercare import row_export
from include.cutover.aftercare.marker import MARKED, Marker
from include.cutover.aftercare.row_changes import Changes, Comparison, TableComparison, TimeLimit
from include.cutover.aftercare.row_export import ExportedFile
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.errors import CannotCheck, CutoverError
from include.cutover.evidence.record import Evidence
from include.cutover.proof import canonical
from include.cutover.proof.parts import ComparedTable, compared_tables
from include.cutover.source import snapshots
from include.cutover.target import catalog, row_versions
from include.cutover.target import session as target_session

log = logging.getLogger(__name__)

WRITTEN = "rows.written"
"""Event: the rows found to be written since the marker."""

FOLDER = "kept/rows_after_go_live"
COUNT_SECONDS = 60.0
EXPORT_SECONDS = 180.0

_STEPS = 100_000  # of SQLite's machine, between two checks of the time


@dataclass(frozen=True)
class Exported:
    """The changes found, and the files that hold them; ``problem`` says why some files are missing."""

    changes: Mapping[str, Changes]
    files: tuple[ExportedFile, ...] = ()
    problem: str = ""


def count(
    conninfo: str, schema: str, marker: Marker, snapshot: Path | None, *, seconds: float = COUNT_SECONDS
) -> dict[str, Changes]:
    """Count the changes of each table since the marker, as of one moment, while the application runs. Only reads.

    Args:
        conninfo: The target's.
        schema: Schema of the application's tables.
        marker: The position to count from.
        snapshot: The SQLite file that was copied; where it is None or cannot be read, inserts are not distinguished from
            updates.
        seconds: Roughly how long it may take.

    Returns:
        Table → its changes.

    Raises:
        CannotCheck: When they cannot be counted, or not in that time.
        Unreachable: When the server does not answer.
    """
    with target_session.session(conninfo, schema) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            return dict(_compare(connection, schema, marker, snapshot, seconds).changes)


def export(
    connection: psycopg.Connection,
    schema: str,
    marker: Marker,
    snapshot: Path | None,
    folder: Path,
    *,
    seconds: float = EXPORT_SECONDS,
) -> Exported:
    """Write every row that was written since the marker, and the key of every deleted one, into one file per table.

    Call it in a transaction that keeps all others from writing, such as that of ``target.keep_schema``. Memory stays flat.
    Each file appears complete, readable by its owner only, and replaces that of an earlier attempt. Everything is counted
    first: when a file cannot be written, or not in that time, the result has the numbers and names the problem.

    Args:
        connection: To the target, in that transaction.
        schema: Schema of the application's tables.
        marker: As for ``count``.
        snapshot: As for ``count``.
        folder: Where the files go; it is made private.
        seconds: Roughly how long it may take.

    Raises:
        CannotCheck: When even counting failed. The transaction can be used further.
    """
    with connection.transaction():
        found = _compare(connection, schema, marker, snapshot, seconds, folder)
        # After a savepoint that succeeds, the setting would stay.
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [target_session.STATEMENT_TIMEOUT])
    return found


def _compare(
    connection: psycopg.Connection,
    schema: str,
    marker: Marker,
    snapshot: Path | None,
    seconds: float,
    folder: Path | None = None,
) -> Exported:
    limit = TimeLimit(seconds)
    with contextlib.ExitStack() as stack:
        try:
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{max(1, round(seconds * 1000))}ms"])
            row_versions.require_same_server(
                connection, marker.server, marker.following, moment="go-live", do="Compare the kept schema with the backup."
            )
            present = catalog.tables(connection, schema)
            copied = _open(stack, snapshot, limit)
            shapes = compared_tables(copied, connection, schema, present) if copied is not None else {}
            gone = {table: Changes(table, 0, 0, 0, rows) for table, rows in marker.rows.items() if table not in present}
            comparison = Comparison(connection, schema, marker, copied, limit)
            tables = [
                TableComparison(comparison, number, shapes.get(table, ComparedTable(table)))
                for number, table in enumerate(present)
            ]
            changes = {**gone, **{table.changes.table: table.changes for table in tables}}
        except (apsw.InterruptError, errors.QueryCanceled):
            raise limit.late() from None
        if folder is None:
            return Exported(changes)
        changed = [table for table in tables if table.changes.any]
        return Exported(changes, *row_export.write_all(connection, folder, changed, limit))


def _open(stack: contextlib.ExitStack, snapshot: Path | None, limit: TimeLimit) -> apsw.Connection | None:
    """Open the SQLite file that was copied, with temporary space for keys; None where it cannot be read."""
    if snapshot is None:
        return None
    try:
        reading = stack.enter_context(contextlib.closing(snapshots.open_snapshot(snapshot)))
    except CannotCheck as error:
        log.warning("inserts cannot be distinguished from updates: %s", error)
        return None
    canonical.prepare(reading)
    reading.execute("PRAGMA temp_store = FILE")
    reading.set_progress_handler(limit.over, _STEPS)
    return reading


# --- in the evidence ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """The recorded knowledge about the rows written after go-live, for a step's report.

    Attributes:
        summary: One clause; empty where the application never had access.
        tables: Table → figures of ``Changes``, of tables with any; None where it is unknown.
    """

    summary: str
    tables: Mapping[str, Mapping[str, Any]] | None = field(default_factory=dict)

    @property
    def figures(self) -> Mapping[str, Mapping[str, Any]] | str:
        """The tables' figures, or ``unknown``, for the figures of a step."""
        return "unknown" if self.tables is None else self.tables


def record_count(evidence: Evidence, schema: Callable[[], str], conninfo: Callable[[], str]) -> Written:
    """Count for the run of ``evidence`` and record the result there. Never raises: a count that failed is ``unknown``."""
    return _recorded(
        evidence, lambda marker, snapshot: Exported(count(conninfo(), schema(), marker, snapshot)), exporting=False
    )


def record_export(evidence: Evidence, schema: str, connection: psycopg.Connection) -> Written:
    """Export for the run of ``evidence``, into its folder, and record files and numbers. Never raises, as ``record_count``.

    Call it where ``export`` may be called.
    """
    folder = evidence.folder / FOLDER
    return _recorded(evidence, lambda marker, snapshot: export(connection, schema, marker, snapshot, folder), exporting=True)


def record_unknown(evidence: Evidence, reason: str) -> Written:
    """Record that the rows are unknown, where the application had access."""
    if not _let_in(evidence):
        return Written("")
    evidence.append(WRITTEN, unknown=reason, tables=None, files=[])
    return newest(evidence)


def newest(evidence: Evidence, since: int = 0) -> Written:
    """Return the last record, of an event numbered ``since`` or later; an empty one where there is none."""
    event = evidence.last(WRITTEN)
    if event is None or event["seq"] < since:
        return Written("")
    if event["tables"] is None:
        return Written(f"the rows written after go-live are unknown: {event['unknown']}", None)
    listed = "; ".join(f"{table}: {figures['in_words']}" for table, figures in event["tables"].items())
    summary = f"written after go-live: {listed or 'nothing'}"
    if event["problem"]:
        summary += f"; NOT exported: {event['problem']}"
    elif event["files"]:
        summary += f"; exported to {event['folder']}"
    return Written(summary, event["tables"])


def _let_in(evidence: Evidence) -> bool:
    return evidence.last(MARKED) is not None or evidence.last("services.started", on="target") is not None


def _recorded(evidence: Evidence, find: Callable[[Marker, Path | None], Exported], *, exporting: bool) -> Written:
    marked, decided = evidence.last(MARKED), evidence.last("snapshot")
    if marked is None:
        return record_unknown(evidence, "no marker was taken at go-live")
    try:
        snapshot = Decided.from_dict(decided["decided"]).file if decided else None
        found = find(Marker.from_dict(marked), snapshot)
    except Exception as error:  # any error: the rollback does not wait for the count
        expected = isinstance(error, CutoverError | psycopg.Error)  # and the text of a psycopg error may quote rows
        log.warning("the rows written after go-live could not be counted", exc_info=not expected)
        return record_unknown(evidence, row_export.reason(error))
    tables = {table: item.figures for table, item in found.changes.items() if item.any}
    for item in found.files:
        evidence.append("file", name=f"{FOLDER}/{item.name}", sha256=item.sha256, bytes=item.bytes)
    evidence.append(
        WRITTEN,
        unknown="",
        tables=tables,
        files=[asdict(item) for item in found.files],
        folder=FOLDER if exporting else "",
        problem=found.problem,
    )
    return newest(evidence)
