"""The SQL files of a plan: found, checked for faults of names, numbers and contents, and put in order.

They lie in one folder per kind, named ``NNN_name.sql`` and numbered from 001 without a gap:

=============  ==========================================================================================
pre_data       tables, types, checks, defaults; always there
migrations     incremental changes, before the load
post_data      primary and unique keys, then indexes
reference      rows that the application needs and the source may not have
foreign_keys   ``ADD CONSTRAINT … FOREIGN KEY … NOT VALID``; plain ``ADD`` on partitioned tables, which refuse NOT VALID
=============  ==========================================================================================

A kind without a folder has no files. A folder without files is a fault: its files were removed. The folders ``smoke`` and
``rollback`` may lie beside; any other folder is a misspelling and a fault.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from include.cutover.errors import PlanInvalid, Refused

KINDS = ("pre_data", "migrations", "post_data", "reference", "foreign_keys")

_BESIDE = frozenset({"smoke", "rollback"})
_FILE_NAME = re.compile(r"([0-9]{3})_[a-z0-9][a-z0-9_]*\.sql")


@dataclass(frozen=True)
class SqlFile:
    """One SQL file.

    Attributes:
        folder: Its kind.
        name: Its name relative to the plan's SQL folder, e.g. ``post_data/001_keys.sql``.
    """

    folder: str
    number: int
    name: str
    path: Path
    sha256: str


def discover(folder: Path, kinds: Sequence[str] = ("pre_data", "migrations")) -> list[SqlFile]:
    """Return the files of these kinds in the order of applying.

    Args:
        folder: The plan's SQL folder.
        kinds: Some of ``KINDS``, in order; default are those that come before the load.

    Raises:
        PlanInvalid: With every fault of names, numbers and contents at once.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"unknown kind {', '.join(unknown)}; the kinds are {', '.join(KINDS)}")
    if not folder.is_dir():
        raise PlanInvalid("the plan has no SQL folder", [f"expected the folder {folder}"])
    faults = []
    for item in sorted(folder.iterdir()):
        if item.is_dir() and not item.name.startswith(".") and item.name not in {*KINDS, *_BESIDE}:
            faults.append(f"{item.name}/: unknown folder; the folders are {', '.join([*KINDS, *sorted(_BESIDE)])}")
        elif item.suffix == ".sql":
            faults.append(f"{item.name}: lies beside the folders; put it into one of them")
    found = [file for kind in kinds for file in _files(folder, kind, faults)]
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise PlanInvalid(f"the SQL folder has {count}", faults, where=str(folder))
    return found


def _files(folder: Path, kind: str, faults: list[str]) -> list[SqlFile]:
    if not (folder / kind).is_dir():
        if (folder / kind).exists():
            faults.append(f"{kind}: is a file; expected a folder")
        elif kind == "pre_data":
            faults.append("pre_data/: missing; it holds the tables")
        return []
    found: list[SqlFile] = []
    for path in sorted(item for item in (folder / kind).iterdir() if not item.name.startswith(".")):
        name = f"{kind}/{path.name}"
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            faults.append(f"{name}: not a file named NNN_name.sql (three digits; then a-z, 0-9 and _)")
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            faults.append(f"{name}: not readable: {error.strerror}")
            continue
        problem = _problem(content)
        if problem:
            faults.append(f"{name}: {problem}")
        found.append(SqlFile(kind, int(match.group(1)), name, path, hashlib.sha256(content).hexdigest()))
    if not found and not any(fault.startswith(f"{kind}/") for fault in faults):
        faults.append(f"{kind}/: holds no SQL file; restore them, or remove the folder")
    expected = 1
    for file in found:
        if file.number < expected:
            faults.append(f"{file.name}: the number {file.number:03} stands twice, or is not above 000")
        elif file.number > expected:
            faults.append(f"{file.name}: the number {expected:03} before it is missing")
        expected = max(expected, file.number + 1)
    return found


def _problem(content: bytes) -> str:
    if not content.strip():
        return "empty"
    if b"\0" in content:
        return "holds a NUL character"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"not UTF-8 in line {line}"
    return ""


def read(file: SqlFile) -> str:
    """Return the text of a file.

    Raises:
        Refused: When it was changed after ``discover``.
    """
    content = file.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise Refused("the file was changed while the files were being applied", where=file.name, do="Run the step again.")
    return content.decode("utf-8-sig")
