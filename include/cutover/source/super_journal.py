"""The super-journal of a transaction over several files: the hot journal of one file names it, and recovery depends on it.

SQLite rolls a hot journal back while the super-journal that it names exists. Without it, the transaction counts as committed
and the journal is deleted (https://sqlite.org/atomiccommit.html, section 5.5). The name is a whole path. In another folder,
or in a container with other paths, SQLite would find nothing there and keep half of a transaction without an error.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from include.cutover.errors import CannotCheck
from include.cutover.source.database_file import JOURNAL_MAGIC, log_has_content

SECONDS = 2.0
"""How long a journal may name a super-journal that cannot be found: a commit that runs takes less."""

_TAIL = 16  # bytes: length of the name, checksum, magic
_LONGEST = 4096


def named_by(database: Path) -> Path | None:
    """Return the super-journal that the rollback journal beside the database names; None without one.

    Raises:
        CannotCheck: When the journal cannot be read.
    """
    journal = database.with_name(f"{database.name}-journal")
    if not log_has_content(journal):
        return None
    with suppress(OSError, ValueError), journal.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read(_TAIL)
        length = int.from_bytes(tail[:4], "big")
        if len(tail) < _TAIL or tail[8:] != JOURNAL_MAGIC or not 0 < length <= min(_LONGEST, size - _TAIL):
            return None
        file.seek(size - _TAIL - length)
        name = file.read(length)
        sums = (sum(name), sum(byte - 256 * (byte > 127) for byte in name))  # of a char with or without a sign
        if int.from_bytes(tail[4:8], "big") in [number & 0xFFFFFFFF for number in sums]:
            return Path(name.decode("utf-8", "surrogateescape"))
    return None


def state(database: Path) -> tuple[Path | None, bool]:
    """Return the super-journal that is named beside the database, and True where it exists."""
    named = named_by(database)
    return named, named is not None and named.exists()


def problem(database: Path) -> str:
    """Return why SQLite would recover the database wrongly from here, in words; empty where it would not."""
    named, exists = state(database)
    if named is None or exists:
        return ""
    owner = named.with_name(named.name.rpartition("-mj")[0])
    here = owner.parent.is_dir() and owner.parent.samefile(database.parent)
    if here or (owner.name != database.name and owner.is_file()):
        return ""
    return f"{database.name}-journal belongs to a transaction over several files and names {named}, which is not found here"


def require_known(database: Path, *, seconds: float = SECONDS) -> None:
    """Refuse a database with the journal of a transaction over several files whose end cannot be known here.

    Args:
        database: The file, symbolic links followed.
        seconds: How long to wait for a commit that runs.

    Raises:
        CannotCheck: Names the journal and the super-journal.
    """
    deadline = time.monotonic() + seconds
    while found := problem(database):
        if time.monotonic() >= deadline:
            raise CannotCheck(
                "a transaction over several database files was interrupted, and SQLite would take it for committed here",
                where=str(database),
                expected="the files in the place in which the application uses them",
                found=found,
                do="Start and stop the application once, which completes the transaction; or put the files back there.",
            )
        time.sleep(0.05)
