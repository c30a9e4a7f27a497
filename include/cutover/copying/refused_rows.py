"""Finds the row of a chunk that PostgreSQL refused, and says why."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from include.cutover.copying.blocks import Row, wrong_data
from include.cutover.copying.conversion import Conversion, value_class
from include.cutover.copying.watchdog import Watchdog
from include.cutover.errors import CutoverError, StepFailed, WrongData
from include.cutover.target import session as target_session
from include.cutover.target.ledger import Guard

REFUSED_BY_POSTGRESQL = (errors.DataError, errors.IntegrityError)
_ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class RefusedRows:
    """Tries the rows of a chunk once more, exactly, and rolls them back.

    The server says in which line an error is, but in its own language and with the value beside it. So the rows are tried
    some at a time under a savepoint, and the refused ones row by row.

    Attributes:
        statement: The COPY statement of the table.
        where: The table and the chunk, for errors.
    """

    connection: psycopg.Connection
    watchdog: Watchdog
    guard: Guard
    statement: sql.Composed
    conversions: Sequence[Conversion]
    table: str
    where: str

    def explained(self, rows: Iterator[Row], error: psycopg.Error) -> CutoverError:
        """Return the error for the row that PostgreSQL refused.

        Args:
            rows: Of the chunk, read the exact way.
            error: PostgreSQL's about the chunk.
        """
        self.watchdog.moved()
        try:
            with self.connection.transaction(force_rollback=True):
                self.guard(self.connection)
                self.watchdog.rest()
                while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
                    if self._refusal(batch) is None:
                        continue
                    for row in batch:
                        if refusal := self._refusal([row]):
                            return self._of_row(row, refusal)
        except WrongData as wrong:
            return wrong
        except psycopg.Error as broken:
            return target_session.as_cutover_error(broken, self.where)
        return StepFailed(
            "PostgreSQL refused the chunk, but none of its rows when they were tried one by one",
            where=self.where,
            found=target_session.primary_message(error),
            do="Check the server's log, then retry.",
        )

    def _refusal(self, rows: Sequence[Row]) -> psycopg.Error | None:
        self.watchdog.moved()
        try:
            with self.connection.transaction(), self.connection.cursor() as cursor, cursor.copy(self.statement) as copy:
                for row in rows:
                    copy.write(row.line)
        except REFUSED_BY_POSTGRESQL as error:
            return error
        finally:
            self.watchdog.rest()
        return None

    def _of_row(self, row: Row, error: psycopg.Error) -> WrongData:
        self.watchdog.moved()
        for item, value in zip(self.conversions, row.values, strict=True):
            if value is None:
                continue
            # A % in the name of a domain would be read as a parameter.
            cast = sql.SQL("SELECT CAST({} AS {})").format(sql.Placeholder(), sql.SQL(item.type.replace("%", "%%")))
            try:
                with self.connection.transaction():
                    self.connection.execute(cast, [item.exact(value)])
            except REFUSED_BY_POSTGRESQL as wrong:
                found = f"{value_class(value)}; {target_session.primary_message(wrong)}"
                return wrong_data(self.table, item, row.key, "a value that PostgreSQL accepts", found)
        column = f", column {error.diag.column_name}" if error.diag.column_name else ""
        return WrongData(
            "PostgreSQL refuses this row",
            where=f"table {self.table}{column}, key {row.key}",
            expected=f"a row that {error.diag.constraint_name or 'the table'} accepts",
            found=target_session.primary_message(error),
            do="Correct the row in the source, or the constraint in the plan's SQL; then start a new run.",
        )
