"""Rows, counted."""

from __future__ import annotations

from include.cutover.target import (
    row_counts,
)
from tests.support.target_schema import prepare


def test_rows_are_counted_by_name(conninfo: str) -> None:
    prepare(conninfo, """CREATE TABLE "Sel ect" AS SELECT generate_series(1, 3) AS id; CREATE TABLE t ()""")
    assert row_counts.of_tables(conninfo, "app", ["t", "Sel ect"]) == {"t": 0, "Sel ect": 3}
