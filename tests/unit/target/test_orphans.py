"""Orphans in the source: found as PostgreSQL would find them, and named without their secrets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from include.cutover.errors import CannotCheck
from include.cutover.source import snapshots
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.orphans import count_in_source, in_source


def reference(table: str, columns: tuple[str, ...], referenced: str, referenced_columns: tuple[str, ...]) -> ForeignKey:
    return ForeignKey(f"{table}_fkey", table, columns, referenced, referenced_columns, "NO ACTION", True)


def database(path: Path, *statements: str) -> Path:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


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
    key = reference("device", ("branch_id",), "branch", ("id",))
    assert in_source(references, key, UUIDS, secret=(), limit=20) == (1, ["id=d4"])
    assert count_in_source(references, key, {}) == 3


def test_orphans_of_text_are_compared_as_postgresql_will(references: apsw.Connection) -> None:
    assert in_source(references, reference("city", ("region",), "region", ("name",)), {}, secret=(), limit=20) == (
        2,
        ["id=2", "id=3"],
    )


def test_orphans_of_composite_keys_and_of_tables_without_key(references: apsw.Connection) -> None:
    key = reference("child", ("a", "b"), "parent", ("a", "b"))
    assert in_source(references, key, {}, secret=(), limit=20) == (2, ["rowid=2", "rowid=4"])
    assert in_source(references, key, {}, secret=(), limit=1) == (2, ["rowid=2"])


def test_orphans_of_a_secret_key_are_named_by_their_rows(references: apsw.Connection) -> None:
    assert in_source(references, reference("city", ("region",), "region", ("name",)), {}, secret=("id",), limit=20) == (
        2,
        ["rowid=2", "rowid=3"],
    )


def test_orphans_of_what_is_not_there_cannot_be_checked(references: apsw.Connection) -> None:
    with pytest.raises(CannotCheck, match="nowhere"):
        in_source(references, reference("child", ("a",), "nowhere", ("a",)), {}, secret=(), limit=20)
    with pytest.raises(CannotCheck, match="zzz"):
        in_source(references, reference("child", ("zzz",), "parent", ("a",)), {}, secret=(), limit=20)


def test_what_names_an_orphan_without_any_other_key_is_not_secret(tmp_path: Path) -> None:
    path = database(
        tmp_path / "secret.db",
        "CREATE TABLE p(id TEXT PRIMARY KEY)",
        "CREATE TABLE c(rowid TEXT, _rowid_ TEXT, oid TEXT, p TEXT)",
        "INSERT INTO c(p) VALUES ('hush-hush')",
    )
    key = reference("c", ("p",), "p", ("id",))
    with snapshots.snapshot(path) as connection:
        assert in_source(connection, key, {}, secret=(), limit=5) == (1, ["p=hush-hush"])
        assert in_source(connection, key, {}, secret=("p",), limit=5) == (1, ["key=…"])
