"""SMTP sessions with a limit of time and of bytes, in which a refused receiver is an error.

smtplib bounds each single read and each line, but neither a session nor an answer of many lines. Its ``sendmail`` counts as
success when the server takes one of many receivers.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ANSWER_SIZE = 64 * 1024
"""Bytes of one answer of a server, all its lines together."""


class SomeRefused(Exception):
    """The server took the mail for some of its receivers only.

    Attributes:
        reached: The receivers that it was taken for.
    """

    def __init__(self, reached: frozenset[str], refused: Mapping[str, tuple[int, bytes]]) -> None:
        said = "; ".join(
            f"refused {address}: {code} {text.decode(errors='replace')}" for address, (code, text) in sorted(refused.items())
        )
        super().__init__(said)
        self.reached = reached


class LimitReached(Exception):
    """The server's answer was too long, or the session's time is over; the text says which."""


@dataclass
class _Answer:
    """The server's side of a session, of which one answer is read to ``ANSWER_SIZE``."""

    file: Any
    read: int = 0

    def readline(self, limit: int) -> bytes:
        line: bytes = self.file.readline(limit)
        self.read += len(line)
        if self.read > ANSWER_SIZE:
            raise LimitReached(f"an answer of more than {ANSWER_SIZE >> 10} KB")
        return line

    def close(self) -> None:
        self.file.close()


class Smtp(smtplib.SMTP):
    """A session that ends after ``session_seconds``, whatever the server does.

    Args:
        session_seconds: For the whole session.
        given: As for ``smtplib.SMTP``.
    """

    def __init__(self, *, session_seconds: float, **given: Any) -> None:
        self._session_seconds, self._late = session_seconds, False
        self._end = threading.Timer(session_seconds, self._give_up)
        self._end.daemon = True
        self._end.start()
        try:
            super().__init__(**given)
        except BaseException:
            self._end.cancel()
            raise

    def _give_up(self) -> None:
        self._late = True
        sock = getattr(self, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # also of TLS, whose own shutdown is not for two threads

    def getreply(self) -> tuple[int, bytes]:
        """Return the next answer.

        Raises:
            LimitReached: When it is too long, or the session's time is over.
            SMTPServerDisconnected: When the connection broke.
        """
        if self.file is None and self.sock is not None:
            self.file = self.sock.makefile("rb")
        self.file = _Answer(getattr(self.file, "file", self.file))  # smtplib only reads lines
        try:
            answer = super().getreply()
        except LimitReached:
            self.close()
            raise
        except OSError:  # also smtplib's own errors
            self._require_time()
            raise
        self._require_time()
        return answer

    def _require_time(self) -> None:
        if self._late:
            self.close()
            raise LimitReached(f"no complete session in {self._session_seconds:g} s")

    def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Sequence[str],
        msg: Any,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, tuple[int, bytes]]:
        """Send a mail.

        Args:
            from_addr: The sender.
            to_addrs: The receivers.
            msg: The mail.
            mail_options: As for smtplib.
            rcpt_options: As for smtplib.

        Raises:
            SomeRefused: When the server took it for some of the receivers only.
            SMTPException: When it took it for none of them.
        """
        refused = super().sendmail(from_addr, to_addrs, msg, mail_options, rcpt_options)
        if refused:
            wanted = [to_addrs] if isinstance(to_addrs, str) else to_addrs
            raise SomeRefused(frozenset(wanted) - set(refused), refused)
        return refused

    def close(self) -> None:
        """Close the connection."""
        self._end.cancel()
        super().close()


class SmtpOverTls(Smtp, smtplib.SMTP_SSL):
    """The same, with TLS from the first byte."""
