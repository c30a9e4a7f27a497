"""The other names of the source's file: hard links, and mounts of the single file.

SQLite names ``-wal`` and ``-journal`` after the path by which a program opened the database, symbolic links followed
(``xFullpathname``, https://sqlite.org/c3ref/vfs.html). A program that opens the file under another name therefore has its
newest rows where no reader of the first name sees them (https://sqlite.org/howtocorrupt.html, section 2.5). A symbolic link,
and a mount of the folder, lead to the same side files and are harmless.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from include.cutover import files, rights
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, Refused
from include.cutover.source import file_mounts, holders
from include.cutover.source.database_file import log_has_content
from include.cutover.source.file_mounts import FileMount

NAME = "source_other_names"
"""Name of the check, and of the key in the plan."""

JOURNAL_SECONDS = 2.0
"""How long a rollback journal may stay under another name before it counts as left by a killed writer."""

_SEARCHED = 50_000  # entries of folders, in the search for hard links that helps a message


@dataclass(frozen=True)
class OtherNames:
    """The names of a database's file.

    Attributes:
        source: The database, symbolic links followed.
        links: Hard links of the file, the source's name among them.
        named: Hard links that the plan names, symbolic links followed; each is another entry of a folder.
        wrong: Paths of the plan that are no hard link of the file, each with the reason.
        nearby: Hard links that the plan does not name, as far as a short search found them.
        mounts: Mounts of the single file.
    """

    source: Path
    links: int
    named: tuple[Path, ...]
    wrong: tuple[str, ...]
    nearby: tuple[Path, ...]
    mounts: tuple[FileMount, ...]

    @property
    def unnamed(self) -> int:
        """Hard links that the plan does not name."""
        return self.links - 1 - len(self.named)

    @property
    def hidden(self) -> int:
        """Hard links that neither the plan names nor the search found."""
        return self.unnamed - len(self.nearby)

    @property
    def reached(self) -> list[Path]:
        """Every other name whose side files can be read."""
        return [*self.named, *self.nearby, *(mount.reached for mount in self.mounts)]


def find(source: Path, named: Sequence[Path] = ()) -> OtherNames:
    """Return the other names of a database's file.

    Only the number of hard links is certain; their places are searched for in the folders around the source.

    Args:
        source: The database.
        named: Other names that the plan gives.

    Raises:
        CannotCheck: When the source is missing.
    """
    database = files.real(source)
    try:
        status = database.stat()
    except OSError as error:
        raise CannotCheck(
            "the database cannot be read",
            where=str(database),
            found=rights.reason(error, database),
            do="Check the path of the source.",
        ) from None
    inode = (status.st_dev, status.st_ino)
    own = _entry(database)
    right: dict[tuple[int, int, str], Path] = {}
    wrong = []
    for path in map(files.real, named):
        try:
            found, entry = path.stat(), _entry(path)
        except OSError as error:
            wrong.append(f"{path}: {rights.reason(error, path)}")
            continue
        if (found.st_dev, found.st_ino) != inode:
            wrong.append(f"{path}: another file")
        elif files.is_mount(path):
            wrong.append(f"{path}: a mount of the single file")
        elif entry != own:
            right[entry] = path
    searched = [] if status.st_nlink - 1 == len(right) else _search(database, inode)
    nearby = {_entry(path): path for path in searched}
    others = tuple(path for entry, path in nearby.items() if entry not in (own, *right))
    mounts = tuple(file_mounts.of_file([database, *right.values(), *others]))
    shown = {mount.path for mount in mounts}
    others = tuple(path for path in others if path not in shown)
    return OtherNames(database, status.st_nlink, tuple(right.values()), tuple(wrong), others, mounts)


def logs(names: OtherNames, *, seconds: float = 0.0) -> list[Path]:
    """Return each ``-wal`` or ``-journal`` with content under another name.

    Args:
        names: The names.
        seconds: How long to wait for the end of transactions: a writer's rollback journal goes with its commit.

    Raises:
        CannotCheck: When a log cannot be read.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = [log for path in names.reached for log in _logs_of(path, names.source)]
        if not any(log.name.endswith("-journal") for log in found) or time.monotonic() >= deadline:
            return found
        time.sleep(0.02)


def beside(database: Path, named: Sequence[Path]) -> list[Path]:
    """Return each log with content beside the given names of a database; nothing else is searched."""
    return [log for path in named for log in _logs_of(path, files.real(database))]


def check(source: Path, named: Sequence[Path]) -> Check:
    """Check that every other name of the source is in the plan, can be restored, and has no log.

    Args:
        source: The database.
        named: Other names that the plan gives.
    """
    try:
        names = find(source, named)
        # That the source itself is a mounted file is the finding of another check: it cannot be replaced.
        elsewhere = tuple(mount for mount in names.mounts if mount.pid is not None or mount.path != names.source)
        problems = _problems(replace(names, mounts=elsewhere), logs(names, seconds=JOURNAL_SECONDS))
    except CannotCheck as error:
        return _check("failed", f"{error.where}: {error.found or error.message}", error.do, source)
    if problems:
        return _check("failed", "; ".join(found for found, _ in problems), " ".join(do for _, do in problems), source)
    # A mount in a namespace whose processes are hidden cannot be seen; that is said, and SQLite's locks remain.
    unseen = holders.invisible_processes()
    limit = f"; {unseen}" if unseen else ""
    found = "one name" if not names.named else f"also {_listed(names.named)}"
    return _check("passed", f"{found}{limit}", "", source)


def _check(outcome: str, found: str, do: str, source: Path) -> Check:
    return Check(
        NAME,
        "Every name of the source's file is known",
        "passed" if outcome == "passed" else "failed",
        "one name, or others that the plan names; no log under another name",
        found,
        do,
        str(source),
    )


def require_known(source: Path, named: Sequence[Path]) -> OtherNames:
    """Refuse a file with a name that the plan does not give, or with a log under another name.

    Returns:
        The names.

    Raises:
        Refused: Names them, with the remedy.
        CannotCheck: When the source is missing or a log cannot be read.
    """
    names = find(source, named)
    problems = _problems(names, logs(names, seconds=JOURNAL_SECONDS))
    if problems:
        raise _refused(names.source, problems)
    return names


def require_no_log(source: Path, named: Sequence[Path]) -> None:
    """Refuse a log with content beside the given names: the cheap check, for the moment when the file is locked.

    Raises:
        Refused: Names it, with the remedy.
    """
    if found := beside(source, named):
        raise _refused(files.real(source), _log_problems(files.real(source), found))


def require_readable(source: Path, named: Sequence[Path]) -> None:
    """Refuse to read a database whose newest rows may lie in a log under another name.

    Other names are accepted when all of them can be examined and none has a log.

    Raises:
        CannotCheck: Names them, with the remedy.
    """
    names = find(source, named)
    found = logs(names, seconds=JOURNAL_SECONDS)
    # The files beside a mount can be examined where its place can be reached, and not where the source itself is the mount.
    closed = [mount for mount in names.mounts if mount.path == names.source or not mount.reached.exists()]
    problems = [problem for problem in (_hidden(names), _mounts(names.source, closed)) if problem]
    problems += _log_problems(names.source, found) if found else []
    if problems:
        raise CannotCheck(
            "the newest rows of the database may lie in a log under another name",
            where=str(names.source),
            expected="every name of the file known, and no log under another name",
            found="; ".join(found for found, _ in problems),
            do=" ".join(do for _, do in problems),
        )


def _refused(source: Path, problems: Sequence[tuple[str, str]]) -> Refused:
    return Refused(
        "the database's file has another name, and rows may lie in a log there",
        where=str(source),
        expected="one name, or others that the plan names; no log under another name",
        found="; ".join(found for found, _ in problems),
        do=" ".join(do for _, do in problems),
    )


def _problems(names: OtherNames, found: Sequence[Path]) -> list[tuple[str, str]]:
    """Return what was found, each with the remedy."""
    problems = []
    if names.wrong:
        problems.append(
            (
                f"the plan names {_listed(names.wrong)}",
                f"Correct {NAME} in the plan: paths that are hard links of {names.source}.",
            )
        )
    if names.mounts:
        problems += [problem for problem in (_mounts(names.source, names.mounts),) if problem]
    if names.unnamed:
        where = f", {_listed(names.nearby)}" if names.nearby else ""
        more = "; the place of the others was not found" if names.nearby and names.hidden else ""
        problems.append(
            (
                f"{names.links} hard links, of which the plan names {len(names.named)} besides the source{where}{more}",
                f"Let every program use {names.source}, with a symbolic link where it needs another name, and remove "
                "the hard links, which find -xdev -inum "
                f"{names.source.stat().st_ino} lists; or name them as {NAME} in the plan.",
            )
        )
    return problems + (_log_problems(names.source, found) if found else [])


def _hidden(names: OtherNames) -> tuple[str, str] | None:
    if not names.hidden:
        return None
    return (
        f"{names.links} hard links, and the place of {abs(names.hidden)} is not known",
        f"Name them as {NAME} in the plan, or remove them (find -xdev -inum {names.source.stat().st_ino} lists them).",
    )


def _mounts(source: Path, mounts: Sequence[FileMount]) -> tuple[str, str] | None:
    if not mounts:
        return None
    return (
        f"the single file is mounted at {_listed(mounts)}",
        f"Mount the folder {source.parent} there instead of the file: a mounted file has its logs elsewhere, and shows the "
        "old file after a rollback.",
    )


def _log_problems(source: Path, found: Sequence[Path]) -> list[tuple[str, str]]:
    problems = []
    for log in found:
        name = log.with_name(log.name.removesuffix("-wal").removesuffix("-journal"))
        command = f"sqlite3 {shlex.quote(str(name))} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        if log.name.endswith("-journal"):
            command = f"sqlite3 {shlex.quote(str(name))} 'PRAGMA schema_version'"
        problems.append(
            (
                f"{log} holds {log.stat().st_size if log.exists() else 0:,} bytes that no reader of {source.name} sees",
                f"Stop every program that uses the file, and copy {source} and {log} away. Then start and stop the program "
                f"that uses {name} once, or run: {command}. Check its newest rows, and let it use {source} from then on.",
            )
        )
    return problems


def _logs_of(path: Path, source: Path) -> Iterator[Path]:
    for suffix in ("-wal", "-journal"):
        log, own = path.with_name(path.name + suffix), source.with_name(source.name + suffix)
        with suppress(OSError):
            if log.samefile(own):  # the file is mounted beside itself, and shares its side files
                continue
        if log_has_content(log):
            yield log


def _entry(path: Path) -> tuple[int, int, str]:
    """Return the entry of a folder that a path is: two paths through two mounts of a folder are one entry."""
    folder = path.parent.stat()
    return folder.st_dev, folder.st_ino, path.name


def _search(source: Path, inode: tuple[int, int]) -> list[Path]:
    """Search the source's folder, the two above, and the folders in them for hard links; bounded, on one device."""
    found, left = [], _SEARCHED
    waiting = [(folder, 1) for folder in list(source.parents)[:3]]
    done: set[Path] = set()
    while waiting and left > 0:
        folder, depth = waiting.pop(0)
        if folder in done:
            continue
        done.add(folder)
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                left -= 1
                if left <= 0:
                    break
                with suppress(OSError):
                    if entry.is_symlink():
                        continue
                    if entry.is_dir():
                        if depth and entry.stat().st_dev == inode[0]:
                            waiting.append((Path(entry.path), depth - 1))
                    elif entry.inode() == inode[1] and entry.stat().st_dev == inode[0]:
                        found.append(Path(entry.path))
    return found


def _listed(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:5])
    return f"{shown} and {len(items) - 5} more" if len(items) > 5 else shown
