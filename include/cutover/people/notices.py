"""Notices to people: an outbox in the evidence, and its delivery.

A notice is recorded first (``post``), then sent to every channel that has not got it (``drain``), by whoever comes first:
the step that posted it, any later step, or the outbox's own DAG. A channel gets it once, also across retries, restarts
and drains at the same time: who sends to a channel holds a kernel lock, and looks into the evidence once more under it.
Killed between a delivery and its record, a notice is sent once more: a doubled notice is harmless, a lost one is not.

A notice may be due later, may belong to an open run only, and may be held for the communicator, for some minutes and no
longer. It never blocks a cutover: a drain takes the seconds it is given, a failure is recorded and not raised, and a channel
that failed is left alone for a while, which grows with each failure.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from include.cutover.errors import CutoverError, Refused, Unreachable
from include.cutover.evidence.record import Event, Evidence, sealing
from include.cutover.masking import mask
from include.cutover.runs.verdict import course

log = logging.getLogger(__name__)

SECONDS = 15.0
LEAD = "lead"
"""Name of the channel that only notices with ``lead`` go to."""

GIVE_UP = timedelta(hours=24)
LATE = timedelta(minutes=2)
_PAUSE, _LONGEST_PAUSE = timedelta(seconds=15), timedelta(minutes=15)
_PLACEHOLDER = re.compile(r"<([^<>\n]+)>")
_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)(?:[^/\s'\"<>]*@)?((?:[\w.-]+|\[[0-9a-f:.]+\])?(?::\d+)?)([^\s'\"<>]*)")
_ERROR_LENGTH = 200


class Channel(Protocol):
    """A way to reach people. ``name`` is stable: it says in the evidence who got what."""

    name: str

    def send(self, subject: str, text: str) -> None:
        """Deliver, or raise. Called in a thread of its own, which is left behind when it takes too long."""
        ...


@dataclass(frozen=True)
class Delivery:
    """What became of one try to deliver one notice.

    Attributes:
        error: Why it failed, without secrets.
    """

    notice: str
    channel: str
    outcome: Literal["sent", "failed"]
    error: str = ""


@dataclass(frozen=True)
class Message:
    """A notice to be posted.

    Attributes:
        notice: Which one it is, e.g. ``start``. With the channel's name it is the key of "once".
        due: Not to be sent before; at once when left out.
        while_open: Not sent any more once the run is live or closed.
        lead: Also to the lead in person.
    """

    notice: str
    subject: str
    text: str
    due: datetime | None = None
    while_open: bool = False
    lead: bool = False


@dataclass(frozen=True)
class Notice:
    """A posted notice and what became of it.

    Attributes:
        ready: From when on it may be sent: it is due, and not held any more.
        held: Why it is not sent yet although it is due: nobody has released it.
        edited_by: Who wrote this text, where it is not the plan's.
        withheld_by: Who decided that it is not sent.
        passed_on: Another evidence has it now, and answers for its delivery.
        sent: Channels that have it.
        failures: Channel to its failed tries.
    """

    message: Message
    ready: datetime
    held: bool = False
    edited_by: str = ""
    withheld_by: str = ""
    passed_on: bool = False
    sent: frozenset[str] = frozenset()
    failures: Mapping[str, Sequence[Event]] = field(default_factory=dict)

    def missing(self, channels: Sequence[str]) -> list[str]:
        """Those of the channels that have not got it and should."""
        return [name for name in channels if name not in self.sent and (name != LEAD or self.message.lead)]

    def next_try(self, channel: str) -> datetime:
        """When it may be tried again in that channel: the more often it failed, the later."""
        failed = self.failures.get(channel, ())
        if not failed:
            return self.ready
        pause: timedelta = min(_LONGEST_PAUSE, _PAUSE * 2 ** min(10, len(failed) - 1))
        return max(self.ready, _time(failed[-1]) + pause)

    def over(self, now: datetime, *, closed: bool) -> bool:
        """Whether it is not sent any more, whoever has not got it."""
        return bool(self.withheld_by or self.passed_on or (closed and self.message.while_open) or now > self.ready + GIVE_UP)


def render(template: str, values: Mapping[str, str]) -> str:
    """The text with every ``<name>`` replaced by its value. Values are put in as they are and not searched again.

    Raises:
        Refused: When a placeholder has no value, or an empty one: half a sentence is not sent to people.
    """
    missing = sorted({name for name in _PLACEHOLDER.findall(template) if not values.get(name, "").strip()})
    if missing:
        raise Refused(
            "the notice cannot be written",
            where=f"the text beginning with {template[:40]!r}",
            expected="a value for each placeholder",
            found=f"none for {', '.join(f'<{name}>' for name in missing)}",
            do="Give the value, or take the placeholder out of the plan's notices.",
        )
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def outbox(events: Sequence[Event]) -> dict[str, Notice]:
    """Every notice of a run by name, as the evidence has it, in the order of their first record."""
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
            held=held_until is not None and not released,
            edited_by=str(text.get("by") or ""),
            withheld_by="" if word is None or released else str(word["by"]),
            passed_on=any(event["event"] == "notice.passed_on" for event in own),
            sent=frozenset(str(event["channel"]) for event in deliveries if event["outcome"] == "sent"),
            failures=failures,
        )
    return found


def is_closed(events: Sequence[Event]) -> bool:
    """Whether a run is over, or live, so that nobody needs to be told how it gets on."""
    return sealing(events) is not None or course(events) == "live"


def post(evidence: Evidence, message: Message, *, hold: timedelta | None = None) -> None:
    """Record a notice, to be sent by the next drain. Safe to call again, also with another text while nobody has got it.

    A text that a person wrote stays, unless the notice now comes sooner.

    Args:
        hold: How long it waits for the communicator's release.

    Raises:
        StepFailed, CannotCheck: Only when the evidence cannot be written or read.
    """
    known = outbox(evidence.events()).get(message.notice) if evidence.exists else None
    if known is not None and (
        known.message == message or known.sent or (known.edited_by and known.message.due == message.due)
    ):
        return
    _record(evidence, message, held_until=None if hold is None else datetime.now(UTC) + hold)


def _record(evidence: Evidence, message: Message, *, held_until: datetime | None = None, by: str = "") -> None:
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
    marker = _marker(evidence)
    with suppress(OSError):  # the marker saves the outbox's DAG work; what is missing there, each step sends
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def edit(evidence: Evidence, notice: str, text: str, *, by: str, channels: Sequence[str]) -> None:
    """Give a notice another text, as long as nobody has got it.

    Args:
        channels: Names of all channels: nothing is sent to any of them meanwhile.

    Raises:
        Refused: When there is no such notice, or a channel has it already.
        Unreachable: When somebody is sending, for too long.
    """
    with _claims(evidence, channels, seconds=SECONDS):
        known = _known(evidence, notice)
        if known.sent:
            raise Refused(
                "the notice has been sent and cannot be changed any more",
                where=notice,
                found=f"sent to {', '.join(sorted(known.sent))}",
                do="Write to the same people by hand.",
            )
        message = known.message
        changed = Message(notice, message.subject, text, message.due, message.while_open, message.lead)
        _record(evidence, changed, held_until=known.ready if known.held else None, by=by)


def release(evidence: Evidence, notice: str, *, by: str) -> None:
    """Let a notice go, held or withheld; one that is due later goes then."""
    _known(evidence, notice)
    evidence.append("notice.released", notice=notice, by=by)
    _marker(evidence).touch()


def withhold(evidence: Evidence, notice: str, *, by: str, channels: Sequence[str]) -> None:
    """Do not send a notice to any channel that has not got it. Arguments and errors as for ``edit``."""
    with _claims(evidence, channels, seconds=SECONDS):
        _known(evidence, notice)
        evidence.append("notice.withheld", notice=notice, by=by)


def _known(evidence: Evidence, notice: str) -> Notice:
    found = outbox(evidence.events())
    if notice not in found:
        raise Refused(
            "the run has no such notice",
            where=evidence.folder.name,
            expected=f"one of: {', '.join(found) or 'none is posted yet'}",
            found=notice or "none named",
        )
    return found[notice]


def waiting(
    events: Sequence[Event], channels: Sequence[str], now: datetime, *, patient: bool = True
) -> dict[str, list[str]]:
    """Channel to the notices that may be sent to it now, in the order in which they became ready."""
    closed = is_closed(events)
    found: dict[str, list[str]] = {}
    for name, notice in sorted(outbox(events).items(), key=lambda item: item[1].ready):
        if now < notice.ready or notice.over(now, closed=closed):
            continue
        for channel in notice.missing(channels):
            if not patient or now >= notice.next_try(channel):
                found.setdefault(channel, []).append(name)
    return found


def is_pending(events: Sequence[Event], channels: Sequence[str], now: datetime) -> bool:
    """Whether a notice is still to be sent to one of the channels, now or later."""
    closed = is_closed(events)
    return any(notice.missing(channels) and not notice.over(now, closed=closed) for notice in outbox(events).values())


def drain(
    channels: Sequence[Channel],
    evidence: Evidence,
    *,
    seconds: float = SECONDS,
    patient: bool = True,
    reason: Callable[[str, list[Event]], str] = lambda notice, events: "no reason is recorded.",
) -> list[Delivery]:
    """Send what is ready to every channel that misses it. All channels are served at the same time.

    Args:
        seconds: Time for all of it; what is not answered then counts as failed, and is tried again later.
        patient: Leave a channel alone for a while after it failed; else it is tried now.
        reason: Gives what ``<reason>`` becomes in a notice that was posted before anybody could know it.

    Returns:
        What was tried, in the order in which it ended.

    Raises:
        StepFailed, CannotCheck: Only when the evidence cannot be written or read.
    """
    if not evidence.exists:
        return []
    found = waiting(evidence.events(), [channel.name for channel in channels], datetime.now(UTC), patient=patient)
    ended: queue.SimpleQueue[Delivery | str | CutoverError] = queue.SimpleQueue()
    at_work = {channel.name: list(found[channel.name]) for channel in channels if channel.name in found}
    for channel in channels:
        if channel.name in at_work:
            worker = _Worker(channel, evidence, patient, reason, ended)
            # A daemon: a channel that hangs does not keep the process from ending.
            threading.Thread(target=worker, args=(at_work[channel.name],), daemon=True).start()
    deliveries: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while at_work:
        try:
            told = ended.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            for name in at_work:
                if at_work[name]:
                    deliveries.append(Delivery(at_work[name][0], name, "failed", f"no answer within {seconds:g} s"))
                    _record_delivery(evidence, deliveries[-1])
            break
        if isinstance(told, CutoverError):
            raise told
        if isinstance(told, str):
            del at_work[told]
        else:
            deliveries.append(told)
            at_work[told.channel].remove(told.notice)
    return deliveries


class _Worker:
    """Sends to one channel, one notice after the other, under the channel's claim."""

    def __init__(
        self,
        channel: Channel,
        evidence: Evidence,
        patient: bool,
        reason: Callable[[str, list[Event]], str],
        ended: queue.SimpleQueue[Delivery | str | CutoverError],
    ) -> None:
        self._channel, self._evidence, self._patient, self._reason, self._ended = channel, evidence, patient, reason, ended

    def __call__(self, notices: Sequence[str]) -> None:
        try:
            with _claim(self._evidence, self._channel.name) as mine:
                for name in notices if mine else ():
                    delivery = self._one(name)
                    if delivery is not None:
                        self._ended.put(delivery)
        except CutoverError as error:
            self._ended.put(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the cutover goes on
            log.warning("the notices for %s could not be sent: %s", self._channel.name, _harmless(error))
        self._ended.put(self._channel.name)

    def _one(self, name: str) -> Delivery | None:
        """Send one notice, as it is now: somebody may have sent or changed it since it was looked for."""
        events, now, channel = self._evidence.events(), datetime.now(UTC), self._channel.name
        if name not in waiting(events, [channel], now, patient=self._patient).get(channel, ()):
            return None
        notice = outbox(events)[name]
        message = notice.message
        if "<reason>" in message.text:
            text = message.text.replace("<reason>", self._reason(name, events))
            message = Message(name, message.subject, text, message.due, message.while_open, message.lead)
            _record(self._evidence, message, by=notice.edited_by)
        text = message.text
        if now > notice.ready + LATE:
            text += f"\n\n(Written at {notice.ready:%Y-%m-%d %H:%M} UTC; it could not be delivered then.)"
        try:
            self._channel.send(message.subject, text)
        except Exception as error:  # noqa: BLE001  # whatever a channel does, the cutover goes on
            delivery = Delivery(name, channel, "failed", _harmless(error))
        else:
            delivery = Delivery(name, channel, "sent")
        _record_delivery(self._evidence, delivery)
        return delivery


def _record_delivery(evidence: Evidence, delivery: Delivery) -> None:
    evidence.append(
        "notice.delivery",
        notice=delivery.notice,
        channel=delivery.channel,
        outcome=delivery.outcome,
        error=delivery.error,
    )
    if delivery.outcome == "failed":
        log.warning("the notice %s did not reach %s: %s", delivery.notice, delivery.channel, delivery.error)


# --- files beside the evidence ---------------------------------------------------------------------------------------------


def _folder(evidence: Evidence) -> Path:
    return evidence.folder.parent / ".outbox"


def _marker(evidence: Evidence) -> Path:
    return _folder(evidence) / f"{evidence.folder.name}.pending"


def marked(folder: Path) -> list[Evidence]:
    """The runs below a folder of evidence that may have something to send; a look into one folder."""
    return [Evidence(folder / marker.name.removesuffix(".pending")) for marker in sorted(folder.glob(".outbox/*.pending"))]


def unmark(evidence: Evidence, channels: Sequence[str]) -> None:
    """Take a run from those that may have something to send, if it has nothing."""
    marker = _marker(evidence)
    marker.unlink(missing_ok=True)  # before the look: who posts after it marks the run again
    if evidence.exists and is_pending(evidence.events(), channels, datetime.now(UTC)):
        marker.touch()


@contextmanager
def _claim(evidence: Evidence, channel: str, *, seconds: float = 0.0) -> Iterator[bool]:
    """Hold the right to send this run's notices to a channel; yields whether it is ours, which nobody waits for."""
    folder = _folder(evidence)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{evidence.folder.name}.{channel}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.05)
            else:
                yield True
                return
    finally:
        os.close(descriptor)


@contextmanager
def _claims(evidence: Evidence, channels: Sequence[str], *, seconds: float) -> Iterator[None]:
    """Nobody sends anything of this run while the block runs.

    Raises:
        Unreachable: When somebody still does after ``seconds``.
    """
    with ExitStack() as stack:
        for channel in channels:
            if not stack.enter_context(_claim(evidence, channel, seconds=seconds)):
                raise Unreachable("a notice is being sent just now", where=channel, do="Try again in a minute.")
        yield


def _time(event: Event) -> datetime:
    return datetime.fromisoformat(str(event["time"]))


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _harmless(error: Exception) -> str:
    """What went wrong, in one line without secrets. Of a URL only scheme and host are left: webhooks hold their token in
    the path."""
    text = _URL.sub(lambda match: f"{match[1]}{match[2]}{'/***' if match[3] else ''}", str(error))
    line = " ".join(mask(text).split())
    if not isinstance(error, CutoverError):
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line[:_ERROR_LENGTH]
