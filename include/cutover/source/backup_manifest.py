"""The manifest of a backup: the facts about it, in JSON beside each copy.

A backup counts only once its manifest lies beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from include.cutover import rights
from include.cutover.errors import CannotCheck

SUFFIX = ".manifest.json"
_VERSION = 1
_OPTIONAL = ("archive", "second_archive", "fenced_sha256")  # left out of the file where they are None


@dataclass(frozen=True)
class Manifest:
    """The facts about a backup.

    Attributes:
        file: The backup.
        second_file: Its copy in the second place; None when the plan names none.
        bytes: Its size.
        sha256: Of the whole file; its integrity was checked under this hash.
        sqlite_version: Of the library that made it.
        schema_fingerprint: See ``schema.schema_fingerprint``.
        counts: Table → rows.
        sqlite_sequence: Table → the greatest key that AUTOINCREMENT has used.
        run_id: The run that took it.
        plan: Of that run.
        source: The database it was taken from, symbolic links followed.
        time: When it was taken, UTC.
        same_device: Both copies lie on one device, or the only one lies on the source's.
        fenced: The source was fenced while it was taken, so nothing was written after it.
        mode: The source's mode; before the fence, where there was one.
        uid: The source's owner.
        gid: The source's group.
        archive: The backup compressed by retention, which then removes the file; None before that.
        second_archive: The same of its copy.
        fenced_sha256: Of the source as the fence's note named it while the backup was taken; None without the run's fence.
    """

    file: Path
    second_file: Path | None
    bytes: int
    sha256: str
    sqlite_version: str
    schema_fingerprint: str
    counts: Mapping[str, int]
    sqlite_sequence: Mapping[str, int]
    run_id: str
    plan: str
    source: Path
    time: str
    same_device: bool
    fenced: bool
    mode: int
    uid: int
    gid: int
    archive: Path | None = None
    second_archive: Path | None = None
    fenced_sha256: str | None = None

    @property
    def path(self) -> Path:
        """The manifest's file."""
        return manifest_of(self.file)

    @property
    def copies(self) -> tuple[Path, ...]:
        """The files of the backup, the first place first."""
        return (self.file,) if self.second_file is None else (self.file, self.second_file)

    @property
    def archives(self) -> tuple[Path, ...]:
        """Compressed copies, see ``backup_archive``; with them, the files may be gone."""
        return tuple(path for path in (self.archive, self.second_archive) if path is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the operator, in plain words."""
        found = []
        if self.same_device:
            both = "both copies of the backup lie" if self.second_file is not None else "the backup and the source lie"
            found.append(f"{both} on the same device: one broken disk takes both")
        if not self.fenced:
            found.append("the source was not fenced: what is written to it after the backup is not in the backup")
        return tuple(found)

    def to_json(self) -> str:
        """Return the manifest's file: the fields, a version, and a hash over both that shows damage."""
        fields = {"version": _VERSION, **asdict(self)}
        fields = {name: value for name, value in fields.items() if value is not None or name not in _OPTIONAL}
        fields = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
        return json.dumps({**fields, "manifest_sha256": _digest_of(fields)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "") -> Manifest:
        """Read ``to_json``'s text.

        Raises:
            CannotCheck: When it is damaged or of another version.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            found = data.pop("manifest_sha256")
            version = data["version"]
            if version == _VERSION and found == _digest_of(data):
                del data["version"]
                for name in {"file", "second_file", "source", "archive", "second_archive"} & data.keys():
                    data[name] = None if data[name] is None else Path(data[name])
                return cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError):
            version = _VERSION
        if version != _VERSION:
            raise CannotCheck(
                "the backup's manifest is of another version",
                where=where,
                expected=str(_VERSION),
                found=str(version),
                do="Use the version of this project that took the backup.",
            )
        raise CannotCheck(
            "the backup's manifest is damaged",
            where=where,
            do="Use the one beside the other copy, or the hash in the evidence.",
        )


def facts(manifest: Manifest) -> dict[str, Any]:
    """Return the fields that the evidence records of a backup; ``load(manifest, second_manifest)`` reads it again."""
    return {
        "manifest": str(manifest.path),
        "second_manifest": None if manifest.second_file is None else str(manifest_of(manifest.second_file)),
        "file": str(manifest.file),
        "second_file": None if manifest.second_file is None else str(manifest.second_file),
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
        "sqlite_version": manifest.sqlite_version,
        "schema_fingerprint": manifest.schema_fingerprint,
        "rows": sum(manifest.counts.values()),
        "taken_at": manifest.time,
        "same_device": manifest.same_device,
        "fenced": manifest.fenced,
        "warnings": list(manifest.warnings),
    }


def load(*paths: Path) -> Manifest:
    """Read the manifest from the first of the files that is readable and whole; each copy of a backup has one.

    Raises:
        CannotCheck: When none of them is; the error is the first file's.
    """
    first: CannotCheck | None = None
    for path in paths:
        try:
            return Manifest.from_json(path.read_text(), str(path))
        except CannotCheck as error:
            first = first or error
        except (OSError, UnicodeDecodeError) as error:
            first = first or CannotCheck(
                "the backup's manifest cannot be read",
                where=str(path),
                found=rights.reason(error) if isinstance(error, OSError) else type(error).__name__,
                do="Use the one beside the other copy.",
            )
    raise first or CannotCheck("no manifest was named")


def manifest_of(backup: Path) -> Path:
    """Return where the manifest of a backup's file lies."""
    return backup.with_name(f"{backup.name}{SUFFIX}")


def _digest_of(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
