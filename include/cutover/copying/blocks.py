"""Reads a table of a snapshot as blocks in the text format of COPY.

The fast way runs no Python per row: one query per block lets SQLite print, check and join some hundred rows, with 0x1F
between columns, 0x1E between rows and 0x1D for NULL. COPY takes the first and the last as its delimiter and its NULL, so
that only backslashes and line ends are escaped here, for the whole block at once.

A block takes the exact way, value by value in Python, when it may hold anything that the fast way cannot carry: a value that
a conversion has doubts about, a separator or a NUL in the data, a file that is not UTF-8. The exact way carries what may be
carried and names table, column and key of what may not.

Separators in the data are rare and counting them costs a tenth of the speed, so PostgreSQL does it: one 0x1F too many is a
column too many, a 0x1E too many is a row too many, and nothing makes up for either. When it refuses a chunk, or takes
another number of rows, the chunk is rolled back and read again with ``count_separators``, which sends every block that does
not add up the exact way.

Memory is that of one block, or of the widest row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from include.cutover.copying.conversion import COLUMN_END, NULL, Conversion, NotConvertible, Value, not_a_number
from include.cutover.errors import Refused, WrongData
from include.cutover.source.schema import TableShape, key_text, named_by, quote
from include.cutover.target.checkpoints import Chunk

BLOCK_BYTES = 48 * 1024  # small blocks keep SQLite and PostgreSQL busy at the same time
MOST_ROWS = 1_000
LONGEST_FAST_BLOCK = 4 * 1024 * 1024  # SQLite stops there; a block of wider rows is halved, a row alone takes the exact way
_LONGEST_VALUE = 1_000_000_000  # SQLite's own limit
_MOST_COLUMNS = 900  # the exact way selects two results per column, and SQLite gives at most 2,000
_DENSE = 0.5
_COLUMN_END, _ROW_END = f"'{COLUMN_END}'", "'\x1e'"  # literals: SQLite would call char() for every row


@dataclass(frozen=True)
class Block:
    """Whole lines for COPY, each ended by a newline, and their number."""

    data: bytes
    rows: int


@dataclass(frozen=True)
class Row:
    """One row: its key for a person, its values, its line for COPY."""

    key: str
    values: list[Value]
    line: bytes


class TableReader:
    """Reads the rows of one table.

    Args:
        conn: The snapshot.
        shape: How the rows of the table are walked through and named.
        conversions: The columns to read, in the order of the COPY statement.
        exact: Take the exact way for every row.
        secret: Columns whose content is never shown.
        block_rows: Rows of the first block; later ones are sized by bytes.

    Attributes:
        count_separators: See above; may be set between two chunks.
    """

    def __init__(
        self,
        conn: apsw.Connection,
        shape: TableShape,
        conversions: Sequence[Conversion],
        *,
        exact: bool = False,
        block_rows: int = 250,
        secret: Collection[str] = (),
    ) -> None:
        if len(conversions) > _MOST_COLUMNS:
            raise Refused(
                "a table with so many columns cannot be copied",
                where=shape.table,
                found=f"{len(conversions)}",
                do="Split the table, or add it to ignored_tables.",
            )
        self._conn = conn
        self._shape = shape
        self._conversions = conversions
        self._encoding = {"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}.get(conn.execute("PRAGMA encoding").get, "utf-8")
        # In a UTF-16 database bytes are not those that PostgreSQL wants, and broken pairs would be repaired silently.
        self._exact_only = exact or self._encoding != "utf-8" or not conversions
        self._block_rows = block_rows
        self.count_separators = False
        # By the rowid, never through an index: an index may lack rows, and is not in the order of the file.
        self._table = f"main.{quote(shape.table)}{' NOT INDEXED' if shape.rowid else ''}"
        self._key_names, cells = named_by(shape, secret)
        # SQLite lets NULL into a key that is not the rowid, and NULL names no row: then the rowid behind it does.
        behind = [shape.rowid] if shape.rowid is not None and shape.alias is None and cells != (shape.rowid,) else []
        self._key_cells = [*cells, *behind]
        line = _concatenated([f"ifnull({item.cell}, '{NULL}')" for item in conversions])
        beyond_doubt = not_a_number(quote(shape.alias)) if shape.alias is not None else ""
        doubt = _any([condition for item in conversions for condition in item.doubt if condition != beyond_doubt])
        self._line = line
        self._doubted = f"CASE WHEN {doubt} THEN 1 END"
        self._block = f"CAST(group_concat({line}, {_ROW_END}) AS BLOB), count(*), count({self._doubted})"

    def blocks(self, chunk: Chunk) -> Iterator[Block]:
        """Read the rows of a chunk.

        Raises:
            WrongData: Names table, column and key of a value that must not pass, and what kind of value it is.
        """
        if self._shape.rowid is not None:
            yield from self._by_rowid(chunk)
        elif self._exact_only or not self._walkable_by_key():
            yield from self._exactly("true", ())
        else:
            yield from self._by_key()

    # --- tables with a rowid

    def _by_rowid(self, chunk: Chunk) -> Iterator[Block]:
        rowid = self._shape.rowid
        lower, upper = chunk.lower, chunk.upper
        if lower is None or upper is None:
            lower, upper = self._row(f"SELECT min({rowid}), max({rowid}) FROM {self._table}", ())  # noqa: S608
            if lower is None:
                return
        if self._exact_only:
            yield from self._exactly(f"{rowid} BETWEEN ? AND ?", (lower, upper))
            return
        # Where most keys of a range exist, a range of keys is a block; elsewhere SQLite has to count the rows.
        density = chunk.rows / (upper - lower + 1)
        dense = density >= _DENSE
        by_range = f"SELECT {self._block} FROM {self._table} WHERE {rowid} BETWEEN ? AND ?"  # noqa: S608
        by_count = (
            f"SELECT CAST(group_concat(line, {_ROW_END}) AS BLOB), count(*), count(doubted), max(place) FROM "  # noqa: S608
            f"(SELECT {self._line} AS line, {self._doubted} AS doubted, {rowid} AS place "
            f"FROM {self._table} WHERE {rowid} BETWEEN ? AND ? ORDER BY {rowid} LIMIT ?)"
        )
        size = self._block_rows
        while lower <= upper:
            last = upper
            try:
                if dense:
                    last = min(upper, lower + max(1, int(size / density)) - 1)
                    data, rows, doubted = self._row(by_range, (lower, last))
                else:
                    data, rows, doubted, last = self._row(by_count, (lower, upper, size))
                    if not rows:
                        return
            except apsw.TooBigError:
                if size > 1:
                    size = max(1, size // 8)
                    continue
                query = f"SELECT min({rowid}) FROM {self._table} WHERE {rowid} >= ?"  # noqa: S608
                (last,) = self._row(query, (lower,))
                yield from self._exactly(f"{rowid} BETWEEN ? AND ?", (lower, last))
            else:
                if rows:
                    if block := self._finished(data, rows, doubted):
                        yield block
                    else:
                        yield from self._exactly(f"{rowid} BETWEEN ? AND ?", (lower, last))
                    size = _next_size(size, len(data), rows)
            lower = last + 1

    # --- tables WITHOUT ROWID

    def _walkable_by_key(self) -> bool:
        order = self._shape.order
        return bool(order) and len({column.descending for column in order}) == 1

    def _by_key(self) -> Iterator[Block]:
        order = self._shape.order
        # As the key itself compares, or SQLite would have to sort the table for every block.
        names = [f"{quote(column.name)} COLLATE {quote(column.collation)}" for column in order]
        key, places = f"({', '.join(names)})", f"({', '.join('?' for _ in order)})"
        beyond, up_to = ("<", ">=") if order[0].descending else (">", "<=")
        direction = " DESC" if order[0].descending else ""
        ordered = ", ".join(f"{name}{direction}" for name in names)
        columns = ", ".join(quote(column.name) for column in order)
        size, after = self._block_rows, None
        while True:
            start = (f"{key} {beyond} {places}", tuple(after)) if after else ("true", ())
            try:
                last = self._row(
                    f"SELECT {columns} FROM {self._table} WHERE {start[0]} ORDER BY {ordered} LIMIT 1 OFFSET ?",  # noqa: S608
                    (*start[1], size - 1),
                )
                end = (f"{key} {up_to} {places}", tuple(last)) if last else ("true", ())
                where, bindings = f"{start[0]} AND {end[0]}", (*start[1], *end[1])
                query = f"SELECT {self._block} FROM {self._table} WHERE {where}"  # noqa: S608
                data, rows, doubted = self._row(query, bindings)
            except apsw.TooBigError:
                if size > 1:
                    size = max(1, size // 8)
                    continue
                yield from self._exactly(*start)
                return
            except UnicodeDecodeError:  # a key that is not UTF-8 can neither be bound nor copied
                yield from self._exactly(*start)
                return
            if rows:
                if block := self._finished(data, rows, doubted):
                    yield block
                else:
                    yield from self._exactly(where, bindings)
                size = _next_size(size, len(data), rows)
            if not last:
                return
            after = last

    # --- both

    def _row(self, query: str, bindings: Sequence[Any]) -> Any:
        self._conn.limit(apsw.SQLITE_LIMIT_LENGTH, LONGEST_FAST_BLOCK)
        return self._conn.execute(query, bindings).fetchone()

    def _finished(self, data: bytes, rows: int, doubted: int) -> Block | None:
        """Return the block as COPY takes it, or None where it has to take the exact way."""
        if doubted or b"\0" in data or (self.count_separators and not self._add_up(data, rows)):
            return None
        data = data.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        return Block(data.replace(b"\x1e", b"\n") + b"\n", rows)

    def _add_up(self, data: bytes, rows: int) -> bool:
        return data.count(b"\x1e") == rows - 1 and data.count(b"\x1f") == rows * (len(self._conversions) - 1)

    def _exactly(self, where: str, bindings: Sequence[Any]) -> Iterator[Block]:
        lines: list[bytes] = []
        size = 0
        for number, cells in enumerate(self._cells(where, bindings), start=1):
            lines.append(self._line_of(number, cells))
            size += len(lines[-1])
            if size >= BLOCK_BYTES:
                yield Block(b"".join(lines), len(lines))
                lines, size = [], 0
        if lines:
            yield Block(b"".join(lines), len(lines))

    def rows(self, chunk: Chunk) -> Iterator[Row]:
        """Read the rows of a chunk one by one, each with its key; otherwise as ``blocks``."""
        where: tuple[str, Sequence[Any]] = ("true", ())
        if self._shape.rowid is not None and chunk.lower is not None:
            where = (f"{self._shape.rowid} BETWEEN ? AND ?", (chunk.lower, chunk.upper))
        for number, cells in enumerate(self._cells(*where), start=1):
            line = self._line_of(number, cells)
            yield Row(self._key(number, cells), list(cells[len(self._key_cells) :]), line)

    def _line_of(self, number: int, cells: Sequence[Any]) -> bytes:
        fields: list[str] = []
        try:
            for item, value in zip(self._conversions, cells[len(self._key_cells) :], strict=True):
                fields.append(item(value))
        except NotConvertible as wrong:
            key = self._key(number, cells)
            raise wrong_data(self._shape.table, item, key, wrong.expected, wrong.found) from None
        return COLUMN_END.join(fields).encode() + b"\n"

    def _key(self, number: int, cells: Sequence[Any]) -> str:
        key = cells[: len(self._key_names)]
        if key and None not in key:
            return key_text(self._key_names, key)
        return f"rowid={cells[len(key)]}" if len(self._key_cells) > len(key) else f"none (row {number} of the table)"

    def _cells(self, where: str, bindings: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Read the cells of each row: those of its key, then the columns. The order is that of the file."""
        columns = [*self._key_cells, *(quote(item.column) for item in self._conversions)]
        order = f" ORDER BY {self._shape.rowid}" if self._shape.rowid else ""
        self._conn.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        done = 0
        if self._encoding == "utf-8":
            try:
                query = f"SELECT {', '.join(columns)} FROM {self._table} WHERE {where}{order}"  # noqa: S608
                for row in self._conn.execute(query, bindings):
                    yield row
                    done += 1
                return
            except UnicodeDecodeError:
                pass  # from that row on the other way, which can name it
        results = ", ".join(
            f"typeof({column}), CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) ELSE {column} END"
            for column in columns
        )
        query = f"SELECT {results} FROM {self._table} WHERE {where}{order} LIMIT -1 OFFSET ?"  # noqa: S608
        for row in self._conn.execute(query, (*bindings, done)):
            done += 1
            cells = list(row[1::2])
            broken = None
            for at, kind in enumerate(row[::2]):
                if kind == "text":
                    try:
                        cells[at] = cells[at].decode(self._encoding)
                    except UnicodeDecodeError:
                        broken = broken if broken is not None and broken >= len(self._key_cells) else at
            if broken is not None:
                found = f"{len(row[2 * broken + 1])} bytes that are not"
                item = self._conversions[max(0, broken - len(self._key_cells))]
                key = self._key(done, cells)
                raise wrong_data(self._shape.table, item, key, f"text in {self._encoding.upper()}", found)
            yield cells


def wrong_data(table: str, item: Conversion, key: str, expected: str, found: str) -> WrongData:
    """Return the error for one value. It says where and of which kind the value is, and never shows it.

    Args:
        table: The table in the source.
        item: The conversion of its column.
        key: The row, for a person.
        expected: The values that the column takes.
        found: The kind of value that was found.
    """
    return WrongData(
        "this value cannot be carried over as it is",
        where=f"table {table}, column {item.column}, key {key}",
        expected=f"{expected} (for {item.type})",
        found=found,
        do="Correct the row in the source, or the type in the plan's SQL; then start a new run.",
    )


def _concatenated(cells: Sequence[str]) -> str:
    """Return SQL for one line. No cell may be NULL, not even where the schema rules it out: concat_ws would skip it."""
    if not cells:
        return "''"
    groups = [f"concat_ws({_COLUMN_END}, {', '.join(cells[at : at + 100])})" for at in range(0, len(cells), 100)]
    return groups[0] if len(groups) == 1 else f"concat_ws({_COLUMN_END}, {', '.join(groups)})"


def _any(conditions: Sequence[str]) -> str:
    """Join the conditions by OR as a balanced tree: SQLite limits how deep an expression is."""
    if len(conditions) <= 1:
        return f"({conditions[0]})" if conditions else "false"
    half = len(conditions) // 2
    return f"({_any(conditions[:half])} OR {_any(conditions[half:])})"


def _next_size(size: int, data: int, rows: int) -> int:
    """Return the rows of the next block, for about ``BLOCK_BYTES``; they grow slowly and shrink at once."""
    wanted = BLOCK_BYTES * rows // max(1, data)
    return max(1, min(wanted, size * 2, MOST_ROWS))
