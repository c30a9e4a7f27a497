"""The stand-in as a running application: its data, its ``.env``, and its three services under supervisord.

    python -m examples.ward_ops.supervised start --root DIR [--port N] [--supervisor-port N]
    python -m examples.ward_ops.supervised stop --root DIR
    python -m examples.ward_ops.supervised run --root DIR [--host ADDRESS] [--port N] [--supervisor-port N] [--pings N]

``run`` is for a container: it becomes supervisord, in the foreground. ``start`` and ``run`` take the password of
supervisord's interface from WARD_OPS_SUPERVISOR_PASSWORD, or make one, which is then in ``DIR/supervisord.conf``, readable
by its owner only.

A root holds::

    data/ward_ops.db      the SQLite database
    .env                  DATABASE_URL, ALLOW_SQLITE_FALLBACK and other settings; read by every service when it starts
    logs/                 api.log, worker.log, beat.log, supervisord.log
    supervisord.conf      with the password of the interface; mode 0600
    supervisord.pid
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import re
import secrets
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn, cast
from xmlrpc.client import Error as XmlRpcError
from xmlrpc.client import ServerProxy

import httpx

from examples.ward_ops.generate import PINGS, Generated, generate
from include.cutover.errors import CutoverError, Refused, StepFailed
from include.cutover.files import write_atomically
from include.cutover.places import ROOT
from include.cutover.stack.ports import require_free

HERE = Path(__file__).resolve().parent
USERNAME = "cutover"
SERVICES = ("api", "worker", "beat")
MODULES = tuple(f"examples.ward_ops.{name}".encode() for name in ("application", "worker", "beat"))
# DATABASE_URL must come from .env, or a switch there would change nothing. The services need no other secrets.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")

DOTENV = """\
# Settings of Ward OPS; every service reads them when it starts.
DATABASE_URL=sqlite:///{database}
ALLOW_SQLITE_FALLBACK=true

# Not about the database
MONITORING_MODE=standalone
PING_INTERVAL_SECONDS=30
"""


class WardOps:
    """One stand-in in a folder of its own."""

    def __init__(self, root: Path, *, port: int, supervisor_port: int, password: str, host: str = "127.0.0.1") -> None:
        """Write and start nothing yet.

        Args:
            root: The folder.
            port: Of the API.
            supervisor_port: Of supervisord's HTTP interface.
            password: Of that interface, whose user is ``cutover``; letters, digits, ``-`` and ``_``.
            host: The address that both listen on.

        Raises:
            Refused: When supervisord's configuration cannot hold the password or the folder.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{8,}", password):
            raise Refused(
                "the password of supervisord's interface is not usable", expected="at least 8 letters, digits, - or _"
            )
        if "%" in str(root):
            raise Refused("supervisord does not take a path with %", where=str(root))
        self.root = root.resolve()
        self.port = port
        self.supervisor_port = supervisor_port
        self._password = password
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "data" / "ward_ops.db"

    @property
    def dotenv(self) -> Path:
        """The settings that a cutover switches."""
        return self.root / ".env"

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.port}"

    def log(self, service: str) -> Path:
        """Return the log file of ``api``, ``worker``, ``beat`` or ``supervisord``."""
        return self.root / "logs" / f"{service}.log"

    def environment(self) -> dict[str, str]:
        """Return the variables that the plan ``ward_ops`` reads; they hold the password."""
        return {
            "WARD_OPS_ROOT": str(self.root),
            "WARD_OPS_URL": self.url,
            "WARD_OPS_SUPERVISOR_URL": f"http://127.0.0.1:{self.supervisor_port}/RPC2",
            "WARD_OPS_SUPERVISOR_PASSWORD": self._password,
        }

    def prepare(
        self, *, pings: int = PINGS, credentials: int = 1, orphans: int = 0, force: bool = False
    ) -> Generated | None:
        """Write the database and ``.env`` at the first start, or with ``force`` again. The services must be stopped.

        Beside an ``.env``, a missing database is not written: a rollback may be about to restore it.

        Args:
            pings: See ``generate``.
            credentials: See ``generate``.
            orphans: See ``generate``.
            force: Replace existing files.

        Returns:
            The generated database; None where it existed.
        """
        done = None
        if force or not (self.database.exists() or self.dotenv.exists()):
            done = generate(self.database, pings=pings, credentials=credentials, orphans=orphans, force=force)
        if force or not self.dotenv.exists():
            write_atomically(self.dotenv, DOTENV.format(database=self.database).encode(), 0o600)
        return done

    def supervisor(self) -> ServerProxy:
        """Return supervisord's interface; close it, or use it in ``with``."""
        return ServerProxy(f"http://{USERNAME}:{self._password}@127.0.0.1:{self.supervisor_port}/RPC2")

    @property
    def running(self) -> bool:
        """True when supervisord runs; its services may be stopped."""
        return _supervisord(self.root) is not None

    def pids(self) -> dict[str, int]:
        """Return the process id of each running service; it changes with a restart."""
        return {program["name"]: program["pid"] for program in self._programs() if program["statename"] == "RUNNING"}

    def start(self, seconds: float = 60, *, must_be_healthy: Callable[[], bool] = lambda: True) -> None:
        """Write supervisord's configuration, start it and wait until its services run and the API is healthy.

        Safe to call twice: the second call starts the services that do not run, and waits. Services that a killed
        supervisord left running are ended first.

        Args:
            seconds: How long it may take.
            must_be_healthy: Asked again and again: false while a run may keep the services stopped. Then supervisord is
                started, which starts them as after a restart of the host, and none is started under a running supervisord.

        Raises:
            Refused: When a port is taken.
            StepFailed: When it is not healthy in time, or cannot become so. A supervisord that this call started is stopped
                again. The message has the last log lines.
        """
        ran = self.running
        if not ran:
            stop(self.root)
            for port in (self.supervisor_port, self.port):
                require_free(port, "End that process; then start again. The port is in the plan and cannot change.")
            self._start_supervisord()
        elif must_be_healthy():
            self._start_services()
        deadline = time.monotonic() + seconds
        while not self._healthy():
            late, needed = time.monotonic() > deadline, must_be_healthy()
            problem = self._problem(services=needed)
            if not problem and not needed and (self._settled() or (late and self._programs())):
                return
            if not problem and late:
                problem = f"the stand-in was not healthy within {seconds:g} s"
            if problem:
                found = self._last_words()
                if not ran:
                    self.stop()
                raise StepFailed(problem, where=str(self.root), found=found)
            time.sleep(0.1)

    def _start_services(self) -> None:
        """Order supervisord to start the services that do not run."""
        for program in self._programs():
            if program["statename"] in ("STOPPED", "EXITED", "FATAL"):
                with contextlib.suppress(OSError, XmlRpcError, HTTPException), self.supervisor() as supervisor:
                    supervisor.supervisor.startProcess(program["name"], False)

    def _settled(self) -> bool:
        """Return True when supervisord answers and no service is about to start."""
        programs = self._programs()
        return bool(programs) and not {"STARTING", "BACKOFF"} & {program["statename"] for program in programs}

    def health(self) -> str:
        """Return how the API answers now, in words."""
        try:
            answer = httpx.get(f"{self.url}/api/v1/health", timeout=5, trust_env=False)
            found = answer.json()
        except (httpx.HTTPError, ValueError):
            return "does not answer"
        state = "healthy" if answer.status_code == 200 else f"not healthy (HTTP {answer.status_code})"
        name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(found.get("database"), "an unknown database")
        return f"{state}, configured for {name}"

    def stop(self) -> None:
        """Stop services and supervisord, where they run. See the function ``stop``."""
        if self._process is not None:
            self._process.terminate()  # it may not have written its pid file yet
        stop(self.root)
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            stop(self.root)

    def _supervisord(self) -> tuple[list[str], dict[str, str]]:
        """Write its configuration; return its command and its environment."""
        self.log("").parent.mkdir(parents=True, exist_ok=True)
        template = string.Template((HERE / "supervisord.conf").read_text(encoding="utf-8"))
        text = template.substitute(
            user=pwd.getpwuid(os.geteuid()).pw_name,
            host=self._host,
            supervisor_port=self.supervisor_port,
            password=self._password,
        )
        write_atomically(_configuration(self.root), text.encode(), 0o600)
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "WARD_OPS_PYTHON": sys.executable,
            "WARD_OPS_ROOT": str(self.root),
            "WARD_OPS_HOST": self._host,
            "WARD_OPS_PORT": str(self.port),
        }
        return [sys.executable, "-m", "supervisor.supervisord", "-c", str(_configuration(self.root))], environment

    def become_supervisord(self) -> NoReturn:
        """Replace this process with supervisord, for a container that lives as long as it."""
        command, environment = self._supervisord()
        os.chdir(self.root)
        os.execve(command[0], command, environment)

    def _start_supervisord(self) -> None:
        command, environment = self._supervisord()
        with self.log("supervisord").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                cwd=self.root, env=environment,
            )  # fmt: skip

    def _programs(self) -> list[dict[str, Any]]:
        """Return supervisord's information about its programs; empty while it does not answer."""
        try:
            with self.supervisor() as supervisor:
                return cast("list[dict[str, Any]]", supervisor.supervisor.getAllProcessInfo())
        except (OSError, XmlRpcError, HTTPException):
            return []

    def _healthy(self) -> bool:
        if {program["name"] for program in self._programs() if program["statename"] == "RUNNING"} != set(SERVICES):
            return False
        try:
            return httpx.get(f"{self.url}/api/v1/health", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def _problem(self, *, services: bool) -> str:
        """Return why waiting is of no use; empty while it may help. ``services``: those that do not start count too."""
        if self._process is not None and self._process.poll() is not None:
            return "supervisord ended"
        for program in self._programs() if services else ():
            state, status = program["statename"], program["exitstatus"]
            if state == "FATAL" or (state == "EXITED" and status == os.EX_CONFIG):
                return f"the service {program['name']} does not start"
        return ""

    def _last_words(self) -> str:
        words = []
        for name in ("supervisord", *SERVICES):
            file = self.log(name)
            lines = file.read_text(errors="replace").splitlines() if file.exists() else []
            words.append(f"{file.name}: {' | '.join(lines[-3:])}")
        return "; ".join(words)


def stop(root: Path, seconds: float = 20) -> None:
    """Stop the stand-in of that root, also another process's: supervisord stops its services, the rest is killed.

    Safe to call twice, and after supervisord was killed: its services are found by their command line and their
    WARD_OPS_ROOT.

    Args:
        root: The folder.
        seconds: How long supervisord may take before it is killed.
    """
    root = root.resolve()
    supervisord = _supervisord(root)
    if supervisord is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisord, signal.SIGTERM)
        if not _gone(lambda: [pid] if (pid := _supervisord(root)) == supervisord else [], seconds):
            _kill(supervisord)
    for pid in service_processes(root):
        _kill(pid)
    if not _gone(lambda: service_processes(root), 10):
        raise StepFailed(
            "services of the stand-in cannot be ended", where=str(root), found=f"pids {service_processes(root)}"
        )


def service_processes(root: Path) -> list[int]:
    """Return the process ids of the services with this root. Zombies do not count."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if not any(part in MODULES for part in (folder / "cmdline").read_bytes().split(b"\0")):
                continue
            if b"WARD_OPS_ROOT=" + os.fsencode(root) in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile, or belongs to another user
            continue
    return found


def _gone(pids: Callable[[], list[int]], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while pids():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _kill(pid: int) -> None:
    """Kill a process and its group: supervisord makes every service the leader of a group of its own."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def _configuration(root: Path) -> Path:
    return root / "supervisord.conf"


def _supervisord(root: Path) -> int | None:
    """Return the process id in the pid file, if that is a supervisord with this root's configuration and not a zombie."""
    try:
        pid = int((root / "supervisord.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(_configuration(root)) in command.split(b"\0") else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.ward_ops.supervised", description="Run the stand-in.")
    parser.add_argument("action", choices=("start", "run", "stop"))
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the stand-in")
    parser.add_argument("--port", type=int, default=5001, metavar="N", help="port of the API (5001)")
    parser.add_argument("--supervisor-port", type=int, default=9001, metavar="N", help="port of supervisord (9001)")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address that both listen on (127.0.0.1)")
    parser.add_argument("--pings", type=int, default=PINGS, metavar="N", help=f"rows of ping_results ({PINGS})")
    given = parser.parse_args(arguments)
    try:
        if given.action == "stop":
            stop(given.root)
            return 0
        ward_ops = WardOps(
            given.root,
            port=given.port,
            supervisor_port=given.supervisor_port,
            password=os.environ.get("WARD_OPS_SUPERVISOR_PASSWORD") or secrets.token_urlsafe(24),
            host=given.host,
        )
        ward_ops.prepare(pings=given.pings)
        if given.action == "run":
            ward_ops.become_supervisord()
        ward_ops.start()
    except CutoverError as error:
        print(f"supervised: {error}", file=sys.stderr)
        return 1
    print(f"{ward_ops.url}/monitor is up; its services log to {ward_ops.root}/logs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
