"""Sizes as they are shown."""

from __future__ import annotations

import psycopg
import pytest

from include.cutover.preflight.sizes import pretty
from include.cutover.stack.postgres import Cluster

MEGABYTE = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 10239, 10240, 10 * MEGABYTE, 123_456_789, 12_345_678_901, 9 * 10**15])
def test_sizes_are_shown_as_psql_shows_them(cluster: Cluster, size: int) -> None:
    with psycopg.connect(cluster.conninfo()) as connection:
        row = connection.execute("SELECT pg_size_pretty(%s::bigint)", [size]).fetchone()
    assert row is not None and pretty(size) == row[0]
