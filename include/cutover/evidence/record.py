"""The evidence of a run: one append-only folder on disk, the record that branches, reports and rollback read.

``events.jsonl`` holds one event per line. Each carries the SHA-256 of the line before it, so a line that is changed or
removed later is detected. An append is one write under a file lock, followed by fsync. A line that could not be written
whole, on a full disk for example, is removed; a line torn by a crash is recognised and set aside by the next append.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.cutover.errors import CannotCheck, Refused
from include.cutover.evidence import second_place
from include.cutover.files import disk_errors, now, slug, sync_folder, write_atomically
from include.cutover.locks import locked
from include.cutover.places import ROOT

EVENTS = "events.jsonl"
REHEARSALS = "rehearsals"
"""Folder of the evidence root with each plan's rehearsals, apart from its cutovers."""

GENESIS = "0" * 64

log = logging.getLogger(__name__)

Event = dict[str, Any]


def evidence_root() -> Path:
    """Return the folder of all evidence as it is now: ``first_root``, or its second place."""
    return second_place.in_force(first_root())


def first_root() -> Path:
    """Return the folder of all evidence; ``CUTOVER_EVIDENCE`` overrides it."""
    return Path(os.environ.get("CUTOVER_EVIDENCE") or ROOT / "var" / "evidence")


def secure(plan: str, run_id: str) -> str:
    """Move the evidence to its second place where it cannot be written, and record that for a run; see ``second_place``.

    Returns:
        Why, in words; empty where nothing was moved.

    Raises:
        StepFailed: When the second place cannot be written either.
    """
    reason = second_place.move(first_root(), first_root() / plan / slug(run_id))
    evidence = Evidence.of(plan, run_id)
    if reason and evidence.exists:
        evidence.append("evidence.moved", place=str(evidence.folder), reason=reason)
    return reason


def bring_back() -> str:
    """Bring the evidence back from its second place, where it can be written again and no run is open.

    Returns:
        The second place; empty where nothing was brought back.
    """
    root = evidence_root()
    if root == first_root():
        return ""
    folders = [*root.iterdir(), *((root / REHEARSALS).iterdir() if (root / REHEARSALS).is_dir() else ())]
    if any(run.sealed is None for folder in folders for run in runs_below(folder) if run.last("run.opened")):
        return ""
    return second_place.bring_back(first_root())


@dataclass(frozen=True)
class Evidence:
    """The evidence of one run.

    Attributes:
        folder: ``<evidence root>/<plan>/<run id as a folder name>``.
    """

    folder: Path

    @classmethod
    def of(cls, plan: str, run_id: str) -> Evidence:
        """Return the evidence of a run; it need not exist."""
        return cls(evidence_root() / plan / slug(run_id))

    @property
    def exists(self) -> bool:
        """True once an event was recorded.

        Raises:
            CannotCheck: When the folder cannot be read.
        """
        with _reading(self.folder):
            return (self.folder / EVENTS).is_file()

    def append(self, event: str, **fields: Any) -> Event:
        """Record an event and make it durable before returning it. An event is recorded whole or not at all.

        Args:
            event: The kind, e.g. ``step.begin``.
            fields: JSON values; never a secret.

        Raises:
            StepFailed: When the disk is full or refuses; nothing was recorded.
        """
        path = self.folder / EVENTS
        first = not path.exists()
        with disk_errors(path), locked(path, brief=True) as descriptor:
            content = _read_all(descriptor)
            lines, torn = _split(content)
            whole = len(content) - len(torn)
            if torn:
                write_atomically(self.folder / f"torn-{len(lines)}-{secrets.token_hex(2)}.bin", torn)
                os.ftruncate(descriptor, whole)
                os.fsync(descriptor)
            previous = hashlib.sha256(lines[-1]).hexdigest() if lines else GENESIS
            record = {"seq": len(lines), "time": now(), "event": event, "previous": previous, **fields}
            line = json.dumps(record, ensure_ascii=False, default=str, separators=(",", ":")).encode() + b"\n"
            os.lseek(descriptor, 0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += os.write(descriptor, line[written:])
                os.fsync(descriptor)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, whole)
                raise
            if first:
                sync_folder(self.folder)
                sync_folder(self.folder.parent)
        return record

    def events(self) -> list[Event]:
        """Return all events in order; a torn last line is left out.

        Raises:
            CannotCheck: When there is no evidence, it cannot be read, or the chain is broken.
        """
        path = self.folder / EVENTS
        try:
            with _reading(path):
                lines, _ = _split(path.read_bytes())
        except FileNotFoundError:
            raise CannotCheck(
                "there is no evidence of this run",
                where=str(self.folder),
                expected=f"the file {EVENTS}",
                do="Check the plan's name and the run id.",
            ) from None
        previous, events = GENESIS, []
        for number, line in enumerate(lines):
            try:
                event = json.loads(line)
            except ValueError:
                event = {}
            if event.get("previous") != previous or event.get("seq") != number:
                raise CannotCheck(
                    "the chain of events is broken",
                    where=f"{path} line {number + 1}",
                    expected=f"seq {number} and previous {previous[:12]}…",
                    found=f"seq {event.get('seq')} and previous {str(event.get('previous'))[:12]}…",
                    do="The file was changed from outside; decide by hand, with the backup's manifest.",
                )
            events.append(event)
            previous = hashlib.sha256(line).hexdigest()
        return events

    def last(self, event: str, **match: Any) -> Event | None:
        """Return the newest event of that kind whose fields equal ``match``."""
        for item in reversed(self.events()):
            if item["event"] == event and all(item.get(key) == value for key, value in match.items()):
                return item
        return None

    def step(self, name: str) -> Event | None:
        """Return the newest ``step.end`` of a step, None if there is none."""
        return self.last("step.end", step=name)

    def save(self, name: str, content: str | bytes, mode: int = 0o644) -> Path:
        """Write a file of the evidence atomically and record its hash.

        Args:
            name: Relative path inside the folder.
            content: Text is written as UTF-8.
            mode: Permissions of the file.

        Returns:
            Its path.

        Raises:
            Refused: When the path leads out of the folder.
            StepFailed: When the disk is full or refuses.
        """
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise Refused("a file of the evidence must lie inside its folder", where=str(self.folder), found=name)
        data = content.encode() if isinstance(content, str) else content
        with disk_errors(path):
            write_atomically(path, data, mode)
        self.append("file", name=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        return path

    @property
    def sealed(self) -> Event | None:
        """The event that closed the run, or None while it is open; see ``sealing``."""
        return sealing(self.events()) if self.exists else None


def sealing(events: Sequence[Event]) -> Event | None:
    """Return the event that closed a run, or None while it is open.

    A rollback of a live run reopens it, and so does an incomplete way back that is continued.
    """
    closing = [item for item in events if item["event"] in ("sealed", "reopened", "continued")]
    return closing[-1] if closing and closing[-1]["event"] == "sealed" else None


def runs(plan: str) -> list[Evidence]:
    """List all runs of a plan that left evidence, oldest first by their first event."""
    return runs_below(evidence_root() / plan)


def runs_below(folder: Path) -> list[Evidence]:
    """List the evidence in a folder, oldest first by its first event."""
    with _reading(folder):
        found = [Evidence(item) for item in folder.iterdir() if (item / EVENTS).is_file()] if folder.is_dir() else []
    return sorted(found, key=lambda item: item.events()[0]["time"] if item.events() else "")


def rehearsals(plan: str) -> list[Evidence]:
    """List all rehearsals of a plan, oldest first by their first event.

    Damaged evidence is left out: it must not stop a cutover.
    """
    folder = evidence_root() / REHEARSALS / plan
    found: list[tuple[str, Evidence]] = []
    for item in folder.iterdir() if folder.is_dir() else ():
        if not (item / EVENTS).is_file():
            continue
        try:
            events = Evidence(item).events()
        except CannotCheck as error:
            log.warning("a rehearsal is ignored: %s", error)
            continue
        if events:
            found.append((events[0]["time"], Evidence(item)))
    return [evidence for _, evidence in sorted(found, key=lambda pair: pair[0])]


def torn_tail(folder: Path) -> int:
    """Return the bytes of an unfinished event at the end; 0 where there is none."""
    return len(_split((folder / EVENTS).read_bytes())[1])


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Turn errors of reading into one that names the place; a missing file stays ``FileNotFoundError``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise CannotCheck(
            "the evidence cannot be read",
            where=str(place),
            found=error.strerror or type(error).__name__,
            do="Run this as the evidence's owner, or as root." if denied else "Check the disk, then try again.",
        ) from None


def _read_all(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _split(content: bytes) -> tuple[list[bytes], bytes]:
    """Split into whole lines (without their newline) and the torn rest."""
    *lines, torn = content.split(b"\n")
    return lines, torn
