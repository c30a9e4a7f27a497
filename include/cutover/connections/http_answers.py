"""HTTP requests whose answer is read to a limit of bytes and of time. Redirects are never followed."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass

import httpx

from include.cutover.connections.standstill import once_more

_GRACE_SECONDS = 0.5  # the error of httpx says more than ours


class NotUsable(Exception):
    """No answer, or not the kind that was requested; the text describes it."""


@dataclass(frozen=True)
class Limits:
    """Limits of one answer.

    Attributes:
        seconds: For the whole request, from the look-up of the name to the last byte.
        size: Bytes of the body.
    """

    seconds: float
    size: int


@dataclass(frozen=True)
class Answer:
    """A complete answer.

    Attributes:
        status: The HTTP status.
        body: The body as text; bytes that are not in its encoding are replaced.
        location: Where a redirect leads; empty for any other answer.
    """

    status: int
    body: str
    location: str


def fetch(client: httpx.Client, request: httpx.Request, limits: Limits) -> Answer:
    """Return the answer within the limits, whatever the other side, or a name server, does meanwhile.

    httpx bounds each single read, and does not bound the look-up of a name. So the request has a thread of its own, which is
    left behind when it takes too long; it ends when the client is closed. A GET is repeated once where this process stood
    still meanwhile.

    Raises:
        NotUsable: When there is no complete answer within the limits.
    """
    if request.method != "GET":
        return _fetch(client, request, limits)
    return once_more(lambda: _fetch(client, request, limits), NotUsable, request.url.host)


def _fetch(client: httpx.Client, request: httpx.Request, limits: Limits) -> Answer:
    ended: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            ended.put(_answer(client, request, limits))
        except Exception as error:  # noqa: BLE001  # raised again, in the thread that asked
            ended.put(error)

    threading.Thread(target=ask, name="HTTP request", daemon=True).start()
    try:
        outcome = ended.get(timeout=limits.seconds + _GRACE_SECONDS)
    except queue.Empty:
        raise NotUsable(f"no complete answer in {limits.seconds:.0f} s") from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _answer(client: httpx.Client, request: httpx.Request, limits: Limits) -> Answer:
    deadline = time.monotonic() + limits.seconds
    request.extensions = {**request.extensions, "timeout": httpx.Timeout(limits.seconds).as_dict()}
    try:
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if len(body) > limits.size:
                    raise NotUsable(f"an answer of more than {_size(limits.size)}")
                if time.monotonic() > deadline:  # httpx bounds each read, not all of them together
                    raise NotUsable(f"an answer that did not end in {limits.seconds:.0f} s")
        finally:
            response.close()
    except httpx.TimeoutException:
        raise NotUsable(f"no answer in {limits.seconds:.0f} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotUsable(f"no answer: {error}") from None
    try:
        text = body.decode(response.charset_encoding or "utf-8", errors="replace")
    except LookupError:
        text = body.decode("utf-8", errors="replace")
    location = response.headers.get("location", "") if response.has_redirect_location else ""
    return Answer(response.status_code, text, location)


def _size(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB"
