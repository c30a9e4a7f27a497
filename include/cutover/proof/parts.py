"""How a table is cut into parts whose digests are compared.

A table whose key is one integer column is cut into ranges of the keys that the source holds, up to 10,000 rows each and less
where rows are wide. One with a uuid for its key is cut by some of the key's digits. Any other table is one part, in the
order of its key's canonical text, or, where it has no key, of whole rows: a multiset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import apsw
import psycopg

from include.cutover.proof import canonical
from include.cutover.proof.canonical import Canonical
from include.cutover.source import schema as source_schema
from include.cutover.target import catalog

ROWS = 10_000
BYTES = 8 << 20
_SAMPLE = 200  # rows from either end, from which the width of rows is estimated

Part = tuple[int, str]
"""Rows and SHA-256, in hex, of the rows' canonical text joined by newlines."""

Bounds = tuple[int, int]
"""First and last key of a range; both belong to it."""


@dataclass(frozen=True)
class ComparedTable:
    """The columns of one table that are compared.

    Attributes:
        columns: The columns that both sides store, in the target's order.
        key: Those that tell rows apart: the source's primary key, else the target's; empty where there is none.
        left_out: Columns that the target computes from others by itself.
        faults: Differences that no row can make up for: tables and columns that one side lacks.
        encoding: Of the source's text.
    """

    table: str
    columns: tuple[Canonical, ...] = ()
    key: tuple[Canonical, ...] = ()
    left_out: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    encoding: str = "utf-8"

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes the digests of the same rows."""
        texts = [str(canonical.VERSION), *(column.in_source for column in (*self.columns, *self.key))]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@dataclass(frozen=True)
class Cuts:
    """Where a table is cut into parts.

    Attributes:
        rows: Rows in the source.
        bounds: Ranges of the integer key, one after the other without a gap; empty where the table is cut by digits.
        rowid: The key is SQLite's rowid.
        digits: How many digits of the uuid name a part; 0 for a table in one part.
        small: Each part can be put together as one value, as far as a sample of the rows tells.
    """

    rows: int
    bounds: tuple[Bounds, ...] = ()
    rowid: bool = False
    digits: int = 0
    small: bool = True


@dataclass(frozen=True)
class Digests:
    """The digests of one table; parts without rows are not listed."""

    cuts: Cuts
    parts: Mapping[str, Part]

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(rows for rows, _ in self.parts.values())

    @property
    def whole(self) -> str:
        """One SHA-256 over all parts, in hex."""
        return hashlib.sha256(json.dumps(sorted(self.parts.items())).encode()).hexdigest()


def name_of(bounds: Bounds) -> str:
    """Return the name of a part that is a range."""
    return f"{bounds[0]}..{bounds[1]}"


# --- columns to compare, and cuts ---------------------------------------------------------------------------------------

_STORED_COLUMNS = """
    WITH RECURSIVE base AS (
        SELECT attribute.attrelid, attribute.attnum, attribute.atttypid AS type, attribute.atttypmod AS modifier
        FROM pg_attribute AS attribute
        JOIN pg_class AS class ON class.oid = attribute.attrelid AND class.relkind IN ('r', 'p')
        WHERE class.relnamespace = to_regnamespace(quote_ident(%(schema)s))
          AND attribute.attnum > 0 AND NOT attribute.attisdropped
        UNION ALL
        SELECT base.attrelid, base.attnum, domain.typbasetype, domain.typtypmod
        FROM base JOIN pg_type AS domain ON domain.oid = base.type AND domain.typtype = 'd'
    )
    SELECT class.relname, attribute.attname, format_type(base.type, base.modifier), attribute.attgenerated <> ''
    FROM base
    JOIN pg_type AS type ON type.oid = base.type AND type.typtype <> 'd'
    JOIN pg_class AS class ON class.oid = base.attrelid
    JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (base.attrelid, base.attnum)
    ORDER BY base.attrelid, base.attnum
"""


def target_columns(connection: psycopg.Connection, schema: str) -> dict[str, dict[str, tuple[str, bool]]]:
    """Return table → column → its type (of a domain the one below it) and whether PostgreSQL computes the column."""
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for table, column, kind, generated in connection.execute(_STORED_COLUMNS, {"schema": schema}):
        found.setdefault(table, {})[column] = (kind, generated)
    return found


def compared_tables(
    reading: apsw.Connection, connection: psycopg.Connection, schema: str, tables: Collection[str]
) -> dict[str, ComparedTable]:
    """Return the columns of each table to compare, from the catalogs of both sides. Names must agree in every letter.

    Args:
        reading: The snapshot.
        connection: A session with the target.
        schema: The application's schema.
        tables: Their names.
    """
    here, there = set(source_schema.tables(reading)), target_columns(connection, schema)
    encoding = canonical.text_encoding(reading)
    found = {}
    for table in tables:
        if table not in here or table not in there:
            sides = [name for name, known in (("source", here), ("target", there)) if table not in known]
            found[table] = ComparedTable(table, faults=tuple(f"no such table in the {side}" for side in sides))
            continue
        own = {column.name: column for column in source_schema.columns(reading, table)}
        stored = {
            name: canonical.of_column(name, kind, encoding)
            for name, (kind, generated) in there[table].items()
            if not generated and name in own
        }
        faults = [f"column {name} is only in the source" for name, column in own.items()
                  if name not in there[table] and not column.generated]  # fmt: skip
        faults += [f"column {name} is only in the target" for name, (_, generated) in there[table].items()
                   if name not in own and not generated]  # fmt: skip
        key: Sequence[str] = source_schema.shape(reading, table).key
        if not key or not set(key) <= set(stored):
            key = catalog.primary_key(connection, schema, table)
        found[table] = ComparedTable(
            table,
            tuple(stored.values()),
            tuple(stored[name] for name in key) if set(key) <= set(stored) else (),
            tuple(name for name, (_, generated) in there[table].items() if generated),
            tuple(faults),
            encoding,
        )
    return found


def cut(reading: apsw.Connection, compared: ComparedTable) -> Cuts:
    """Cut a table by the source's rows alone: the same file is always cut in the same way."""
    rows = source_schema.counts(reading, [compared.table])[compared.table]
    if not rows:
        return Cuts(0)
    most = max(1, min(ROWS, BYTES // _row_bytes(reading, compared)))
    kind = canonical.base_type(compared.key[0].type) if len(compared.key) == 1 else ""
    if kind == "uuid":
        digits = next(digits for digits in (0, 1, 2, 3, 4) if digits == 4 or rows <= most * 16**digits)
        return Cuts(rows, digits=digits, small=rows <= 2 * most * 16**digits)
    if kind in canonical.INTEGERS:
        rowid = _is_rowid(reading, compared)
        if rowid or _indexed_integers(reading, compared):
            return Cuts(rows, tuple(_ranges(reading, compared, rows, most, rowid)), rowid)
    return Cuts(rows, small=rows <= most)


def _is_rowid(reading: apsw.Connection, compared: ComparedTable) -> bool:
    """Return whether the key is another name of the rowid: always there, always an integer, and the order of the file."""
    found = source_schema.shape(reading, compared.table)
    if found.rowid is None or found.key != (compared.key[0].column,):
        return False
    indexes = reading.execute("SELECT count(*) FROM pragma_index_list(?, 'main') WHERE origin = 'pk'", (compared.table,)).get
    return not indexes


def _indexed_integers(reading: apsw.Connection, compared: ComparedTable) -> bool:
    """Return whether every key is an integer, and ranges of them can be read through an index."""
    key = compared.key[0].column
    indexed = reading.execute(
        "SELECT count(*) FROM pragma_index_list(?1, 'main') AS list JOIN pragma_index_info(list.name, 'main') AS info"
        ' WHERE info.seqno = 0 AND info.name = ?2 AND NOT list.partial AND list."unique"',
        (compared.table, key),
    ).get
    table, column = source_schema.quote(compared.table), source_schema.quote(key)
    strange = f"SELECT 1 FROM main.{table} WHERE typeof({column}) <> 'integer' LIMIT 1"  # noqa: S608
    return bool(indexed) and reading.execute(strange).get is None


def _ranges(reading: apsw.Connection, compared: ComparedTable, rows: int, most: int, rowid: bool) -> Iterator[Bounds]:
    key, table = source_schema.quote(compared.key[0].column), from_source(compared, rowid)
    low = reading.execute(f"SELECT min({key}) FROM {table}").get  # noqa: S608 - quoted identifiers
    high = reading.execute(f"SELECT max({key}) FROM {table}").get  # noqa: S608 - quoted identifiers
    if high - low < 2 * rows:
        for lower in range(low, high + 1, most):
            yield lower, min(lower + most - 1, high)
        return
    # Keys with wide gaps, such as those that hold a time: cut between rows that are there, or most ranges would be empty.
    after = f"SELECT {key} FROM {table} WHERE {key} >= ? ORDER BY {key} LIMIT 1 OFFSET {most - 1}"  # noqa: S608
    while low <= high:
        last = reading.execute(after, (low,)).get
        last = high if last is None else last
        yield low, last
        low = last + 1


def _row_bytes(reading: apsw.Connection, compared: ComparedTable) -> int:
    """Estimate the bytes of a row's canonical text from some of the first and the last rows."""
    rowid = source_schema.shape(reading, compared.table).rowid
    row, table = canonical.in_source(compared.columns), f"main.{source_schema.quote(compared.table)}"
    ends = ["", f" ORDER BY {rowid} DESC"] if rowid else [""]
    samples = [f"SELECT {row} AS t FROM {table}{end} LIMIT {_SAMPLE}" for end in ends]  # noqa: S608 - quoted identifiers
    widths = [reading.execute(f"SELECT avg(octet_length(t)) FROM ({sample})").get for sample in samples]  # noqa: S608
    return max(1, int(max(widths)))


def from_source(compared: ComparedTable, rowid: bool) -> str:
    """Return the table for a FROM clause in SQLite, read by its rows and not through an index."""
    return f"main.{source_schema.quote(compared.table)}{' NOT INDEXED' if rowid else ''}"
