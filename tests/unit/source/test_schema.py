"""The content of a snapshot: tables, columns, keys, fingerprints, orphans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Key:
    table: str
    columns: tuple[str, ...]
    referenced_table: str
    referenced_columns: tuple[str, ...]


BRANCH = "0B5BE0F5-6C1A-4F0E-9D39-30E5DE8E1B1A"


UUIDS = {"device": {"id": "uuid", "branch_id": "uuid"}, "branch": {"id": "uuid"}}


@pytest.fixture
def references(tmp_path: Path) -> Iterator[apsw.Connection]:
    digits = BRANCH.replace("-", "").lower()
    path = database(
        tmp_path / "references.db",
        "CREATE TABLE branch(id VARCHAR(36) PRIMARY KEY)",
        f"INSERT INTO branch VALUES ('{BRANCH}'), (NULL)",
        "CREATE TABLE device(id VARCHAR(36) PRIMARY KEY, branch_id VARCHAR(36))",
        f"INSERT INTO device VALUES ('d1', '{digits}'), ('d2', '{{{BRANCH}}}'), ('d3', NULL), ('d4', '{digits[:-1]}0')",
        "CREATE TABLE city(id INTEGER PRIMARY KEY, region TEXT COLLATE NOCASE)",
        "CREATE TABLE region(name TEXT COLLATE NOCASE PRIMARY KEY)",
        "INSERT INTO region VALUES ('Kakheti')",
        "INSERT INTO city VALUES (1, 'Kakheti'), (2, 'KAKHETI'), (3, 'kakheti ')",
        "CREATE TABLE parent(a INTEGER, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID",
        "INSERT INTO parent VALUES (1, 'x')",
        "CREATE TABLE child(a INTEGER, b TEXT)",
        "INSERT INTO child VALUES (1, 'x'), (1, 'y'), (NULL, 'y'), (2, 'x')",
    )
    connection = snapshots.open_snapshot(path)
    yield connection
    connection.close()


def test_orphans_of_uuids_in_mixed_spellings(references: apsw.Connection) -> None:
    key = Key("device", ("branch_id",), "branch", ("id",))
    assert source_schema.orphans(references, key, UUIDS) == (1, ["id=d4"])
    assert source_schema.orphans(references, key, {})[0] == 3


def test_orphans_of_text_are_compared_as_postgresql_will(references: apsw.Connection) -> None:
    assert source_schema.orphans(references, Key("city", ("region",), "region", ("name",)), {}) == (2, ["id=2", "id=3"])


def test_orphans_of_composite_keys_and_of_tables_without_key(references: apsw.Connection) -> None:
    key = Key("child", ("a", "b"), "parent", ("a", "b"))
    assert source_schema.orphans(references, key, {}) == (2, ["rowid=2", "rowid=4"])
    assert source_schema.orphans(references, key, {}, limit=1) == (2, ["rowid=2"])


def test_orphans_of_a_secret_key_are_named_by_their_rows(references: apsw.Connection) -> None:
    assert source_schema.orphans(references, Key("city", ("region",), "region", ("name",)), {}, secret=("id",)) == (
        2,
        ["rowid=2", "rowid=3"],
    )


def test_orphans_of_missing_tables_and_columns_cannot_be_checked(references: apsw.Connection) -> None:
    with pytest.raises(CannotCheck, match="nowhere"):
        source_schema.orphans(references, Key("child", ("a",), "nowhere", ("a",)), {})
    with pytest.raises(CannotCheck, match="zzz"):
        source_schema.orphans(references, Key("child", ("zzz",), "parent", ("a",)), {})


def test_keys_are_shown_so_that_a_terminal_can_show_them() -> None:
    assert source_schema.key_text(("id", "name"), (5, "a\nb\0")) == "id=5, name=a\\x0ab\\x00"
    assert source_schema.key_text(("id",), (b"\xff\xfe",)) == "id=\\xff\\xfe"
    assert len(source_schema.key_text(("id",), ("x" * 500,))) < 100
