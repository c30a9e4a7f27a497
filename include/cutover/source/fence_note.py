"""The note beside a fenced database: which run raised the fence, and how to lift it.

It is written before the first byte is changed and removed after the last one is back.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from include.cutover import files
from include.cutover.errors import CannotCheck, Refused
from include.cutover.files import now, sync_folder, write_atomically
from include.cutover.source.fence_header import READ_VERSION, WRITE_VERSION

_VERSION = 1


@dataclass(frozen=True)
class FenceNote:
    """A fence's note, as it lies beside the database in JSON.

    Attributes:
        state: ``raising`` until the fence stands.
        time: When the fence was raised, UTC.
        note: Words for the person who finds the file.
        file: The database.
        original: Bytes 18 and 19 before the fence.
        mode: The file's mode before the fence.
        how_to_lift: Shell commands.
        bytes: Size of the fenced file; None while raising.
        sha256: Of the fenced file; None while raising.
        other_names: Hard links of the file that the plan names.
    """

    version: int
    state: Literal["raising", "raised"]
    run_id: str
    time: str
    note: str
    file: str
    original: tuple[int, int]
    mode: int
    how_to_lift: str
    bytes: int | None = None
    sha256: str | None = None
    other_names: tuple[str, ...] = ()


def note_path(source: Path) -> Path:
    """Return where the note of a fence around ``source`` is, or would be."""
    database = files.real(source)
    return database.with_name(f"{database.name}.fence.json")


def new(database: Path, header: bytes, run_id: str, words: str, others: Sequence[Path] = ()) -> FenceNote:
    """Return the note for a fence that is about to be raised; writes nothing.

    Args:
        database: The file, symbolic links followed.
        header: Its header.
        run_id: The run that raises the fence.
        words: For the person who finds the file.
        others: Hard links of the file that the plan names.
    """
    mode = stat.S_IMODE(database.stat().st_mode)
    file, path = shlex.quote(str(database)), shlex.quote(str(note_path(database)))
    original = (header[WRITE_VERSION], header[READ_VERSION])
    how = f"printf '\\001\\001' | dd of={file} bs=1 seek={WRITE_VERSION} conv=notrunc,fsync && rm {path}"
    return FenceNote(
        version=_VERSION,
        state="raising",
        run_id=run_id,
        time=now(),
        note=words,
        file=str(database),
        original=original,
        mode=mode,
        how_to_lift=f"chmod {mode:04o} {file} && {how}",
        other_names=tuple(map(str, others)),
    )


def _serialized(note: FenceNote) -> bytes:
    explained = {
        **asdict(note),
        "mode": f"{note.mode:04o}",
        "what": "This SQLite database is closed to writers while its content is moved to PostgreSQL. Reading works.",
        "how_to_lift_with_the_project": (
            f"python -m include.cutover fence lift --source {shlex.quote(note.file)} --run {shlex.quote(note.run_id)}"
        ),
        "before_lifting_by_hand": "Stop everything that uses the file. Do it only when the run above is abandoned.",
    }
    return json.dumps(explained, indent=2, ensure_ascii=False).encode() + b"\n"


def read(database: Path) -> FenceNote | None:
    """Read the note; None where there is none.

    Raises:
        CannotCheck: When it is unreadable or of another version.
    """
    path = note_path(database)
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        data.setdefault("other_names", ())  # a note of an earlier version has none
        known = {name: data[name] for name in FenceNote.__dataclass_fields__}
        first, second = (int(value) for value in known["original"])
        note = FenceNote(
            **{
                **known,
                "original": (first, second),
                "mode": int(known["mode"], 8),
                "other_names": tuple(known["other_names"]),
            }
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(
            "the fence's note is unreadable",
            where=str(path),
            found=type(error).__name__,
            do="Byte 18 of the file is 3 when it is fenced; repair or remove the note by hand.",
        ) from None
    if note.version != _VERSION:
        raise CannotCheck(
            "the fence's note is of another version",
            where=str(path),
            expected=str(_VERSION),
            found=str(note.version),
            do="Use the version of this project that raised the fence.",
        )
    return note


def claim(database: Path, note: FenceNote) -> FenceNote:
    """Write the note unless one exists: of two concurrent runs, one wins.

    Returns:
        The note in place.

    Raises:
        Refused: When the note in place is another run's.
    """
    path = note_path(database)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with files.disk_errors(path):
        try:
            with temporary.open("xb") as file:
                file.write(_serialized(note))
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(temporary)
        except FileExistsError:
            found = read(database)
            if found is not None and found.run_id != note.run_id:
                raise of_another_run(database, found) from None
            return found or note
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return note


def replace(database: Path, note: FenceNote) -> None:
    """Replace the note atomically."""
    with files.disk_errors(note_path(database)):
        write_atomically(note_path(database), _serialized(note))


def remove(database: Path) -> None:
    """Remove the note, and what killed attempts left of one, durably."""
    path = note_path(database)
    with files.disk_errors(path):
        path.unlink(missing_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*"):
            leftover.unlink(missing_ok=True)
        sync_folder(path.parent)


def of_another_run(database: Path, note: FenceNote) -> Refused:
    """Return the error for a fence of another run."""
    return Refused(
        "the fence around the database is another run's",
        where=str(database),
        found=f"run {note.run_id}, since {note.time}",
        do="End that run first: roll it back, or lift its fence.",
    )


def missing(database: Path) -> Refused:
    """Return the error for a fence without its note."""
    return Refused(
        "the database is fenced and its note is missing",
        where=str(database),
        expected=str(note_path(database)),
        do="The note was removed, or a copy of a fenced file was put here. When no run is open, make the file "
        f"writable, set its bytes {WRITE_VERSION} and {READ_VERSION} to 1, and try again.",
    )
