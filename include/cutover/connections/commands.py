"""Commands of the plan: argument lists that run with a time limit, here or on another host, never through a local shell.

The output of a command may hold secrets: it goes into messages only through ``excerpt``, which masks it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, cast

from include.cutover import rights
from include.cutover.errors import CannotCheck
from include.cutover.masking import mask

OUTPUT_BYTES = 1 << 20
"""Of a longer output, only the end is kept."""

LINE_LENGTH = 300
_FLOOD_BYTES = 64 << 20
_PAUSE = 0.02
_CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


@dataclass(frozen=True)
class Ran:
    """The result of a command.

    Attributes:
        code: Exit status; negative for a signal that ended it, None when it was killed because it took too long or printed
            far too much.
        output: The end of what it wrote to standard output.
        errors: The same of standard error.
    """

    code: int | None
    output: str = field(default="", repr=False)
    errors: str = field(default="", repr=False)

    @property
    def ended(self) -> str:
        """The end of the command in words."""
        if self.code is None:
            return "no end in time"
        return f"signal {-self.code}" if self.code < 0 else f"exit status {self.code}"

    def excerpt(self, *, output: bool = True) -> str:
        """Return the last three lines, masked; without ``output`` only those of standard error."""
        found = lines(f"{self.output}\n{self.errors}" if output else self.errors)
        return " | ".join(found[-3:])[:LINE_LENGTH] or "no output"


class Runner(Protocol):
    """A host that runs commands."""

    @property
    def where(self) -> str:
        """The host in words: empty for this host, else ``on HOST``."""
        ...

    def run(
        self, command: Sequence[str], seconds: float, *, stdin: str = "", directory: str | None = None, secret: bool = False
    ) -> Ran:
        """Run a command and wait for its end.

        Args:
            command: Program and arguments.
            seconds: Time limit; then it is killed with its whole process group.
            stdin: Its standard input; empty when left out.
            directory: Its working directory.
            secret: Keep its output in memory only. Not for a command that leaves a process behind: that would go on writing
                there.

        Raises:
            CannotCheck: When it cannot be run, e.g. when there is no such program; names it.
            Unreachable: When the host does not answer.
        """
        ...

    def tunnel(self, host: str, port: int, seconds: float) -> Any:
        """Connect from that host to a port; use the result like a socket whose waits take no longer than ``seconds``.

        Raises:
            OSError, Unreachable: When nothing answers.
        """
        ...


Remote = Callable[[str], Runner]
"""The host of an SSH connection, by the connection's id."""


def no_remote(connection: str) -> Runner:
    """Refuse every connection: a ``Remote`` for callers that reach no other host.

    Raises:
        CannotCheck: Always.
    """
    raise CannotCheck("no other host can be reached from here", where=f"connection {connection}")


class Local:
    """This host."""

    where = ""

    def run(
        self, command: Sequence[str], seconds: float, *, stdin: str = "", directory: str | None = None, secret: bool = False
    ) -> Ran:
        """Run a command here; see ``Runner``. A process that it leaves behind writes into a file without a name."""
        # Files, not pipes: a process that the command leaves behind would keep a pipe open, and this call waiting.
        with _memory("stdin") as given, _output(secret) as output, _output(secret) as errors:
            given.write(stdin.encode())
            given.seek(0)
            try:
                process = subprocess.Popen(
                    list(command), stdin=given, stdout=output, stderr=errors, cwd=directory,
                    start_new_session=True, env=_environment(),
                )  # fmt: skip
            except OSError as error:
                missing_folder = directory is not None and error.filename == directory
                raise CannotCheck(
                    "a command of the plan cannot be run",
                    where=str(directory) if missing_folder else str(command[0]),
                    found=rights.reason(error),
                    do="Name programs and folders that the user of the tasks may use.",
                ) from None
            code = _end_of(process, time.monotonic() + seconds, (output, errors))
            return Ran(code, _tail(output), _tail(errors))

    def tunnel(self, host: str, port: int, seconds: float) -> socket.socket:
        """Connect to a port; see ``Runner``."""
        return socket.create_connection((host, port), seconds)


def lines(text: str) -> list[str]:
    """Return the lines that are not blank, masked, then shortened, and without control characters: terminals show them."""
    plain = mask(_CONTROL_SEQUENCE.sub("", text))
    found = (
        "".join(character if character.isprintable() else " " for character in line).rstrip() for line in plain.splitlines()
    )
    return [line[:LINE_LENGTH] for line in found if line.strip()]


def _memory(name: str) -> BinaryIO:
    """Open a file in memory: the input of a command never touches a disk or a command line."""
    return cast("BinaryIO", os.fdopen(os.memfd_create(name), "w+b"))


def _output(secret: bool) -> BinaryIO:
    return _memory("output") if secret else cast("BinaryIO", tempfile.TemporaryFile())


def _end_of(process: subprocess.Popen[bytes], deadline: float, outputs: Sequence[BinaryIO]) -> int | None:
    """Return the exit status, None after too much time or output: its process group is killed, as at an interruption."""
    try:
        while (code := process.poll()) is None:
            if time.monotonic() >= deadline or any(os.fstat(file.fileno()).st_size > _FLOOD_BYTES for file in outputs):
                _kill(process)
                return None
            time.sleep(_PAUSE)
    except BaseException:
        _kill(process)
        raise
    return code


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not waited for: the group's number is still taken, so no other group is killed
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(file: BinaryIO) -> str:
    # The command's descriptor is this one: positions are shared, so that what a process left behind writes may move it.
    size = os.fstat(file.fileno()).st_size
    content = os.pread(file.fileno(), OUTPUT_BYTES, max(0, size - OUTPUT_BYTES))
    return content.decode("utf-8", errors="replace")


def _environment() -> dict[str, str]:
    """Return our environment without Airflow's settings and connections: no started service may inherit those secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW"))}
