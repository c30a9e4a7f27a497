"""Backups that are removed, with everything that was kept beside them: never the only valid one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from include.cutover.aftercare.record import BACKUP, evidence_of, is_live
from include.cutover.aftercare.retention import own_files, past_runs
from include.cutover.aftercare.retention.past_runs import PastRun
from include.cutover.aftercare.retention.record import REMOVED, REMOVING, Deed, removed
from include.cutover.aftercare.retention.work import Work
from include.cutover.errors import CannotCheck
from include.cutover.evidence import lease
from include.cutover.evidence.record import Event
from include.cutover.extras.take import EXTRAS_MANIFEST, extras_folders
from include.cutover.files import sync_folder
from include.cutover.proof import digest_store
from include.cutover.source import backup_archive, backup_manifest
from include.cutover.source.backup_manifest import Manifest


class Removal:
    """The removals of one call.

    Args:
        work: The call.
        runs: All runs of the plan, oldest first.
    """

    def __init__(self, work: Work, runs: Sequence[PastRun]) -> None:
        self._work = work
        self._runs = runs
        self._gone: set[str] = set()  # runs whose backup this call removed, or would remove

    def remove(self, run: PastRun) -> Iterator[Deed]:
        """Remove the run's backup, when it is old enough and another valid backup is left."""
        work, taken = self._work, run.last("backup")
        if taken is None or not work.older(taken["taken_at"], work.plan.retention.backup_days):
            return
        event = removed(work.plan.name, run.name)
        if event is not None and event["event"] == REMOVED:
            return
        what = str(taken["file"])
        if event is None:
            deed = self._begin(run, taken, what)
            if deed is not None:
                yield deed
                return
        elif work.dry_run:
            yield Deed("remove", run.name, what, True)
            return
        files = _RunFiles(work, run)
        files.unlink()
        self._gone.add(run.name)
        work.evidence.append(REMOVED, run=run.name, files=files.gone, left=files.left)
        yield Deed("remove", run.name, what, True)
        for path, why in files.left.items():
            yield Deed("remove", run.name, path, False, why, failed=True)

    def _begin(self, run: PastRun, taken: Event, what: str) -> Deed | None:
        """Record that the removal begins; return the deed instead where it is kept, or in a dry run."""
        work = self._work
        because = past_runs.keep_reason(run, work.plan, work.now)
        damaged = not because and not _has_backup(run)
        because = because or ("every copy of it differs from its record" if damaged else self._keep_only_one(run))
        if because:
            return Deed("remove", run.name, what, False, because, failed=damaged)
        if work.dry_run:
            self._gone.add(run.name)
            return Deed("remove", run.name, what, True)
        with lease.unchanged(work.plan.name) as held:
            because = past_runs.keep_reason_now(run, work.plan, work.now, held)
            if because:
                return Deed("remove", run.name, what, False, because)
            work.evidence.append(REMOVING, run=run.name, sha256=taken["sha256"], bytes=taken["bytes"])
        return None

    def _keep_only_one(self, run: PastRun) -> str:
        """Return why the backup is still needed: no other one can be proven now."""
        plan = self._work.plan.name
        for other in reversed(self._runs):
            if other.name == run.name or other.name in self._gone or removed(plan, other.name) is not None:
                continue
            if _has_backup(other) or _has_dump(plan, other):
                return ""
        return "" if _has_dump(plan, run) else "it is the only valid backup"


class _RunFiles:
    """The files of a run that are removed.

    Attributes:
        gone: Paths that were removed.
        left: Path → why it was left.
    """

    def __init__(self, work: Work, run: PastRun) -> None:
        self._work = work
        self._run = run
        self.gone: list[str] = []
        self.left: dict[str, str] = {}

    def unlink(self) -> None:
        """Remove the files that are the run's and as they were recorded: data first, manifests last."""
        run = self._run
        for file, sha256 in [*run.copies, *run.clone]:
            self._unlink(file, own_files.foreign, sha256)
            self._unlink(backup_archive.archive_of(file), own_files.foreign_archive, sha256)
            self._unlink(digest_store.beside(file), own_files.foreign_json)
        for folder in extras_folders(run.frozen_plan(self._work.plan), run.run_id):
            self._unlink_extras(folder)
        for file, _ in run.copies:
            self._unlink(backup_manifest.manifest_of(file), own_files.foreign_manifest, run.run_id)

    def _unlink(self, path: Path, foreign: Callable[..., str], *expected: str) -> None:
        if not os.path.lexists(path):
            return
        problem = foreign(path, *expected)
        if problem:
            self.left[str(path)] = problem
            return
        path.unlink()
        sync_folder(path.parent)
        self.gone.append(str(path))

    def _unlink_extras(self, folder: Path) -> None:
        if not folder.is_dir() or folder.is_symlink():
            if os.path.lexists(folder):
                self.left[str(folder)] = "it is not a folder of this project"
            return
        known = _kept_extras(folder, self._run)
        if not any(folder.iterdir()):  # an earlier call was killed right before the folder itself
            folder.rmdir()
            sync_folder(folder.parent)
            return
        if known is None:
            self.left[str(folder)] = "its manifest is not this run's, or cannot be read"
            return
        for name, sha256 in known.items():
            self._unlink(folder / name, own_files.foreign, sha256)
        names = sorted(item.name for item in folder.iterdir())
        if set(names) <= {EXTRAS_MANIFEST}:
            self._unlink(folder / EXTRAS_MANIFEST, own_files.foreign_json)
            folder.rmdir()
            sync_folder(folder.parent)
        else:
            self.left[str(folder)] = f"it holds files that no run recorded: {', '.join(names)}"


def _kept_extras(folder: Path, run: PastRun) -> dict[str, str] | None:
    """Return file name → SHA-256 of what the run kept there; None where the manifest is not this run's."""
    try:
        data = json.loads((folder / EXTRAS_MANIFEST).read_bytes())
        if data["run_id"] != run.run_id:
            return None
        return {Path(item["file"]).name: str(item["sha256"]) for item in data["extras"] if item["file"] is not None}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _manifest(run: PastRun) -> Manifest | None:
    taken = run.last("backup")
    if taken is None:
        return None
    try:
        return backup_manifest.load(*(Path(taken[key]) for key in ("manifest", "second_manifest") if taken.get(key)))
    except CannotCheck:
        return None


def _has_backup(run: PastRun) -> bool:
    """Return True when a copy of the run's backup, or an archive of it, is undamaged now."""
    manifest = _manifest(run)
    if manifest is None:
        return False
    copies = (path for path in manifest.copies if own_files.is_plain(path))
    if any(not own_files.foreign(path, manifest.sha256) for path in copies):
        return True
    return any(not own_files.foreign_archive(path, manifest.sha256) for path in manifest.archives)


def _has_dump(plan: str, run: PastRun) -> bool:
    """Return True when the run is live, and its first backup of PostgreSQL was proven and is unchanged."""
    watched = evidence_of(plan, run.run_id)
    if not is_live(run.evidence) or not watched.exists:
        return False
    event = watched.last(BACKUP)
    dump = (event or {}).get("dump") or {}
    return bool(dump.get("proven")) and not own_files.foreign(Path(dump["file"]), dump["sha256"])
