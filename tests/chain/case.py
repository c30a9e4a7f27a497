"""A whole cutover as data: a source in SQLite, the SQL of its target, rows, decisions of the plan."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from tests.chain.values import LABELS, Kind
from tests.support.assessing import Raw


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Column:
    """A column on both sides.

    Attributes:
        declared: Its type in the source, with collation.
        domain: Constraint of the target's domain, beside the type; None where the type is used as it is.
        identity: How the target gives keys by itself: ``by default``, ``always``, ``serial``; empty where it does not.
        computed: The column whose being NULL it tells; then ``source`` and ``target`` say how each side has it:
            ``computed``, ``plain``, ``none``.
    """

    name: str
    kind: Kind
    declared: str
    not_null: bool = False
    source_not_null: bool = False
    domain: str | None = None
    identity: str = ""
    computed: str = ""
    source: str = "plain"
    target: str = "plain"


@dataclass(frozen=True)
class Unique:
    """A unique key of the target; ``predicate`` and ``expression`` make it an index."""

    columns: tuple[str, ...]
    in_source: bool
    nulls_equal: bool = False
    predicate: str = ""
    expression: str = ""


@dataclass(frozen=True)
class Table:
    """A table on both sides.

    Attributes:
        key: Columns of the primary key; empty where there is none.
        form: ``rowid``: the key is an INTEGER PRIMARY KEY. ``autoincrement``, ``without rowid``, ``plain``, ``descending``,
            ``only in target``.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    form: str = "plain"
    strict: bool = False
    uniques: tuple[Unique, ...] = ()
    checks: tuple[str, ...] = ()
    quoting: str = '""'
    sequence: int | None = None

    @property
    def stored(self) -> tuple[Column, ...]:
        """Those that rows are inserted with in the source."""
        return tuple(column for column in self.columns if column.source == "plain")

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Link:
    """A foreign key of the target."""

    name: str
    table: str
    columns: tuple[str, ...]
    referenced: str
    referenced_columns: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A whole cutover: see the module's docstring.

    Attributes:
        all_the_same: Copy although the assessment blocks.
    """

    tables: tuple[Table, ...]
    links: tuple[Link, ...]
    rows: Mapping[str, Sequence[Sequence[Any]]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    encoding: str = "UTF-8"
    chunk_rows: int = 500
    part_rows: int = 10_000
    all_the_same: bool = False

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text("...")  # for hypothesis: as SQL it is shorter

    # --- the source

    def source(self) -> list[str]:
        """The statements that make the source, without its rows."""
        return [f"PRAGMA encoding = '{self.encoding}'", *(_source_table(table) for table in self.tables)]

    def write(self, path: Path) -> None:
        """Make the source. Rows that SQLite itself refuses are left out."""
        path.unlink(missing_ok=True)
        with contextlib.closing(apsw.Connection(str(path))) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            for statement in self.source():
                connection.execute(statement)
            with connection:
                for table in self.tables:
                    _insert(connection, table, self.rows[table.name])

    # --- the target

    def sql(self, folder: Path) -> Path:
        """Write the SQL folder of the plan."""
        for kind, statements in self.files().items():
            if statements:
                (folder / kind).mkdir(parents=True)
                (folder / kind / "001_all.sql").write_text(";\n".join(statements), encoding="utf-8")
        return folder

    def files(self) -> dict[str, list[str]]:
        """The statements of each folder."""
        labels = ", ".join("'" + label.replace("'", "''") + "'" for label in LABELS)
        before = [f'CREATE TYPE "Mood" AS ENUM ({labels})']
        after: list[str] = []
        for number, table in enumerate(self.tables):
            cells = []
            for place, column in enumerate(table.columns):
                if column.target == "none":
                    continue
                if column.domain is not None:
                    before.append(f'CREATE DOMAIN "Dom {number}.{place}" AS {column.kind.type} {column.domain}')
                cells.append(_target_column(column, f'"Dom {number}.{place}"'))
            cells += [f"CHECK ({check})" for check in table.checks]
            before.append(f"CREATE TABLE {quote(table.name)} ({', '.join(cells)})")
            after += _keys(table)
        foreign = [
            f"ALTER TABLE {quote(link.table)} ADD CONSTRAINT {quote(link.name)} FOREIGN KEY ({_list(link.columns)})"
            f" REFERENCES {quote(link.referenced)} ({_list(link.referenced_columns)}) NOT VALID"
            for link in self.links
        ]
        return {"pre_data": before, "post_data": after, "foreign_keys": foreign}

    def __str__(self) -> str:
        """Return the whole case as SQL, so that a failure can be repeated by hand."""
        told = [f"-- source ({self.encoding}), chunks of {self.chunk_rows}, parts of {self.part_rows}", *self.source()]
        for table in self.tables:
            told += [f"-- {table.name}: {row!r}" for row in self.rows[table.name]]
            told += [f"-- {table.name}: sequence {table.sequence}"] if table.sequence is not None else []
        told += ["-- target", *(statement for kind in self.files().values() for statement in kind)]
        told += [f"-- plan: {json.dumps(self.settings, ensure_ascii=False)}"]
        return "\n".join(told)


def _list(names: Sequence[str]) -> str:
    return ", ".join(quote(name) for name in names)


def _named(name: str, quoting: str) -> str:
    """A name as SQLite lets it be written."""
    if quoting == "[]" and "]" not in name:
        return f"[{name}]"
    if quoting == "``":
        return "`" + name.replace("`", "``") + "`"
    if (
        quoting == "bare"
        and re.fullmatch(r"[a-z_][a-z0-9_]{2,9}", name)
        and name not in ("order", "select", "check", "unique")
    ):
        return name
    return quote(name)


def _source_table(table: Table) -> str:
    cells = []
    alias = table.key[0] if table.form in ("rowid", "autoincrement") else ""
    for column in table.columns:
        if column.source == "none":
            continue
        text = f"{_named(column.name, table.quoting)} {column.declared}"
        if column.source == "computed":
            text += (
                f" GENERATED ALWAYS AS ({quote(column.computed)} IS NULL) {'STORED' if len(column.name) % 2 else 'VIRTUAL'}"
            )
        elif column.name == alias:
            text += " PRIMARY KEY" + (" AUTOINCREMENT" if table.form == "autoincrement" else "")
        cells.append(text + (" NOT NULL" if column.source_not_null else ""))
    if table.key and not alias and table.form != "only in target":
        names = [_named(name, table.quoting) for name in table.key]
        if table.form == "descending":
            names[0] += " DESC"
        cells.append(f"PRIMARY KEY ({', '.join(names)})")
    cells += [f"UNIQUE ({_list(unique.columns)})" for unique in table.uniques if unique.in_source]
    options = [word for word, chosen in (("WITHOUT ROWID", "without" in table.form), ("STRICT", table.strict)) if chosen]
    return f"CREATE TABLE {_named(table.name, table.quoting)} ({', '.join(cells)}) {', '.join(options)}"


def _target_column(column: Column, domain: str) -> str:
    kind = domain if column.domain is not None else column.kind.type
    if column.identity == "serial":
        kind = {"smallint": "smallserial", "integer": "serial", "bigint": "bigserial"}[kind]
    text = f"{quote(column.name)} {kind}"
    if column.target == "computed":
        return f"{text} GENERATED ALWAYS AS ({quote(column.computed)} IS NULL) STORED"
    if column.identity in ("by default", "always"):
        text += f" GENERATED {column.identity.upper()} AS IDENTITY"
    return text + (" NOT NULL" if column.not_null else "")


def _keys(table: Table) -> list[str]:
    name, statements = quote(table.name), []
    if table.key:
        statements.append(f"ALTER TABLE {name} ADD PRIMARY KEY ({_list(table.key)})")
    for unique in table.uniques:
        if unique.predicate or unique.expression:
            where = f" WHERE {unique.predicate}" if unique.predicate else ""
            statements.append(f"CREATE UNIQUE INDEX ON {name} ({unique.expression or _list(unique.columns)}){where}")
        else:
            nulls = " NULLS NOT DISTINCT" if unique.nulls_equal else ""
            statements.append(f"ALTER TABLE {name} ADD UNIQUE{nulls} ({_list(unique.columns)})")
    return statements


def _insert(connection: apsw.Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    names = _list([column.name for column in table.stored])
    for row in rows:
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, Raw) else "?" for value in row)
        plain = [value.data if isinstance(value, Raw) else value for value in row]
        with contextlib.suppress(apsw.ConstraintError, apsw.MismatchError):
            connection.execute(f"INSERT INTO {quote(table.name)} ({names}) VALUES ({marks})", plain)
    if table.sequence is not None:
        connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
        connection.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table.name, table.sequence))
