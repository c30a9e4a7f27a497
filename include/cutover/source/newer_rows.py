"""Compares the rows of a database with those of a backup of it: rows that only one of them holds, and changed ones.

Rows are matched by rowid, or by the primary key of a table WITHOUT ROWID, and compared value by value and by storage class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apsw

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
        unread: Tables that could not be compared, each in words: rows may be lost there that nobody counted.
    """

    tables: Mapping[str, TableRows] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    backup_rows: int = 0
    other: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """True when the database holds what the backup holds, and nothing else."""
        return not (self.tables or self.other or self.unread)

    @property
    def nothing_beyond(self) -> bool:
        """True when the database surely holds no row that the backup lacks; in a table with other columns all rows count."""
        return not (self.beyond or self.unread)

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
        unread = [f"not counted: {text}" for text in self.unread[:_SHOWN]]
        return "; ".join([*parts, *self.other, *unread]) or "the rows of the backup, and no others"

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

    A table that cannot be compared, because it is damaged or needs something that only the application has, is named as
    not counted.

    Raises:
        apsw.Error, UnicodeError: When not even their schemas can be compared.
    """
    database.collation_needed(lambda connection, name: connection.create_collation(name, _binary))
    database.execute("ATTACH ? AS backup", (uri(backup, "immutable=1"),))
    try:
        ours, theirs = _tables(database, "main"), _tables(database, "backup")
        before = {table: _count(database, "backup", table) for table in theirs}
        found: dict[str, TableRows] = {}
        counts: dict[str, int] = {}
        unread = []
        for table in sorted({*ours, *theirs}):
            try:
                if table in ours:
                    counts[table] = _count(database, "main", table)
                rows = _compare_table(database, table, counts.get(table), before.get(table))
            except (apsw.Error, UnicodeError) as error:
                unread.append(f"the table {table} ({error})")
                continue
            if rows.more or rows.changed or rows.missing:
                found[table] = rows
        return Differences(found, counts, sum(before.values()), tuple(_other(database)), tuple(unread))
    finally:
        database.execute("DETACH backup")


def _binary(one: str, two: str) -> int:
    """Compare two texts for a collation that only the application knows; their order does not matter here."""
    return (one > two) - (one < two)


def _tables(database: apsw.Connection, name: str) -> list[str]:
    """List ordinary tables, with the shadow tables in which virtual ones keep their content."""
    query = "SELECT name FROM pragma_table_list WHERE schema = ? AND type IN ('table', 'shadow')"
    return [table for (table,) in database.execute(query, (name,)) if not table.lower().startswith("sqlite_")]


def _count(database: apsw.Connection, name: str, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {name}.{quote(table)}").get)  # noqa: S608  # quoted names only


def _compare_table(database: apsw.Connection, table: str, rows: int | None, before: int | None) -> TableRows:
    if rows is None or before is None:
        return TableRows(rows or 0, 0, before or 0)
    ours, theirs = (_columns(database, name, table) for name in ("main", "backup"))
    key, their_key = (_key(database, name, table) for name in ("main", "backup"))
    if ours != theirs or key != their_key:
        return TableRows(max(rows - before, 0), min(rows, before), max(before - rows, 0))  # no row is as it was
    if not key:
        return _compare_as_sets(database, table, ours)
    matched = " AND ".join(f"ours.{name} = theirs.{name}" for name in key)
    differs = [
        f"ours.{name} COLLATE BINARY IS NOT theirs.{name} OR typeof(ours.{name}) <> typeof(theirs.{name})"
        for name in map(quote, ours)
    ]
    # SQLite limits the depth of an expression to 1,000.
    parts = [f"({' OR '.join(differs[start : start + 100])})" for start in range(0, len(differs), 100)]
    both, changed = database.execute(
        f"SELECT count(*), coalesce(sum({' OR '.join(parts) or 'false'}), 0)"  # noqa: S608  # quoted names only
        f" FROM main.{quote(table)} AS ours CROSS JOIN backup.{quote(table)} AS theirs ON {matched}"
    ).get
    return TableRows(rows - both, changed, before - both)


def _compare_as_sets(database: apsw.Connection, table: str, columns: list[str]) -> TableRows:
    """Compare rows that nothing matches, because columns hide all names of the rowid: as sets with repetitions."""
    values = ", ".join(f"typeof({name}), {name} COLLATE BINARY" for name in map(quote, columns))
    one, other = (
        f"SELECT {values}, count(*) FROM {name}.{quote(table)} GROUP BY {values}"  # noqa: S608
        for name in ("main", "backup")
    )
    more, missing = (
        int(database.execute(f"SELECT count(*) FROM ({first} EXCEPT {second})").get)  # noqa: S608
        for first, second in ((one, other), (other, one))
    )
    return TableRows(more, 0, missing)


def _columns(database: apsw.Connection, name: str, table: str) -> list[str]:
    """List the columns, without generated ones."""
    query = "SELECT name FROM pragma_table_xinfo(?, ?) WHERE hidden = 0"
    return [column for (column,) in database.execute(query, (table, name))]


def _key(database: apsw.Connection, name: str, table: str) -> list[str]:
    """Return the SQL names of the columns that match a row: the rowid, or the key of a table without one; empty without."""
    without = database.execute("SELECT wr FROM pragma_table_list WHERE schema = ? AND name = ?", (name, table)).get
    if without:
        key = "SELECT name FROM pragma_table_xinfo(?, ?) WHERE pk > 0 ORDER BY pk"
        return [quote(column) for (column,) in database.execute(key, (table, name))]
    query = "SELECT lower(name) FROM pragma_table_xinfo(?, ?)"
    shadowed = {column for (column,) in database.execute(query, (table, name))}
    return [alias for alias in ("rowid", "_rowid_", "oid") if alias not in shadowed][:1]


def _other(database: apsw.Connection) -> list[str]:
    """Compare what is no row of a table."""
    query = (
        "SELECT type, name, tbl_name, CAST(sql AS BLOB) FROM {}.sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
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
