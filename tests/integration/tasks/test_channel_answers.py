"""Only the provider's own word of success counts: webhooks and mail servers that answer something else, or never end."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from examples.receivers import Receivers
from include.cutover.errors import Refused, StepFailed
from include.cutover.evidence.record import Evidence
from include.cutover.people import notices
from include.cutover.people.delivery import drain
from include.cutover.people.notices import Channel, Message
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.stack.postgres import free_port
from include.cutover.steps.call import Call
from include.cutover.steps.send_pending import send_pending
from include.cutover.steps.step import Caller
from include.cutover.tasks import channels
from tests.integration.tasks.test_channels import PASSWORD, mail, slack, talking
from tests.support.ends import FakeEnds
from tests.support.tls_server import Authority

Server = Callable[[socket.socket], None]


@pytest.fixture
def plan() -> Plan:
    """The plan with three receivers of mail."""
    plan = load_plan("ward_ops")
    settings = plan.channels.model_copy(update={"mail_to": ("a@example.org", "b@example.org", "c@example.org")})
    return plan.model_copy(update={"channels": settings})


def one(plan: Plan, name: str) -> Channel:
    return next(channel for channel in channels.channels(plan) if channel.name == name)


@contextmanager
def serving(answer: Server) -> Iterator[int]:
    """A server that reads one request, or greets, and answers with whatever ``answer`` sends."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one_client, args=(connection,), daemon=True).start()

    def one_client(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(60)
            answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def says(status: str, body: bytes, *headers: str) -> Server:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall("\r\n".join(lines).encode() + body)

    return answer


def endless(part: bytes, pause: float = 0.0) -> Server:
    """Answer 200, and then chunks without an end."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        ended = threading.Event()
        while not ended.wait(pause):
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))

    return answer


# --- Slack --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (says("200 OK", b"no_service"), "status 200 with 'no_service' instead of 'ok'"),
        (says("200 OK", b"ok\n"), "status 200 with 'ok\\n' instead of 'ok'"),
        (says("200 OK", b'{"ok": true}'), "instead of 'ok'"),
        (says("200 OK", b""), "status 200 with '' instead of 'ok'"),
        (says("204 No Content", b""), "status 204"),
        (says("302 Found", b"ok", "Location: http://127.0.0.1:1/T0/B0/SeCrEt"), "status 302, a redirect"),
        (says("307 Temporary Redirect", b"ok", "Location: /services/T0/B0/SeCrEt"), "status 307, a redirect"),
        (says("404 Not Found", b"no_team T0/B0/SeCrEt"), "status 404 with 'no_team"),
        (says("500 Server Error", b"rollup_error"), "status 500 with 'rollup_error'"),
        (lambda connection: connection.sendall(b"220 ready\r\n"), "no answer"),
    ],
    ids=["another body", "a line end", "json", "empty", "204", "302", "307", "404", "500", "not HTTP"],
)
def test_another_answer_than_ok_is_not_a_delivery(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, answer: Server, found: str
) -> None:
    with serving(answer) as port:
        slack(monkeypatch, port)
        with pytest.raises(StepFailed) as caught:
            one(plan, "slack").send("s", "text")
    assert found in caught.value.found
    assert "SeCrEt" not in str(caught.value) and "B0" not in str(caught.value)
    assert "connection" in caught.value.do


def test_redirect_is_not_followed(plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Receivers(tmp_path) as other:
        answer = says("302 Found", b"", f"Location: {other.slack_url}")
        with serving(answer) as port:
            slack(monkeypatch, port)
            with pytest.raises(StepFailed, match="status 302"):
                one(plan, "slack").send("s", "text")
        assert other.slack() == []


def test_answer_without_an_end_is_cut_off_and_takes_no_memory(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(endless(b"x" * 60_000)) as port:
        slack(monkeypatch, port)
        channel = one(plan, "slack")
        tracemalloc.start()
        try:
            with pytest.raises(StepFailed, match="an answer of more than 64 KB"):
                channel.send("s", "text")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 << 20


def test_answer_that_drips_is_given_up(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "SECONDS", 0.5)
    with serving(endless(b"o", pause=0.05)) as port:
        slack(monkeypatch, port)
        with pytest.raises(StepFailed, match=r"did not end in|no complete answer in"):
            one(plan, "slack").send("s", "text")


def test_proxy_of_the_connection_is_used(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    with serving(proxy) as port:
        host = "http%3A%2F%2Fslack.example%2Fservices"
        extra = f"proxy=http%3A%2F%2F127.0.0.1%3A{port}"
        monkeypatch.setenv("AIRFLOW_CONN_WARD_OPS_SLACK", f"slackwebhook://:T0%2FB0%2FX@{host}/?{extra}")
        one(plan, "slack").send("s", "text")
    assert seen[0].startswith(b"POST http://slack.example/services/T0/B0/X HTTP/1.1\r\n")


def test_outbox_says_why_a_notice_did_not_arrive(plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    evidence = Evidence.of("ward_ops", "run")
    evidence.append("run.opened", notices=True)
    only = plan.model_copy(update={"connections": plan.connections.model_copy(update={"mail": None})})
    monkeypatch.setattr("include.cutover.steps.send_pending.plan_of", lambda name, evidence: only)
    notices.post(evidence, Message("start", "s", "text"))
    with serving(says("302 Found", b"", "Location: http://elsewhere.example/x")) as port:
        slack(monkeypatch, port)
        ends = FakeEnds(tmp_path)
        monkeypatch.setattr(ends, "channels", lambda plan: channels.channels(only))
        said = send_pending(Call("ward_ops", Caller("outbox_ward_ops", "run", None), ends))
    assert said.startswith("0 sent, 1 failed: start to slack: ") and "status 302, a redirect" in said
    assert notices.outbox(evidence.events())["start"].sent == frozenset()
    assert "SeCrEt" not in (evidence.folder / "events.jsonl").read_text() + said


# --- mail ---------------------------------------------------------------------------------------------------------------


class _Choosy:
    """A handler that refuses some receivers, and keeps the envelopes of the others."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.accepted: list[list[str]] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refused:
            return f"550 no such user {address}"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.accepted.append(list(envelope.rcpt_tos))
        return "250 OK"


@pytest.fixture
def choosy(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Choosy]:
    handler = _Choosy("b@example.org")
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        mail(monkeypatch, controller.port)
        yield handler
    finally:
        controller.stop()


def test_refused_receiver_is_not_reached_and_the_others_get_it_once(plan: Plan, choosy: _Choosy, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "run")
    notices.post(evidence, Message("start", "s", "text"))
    (delivery,) = drain([one(plan, "mail")], evidence, patient=False)
    assert delivery.outcome == "failed" and "refused b@example.org: 550 no such user" in delivery.error
    (delivery,) = drain([one(plan, "mail")], evidence, patient=False)
    assert delivery.outcome == "failed" and "550" in delivery.error
    assert choosy.accepted == [["a@example.org", "c@example.org"]]
    assert notices.outbox(evidence.events())["start"].sent == frozenset()
    with pytest.raises(Refused, match="has been sent and cannot be changed"):
        notices.edit(evidence, "start", "another text", by="communicator", channels=["mail"])

    choosy.refused.clear()
    (delivery,) = drain([one(plan, "mail")], evidence, patient=False)
    assert delivery.outcome == "sent"
    assert choosy.accepted == [["a@example.org", "c@example.org"], ["b@example.org"]]
    assert drain([one(plan, "mail")], evidence, patient=False) == []


@pytest.mark.parametrize("starttls", [True, False])
def test_mail_over_tls_has_the_same_limits(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, starttls: bool
) -> None:
    authority = Authority.make(tmp_path, "authority")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue(tmp_path, "localhost"))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    handler, port = _Choosy("b@example.org"), free_port()
    secure: dict[str, Any] = {"tls_context": context, "require_starttls": True} if starttls else {"ssl_context": context}
    controller = Controller(handler, hostname="localhost", port=port, **secure)
    controller.start()
    try:
        way = "disable_ssl" if starttls else "disable_tls"
        monkeypatch.setenv("AIRFLOW_CONN_WARD_OPS_MAIL", f"smtp://localhost:{port}/?{way}=true")
        with pytest.raises(notices.PartlyDelivered) as caught:
            one(plan, "mail").send("s", "text")
    finally:
        controller.stop()
    assert caught.value.reached == {"a@example.org", "c@example.org"}
    assert handler.accepted == [["a@example.org", "c@example.org"]]


def test_all_receivers_refused_is_a_failure(plan: Plan, choosy: _Choosy) -> None:
    choosy.refused |= {"a@example.org", "c@example.org"}
    with pytest.raises(StepFailed, match="550"):
        one(plan, "mail").send("s", "text")
    assert choosy.accepted == []


def test_mail_server_that_never_ends_its_answer_is_cut_off(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def greet(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"220-welcome\r\n" * 5000)

    with serving(greet) as port:
        mail(monkeypatch, port)
        channel = one(plan, "mail")
        tracemalloc.start()
        try:
            with pytest.raises(StepFailed, match="an answer of more than 64 KB"):
                channel.send("s", "text")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 << 20


def test_mail_server_that_drips_is_given_up(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "SESSION_SECONDS", 0.5)

    def drip(connection: socket.socket) -> None:
        ended = threading.Event()
        connection.sendall(b"220-")
        while not ended.wait(0.05):
            connection.sendall(b"x")

    with serving(drip) as port:
        mail(monkeypatch, port)
        with pytest.raises(StepFailed, match=r"no complete session in 0\.5 s"):
            one(plan, "mail").send("s", "text")


def test_encoded_password_that_the_server_repeats_is_not_shown(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = base64.b64encode(f"\0cutover\0{PASSWORD}".encode())
    answers = {b"": b"220 ready\r\n", b"EHLO": b"250-here\r\n250 AUTH PLAIN\r\n", b"AUTH": b"535 not " + encoded + b"\r\n"}
    with talking(answers) as port:
        mail(monkeypatch, port, f"cutover:{PASSWORD}@")
        with pytest.raises(StepFailed) as caught:
            one(plan, "mail").send("s", "text")
    assert "535" in caught.value.found and encoded.decode() not in str(caught.value)
