"""The decided snapshot: copy and proof read it in place of the backup when the plan's decisions touch a row.

Three files lie beside one another, readable by their owner only: the SQLite file itself, a clone of the backup in which the
decisions were carried out; its *record*, an SQLite file that names every touched value and every row taken out by its place;
and a manifest, written last: without it the other two do not count.

A *place* identifies a row in the backup and in the decided snapshot: its rowid, or, in a table WITHOUT ROWID, its key
spelled out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote as percent_encoded

import apsw

from include.cutover.errors import CannotCheck
from include.cutover.files import write_atomically
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.source.schema import TableShape, quote, readable

_VERSION = 1
HIDDEN = "***"

# The record, made inside the decided snapshot's connection: attached files must share one text encoding.
RECORD_TABLES = """
    CREATE TABLE record.tables (t INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE record.touched (
        t INTEGER, c TEXT, place, decision TEXT NOT NULL, foreign_key TEXT, PRIMARY KEY (t, c, place)) WITHOUT ROWID;
    CREATE TABLE record.removed (
        t INTEGER, place, foreign_key TEXT NOT NULL, follows INTEGER NOT NULL, round INTEGER NOT NULL,
        PRIMARY KEY (t, place)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Listing:
    """The file that lists every touched value and row, one JSON object per line."""

    file: Path
    sha256: str
    lines: int


@dataclass(frozen=True)
class Decided:
    """The file that copy and proof read, and the changes made to it.

    Attributes:
        snapshot: The verified backup.
        file: The decided snapshot; the backup itself when no decision touches a row.
        sha256: Of ``file``, in hex; empty when it is the backup.
        touched: Table → decision → values changed by it. ``strip_nul, empty_as_null`` is a value that both changed.
        quarantined: Table → rows taken out.
        foreign_keys: ``table.foreign key`` → rows that were taken out or lost their reference because of it.
        listing: Names every touched row; None when it was not asked for, or there is nothing to name.
    """

    snapshot: Path
    file: Path
    sha256: str
    touched: Mapping[str, Mapping[str, int]]
    quarantined: Mapping[str, int]
    foreign_keys: Mapping[str, int]
    listing: Listing | None = None

    @property
    def made(self) -> bool:
        """True when there is a decided snapshot of its own."""
        return self.file != self.snapshot

    @property
    def record(self) -> Path:
        """The record of a decided snapshot that was made."""
        return record_of(self.file)

    def expected_rows(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return table → rows that the target must hold, from the rows of the backup (its manifest has them)."""
        return {table: count - self.quarantined.get(table, 0) for table, count in rows.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for evidence and manifest; ``from_dict`` reads them again."""
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Decided:
        """Read the fields that ``as_dict`` returns."""
        found = cls(**fields)
        listing = None
        if isinstance(fields["listing"], dict):
            listing = Listing(**{**fields["listing"], "file": Path(fields["listing"]["file"])})
        return replace(found, snapshot=Path(found.snapshot), file=Path(found.file), listing=listing)


def untouched(snapshot: Path) -> Decided:
    """Return the backup itself, for when no decision touches a row."""
    return Decided(snapshot, snapshot, "", {}, {}, {})


def record_of(decided: Path) -> Path:
    """Return where the record of a decided snapshot lies."""
    return decided.with_name(f"{decided.name}.record")


def manifest_of(decided: Path) -> Path:
    """Return where the manifest of a decided snapshot lies."""
    return decided.with_name(f"{decided.name}.manifest.json")


# --- the manifest -------------------------------------------------------------------------------------------------------


def stamp(path: Path) -> list[Any]:
    """Return path, size, time of change and inode of a file: they identify it without reading it."""
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns, found.st_ino]


def publish(decided: Decided, fingerprint: str) -> None:
    """Write the manifest, the last of the three files.

    Args:
        decided: The decided snapshot.
        fingerprint: Of the decisions that were carried out.
    """
    content = {
        "version": _VERSION,
        "fingerprint": fingerprint,
        "stamps": [stamp(path) for path in (decided.snapshot, decided.file, decided.record)],
        "decided": replace(decided, listing=None).as_dict(),
    }
    write_atomically(manifest_of(decided.file), json.dumps(content, indent=2, ensure_ascii=False).encode(), 0o600)


def load(decided: Path, snapshot: Path, fingerprint: str | None = None) -> Decided | None:
    """Read the manifest of a decided snapshot; None where there is none, not a whole one, or one of another backup.

    Args:
        decided: The decided snapshot.
        snapshot: The backup that it must have been made from.
        fingerprint: Of the decisions that it must have been made with; None for any.
    """
    try:
        content = json.loads(manifest_of(decided).read_bytes())
        wanted = [stamp(path) for path in (snapshot, decided, record_of(decided))]
        if content["version"] != _VERSION or content["stamps"] != wanted:
            return None
        if fingerprint is not None and content["fingerprint"] != fingerprint:
            return None
        return Decided.from_dict(content["decided"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def same_snapshot(decided: Decided) -> bool:
    """Check that the backup is still the file that the decided snapshot was made from."""
    try:
        stamps = json.loads(manifest_of(decided.file).read_bytes())["stamps"]
        return bool(stamps[0] == stamp(decided.snapshot))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


# --- reading the three together -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(decided: Decided) -> Iterator[apsw.Connection]:
    """Open the decided snapshot as ``main``, the backup as ``original``, the record as ``record``; none can be changed."""
    with snapshots.snapshot(decided.file) as connection:
        attach(connection, decided.snapshot, "original")
        attach(connection, decided.record, "record")
        yield connection


def attach(connection: apsw.Connection, path: Path, name: str) -> None:
    """Attach a file without a writer, as immutable."""
    connection.execute(f"ATTACH ? AS {name}", (f"file:{percent_encoded(str(path.absolute()))}?immutable=1",))


def place(shape: TableShape, alias: str) -> str:
    """Return SQL for the place of a row of ``alias``.

    Raises:
        CannotCheck: When columns shadow every name of the rowid.
    """
    if shape.rowid is not None:
        return f"{alias}.{shape.rowid}"
    if not shape.order:
        raise CannotCheck(
            "the rows of this table cannot be identified",
            where=f"table {shape.table}",
            expected="a rowid, or WITHOUT ROWID",
            found="columns named rowid, _rowid_ and oid",
            do="Remove the decisions for this table from the plan, and correct its rows in the source.",
        )
    cells = (f"{alias}.{quote(column.name)}" for column in shape.order)
    return "(" + " || ',' || ".join(f"typeof({cell}) || ':' || hex(CAST({cell} AS BLOB))" for cell in cells) + ")"


def beside(shape: TableShape, places: str, *schemas: str) -> str:
    """Return a FROM clause: the rows at ``places`` in each schema.

    The order of the join is fixed: by rowid from the places, otherwise from one scan of the first schema's table.

    Args:
        shape: Of the table.
        places: A query or table with a column ``place``; it gets the alias ``x``.
        *schemas: ``main`` gives the table the alias ``main``, ``main r`` the alias ``r``.
    """
    table = quote(shape.table)
    named = [(schema.partition(" ")[0], schema.rpartition(" ")[2]) for schema in schemas]
    if shape.rowid is not None:
        joined = (f"CROSS JOIN {schema}.{table} AS {alias} ON {place(shape, alias)} = x.place" for schema, alias in named)
        return f"{places} AS x {' '.join(joined)}"
    (schema, first), *others = named
    clause = f"{schema}.{table} AS {first} CROSS JOIN {places} AS x ON x.place = {place(shape, first)}"
    for schema, alias in others:
        same = " AND ".join(f"{alias}.{quote(key.name)} = {first}.{quote(key.name)}" for key in shape.order)
        clause += f" CROSS JOIN {schema}.{table} AS {alias} ON {same}"
    return clause


def cell(expression: str) -> str:
    """Return SQL for the storage class of a value and the value, text as its bytes."""
    return f"typeof({expression}), {readable(expression)}"


def text_encoding(connection: apsw.Connection) -> str:
    """Return the name of the encoding that the database keeps its text in."""
    kept = connection.execute("PRAGMA main.encoding").get
    return {"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}.get(kept, "utf-8")


def decoded(data: bytes, encoding: str) -> str:
    """Decode text as SQLite keeps it. Invalid bytes become lone surrogates, which ``encoded`` turns back."""
    return data.decode(encoding, "surrogateescape" if encoding == "utf-8" else "surrogatepass")


def encoded(text: str, encoding: str) -> bytes:
    """Encode text that ``decoded`` returned."""
    return text.encode(encoding, "surrogateescape" if encoding == "utf-8" else "surrogatepass")


def key_columns(shape: TableShape, alias: str) -> list[str]:
    """Return SQL for the columns that name a row to a person."""
    return [readable(f"{alias}.{quote(name)}") for name in shape.key] or [place(shape, alias)]


def row_name(shape: TableShape, values: Sequence[Any], secret: Collection[str], encoding: str = "utf-8") -> str:
    """Format the key of a row for a person; secret values are hidden.

    Args:
        shape: Of the table.
        values: Of the columns that ``key_columns`` selects.
        secret: Columns whose content is never shown.
        encoding: Of the database's text.
    """
    names = shape.key or ("rowid",)
    shown = [HIDDEN if name in secret else _shown(value, encoding) for name, value in zip(names, values, strict=True)]
    return source_schema.key_text(names, shown)


def _shown(value: Any, encoding: str) -> Any:
    return value.decode(encoding, "backslashreplace") if isinstance(value, bytes) else value


def recorded_tables(connection: apsw.Connection) -> list[tuple[int, str]]:
    """Return number and name of every table in the record, by name."""
    query = (
        "SELECT t, name FROM record.tables WHERE t IN (SELECT t FROM record.touched UNION SELECT t FROM record.removed)"
        " ORDER BY name"
    )
    rows: Any = connection.execute(query).fetchall()
    return [(t, name) for t, name in rows]
