"""Real mail over SMTP and real webhooks over HTTP arrive and can be read."""

from __future__ import annotations

import signal
import smtplib
import subprocess
import sys
import threading
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest

from examples.receivers import Receivers, read_mail, read_slack
from include.cutover.places import ROOT


def mail(subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "Cutover <cutover@ward-ops.example>"
    message["To"] = "ops@ward-ops.example"
    message.set_content(text)
    return message


def send(port: int, message: EmailMessage, to: list[str] | None = None) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        client.send_message(message, to_addrs=to)


def test_mail_arrives_as_it_was_sent(tmp_path: Path) -> None:
    with Receivers(tmp_path) as receivers:
        send(receivers.smtp_port, mail("გადასვლა: „დაწყება“", "პირველი\nSecond line\n.\nline\u2028separator\n"))
        html = mail("html", "plain part")
        html.add_alternative("<p>html part</p>", subtype="html")
        send(receivers.smtp_port, html, ["a@ward-ops.example", "b@ward-ops.example"])
        first, second = receivers.mail()

    assert first.subject == "გადასვლა: „დაწყება“"
    assert first.text == "პირველი\nSecond line\n.\nline\u2028separator"
    assert (first.sender, first.to) == ("cutover@ward-ops.example", ["ops@ward-ops.example"])
    assert second.text == "plain part"
    assert second.to == ["a@ward-ops.example", "b@ward-ops.example"]
    assert first.time < second.time


def test_slack_messages_arrive_and_are_answered_as_slack_does(tmp_path: Path) -> None:
    with Receivers(tmp_path) as receivers, httpx.Client(trust_env=False) as client:
        payload = {"text": "Heads up: გადასვლა", "channel": "#ops", "username": "cutover"}
        answers = [
            client.post(receivers.slack_url, json=payload),
            client.post(receivers.slack_url, data={"payload": '{"text": "as a form"}'}),
            client.post(receivers.slack_url, json={"blocks": [{"type": "section", "text": {"text": "in a block"}}]}),
            client.post(receivers.slack_url, content=b"not json"),
            client.post(receivers.slack_url, json={"channel": "#ops"}),
        ]
        messages = receivers.slack()

    assert [(answer.status_code, answer.text) for answer in answers] == [
        (200, "ok"),
        (200, "ok"),
        (200, "ok"),
        (400, "invalid_payload"),
        (400, "no_text"),
    ]
    assert [message.text for message in messages] == ["Heads up: გადასვლა", "as a form", "in a block"]
    assert (messages[0].to, messages[0].sender, messages[0].subject) == (["#ops"], "cutover", "")


def test_messages_at_once_are_all_kept(tmp_path: Path) -> None:
    with Receivers(tmp_path) as receivers:

        def both(number: int) -> None:
            send(receivers.smtp_port, mail(f"mail {number}", "x" * 5000))
            httpx.post(receivers.slack_url, json={"text": f"slack {number}" + "y" * 5000}, trust_env=False)

        threads = [threading.Thread(target=both, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(message.subject for message in read_mail(tmp_path)) == [f"mail {number}" for number in range(8)]
    assert sorted(message.text[:7] for message in read_slack(tmp_path)) == [f"slack {number}" for number in range(8)]


def test_stopped_receivers_refuse_and_started_ones_go_on(tmp_path: Path) -> None:
    receivers = Receivers(tmp_path).start()
    smtp_port, url = receivers.smtp_port, receivers.slack_url
    send(smtp_port, mail("before", "text"))
    receivers.stop()
    receivers.stop()

    with pytest.raises(ConnectionRefusedError):
        send(smtp_port, mail("lost", "text"))
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, json={"text": "lost"}, trust_env=False)

    with receivers.start():
        send(receivers.smtp_port, mail("after", "text"))
    assert [message.subject for message in read_mail(tmp_path)] == ["before", "after"]


def test_an_empty_folder_has_no_messages(tmp_path: Path) -> None:
    assert (read_mail(tmp_path), read_slack(tmp_path)) == ([], [])


def test_a_taken_port_is_an_error_and_nothing_listens(tmp_path: Path) -> None:
    with Receivers(tmp_path) as receivers:
        second = Receivers(tmp_path, smtp_port=receivers.smtp_port)
        with pytest.raises(OSError, match="in use"):
            second.start()
        assert second.http_port == 0


def test_the_receivers_run_as_a_process_until_sigterm(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.receivers", "--folder", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        smtp, slack, *_ = process.stdout.readline().split()
        send(int(smtp.rpartition(":")[2]), mail("to the process", "text"))
        assert httpx.post(slack, json={"text": "to the process"}, trust_env=False).text == "ok"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()

    assert [message.subject for message in read_mail(tmp_path)] == ["to the process"]
    assert [message.text for message in read_slack(tmp_path)] == ["to the process"]
