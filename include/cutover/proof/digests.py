"""Digests of the content of one side: the SHA-256 of each part's canonical rows (see ``parts``).

Each side computes its own digests, in its own SQL; a part too large for that is streamed and hashed here. Memory is that of
a part.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apsw
import psycopg
from psycopg import errors, sql

from include.cutover.proof import canonical
from include.cutover.proof.canonical import Canonical
from include.cutover.proof.parts import Bounds, ComparedTable, Cuts, Part, from_source, name_of
from include.cutover.source import schema as source_schema

log = logging.getLogger(__name__)

_LONGEST_PART = 64 << 20
_LONGEST_VALUE = 1_000_000_000  # SQLite's own limit
_FETCHED_BYTES = 4 << 20
_TOO_LARGE = (errors.ProgramLimitExceeded, errors.OutOfMemory, errors.InternalError_)

# --- the source ---------------------------------------------------------------------------------------------------------


def of_source(
    reading: apsw.Connection, compared: ComparedTable, cuts: Cuts, bounds: Sequence[Bounds] | None = None
) -> dict[str, Part]:
    """Compute digests of a table of the snapshot.

    Args:
        reading: A connection that ``canonical.prepare`` had.
        compared: The table.
        cuts: Where it is cut.
        bounds: Some of the ranges; all of them when left out.
    """
    if not cuts.rows:
        return {}
    if not cuts.bounds:
        return _hashed(source_rows(reading, compared, cuts), lambda key: digits_of(key, cuts.digits))
    row = canonical.in_source(compared.columns)
    text = canonical.as_bytes(f"group_concat({row}, char({ord(canonical.BETWEEN_ROWS)}))", compared.encoding)
    query = f"SELECT count(*), {text} FROM {_in_order(compared, cuts)}"  # noqa: S608 - quoted identifiers
    found: dict[str, Part] = {}
    for one in cuts.bounds if bounds is None else bounds:
        reading.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_PART)
        try:
            rows, data = reading.execute(query, one).get
        except apsw.TooBigError:
            found |= _hashed(source_rows(reading, compared, cuts, one), _always(name_of(one)))
        else:
            if rows:
                found[name_of(one)] = (rows, hashlib.sha256(data).hexdigest())
    return found


def _in_order(compared: ComparedTable, cuts: Cuts) -> str:
    """Return SQL for the rows of a range in the order of their keys; by rowid SQLite has no other order."""
    key = source_schema.quote(compared.key[0].column)
    if cuts.rowid:
        return f"{from_source(compared, True)} WHERE {key} BETWEEN ?1 AND ?2"
    return f"(SELECT * FROM {from_source(compared, False)} WHERE {key} BETWEEN ?1 AND ?2 ORDER BY {key})"  # noqa: S608


def source_rows(
    reading: apsw.Connection, compared: ComparedTable, cuts: Cuts, bounds: Bounds | None = None, *, columns: bool = False
) -> Iterator[tuple[bytes, ...]]:
    """Read key and row in canonical text, or key and each column: in the order of the key's bytes, then of the row's.

    Args:
        reading: A connection that ``canonical.prepare`` had.
        compared: The table.
        cuts: Where it is cut.
        bounds: Only this range, in the order of its integers.
        columns: Each column by itself, and not the row as one text.
    """
    reading.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    results = ", ".join(
        canonical.as_bytes(text, compared.encoding) for text in _results(compared, columns, canonical.in_source)
    )
    if bounds is not None:
        rows, order = _in_order(compared, cuts), source_schema.quote(compared.key[0].column)
    else:
        rows, order = f"main.{source_schema.quote(compared.table)}", "1" if columns else "1, 2"
    yield from reading.execute(f"SELECT {results} FROM {rows} ORDER BY {order}", bounds or ())  # noqa: S608


def _results(compared: ComparedTable, columns: bool, text: Callable[[Sequence[Canonical]], Any]) -> list[Any]:
    key = text(compared.key or compared.columns)
    return [key, *(text([column]) for column in compared.columns)] if columns else [key, text(compared.columns)]


# --- the target ---------------------------------------------------------------------------------------------------------


def of_target(
    connection: psycopg.Connection, schema: str, compared: ComparedTable, cuts: Cuts, bounds: Sequence[Bounds] | None = None
) -> dict[str, Part]:
    """Compute, in PostgreSQL, digests of a table of the target. Only inside a transaction.

    Args:
        connection: A session with the target.
        schema: The application's schema.
        compared: The table.
        cuts: Where it is cut.
        bounds: Some of the ranges; all of them when left out.
    """
    if not cuts.rows:
        return {}  # any row of the target is too much: see ``beyond``
    if not cuts.bounds:
        found = _aggregated(connection, _grouped(schema, compared, cuts)) if cuts.small else None
        if found is None:
            found = _hashed(target_rows(connection, schema, compared), lambda key: digits_of(key, cuts.digits))
        return found
    wanted = list(cuts.bounds if bounds is None else bounds)
    if usable_index(connection, schema, compared):
        found = _aggregated(connection, _by_ranges(schema, compared, wanted))
    else:
        found = _aggregated(connection, _in_one_pass(schema, compared, wanted))
        found = None if found is None else {name_of(wanted[int(number) - 1]): part for number, part in found.items()}
    if found is not None:
        return found
    if len(wanted) == 1:
        return _hashed(target_rows(connection, schema, compared, wanted[0]), _always(name_of(wanted[0])))
    half = len(wanted) // 2
    return of_target(connection, schema, compared, cuts, wanted[:half]) | of_target(
        connection, schema, compared, cuts, wanted[half:]
    )


def _aggregated(connection: psycopg.Connection, query: sql.Composed) -> dict[str, Part] | None:
    """Return the parts that a query gives; None where a part is too large for PostgreSQL to put together."""
    try:
        with connection.transaction():
            return {name: (rows, digest) for name, rows, digest in connection.execute(query)}
    except _TOO_LARGE:
        log.info("a part is too large for one value; its rows are streamed")
        return None


_DIGEST = sql.SQL("encode(sha256(convert_to(string_agg({}), 'UTF8')), 'hex')")


def _names(schema: str, compared: ComparedTable) -> dict[str, sql.Composable]:
    return {
        "table": sql.SQL("{} AS own").format(sql.Identifier(schema, compared.table)),
        "key": canonical.in_target(compared.key or compared.columns),
        # With its table, or a column named like one of the names given here would take its place.
        "column": sql.Identifier("own", compared.key[0].column) if compared.key else sql.SQL("NULL"),
        "row": canonical.in_target(compared.columns),
        "digest": _DIGEST.format(sql.SQL("t, E'\\n'")),
        "digest_by_place": _DIGEST.format(sql.SQL("t, E'\\n' ORDER BY place")),
        "digest_by_key": _DIGEST.format(sql.SQL('t, E\'\\n\' ORDER BY k COLLATE "C", t COLLATE "C"')),
    }


def _by_ranges(schema: str, compared: ComparedTable, bounds: Sequence[Bounds]) -> sql.Composed:
    return sql.SQL(
        "SELECT lower || '..' || upper, part.* FROM unnest({lowers}, {uppers}) AS range (lower, upper), LATERAL ("
        " SELECT count(*) AS rows, {digest} FROM"
        " (SELECT {row} AS t FROM {table} WHERE {column} BETWEEN range.lower AND range.upper ORDER BY {column}) AS one"
        ") AS part WHERE part.rows > 0"
    ).format(lowers=_bigints(bounds, 0), uppers=_bigints(bounds, 1), **_names(schema, compared))


def _in_one_pass(schema: str, compared: ComparedTable, bounds: Sequence[Bounds]) -> sql.Composed:
    return sql.SQL(
        "SELECT number::text, count(*), {digest_by_place} FROM ("
        "SELECT width_bucket({column}::bigint, {lowers}) AS number, {column} AS place, {row} AS t FROM {table}"
        " WHERE {column} BETWEEN {low} AND {high}) AS one GROUP BY number"
    ).format(
        lowers=_bigints(bounds, 0),
        low=sql.Literal(bounds[0][0]),
        high=sql.Literal(bounds[-1][1]),
        **_names(schema, compared),
    )


def _bigints(bounds: Sequence[Bounds], end: int) -> sql.Composed:
    return sql.SQL("{}::bigint[]").format(sql.Literal(f"{{{','.join(str(bound[end]) for bound in bounds)}}}"))


def _grouped(schema: str, compared: ComparedTable, cuts: Cuts) -> sql.Composed:
    return sql.SQL(
        "SELECT substr(k, {first}, {digits}), count(*), {digest_by_key} FROM"
        " (SELECT {key} AS k, {row} AS t FROM {table} OFFSET 0) AS one GROUP BY 1"
    ).format(first=sql.Literal(9 - cuts.digits), digits=sql.Literal(cuts.digits), **_names(schema, compared))


def usable_index(connection: psycopg.Connection, schema: str, compared: ComparedTable) -> bool:
    """Return whether PostgreSQL can read ranges of the key through an index; else each range reads the whole table."""
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
        query, [sql.Identifier(schema, compared.table).as_string(connection), compared.key[0].column]
    ).fetchone()
    return row == (True,)


def beyond(
    connection: psycopg.Connection, schema: str, compared: ComparedTable, cuts: Cuts, limit: int
) -> tuple[int, list[bytes]]:
    """Count the rows of the target that no part covers, as their keys lie beyond the source's, and return the first keys.

    Args:
        connection: A session with the target.
        schema: The application's schema.
        compared: The table.
        cuts: Where the source's rows are cut.
        limit: Keys at most.
    """
    if cuts.rows and not cuts.bounds:
        return 0, []
    names = _names(schema, compared)
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
    connection: psycopg.Connection,
    schema: str,
    compared: ComparedTable,
    bounds: Bounds | None = None,
    *,
    columns: bool = False,
) -> Iterator[tuple[bytes, ...]]:
    """Read the target as ``source_rows`` reads the source. Only inside a transaction, one at a time on a connection.

    Args:
        connection: A session with the target.
        schema: The application's schema.
        compared: The table.
        bounds: Only this range, in the order of its integers.
        columns: Each column by itself, and not the row as one text.
    """
    names = _names(schema, compared)
    where: sql.Composable = sql.SQL("")
    order: sql.Composable = sql.SQL("1" if columns else "1, 2")
    if bounds is not None:
        where = sql.SQL("WHERE {} BETWEEN {} AND {}").format(names["column"], *(sql.Literal(bound) for bound in bounds))
        order = sql.SQL("{column}").format(**names)
    results = [sql.SQL("convert_to({}, 'UTF8')").format(text) for text in _results(compared, columns, canonical.in_target)]
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
    """Return the part that a row with this uuid belongs to: digits that differ between uuids of every version."""
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
