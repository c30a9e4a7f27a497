"""Counts the rows and bytes of a copy, and reports how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from include.cutover.copying.blocks import Block
from include.cutover.target.checkpoints import Chunk


@dataclass(frozen=True)
class CopyProgress:
    """How far one stream of a table is.

    Attributes:
        rows: Rows in the target, of this stream's chunks; those of the open transaction count.
        total: Rows of all of this stream's chunks.
        rate: Rows per second since this call began; 0.0 at its begin.
        eta_seconds: Seconds to go at that rate; None while it is not known.
    """

    table: str
    stream: int
    rows: int
    total: int
    rate: float
    eta_seconds: float | None

    def __str__(self) -> str:
        share = 100 * self.rows // self.total if self.total else 100
        left = "" if self.eta_seconds is None else f", {self.eta_seconds:.0f} s to go"
        return f"{self.table}: {self.rows:,} of {self.total:,} rows ({share} %), {self.rate:,.0f} rows/s{left}"


class Meter:
    """Counts rows and bytes, and reports them.

    Args:
        table: The table that is copied.
        stream: The stream that copies.
        chunks: All chunks of the stream, also those that are copied already.
        report: Called at the begin, at the end, and about every ``seconds``.
        seconds: Seconds between two reports.
    """

    def __init__(
        self,
        table: str,
        stream: int,
        chunks: Sequence[Chunk],
        report: Callable[[CopyProgress], None] | None,
        seconds: float,
    ) -> None:
        self.bytes = 0
        self._table, self._stream = table, stream
        self._total = sum(chunk.rows for chunk in chunks)
        self._before = self._rows = sum(chunk.rows for chunk in chunks if chunk.copied)
        self._report, self._seconds = report, seconds
        self._began = self._reported = time.monotonic()
        if report is not None:
            report(self._progress(self._began))

    @property
    def state(self) -> tuple[int, int]:
        """Rows and bytes so far; set again when a transaction was rolled back."""
        return self._rows, self.bytes

    @state.setter
    def state(self, state: tuple[int, int]) -> None:
        self._rows, self.bytes = state

    def add(self, block: Block) -> None:
        """Count a block that was sent."""
        self._rows += block.rows
        self.bytes += len(block.data)
        now = time.monotonic()
        if self._report is not None and now - self._reported >= self._seconds:
            self._reported = now
            self._report(self._progress(now))

    def already_there(self, rows: int) -> None:
        """Count rows that another attempt brought meanwhile; they do not count for the rate."""
        self._rows += rows
        self._before += rows

    def end(self) -> None:
        """Report the end."""
        if self._report is not None:
            self._report(self._progress(time.monotonic()))

    def _progress(self, now: float) -> CopyProgress:
        rows, seconds = self._rows - self._before, now - self._began
        rate = rows / seconds if seconds > 0 else 0.0
        left = (self._total - self._rows) / rate if rate > 0 else None
        return CopyProgress(self._table, self._stream, self._rows, self._total, rate, left)
