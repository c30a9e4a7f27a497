"""Digests of the content of one side: how a table is cut into parts, and the SHA-256 of each part's canonical rows.

A table whose key is one integer column is cut into ranges of the keys that the source holds, up to 10,000 rows each and less
where rows are wide. One with a uuid for its key is cut by some of the key's digits. Any other table is one part, in the
order of its key's canonical text, or, where it has no key, of whole rows: a multiset. Each side computes its own digests, in
its own SQL; a part too large for that is streamed and hashed here. Memory is that of a part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg
from psycopg import errors, sql

from include.cutover.files import write_atomically
from include.cutover.proof import canonical
from include.cutover.proof.canonical import Canonical
from include.cutover.source import schema as source_schema
from include.cutover.target import catalog

log = logging.getLogger(__name__)

ROWS = 10_000
BYTES = 8 << 20
_SAMPLE = 200  # rows from either end that tell how wide rows are
_LONGEST_PART = 64 << 20
_LONGEST_VALUE = 1_000_000_000  # SQLite's own limit
_FETCHED_BYTES = 4 << 20
_TOO_LARGE = (errors.ProgramLimitExceeded, errors.OutOfMemory, errors.InternalError_)

Part = tuple[int, str]
"""Rows and SHA-256, in hex, of the rows' canonical text joined by newlines."""

Bounds = tuple[int, int]
"""First and last key of a range; both belong to it."""


@dataclass(frozen=True)
class Shape:
    """What is compared of one table.

    Attributes:
        columns: The columns that both sides store, in the target's order.
        key: Those that tell rows apart: the source's primary key, else the target's; empty where there is none.
        left_out: Columns that the target computes from others by itself.
        faults: What cannot be equal whatever the rows hold: tables and columns that one side lacks.
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
    """The name of a part that is a range."""
    return f"{bounds[0]}..{bounds[1]}"


# --- what is compared, and where it is cut ------------------------------------------------------------------------------

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
    """Table → column → its type, of a domain the one below it, and whether PostgreSQL computes the column by itself."""
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for table, column, kind, generated in connection.execute(_STORED_COLUMNS, {"schema": schema}):
        found.setdefault(table, {})[column] = (kind, generated)
    return found


def shapes(
    reading: apsw.Connection, connection: psycopg.Connection, schema: str, tables: Collection[str]
) -> dict[str, Shape]:
    """What is compared of each table, from the catalogs of both sides. Names must agree in every letter."""
    here, there = set(source_schema.tables(reading)), target_columns(connection, schema)
    encoding = canonical.text_encoding(reading)
    found = {}
    for table in tables:
        if table not in here or table not in there:
            sides = [name for name, known in (("source", here), ("target", there)) if table not in known]
            found[table] = Shape(table, faults=tuple(f"no such table in the {side}" for side in sides))
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
        found[table] = Shape(
            table,
            tuple(stored.values()),
            tuple(stored[name] for name in key) if set(key) <= set(stored) else (),
            tuple(name for name, (_, generated) in there[table].items() if generated),
            tuple(faults),
            encoding,
        )
    return found


def cut(reading: apsw.Connection, shape: Shape) -> Cuts:
    """Where a table is cut, decided by the source's rows alone: the same file is always cut in the same way."""
    rows = source_schema.counts(reading, [shape.table])[shape.table]
    if not rows:
        return Cuts(0)
    most = max(1, min(ROWS, BYTES // _row_bytes(reading, shape)))
    kind = canonical.base_type(shape.key[0].type) if len(shape.key) == 1 else ""
    if kind == "uuid":
        digits = next(digits for digits in (0, 1, 2, 3, 4) if digits == 4 or rows <= most * 16**digits)
        return Cuts(rows, digits=digits, small=rows <= 2 * most * 16**digits)
    if kind in canonical.INTEGERS:
        rowid = _is_rowid(reading, shape)
        if rowid or _indexed_integers(reading, shape):
            return Cuts(rows, tuple(_ranges(reading, shape, rows, most, rowid)), rowid)
    return Cuts(rows, small=rows <= most)


def _is_rowid(reading: apsw.Connection, shape: Shape) -> bool:
    """Whether the key is another name of the rowid: always there, always an integer, and the order of the file."""
    found = source_schema.shape(reading, shape.table)
    if found.rowid is None or found.key != (shape.key[0].column,):
        return False
    indexes = reading.execute("SELECT count(*) FROM pragma_index_list(?, 'main') WHERE origin = 'pk'", (shape.table,)).get
    return not indexes


def _indexed_integers(reading: apsw.Connection, shape: Shape) -> bool:
    """Whether every key is an integer, and ranges of them can be read through an index."""
    key = shape.key[0].column
    indexed = reading.execute(
        "SELECT count(*) FROM pragma_index_list(?1, 'main') AS list JOIN pragma_index_info(list.name, 'main') AS info"
        ' WHERE info.seqno = 0 AND info.name = ?2 AND NOT list.partial AND list."unique"',
        (shape.table, key),
    ).get
    table, column = source_schema.quote(shape.table), source_schema.quote(key)
    strange = f"SELECT 1 FROM main.{table} WHERE typeof({column}) <> 'integer' LIMIT 1"  # noqa: S608
    return bool(indexed) and reading.execute(strange).get is None


def _ranges(reading: apsw.Connection, shape: Shape, rows: int, most: int, rowid: bool) -> Iterator[Bounds]:
    key, table = source_schema.quote(shape.key[0].column), _from(shape, rowid)
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


def _row_bytes(reading: apsw.Connection, shape: Shape) -> int:
    """How wide the rows' canonical text is, told from some of the first and the last."""
    rowid = source_schema.shape(reading, shape.table).rowid
    row, table = canonical.in_source(shape.columns), f"main.{source_schema.quote(shape.table)}"
    ends = ["", f" ORDER BY {rowid} DESC"] if rowid else [""]
    samples = [f"SELECT {row} AS t FROM {table}{end} LIMIT {_SAMPLE}" for end in ends]  # noqa: S608 - quoted identifiers
    widths = [reading.execute(f"SELECT avg(octet_length(t)) FROM ({sample})").get for sample in samples]  # noqa: S608
    return max(1, int(max(widths)))


def _from(shape: Shape, rowid: bool) -> str:
    return f"main.{source_schema.quote(shape.table)}{' NOT INDEXED' if rowid else ''}"


# --- the source ---------------------------------------------------------------------------------------------------------


def of_source(reading: apsw.Connection, shape: Shape, cuts: Cuts, bounds: Sequence[Bounds] | None = None) -> dict[str, Part]:
    """Digests of a table of the snapshot.

    Args:
        reading: A connection that ``canonical.prepare`` had.
        bounds: Some of the ranges; all of them when left out.
    """
    if not cuts.rows:
        return {}
    if not cuts.bounds:
        return _hashed(source_rows(reading, shape, cuts), lambda key: digits_of(key, cuts.digits))
    row = canonical.in_source(shape.columns)
    text = canonical.as_bytes(f"group_concat({row}, char({ord(canonical.BETWEEN_ROWS)}))", shape.encoding)
    query = f"SELECT count(*), {text} FROM {_in_order(shape, cuts)}"  # noqa: S608 - quoted identifiers
    found: dict[str, Part] = {}
    for one in cuts.bounds if bounds is None else bounds:
        reading.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_PART)
        try:
            rows, data = reading.execute(query, one).get
        except apsw.TooBigError:
            found |= _hashed(source_rows(reading, shape, cuts, one), _always(name_of(one)))
        else:
            if rows:
                found[name_of(one)] = (rows, hashlib.sha256(data).hexdigest())
    return found


def _in_order(shape: Shape, cuts: Cuts) -> str:
    """The rows of a range in the order of their keys; by rowid SQLite has no other order."""
    key = source_schema.quote(shape.key[0].column)
    if cuts.rowid:
        return f"{_from(shape, True)} WHERE {key} BETWEEN ?1 AND ?2"
    return f"(SELECT * FROM {_from(shape, False)} WHERE {key} BETWEEN ?1 AND ?2 ORDER BY {key})"  # noqa: S608


def source_rows(
    reading: apsw.Connection, shape: Shape, cuts: Cuts, bounds: Bounds | None = None, *, columns: bool = False
) -> Iterator[tuple[bytes, ...]]:
    """Key and row in canonical text, or key and each column: in the order of the key's bytes, then of the row's.

    Args:
        bounds: Only this range, in the order of its integers.
    """
    reading.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    results = ", ".join(canonical.as_bytes(text, shape.encoding) for text in _results(shape, columns, canonical.in_source))
    if bounds is not None:
        rows, order = _in_order(shape, cuts), source_schema.quote(shape.key[0].column)
    else:
        rows, order = f"main.{source_schema.quote(shape.table)}", "1" if columns else "1, 2"
    yield from reading.execute(f"SELECT {results} FROM {rows} ORDER BY {order}", bounds or ())  # noqa: S608


def _results(shape: Shape, columns: bool, text: Callable[[Sequence[Canonical]], Any]) -> list[Any]:
    key = text(shape.key or shape.columns)
    return [key, *(text([column]) for column in shape.columns)] if columns else [key, text(shape.columns)]


# --- the target ---------------------------------------------------------------------------------------------------------


def of_target(
    connection: psycopg.Connection, schema: str, shape: Shape, cuts: Cuts, bounds: Sequence[Bounds] | None = None
) -> dict[str, Part]:
    """Digests of a table of the target, computed by PostgreSQL. Only inside a transaction.

    Args:
        bounds: Some of the ranges; all of them when left out.
    """
    if not cuts.rows:
        return {}  # whatever the target holds is too much: see ``beyond``
    if not cuts.bounds:
        found = _aggregated(connection, _grouped(schema, shape, cuts)) if cuts.small else None
        if found is None:
            found = _hashed(target_rows(connection, schema, shape), lambda key: digits_of(key, cuts.digits))
        return found
    wanted = list(cuts.bounds if bounds is None else bounds)
    if usable_index(connection, schema, shape):
        found = _aggregated(connection, _by_ranges(schema, shape, wanted))
    else:
        found = _aggregated(connection, _in_one_pass(schema, shape, wanted))
        found = None if found is None else {name_of(wanted[int(number) - 1]): part for number, part in found.items()}
    if found is not None:
        return found
    if len(wanted) == 1:
        return _hashed(target_rows(connection, schema, shape, wanted[0]), _always(name_of(wanted[0])))
    half = len(wanted) // 2
    return of_target(connection, schema, shape, cuts, wanted[:half]) | of_target(
        connection, schema, shape, cuts, wanted[half:]
    )


def _aggregated(connection: psycopg.Connection, query: sql.Composed) -> dict[str, Part] | None:
    """The parts that a query gives; None where a part is too large for PostgreSQL to put together."""
    try:
        with connection.transaction():
            return {name: (rows, digest) for name, rows, digest in connection.execute(query)}
    except _TOO_LARGE:
        log.info("a part is too large for one value; its rows are streamed")
        return None


_DIGEST = sql.SQL("encode(sha256(convert_to(string_agg({}), 'UTF8')), 'hex')")


def _names(schema: str, shape: Shape) -> dict[str, sql.Composable]:
    return {
        "table": sql.SQL("{} AS own").format(sql.Identifier(schema, shape.table)),
        "key": canonical.in_target(shape.key or shape.columns),
        # With its table, or a column named like one of the names given here would take its place.
        "column": sql.Identifier("own", shape.key[0].column) if shape.key else sql.SQL("NULL"),
        "row": canonical.in_target(shape.columns),
        "digest": _DIGEST.format(sql.SQL("t, E'\\n'")),
        "digest_by_place": _DIGEST.format(sql.SQL("t, E'\\n' ORDER BY place")),
        "digest_by_key": _DIGEST.format(sql.SQL('t, E\'\\n\' ORDER BY k COLLATE "C", t COLLATE "C"')),
    }


def _by_ranges(schema: str, shape: Shape, bounds: Sequence[Bounds]) -> sql.Composed:
    return sql.SQL(
        "SELECT lower || '..' || upper, part.* FROM unnest({lowers}, {uppers}) AS range (lower, upper), LATERAL ("
        " SELECT count(*) AS rows, {digest} FROM"
        " (SELECT {row} AS t FROM {table} WHERE {column} BETWEEN range.lower AND range.upper ORDER BY {column}) AS one"
        ") AS part WHERE part.rows > 0"
    ).format(lowers=_bigints(bounds, 0), uppers=_bigints(bounds, 1), **_names(schema, shape))


def _in_one_pass(schema: str, shape: Shape, bounds: Sequence[Bounds]) -> sql.Composed:
    return sql.SQL(
        "SELECT number::text, count(*), {digest_by_place} FROM ("
        "SELECT width_bucket({column}::bigint, {lowers}) AS number, {column} AS place, {row} AS t FROM {table}"
        " WHERE {column} BETWEEN {low} AND {high}) AS one GROUP BY number"
    ).format(
        lowers=_bigints(bounds, 0),
        low=sql.Literal(bounds[0][0]),
        high=sql.Literal(bounds[-1][1]),
        **_names(schema, shape),
    )


def _bigints(bounds: Sequence[Bounds], end: int) -> sql.Composed:
    return sql.SQL("{}::bigint[]").format(sql.Literal(f"{{{','.join(str(bound[end]) for bound in bounds)}}}"))


def _grouped(schema: str, shape: Shape, cuts: Cuts) -> sql.Composed:
    return sql.SQL(
        "SELECT substr(k, {first}, {digits}), count(*), {digest_by_key} FROM"
        " (SELECT {key} AS k, {row} AS t FROM {table} OFFSET 0) AS one GROUP BY 1"
    ).format(first=sql.Literal(9 - cuts.digits), digits=sql.Literal(cuts.digits), **_names(schema, shape))


def usable_index(connection: psycopg.Connection, schema: str, shape: Shape) -> bool:
    """Whether PostgreSQL can read ranges of the key through an index. Without one each range would read the whole table."""
    query = """
        SELECT EXISTS (
            SELECT FROM pg_index AS index
            JOIN pg_class AS class ON class.oid = index.indexrelid
            JOIN pg_am AS method ON method.oid = class.relam AND method.amname = 'btree'
            JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (index.indrelid, index.indkey[0])
            WHERE index.indrelid = %s::regclass AND index.indisvalid AND index.indpred IS NULL AND attribute.attname = %s
        )
    """
    row = connection.execute(
        query, [sql.Identifier(schema, shape.table).as_string(connection), shape.key[0].column]
    ).fetchone()
    return row == (True,)


def beyond(connection: psycopg.Connection, schema: str, shape: Shape, cuts: Cuts, limit: int) -> tuple[int, list[bytes]]:
    """Rows of the target that no part covers, as their keys lie beyond the source's: their number, and the first keys."""
    if cuts.rows and not cuts.bounds:
        return 0, []
    names = _names(schema, shape)
    where: sql.Composable = sql.SQL("")
    if cuts.bounds:
        limits = {"low": sql.Literal(cuts.bounds[0][0]), "high": sql.Literal(cuts.bounds[-1][1])}
        where = sql.SQL("WHERE {column} < {low} OR {column} > {high} OR {column} IS NULL").format(**limits, **names)
    row = connection.execute(sql.SQL("SELECT count(*) FROM {table} {where}").format(where=where, **names)).fetchone()
    count = int(row[0]) if row else 0
    if not count:
        return 0, []
    order = sql.SQL("{column}" if cuts.bounds else "1").format(**names)
    query = sql.SQL("SELECT convert_to({key}, 'UTF8') FROM {table} {where} ORDER BY {order} LIMIT {limit}")
    found = connection.execute(query.format(where=where, order=order, limit=sql.Literal(limit), **names), binary=True)
    return count, [key for (key,) in found]


def target_rows(
    connection: psycopg.Connection, schema: str, shape: Shape, bounds: Bounds | None = None, *, columns: bool = False
) -> Iterator[tuple[bytes, ...]]:
    """The same as ``source_rows``, from the target. Only inside a transaction, one at a time on a connection."""
    names = _names(schema, shape)
    where: sql.Composable = sql.SQL("")
    order: sql.Composable = sql.SQL("1" if columns else "1, 2")
    if bounds is not None:
        where = sql.SQL("WHERE {} BETWEEN {} AND {}").format(names["column"], *(sql.Literal(bound) for bound in bounds))
        order = sql.SQL("{column}").format(**names)
    results = [sql.SQL("convert_to({}, 'UTF8')").format(text) for text in _results(shape, columns, canonical.in_target)]
    query = sql.SQL("SELECT {} FROM {} {} ORDER BY {}").format(sql.SQL(", ").join(results), names["table"], where, order)
    with connection.cursor(name="cutover_rows") as cursor:
        cursor.execute(query, binary=True)
        number = 1
        while rows := cursor.fetchmany(number):
            yield from rows
            width = sum(len(cell) for row in rows for cell in row) // len(rows)
            number = max(1, min(number * 4, 5_000, _FETCHED_BYTES // max(1, width)))


# --- rows that are hashed here ------------------------------------------------------------------------------------------


def digits_of(key: bytes, digits: int) -> str:
    """The part that a row with this uuid belongs to: digits that differ between uuids of every version."""
    return key[8 - digits : 8].decode(errors="replace") if digits else ""


def _always(name: str) -> Callable[[bytes], str]:
    return lambda _: name


def _hashed(rows: Iterable[tuple[bytes, ...]], part_of: Callable[[bytes], str]) -> dict[str, Part]:
    counts: dict[str, int] = {}
    hashes: dict[str, Any] = {}
    between = canonical.BETWEEN_ROWS.encode()
    for key, row in rows:
        name = part_of(key)
        if name in hashes:
            counts[name] += 1
            hashes[name].update(between + row)
        else:
            counts[name], hashes[name] = 1, hashlib.sha256(row)
    return {name: (counts[name], digest.hexdigest()) for name, digest in hashes.items()}


# --- the source's digests, kept -----------------------------------------------------------------------------------------


def load(stored: Path | None, identity: Sequence[Any], wanted: Mapping[str, Shape]) -> dict[str, Digests]:
    """The digests in the file that were computed from this snapshot in this way; none where the file is of no use."""
    try:
        content: dict[str, Any] = json.loads(stored.read_bytes()) if stored is not None else {}
        if content.get("snapshot") != list(identity):
            return {}
        found = {}
        for table, item in content["tables"].items():
            if table in wanted and item["fingerprint"] == wanted[table].fingerprint:
                bounds = tuple((lower, upper) for lower, upper in item["bounds"])
                cuts = Cuts(item["rows"], bounds, item["rowid"], item["digits"], item["small"])
                found[table] = Digests(cuts, {name: (rows, digest) for name, (rows, digest) in item["parts"].items()})
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def store(stored: Path, identity: Sequence[Any], wanted: Mapping[str, Shape], digests: Mapping[str, Digests]) -> None:
    """Write the digests, readable by their owner only; those of other tables of the same snapshot stay."""
    tables: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        content = json.loads(stored.read_bytes())
        tables = content["tables"] if content.get("snapshot") == list(identity) else {}
    for table, item in digests.items():
        cuts = asdict(item.cuts)
        tables[table] = {"fingerprint": wanted[table].fingerprint, **cuts, "parts": dict(item.parts)}
    write_atomically(stored, json.dumps({"snapshot": list(identity), "tables": tables}).encode(), 0o600)


def beside(snapshot: Path) -> Path:
    """Where the digests of a backup are kept: beside it, so that whoever has the backup has them."""
    return snapshot.with_name(f"{snapshot.name}.digests.json")


def identity_of(snapshot: Path) -> list[Any]:
    """What tells a file from another without reading it."""
    found = snapshot.stat()
    return [str(snapshot.resolve()), found.st_size, found.st_mtime_ns, found.st_ino]
