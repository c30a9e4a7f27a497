# ruff: noqa: S608  every identifier is quoted, every value is bound
"""The listing for people: every touched value and every row taken out, one JSON object per line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import apsw

from include.cutover import files
from include.cutover.copying.conversion import value_class
from include.cutover.decisions import decided_snapshot
from include.cutover.decisions.decided_snapshot import Decided, Listing, beside
from include.cutover.files import sync_folder
from include.cutover.masking import mask
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import TableShape, quote

LISTING = "touched.jsonl"

_SHOWN_CHARACTERS = 80
_READ_CHARACTERS = 4_000  # of a value, before secrets in it are masked and it is cut


def write_listing(decided: Decided, plan: Plan, folder: Path) -> Listing:
    """Write every touched value and every row taken out, one JSON object a line; the same bytes each time."""
    files.make_private(folder)
    path, partial = folder / LISTING, folder / f".{LISTING}.partial"
    digest, lines = hashlib.sha256(), 0
    with files.disk_errors(folder):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with os.fdopen(descriptor, "wb") as writing:
            for item in _listed(decided, plan):
                line = json.dumps(item, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
                digest.update(line)
                writing.write(line)
                lines += 1
            writing.flush()
            os.fsync(writing.fileno())
        partial.replace(path)
        sync_folder(folder)
    return Listing(path, digest.hexdigest(), lines)


def _listed(decided: Decided, plan: Plan) -> Iterator[dict[str, Any]]:
    with decided_snapshot.opened(decided) as connection:
        encoding = decided_snapshot.text_encoding(connection)
        for t, table in decided_snapshot.recorded_tables(connection):
            shape, secret = source_schema.shape(connection, table), plan.tables[table].secret
            names = ", ".join(decided_snapshot.key_columns(shape, "original"))
            touched = connection.execute("SELECT DISTINCT c FROM record.touched WHERE t = ? ORDER BY c", (t,)).fetchall()
            for (column,) in touched:
                yield from _values(connection, shape, t, str(column), names, secret, encoding)
            yield from _rows(connection, shape, t, names, secret, encoding)


def _values(
    connection: apsw.Connection, shape: TableShape, t: int, column: str, names: str, secret: Collection[str], encoding: str
) -> Iterator[dict[str, Any]]:
    c = quote(column)
    places = f"(SELECT place, decision, foreign_key FROM record.touched WHERE t = {t} AND c = ?)"
    query = (
        f"SELECT x.decision, x.foreign_key, {decided_snapshot.cell(f'original.{c}')},"
        f" {decided_snapshot.cell(f'main.{c}')}, {names}"
        f" FROM {beside(shape, places, 'original', 'main')} ORDER BY x.place"
    )
    for decision, key, was, before, became, after, *names_of in connection.execute(query, (column,)):
        old, new = _cell(was, before, encoding), _cell(became, after, encoding)
        line = {
            "table": shape.table,
            "key": decided_snapshot.row_name(shape, names_of, secret, encoding),
            "column": column,
            "decision": decision,
            **({"foreign_key": key} if key else {}),
            "before": old[0],
            "after": new[0],
        }
        if column not in secret:
            line |= {"was": old[1], "became": new[1]}
        yield line


def _rows(
    connection: apsw.Connection, shape: TableShape, t: int, names: str, secret: Collection[str], encoding: str
) -> Iterator[dict[str, Any]]:
    places = f"(SELECT place, foreign_key, follows, round FROM record.removed WHERE t = {t})"
    query = f"SELECT x.foreign_key, x.follows, {names} FROM {beside(shape, places, 'original')} ORDER BY x.round, x.place"
    for key, follows, *names_of in connection.execute(query):
        yield {
            "table": shape.table,
            "key": decided_snapshot.row_name(shape, names_of, secret, encoding),
            "column": None,
            "decision": "quarantine",
            "foreign_key": key,
            "before": "a row",
            "after": "a row in quarantine",
            "because": "the row that it refers to is in quarantine" if follows else "it refers to no row",
        }


def _cell(kind: str, value: Any, encoding: str) -> tuple[str, str | None]:
    """Return class and content of a value for the listing."""
    if kind == "text":
        try:
            text = value.decode(encoding)
        except UnicodeDecodeError:
            return f"text of {len(value)} bytes that are not valid", _cut(value.decode(encoding, "backslashreplace"))
        return value_class(text), _cut(text)
    if kind == "blob":
        return value_class(value), _cut(value[:_SHOWN_CHARACTERS].hex())
    return value_class(value), None if value is None else _cut(str(value))


def _cut(text: str) -> str:
    shown = text[:_READ_CHARACTERS]
    if "@" in shown or shown.upper() != shown.lower():  # without a letter it cannot contain the name of a secret
        shown = mask(shown)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[: _SHOWN_CHARACTERS - 1]}…"
