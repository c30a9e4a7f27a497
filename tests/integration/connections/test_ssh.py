"""Commands on another host: real SSH servers, awkward arguments, hosts that are others, hosts that hang."""

from __future__ import annotations

import getpass
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from include.cutover.connections import ssh
from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.stack.postgres import free_port
from tests.support.ssh_host import PASSWORD, SSHD, Host, running

AWKWARD = (
    "", " ", "a b", "'", '"', "''\"\"", "$HOME", "${HOME}", "$(touch trap)", "`touch trap`", "; touch trap", "&& touch trap",
    "| touch trap", "> trap", "*", "?", "[a]", "~", "\\", "\\n", "a\nb", "a\tb", "!x", "#x", "-n", "--", "{a,b}",
    "\u10d0\u10d1\u10d2", "%s", "=x", "&", "\x01",
)  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host, by another implementation of SSH than the client's."""
    with running("asyncssh", tmp_path_factory.mktemp("asyncssh")) as host:
        yield host


@pytest.fixture(scope="module", params=["asyncssh", "sshd"])
def each_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host, by two implementations."""
    if request.param == "asyncssh":
        yield request.getfixturevalue("host")
        return
    if SSHD is None:
        pytest.skip("OpenSSH's sshd is not installed: tried with asyncssh's server only")
    with running("sshd", tmp_path_factory.mktemp("sshd")) as host:
        yield host


def test_a_command_runs_there_with_its_input_and_both_outputs(each_host: Host) -> None:
    code = "import sys; print(sys.stdin.read()[::-1]); print('to errors', file=sys.stderr); sys.exit(3)"
    with each_host.ssh() as there:
        ran = there.run([sys.executable, "-c", code], 20, stdin="given \u10d0")
    assert (ran.code, ran.output, ran.errors) == (3, "\u10d0 nevig\n", "to errors\n")
    assert there.where == "on 127.0.0.1"


def test_arguments_arrive_as_they_are(each_host: Host, tmp_path: Path) -> None:
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    with each_host.ssh() as there:
        ran = there.run([sys.executable, "-c", code, *AWKWARD], 20, directory=str(tmp_path))
    assert ran.code == 0, ran.errors
    import json

    assert tuple(json.loads(ran.output)) == AWKWARD
    assert list(tmp_path.iterdir()) == []


def test_it_runs_in_the_folder_that_was_named(each_host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    with each_host.ssh() as there:
        assert there.run(["pwd"], 20, directory=str(folder)).output.strip() == str(folder)
        with pytest.raises(CannotCheck, match="cannot be run") as caught:
            there.run(["pwd"], 20, directory=str(tmp_path / "none"))
    assert f"{tmp_path}/none" in caught.value.found


def test_a_program_that_is_not_there_is_named(each_host: Host) -> None:
    with each_host.ssh() as there, pytest.raises(CannotCheck, match=r"no-such-program on 127\.0\.0\.1") as caught:
        there.run(["no-such-program", "x"], 20)
    assert not isinstance(caught.value, Unreachable)


def test_a_command_that_hangs_is_ended_there_with_its_children(each_host: Host, tmp_path: Path) -> None:
    script = "import os, subprocess, sys, time; p = subprocess.Popen(['sleep', '600']);"
    script += f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{p.pid}}');"
    script += "print('begun', flush=True); import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    with each_host.ssh() as there:
        ran = there.run([sys.executable, "-c", script], 1)
        assert (ran.code, ran.output) == (None, "begun\n")
        assert there.run(["true"], 20).code == 0  # the connection still works
    gone((tmp_path / "pids").read_text().split())


def test_command_is_ended_there_when_this_process_is_gone(each_host: Host, tmp_path: Path) -> None:
    """As when the task is killed: the host's own time limit holds."""
    import multiprocessing

    pids = tmp_path / "pids"
    command = ["sh", "-c", f"echo $$ > {shlex.quote(str(pids))}; sleep 600"]

    def run() -> None:
        with each_host.ssh() as there:
            there.run(command, 2)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    deadline = time.monotonic() + 20
    while not (pids.exists() and pids.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.kill()
    child.join()
    gone(pids.read_text().split())


def gone(pids: list[str]) -> None:
    deadline = time.monotonic() + 15
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, pid
            time.sleep(0.05)


def test_a_signal_is_told_from_an_exit_status(each_host: Host) -> None:
    with each_host.ssh() as there:
        ran = there.run(["sh", "-c", "kill -9 $$"], 20)
    # timeout reports the signal of its command as a status, as a shell does.
    assert ran.code is not None and (ran.code < 0 or ran.code == 137)


def test_process_left_behind_is_not_waited_for(each_host: Host) -> None:
    code = "import subprocess; p = subprocess.Popen(['sleep', '600'], start_new_session=True); print(p.pid)"
    with each_host.ssh() as there:
        begun = time.monotonic()
        ran = there.run([sys.executable, "-c", code], 60)
        assert time.monotonic() - begun < 30
    try:
        assert ran.code == 0
        os.kill(int(ran.output), 0)
    finally:
        os.kill(int(ran.output), signal.SIGKILL)


def test_a_large_output_arrives_and_a_huge_one_is_cut_to_its_end(each_host: Host) -> None:
    with each_host.ssh() as there:
        ran = there.run([sys.executable, "-c", "print('x' * 500_000 + 'end')"], 60)
        assert len(ran.output) == 500_004 and ran.output.endswith("end\n")
        ran = there.run([sys.executable, "-c", "import sys; sys.stderr.write('x' * 9_000_000 + 'end')"], 60)
        assert ran.errors.endswith("end") and len(ran.errors) <= 2 << 20


def test_large_input_arrives_and_unread_input_is_harmless(each_host: Host) -> None:
    with each_host.ssh() as there:
        assert there.run(["wc", "-c"], 60, stdin="x" * 3_000_000).output.strip() == "3000000"
        assert there.run(["true"], 60, stdin="x" * 3_000_000).code == 0


def test_one_connection_serves_and_a_lost_one_is_made_anew(each_host: Host) -> None:
    with each_host.ssh() as there:
        assert there.run(["true"], 20).code == 0
        client = there._client
        assert there.run(["true"], 20).code == 0
        assert there._client is client and client is not None
        client.get_transport().sock.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 10
        while client.get_transport() is not None and client.get_transport().is_active():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert there.run(["true"], 20).code == 0
        assert there._client is not client


def test_a_port_there_is_reached_through_it(each_host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, each_host.ssh() as there:
        tunnel = there.tunnel("127.0.0.1", server.getsockname()[1], 10)
        accepted, _ = server.accept()
        with accepted:
            tunnel.sendall(b"ping")
            assert accepted.recv(4) == b"ping"
        tunnel.close()
        with pytest.raises(ConnectionRefusedError, match=r"on 127\.0\.0\.1: no tunnel to port \d+"):
            there.tunnel("127.0.0.1", free_port(), 10)
        assert there.run(["true"], 20).code == 0


# --- who it is ----------------------------------------------------------------------------------------------------------


def login(host: Host, home: Path, monkeypatch: pytest.MonkeyPatch, known: str = "", **changes: Any) -> ssh.Login:
    """A log-in without the host's key, by a user whose known_hosts is what is given."""
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh" / "known_hosts").write_text(known)
    monkeypatch.setenv("HOME", str(home))
    fields = host.fields()
    del fields["extra"]["host_key"]
    fields["extra"].update(changes)
    return ssh.login("ward_ops_host", **fields)


def runs(login: ssh.Login) -> bool:
    there = ssh.Ssh(login)
    try:
        return there.run(["true"], 20).code == 0
    finally:
        there.close()


def test_unknown_host_is_refused_with_its_fingerprint(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotCheck, match="the host's key is not known") as caught:
        runs(login(host, tmp_path, monkeypatch))
    assert caught.value.found.startswith("ssh-ed25519 SHA256:")
    assert not isinstance(caught.value, Unreachable)
    assert (tmp_path / ".ssh" / "known_hosts").read_text() == ""


def test_a_host_in_known_hosts_is_known(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs(login(host, tmp_path, monkeypatch, f"[127.0.0.1]:{host.port} {host.host_key}\n"))


def test_changed_host_key_is_refused(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = (host.folder / "other.pub").read_text()
    # The connection's key is the one that counts, whatever known_hosts says.
    for known, extra in ((other, {}), (host.host_key, {"host_key": other})):
        given = login(host, tmp_path, monkeypatch, f"[127.0.0.1]:{host.port} {known}\n", **extra)
        with pytest.raises(CannotCheck, match="differs from the known one") as caught:
            runs(given)
        assert caught.value.expected != caught.value.found and caught.value.found.startswith("SHA256:")


def test_host_key_check_is_skipped_only_when_connection_and_plan_agree(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CannotCheck, match=r"connections\.ssh_unverified"):
        login(host, tmp_path, monkeypatch, no_host_key_check="true")
    with pytest.raises(CannotCheck, match="accepts a changed host key"):
        login(host, tmp_path, monkeypatch, allow_host_key_change=True)
    fields = host.fields(no_host_key_check=True, host_key="")
    assert runs(ssh.login("ward_ops_host", **fields, may_be_unverified=True))
    # The plan alone does not leave it out.
    with pytest.raises(CannotCheck, match="not known"):
        runs(ssh.login("ward_ops_host", **host.fields(host_key=""), may_be_unverified=True))


def test_invalid_host_key_is_reported(host: Host) -> None:
    for text in ("ssh-ed25519", "ssh-ed25519 nonsense!", "AAAA"):
        with pytest.raises(CannotCheck, match="is not a public key"), host.ssh(host_key=text) as there:
            there.run(["true"], 20)


def test_a_key_counts_wherever_it_is_given(host: Host) -> None:
    key = (host.folder / "user").read_text()
    locked = (host.folder / "locked").read_text()
    for extra in (
        {"private_key": key},
        {"private_key": locked, "private_key_passphrase": "of the key"},
        {"key_file": str(host.folder / "locked"), "private_key_passphrase": "of the key"},
        {"host_key": host.host_key.split()[1]},
    ):
        extra = {"key_file": "", **extra} if "private_key" in extra else extra
        with host.ssh(**extra) as there:
            assert there.run(["true"], 20).code == 0


def test_wrong_and_unusable_keys_are_reported_without_the_key(host: Host) -> None:
    with (
        pytest.raises(CannotCheck, match="refuses the log-in") as caught,
        host.ssh(key_file=f"{host.folder}/other") as there,
    ):
        there.run(["true"], 20)
    assert not isinstance(caught.value, Unreachable)
    for extra in (
        {"key_file": str(host.folder / "locked")},
        {"key_file": str(host.folder / "locked"), "private_key_passphrase": "hunter2"},
        {"key_file": "", "private_key": "hunter2"},
    ):
        with pytest.raises(CannotCheck, match="the private key cannot be used") as caught, host.ssh(**extra) as there:
            there.run(["true"], 20)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(CannotCheck, match="cannot be read"), host.ssh(key_file="/nonexistent/key") as there:
        there.run(["true"], 20)


def test_a_password_logs_in(tmp_path: Path) -> None:
    with running("asyncssh", tmp_path) as host:
        fields = {**host.fields(key_file=""), "password": PASSWORD}
        assert runs(ssh.login("ward_ops_host", **fields))
        given = ssh.login("ward_ops_host", **{**fields, "password": "hunter2"})
        with pytest.raises(CannotCheck, match="refuses the log-in") as caught:
            runs(given)
        assert "hunter2" not in str(caught.value) + repr(given) and PASSWORD not in repr(ssh.login("h", **fields))


# --- no answer ----------------------------------------------------------------------------------------------------------


def test_closed_port_is_unreachable(host: Host) -> None:
    with pytest.raises(Unreachable, match="does not answer over SSH") as caught:
        runs(ssh.login("ward_ops_host", **{**host.fields(), "port": free_port()}))
    assert f"{getpass.getuser()}@127.0.0.1" in caught.value.where and caught.value.retry_helps


def test_a_port_that_says_nothing_or_something_else_is_unreachable(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fields = {**host.fields(conn_timeout="0.5"), "port": silent.getsockname()[1]}
        with pytest.raises(Unreachable):
            runs(ssh.login("ward_ops_host", **fields))


def test_a_host_that_stops_answering_is_unreachable_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_SLACK_SECONDS", 0.5)
    with running("asyncssh", tmp_path) as host, host.ssh(conn_timeout="1") as there:
        assert there.run(["true"], 20).code == 0
        os.kill(host.process.pid, signal.SIGSTOP)
        for _ in range(2):  # over the connection that was there, then over a new one
            with pytest.raises(Unreachable):
                there.run(["true"], 1)
        os.kill(host.process.pid, signal.SIGCONT)
        assert there.run(["true"], 20).code == 0


def test_a_host_that_dies_in_the_middle_is_unreachable(tmp_path: Path) -> None:
    with running("asyncssh", tmp_path) as host, host.ssh() as there:
        command = ["sh", "-c", f"kill -9 {host.process.pid}; sleep 60"]
        with pytest.raises(Unreachable):
            there.run(command, 20)


def test_connection_without_a_host_or_with_two_keys_is_refused() -> None:
    with pytest.raises(CannotCheck, match="names no host"):
        ssh.login("ward_ops_host", host=None)
    with pytest.raises(CannotCheck, match="gives two keys"):
        ssh.login("ward_ops_host", host="h", extra={"key_file": "a", "private_key": "b"})
