"""Notices to people: rendered from the plan's texts, recorded, then sent to every channel that has not got them yet.

A notice never blocks a cutover: every channel is given a few seconds, a failure is recorded and not raised, and the next
call tries again only where it is still missing. Killed between a delivery and its record, a notice is sent once more: a
doubled notice is harmless, a lost one is not.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from include.cutover.errors import CutoverError, Refused
from include.cutover.evidence import Evidence
from include.cutover.masking import mask

log = logging.getLogger(__name__)

SECONDS = 15.0
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
    """What became of one notice in one channel.

    Attributes:
        error: Why it failed, without secrets.
        before: An earlier call delivered it; nothing was sent now.
    """

    channel: str
    outcome: Literal["sent", "failed"]
    error: str = ""
    before: bool = False


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


def send(
    notice: str, text: str, subject: str, channels: Sequence[Channel], evidence: Evidence, *, seconds: float = SECONDS
) -> list[Delivery]:
    """Record a notice, then send it to each channel that did not get it before.

    Safe to run again, also in another process: a channel that has the notice is left alone. All channels are served at
    the same time, so the call takes ``seconds`` at most, whatever they do.

    Args:
        notice: Which notice it is, e.g. ``start``. With the channel's name it is the key of "once".
        seconds: Time for the channels together.

    Returns:
        One delivery per channel, in the order given.

    Raises:
        StepFailed, CannotCheck: Only when the evidence cannot be written or read.
    """
    known = evidence.last("notice", notice=notice) if evidence.exists else None
    if known is None or (known["subject"], known["text"]) != (subject, text):
        evidence.append("notice", notice=notice, subject=subject, text=text)
    return _deliver(notice, text, subject, channels, evidence, seconds)


def resend(channels: Sequence[Channel], evidence: Evidence, *, seconds: float = SECONDS) -> list[Delivery]:
    """Send every recorded notice to the channels that still miss it, oldest first; for when a channel is back.

    The text says when it was written. Safe to run again.

    Returns:
        The deliveries that were tried; empty when nothing was missing.
    """
    if not evidence.exists:
        return []
    newest = {event["notice"]: event for event in evidence.events() if event["event"] == "notice"}
    deliveries: list[Delivery] = []
    for notice, event in sorted(newest.items(), key=lambda item: item[1]["seq"]):
        missing = [channel for channel in channels if not _has(evidence, notice, channel.name)]
        text = f"{event['text']}\n\n(Written at {event['time'][:16].replace('T', ' ')} UTC; it could not be delivered then.)"
        deliveries += _deliver(notice, text, event["subject"], missing, evidence, seconds)
    return deliveries


def _has(evidence: Evidence, notice: str, channel: str) -> bool:
    return evidence.last("notice.delivery", notice=notice, channel=channel, outcome="sent") is not None


def _attempt(channel: Channel, subject: str, text: str, ended: queue.SimpleQueue[tuple[str, Exception | None]]) -> None:
    try:
        channel.send(subject, text)
    except Exception as error:  # noqa: BLE001  # whatever a channel does, the cutover goes on
        ended.put((channel.name, error))
    else:
        ended.put((channel.name, None))


def _deliver(
    notice: str, text: str, subject: str, channels: Sequence[Channel], evidence: Evidence, seconds: float
) -> list[Delivery]:
    deliveries = {
        channel.name: Delivery(channel.name, "sent", before=True)
        for channel in channels
        if _has(evidence, notice, channel.name)
    }
    waiting = {channel.name: channel for channel in channels if channel.name not in deliveries}
    ended: queue.SimpleQueue[tuple[str, Exception | None]] = queue.SimpleQueue()
    for channel in waiting.values():
        # A daemon: a channel that hangs does not keep the process from ending.
        threading.Thread(target=_attempt, args=(channel, subject, text, ended), daemon=True).start()
    deadline = time.monotonic() + seconds
    while waiting:
        try:
            name, error = ended.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            new = [Delivery(name, "failed", f"no answer within {seconds:g} s") for name in waiting]
        else:
            new = [Delivery(name, "sent") if error is None else Delivery(name, "failed", _harmless(error))]
        for delivery in new:  # recorded as it comes: a slow channel must not cost another its record
            del waiting[delivery.channel]
            deliveries[delivery.channel] = delivery
            evidence.append(
                "notice.delivery", notice=notice, channel=delivery.channel, outcome=delivery.outcome, error=delivery.error
            )
            if delivery.outcome == "failed":
                log.warning("the notice %s did not reach %s: %s", notice, delivery.channel, delivery.error)
    return [deliveries[channel.name] for channel in channels]


def _harmless(error: Exception) -> str:
    """What went wrong, in one line without secrets. Of a URL only scheme and host are left: webhooks hold their token in
    the path."""
    text = _URL.sub(lambda match: f"{match[1]}{match[2]}{'/***' if match[3] else ''}", str(error))
    line = " ".join(mask(text).split())
    if not isinstance(error, CutoverError):
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line[:_ERROR_LENGTH]
