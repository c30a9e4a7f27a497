"""Compares the rows of a database with those of a backup of it: rows that only one of them holds, and changed ones.

Rows are matched by rowid, or by the primary key of a table WITHOUT ROWID, and compared value by value and by storage class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from include.cutover.source import schema
from include.cutover.source.schema import quote
from include.cutover.source.snapshots import uri

_SHOWN = 8


@dataclass(frozen=True)
class TableRows:
    """The rows of one table in which a database differs from its backup.

    Attributes:
        more: Rows that the backup lacks.
        changed: Rows that the backup holds with other values.
        missing: Rows of the backup that the database lacks.
    """

    more: int
    changed: int
    missing: int

    def __str__(self) -> str:
        parts = [(self.more, "more than the backup"), (self.changed, "changed"), (self.missing, "of the backup missing")]
        return ", ".join(f"{number:,} {word}" for number, word in parts if number)


@dataclass(frozen=True)
class Differences:
    """The differences between a database and a backup of it.

    Attributes:
        tables: Table → its rows that differ; tables with equal rows are left out.
        counts: Table → rows of the database.
        backup_rows: All rows of the backup.
        other: Differences that are no rows, each in words: the schema, the greatest keys that AUTOINCREMENT has used.
    """

    tables: Mapping[str, TableRows] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    backup_rows: int = 0
    other: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """True when the database holds what the backup holds, and nothing else."""
        return not self.tables and not self.other

    @property
    def beyond(self) -> int:
        """Rows that would be lost with the database: those that the backup lacks, or holds with other values."""
        return sum(item.more + item.changed for item in self.tables.values())

    @property
    def missing(self) -> int:
        """Rows of the backup that the database lacks."""
        return sum(item.missing for item in self.tables.values())

    @property
    def descends(self) -> bool:
        """True when the database holds at least half of the backup's rows, as one that an application went on with does."""
        return 2 * self.missing <= self.backup_rows

    @property
    def words(self) -> str:
        """The differences, in words, the largest first."""
        sized = sorted(self.tables.items(), key=lambda item: -(item[1].more + item[1].changed + item[1].missing))
        parts = [f"{table}: {rows}" for table, rows in sized[:_SHOWN]]
        parts += [f"and {len(sized) - _SHOWN} more tables"] if len(sized) > _SHOWN else []
        return "; ".join([*parts, *self.other]) or "the rows of the backup, and no others"

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return the tables for the evidence."""
        return {
            table: {"more": rows.more, "changed": rows.changed, "missing": rows.missing}
            for table, rows in self.tables.items()
        }


def compare(database: apsw.Connection, backup: Path) -> Differences:
    """Compare a database with a backup of it. About a second per million rows; nothing is changed.

    Args:
        database: A connection that allows URIs; the backup is attached to it for the comparison.
        backup: A file that nobody writes to.

    Raises:
        apsw.Error: When one of them is damaged.
    """
    database.execute("ATTACH ? AS backup", (uri(backup, "immutable=1"),))
    try:
        ours, theirs = _tables(database, "main"), _tables(database, "backup")
        counts = {table: _count(database, "main", table) for table in ours}
        before = {table: _count(database, "backup", table) for table in theirs}
        found: dict[str, TableRows] = {}
        for table in sorted({*ours, *theirs}):
            if table not in theirs:
                rows = TableRows(counts[table], 0, 0)
            elif table not in ours:
                rows = TableRows(0, 0, before[table])
            else:
                rows = _compare_table(database, table, counts[table], before[table])
            if rows.more or rows.changed or rows.missing:
                found[table] = rows
        return Differences(found, counts, sum(before.values()), tuple(_other(database)))
    finally:
        database.execute("DETACH backup")


def _tables(database: apsw.Connection, name: str) -> list[str]:
    """List ordinary tables, with the shadow tables in which virtual ones keep their content."""
    query = "SELECT name FROM pragma_table_list WHERE schema = ? AND type IN ('table', 'shadow')"
    return [table for (table,) in database.execute(query, (name,)) if not table.lower().startswith("sqlite_")]


def _count(database: apsw.Connection, name: str, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {name}.{quote(table)}").get)  # noqa: S608  # quoted names only


def _compare_table(database: apsw.Connection, table: str, rows: int, before: int) -> TableRows:
    shared = _shared_columns(database, table)
    key = _key(database, table, shared)
    ours, theirs = f"main.{quote(table)} AS ours", f"backup.{quote(table)} AS theirs"
    if not key:  # every name of the rowid is shadowed, or the keys differ: no row can be matched, only counted
        return TableRows(max(rows - before, 0), 0, max(before - rows, 0))
    matched = " AND ".join(f"ours.{name} = theirs.{name}" for name in key)
    differs = " OR ".join(
        f"ours.{name} COLLATE BINARY IS NOT theirs.{name} OR typeof(ours.{name}) <> typeof(theirs.{name})"
        for name in map(quote, shared)
    )
    both, changed = database.execute(
        f"SELECT count(*), coalesce(sum({differs or 'false'}), 0) FROM {ours} CROSS JOIN {theirs} ON {matched}"  # noqa: S608
    ).get
    return TableRows(rows - both, changed, before - both)


def _shared_columns(database: apsw.Connection, table: str) -> list[str]:
    """List the columns that both have, without generated ones."""
    query = "SELECT name FROM pragma_table_xinfo(?, ?) WHERE hidden = 0"
    theirs = {name for (name,) in database.execute(query, (table, "backup"))}
    return [name for (name,) in database.execute(query, (table, "main")) if name in theirs]


def _key(database: apsw.Connection, table: str, shared: list[str]) -> list[str]:
    """Return the SQL names of the columns that match a row; empty where both do not have the same."""
    shape = schema.shape(database, table) if table in schema.tables(database) else None
    query = "SELECT wr FROM pragma_table_list WHERE schema = ? AND name = ?"
    kinds = {bool(database.execute(query, (name, table)).get) for name in ("main", "backup")}
    if len(kinds) > 1:
        return []
    if not kinds.pop():
        return [shape.rowid] if shape is not None and shape.rowid else ["rowid"] if shape is None else []
    key = "SELECT name FROM pragma_table_xinfo(?, ?) WHERE pk > 0 ORDER BY pk"
    keys = [[name for (name,) in database.execute(key, (table, place))] for place in ("main", "backup")]
    return [quote(name) for name in keys[0]] if keys[0] == keys[1] and set(keys[0]) <= set(shared) else []


def _other(database: apsw.Connection) -> list[str]:
    """Compare what is no row of a table."""
    query = "SELECT type, name, tbl_name, sql FROM {}.sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ours, theirs = ({tuple(row) for row in database.execute(query.format(name))} for name in ("main", "backup"))
    names = sorted({str(row[1]) for row in ours ^ theirs})
    found = [f"the schema differs: {', '.join(names[:_SHOWN])}"] if names else []
    sequences = [_sequences(database, name) for name in ("main", "backup")]
    moved = sorted(table for table in {*sequences[0], *sequences[1]} if sequences[0].get(table) != sequences[1].get(table))
    return found + ([f"keys were handed out since: {', '.join(moved[:_SHOWN])}"] if moved else [])


def _sequences(database: apsw.Connection, name: str) -> dict[str, int]:
    if database.execute(f"SELECT count(*) FROM {name}.sqlite_schema WHERE name = 'sqlite_sequence'").get == 0:  # noqa: S608
        return {}
    return {str(table): value for table, value in database.execute(f"SELECT name, seq FROM {name}.sqlite_sequence")}  # noqa: S608
