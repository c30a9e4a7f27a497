"""The content of a snapshot: tables, columns, keys, fingerprints, orphans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from include.cutover.errors import CannotCheck
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from tests.support.sqlite_files import database


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[apsw.Connection]:
    path = database(
        tmp_path / "odd.db",
        'CREATE TABLE "select"(id INTEGER PRIMARY KEY AUTOINCREMENT, "Group" TEXT NOT NULL, "a ""b"" c" REAL)',
        "INSERT INTO \"select\" VALUES (41, 'g', 1.5)",
        'CREATE TABLE "ცხრილი"("სახელი" VARCHAR(20) PRIMARY KEY)',
        "CREATE TABLE sqliteX(a)",
        "CREATE TABLE plain(rowid TEXT, oid TEXT)",
        "CREATE TABLE shadows(rowid, _rowid_, oid)",
        "CREATE TABLE pair(b TEXT COLLATE NOCASE, a INTEGER, PRIMARY KEY (a DESC, b)) WITHOUT ROWID",
        "CREATE TABLE made(a INTEGER, twice INTEGER AS (a * 2), stored INTEGER AS (a + 1) STORED)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO counted VALUES (7)",
        "DELETE FROM counted",
    )
    connection = snapshots.open_snapshot(path)
    yield connection
    connection.close()


def test_tables_are_the_applications_own(odd: apsw.Connection) -> None:
    assert source_schema.tables(odd) == sorted(
        ["select", "ცხრილი", "sqliteX", "plain", "shadows", "pair", "made", "counted"]
    )
    assert source_schema.counts(odd, ["select", "ცხრილი"]) == {"select": 1, "ცხრილი": 0}


def test_columns_come_as_declared(odd: apsw.Connection) -> None:
    assert source_schema.columns(odd, "select") == [
        source_schema.SourceColumn("id", "INTEGER", False, 1),
        source_schema.SourceColumn("Group", "TEXT", True, 0),
        source_schema.SourceColumn('a "b" c', "REAL", False, 0),
    ]
    assert [(column.name, column.primary_key) for column in source_schema.columns(odd, "pair")] == [("b", 2), ("a", 1)]
    assert [column.generated for column in source_schema.columns(odd, "made")] == [False, True, True]


@pytest.mark.parametrize("table", ["nowhere", "SELECT", "v"])
def test_a_table_that_is_not_there_is_named(odd: apsw.Connection, table: str) -> None:
    with pytest.raises(CannotCheck, match=table):
        source_schema.columns(odd, table)


def test_the_rowid_is_named_so_that_no_column_hides_it(odd: apsw.Connection) -> None:
    assert source_schema.shape(odd, "select").rowid == '"rowid"'
    assert source_schema.shape(odd, "plain").rowid == '"_rowid_"'
    assert source_schema.shape(odd, "shadows").rowid is None
    pair = source_schema.shape(odd, "pair")
    assert (pair.rowid, pair.key) == (None, ("a", "b"))
    assert pair.order == (source_schema.KeyColumn("a", "BINARY", True), source_schema.KeyColumn("b", "NOCASE", False))


def test_the_column_that_is_the_rowid_is_known(tmp_path: Path) -> None:
    path = database(
        tmp_path / "keys.db",
        "CREATE TABLE yes(a TEXT, id integer PRIMARY KEY)",
        "CREATE TABLE other_type(id INT PRIMARY KEY)",
        "CREATE TABLE downwards(id INTEGER PRIMARY KEY DESC)",
        "CREATE TABLE two(a INTEGER, b INTEGER, PRIMARY KEY (a, b))",
        "CREATE TABLE none(a INTEGER)",
        "CREATE TABLE without(a INTEGER PRIMARY KEY) WITHOUT ROWID",
    )
    connection = snapshots.open_snapshot(path)
    found = {table: source_schema.shape(connection, table).alias for table in source_schema.tables(connection)}
    connection.close()
    assert found == dict.fromkeys(found) | {"yes": "id"}


def test_sequences_outlive_their_rows(odd: apsw.Connection, simple: Path) -> None:
    assert source_schema.sqlite_sequence(odd) == {"select": 41, "counted": 7}
    connection = snapshots.open_snapshot(simple)
    assert source_schema.sqlite_sequence(connection) == {}
    connection.close()


def test_the_fingerprint_is_that_of_the_schema_alone(tmp_path: Path) -> None:
    prints = []
    for name, statements in {
        "a": ["CREATE TABLE x(a)", "CREATE TABLE y(b)"],
        "b": ["CREATE TABLE y(b)", "CREATE TABLE x(a)", "INSERT INTO x VALUES (1)"],
        "c": ["CREATE TABLE x(a)", "CREATE TABLE y(b TEXT)"],
    }.items():
        connection = snapshots.open_snapshot(database(tmp_path / name, *statements))
        prints.append(source_schema.schema_fingerprint(connection))
        connection.close()
    assert prints[0] == prints[1] != prints[2]
    assert re.fullmatch("[0-9a-f]{64}", prints[0])


def test_the_fingerprint_is_not_that_of_sqlite_s_own_tables(tmp_path: Path) -> None:
    schema = ["CREATE TABLE x(a INTEGER PRIMARY KEY)", "CREATE INDEX i ON x(a)"]
    analyzed = ["CREATE TABLE gone(a INTEGER PRIMARY KEY AUTOINCREMENT)", "DROP TABLE gone", "ANALYZE"]
    prints = []
    for name, statements in {"plain": schema, "analyzed": [*schema, *analyzed]}.items():
        connection = snapshots.open_snapshot(database(tmp_path / name, *statements))
        prints.append((source_schema.schema_fingerprint(connection), source_schema.schema_objects(connection)))
        connection.close()
    assert prints[0] == prints[1]


def test_keys_are_shown_so_that_a_terminal_can_show_them() -> None:
    assert source_schema.key_text(("id", "name"), (5, "a\nb\0")) == "id=5, name=a\\x0ab\\x00"
    assert source_schema.key_text(("id",), (b"\xff\xfe",)) == "id=\\xff\\xfe"
    assert len(source_schema.key_text(("id",), ("x" * 500,))) < 100
