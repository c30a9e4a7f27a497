"""Keeps the digests of a snapshot in a file, so that they are computed once."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from include.cutover.files import write_atomically
from include.cutover.proof.parts import ComparedTable, Cuts, Digests

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DigestStore:
    """The file with the digests of a snapshot. Digests of another snapshot in it are never used.

    Attributes:
        file: Read where it is; made where it is not, readable by its owner only.
        identity: Distinguishes the snapshot's content from any other, such as its SHA-256; empty for its place, size, time
            and inode.
    """

    file: Path
    identity: str = ""

    def identity_of(self, snapshot: Path) -> list[Any]:
        """Return what the digests of this snapshot are kept under. Ask before the snapshot is read."""
        if self.identity:
            return [self.identity]
        found = snapshot.stat()
        return [str(snapshot.resolve()), found.st_size, found.st_mtime_ns, found.st_ino]

    def load(self, identity: Sequence[Any], wanted: Mapping[str, ComparedTable]) -> dict[str, Digests]:
        """Return the digests that were computed from this snapshot in this way; none where the file cannot be used."""
        try:
            content: dict[str, Any] = json.loads(self.file.read_bytes())
            if content.get("snapshot") != list(identity):
                return {}
            found = {}
            for table, item in content["tables"].items():
                if table in wanted and item["fingerprint"] == wanted[table].fingerprint:
                    bounds = tuple((lower, upper) for lower, upper in item["bounds"])
                    cuts = Cuts(item["rows"], bounds, item["rowid"], item["digits"], item["small"])
                    found[table] = Digests(cuts, {name: (rows, digest) for name, (rows, digest) in item["parts"].items()})
            return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def keep(self, identity: Sequence[Any], wanted: Mapping[str, ComparedTable], digests: Mapping[str, Digests]) -> None:
        """Write the digests; those of other tables of the same snapshot stay.

        Where the file cannot be written, they are computed again the next time; nothing else depends on it.
        """
        if not digests:
            return
        try:
            self._write(list(identity), wanted, digests)
        except OSError as error:
            log.warning("the digests of the source were not kept in %s: %s", self.file, error.strerror)

    def _write(self, identity: list[Any], wanted: Mapping[str, ComparedTable], digests: Mapping[str, Digests]) -> None:
        tables: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, AttributeError):
            content = json.loads(self.file.read_bytes())
            tables = content["tables"] if content.get("snapshot") == identity else {}
        for table, item in digests.items():
            cuts = asdict(item.cuts)
            tables[table] = {"fingerprint": wanted[table].fingerprint, **cuts, "parts": dict(item.parts)}
        write_atomically(self.file, json.dumps({"snapshot": identity, "tables": tables}).encode(), 0o600)


def beside(snapshot: Path) -> Path:
    """Return the place of a backup's digests: beside it, so that both are moved together."""
    return snapshot.with_name(f"{snapshot.name}.digests.json")
