"""Backups that are compressed: the archive is proven, then the manifest names it, then the file goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from include.cutover import files
from include.cutover.aftercare.retention import own_files, past_runs
from include.cutover.aftercare.retention.past_runs import PastRun
from include.cutover.aftercare.retention.record import ARCHIVED, Deed, removed
from include.cutover.aftercare.retention.work import Work
from include.cutover.evidence import lease
from include.cutover.files import sync_folder, write_atomically
from include.cutover.source import backup_archive, backup_manifest


def archive(work: Work, run: PastRun) -> Iterator[Deed]:
    """Compress the copies of the run's backup and its clone, when they are old enough."""
    taken = run.last("backup")
    if taken is None or not work.older(taken["taken_at"], work.plan.retention.archive_days):
        return
    if removed(work.plan.name, run.name) is not None:
        return
    copies = [*run.copies, *run.clone]
    if not any(own_files.lies_there(file) for file, _ in copies):
        return
    because = past_runs.keep_reason(run, work.plan, work.now)
    for file, sha256 in copies:
        if not own_files.lies_there(file):
            continue
        problem = because or own_files.foreign(file, sha256)
        if problem:
            yield Deed("archive", run.name, str(file), False, problem, failed=not because)
        elif work.dry_run:
            yield Deed("archive", run.name, str(file), True)
        else:
            yield _compress(work, run, file, sha256)


def _compress(work: Work, run: PastRun, file: Path, sha256: str) -> Deed:
    to = backup_archive.archive_of(file)
    if os.path.lexists(to):  # complete, and written by a call that was killed; refuse any other file
        if not own_files.is_plain(to) or own_files.archived_digest(to) != sha256:
            return Deed(
                "archive", run.name, str(file), False, f"{to.name} exists and is not the archive of this file", failed=True
            )
    else:
        files.require_space({file.parent: file.stat().st_size})
        backup_archive.compress(file, sha256)
    _name_in_manifests(file, to)
    with lease.unchanged(work.plan.name) as held:
        because = past_runs.keep_reason_now(run, work.plan, work.now, held)
        if because:
            return Deed("archive", run.name, str(file), False, because)
        work.evidence.append(ARCHIVED, run=run.name, file=str(file), archive=str(to), sha256=sha256)
        file.unlink()
    sync_folder(file.parent)
    return Deed("archive", run.name, str(file), True)


def _name_in_manifests(file: Path, archive: Path) -> None:
    """Record the archive in the manifest beside the file, where that is this backup's, and in the other copy's."""
    beside = backup_manifest.manifest_of(file)
    if not own_files.is_plain(beside):
        return
    manifest = backup_manifest.load(beside)
    if file == manifest.file:
        named = replace(manifest, archive=archive)
    elif file == manifest.second_file:
        named = replace(manifest, second_archive=archive)
    else:
        return
    for path in {backup_manifest.manifest_of(copy) for copy in manifest.copies}:
        if own_files.is_plain(path) and backup_manifest.load(path).sha256 == manifest.sha256:
            write_atomically(path, named.to_json().encode(), 0o600)
