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

The hooks are imported where they are used: every task parses its DAG file, and few of them send a notice.
"""

from __future__ import annotations

import hashlib
import html
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.people.notices import LEAD, Channel
from include.cutover.plan.model import Plan

SECONDS = 10

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

    def send(self, subject: str, text: str) -> None:
        raise CannotCheck(
            f"the connection of the channel {self.name} is missing or unusable",
            where=f"connection {self._connection}",
            found=self._found,
            do="Define it in Airflow; the notice is sent then.",
        )


class _Slack:
    """An incoming webhook."""

    name = "slack"

    def __init__(self, connection: str) -> None:
        from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

        # No retries here: a lost answer would post the notice twice, and a later call tries again anyway.
        self._hook = SlackWebhookHook(slack_webhook_conn_id=connection, timeout=SECONDS, retry_handlers=[], logger=_quiet)
        self._connection = connection
        self._secrets = [self._hook.client.url, self._hook.client.url.partition("://")[2].partition("/")[2]]

    def send(self, subject: str, text: str) -> None:
        try:
            self._hook.send_text(f"*{_slack_text(subject)}*\n{_slack_text(text)}")
        except Exception as error:  # noqa: BLE001  # urllib, slack_sdk and Airflow each have their own
            raise _undelivered(self._connection, error, self._secrets) from None


class _Mail:
    """Mail over SMTP, one try per call."""

    def __init__(self, name: str, connection: str, sender: str, receivers: list[str]) -> None:
        self.name = name
        self._connection, self._sender, self._receivers = connection, sender, receivers
        # Looked up here, in the task's thread: the sending thread asks Airflow for nothing.
        self._given = _one_try().get_connection(connection)
        self._secrets = [self._given.password] if self._given.password else []

    def send(self, subject: str, text: str) -> None:
        line = " ".join(subject.split())
        body = f'<p style="white-space: pre-line">{html.escape(text)}</p>'
        # The same notice always has the same id: mail servers and readers drop the second of two.
        identity = hashlib.sha256("\n".join([self._sender, *self._receivers, line, text]).encode()).hexdigest()[:32]
        headers = {
            "Message-ID": f"<{identity}@{self._sender.rpartition('@')[2]}>",
            "Auto-Submitted": "auto-generated",
        }
        try:
            with _one_try()(self._connection, self._given) as hook:
                hook.send_email_smtp(
                    to=self._receivers, subject=line, html_content=body, from_email=self._sender, custom_headers=headers
                )
        except Exception as error:  # noqa: BLE001  # smtplib, ssl and Airflow each have their own
            raise _undelivered(self._connection, error, self._secrets) from None


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

    return OneTry


def _undelivered(connection: str, error: Exception, secrets: list[Any]) -> StepFailed:
    found = str(error)
    for secret in secrets:
        if secret:
            found = found.replace(str(secret), "***")
    return StepFailed(
        "the notice was not delivered",
        where=f"connection {connection}",
        found=f"{type(error).__name__}: {found}",
        do="Check this connection.",
    )


def _slack_text(text: str) -> str:
    """Escape angle brackets, from which Slack reads ``<!channel>`` and links."""
    return html.escape(text, quote=False)
