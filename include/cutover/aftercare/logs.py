"""The services' logs since go-live: SQL errors and connection problems.

The end of each log at go-live is recorded, and each round continues at the end of the one before, complete lines only. A
line is masked and cut before values when it is shown: an SQL error may quote its row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from include.cutover.checks import Check
from include.cutover.connections.commands import Local, Remote, Runner, no_remote
from include.cutover.errors import CannotCheck, CutoverError
from include.cutover.masking import mask
from include.cutover.plan.afterwards import Aftercare
from include.cutover.plan.application import Service

_MOST_BYTES = 8 << 20
_PART = 512 << 10  # what one command may print
_SECONDS = 20.0
_SHOWN = 3
_LENGTH = 200
_VALUES = re.compile(r"(?i)\[(?:parameters|SQL):.*|\bDETAIL:.*|\bKey \(.*|\bVALUES\s*\(.*|\bparameters?\s*[:=].*")


@dataclass(frozen=True)
class LogEnd:
    """The end of a log.

    Attributes:
        file: Identifies the file, so that a new one in its place is noticed.
        offset: Bytes before its end.
    """

    file: str
    offset: int

    def as_dict(self) -> dict[str, Any]:
        """Return it for the evidence."""
        return asdict(self)


def ends(services: Sequence[Service], remote: Remote = no_remote) -> dict[str, dict[str, Any]]:
    """Return where the log of each service ends now, for the evidence; of one that cannot be read, why."""
    found: dict[str, dict[str, Any]] = {}
    for service in services:
        if service.log is None:
            continue
        try:
            found[service.name] = _place(service.log, _runner(service, remote)).as_dict()
        except (CutoverError, OSError) as error:
            found[service.name] = {"unknown": mask(str(error))}
    return found


def check(
    services: Sequence[Service],
    limits: Aftercare,
    places: Mapping[str, Mapping[str, Any]],
    secrets: Collection[str] = (),
    remote: Remote = no_remote,
) -> tuple[list[Check], dict[str, dict[str, Any]]]:
    """Check the lines that were written into each log since ``places``. Never raises: a log that cannot be read is unknown.

    Args:
        services: Whose logs.
        limits: The plan's patterns, and how many lines may match.
        places: As ``ends``, or an earlier call, returned them.
        secrets: Known ones, replaced everywhere.
        remote: The host of an SSH connection, for logs that are not on this one.

    Returns:
        A check for each service, and the new places.
    """
    checks: list[Check] = []
    new: dict[str, dict[str, Any]] = {}
    for service in services:
        made, place = _check_one(service, limits, places.get(service.name), secrets, remote)
        checks.append(made)
        new |= place
    return checks, new


def _check_one(
    service: Service, limits: Aftercare, before: Mapping[str, Any] | None, secrets: Collection[str], remote: Remote
) -> tuple[Check, dict[str, dict[str, Any]]]:
    """Check one service's log; the new place is empty for a service without a log."""
    name, title = f"aftercare_log_{service.name}", f"The log of {service.name} shows no database errors"
    if service.log is None:
        return Check(name, title, "unknown", found="the plan names no log", do="Name services.…log in the plan."), {}
    try:
        if before is None or "offset" not in before:
            raise CannotCheck("the end of the log at go-live is unknown", where=str(service.log))
        lines, place, note = _read_on(service.log, LogEnd(before["file"], before["offset"]), _runner(service, remote))
    except (CutoverError, OSError) as error:
        found = mask(error.message if isinstance(error, CutoverError) else error.strerror or type(error).__name__)
        unread = Check(name, title, "unknown", found=found, do="Read the log by hand.", where=str(service.log))
        if before is not None and "offset" in before:
            return unread, {service.name: dict(before)}
        return unread, ends([service], remote)  # from now on at least
    bad = _matching(lines, limits)
    shown = " | ".join(_harmless(line, secrets) for line in bad[-_SHOWN:])
    passed = len(bad) <= limits.log_errors
    made = Check(
        name,
        title,
        "passed" if passed else "failed",
        f"at most {limits.log_errors} lines with SQL errors or connection problems",
        f"{len(bad)} of {len(lines):,} new lines" + (f"; {note}" if note else "") + (f": {shown}" if shown else ""),
        "" if passed else "Read the log around these lines.",
        str(service.log),
    )
    return made, {service.name: place.as_dict()}


def _matching(lines: Sequence[str], limits: Aftercare) -> list[str]:
    """Return the lines that one of the plan's patterns finds, without those to ignore."""
    patterns = [re.compile(text) for text in limits.log_patterns]
    ignored = [re.compile(text) for text in limits.ignored_log_patterns]
    bad = [line for line in lines if any(item.search(line) for item in patterns)]
    return [line for line in bad if not any(item.search(line) for item in ignored)]


def _harmless(line: str, secrets: Collection[str]) -> str:
    """Return a line for people, without text that looks like a secret or a value."""
    text = mask(_VALUES.sub("…", line))
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"


def _runner(service: Service, remote: Remote) -> Runner:
    return Local() if service.control.ssh is None else remote(service.control.ssh)


def _place(log: Path, runner: Runner) -> LogEnd:
    if isinstance(runner, Local):
        try:
            found = log.stat()
        except FileNotFoundError:
            return LogEnd("", 0)  # it will be made
        return LogEnd(f"{found.st_dev}:{found.st_ino}", found.st_size)
    ran = runner.run(["stat", "-L", "-c", "%d:%i %s", "--", str(log)], _SECONDS)
    name, _, size = ran.output.strip().partition(" ")
    if ran.code != 0 or not size.isdigit():
        raise CannotCheck("the log cannot be read", where=str(log), found=ran.excerpt(output=False))
    return LogEnd(name, int(size))


def _read_on(log: Path, before: LogEnd, runner: Runner) -> tuple[list[str], LogEnd, str]:
    """Return the new complete lines, the place behind them, and a note about the part that was not read."""
    now, note = _place(log, runner), ""
    start = before.offset
    if before.file and now.file != before.file:
        start, note = 0, "the log was replaced by a new one; the end of the old one was not read"
    elif now.offset < start:
        start, note = 0, "the log was truncated"
    if not now.file:
        raise CannotCheck("there is no such log", where=str(log))
    if now.offset - start > _MOST_BYTES:
        note = f"{now.offset - start - _MOST_BYTES:,} bytes were not read"
        start = now.offset - _MOST_BYTES
    text = _text(log, start, now.offset, runner)
    whole, end, torn = text.rpartition("\n")
    return whole.splitlines() if end else [], LogEnd(now.file, now.offset - len(torn.encode())), note


def _text(log: Path, start: int, end: int, runner: Runner) -> str:
    if isinstance(runner, Local):
        with log.open("rb") as file:
            file.seek(start, os.SEEK_SET)
            return file.read(end - start).decode("utf-8", errors="replace")
    parts = []
    for at in range(start, end, _PART):
        bounds = [f"skip={at}", f"count={min(end - at, _PART)}"]
        ran = runner.run(["dd", f"if={log}", "iflag=skip_bytes,count_bytes", *bounds, "status=none"], _SECONDS)
        if ran.code != 0:
            raise CannotCheck("the log cannot be read", where=str(log), found=ran.excerpt(output=False))
        parts.append(ran.output)
    return "".join(parts)
