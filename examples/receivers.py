"""Local receivers of the notices: an SMTP server and an HTTP server for Slack's incoming webhooks.

    python -m examples.receivers --folder DIR [--host ADDRESS] --smtp-port N --http-port N

Messages are appended to ``DIR/mail.jsonl`` and ``DIR/slack.jsonl``, one message per line. SMTP is without TLS and
without log-in; the webhook is any path of the HTTP port and answers as Slack does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from aiosmtpd.smtp import SMTP, Envelope, Session

HOST = "127.0.0.1"
MAIL = "mail.jsonl"
SLACK = "slack.jsonl"
WEBHOOK = "/services/T0000/B0000/local"


@dataclass(frozen=True)
class Message:
    """A message that arrived.

    Attributes:
        time: Of its arrival, UTC, ISO 8601.
        subject: Empty for Slack.
        sender: The envelope's sender; Slack: the ``username``, often empty.
        to: The envelope's recipients; Slack: the ``channel`` if one was named.
        text: Plain text; Slack: ``text``, and the texts of ``blocks``.
    """

    time: str
    subject: str
    sender: str
    to: list[str]
    text: str


def read_mail(folder: Path) -> list[Message]:
    """Return the mail that arrived in that folder, oldest first."""
    return _read(folder / MAIL)


def read_slack(folder: Path) -> list[Message]:
    """Return the Slack messages that arrived in that folder, oldest first."""
    return _read(folder / SLACK)


def _read(file: Path) -> list[Message]:
    if not file.exists():
        return []
    items = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [Message(item["time"], item["subject"], item["from"], item["to"], item["text"]) for item in items]


def _append(file: Path, *, subject: str, sender: str, to: list[str], text: str) -> None:
    """Append with one write and O_APPEND, so that lines stay whole with several threads."""
    message = Message(datetime.now(UTC).isoformat(timespec="microseconds"), subject, sender, to, text)
    item = asdict(message)
    item["from"] = item.pop("sender")
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, json.dumps(item, ensure_ascii=False).encode() + b"\n")
    finally:
        os.close(descriptor)


class _MailHandler:
    """The handler that aiosmtpd calls for every message."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Record the message."""
        message = BytesParser(_class=EmailMessage, policy=policy.default).parsebytes(envelope.original_content or b"")
        body = message.get_body(preferencelist=("plain", "html"))
        _append(
            self._folder / MAIL,
            subject=str(message["subject"] or ""),
            sender=envelope.mail_from or "",
            to=list(envelope.rcpt_tos),
            text="" if body is None else str(body.get_content()).replace("\r\n", "\n").strip(),
        )
        return "250 OK"


class _SlackHandler(BaseHTTPRequestHandler):
    """A handler that answers as Slack's incoming webhooks do."""

    folder: Path

    def do_POST(self) -> None:
        """Record the message and answer ``ok``; a body without a message is answered with 400."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        if self.headers.get_content_type() == "application/x-www-form-urlencoded":
            body = parse_qs(body).get("payload", [""])[0]
        try:
            payload = json.loads(body)
            if not isinstance(payload, dict):
                raise ValueError("not an object")
        except ValueError:
            self._answer(400, "invalid_payload")
            return
        text = "\n".join([*([payload["text"]] if payload.get("text") else []), *_block_texts(payload.get("blocks"))])
        if not text:
            self._answer(400, "no_text")
            return
        to = [str(payload["channel"])] if payload.get("channel") else []
        _append(self.folder / SLACK, subject="", sender=str(payload.get("username") or ""), to=to, text=text)
        self._answer(200, "ok")

    def _answer(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the messages are in the file."""


def _block_texts(blocks: Any) -> list[str]:
    texts = []
    for block in blocks if isinstance(blocks, list) else []:
        text = block.get("text") if isinstance(block, dict) else None
        if isinstance(text, dict) and isinstance(text.get("text"), str):
            texts.append(text["text"])
    return texts


class Receivers:
    """Both servers, in threads of this process. Use it in ``with``, or call ``start`` and ``stop``."""

    def __init__(self, folder: Path, *, smtp_port: int = 0, http_port: int = 0, host: str = HOST) -> None:
        """Listen to nothing yet.

        Args:
            folder: Where messages are kept; messages of earlier runs stay there.
            smtp_port: Port for mail; 0 takes a free one at every start.
            http_port: The same for the webhook.
            host: The address that both listen on.
        """
        self.folder = folder
        self._host = host
        self._wanted = (smtp_port, http_port)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._smtp: asyncio.Server | None = None
        self._http: ThreadingHTTPServer | None = None
        self._threads: list[threading.Thread] = []

    @property
    def smtp_port(self) -> int:
        """Port for mail; 0 while stopped without a given port."""
        return int(self._smtp.sockets[0].getsockname()[1]) if self._smtp else self._wanted[0]

    @property
    def http_port(self) -> int:
        """Port for webhooks; 0 while stopped without a given port."""
        return int(self._http.server_address[1]) if self._http else self._wanted[1]

    @property
    def slack_url(self) -> str:
        """A webhook address of this receiver."""
        return f"http://{self._host}:{self.http_port}{WEBHOOK}"

    def mail(self) -> list[Message]:
        """Return the mail that arrived, oldest first."""
        return read_mail(self.folder)

    def slack(self) -> list[Message]:
        """Return the Slack messages that arrived, oldest first."""
        return read_slack(self.folder)

    def start(self) -> Self:
        """Listen on both ports; a second call changes nothing.

        Raises:
            OSError: When a port is taken; then neither listens.
        """
        if self._loop is not None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        handler = type("_Handler", (_SlackHandler,), {"folder": self.folder})
        self._http = ThreadingHTTPServer((self._host, self._wanted[1]), handler)
        self._loop = asyncio.new_event_loop()
        protocol = partial(SMTP, _MailHandler(self.folder), hostname="localhost", enable_SMTPUTF8=True, loop=self._loop)
        try:
            self._smtp = self._loop.run_until_complete(self._loop.create_server(protocol, self._host, self._wanted[0]))
        except OSError:
            self._http.server_close()
            self._loop.close()
            self._http = self._loop = None
            raise
        self._threads = [
            threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True),
            threading.Thread(target=self._loop.run_forever, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Stop listening; a second call changes nothing."""
        if self._loop is None or self._http is None or self._smtp is None:
            return
        self._http.shutdown()
        self._http.server_close()
        self._loop.call_soon_threadsafe(self._smtp.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        self._loop = self._smtp = self._http = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: serve until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.receivers", description="Receive mail and Slack messages.")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where messages are kept")
    parser.add_argument("--host", default=HOST, metavar="ADDRESS", help=f"address that both listen on ({HOST})")
    parser.add_argument("--smtp-port", type=int, default=0, metavar="N", help="0 takes a free one (0)")
    parser.add_argument("--http-port", type=int, default=0, metavar="N", help="0 takes a free one (0)")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with Receivers(given.folder, smtp_port=given.smtp_port, http_port=given.http_port, host=given.host) as receivers:
            print(f"smtp://{given.host}:{receivers.smtp_port} {receivers.slack_url} -> {given.folder}", flush=True)
            stop.wait()
    except OSError as error:
        print(f"receivers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
