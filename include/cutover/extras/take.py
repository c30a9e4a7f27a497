"""Takes the plan's ``extras``: a snapshot of Redis, and archives of configuration, kept beside the backup.

They lie in a folder of the run in each place of the backup, open to their owner only, with a manifest that is written last.
No step restores them: they are for people. A missing one is reported and, unless the plan requires it, does not stop the
run.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.errors import CutoverError, Unreachable
from include.cutover.evidence.record import evidence_root
from include.cutover.extras import archives, redis_snapshot
from include.cutover.files import now, slug, sync_folder, write_atomically
from include.cutover.plan.backups import Archive, RedisSnapshot
from include.cutover.plan.model import Plan

log = logging.getLogger(__name__)

EXTRAS_MANIFEST = "manifest.json"
REDIS = "redis"
_VERSION = 1
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class KeptExtra:
    """An extra that was kept, or could not be.

    Attributes:
        name: ``redis``, or the archive's.
        required: The plan requires it.
        file: In the first place of the backup; None where it is missing.
        second_file: Its copy in the second place; None where the plan names none.
        bytes: Its size.
        sha256: Of the file.
        details: Facts about its content.
        problems: Why it, or a part of it, is missing.
    """

    name: str
    required: bool
    file: Path | None = None
    second_file: Path | None = None
    bytes: int = 0
    sha256: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """True when it is there and complete."""
        return self.file is not None and not self.problems

    @property
    def title(self) -> str:
        """Its name, in words."""
        return "the snapshot of Redis" if self.name == REDIS else f"the archive {self.name}"

    @property
    def check(self) -> Check:
        """The check that it is there and whole."""
        return Check(
            f"extras_{self.name}",
            f"{self.title[0].upper()}{self.title[1:]} is kept",
            "passed" if self.whole else "failed",
            "a complete and verified file",
            self.warning or f"{self.bytes:,} bytes, SHA-256 {self.sha256[:12]}…",
            "" if self.whole else "Correct this, or set required: false in the plan's extras.",
            str(self.file or ""),
        )

    @property
    def preview(self) -> Check:
        """The check that it can be kept; of those that ``preview_extras`` returns."""
        return Check(
            f"extras_{self.name}",
            f"{self.title[0].upper()}{self.title[1:]} can be kept",
            "failed" if self.problems else "passed",
            "readable content",
            "; ".join(self.problems) or "readable",
            "Correct this, or set required: false in the plan's extras." if self.problems else "",
        )

    @property
    def warning(self) -> str:
        """One sentence on what is missing; empty where it is whole."""
        if self.whole:
            return ""
        state = "was not kept" if self.file is None else "is not complete"
        return f"{self.title} {state}: {'; '.join(self.problems)}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for the manifest and the evidence."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def extras_folders(plan: Plan, run_id: str) -> list[Path]:
    """Return the folders of a run's extras: in the first place of the backup, and in the second where there is one."""
    places = [plan.backup.directory, plan.backup.second_copy]
    return [place / f"extras-{slug(run_id)}" for place in places if place is not None]


def preview_extras(plan: Plan) -> list[KeptExtra]:
    """Check that the plan's extras can be kept, as far as that is possible before anything is stopped.

    Returns:
        One for each extra, with its problems; no file is made.
    """
    found = []
    if plan.extras.redis is not None:
        problems: tuple[str, ...] = ()
        try:
            redis_snapshot.probe(plan.extras.redis)
        except CutoverError as error:
            problems = (str(error),)
        found.append(KeptExtra(REDIS, plan.extras.redis.required, problems=problems))
    for archive in plan.extras.archives:
        absent = tuple(f"{path} cannot be read" for path in archive.paths if not os.access(path, os.R_OK))
        found.append(KeptExtra(archive.name, archive.required, problems=absent))
    return found


def take_extras(plan: Plan, run_id: str, source: Path) -> list[KeptExtra]:
    """Take and verify every extra that the plan names. Safe to run again: whole ones are kept as they are.

    Args:
        plan: The plan.
        run_id: The run that keeps them.
        source: The application's database; it is in the backup, so it is left out of archives.

    Returns:
        Every extra; one that could not be kept says why.

    Raises:
        StepFailed: When the manifest cannot be written.
    """
    places = extras_folders(plan, run_id)
    for place in places:
        for left in place.glob(".*"):  # by a killed attempt; the step is claimed, so that attempt has ended
            left.unlink(missing_ok=True)
    before = _known(places[0] / EXTRAS_MANIFEST)
    found = []
    for name, required, file, make in _wanted(plan, source):
        known = before.get(name)
        if known is not None and known.whole and _is_there(known):
            found.append(known)
            continue
        found.append(_keep(name, required, [place / file for place in places], make))
        if not found[-1].whole:
            log.warning("%s", found[-1].warning)
    content = {"version": _VERSION, "plan": plan.name, "run_id": run_id, "time": now()}
    text = json.dumps({**content, "extras": [item.as_dict() for item in found]}, indent=2, ensure_ascii=False) + "\n"
    for place in reversed(places):
        with files.disk_errors(place):
            files.make_private(place)
            write_atomically(place / EXTRAS_MANIFEST, text.encode(), 0o600)
    return found


@dataclass(frozen=True)
class _Made:
    """A file that was made: facts about it, and what is missing in it."""

    details: Mapping[str, Any]
    problems: tuple[str, ...] = ()


_Make = Callable[[Path], _Made]


def _wanted(plan: Plan, source: Path) -> list[tuple[str, bool, str, _Make]]:
    """Return, for each extra, its name, whether it is required, its file name, and the function that makes it."""
    wanted: list[tuple[str, bool, str, _Make]] = []
    if plan.extras.redis is not None:
        redis = plan.extras.redis
        wanted.append((REDIS, redis.required, "redis.rdb", lambda to: _redis(redis, to)))
    live = files.real(source)
    out = [live, *files.side_files(live), evidence_root(), plan.backup.directory]
    out += [] if plan.backup.second_copy is None else [plan.backup.second_copy]
    for archive in plan.extras.archives:
        wanted.append((archive.name, archive.required, f"{archive.name}.tar.gz", _archive(archive, out)))
    return wanted


def _redis(settings: RedisSnapshot, to: Path) -> _Made:
    found = redis_snapshot.take(settings, to)
    unproven = () if found.dump.checksum else ("the server writes no checksum, so it is only known to be complete",)
    return _Made({"keys": found.keys, "format": found.dump.format, "server": found.dump.server}, unproven)


def _archive(archive: Archive, out: list[Path]) -> _Make:
    def make(to: Path) -> _Made:
        found = archives.write(archive.paths, to, but=out)
        return _Made({"entries": found.entries, "paths": [str(path) for path in archive.paths]}, found.problems)

    return make


def _keep(name: str, required: bool, paths: list[Path], make: _Make) -> KeptExtra:
    """Write the first file, under its name only when it is whole on disk, and copy it to the second place.

    Args:
        name: Of the extra.
        required: The plan requires it.
        paths: Its file in each place.
        make: Makes it.
    """
    partials = [path.with_name(f".{path.name}.partial") for path in paths]
    try:
        for path in paths:
            files.make_private(path.parent)
        try:
            made = make(partials[0])
        except Unreachable as error:
            log.warning("retrying: %s", error)
            time.sleep(PAUSE_SECONDS)
            made = make(partials[0])
        digest = files.digest(partials[0])
        if len(paths) > 1:
            files.copy_verified(partials[0], partials[1])
        for path, partial in reversed(list(zip(paths, partials, strict=True))):
            with files.disk_errors(path):
                partial.rename(path)
                sync_folder(path.parent)
    except CutoverError as error:
        for partial in partials:
            partial.unlink(missing_ok=True)
        return KeptExtra(name, required, problems=(str(error),))
    second = paths[1] if len(paths) > 1 else None
    return KeptExtra(name, required, paths[0], second, paths[0].stat().st_size, digest, made.details, made.problems)


def _known(manifest: Path) -> dict[str, KeptExtra]:
    """Read what an earlier attempt of the run kept; empty where its manifest is missing or cannot be read."""
    try:
        data = json.loads(manifest.read_text())
        if data["version"] != _VERSION:
            return {}
        found = {}
        for item in data["extras"]:
            paths = {key: None if item[key] is None else Path(item[key]) for key in ("file", "second_file")}
            found[item["name"]] = KeptExtra(**{**item, **paths, "problems": tuple(item["problems"])})
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_there(kept: KeptExtra) -> bool:
    """Check that every copy is unchanged."""
    try:
        return all(files.digest(path) == kept.sha256 for path in (kept.file, kept.second_file) if path is not None)
    except CutoverError:
        return False
