"""Chunks: bounds that are stored once, and checkpoints that are recorded once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from include.cutover.errors import LeaseLost
from include.cutover.target import checkpoints, ledger
from include.cutover.target.checkpoints import Chunk


@pytest.fixture
def target(conninfo: str) -> str:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE t (a integer)")
    ledger.ensure(conninfo)
    return conninfo


def test_the_first_plan_of_the_chunks_stays(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    first = [Chunk("t", 0, -5, 10, 7), Chunk("t", 1, 11, 2**63 - 1, 3)]
    assert checkpoints.plan_chunks(target, "run", epoch, first) == first
    assert checkpoints.plan_chunks(target, "run", epoch, [Chunk("t", 0, -5, 2**63 - 1, 10)]) == first
    assert checkpoints.plan_chunks(target, "run", epoch, [Chunk("u", 0, None, None, 0)]) == [Chunk("u", 0, None, None, 0)]
    assert checkpoints.stored_chunks(target, "run", "t") == first
    assert checkpoints.stored_chunks(target, "another", "t") == []


def test_streams_that_plan_at_once_agree(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    plans = [[Chunk("t", part, part * 10, part * 10 + 9, 10) for part in range(parts)] for parts in (1, 2, 3, 4)]
    start = threading.Barrier(len(plans))

    def plan(chunks: list[Chunk]) -> list[Chunk]:
        start.wait()
        return checkpoints.plan_chunks(target, "run", epoch, chunks)

    with ThreadPoolExecutor(len(plans)) as pool:
        found = list(pool.map(plan, plans))
    assert found[0] in plans
    assert all(chunks == found[0] for chunks in found)


def test_a_run_without_the_lease_plans_nothing(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    ledger.take_over(target, "run", "rollback")
    with pytest.raises(LeaseLost):
        checkpoints.plan_chunks(target, "run", epoch, [Chunk("t", 0, None, None, 0)])
    assert checkpoints.stored_chunks(target, "run", "t") == []


def test_a_chunk_is_recorded_once(target: str) -> None:
    epoch = ledger.open_run(target, "run", "ward_ops")
    (chunk,) = checkpoints.plan_chunks(target, "run", epoch, [Chunk("t", 0, 1, 2, 2)])
    with psycopg.connect(target) as first:
        assert checkpoints.record_copied(first, "run", epoch, chunk)
        first.rollback()
        assert checkpoints.record_copied(first, "run", epoch, chunk)
    with psycopg.connect(target) as second:
        assert not checkpoints.record_copied(second, "run", epoch, chunk)
    assert checkpoints.stored_chunks(target, "run", "t") == [Chunk("t", 0, 1, 2, 2, copied=True)]
