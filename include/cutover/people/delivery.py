"""Delivery of notices: every notice that is ready goes to each channel that lacks it, once."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from include.cutover.errors import CutoverError
from include.cutover.evidence.record import Event, Evidence
from include.cutover.masking import mask, one_line
from include.cutover.people.notices import SECONDS, Channel, PartlyDelivered, outbox, record, waiting
from include.cutover.people.outbox_files import claim

log = logging.getLogger(__name__)

LATE = timedelta(minutes=2)
"""A notice sent this much later than it was ready says when it was written."""

Reason = Callable[[str, list[Event]], str]
"""From a notice's name and the run's events to its reason."""

_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)(?:[^/\s'\"<>]*@)?((?:[\w.-]+|\[[0-9a-f:.]+\])?(?::\d+)?)([^\s'\"<>]*)")
_ERROR_LENGTH = 200


@dataclass(frozen=True)
class Delivery:
    """The result of one try to deliver one notice.

    Attributes:
        notice: Its name, e.g. ``start``.
        channel: Name of the channel.
        outcome: ``sent`` or ``failed``.
        error: Why it failed, without secrets.
        reached: Receivers that have it although the try failed.
    """

    notice: str
    channel: str
    outcome: Literal["sent", "failed"]
    error: str = ""
    reached: frozenset[str] = frozenset()


def drain(
    channels: Sequence[Channel],
    evidence: Evidence,
    *,
    seconds: float = SECONDS,
    patient: bool = True,
    reason: Reason = lambda notice, events: "no reason was recorded.",
) -> list[Delivery]:
    """Send every ready notice to each channel that lacks it. All channels are served at the same time.

    A channel gets a notice once, also across retries, restarts and simultaneous drains: the sender holds a kernel lock on
    the channel, and reads the evidence again under it. Killed between a delivery and its record, a notice is sent again: a
    doubled notice is harmless, a lost one is not.

    Args:
        channels: The plan's channels.
        evidence: The run whose notices are sent.
        seconds: Time for all of it; a delivery not answered by then counts as failed, and is retried later.
        patient: Leave a channel alone for a while after a failure; else retry it now.
        reason: Returns the text for ``<reason>`` in a notice that was posted before its reason was known.

    Returns:
        The tries, in the order in which they ended.

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
            # A daemon: the process can end although a channel hangs.
            threading.Thread(target=worker, args=(at_work[channel.name],), daemon=True).start()
    deliveries: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while at_work:
        try:
            result = ended.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            for name in at_work:
                if at_work[name]:
                    deliveries.append(Delivery(at_work[name][0], name, "failed", f"no answer within {seconds:g} s"))
                    _record_delivery(evidence, deliveries[-1])
            break
        if isinstance(result, CutoverError):
            raise result
        if isinstance(result, str):
            del at_work[result]
        else:
            deliveries.append(result)
            at_work[result.channel].remove(result.notice)
    return deliveries


@dataclass(frozen=True)
class _Worker:
    """Sends to one channel, one notice after the other, under the channel's claim.

    Attributes:
        channel: The channel.
        evidence: As for ``drain``, and so are ``patient`` and ``reason``.
        ended: Gets each delivery; an error of the evidence; and at last the channel's name.
    """

    channel: Channel
    evidence: Evidence
    patient: bool
    reason: Reason
    ended: queue.SimpleQueue[Delivery | str | CutoverError]

    def __call__(self, notices: Sequence[str]) -> None:
        try:
            with claim(self.evidence, self.channel.name) as mine:
                for name in notices if mine else ():
                    delivery = self._one(name)
                    if delivery is not None:
                        self.ended.put(delivery)
        except CutoverError as error:
            self.ended.put(error)
        except Exception as error:  # noqa: BLE001  # a failed notice never stops the cutover
            log.warning("the notices for %s could not be sent: %s", self.channel.name, _harmless(error))
        self.ended.put(self.channel.name)

    def _one(self, name: str) -> Delivery | None:
        """Send one notice as it is now: it may have been sent or changed since the drain began."""
        events, now, channel = self.evidence.events(), datetime.now(UTC), self.channel.name
        if name not in waiting(events, [channel], now, patient=self.patient).get(channel, ()):
            return None
        notice = outbox(events)[name]
        message = notice.message
        if "<reason>" in message.text:
            text = message.text.replace("<reason>", one_line(self.reason(name, events)))
            message = replace(message, text=text)
            record(self.evidence, message, by=notice.edited_by)
        text = message.text
        if now > notice.ready + LATE:
            text += f"\n\n(Written at {notice.ready:%Y-%m-%d %H:%M} UTC; it could not be delivered then.)"
        try:
            self.channel.send(message.subject, text, reached=notice.reached.get(channel, frozenset()))
        except PartlyDelivered as error:
            delivery = Delivery(name, channel, "failed", _harmless(error), error.reached)
        except Exception as error:  # noqa: BLE001  # a failed channel never stops the cutover
            delivery = Delivery(name, channel, "failed", _harmless(error))
        else:
            delivery = Delivery(name, channel, "sent")
        _record_delivery(self.evidence, delivery)
        return delivery


def _record_delivery(evidence: Evidence, delivery: Delivery) -> None:
    evidence.append(
        "notice.delivery",
        notice=delivery.notice,
        channel=delivery.channel,
        outcome=delivery.outcome,
        error=delivery.error,
        **({"reached": sorted(delivery.reached)} if delivery.reached else {}),
    )
    if delivery.outcome == "failed":
        log.warning("the notice %s did not reach %s: %s", delivery.notice, delivery.channel, delivery.error)


def _harmless(error: Exception) -> str:
    """Return the error in one line without secrets.

    Of a URL only scheme and host are kept: webhooks hold their token in the path.
    """
    text = _URL.sub(lambda match: f"{match[1]}{match[2]}{'/***' if match[3] else ''}", str(error))
    line = " ".join(mask(text).split())
    if not isinstance(error, CutoverError):
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line[:_ERROR_LENGTH]
