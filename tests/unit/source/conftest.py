"""A small sound database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sqlite_files import database


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    rows = (
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i, hex(randomblob(50)) FROM n"
    )
    return database(tmp_path / "simple.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)", f"INSERT INTO t {rows}")
