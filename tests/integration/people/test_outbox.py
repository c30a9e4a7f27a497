"""Once per channel, whatever happens to the processes that send: real receivers, real processes, real kills."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from examples.receivers import Receivers
from include.cutover.evidence.record import Evidence
from include.cutover.people import notices
from include.cutover.people.notices import Message
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.stack.postgres import free_port
from include.cutover.steps import notices as notice_steps
from include.cutover.tasks import channels
from tests.integration.tasks.test_channels import mail, slack

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def plan() -> Plan:
    return load_plan("ward_ops")


@pytest.fixture
def receivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receivers]:
    with Receivers(tmp_path / "received") as receivers:
        slack(monkeypatch, receivers.http_port)
        mail(monkeypatch, receivers.smtp_port)
        yield receivers


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    found = Evidence(tmp_path / "run")
    found.append("run.opened", notices=True)
    return found


def beside(*actions: Callable[[], object]) -> list[int]:
    """Do it in processes of their own, at the same time; their exit codes."""
    processes = [FORK.Process(target=action) for action in actions]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    return [process.exitcode if process.exitcode is not None else -99 for process in processes]


def test_drains_at_the_same_time_send_once(plan: Plan, receivers: Receivers, evidence: Evidence) -> None:
    for number in range(3):
        notices.post(evidence, Message(f"delay.{number}", f"subject {number}", "text", lead=number == 0))
    codes = beside(*[lambda: notice_steps.deliver(evidence, plan, channels.channels, seconds=20)] * 5)
    assert codes == [0] * 5
    notice_steps.deliver(evidence, plan, channels.channels, seconds=20)  # who found the channel claimed left it to the other
    assert sorted(message.text.split("\n")[0] for message in receivers.slack()) == [f"*subject {n}*" for n in range(3)]
    lead = [message.subject for message in receivers.mail() if message.to == [plan.people.lead.email]]
    assert lead == ["subject 0"]
    others = sorted(message.subject for message in receivers.mail() if message.to == list(plan.channels.mail_to))
    assert others == [f"subject {n}" for n in range(3)]
    delivered = [event for event in evidence.events() if event["event"] == "notice.delivery"]
    assert len(delivered) == 7 and {event["outcome"] for event in delivered} == {"sent"}


def test_killed_drain_loses_no_notice_and_leaves_no_lock(
    plan: Plan, evidence: Evidence, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notices.post(evidence, Message("start", "begins", "text"))
    port = free_port()
    with Receivers(tmp_path / "received", smtp_port=port) as receivers, socket.create_server(("127.0.0.1", 0)) as silent:
        mail(monkeypatch, port)
        slack(monkeypatch, silent.getsockname()[1])
        child = FORK.Process(target=lambda: notice_steps.deliver(evidence, plan, channels.channels, seconds=60))
        child.start()
        connection, _ = silent.accept()  # the webhook is being called; the mail is on its way or there
        while evidence.last("notice.delivery", channel="mail", outcome="sent") is None:
            time.sleep(0.02)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        connection.close()
        slack(monkeypatch, receivers.http_port)
        assert [item.channel for item in notice_steps.deliver(evidence, plan, channels.channels)] == ["slack"]
        assert notice_steps.deliver(evidence, plan, channels.channels, patient=False) == []
        assert (len(receivers.slack()), len(receivers.mail())) == (1, 1)


def test_edit_while_the_notice_is_being_sent_is_refused(
    plan: Plan, receivers: Receivers, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Require that people read what the evidence says they read."""
    notices.post(evidence, Message("start", "begins", "the first text"))
    results: list[str] = []

    class Slow:
        name = "slack"

        def send(self, subject: str, text: str, *, reached: frozenset[str] = frozenset()) -> None:
            with suppress(Exception):
                notices.edit(evidence, "start", "the second text", by="communicator", channels=["slack", "mail"])
                results.append("edited")
            (channel,) = [item for item in channels.channels(plan) if item.name == "slack"]
            channel.send(subject, text)

    monkeypatch.setattr(notices, "SECONDS", 0.3)
    monkeypatch.setattr(notice_steps, "names", lambda plan: ["slack"])
    notice_steps.deliver(evidence, plan, lambda plan: [Slow()], seconds=20)
    recorded = evidence.last("notice")
    assert recorded is not None and recorded["text"] == "the first text" and results == []
    assert [message.text for message in receivers.slack()] == ["*begins*\nthe first text"]


def test_a_step_spends_little_on_channels_that_hang_and_the_outbox_goes_on(
    plan: Plan, evidence: Evidence, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notices.post(evidence, Message("start", "begins", "text"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        slack(monkeypatch, port)
        mail(monkeypatch, port)
        began = time.monotonic()
        tried = notice_steps.deliver(evidence, plan, channels.channels, seconds=0.5)
        assert {item.error for item in tried} == {"no answer within 0.5 s"} and time.monotonic() - began < 5
        assert notice_steps.deliver(evidence, plan, channels.channels) == [], "the next step does not wait for them again"
    assert notice_steps.delivery_status(evidence, "start", plan)[2] == "not sent, missing: slack, mail"


def test_run_without_notices_sends_none(plan: Plan, receivers: Receivers, tmp_path: Path) -> None:
    silent = Evidence(tmp_path / "silent")
    silent.append("run.opened", notices=False)
    notices.post(silent, Message("start", "begins", "text"))
    assert notice_steps.deliver(silent, plan, channels.channels, patient=False) == []
    assert receivers.slack() == [] and receivers.mail() == []
