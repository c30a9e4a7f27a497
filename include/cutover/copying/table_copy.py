"""The copy of one table over one connection: checks before it, its chunks, and the sending of each."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import apsw
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from include.cutover.copying.blocks import TableReader
from include.cutover.copying.chunks import plan_chunks
from include.cutover.copying.conversion import TargetColumn, match_columns, target_columns
from include.cutover.copying.progress import Meter
from include.cutover.copying.refused_rows import REFUSED_BY_POSTGRESQL, RefusedRows
from include.cutover.copying.watchdog import Watchdog
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed
from include.cutover.source import schema as source_schema
from include.cutover.target import checkpoints, ledger, lock_holders, write_guard
from include.cutover.target import session as target_session
from include.cutover.target.checkpoints import Chunk
from include.cutover.target.sides import Sides

log = logging.getLogger(__name__)

_COPY = sql.SQL("COPY {}.{} ({}) FROM STDIN (FORMAT text, DELIMITER E'\\x1f', NULL E'\\x1d', ENCODING 'UTF8')")


@dataclass(frozen=True)
class RunLease:
    """The hold of a run on the target; a takeover raises the epoch, and the run may then change nothing more."""

    run_id: str
    epoch: int


class _OtherNumber(Exception):
    """PostgreSQL stored another number of rows than were sent."""

    def __init__(self, sent: int, taken: int) -> None:
        super().__init__()
        self.sent, self.taken = sent, taken

    def as_step_failed(self, where: str) -> StepFailed:
        """Return the error for a person."""
        return StepFailed(
            "PostgreSQL stored another number of rows than were sent",
            where=where,
            expected=f"{self.sent} rows",
            found=f"{self.taken} rows",
            do="Nothing of the chunk is in the target. Check the table for rules and triggers.",
        )


class TableCopy:
    """The copy of one table over one connection.

    Args:
        snapshot: The snapshot of ``sides``, opened.
        connection: A session with the target of ``sides``.
        watchdog: Of that session.
        sides: The snapshot and the target.
        lease: The run that holds the target.
        table: Its name, the same on both sides.

    Raises:
        Refused: When the two tables do not fit.
    """

    def __init__(
        self,
        snapshot: apsw.Connection,
        connection: psycopg.Connection,
        watchdog: Watchdog,
        sides: Sides,
        lease: RunLease,
        table: str,
    ) -> None:
        self._snapshot, self._connection, self._watchdog = snapshot, connection, watchdog
        self._schema, self._table, self._secret = sides.schema, table, sides.secret_of(table)
        self._run_id, self._epoch = lease.run_id, lease.epoch
        self._guard = ledger.guard(lease.run_id, lease.epoch)
        self._shape = source_schema.shape(snapshot, table)
        self._conversions = match_columns(source_schema.columns(snapshot, table), self._target_columns(), table)
        self._reader = TableReader(snapshot, self._shape, self._conversions, secret=self._secret)
        names = sql.SQL(", ").join(sql.Identifier(item.column) for item in self._conversions)
        self._statement = _COPY.format(sql.Identifier(sides.schema), sql.Identifier(table), names)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        self._watchdog.moved()
        named = {"schema": self._schema, "table": self._table}
        return self._connection.cursor(row_factory=tuple_row).execute(query, named).fetchall()

    def _target_columns(self) -> list[TargetColumn]:
        if self._rows("SHOW server_encoding") != [("UTF8",)]:
            raise Refused(
                "the target database does not store UTF-8",
                where=f"schema {self._schema}",
                expected="server_encoding UTF8",
                do="Create the database with ENCODING 'UTF8'.",
            )
        found = target_columns(self._connection, self._schema, self._table)
        if not found:
            raise Refused(
                "the target has no such table",
                where=f"{self._schema}.{self._table}",
                do="Run the steps that apply the plan's SQL first.",
            )
        triggers = self._rows(_INSERT_TRIGGERS)
        if triggers:
            raise Refused(
                "a trigger would change or drop rows while they are copied",
                where=f"{self._schema}.{self._table}",
                expected="no trigger on INSERT",
                found=", ".join(name for (name,) in triggers),
                do="Create it after the load, in post_data.",
            )
        rules = self._rows(_INSERT_RULES)
        if rules:
            raise Refused(
                "a rule would change or drop rows that are inserted; COPY passes it by",
                where=f"{self._schema}.{self._table}",
                expected="no rule on INSERT",
                found=", ".join(name for (name,) in rules),
                do="Drop it; a rule of the plan is created after the load, in post_data.",
            )
        return found

    def chunks(self, chunk_rows: int) -> list[Chunk]:
        """Return the table's chunks as stored; plan them where no session has done so yet.

        Args:
            chunk_rows: Rows of a chunk that is planned now.
        """
        self._watchdog.moved()
        stored = checkpoints.read_chunks(self._connection, self._run_id, [self._table])
        if not stored:
            self._watchdog.rest()
            planned = plan_chunks(self._snapshot, self._table, chunk_rows)
            self._watchdog.moved()
            stored = checkpoints.store_chunks(self._connection, self._run_id, self._epoch, planned)
        return stored

    def refuse_foreign_rows(self) -> None:
        """Refuse a table with rows that this run did not copy.

        Rows commit together with their record: rows without a record of this run come from another writer.
        """
        # In a query with parameters a % in the table's name would be read as one.
        held = sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(self._schema, self._table))
        ours = "SELECT FROM cutover.copied WHERE run_id = %s AND table_name = %s AND rows > 0 LIMIT 1"
        self._watchdog.moved()
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            rows = cursor.execute(held).fetchone() is not None
            foreign = rows and cursor.execute(ours, [self._run_id, self._table]).fetchone() is None
        if foreign:
            raise Refused(
                "the target's table holds rows that this run did not copy",
                where=f"{self._schema}.{self._table}",
                expected="an empty table",
                do="Find out where these rows come from; then empty the table, or set the schema aside.",
            )

    def chunk(self, chunk: Chunk, meter: Meter) -> bool:
        """Copy one chunk. Return False where another attempt had copied it."""
        before = meter.state
        try:
            return self._attempt(chunk, meter)
        except (*REFUSED_BY_POSTGRESQL, _OtherNumber) as error:
            if not self._reader.count_separators:
                log.info("%s is read again: there may be separators in its data", self._where(chunk))
                self._reader.count_separators = True
                meter.state = before
                return self.chunk(chunk, meter)
            if isinstance(error, _OtherNumber):
                raise error.as_step_failed(self._where(chunk)) from None
            raise self._explained(chunk, error) from None
        except psycopg.Error as error:
            holders = lock_holders.of_error(self._connection, self._schema, error)
            raise target_session.as_cutover_error(error, self._where(chunk), holders) from None

    def _attempt(self, chunk: Chunk, meter: Meter) -> bool:
        self._watchdog.moved()
        while True:
            with self._connection.transaction():
                self._guard(self._connection)
                if checkpoints.claim(self._connection, self._run_id, chunk):
                    if not checkpoints.record_copied(self._connection, self._run_id, self._epoch, chunk):
                        meter.already_there(chunk.rows)
                        return False
                    self._send(chunk, meter)
                    return True
            self._wait_for_claimant(chunk)

    def _wait_for_claimant(self, chunk: Chunk) -> None:
        """Wait for an earlier attempt that has the chunk, and end it when it makes no progress.

        It may be a task that was declared dead and is not, or one whose network is gone: its server process would hold the
        chunk for hours, whatever the timeouts say.
        """
        seen, since = checkpoints.claimant(self._connection, self._run_id, chunk), time.monotonic()
        if seen is not None:
            log.warning("%s: another session (pid %s) copies it; waiting", self._where(chunk), seen.pid)
        while seen is not None:
            self._watchdog.rest()
            time.sleep(min(0.2, self._watchdog.seconds / 4))
            self._watchdog.moved()
            now = checkpoints.claimant(self._connection, self._run_id, chunk)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self._watchdog.seconds:
                checkpoints.end(self._connection, seen)
                since = time.monotonic()

    def _where(self, chunk: Chunk) -> str:
        return f"table {self._table}, chunk {chunk.number}"

    def _send(self, chunk: Chunk, meter: Meter) -> None:
        rows = 0
        with self._connection.cursor() as cursor:
            with cursor.copy(self._statement) as copy:
                self._watchdog.rest()
                for block in self._reader.blocks(chunk):
                    self._watchdog.moved()
                    copy.write(block.data)
                    self._watchdog.rest()
                    rows += block.rows
                    meter.add(block)
                self._watchdog.moved()
            taken = cursor.rowcount
        if rows != chunk.rows:
            raise CannotCheck(
                "the snapshot does not hold the rows that the chunks were planned from",
                where=self._where(chunk),
                expected=f"{chunk.rows} rows",
                found=f"{rows} rows",
                do="Copy from the backup of this run; it must not have been changed or replaced.",
            )
        if taken != rows:
            raise _OtherNumber(rows, taken)

    def _explained(self, chunk: Chunk, error: psycopg.Error) -> CutoverError:
        """Return the error for the row that PostgreSQL refused."""
        exact = TableReader(self._snapshot, self._shape, self._conversions, exact=True, secret=self._secret)
        refused = RefusedRows(
            self._connection,
            self._watchdog,
            self._guard,
            self._statement,
            self._conversions,
            self._table,
            self._where(chunk),
        )
        return refused.explained(exact.rows(chunk), error)


# A row trigger of a partition fires for rows that come through its table, a statement trigger does not. The guard of the
# run itself is a statement trigger that lets the run through.
_INSERT_TRIGGERS = f"""
    SELECT DISTINCT trigger.tgname
    FROM pg_class AS class
    JOIN pg_trigger AS trigger ON trigger.tgrelid = class.oid
        OR trigger.tgtype & 1 > 0 AND trigger.tgrelid IN (SELECT relid FROM pg_partition_tree(class.oid))
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND class.relname = %(table)s
      AND NOT trigger.tgisinternal AND trigger.tgenabled <> 'D' AND trigger.tgtype & 4 > 0
      AND trigger.tgfoid NOT IN {write_guard.OF_GUARD}
    ORDER BY trigger.tgname
"""  # noqa: S608  # constants

_INSERT_RULES = """
    SELECT rewrite.rulename
    FROM pg_rewrite AS rewrite
    JOIN pg_class AS class ON class.oid = rewrite.ev_class
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND class.relname = %(table)s
      AND rewrite.ev_type = '3' AND rewrite.ev_enabled <> 'D'
    ORDER BY rewrite.rulename
"""
