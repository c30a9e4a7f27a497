"""The fast conditions: sure of usual values, so that Python looks at none of them, and never of a NULL that must not be."""

from __future__ import annotations

from typing import Any

import apsw
import pytest

from include.cutover.assessment.columns import all_of, any_of, assessed_column, rowid_alias
from include.cutover.assessment.target import TargetTable
from include.cutover.copying.conversion import TargetColumn
from include.cutover.source.schema import SourceColumn, shape

USUAL: dict[str, tuple[int, list[Any]]] = {
    "int2": (-1, [0, -5, 32767]),
    "int4": (-1, [0, 2**31 - 1]),
    "int8": (-1, [2**63 - 1, -(2**63)]),
    "bool": (-1, [0, 1]),
    "float8": (-1, [0.5, 1e300, 7.0]),
    "numeric": (589834, [44.8271, -12.5]),
    "text": (-1, ["", "a", "მთავარი"]),
    "varchar": (14, ["", "abcdefghij", "მთავარი"]),
    "bpchar": (7, ["abc"]),
    "uuid": (-1, ["6f1ed002ab5595859014ebf0951522d9", "6F1ED002-AB55-9585-9014-EBF0951522D9"]),
    "timestamptz": (-1, ["2025-10-10 08:08:59.575644", "2025-12-31T08:08:59Z", "2025-10-10", "2025-10-10 08:08:59+04:00"]),
    "timestamp": (-1, ["2025-10-10 08:08:59", "2025-10-10 08:08:59.123"]),
    "date": (-1, ["2024-02-29"]),
    "time": (-1, ["08:08:59", "08:08:59.123", "08:08"]),
    "jsonb": (-1, ['{"a": [1, 2]}', "null"]),
    "bytea": (-1, [b"", b"\0"]),
    "mood": (-1, ["sad"]),
}
DECLARED = ("INTEGER", "NUMERIC", "REAL", "TEXT", "BLOB", "")


def accepted(base: str, declared: str, values: list[Any], *, not_null: bool) -> list[bool]:
    """Return the condition's answers for values in a column of that declared type."""
    target = TargetColumn("v", base, base, USUAL[base][0], base == "mood", not_null, False)
    table = TargetTable("t", {"v": target}, {}, {"v": ("sad", "happy")}, {}, (), (), (), {})
    column = assessed_column(SourceColumn("v", declared, False, 0), table, None, secret=False)
    connection = apsw.Connection(":memory:")
    connection.execute(f"CREATE TABLE t (v {declared})")
    connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    found = [value for (value,) in connection.execute(f"SELECT {column.accepted} FROM t")]
    assert set(found) <= {0, 1}
    return [bool(value) for value in found]


@pytest.mark.parametrize("base", USUAL)
@pytest.mark.parametrize("declared", DECLARED)
def test_null_is_accepted_only_where_it_is_allowed(base: str, declared: str) -> None:
    assert accepted(base, declared, [None], not_null=False) == [True]
    assert accepted(base, declared, [None], not_null=True) == [False]


@pytest.mark.parametrize("base", USUAL)
def test_usual_values_are_accepted(base: str) -> None:
    others = {"bool": "BOOLEAN", "float8": "REAL", "numeric": "REAL", "bytea": "BLOB"}
    declared = "INTEGER" if base.startswith("int") else others.get(base, "TEXT")
    assert all(accepted(base, declared, USUAL[base][1], not_null=True))


@pytest.mark.parametrize("base", USUAL)
@pytest.mark.parametrize("declared", DECLARED)
def test_values_of_other_classes_are_not_accepted(base: str, declared: str) -> None:
    wrong: list[Any] = [b"1"] if base != "bytea" else ["text"]
    if base not in ("text", "varchar", "bpchar", "bytea", "jsonb", "json"):
        wrong.append("abc")
    assert not any(accepted(base, declared, wrong, not_null=False))


def test_text_that_looks_like_a_number_is_not_accepted() -> None:
    for base in ("int2", "int4", "int8", "bool", "float8", "numeric"):
        assert accepted(base, "TEXT", ["1"], not_null=False) == [False]
        assert accepted(base, "BLOB", ["1"], not_null=False) == [False]


def test_an_unknown_collation_does_not_matter() -> None:
    connection = apsw.Connection(":memory:")
    connection.create_collation("theirs", lambda a, b: (a > b) - (a < b))
    for base, (_, values) in USUAL.items():
        target = TargetColumn("v", base, base, USUAL[base][0], base == "mood", False, False)
        table = TargetTable("t", {"v": target}, {}, {"v": ("sad",)}, {}, (), (), (), {})
        column = assessed_column(SourceColumn("v", "TEXT", False, 0), table, None, secret=False)
        connection.execute(f"CREATE TABLE {base} (v TEXT COLLATE theirs)")
        connection.execute(f"INSERT INTO {base} VALUES (?)", (values[0],))
        connection.create_collation("theirs", None)
        connection.execute(f"SELECT {column.accepted} FROM {base}").fetchall()
        connection.create_collation("theirs", lambda a, b: (a > b) - (a < b))


@pytest.mark.parametrize(
    ("create", "column"),
    [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", "id"),
        ("CREATE TABLE t (id integer PRIMARY KEY AUTOINCREMENT)", "id"),
        ("CREATE TABLE t (id INTEGER, PRIMARY KEY (id))", "id"),
        ("CREATE TABLE t (id INT PRIMARY KEY)", None),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY DESC)", None),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY) WITHOUT ROWID", None),
        ("CREATE TABLE t (a INTEGER, b INTEGER, PRIMARY KEY (a, b))", None),
        ("CREATE TABLE t (id INTEGER)", None),
    ],
)
def test_the_alias_of_the_rowid_is_found(create: str, column: str | None) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(create)
    assert rowid_alias(connection, shape(connection, "t")) == column


def test_conditions_are_joined_as_a_balanced_tree() -> None:
    connection = apsw.Connection(":memory:")
    many = [f"{number} = {number}" for number in range(2000)]
    assert connection.execute(f"SELECT {all_of(many)}, {any_of(many)}, {all_of([])}, {any_of([])}").get == (1, 1, 1, 0)
    assert all_of(["true", "x = 1", "true"]) == "(x = 1)"
