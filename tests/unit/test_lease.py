"""The lease and the claims: one holder, one attempt, and nobody works beside a rollback."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import pytest

from include.cutover import claims, lease
from include.cutover.errors import LeaseLost, Refused, Unreachable
from include.cutover.evidence import Evidence


def test_a_second_run_is_refused_with_the_holders_name() -> None:
    Evidence.of("p", "one").append("run.opened")
    lease.acquire("p", "one", "cutover_p/one")
    with pytest.raises(Refused, match="cutover_p/one"):
        lease.acquire("p", "two", "cutover_p/two")


def test_the_same_run_asks_twice_and_gets_the_same() -> None:
    assert lease.acquire("p", "one", "cutover_p/one") == lease.acquire("p", "one", "cutover_p/one")


def test_a_sealed_run_gives_way() -> None:
    Evidence.of("p", "one").append("run.opened")
    first = lease.acquire("p", "one", "cutover_p/one")
    Evidence.of("p", "one").append("sealed", outcome="abandoned")
    assert lease.acquire("p", "two", "cutover_p/two").epoch == first.epoch + 1


def test_who_lost_the_lease_may_not_act() -> None:
    lease.acquire("p", "one", "cutover_p/one")
    lease.check("p", "one", "cutover_p/one")
    lease.take_over("p", "one", "rollback_p/r")
    with pytest.raises(LeaseLost, match="rollback_p/r"):
        lease.check("p", "one", "cutover_p/one")
    lease.check("p", "one", "rollback_p/r")


def test_without_a_lease_nobody_may_act() -> None:
    with pytest.raises(LeaseLost, match="nobody"):
        lease.check("p", "one", "cutover_p/one")


def _hold(ready: Any) -> None:
    with claims.claim("p", "one", "copy"):
        ready.set()
        time.sleep(60)


def test_a_retry_waits_for_its_predecessor_and_gets_in_when_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    zombie = context.Process(target=_hold, args=(ready,))
    zombie.start()
    try:
        assert ready.wait(10)
        monkeypatch.setattr(claims, "WAIT_SECONDS", 0.3)
        with pytest.raises(Unreachable, match="step copy"), claims.claim("p", "one", "copy"):
            pass
        with pytest.raises(Unreachable, match="plan p"):
            claims.wait_for_others("p")
        with claims.claim("p", "one", "other step"):
            pass
    finally:
        os.kill(zombie.pid or 0, signal.SIGKILL)
        zombie.join()
    with claims.claim("p", "one", "copy"):
        pass
    claims.wait_for_others("p")
