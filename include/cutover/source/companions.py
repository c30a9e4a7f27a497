"""The other SQLite files of the application: a cutover moves one file, and rows in an attached one stay on SQLite.

They are found as files that the processes which hold the source have open, too. A program that opens its files for each
request only is seen by chance; processes of other hosts and containers are not seen.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from include.cutover import files
from include.cutover.errors import CannotCheck
from include.cutover.source import holders
from include.cutover.source.database_file import MAGIC

LOOKS, PAUSE = 10, 0.05
"""How often the processes are searched, and the seconds between: programs open a file for a moment."""

_SHOWN = 5


def find(source: Path, others: Sequence[Path] = ()) -> dict[Path, str]:
    """Return the other SQLite files of the processes that have the source open, each with such a process, in words.

    Only the first bytes of a file are read. A deleted file is left out.

    Args:
        source: The database.
        others: Its other names.
    """
    found: dict[Path, str] = {}
    with suppress(CannotCheck):
        own = {_inode(path) for path in (files.real(source), *map(files.real, others))}
        # To close a file drops the locks of this process on it.
        ours = {_inode(Path(f"/proc/self/fd/{number}")) for number in os.listdir("/proc/self/fd")}  # noqa: PTH208
        for look in range(LOOKS):
            time.sleep(PAUSE if look else 0)
            for holder in holders.open_files(source, but=(os.getpid(),), others=others):
                for path in _databases_of(holder.pid, ours):
                    if _inode(path) not in own:
                        found.setdefault(path, f"pid {holder.pid} {holder.command}")
    return dict(sorted(found.items()))


def described(found: dict[Path, str]) -> str:
    """Return the files with their processes, in one line."""
    shown = ", ".join(f"{path} ({process})" for path, process in list(found.items())[:_SHOWN])
    return f"{shown} and {len(found) - _SHOWN} more" if len(found) > _SHOWN else shown


def warnings(source: Path, others: Sequence[Path] = ()) -> list[str]:
    """Return a warning that names the files; empty where none was found."""
    found = find(source, others)
    if not found:
        return []
    return [
        f"the application has other SQLite files open, which are not part of this cutover; their rows stay there: "
        f"{described(found)}"
    ]


def _databases_of(pid: int, ours: Collection[tuple[int, int] | None]) -> list[Path]:
    found = set()
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            with suppress(OSError):
                path = Path(f"/proc/{pid}/fd/{descriptor}")
                name = os.readlink(path)  # noqa: PTH115
                if not name.startswith("/") or name.endswith(" (deleted)") or not stat.S_ISREG(path.stat().st_mode):
                    continue
                if _inode(path) in ours:
                    continue
                with path.open("rb") as file:
                    if file.read(len(MAGIC)) == MAGIC:
                        found.add(Path(name))
    return sorted(found)


def _inode(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None
