"""The content of the source: tables, columns, keys, counts, references.

Everything here reads a connection that ``snapshots.open_snapshot`` gave. Only ``cloning`` reads the live file itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from include.cutover.errors import CannotCheck

_KEY_CHARACTERS = 80


@dataclass(frozen=True)
class SourceColumn:
    """A column as the source declares it.

    Attributes:
        declared_type: As written in CREATE TABLE; empty without one. SQLite does not enforce it.
        primary_key: Position in the primary key, counted from 1; 0 for a column outside it.
        generated: Computed from other columns.
    """

    name: str
    declared_type: str
    not_null: bool
    primary_key: int
    generated: bool = False


@dataclass(frozen=True)
class KeyColumn:
    """A column of the key that orders a table WITHOUT ROWID."""

    name: str
    collation: str
    descending: bool


@dataclass(frozen=True)
class TableShape:
    """How the rows of a table are read in order and named.

    Attributes:
        rowid: A name for the rowid that no column shadows, quoted; None for tables WITHOUT ROWID and where all are shadowed.
        order: Key of a table WITHOUT ROWID; empty for others.
        key: Columns that name a row to a person: the primary key; empty without one.
        alias: The column that is the rowid under another name, and so holds only integers; None without one.
    """

    table: str
    rowid: str | None
    order: tuple[KeyColumn, ...]
    key: tuple[str, ...]
    alias: str | None = None


def quote(identifier: str) -> str:
    """Quote an SQL identifier for SQLite."""
    return '"' + identifier.replace('"', '""') + '"'


def affinity(declared_type: str) -> str:
    """Return the column affinity, by SQLite's rules."""
    declared = declared_type.upper()
    if "INT" in declared:
        return "INTEGER"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in declared or not declared:
        return "BLOB"
    return "REAL" if any(word in declared for word in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def tables(conn: apsw.Connection) -> list[str]:
    """List the application's tables by name; virtual ones too, but not SQLite's own and not a virtual table's shadows."""
    rows = conn.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')")
    return sorted(name for (name,) in rows if not name.lower().startswith("sqlite_"))


def require_application(found: Sequence[str], wanted: Collection[str], plan: str, snapshot: Path) -> None:
    """Refuse a source that is empty or belongs to another application than the plan.

    Args:
        found: Tables of the source.
        wanted: Tables of the plan.
        plan: Name of the plan.
        snapshot: The file, for the error.

    Raises:
        CannotCheck: When they have no table in common.
    """
    if not found:
        raise CannotCheck(
            "the source has no tables", where=str(snapshot), do="Check the path: this may be a new, empty database."
        )
    if not set(found) & set(wanted):
        raise CannotCheck(
            "the plan is for another application",
            where=f"plan {plan}",
            expected=f"some of its {len(wanted)} tables in the source",
            found=f"none; the source has {', '.join(found[:5])}{', …' if len(found) > 5 else ''}",
            do="Name the plan of this application.",
        )


def columns(conn: apsw.Connection, table: str) -> list[SourceColumn]:
    """List the columns in the table's order, generated ones too.

    Raises:
        CannotCheck: When there is no such table. Unlike in SQL, its name must agree in every letter.
    """
    if table not in tables(conn):
        raise CannotCheck("there is no such table in the source", where=table, do="Compare the plan's tables with it.")
    rows = conn.execute(
        "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid", (table,)
    )
    return [SourceColumn(name, kind, bool(not_null), key, hidden != 0) for name, kind, not_null, key, hidden in rows]


def shape(conn: apsw.Connection, table: str) -> TableShape:
    """Return how to read the rows of a table in order, and how to name one."""
    found = columns(conn, table)
    key = tuple(column.name for column in sorted(found, key=lambda item: item.primary_key) if column.primary_key)
    query = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?"
    without_rowid = bool(conn.execute(query, (table,)).get)
    order: tuple[KeyColumn, ...] = ()
    rowid = alias = None
    if without_rowid:
        order = tuple(
            KeyColumn(name, collation, bool(descending))
            for name, collation, descending in conn.execute(
                "SELECT info.name, info.coll, info.\"desc\" FROM pragma_index_list(?, 'main') AS list "
                "JOIN pragma_index_xinfo(list.name, 'main') AS info "
                "WHERE list.origin = 'pk' AND info.key ORDER BY info.seqno",
                (table,),
            )
        )
    else:
        shadowed = {column.name.lower() for column in found}
        rowid = next((quote(name) for name in ("rowid", "_rowid_", "oid") if name not in shadowed), None)
        single = [column for column in found if column.primary_key]
        if len(single) == 1 and single[0].declared_type.upper() == "INTEGER":
            # "INTEGER PRIMARY KEY DESC" is, by an old mistake that stays, no alias: it has an index of its own.
            indexed = "SELECT count(*) FROM pragma_index_list(?, 'main') WHERE origin = 'pk'"
            alias = None if conn.execute(indexed, (table,)).get else single[0].name
    return TableShape(table, rowid, order, key, alias)


def counts(conn: apsw.Connection, tables: Iterable[str]) -> dict[str, int]:
    """Count the rows of each table."""
    return {table: int(conn.execute(f"SELECT count(*) FROM main.{quote(table)}").get) for table in tables}  # noqa: S608


def sqlite_sequence(conn: apsw.Connection) -> dict[str, int]:
    """Return the greatest key that AUTOINCREMENT has used, per table; tables that never had a row are not in it."""
    if conn.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'").get == 0:
        return {}
    rows = conn.execute("SELECT name, max(CAST(seq AS INTEGER)) FROM sqlite_sequence WHERE seq IS NOT NULL GROUP BY name")
    return {str(name): int(value) for name, value in rows if name is not None}


def schema_fingerprint(conn: apsw.Connection) -> str:
    """Return the SHA-256, in hex, of all CREATE statements in sorted order. Equal for a database and its clone.

    SQLite's own tables are left out: they come with the first AUTOINCREMENT and with ANALYZE.
    """
    statements = sorted(sql for _, _, sql in _statements(conn))
    return hashlib.sha256("\0".join(statements).encode()).hexdigest()


def schema_objects(conn: apsw.Connection) -> dict[str, str]:
    """List tables, columns, indexes, triggers and views by kind and name, each with a short text that changes when it does.

    ``column users.email`` has its declaration in words, the others the beginning of a hash of their CREATE statement. Two
    schemas with the same fingerprint have the same objects.
    """
    found = {f"{kind} {name}": hashlib.sha256(sql.encode()).hexdigest()[:16] for kind, name, sql in _statements(conn)}
    query = (
        'SELECT info.name, info.type, info."notnull", info.dflt_value, info.pk, info.hidden'
        " FROM pragma_table_xinfo(?, 'main') AS info"
    )
    for table in tables(conn):
        for name, kind, not_null, default, key, hidden in conn.execute(query, (table,)):
            words = [kind, not_null and "NOT NULL", default is not None and f"DEFAULT {default}", key and f"KEY {key}"]
            words.append("GENERATED" if hidden else "")
            found[f"column {table}.{name}"] = " ".join(word for word in words if word)
    return dict(sorted(found.items()))


def _statements(conn: apsw.Connection) -> list[tuple[str, str, str]]:
    """Read kind, name and CREATE statement of everything but SQLite's own."""
    query = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    return [(str(kind), str(name), str(text)) for kind, name, text in conn.execute(query)]


def named_by(shape: TableShape, secret: Collection[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that name a row to a person, and their SQL: the key, else the rowid; empty without either.

    Args:
        shape: Of the table.
        secret: Columns whose content is never shown, nor a key that holds one.
    """
    if shape.key and not set(shape.key) & set(secret):
        return shape.key, tuple(quote(name) for name in shape.key)
    return (("rowid",), (shape.rowid,)) if shape.rowid else ((), ())


def readable(expression: str) -> str:
    """Return SQL for text as bytes: reading text that is not UTF-8 fails, and a key is needed most there."""
    return f"CASE typeof({expression}) WHEN 'text' THEN CAST({expression} AS BLOB) ELSE {expression} END"


def key_text(names: Sequence[str], values: Sequence[Any]) -> str:
    """Format a row's key for a person, e.g. ``id=5``; bytes are shown as the text they spell, long ones are cut."""
    shown = []
    for name, value in zip(names, values, strict=True):
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text[: _KEY_CHARACTERS + 1])
        shown.append(f"{name}={text[:_KEY_CHARACTERS]}…" if len(text) > _KEY_CHARACTERS else f"{name}={text}")
    return ", ".join(shown)
