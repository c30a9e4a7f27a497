"""The channels for notices, on Airflow's connections.

Connections as environment variables (the same fields go into a secrets backend):

Slack, an incoming webhook; the password is the token, that is the path behind ``services/``, percent-encoded::

    AIRFLOW_CONN_WARD_OPS_SLACK='slackwebhook://:T0000%2FB0000%2FXXXX@'

A local receiver, plain HTTP. The hook ignores the connection's port: the whole base URL is the host, percent-encoded::

    AIRFLOW_CONN_WARD_OPS_SLACK='slackwebhook://:T0%2FB0%2FX@http%3A%2F%2F127.0.0.1%3A8080%2Fservices'

Mail with STARTTLS and a log-in, and with TLS from the first byte::

    AIRFLOW_CONN_WARD_OPS_MAIL='smtp://user:password@mail.example:587/?disable_ssl=true'
    AIRFLOW_CONN_WARD_OPS_MAIL='smtp://user:password@mail.example:465/?disable_tls=true'

A local receiver, plain SMTP::

    AIRFLOW_CONN_WARD_OPS_MAIL='smtp://127.0.0.1:2525/?disable_ssl=true&disable_tls=true'

In this form every value is text, and the hook takes any text for true, also ``false``: leave out options that are not set.
Without a port the hook uses smtplib's. ``timeout`` in the extra lowers the time limit of 10 s, it does not raise it. The
sender comes from the plan, not from the connection's ``from_email``. A webhook posts to the channel that it was created
for: the plan's ``slack_channel`` is not sent.

A notice counts as delivered only by the provider's own word: Slack answers an incoming webhook with status 200 and the body
``ok`` (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks); a mail server takes the mail for every
receiver (RFC 5321: 250 to each RCPT and to the data). Redirects are not followed, and an answer is read to 64 KB.

The hooks are imported where they are used: every task parses its DAG file, and few of them send a notice.
"""

from __future__ import annotations

import base64
import hashlib
import html
import logging
import ssl
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass

import httpx

from include.cutover.connections import http_answers, smtp_session
from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.masking import one_line, visible
from include.cutover.people.notices import LEAD, Channel, PartlyDelivered
from include.cutover.plan.model import Plan

SECONDS = 10
"""Time limit of one answer."""

SESSION_SECONDS = 15.0
"""Time limit of a whole session with the mail server."""

_ANSWER_SIZE = 64 * 1024
_SHOWN = 60
_SHORTEST_SECRET = 4

# slack_sdk writes the whole URL, which holds the token, to a logger that is open for debugging.
_quiet = logging.getLogger(f"{__name__}.slack")
_quiet.setLevel(logging.WARNING)


def channels(plan: Plan) -> list[Channel]:
    """Return the channels of the plan: ``slack`` and ``mail``, each where its connection is named, and ``lead``.

    ``lead`` is mail to the lead alone. Connections are looked up here. A missing or unusable one gives a channel whose
    ``send`` fails with that error, because a notice must not stop a cutover.
    """
    found: list[Channel] = []
    if plan.connections.slack is not None:
        found.append(_channel("slack", plan.connections.slack, _Slack))
    if plan.connections.mail is not None:
        sender, receivers, lead = plan.channels.mail_from, list(plan.channels.mail_to), plan.people.lead.email
        found.append(_channel("mail", plan.connections.mail, lambda name: _Mail("mail", name, sender, receivers)))
        if lead not in receivers:
            found.append(_channel(LEAD, plan.connections.mail, lambda name: _Mail(LEAD, name, sender, [lead])))
    return found


def _channel(name: str, connection: str, make: Callable[[str], Channel]) -> Channel:
    try:
        return make(connection)
    except Exception as error:  # noqa: BLE001  # a secrets backend may raise anything
        return _Unusable(name, connection, type(error).__name__)


class _Unusable:
    """A channel whose connection is missing or unusable."""

    def __init__(self, name: str, connection: str, found: str) -> None:
        self.name = name
        self._connection, self._found = connection, found

    def send(self, subject: str, text: str, *, reached: frozenset[str] = frozenset()) -> None:
        raise CannotCheck(
            f"the connection of the channel {self.name} is missing or unusable",
            where=f"connection {self._connection}",
            found=self._found,
            do="Define it in Airflow; the notice is sent then.",
        )


class _Slack:
    """An incoming webhook. The hook gives its URL and proxy; its own client follows redirects and takes any body."""

    name = "slack"

    def __init__(self, connection: str) -> None:
        from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

        client = SlackWebhookHook(slack_webhook_conn_id=connection, timeout=SECONDS, logger=_quiet).client
        self._url, self._headers = client.url, client.default_headers
        host = urlsplit(self._url).hostname or ""
        self._proxy = None if not client.proxy or proxy_bypass(host) else client.proxy
        if self._proxy is not None and "://" not in self._proxy:
            self._proxy = f"http://{self._proxy}"
        self._connection = connection
        parts = urlsplit(self._url).path.strip("/").split("/")
        tails = ["/".join(parts[first:]) for first in range(len(parts))]
        self._secrets = [self._url, *tails, *parts, *(unquote(part) for part in parts)]
        if self._proxy is not None:
            self._secrets.append(urlsplit(self._proxy).password or "")

    def send(self, subject: str, text: str, *, reached: frozenset[str] = frozenset()) -> None:
        message = {"text": f"*{_slack_text(subject)}*\n{_slack_text(text)}"}
        context = ssl.create_default_context() if self._url.startswith("https") else False
        try:
            # No retries here: a lost answer would post the notice twice, and a later call tries again anyway.
            with httpx.Client(proxy=self._proxy, trust_env=False, verify=context, headers=self._headers) as client:
                request = client.build_request("POST", self._url, json=message)
                answer = http_answers.fetch(client, request, http_answers.Limits(SECONDS, _ANSWER_SIZE))
        except Exception as error:  # noqa: BLE001  # a URL or a proxy of the connection may be unusable in many ways
            found = str(error) if isinstance(error, http_answers.NotUsable) else f"{type(error).__name__}: {error}"
            raise _undelivered(self._connection, found, self._secrets) from None
        if answer.status != httpx.codes.OK or answer.body != "ok":
            raise _undelivered(
                self._connection,
                _shown(answer),
                self._secrets,
                do="Check that the connection names an incoming webhook of Slack; any other answer is no delivery.",
            )


def _shown(answer: http_answers.Answer) -> str:
    """Return an answer of a webhook in short. A redirect's place is left out: it may repeat the webhook's secret."""
    if answer.location:
        return f"status {answer.status}, a redirect"
    return f"status {answer.status} with {answer.body[:_SHOWN]!r}" + ("" if answer.status != 200 else " instead of 'ok'")


class _Mail:
    """Mail over SMTP, one try per call."""

    def __init__(self, name: str, connection: str, sender: str, receivers: list[str]) -> None:
        self.name = name
        self._connection, self._sender, self._receivers = connection, sender, receivers
        # Looked up here, in the task's thread: the sending thread asks Airflow for nothing.
        self._given = _one_try().get_connection(connection)
        self._secrets = _as_sent(self._given.login or "", self._given.password or "")

    def send(self, subject: str, text: str, *, reached: frozenset[str] = frozenset()) -> None:
        line = one_line(subject)
        body = f'<p style="white-space: pre-line">{html.escape(visible(text))}</p>'
        # The same notice always has the same id: mail servers and readers drop the second of two.
        identity = hashlib.sha256("\n".join([self._sender, *self._receivers, line, text]).encode()).hexdigest()[:32]
        headers = {
            "Message-ID": f"<{identity}@{self._sender.rpartition('@')[2]}>",
            "Auto-Submitted": "auto-generated",
        }
        try:
            with _one_try()(self._connection, self._given) as hook:
                receivers = [address for address in self._receivers if address not in reached]
                hook.send_email_smtp(
                    to=receivers, subject=line, html_content=body, from_email=self._sender, custom_headers=headers
                )
        except smtp_session.SomeRefused as error:
            raise PartlyDelivered(
                "the mail server refused some receivers",
                where=f"connection {self._connection}",
                found=_without(str(error), self._secrets),
                do="The others have the mail. Check these addresses.",
                reached=error.reached,
            ) from None
        except Exception as error:  # noqa: BLE001  # smtplib, ssl and Airflow each have their own
            raise _undelivered(self._connection, f"{type(error).__name__}: {error}", self._secrets) from None


@cache
def _one_try() -> Any:
    """Return the provider's hook without its six tries of 30 s each, which go on after the server took the mail."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    class OneTry(SmtpHook):
        smtp_retry_limit = 0

        def __init__(self, name: str, given: Any) -> None:
            super().__init__(smtp_conn_id=name)
            self.get_connection = lambda _: given

        @property
        def timeout(self) -> int:
            return min(int(super().timeout), SECONDS)

        def _build_client(self) -> smtp_session.Smtp:
            kind = smtp_session.SmtpOverTls if self.use_ssl else smtp_session.Smtp
            return kind(session_seconds=SESSION_SECONDS, **self._build_client_kwargs(is_async=False))

    return OneTry


def _as_sent(user: str, password: str) -> list[str]:
    """Return a password in the forms in which a mail server hears it and may repeat it."""
    if not password:
        return []
    encoded = [base64.b64encode(text.encode()).decode() for text in (f"\0{user}\0{password}", password)]
    return [password, *encoded]


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def _undelivered(connection: str, found: str, secrets: Iterable[str], do: str = "Check this connection.") -> StepFailed:
    return StepFailed(
        "the notice was not delivered", where=f"connection {connection}", found=_without(found, secrets), do=do
    )


def _slack_text(text: str) -> str:
    """Escape angle brackets, from which Slack reads ``<!channel>`` and links."""
    return html.escape(visible(text), quote=False)
