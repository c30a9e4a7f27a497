"""Checks the evidence of a run: the chain of its events, the files that it recorded, the backups that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from include.cutover import files
from include.cutover.aftercare.retention.record import removed
from include.cutover.checks import Check, Outcome
from include.cutover.errors import CutoverError
from include.cutover.evidence.record import EVENTS, Event, Evidence, torn_tail
from include.cutover.source import backup_archive

_DO = "Decide by hand, with a copy of the evidence or the backup's manifest."


def check(folder: Path) -> list[Check]:
    """Check the whole evidence of one run; changes nothing.

    A chain whose last events were cut off is still whole: compare ``head`` with the value noted earlier.

    Raises:
        CannotCheck: When the folder does not hold evidence.
    """
    evidence = Evidence(folder)
    try:
        events = evidence.events()
    except CutoverError as error:
        if not evidence.exists:
            raise
        return [_check("chain", "The chain of events is intact", "failed", "every event follows the one before", str(error))]
    torn = torn_tail(folder)
    checks = [
        _check(
            "chain",
            "The chain of events is intact",
            "passed",
            "every event follows the one before",
            f"{len(events)} events" + (f", the last at {events[-1]['time']}" if events else ""),
            str(folder / EVENTS),
        )
    ]
    if torn:
        found = f"{torn:,} bytes of an event that was never finished; the next event sets them aside"
        checks.append(_check("torn", "The last event is complete", "unknown", "a complete line", found))
    recorded = {event["name"]: event for event in events if event["event"] == "file"}
    for name, event in recorded.items():
        checks.append(_file(folder / name, event["sha256"], f"file_{name}", f"{name} is unchanged since it was recorded"))
    gone = removed(folder.parent.name, folder.name)
    return [*checks, *([_removed(gone)] if gone is not None else _backups(events))]


def head(folder: Path) -> str:
    """Return number and SHA-256 of the last event, to note them elsewhere."""
    lines = (folder / EVENTS).read_bytes().split(b"\n")[:-1]
    return f"{len(lines)} {hashlib.sha256(lines[-1]).hexdigest()}" if lines else "0"


def _backups(events: list[Event]) -> list[Check]:
    taken = [event for event in events if event["event"] == "backup"]
    checks = []
    for event in taken[-1:]:
        for key, title in (("file", "The backup"), ("second_file", "The second copy of the backup")):
            if event.get(key):
                path, archive = Path(event[key]), backup_archive.archive_of(Path(event[key]))
                archived = not path.exists() and archive.exists()
                checks.append(
                    _file(
                        archive,
                        event["sha256"],
                        key,
                        f"{title}, archived, is unchanged since it was taken",
                        backup_archive.digest,
                    )
                    if archived
                    else _file(path, event["sha256"], key, f"{title} is unchanged since it was taken")
                )
    return checks


def _removed(event: Event) -> Check:
    found = f"removed by retention at {event['time'][:16].replace('T', ' ')} UTC"
    return _check("backup", "The backup is where it should be", "passed", "kept as long as the plan says", found)


def _file(path: Path, sha256: str, name: str, title: str, digest: Callable[[Path], str] = files.digest) -> Check:
    expected = f"SHA-256 {sha256}"
    try:
        found = digest(path)
    except CutoverError as error:
        missing = not path.exists()
        return _check(
            name, title, "failed" if missing else "unknown", expected, "no such file" if missing else str(error), str(path)
        )
    return _check(name, title, "passed" if found == sha256 else "failed", expected, f"SHA-256 {found}", str(path))


def _check(name: str, title: str, outcome: Outcome, expected: str, found: str, where: str = "") -> Check:
    return Check(f"evidence_{name}", title, outcome, expected, found, "" if outcome == "passed" else _DO, where)
