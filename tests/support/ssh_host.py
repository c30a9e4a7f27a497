"""A host that is reached over SSH: an SSH server on loopback that runs commands as the user of the tests.

One server is asyncssh's, another implementation than the client's; the other is OpenSSH's sshd, where it is installed.

    python -m tests.support.ssh_host FOLDER PORT      asyncssh's, with the keys in FOLDER
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from include.cutover.connections import ssh
from include.cutover.places import ROOT
from include.cutover.stack.postgres import free_port

PASSWORD = "pass word:of the host"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Host:
    """A running server.

    Attributes:
        folder: ``host`` and ``user`` are private keys, ``….pub`` the public ones, ``locked`` is ``user`` with a passphrase.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def host_key(self) -> str:
        """The host's public key without a comment."""
        return " ".join((self.folder / "host.pub").read_text().split()[:2])

    def fields(self, **extra: Any) -> dict[str, Any]:
        """The fields of an Airflow connection that logs in with the key and knows the host."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "extra": {"key_file": str(self.folder / "user"), "host_key": self.host_key, **extra},
        }

    @contextmanager
    def ssh(self, **extra: Any) -> Iterator[ssh.Ssh]:
        """A runner there."""
        runner = ssh.Ssh(ssh.login("ward_ops_host", **self.fields(**extra)))
        try:
            yield runner
        finally:
            runner.close()


def make_keys(folder: Path) -> None:
    """All keys of a host and its user."""
    pytest.importorskip("paramiko", reason="SSH WAS NOT TRIED: paramiko is not installed")
    asyncssh = pytest.importorskip("asyncssh", reason="SSH WAS NOT TRIED: asyncssh is not installed")

    for name in ("host", "user", "other"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))
        if name == "user":
            key.write_private_key(str(folder / "locked"), passphrase="of the key", rounds=50)
    for file in folder.iterdir():
        file.chmod(0o600)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Host]:
    """A host of that kind, ``asyncssh`` or ``sshd``."""
    make_keys(folder)
    port = free_port()
    command = [sys.executable, "-m", "tests.support.ssh_host", str(folder), str(port)]
    if kind == "sshd":
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )
        command = [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=ROOT
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as trial:
                trial.settimeout(5)
                if trial.recv(4) == b"SSH-":
                    break
            assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.05)
        yield Host(folder, port, process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _serve(folder: Path, port: int) -> None:
    import asyncssh

    class Server(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return password == PASSWORD

        def connection_requested(self, *_: Any) -> bool:
            return True

    threads = ThreadPoolExecutor(64)

    async def in_thread(call: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)

    async def give(child: subprocess.Popen[bytes], process: Any) -> None:
        assert child.stdin is not None
        with suppress(BrokenPipeError, ConnectionError), child.stdin as pipe:
            while data := await process.stdin.read(1 << 16):
                await in_thread(pipe.write, data)

    async def take(pipe: Any, writer: Any) -> None:
        while data := await in_thread(os.read, pipe.fileno(), 1 << 16):
            writer.write(data)
            await writer.drain()

    async def run(process: Any) -> None:
        child = subprocess.Popen(
            ["/bin/sh", "-c", process.command or "true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd="/", start_new_session=True, bufsize=0,
        )  # fmt: skip
        given = asyncio.create_task(give(child, process))
        taken = asyncio.gather(take(child.stdout, process.stdout), take(child.stderr, process.stderr))
        code = await in_thread(child.wait)
        with suppress(TimeoutError, ConnectionError):  # what the child leaves behind may hold its output open
            await asyncio.wait_for(taken, 2)
        given.cancel()
        if code < 0:
            process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
        else:
            process.exit(code)

    await asyncssh.listen(
        "127.0.0.1", port, server_host_keys=[str(folder / "host")], server_factory=Server, process_factory=run,
        authorized_client_keys=str(folder / "authorized_keys"), encoding=None,
        line_editor=False,
    )  # fmt: skip
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
