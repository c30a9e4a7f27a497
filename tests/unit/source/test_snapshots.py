"""Snapshots open read only, and files that are not one are refused."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest

from include.cutover.errors import CannotCheck
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from tests.support.sqlite_files import NOBODY, as_somebody_else, database, spoilt


def test_a_sound_file_opens_and_cannot_be_written(simple: Path) -> None:
    connection = snapshots.open_snapshot(simple)
    assert source_schema.counts(connection, ["t"]) == {"t": 500}
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM t")
    connection.close()
    assert snapshots.integrity(simple) == []
    assert [item.name for item in simple.parent.iterdir()] == ["simple.db"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("directory", "directory"),
        ("pipe", "not a regular file"),
        ("zero bytes", "zero bytes"),
        ("text", "not an SQLite database"),
        ("encrypted", "encrypted"),
        ("encrypted but for its header", "encrypted.*of which only the first bytes are not encrypted"),
        ("encrypted but for its sizes", "encrypted"),
        ("archive", "not an SQLite database.*found a gzip archive"),
        ("short", "truncated"),
        ("truncated", r"truncated.*expected \d+ bytes.*found \d+ bytes"),
        ("damaged", "damaged"),
        ("wal beside", "log lies beside"),
        ("journal beside", "log lies beside"),
    ],
)
def test_file_that_is_not_a_snapshot_is_refused(simple: Path, kind: str, says: str) -> None:
    path = spoilt(kind, simple)
    with pytest.raises(CannotCheck, match=says) as caught:
        snapshots.open_snapshot(path)
    assert str(path) in caught.value.where
    assert "encrypted" not in str(caught.value) or kind.startswith("encrypted")


def test_leftover_of_a_committed_journal_is_ignored(simple: Path) -> None:
    simple.with_name(simple.name + "-journal").write_bytes(bytes(512))
    snapshots.open_snapshot(simple).close()


def test_an_unreadable_file_is_named() -> None:
    with as_somebody_else() as folder:
        os.seteuid(os.getuid())
        path = database(folder / "closed.db", "CREATE TABLE t(a)")
        path.chmod(0o000)
        if os.getuid() == 0:
            os.seteuid(NOBODY)
        with pytest.raises(CannotCheck, match="cannot be read; found Permission denied"):
            snapshots.open_snapshot(path)


def test_integrity_reports_a_damaged_page(simple: Path) -> None:
    content = bytearray(simple.read_bytes())
    content[3 * 4096 : 3 * 4096 + 64] = b"\xaa" * 64
    simple.write_bytes(content)
    assert snapshots.integrity(simple)
