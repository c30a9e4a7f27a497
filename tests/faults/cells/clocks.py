"""The clock of the host is set while a cutover or a rollback runs: every process of Airflow sees it at once."""

from __future__ import annotations

import time

from tests.faults.clock import wall_clock
from tests.faults.matrix import LIVE, RESTORED, UNTOUCHED, cell
from tests.faults.trial import Trial

HOUR = 3600
WAYS = {"ahead": HOUR, "back": -HOUR}


def says_jump(trial: Trial, run_id: str, way: str) -> None:
    """Require that the report says how the clock was set, and that no duration in it is negative or an hour too long."""
    page = (trial.evidence(run_id).folder / "report.html").read_text()
    trial.require("The clock was set during the run" in page, "the report does not say that the clock was set")
    trial.require(f"he clock went {way} by" in page, f"the report does not say that the clock went {way}")


def in_copy(way: str) -> None:
    """An hour ahead is past the deadline; an hour back is nothing."""

    @cell(
        16, f"clock-set-{way}-copy", f"the host's clock is set {way} by an hour", "copy", LIVE if way == "back" else RESTORED
    )
    def _(trial: Trial) -> None:
        with wall_clock(trial.site) as clock:
            with trial.held_at("copy.ping_results.0", "middle") as run_id:
                clock.set(WAYS[way])
            trial.wait(run_id)
            says_jump(trial, run_id, way)

    @cell(
        16, f"clock-set-{way}-rollback", f"the host's clock is set {way} by an hour, manual rollback of a live run",
        "rollback", RESTORED,
    )  # fmt: skip
    def _(trial: Trial) -> None:
        with wall_clock(trial.site) as clock:
            run_id = trial.cutover()
            trial.wait(run_id)
            with trial.held_at("rollback.restore_source", "begin", start=trial.rollback) as back:
                clock.set(WAYS[way])
            trial.wait(back)
            says_jump(trial, run_id, way)


for _way in WAYS:
    in_copy(_way)


@cell(16, "clock-set-ahead-gate", "the host's clock is set ahead by an hour; nobody answers", "at approve", RESTORED)
def _(trial: Trial) -> None:
    with wall_clock(trial.site) as clock:
        run_id = trial.cutover("ask")
        trial.answer(run_id, "go_no_go")
        trial.gate(run_id, "approve")
        clock.set(HOUR)
        trial.fault()
        trial.wait(run_id)
        said = trial.evidence(run_id).last("gate.clock", gate="approve") or {}
        trial.require(
            "the clock went ahead" in said.get("reason", ""), f"the evidence does not say why it closed early: {said}"
        )


@cell(16, "clock-set-back-gate", "the host's clock is set back by an hour; the lead says Go", "at approve", LIVE)
def _(trial: Trial) -> None:
    with wall_clock(trial.site) as clock:
        run_id = trial.cutover("ask")
        trial.answer(run_id, "go_no_go")
        trial.gate(run_id, "approve")
        clock.set(-HOUR)
        trial.fault()
        time.sleep(3)
        trial.answer(run_id, "approve")
        trial.wait(run_id)
        says_jump(trial, run_id, "back")


@cell(16, "clock-set-before", "the host's clock is 2 hours behind PostgreSQL's", "preflight", UNTOUCHED)
def _(trial: Trial) -> None:
    with wall_clock(trial.site) as clock:
        clock.set(-2 * HOUR)
        trial.fault()
        trial.wait(trial.cutover())
