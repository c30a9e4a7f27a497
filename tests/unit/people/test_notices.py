"""Notices: what they say, who gets them, and that nothing a channel does stops a cutover."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.cutover.errors import Refused
from include.cutover.evidence.record import Evidence
from include.cutover.people import delivery, notices, outbox_files
from include.cutover.people.delivery import Delivery, drain
from include.cutover.people.notices import Channel, Message
from tests.support.ends import Mailbox


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path / "run")


def kinds(evidence: Evidence) -> list[tuple[str, ...]]:
    """The events of the evidence in short."""
    return [
        (event["event"], event["notice"], *((event["channel"], event["outcome"]) if "channel" in event else ()))
        for event in evidence.events()
    ]


def send(
    notice: str, text: str, subject: str, channels: Sequence[Channel], evidence: Evidence, seconds: float = 15
) -> list[Delivery]:
    """Post a notice and send everything that waits, also where it failed just now."""
    notices.post(evidence, Message(notice, subject, text))
    return drain(channels, evidence, seconds=seconds, patient=False)


def test_every_placeholder_is_filled() -> None:
    text = notices.render(
        "<application> at <time>: call <lead>, <minutes> min, <time>.",
        {"application": "Ward OPS", "time": "02:00", "lead": "Nino", "minutes": "60", "end": "03:00"},
    )
    assert text == "Ward OPS at 02:00: call Nino, 60 min, 02:00."


def test_a_value_is_not_expanded_again() -> None:
    assert notices.render("<reason> <run>", {"reason": r"<run> \1 \g<0>", "run": "r1"}) == r"<run> \1 \g<0> r1"


@pytest.mark.parametrize("values", [{}, {"lead": ""}, {"lead": "  "}])
def test_a_missing_or_empty_value_is_an_error(values: dict[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        notices.render("Contact <lead> at <time>.", {"time": "now", **values})
    assert caught.value.found == "none for <lead>"


def test_the_notice_is_recorded_before_anything_is_sent(evidence: Evidence) -> None:
    seen: list[list[tuple[str, ...]]] = []

    class Looking(Mailbox):
        def send(self, subject: str, text: str, *, reached: frozenset[str] = frozenset()) -> None:
            seen.append(kinds(evidence))
            super().send(subject, text, reached=reached)

    channel = Looking("slack")
    assert send("start", "text", "subject", [channel], evidence) == [Delivery("start", "slack", "sent")]
    assert seen == [[("notice", "start")]]
    assert channel.got == [("subject", "text")]
    assert kinds(evidence) == [("notice", "start"), ("notice.delivery", "start", "slack", "sent")]


def test_a_retry_sends_only_where_it_is_missing(evidence: Evidence) -> None:
    slack, mail = Mailbox("slack"), Mailbox("mail", error=ConnectionRefusedError("refused"))
    first = send("start", "text", "subject", [slack, mail], evidence)
    assert sorted(first, key=lambda item: item.outcome) == [
        Delivery("start", "mail", "failed", "ConnectionRefusedError: refused"),
        Delivery("start", "slack", "sent"),
    ]

    mail.error = None
    again = Evidence(evidence.folder)  # as another process would find it
    assert send("start", "text", "subject", [slack, mail], again) == [Delivery("start", "mail", "sent")]
    assert send("start", "text", "subject", [slack, mail], again) == []
    assert (len(slack.got), len(mail.got)) == (1, 1)
    assert sorted(kinds(evidence)) == [
        ("notice", "start"),
        ("notice.delivery", "start", "mail", "failed"),
        ("notice.delivery", "start", "mail", "sent"),
        ("notice.delivery", "start", "slack", "sent"),
    ]


def test_another_notice_is_not_held_back_by_the_first(evidence: Evidence) -> None:
    slack = Mailbox("slack")
    send("start", "begins", "s", [slack], evidence)
    send("completion", "complete", "s", [slack], evidence)
    assert [text for _, text in slack.got] == ["begins", "complete"]


def test_a_text_that_changed_before_a_retry_is_recorded_too(evidence: Evidence) -> None:
    slack = Mailbox("slack", error=OSError("down"))
    send("rollback", "at 02:00", "s", [slack], evidence)
    slack.error = None
    send("rollback", "at 02:05", "s", [slack], evidence)
    assert [event["text"] for event in evidence.events() if event["event"] == "notice"] == ["at 02:00", "at 02:05"]
    assert slack.got == [("s", "at 02:05")]


def test_a_channel_that_hangs_costs_neither_the_run_nor_the_others(evidence: Evidence) -> None:
    release = threading.Event()
    hanging, quick = Mailbox("slack", wait_for=release), Mailbox("mail")
    try:
        deliveries = send("start", "text", "s", [hanging, quick], evidence, seconds=0.3)
        recorded = kinds(evidence)[1:]
    finally:
        release.set()
    assert deliveries == [
        Delivery("start", "mail", "sent"),
        Delivery("start", "slack", "failed", "no answer within 0.3 s"),
    ]
    # The quick one was recorded while the other was still waited for.
    assert recorded == [
        ("notice.delivery", "start", "mail", "sent"),
        ("notice.delivery", "start", "slack", "failed"),
    ]
    while evidence.last("notice.delivery", channel="slack", outcome="sent") is None:
        time.sleep(0.01)  # what arrives after all is known, and not sent again
    assert drain([hanging, quick], evidence, patient=False) == []


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (
            ValueError("POST https://hooks.slack.com/services/T0/B0/SeCrEt failed"),
            "ValueError: POST https://hooks.slack.com/*** failed",
        ),
        (OSError("<urlopen error http://127.0.0.1:80/x?token=SeCrEt>"), "OSError: <urlopen error http://127.0.0.1:80/***>"),
        (OSError("smtp://cutover:SeC/rEt@mail:25 refused"), "OSError: smtp://cutover/*** refused"),
        (OSError("login failed: password='SeCr Et'\nsecond line"), "OSError: login failed: password=*** second line"),
        (OSError('{"password": "SeC\\"rEt"}'), 'OSError: {"password": ***}'),
        (OSError("DB_PASSWORD=SeCrEt"), "OSError: DB_PASSWORD=***"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 188),
    ],
)
def test_no_secret_in_a_recorded_error(evidence: Evidence, error: Exception, recorded: str) -> None:
    deliveries = send("start", "text", "s", [Mailbox("slack", error=error)], evidence)
    assert deliveries == [Delivery("start", "slack", "failed", recorded)]
    assert "SeC" not in (evidence.folder / "events.jsonl").read_text()


def test_missed_notices_are_sent_once_when_the_channel_is_back(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    slack, mail = Mailbox("slack", error=OSError("down")), Mailbox("mail")
    notices.post(evidence, Message("start", "Start", "begins"))
    notices.post(evidence, Message("completion", "End", "complete"))
    first = drain([slack, mail], evidence)
    assert sorted((item.channel, item.notice, item.outcome) for item in first) == [
        ("mail", "completion", "sent"),
        ("mail", "start", "sent"),
        ("slack", "completion", "failed"),
        ("slack", "start", "failed"),
    ]
    slack.error = None
    assert drain([slack, mail], evidence) == [], "a channel that failed is left alone for a while"
    monkeypatch.setattr(delivery, "LATE", timedelta(0))
    assert drain([slack, mail], evidence, patient=False) == [
        Delivery("start", "slack", "sent"),
        Delivery("completion", "slack", "sent"),
    ]
    assert drain([slack, mail], evidence, patient=False) == []
    written = evidence.events()[0]["time"][:16].replace("T", " ")
    assert slack.got[0] == ("Start", f"begins\n\n(Written at {written} UTC; it could not be delivered then.)")
    assert [subject for subject, _ in slack.got] == ["Start", "End"]
    assert len(mail.got) == 2


def test_the_pause_grows_with_each_failure(evidence: Evidence) -> None:
    notices.post(evidence, Message("start", "s", "text"))
    pauses = []
    for _ in range(9):
        drain([Mailbox("slack", error=OSError("down"))], evidence, patient=False)
        events = evidence.events()
        found = notices.outbox(events)["start"]
        pauses.append((found.next_try("slack") - datetime.fromisoformat(events[-1]["time"])).total_seconds())
        assert not notices.waiting(events, ["slack"], datetime.now(UTC))
        assert notices.waiting(events, ["slack"], found.next_try("slack")) == {"slack": ["start"]}
    assert pauses == [15, 30, 60, 120, 240, 480, 900, 900, 900]
    day_after = datetime.now(UTC) + timedelta(hours=25)
    assert not notices.is_pending(evidence.events(), ["slack"], day_after), "it gives up"
    assert notices.is_pending(evidence.events(), ["slack"], datetime.now(UTC))


def test_due_notice_waits_and_gets_its_reason_when_it_is_sent(evidence: Evidence) -> None:
    slack, soon = Mailbox("slack"), datetime.now(UTC) + timedelta(seconds=0.3)
    notices.post(evidence, Message("deadline", "s", "It is late: <reason> <b>", due=soon, while_open=True))
    assert drain([slack], evidence) == [] and slack.got == []
    assert notices.is_pending(evidence.events(), ["slack"], datetime.now(UTC))
    while datetime.now(UTC) < soon:
        time.sleep(0.05)
    done = drain([slack], evidence, reason=lambda notice, events: f"{notice} after {len(events)} event.")
    assert done == [Delivery("deadline", "slack", "sent")]
    assert slack.got == [("s", "It is late: deadline after 1 event. <b>")]
    recorded = evidence.last("notice")
    assert recorded is not None and recorded["text"] == slack.got[0][1], "what was sent is what is recorded"


@pytest.mark.parametrize("end", ["sealed", "live"])
def test_notices_of_the_clock_are_not_sent_once_the_run_is_closed(evidence: Evidence, end: str) -> None:
    slack = Mailbox("slack")
    notices.post(evidence, Message("deadline", "s", "late", while_open=True))
    notices.post(evidence, Message("completion", "s", "complete"))
    if end == "sealed":
        evidence.append("sealed", outcome="rolled_back")
    else:
        evidence.append("decision", at="decide_live", outcome="go_on", why=[])
    drain([slack], evidence)
    assert [text for _, text in slack.got] == ["complete"]
    assert not notices.is_pending(evidence.events(), ["slack"], datetime.now(UTC))


def test_the_lead_gets_only_the_notices_for_the_lead(evidence: Evidence) -> None:
    slack, lead = Mailbox("slack"), Mailbox("lead")
    notices.post(evidence, Message("start", "s", "begins"))
    notices.post(evidence, Message("deadline", "s", "late", lead=True))
    drain([slack, lead], evidence)
    assert sorted(text for _, text in slack.got) == ["begins", "late"] and lead.got == [("s", "late")]


# --- the communicator ---------------------------------------------------------------------------------------------------


def test_held_notice_is_sent_when_it_is_released(evidence: Evidence) -> None:
    slack = Mailbox("slack")
    notices.post(evidence, Message("completion", "s", "as the plan says"), hold=timedelta(minutes=5))
    assert drain([slack], evidence) == []
    notices.edit(evidence, "completion", "as Tamar says", by="communicator", channels=["slack", "mail"])
    assert drain([slack], evidence) == [], "a text is not a release"
    notices.post(evidence, Message("completion", "s", "as the plan says"), hold=timedelta(minutes=5))  # a step's second try
    notices.release(evidence, "completion", by="communicator")
    assert drain([slack], evidence) == [Delivery("completion", "slack", "sent")]
    assert slack.got == [("s", "as Tamar says")]
    who = [(event["event"], event["by"]) for event in evidence.events() if event.get("by")]
    assert who == [("notice", "communicator"), ("notice.released", "communicator")]
    with pytest.raises(Refused, match="cannot be changed"):
        notices.edit(evidence, "completion", "too late", by="communicator", channels=["slack", "mail"])


def test_held_notice_is_sent_when_it_is_not_released_in_time(evidence: Evidence) -> None:
    slack = Mailbox("slack")
    notices.post(evidence, Message("rollback", "s", "text"), hold=timedelta(seconds=0.2))
    assert drain([slack], evidence) == []
    time.sleep(0.25)
    assert drain([slack], evidence) == [Delivery("rollback", "slack", "sent")]
    assert slack.got == [("s", "text")]


def test_withheld_notice_is_not_sent_until_it_is_released(evidence: Evidence) -> None:
    slack, mail = Mailbox("slack", error=OSError("down")), Mailbox("mail")
    send("start", "text", "s", [slack, mail], evidence)
    slack.error = None
    notices.withhold(evidence, "start", by="lead", channels=["slack", "mail"])
    assert drain([slack, mail], evidence, patient=False) == []
    assert not notices.is_pending(evidence.events(), ["slack", "mail"], datetime.now(UTC))
    notices.release(evidence, "start", by="communicator")
    assert drain([slack, mail], evidence, patient=False) == [Delivery("start", "slack", "sent")]
    with pytest.raises(Refused, match=r"no such notice.*one of: start"):
        notices.withhold(evidence, "strat", by="lead", channels=["slack", "mail"])


def test_nothing_to_send_without_evidence(evidence: Evidence) -> None:
    assert drain([Mailbox("slack")], evidence) == []


def test_without_channels_the_notice_is_still_recorded(evidence: Evidence) -> None:
    assert send("start", "text", "s", [], evidence) == []
    assert kinds(evidence) == [("notice", "start")]


def test_a_run_is_marked_while_something_waits(evidence: Evidence) -> None:
    slack = Mailbox("slack", error=OSError("down"))
    send("start", "text", "s", [slack], evidence)
    assert outbox_files.marked(evidence.folder.parent) == [evidence]
    notices.unmark(evidence, ["slack"])
    assert outbox_files.marked(evidence.folder.parent) == [evidence]
    slack.error = None
    drain([slack], evidence, patient=False)
    notices.unmark(evidence, ["slack"])
    assert outbox_files.marked(evidence.folder.parent) == []
