"""Notices to people: an outbox in the evidence.

A notice is recorded first (``post``), then sent to every channel that lacks it (``delivery.drain``), by the step that posted
it, any later step, or the outbox's own DAG, whichever comes first.

A notice may be due later, may belong to an open run only, and may be held for the communicator, for some minutes and no
longer. It never blocks a cutover: a drain takes the seconds it is given, a failure is recorded and not raised, and a channel
that failed is not used for a pause that grows with each failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from include.cutover.errors import Refused, StepFailed
from include.cutover.evidence.record import Event, Evidence, sealing
from include.cutover.people.outbox_files import claims, marker
from include.cutover.runs.verdict import course

SECONDS = 15.0
"""Time for one drain, and the wait for a channel before a text is changed."""

LEAD = "lead"
"""Name of the channel that only notices with ``lead`` go to."""

GIVE_UP = timedelta(hours=24)
"""A notice is not sent later than this after it was ready."""

_PAUSE, _LONGEST_PAUSE = timedelta(seconds=15), timedelta(minutes=15)
_PLACEHOLDER = re.compile(r"<([^<>\n]+)>")


class Channel(Protocol):
    """A way to reach people. ``name`` is stable: the evidence records deliveries by it."""

    name: str

    def send(self, subject: str, text: str, *, reached: frozenset[str] = frozenset()) -> None:
        """Deliver to every receiver, or raise. Called in a thread of its own, which is abandoned when it takes too long.

        Args:
            subject: The subject line.
            text: The text.
            reached: Receivers that have it from an earlier try, and do not get it again.

        Raises:
            PartlyDelivered: When some receivers have it and others do not.
        """
        ...


class PartlyDelivered(StepFailed):
    """Some receivers of a channel have the notice, others do not.

    Args:
        message: As for every error, and so are the fields.
        where: See there.
        found: See there.
        do: See there.
        reached: The receivers that have it now.
    """

    def __init__(self, message: str, *, where: str, found: str, do: str, reached: frozenset[str]) -> None:
        super().__init__(message, where=where, found=found, do=do)
        self.reached = reached


@dataclass(frozen=True)
class Message:
    """A notice to be posted.

    Attributes:
        notice: Its name, e.g. ``start``. Each channel gets a notice of that name once.
        subject: The subject line.
        text: The text; ``<reason>`` is filled in when it is sent.
        due: Not to be sent before; immediately when left out.
        while_open: Not sent once the run is live or closed.
        lead: Also sent to the lead in person.
    """

    notice: str
    subject: str
    text: str
    due: datetime | None = None
    while_open: bool = False
    lead: bool = False


@dataclass(frozen=True)
class Notice:
    """A posted notice and its deliveries.

    Attributes:
        message: The notice.
        ready: Instant from which it may be sent: it is due, and no longer held.
        held: It waits for the communicator's release.
        immediate: It waits for nothing, whatever the clock shows: the clock may have been set back since.
        edited_by: Author of this text, where it is not the plan's.
        withheld_by: The person who decided not to send it.
        passed_on: Another run's evidence has it now, and is responsible for its delivery.
        sent: Channels that have it.
        failures: Channel to its failed tries.
        reached: Channel to the receivers that a failed try reached.
    """

    message: Message
    ready: datetime
    held: bool = False
    immediate: bool = False
    edited_by: str = ""
    withheld_by: str = ""
    passed_on: bool = False
    sent: frozenset[str] = frozenset()
    failures: Mapping[str, Sequence[Event]] = field(default_factory=dict)
    reached: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def read_by_some(self) -> bool:
        """True when a person may have read it: a channel has it, or some of its receivers."""
        return bool(self.sent or any(self.reached.values()))

    def missing(self, channels: Sequence[str]) -> list[str]:
        """Return those of the channels that lack it and should get it."""
        return [name for name in channels if name not in self.sent and (name != LEAD or self.message.lead)]

    def next_try(self, channel: str) -> datetime:
        """Return the instant of the next try in that channel: the more failures, the later."""
        failed = self.failures.get(channel, ())
        if not failed:
            return self.ready
        pause: timedelta = min(_LONGEST_PAUSE, _PAUSE * 2 ** min(10, len(failed) - 1))
        return max(self.ready, _time(failed[-1]) + pause)

    def tried_later_than(self, now: datetime, channel: str) -> bool:
        """Report whether the newest failure has a later time than now: the clock was set back, and no pause is known."""
        failed = self.failures.get(channel, ())
        return bool(failed) and _time(failed[-1]) > now

    def over(self, now: datetime, *, closed: bool) -> bool:
        """Report whether it is no longer sent, even to channels that lack it."""
        return bool(self.withheld_by or self.passed_on or (closed and self.message.while_open) or now > self.ready + GIVE_UP)


def render(template: str, values: Mapping[str, str]) -> str:
    """Replace every ``<name>`` in a text by its value. Values are inserted as they are and not expanded again.

    Raises:
        Refused: When a placeholder has no value, or an empty one: incomplete sentences are not sent.
    """
    missing = sorted({name for name in _PLACEHOLDER.findall(template) if not values.get(name, "").strip()})
    if missing:
        raise Refused(
            "the notice cannot be written",
            where=f"the text beginning with {template[:40]!r}",
            expected="a value for each placeholder",
            found=f"none for {', '.join(f'<{name}>' for name in missing)}",
            do="Provide the value, or remove the placeholder from the plan's notices.",
        )
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def outbox(events: Sequence[Event]) -> dict[str, Notice]:
    """Return every notice of a run by name, in the order of their first record."""
    found: dict[str, Notice] = {}
    for name in dict.fromkeys(str(event["notice"]) for event in events if event["event"] == "notice"):
        own = [event for event in events if event.get("notice") == name]
        posted = [event for event in own if event["event"] == "notice"]
        text = posted[-1]
        due, held_until = _instant(text.get("due")), _instant(text.get("held_until"))
        word = next((event for event in reversed(own) if event["event"] in ("notice.released", "notice.withheld")), None)
        released = word is not None and word["event"] == "notice.released"
        ready = _time(text)
        if word is not None and released:
            ready = max(ready, _time(word))
        elif held_until is not None:
            ready = held_until
        deliveries = [event for event in own if event["event"] == "notice.delivery"]
        failures: dict[str, list[Event]] = {}
        for event in deliveries:
            if event["outcome"] != "sent":
                failures.setdefault(str(event["channel"]), []).append(event)
        found[name] = Notice(
            Message(name, text["subject"], text["text"], due, bool(text.get("while_open")), bool(text.get("lead"))),
            ready=max(ready, due or ready),
            immediate=due is None and held_until is None and not released,
            held=held_until is not None and not released,
            edited_by=str(text.get("by") or ""),
            withheld_by="" if word is None or released else str(word["by"]),
            passed_on=any(event["event"] == "notice.passed_on" for event in own),
            sent=frozenset(str(event["channel"]) for event in deliveries if event["outcome"] == "sent"),
            failures=failures,
            reached={
                channel: frozenset(address for event in tries for address in event.get("reached", ()))
                for channel, tries in failures.items()
            },
        )
    return found


def is_closed(events: Sequence[Event]) -> bool:
    """Report whether a run is closed or live, so that notices about its progress are no longer due."""
    return sealing(events) is not None or course(events) == "live"


def post(evidence: Evidence, message: Message, *, hold: timedelta | None = None) -> None:
    """Record a notice, to be sent by the next drain. Safe to call again, also with another text while it has not been sent.

    A text that a person wrote is kept, unless the notice's due time changed.

    Args:
        evidence: The run.
        message: The notice.
        hold: How long it waits for the communicator's release.

    Raises:
        StepFailed, CannotCheck: Only when the evidence cannot be written or read.
    """
    known = outbox(evidence.events()).get(message.notice) if evidence.exists else None
    if known is not None and (
        known.message == message or known.read_by_some or (known.edited_by and known.message.due == message.due)
    ):
        return
    record(evidence, message, held_until=None if hold is None else datetime.now(UTC) + hold)


def record(evidence: Evidence, message: Message, *, held_until: datetime | None = None, by: str = "") -> None:
    """Record a notice as it is now, and mark the run as one that may have something to send.

    Args:
        evidence: The run.
        message: The notice.
        held_until: It waits for the communicator's release until then.
        by: Author of its text, where that is not the plan's.
    """
    more = {
        "due": message.due and message.due.isoformat(),
        "held_until": held_until and held_until.isoformat(),
        "while_open": message.while_open,
        "lead": message.lead,
        "by": by,
    }
    evidence.append(
        "notice",
        notice=message.notice,
        subject=message.subject,
        text=message.text,
        **{name: value for name, value in more.items() if value},
    )
    mark = marker(evidence)
    with suppress(OSError):  # the marker only saves the outbox's DAG work: without it, the next step sends the notice
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def edit(evidence: Evidence, notice: str, text: str, *, by: str, channels: Sequence[str]) -> None:
    """Replace the text of a notice that has not been sent to any channel.

    Args:
        evidence: The run.
        notice: Name of the notice.
        text: The new text.
        by: Its author's user name.
        channels: Names of all channels: nothing is sent to any of them meanwhile.

    Raises:
        Refused: When there is no such notice, or a channel has it already.
        Unreachable: When a notice is still being sent after ``SECONDS``.
    """
    with claims(evidence, channels, seconds=SECONDS):
        known = _known(evidence, notice)
        if known.read_by_some:
            has = sorted(known.sent) + [f"a part of {channel}" for channel, some in sorted(known.reached.items()) if some]
            raise Refused(
                "the notice has been sent and cannot be changed",
                where=notice,
                found=f"sent to {', '.join(has)}",
                do="Write to the same people by hand.",
            )
        record(evidence, replace(known.message, text=text), held_until=known.ready if known.held else None, by=by)


def release(evidence: Evidence, notice: str, *, by: str) -> None:
    """Release a notice that was held or withheld; one that is due later is sent then."""
    _known(evidence, notice)
    evidence.append("notice.released", notice=notice, by=by)
    marker(evidence).touch()


def withhold(evidence: Evidence, notice: str, *, by: str, channels: Sequence[str]) -> None:
    """Stop sending a notice to channels that lack it.

    Args:
        evidence: The run.
        notice: Name of the notice.
        by: User name of the person who decided so.
        channels: Names of all channels, as for ``edit``.

    Raises:
        Refused, Unreachable: As for ``edit``.
    """
    with claims(evidence, channels, seconds=SECONDS):
        _known(evidence, notice)
        evidence.append("notice.withheld", notice=notice, by=by)


def _known(evidence: Evidence, notice: str) -> Notice:
    found = outbox(evidence.events())
    if notice not in found:
        raise Refused(
            "the run has no such notice",
            where=evidence.folder.name,
            expected=f"one of: {', '.join(found) or 'none was posted yet'}",
            found=notice or "none named",
            do="Name a notice of this run.",
        )
    return found[notice]


def waiting(
    events: Sequence[Event], channels: Sequence[str], now: datetime, *, patient: bool = True
) -> dict[str, list[str]]:
    """Return, by channel, the notices that may be sent to it now, in the order in which they became ready.

    Args:
        events: The run's events.
        channels: Names of the channels.
        now: The instant to decide for.
        patient: Leave out a channel whose pause after a failure is not over.
    """
    closed = is_closed(events)
    found: dict[str, list[str]] = {}
    for name, notice in sorted(outbox(events).items(), key=lambda item: item[1].ready):
        if (now < notice.ready and not notice.immediate) or notice.over(now, closed=closed):
            continue
        for channel in notice.missing(channels):
            if not patient or now >= notice.next_try(channel) or notice.tried_later_than(now, channel):
                found.setdefault(channel, []).append(name)
    return found


def is_pending(events: Sequence[Event], channels: Sequence[str], now: datetime) -> bool:
    """Report whether a notice still has to be sent to one of the channels, now or later."""
    closed = is_closed(events)
    return any(notice.missing(channels) and not notice.over(now, closed=closed) for notice in outbox(events).values())


def unmark(evidence: Evidence, channels: Sequence[str]) -> None:
    """Remove the marker of a run that has nothing to send."""
    mark = marker(evidence)
    mark.unlink(missing_ok=True)  # before the check: a notice posted after it marks the run again
    if evidence.exists and is_pending(evidence.events(), channels, datetime.now(UTC)):
        mark.touch()


def _time(event: Event) -> datetime:
    return datetime.fromisoformat(str(event["time"]))


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
