"""The aftercare of a live run from its beginning to its end: looks, the question to the lead, the rollback, the report."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime

import apsw
import pytest

from include.cutover.aftercare import record as aftercare_record
from include.cutover.errors import CutoverError, Refused, StepFailed
from include.cutover.steps.aftercare import ask
from include.cutover.steps.aftercare.close_aftercare import close_aftercare
from include.cutover.steps.aftercare.first_backup import first_backup
from include.cutover.steps.aftercare.look import look
from include.cutover.steps.aftercare.open_aftercare import open_aftercare
from include.cutover.steps.aftercare.watch import run
from include.cutover.steps.call import NotYet
from include.cutover.steps.open_rollback import open_rollback
from include.cutover.steps.step import Caller, Step
from tests.integration.aftercare.shop import LEAD, OTHER, PLAN, RUN, Shop, bad
from tests.support.http_application import says


def test_a_quiet_aftercare_completes_its_looks_backs_up_notifies_and_reports(shop: Shop) -> None:
    shop.go_live(minutes=1 / 30)
    sealed = shop.cutover.events()
    shop.first_look()
    assert shop.do("first_backup", first_backup).outcome == "passed"
    shop.look_on()
    made = aftercare_record.looks(shop.evidence.events())
    assert len(made) >= 2 and [event["outcome"] for event in made] == ["green"] * len(made), [bad(e) for e in made]
    assert made[0]["latency"]["p95"] <= 2
    assert ask.wait_for_question(shop.watch("ask_1")) is None, "nobody is asked"
    assert ask.request_rollback(shop.watch("start_rollback")) is None
    report = shop.do("close_aftercare", close_aftercare)
    assert report.figures["outcome"] == "quiet"
    assert [subject for subject, _ in shop.mailbox.got] == ["Shop: the aftercare is over"]
    assert "Every round was green" in shop.mailbox.got[0][1]
    closed = shop.evidence.last(aftercare_record.CLOSED)
    assert closed is not None and closed["written"] == f"{len(made)} rows (pings: {len(made)} inserted)"
    page = (shop.evidence.folder / "post_cutover.html").read_text(encoding="utf-8")
    assert "every round was green" in page and f"{len(made)} rows" in page and "Taken live by" in page and ">lead<" in page
    assert shop.cutover.events() == sealed, "the sealed evidence of the run is as it was"
    shop.do("close_aftercare", close_aftercare)
    assert len(shop.mailbox.got) == 1, "closing again tells nobody again"


def test_a_program_that_still_writes_to_sqlite_makes_the_next_look_red(shop: Shop) -> None:
    shop.go_live(minutes=1)
    shop.first_look()
    assert aftercare_record.looks(shop.evidence.events())[0]["outcome"] == "green"
    with closing(apsw.Connection(str(shop.source_path(shop.plan())))) as connection:
        connection.execute("INSERT INTO pings (ms) VALUES (1), (2)")
    time.sleep(1.2)
    with pytest.raises(NotYet):
        shop.do("look", look)
    second = aftercare_record.looks(shop.evidence.events())[1]
    assert second["outcome"] == "red"
    assert "Nothing was written to SQLite since the backup: found" in second["summary"]
    assert "pings: 2 more than the backup" in second["summary"]


def test_only_a_run_that_is_live_is_looked_after_and_by_one(shop: Shop) -> None:
    shop.go_live()
    with pytest.raises(Refused, match="no such run"):
        run(shop.watch("open_aftercare", run_id="another"), open_aftercare)
    shop.do("open_aftercare", open_aftercare)
    shop.do("open_aftercare", open_aftercare)
    with pytest.raises(Refused, match="another run watches this cutover already"):
        run(shop.watch("open_aftercare", own="by_hand"), open_aftercare)
    assert (
        aftercare_record.subject_of(PLAN, "aftercare__one") == RUN and aftercare_record.subject_of(PLAN, "by_hand") is None
    )
    opened = shop.evidence.last(aftercare_record.OPENED)
    assert opened is not None and opened["actor"] == LEAD, "who took it live, and not who triggered this"


def test_a_killed_aftercare_goes_on_and_makes_a_missed_look_once(shop: Shop) -> None:
    shop.go_live(minutes=1, interval_seconds=1)
    shop.first_look()
    with pytest.raises(NotYet) as later:
        shop.do("look", look)
    assert len(aftercare_record.looks(shop.evidence.events())) == 1, "what is not due is not made"
    time.sleep(max(0.0, (later.value.until - datetime.now(UTC)).total_seconds()) + 1.2)
    with pytest.raises(NotYet):
        shop.do("look", look)
    assert len(aftercare_record.looks(shop.evidence.events())) == 2


def red(shop: Shop) -> aftercare_record.OpenQuestion:
    """A red look, and the question that comes of it."""
    shop.http.routes["/health"] = says({"status": "ill", "database": "postgresql"})
    shop.first_look()
    question = ask.wait_for_question(shop.watch("ask_1"))
    assert question is not None
    return question


def test_a_red_look_notifies_the_lead_and_asks_with_the_rows_that_a_rollback_leaves_behind(shop: Shop) -> None:
    shop.go_live(minutes=1)
    with pytest.raises(NotYet):
        shop.do("open_aftercare", open_aftercare)
        ask.wait_for_question(shop.watch("ask_1"))
    shop.sql("INSERT INTO pings (ms) SELECT 1 FROM generate_series(1, 41)")
    text = ask.ask(shop.watch("ask_1"), red(shop))
    assert "42 rows (pings: 42 inserted)" in text and "status ill" in text and "it stays live" in text
    ((subject, told),) = shop.mailbox.got
    assert subject == "Shop: PostgreSQL needs attention" and "status ill" in told and "Somebody" in told
    assert ask.wait_for_question(shop.watch("ask_1")) is not None, "whose answer got lost is asked again"
    ask.record_answer(shop.watch("ask_1"), "Stay live", LEAD)
    with pytest.raises(NotYet):
        ask.wait_for_question(shop.watch("ask_2"))  # not twice about the same


@pytest.mark.parametrize(
    ("chosen", "by", "answer"),
    [
        ("Roll back", LEAD, "Roll back"),
        ("Stay live", LEAD, "Stay live"),
        ("Roll back", OTHER, "Stay live"),
        ("Stay live", None, "Stay live"),
        ("Roll back", None, "Stay live"),
    ],
)
def test_only_the_lead_rolls_back_and_no_answer_stays_live(shop: Shop, chosen: str, by: str | None, answer: str) -> None:
    shop.go_live(minutes=1)
    ask.ask(shop.watch("ask_1"), red(shop))
    assert ask.record_answer(shop.watch("ask_1"), chosen, by) == answer
    run_id = ask.request_rollback(shop.watch("start_rollback"))
    assert (run_id is not None) == (answer == "Roll back")
    if by is None:
        assert "No answer within" in shop.mailbox.got[-1][1], "and the lead gets another notice"
    if answer == "Stay live":
        time.sleep(1)
        with pytest.raises(NotYet):
            shop.do("look", look)
        assert ask.wait_for_question(shop.watch("ask_2")) is not None, "the next red round asks again"
    else:
        assert ask.wait_for_question(shop.watch("ask_2")) is None
        assert ask.request_rollback(shop.watch("start_rollback")) == run_id, "one answer, one rollback"


def test_the_rollback_has_the_name_of_who_answered_and_the_form_cannot_change_that(shop: Shop) -> None:
    shop.go_live(minutes=1)
    ask.ask(shop.watch("ask_1"), red(shop))
    ask.record_answer(shop.watch("ask_1"), "Roll back", LEAD)
    run_id = ask.request_rollback(shop.watch("start_rollback"))
    assert run_id is not None

    def rollback(own: str, actor: str) -> Step:
        form = {"reason": "forged", "run_id": "another run"}
        return Step(PLAN, "open_rollback", Caller(f"rollback_{PLAN}", own, actor, form), shop, shop.plan())

    with pytest.raises(Refused, match="no aftercare requested"):
        open_rollback(rollback("aftercare__forged__7", LEAD))
    with pytest.raises(Refused, match="only the lead or a deputy"):
        open_rollback(rollback("manual__mine", OTHER))
    open_rollback(rollback(run_id, OTHER))
    reopened = shop.cutover.last("reopened")
    assert reopened is not None and reopened["by"] == LEAD and reopened["reason"].startswith("aftercare: The application")
    assert not aftercare_record.is_live(shop.cutover)
    with pytest.raises(StepFailed):  # one of the looks was red
        shop.do("look", look)
    with pytest.raises(StepFailed, match="was rolled back"):
        shop.do("close_aftercare", close_aftercare)
    assert "closing" not in {event["notice"] for event in shop.evidence.events() if event["event"] == "notice"}


def test_a_backup_that_cannot_be_made_is_unclear_and_its_end_is_not_quiet(shop: Shop) -> None:
    shop.go_live(first_backup={"pg_dump": "/nowhere/pg_dump"})
    shop.do("open_aftercare", open_aftercare)
    assert shop.do("first_backup", first_backup).outcome == "failed", "unknown is no pass"
    shop.look_on()
    with pytest.raises(StepFailed, match="could not be made"):
        shop.do("close_aftercare", close_aftercare)
    closed = shop.evidence.last(aftercare_record.CLOSED)
    assert closed is not None and closed["outcome"] == "unclear"


def test_looks_that_were_never_made_are_not_quiet(shop: Shop) -> None:
    shop.go_live()
    shop.do("open_aftercare", open_aftercare)
    with pytest.raises(CutoverError, match="were not completed"):
        shop.do("close_aftercare", close_aftercare)
