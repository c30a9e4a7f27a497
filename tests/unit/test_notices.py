"""Notices: what they say, who gets them, and that nothing a channel does stops a cutover."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from include.cutover import notices
from include.cutover.errors import Refused
from include.cutover.evidence import Evidence
from include.cutover.notices import Delivery


@dataclass
class Box:
    """A channel that keeps what it gets, or fails as told."""

    name: str
    error: Exception | None = None
    wait_for: threading.Event | None = None
    got: list[tuple[str, str]] = field(default_factory=list)

    def send(self, subject: str, text: str) -> None:
        if self.wait_for is not None:
            self.wait_for.wait(30)
        if self.error is not None:
            raise self.error
        self.got.append((subject, text))


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path / "run")


def kinds(evidence: Evidence) -> list[tuple[str, ...]]:
    """The events of the evidence in short."""
    return [
        (event["event"], event["notice"], *((event["channel"], event["outcome"]) if "channel" in event else ()))
        for event in evidence.events()
    ]


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

    class Looking(Box):
        def send(self, subject: str, text: str) -> None:
            seen.append(kinds(evidence))
            super().send(subject, text)

    channel = Looking("slack")
    assert notices.send("start", "text", "subject", [channel], evidence) == [Delivery("slack", "sent")]
    assert seen == [[("notice", "start")]]
    assert channel.got == [("subject", "text")]
    assert kinds(evidence) == [("notice", "start"), ("notice.delivery", "start", "slack", "sent")]


def test_a_retry_sends_only_where_it_is_missing(evidence: Evidence) -> None:
    slack, mail = Box("slack"), Box("mail", error=ConnectionRefusedError("refused"))
    first = notices.send("start", "text", "subject", [slack, mail], evidence)
    assert first == [Delivery("slack", "sent"), Delivery("mail", "failed", "ConnectionRefusedError: refused")]

    mail.error = None
    again = Evidence(evidence.folder)  # as another process would find it
    second = notices.send("start", "text", "subject", [slack, mail], again)
    assert second == [Delivery("slack", "sent", before=True), Delivery("mail", "sent")]
    assert notices.send("start", "text", "subject", [slack, mail], again) == [
        Delivery("slack", "sent", before=True),
        Delivery("mail", "sent", before=True),
    ]
    assert (len(slack.got), len(mail.got)) == (1, 1)
    assert kinds(evidence) == [
        ("notice", "start"),
        ("notice.delivery", "start", "slack", "sent"),
        ("notice.delivery", "start", "mail", "failed"),
        ("notice.delivery", "start", "mail", "sent"),
    ]


def test_another_notice_is_not_held_back_by_the_first(evidence: Evidence) -> None:
    slack = Box("slack")
    notices.send("start", "begins", "s", [slack], evidence)
    notices.send("completion", "complete", "s", [slack], evidence)
    assert [text for _, text in slack.got] == ["begins", "complete"]


def test_a_text_that_changed_before_a_retry_is_recorded_too(evidence: Evidence) -> None:
    slack = Box("slack", error=OSError("down"))
    notices.send("rollback", "at 02:00", "s", [slack], evidence)
    slack.error = None
    notices.send("rollback", "at 02:05", "s", [slack], evidence)
    assert [event["text"] for event in evidence.events() if event["event"] == "notice"] == ["at 02:00", "at 02:05"]
    assert slack.got == [("s", "at 02:05")]


def test_a_channel_that_hangs_costs_neither_the_run_nor_the_others(evidence: Evidence) -> None:
    release = threading.Event()
    hanging, quick = Box("slack", wait_for=release), Box("mail")
    try:
        deliveries = notices.send("start", "text", "s", [hanging, quick], evidence, seconds=0.3)
    finally:
        release.set()
    assert deliveries == [Delivery("slack", "failed", "no answer within 0.3 s"), Delivery("mail", "sent")]
    # The quick one was recorded while the other was still waited for.
    assert kinds(evidence)[1:] == [
        ("notice.delivery", "start", "mail", "sent"),
        ("notice.delivery", "start", "slack", "failed"),
    ]


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
    deliveries = notices.send("start", "text", "s", [Box("slack", error=error)], evidence)
    assert deliveries == [Delivery("slack", "failed", recorded)]
    assert "SeC" not in (evidence.folder / "events.jsonl").read_text()


def test_what_was_missed_is_sent_once_when_the_channel_is_back(evidence: Evidence) -> None:
    slack, mail = Box("slack", error=OSError("down")), Box("mail")
    notices.send("start", "begins", "Start", [slack, mail], evidence)
    notices.send("completion", "complete", "End", [slack, mail], evidence)
    assert [delivery.outcome for delivery in notices.resend([slack, mail], evidence)] == ["failed", "failed"]

    slack.error = None
    assert notices.resend([slack, mail], evidence) == [Delivery("slack", "sent"), Delivery("slack", "sent")]
    assert notices.resend([slack, mail], evidence) == []
    written = evidence.events()[0]["time"][:16].replace("T", " ")
    assert slack.got[0] == ("Start", f"begins\n\n(Written at {written} UTC; it could not be delivered then.)")
    assert [subject for subject, _ in slack.got] == ["Start", "End"]
    assert len(mail.got) == 2


def test_nothing_to_resend_without_evidence(evidence: Evidence) -> None:
    assert notices.resend([Box("slack")], evidence) == []


def test_without_channels_the_notice_is_still_recorded(evidence: Evidence) -> None:
    assert notices.send("start", "text", "s", [], evidence) == []
    assert kinds(evidence) == [("notice", "start")]
