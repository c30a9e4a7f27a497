"""The pass over a table: every shape, encoding and width is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.cutover.assessment.assess import assess
from tests.support.assessing import insert, plan_of, source_of, target_of

KEY = "6f1ed002ab5595859014ebf0951522d9"
OTHER = "00000000000000000000000000000001"
SPELLED = "6F1ED002-AB55-9585-9014-EBF0951522D9"


@pytest.mark.parametrize(
    "create",
    [
        "CREATE TABLE t (a TEXT, v INTEGER, PRIMARY KEY (a)) WITHOUT ROWID",
        "CREATE TABLE t (a TEXT, v INTEGER)",
        "CREATE TABLE t (a TEXT, v INTEGER, PRIMARY KEY (a, v))",
        "CREATE TABLE t (a TEXT, v INTEGER, rowid TEXT, _rowid_ TEXT, oid TEXT)",
        "CREATE TABLE t (a ANY PRIMARY KEY, v ANY) STRICT",
    ],
)
def test_tables_of_every_shape_are_read(conninfo: str, tmp_path: Path, create: str) -> None:
    path = source_of(tmp_path / "s.db", create)
    more = (None,) * create.count("id")
    insert(path, "t", [(f"k{number}", number, *more[:3]) for number in range(2500)] + [("last", "x", *more[:3])])
    others = ", rowid text, _rowid_ text, oid text" if more else ""
    target = target_of(conninfo, tmp_path, f"CREATE TABLE t (a text, v int{others})")
    found = assess(path, plan_of({"t": None}), target)
    (finding,) = found.blocks
    assert (finding.code, finding.rows, found.rows) == ("text_in_number", 1, 2501)
    assert finding.keys[0].startswith("a=last") or finding.keys[0] in ("rowid=2501", "a row without a key")


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_database_in_utf16_is_read(conninfo: str, tmp_path: Path, encoding: str) -> None:
    path = source_of(
        tmp_path / "s.db", "CREATE TABLE t (id TEXT PRIMARY KEY, u TEXT, d TEXT, j TEXT, v TEXT)", encoding=encoding
    )
    good = [(f"გ{number}", SPELLED, "2025-10-10 08:08:59.575644", '{"a": "მთავარი"}', "🛰🛰") for number in range(100)]
    insert(path, "t", [*good, ("bad", "x", "y", '{"a": 1, "a": 2}', "a\0b")])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id text, u uuid, d timestamptz, j jsonb, v varchar(2))")
    found = assess(path, plan_of({"t": None}), target)
    assert {(item.code, item.keys) for item in found.findings} == {
        ("not_uuid", ("id=bad",)),
        ("not_a_datetime", ("id=bad",)),
        ("duplicate_json_keys", ("id=bad",)),
        ("nul_in_text", ("id=bad",)),
        ("unique_key", ()),
    }


def test_wide_rows_and_many_columns_are_read(conninfo: str, tmp_path: Path) -> None:
    columns = [f"c{number}" for number in range(400)]
    path = source_of(
        tmp_path / "s.db",
        f"CREATE TABLE t ({', '.join(f'{name} TEXT' for name in columns)})",
        "INSERT INTO t (c0, c399) VALUES (printf('%.*c', 40000000, 'x'), 'a'), ('y', 'b')",
    )
    insert(path, "t", [(*("z" for _ in columns[:-1]), "c\0")])
    target = target_of(conninfo, tmp_path, f"CREATE TABLE t ({', '.join(f'{name} text' for name in columns)})")
    found = assess(path, plan_of({"t": None}), target)
    (finding,) = found.blocks
    assert (finding.where, finding.keys, found.rows) == ("t.c399", ("rowid=3",), 3)


def test_a_virtual_table_of_the_plan_is_read(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db", "CREATE VIRTUAL TABLE t USING fts5(body)", "INSERT INTO t VALUES ('a'), ('b' || char(0))"
    )
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (body text)")
    found = assess(path, plan_of({"t": None}), target)
    assert [(item.code, item.keys) for item in found.blocks] == [("nul_in_text", ("rowid=2",))]


def test_content_of_secret_columns_is_never_shown(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (login TEXT PRIMARY KEY, token TEXT, seen DATETIME, plain TEXT)")
    insert(path, "t", [("hunter", "hunter2\0", 1760083739, "x" * 200 + "\0"), ("hunter", "hunter4\0", None, None)][:1])
    insert(path, "t", [("huntress", "hunter4\0", None, None)])
    target = target_of(
        conninfo, tmp_path, "CREATE TABLE t (login text PRIMARY KEY, token text UNIQUE, seen timestamptz, plain text)"
    )
    settings = {"secret": ["login", "token", "seen"], "columns": {"token": {"strip_nul": True}}}
    found = assess(path, plan_of({"t": settings}), target)
    text = found.to_json()
    assert "hunter" not in text and "1760083739" not in text and "2025-10-10" not in text
    by_column = {item.column: item for item in found.findings if item.code.startswith(("nul", "number"))}
    assert by_column["token"].keys == ("rowid=1", "rowid=2") and by_column["token"].becomes == "without its NUL characters"
    assert by_column["seen"].becomes == "unknown" and "datetime: unix" in by_column["seen"].decide
    assert len(by_column["plain"].example) == 80 and by_column["plain"].example.endswith("…")
