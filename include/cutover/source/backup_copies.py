"""The copies of a backup: verified against its manifest, and made again from a whole one."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count, repeat
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check, Outcome
from include.cutover.errors import CannotCheck
from include.cutover.files import sync_folder, write_atomically
from include.cutover.source.backup_manifest import Manifest, manifest_of

log = logging.getLogger(__name__)


def verify(manifest: Manifest) -> list[Check]:
    """Check that every copy is there, with its size and hash; unknown where a copy cannot be read.

    Integrity was checked when the backup was taken, under the same hash; ``restore_test`` checks it again.
    """
    with ThreadPoolExecutor(len(manifest.copies)) as pool:
        found = pool.map(_verify_copy, manifest.copies, repeat(manifest), ("backup", "second_copy"))
        return [check for checks in found for check in checks]


def _verify_copy(path: Path, manifest: Manifest, name: str) -> list[Check]:
    words = {"backup": "The backup", "second_copy": "The second copy"}[name]
    do = "Run take_backup again: it restores this copy from the other one."

    def check(aspect: str, title: str, outcome: Outcome, expected: str, found: str) -> Check:
        advice = "" if outcome == "passed" else do
        return Check(f"{name}_{aspect}", f"{words} {title}", outcome, expected, found, advice, str(path))

    try:
        size, digest = path.stat().st_size, files.digest(path)
    except FileNotFoundError:
        return [check("present", "is there", "failed", "a file", "none")]
    except (OSError, CannotCheck) as error:
        return [check("present", "is there", "unknown", "a file", f"it cannot be read: {error}")]
    equal: Outcome = "passed" if digest == manifest.sha256 else "failed"
    sized: Outcome = "passed" if size == manifest.bytes else "failed"
    checked = "checked when it was taken" if equal == "passed" else "this is not the file that was checked"
    return [
        check("present", "is there", "passed", "a file", "a file"),
        check("size", "has its size", sized, f"{manifest.bytes:,} bytes", f"{size:,} bytes"),
        check("hash", "has its hash", equal, manifest.sha256, digest),
        check("integrity", "is sound", equal, "integrity checked under this hash", checked),
    ]


def repair(manifest: Manifest) -> bool:
    """Restore copies that are missing or damaged from a valid one; without a valid one, rename all and return False."""
    whole = [path for path in manifest.copies if _has_hash(path, manifest.sha256)]
    for path in manifest.copies:
        if path in whole:
            continue
        log.error("the copy %s of the backup is missing or damaged", path)
        with files.disk_errors(path):
            files.make_private(path.parent)
            if path.exists():
                path.rename(_unused(path.with_name(f"{path.name}.damaged")))
            if whole:
                files.require_space({path.parent: manifest.bytes})
                anew = path.with_name(f".{path.name}.anew")
                files.copy_verified(whole[0], anew)
                anew.rename(path)
            else:
                there = manifest_of(path)
                if there.exists():
                    there.rename(_unused(there.with_name(f"{there.name}.damaged")))
            sync_folder(path.parent)
    if whole and len(whole) < len(manifest.copies):
        for path in manifest.copies:
            write_atomically(manifest_of(path), manifest.to_json().encode(), 0o600)
    return bool(whole)


def _has_hash(path: Path, sha256: str) -> bool:
    try:
        return files.digest(path) == sha256
    except CannotCheck:
        return False


def _unused(path: Path) -> Path:
    return next(item for item in chain([path], (path.with_name(f"{path.name}-{n}") for n in count(2))) if not item.exists())
