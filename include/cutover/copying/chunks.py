"""Cuts a table of the snapshot into chunks, and shares them out among streams."""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from include.cutover.source import schema as source_schema
from include.cutover.target.checkpoints import Chunk

CHUNK_ROWS = 500_000


@dataclass(frozen=True)
class Share:
    """The chunks of a table that one stream copies: those whose number, divided by ``streams``, leaves ``stream``.

    Attributes:
        stream: Number of the stream, counted from 0.
        streams: How many streams copy the table.
    """

    stream: int = 0
    streams: int = 1

    def __post_init__(self) -> None:
        """Refuse a stream that does not exist: its chunks would be copied by no other."""
        if not 0 <= self.stream < self.streams:
            raise ValueError(f"stream {self.stream} of {self.streams}")

    def __contains__(self, chunk: Chunk) -> bool:
        """Return whether this stream copies the chunk."""
        return chunk.number % self.streams == self.stream


ALL_CHUNKS = Share()


def plan_chunks(snapshot: apsw.Connection, table: str, chunk_rows: int = CHUNK_ROWS) -> list[Chunk]:
    """Cut a table into ranges of ``chunk_rows`` rows by rowid, and count the rows of each.

    A table without a rowid is one chunk without bounds, and so is an empty one.
    """
    if chunk_rows < 1:
        raise ValueError("a chunk has at least one row")
    found = source_schema.shape(snapshot, table)
    if found.rowid is None:
        return [Chunk(table, 0, None, None, source_schema.counts(snapshot, [table])[table])]
    rowid, rows = found.rowid, f"FROM main.{source_schema.quote(table)} NOT INDEXED"
    chunks: list[Chunk] = []
    lower = snapshot.execute(f"SELECT min({rowid}) {rows}").get
    while lower is not None:
        last = f"SELECT {rowid} {rows} WHERE {rowid} >= ? ORDER BY {rowid} LIMIT 1 OFFSET ?"
        upper, count = snapshot.execute(last, (lower, chunk_rows - 1)).get, chunk_rows
        if upper is None:
            upper = snapshot.execute(f"SELECT max({rowid}) {rows}").get
            count = snapshot.execute(f"SELECT count(*) {rows} WHERE {rowid} >= ?", (lower,)).get
        chunks.append(Chunk(table, len(chunks), lower, upper, count))
        lower = snapshot.execute(f"SELECT min({rowid}) {rows} WHERE {rowid} > ?", (upper,)).get
    return chunks or [Chunk(table, 0, None, None, 0)]
