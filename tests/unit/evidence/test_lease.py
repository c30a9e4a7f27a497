"""The lease and the claims: one holder, one attempt, and nobody works beside a rollback."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from include.cutover.errors import LeaseLost, Refused, Unreachable
from include.cutover.evidence import claims, lease
from include.cutover.evidence.record import Evidence


def test_a_second_run_is_refused_with_the_holders_name() -> None:
    Evidence.of("p", "one").append("run.opened")
    lease.acquire("p", "one", "cutover_p/one")
    with pytest.raises(Refused, match="cutover_p/one"):
        lease.acquire("p", "two", "cutover_p/two")


def test_second_acquire_by_the_same_run_gives_the_same_lease() -> None:
    assert lease.acquire("p", "one", "cutover_p/one") == lease.acquire("p", "one", "cutover_p/one")


def test_sealed_run_gives_up_the_lease() -> None:
    Evidence.of("p", "one").append("run.opened")
    first = lease.acquire("p", "one", "cutover_p/one")
    Evidence.of("p", "one").append("sealed", outcome="abandoned")
    assert lease.acquire("p", "two", "cutover_p/two").epoch == first.epoch + 1


def test_run_that_lost_the_lease_is_refused() -> None:
    lease.acquire("p", "one", "cutover_p/one")
    lease.check("p", "one", "cutover_p/one")
    lease.take_over("p", "one", "rollback_p/r")
    with pytest.raises(LeaseLost, match="rollback_p/r"):
        lease.check("p", "one", "cutover_p/one")
    lease.check("p", "one", "rollback_p/r")


def test_run_without_a_lease_is_refused() -> None:
    with pytest.raises(LeaseLost, match="a free lease"):
        lease.check("p", "one", "cutover_p/one")


def _hold(ready: Any) -> None:
    with claims.claim("p", "one", "copy"):
        ready.set()
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture
def zombie(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An attempt of the step ``copy`` that stands still and holds its claim."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(ready,))
    process.start()
    assert ready.wait(10)
    monkeypatch.setattr(claims, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.2)
    yield process
    process.kill()
    process.join()


def test_retry_kills_a_predecessor_that_hangs(zombie: Any) -> None:
    with claims.claim("p", "one", "other step"):
        assert zombie.is_alive(), "another step is none of its business"
    with claims.claim("p", "one", "copy"):
        zombie.join(10)
        assert zombie.exitcode == -signal.SIGKILL


def test_rollback_kills_a_step_that_hangs(zombie: Any) -> None:
    claims.wait_for_others("p")
    zombie.join(10)
    assert zombie.exitcode == -signal.SIGKILL


def test_run_that_lost_the_lease_kills_no_process(zombie: Any) -> None:
    def lost() -> bool:
        return False

    with pytest.raises(Unreachable, match="step copy"), claims.claim("p", "one", "copy", may_end=lost):
        pass
    with pytest.raises(Unreachable, match="plan p"):
        claims.wait_for_others("p", lost)
    assert zombie.is_alive()


def test_step_forward_waits_for_a_step_back_and_does_not_kill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WAIT_SECONDS", 0.2)
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def go_back() -> None:
        with claims.claim("p", "one", "rollback.restore_source", alone=True):
            ready.set()
            time.sleep(60)

    process = context.Process(target=go_back)
    process.start()
    try:
        assert ready.wait(10)
        with pytest.raises(Unreachable, match="plan p"), claims.claim("p", "one", "copy"):
            pass
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
