"""The channels over Airflow's hooks and connections, against real SMTP and HTTP servers; without a database of Airflow."""

from __future__ import annotations

import base64
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.receivers import Receivers
from include.cutover.errors import StepFailed
from include.cutover.evidence.record import Evidence
from include.cutover.people import notices
from include.cutover.people.delivery import Delivery, drain
from include.cutover.people.notices import Channel, Message
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.stack.postgres import free_port
from include.cutover.tasks import channels

TOKEN = "T0%2FB0%2FSeCrEt"
PASSWORD = "SeCrEtPaSsWoRd"


@pytest.fixture
def plan() -> Plan:
    return load_plan("ward_ops")


@pytest.fixture
def receivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receivers]:
    """Both receivers, and Airflow's connections to them."""
    with Receivers(tmp_path / "received") as receivers:
        slack(monkeypatch, receivers.http_port)
        mail(monkeypatch, receivers.smtp_port)
        yield receivers


def slack(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WARD_OPS_SLACK", f"slackwebhook://:{TOKEN}@http%3A%2F%2F127.0.0.1%3A{port}%2Fservices")


def mail(monkeypatch: pytest.MonkeyPatch, port: int, login: str = "") -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WARD_OPS_MAIL", f"smtp://{login}127.0.0.1:{port}/?disable_ssl=true&disable_tls=true")


def send(
    notice: str, text: str, subject: str, channels: Sequence[Channel], evidence: Evidence, seconds: float = 15
) -> list[Delivery]:
    """Post a notice and send everything that waits; what was tried, by the channel's name."""
    notices.post(evidence, Message(notice, subject, text))
    return sorted(drain(channels, evidence, seconds=seconds, patient=False), key=lambda item: item.channel)


@contextmanager
def talking(answers: dict[bytes, bytes], heard: list[bytes] | None = None) -> Iterator[int]:
    """A server that answers by the first word of what it hears, ``b""`` being the greeting, and else keeps silent."""
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                if b"" in answers:
                    connection.sendall(answers[b""])
                try:
                    while line := connection.recv(4096):
                        word = line.split()[0].upper()
                        if heard is not None:
                            heard.append(word)
                        if word in answers:
                            connection.sendall(answers[word])
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_a_notice_arrives_in_both(plan: Plan, receivers: Receivers, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "run")
    text = "Begins at 02:00 & ends <soon>.\nContact ნინო ბერიძე."
    deliveries = send("start", text, "Ward OPS: მიგრაცია", channels.channels(plan), evidence)

    assert [(delivery.channel, delivery.outcome, delivery.error) for delivery in deliveries] == [
        ("mail", "sent", ""),
        ("slack", "sent", ""),
    ]
    (posted,) = receivers.slack()
    assert posted.text == "*Ward OPS: მიგრაცია*\nBegins at 02:00 &amp; ends &lt;soon&gt;.\nContact ნინო ბერიძე."
    (mailed,) = receivers.mail()
    assert (mailed.subject, mailed.sender, mailed.to) == (
        "Ward OPS: მიგრაცია",
        plan.channels.mail_from,
        list(plan.channels.mail_to),
    )
    assert "Begins at 02:00 &amp; ends &lt;soon&gt;.\nContact ნინო ბერიძე." in mailed.text


def test_a_subject_cannot_smuggle_headers_in(plan: Plan, receivers: Receivers) -> None:
    (_, mail_channel, _) = channels.channels(plan)
    mail_channel.send("Ward OPS\r\nBcc: everybody@example.org", "text")
    (mailed,) = receivers.mail()
    assert mailed.subject == "Ward OPS Bcc: everybody@example.org"
    assert mailed.to == list(plan.channels.mail_to)


def test_missing_connections_say_so_and_are_recorded(plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_WARD_OPS_SLACK", raising=False)
    monkeypatch.delenv("AIRFLOW_CONN_WARD_OPS_MAIL", raising=False)
    deliveries = send("start", "text", "s", channels.channels(plan), Evidence(tmp_path / "run"))
    assert [(delivery.channel, delivery.outcome) for delivery in deliveries] == [("mail", "failed"), ("slack", "failed")]
    assert "connection ward_ops_slack: the connection of the channel slack is missing or unusable" in deliveries[1].error
    assert "connection ward_ops_mail" in deliveries[0].error


def test_channels_that_the_plan_does_not_name_are_not_there(plan: Plan) -> None:
    connections = plan.connections.model_copy(update={"slack": None, "mail": None})
    assert channels.channels(plan.model_copy(update={"connections": connections})) == []


def test_a_receiver_that_is_back_gets_the_notice_once(plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    http_port, smtp_port = free_port(), free_port()
    slack(monkeypatch, http_port)
    mail(monkeypatch, smtp_port)
    evidence = Evidence(tmp_path / "run")
    down = send("start", "text", "s", channels.channels(plan), evidence)
    assert [delivery.outcome for delivery in down] == ["failed", "failed"]

    with Receivers(tmp_path / "received", http_port=http_port, smtp_port=smtp_port) as back:
        for outcomes in (["sent", "sent"], []):
            again = send("start", "text", "s", channels.channels(plan), evidence)
            assert [delivery.outcome for delivery in again] == outcomes
        assert (len(back.slack()), len(back.mail())) == (1, 1)


def test_a_server_that_never_answers_does_not_hold_the_run(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with talking({}) as port:
        slack(monkeypatch, port)
        mail(monkeypatch, port)
        deliveries = send("start", "text", "s", channels.channels(plan), Evidence(tmp_path / "run"), seconds=0.5)
    assert [delivery.error for delivery in deliveries] == ["no answer within 0.5 s"] * 2


def test_a_password_that_the_server_repeats_is_not_recorded(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = {
        b"": b"220 ready\r\n",
        b"EHLO": b"250-here\r\n250 AUTH PLAIN\r\n",
        b"AUTH": f"535 {PASSWORD} is wrong\r\n".encode(),
    }
    with talking(answers) as port:
        mail(monkeypatch, port, f"cutover:{PASSWORD}@")
        connections = plan.connections.model_copy(update={"slack": None})
        only_mail = channels.channels(plan.model_copy(update={"connections": connections}))
        (delivery,) = send("start", "text", "s", only_mail, Evidence(tmp_path / "run"))
    assert delivery.outcome == "failed"
    assert "535" in delivery.error and "*** is wrong" in delivery.error
    written = (tmp_path / "run" / "events.jsonl").read_text()
    assert PASSWORD not in written
    assert base64.b64encode(f"\0cutover\0{PASSWORD}".encode()).decode() not in written


def test_a_refused_mail_is_tried_once_and_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {b"": b"220 ready\r\n", b"EHLO": b"250 here\r\n", b"MAIL": b"451 greylisted\r\n", b"RSET": b"250 ok\r\n"}
    heard: list[bytes] = []
    with talking(answers, heard) as port:
        slack(monkeypatch, port)
        mail(monkeypatch, port)
        (_, mail_channel, _) = channels.channels(plan)
        with pytest.raises(StepFailed, match="greylisted"):
            mail_channel.send("s", "text")
    assert heard.count(b"MAIL") == 1


def test_the_webhook_s_token_reaches_no_log(plan: Plan, receivers: Receivers, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for channel in channels.channels(plan):
            channel.send("s", "text")
    assert len(receivers.slack()) == 1
    assert "SeCrEt" not in caplog.text
