"""A few of the schedules that ``make explore`` plays by the thousand; a failing one says how to play it again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.exploring.arena import Arena

FIRST = 20_000
SCHEDULES = 6


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as made:
        yield made


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SCHEDULES))
def test_a_schedule_ends_in_one_of_the_two_states(arena: Arena, seed: int) -> None:
    result = arena.play(seed)
    assert not result.faults, f"{result}\npython -m tests.exploring 1 --seed {seed} --verbose plays it again"
