"""Compares one table: digests of both sides, and row by row the parts that differ."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

import apsw
import psycopg

from include.cutover.errors import Unreachable
from include.cutover.proof import digests, parts
from include.cutover.proof.differences import NAMED, Row, RowDifference, Tally, name_of_key, tally
from include.cutover.proof.parts import Bounds, ComparedTable, Cuts, Digests, Part
from include.cutover.proof.readers import Readers
from include.cutover.proof.reading import query_problem
from include.cutover.proof.table_result import TableResult
from include.cutover.target import session as target_session

_BATCH = 50  # parts that one statement computes
_CLOSE_LOOK = 20  # ranges that differ and are read row by row; more of them are only counted


class TableComparison:
    """The comparison of one table; it begins at once, as far as there are threads.

    Args:
        both: Sessions with both sides.
        compared: The table's columns and key.
        known: The source's digests where they are known.
        source_only: Compute the source's digests alone.

    Attributes:
        ours: The source's digests; None until they are known.
    """

    def __init__(self, both: Readers, compared: ComparedTable, known: Digests | None, *, source_only: bool = False) -> None:
        self._both, self._compared, self.ours = both, compared, known
        self._source: list[Future[dict[str, Part]]] = []
        self._target: list[Future[dict[str, Part]]] = []
        self.cuts, self._problem = Cuts(0), ""
        if not compared.columns:
            return
        try:
            self.cuts = parts.cut(both.reading, compared) if known is None else known.cuts
        except (apsw.Error, ValueError) as error:
            self._problem = _source_problem(error)
            return
        slices: list[Sequence[Bounds] | None] = [None]
        if self.cuts.bounds:
            slices = [self.cuts.bounds[at : at + _BATCH] for at in range(0, len(self.cuts.bounds), _BATCH)]
        if known is None:
            self._source = [both.of_source(compared, self.cuts, bounds) for bounds in slices]
        if not source_only:
            self._target = [both.of_target(compared, self.cuts, bounds) for bounds in slices]

    def digests(self) -> Digests:
        """Return the source's digests, when they are computed."""
        if self.ours is None:
            self.ours = Digests(self.cuts, _joined(self._source))
        return self.ours

    def result(self, secret: Collection[str]) -> TableResult:
        """Wait for the digests, and return the result.

        Args:
            secret: Columns whose content is never shown.
        """
        compared, rows = self._compared, self.cuts.rows if self._compared.columns and not self._problem else None
        result = TableResult(
            compared.table, rows, None, faults=compared.faults, problem=self._problem, left_out=compared.left_out
        )
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
            if isinstance(target_session.as_cutover_error(error, compared.table), Unreachable):
                raise
            return replace(result, problem=query_problem(error))
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
        count, texts = digests.beyond(self._both.connection, self._both.schema, self._compared, self.cuts, NAMED)
        key = self._compared.key or self._compared.columns[:4]
        for number, text in enumerate(texts, start=1):
            name = name_of_key(key, text, secret)
            found.add(RowDifference(self._compared.table, "extra", name), count - number + 1 if number == len(texts) else 1)
        return count

    def _look_closely(self, found: Tally, different: Sequence[str], secret: Collection[str]) -> bool:
        """Read the parts that differ row by row. False where there are too many of them."""
        both, compared, cuts = self._both, self._compared, self.cuts
        if not cuts.bounds:
            wanted = set(different)

            def of_those(rows: Iterator[Row]) -> Iterator[Row]:
                return (row for row in rows if digests.digits_of(row[0], cuts.digits) in wanted)

            ours = of_those(digests.source_rows(both.reading, compared, cuts, columns=True))
            with both.connection.transaction():
                theirs = of_those(digests.target_rows(both.connection, both.schema, compared, columns=True))
                tally(found, compared.table, compared.columns, compared.key, ours, theirs, secret)
            return True
        chosen = [bounds for bounds in cuts.bounds if parts.name_of(bounds) in set(different)]
        for bounds in chosen[:_CLOSE_LOOK]:
            ours = digests.source_rows(both.reading, compared, cuts, bounds, columns=True)
            with both.connection.transaction():
                theirs = digests.target_rows(both.connection, both.schema, compared, bounds, columns=True)
                tally(found, compared.table, compared.columns, compared.key, ours, theirs, secret, order=int)
        return len(chosen) <= _CLOSE_LOOK


def _joined(futures: Sequence[Future[dict[str, Part]]]) -> dict[str, Part]:
    return {name: part for future in futures for name, part in future.result().items()}


def _source_problem(error: Exception) -> str:
    """Return why the source could not be read. Only SQLite's own words: those of other errors may hold a value."""
    return (
        f"the source cannot be read: {error}"
        if isinstance(error, apsw.Error)
        else "the source holds bytes that are not text"
    )
