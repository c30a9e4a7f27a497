"""A proof that the application's own user can write into its SQLite file: rights, owner and folder as they are now."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

from include.cutover import files, rights
from include.cutover.checks import Check

BUSY_SECONDS = 5.0


@dataclass(frozen=True)
class Owner:
    """The owner and the group of a file."""

    uid: int
    gid: int


def owner_of(database: Path) -> Owner:
    """Return owner and group of the file now."""
    found = files.real(database).stat()
    return Owner(found.st_uid, found.st_gid)


def check_writable(database: Path, before: Owner | None = None) -> Check:
    """Check that the application's user can write into the file: a transaction that changes something and is rolled back.

    A child process becomes that user and lets SQLite do it, so that the side files count as well, which SQLite makes in the
    folder. The database is unchanged afterwards. Only the rights are checked when this process may not become that user, or
    when another connection keeps the write lock.

    Args:
        database: The file.
        before: Its owner before the run, whose user is the application's; the present owner when left out.
    """
    place = files.real(database)

    def check(problem: str, found: str = "a transaction was begun, written and rolled back") -> Check:
        do = "Correct owner and mode of the file and its folder; the application cannot write." if problem else ""
        return Check(
            "source_takes_writes",
            "The application's user can write into the SQLite file",
            "failed" if problem else "passed",
            "a transaction that writes",
            f"{problem}; {rights.owners(place)}" if problem else found,
            do,
            str(place),
        )

    try:
        owner = before or owner_of(place)
        if os.geteuid() not in (0, owner.uid):
            return check(_by_rights(place, owner), f"by its rights; this process cannot become user {owner.uid}")
    except OSError as error:
        return check(rights.reason(error, place))
    return check(_problem_in_child(lambda: _write_as(place, owner)))


def _by_rights(place: Path, owner: Owner) -> str:
    """Return which right the user lacks by owner, group and mode; further groups of the user are not known here."""
    file, folder = place.stat(), place.parent.stat()
    if not _allowed(file, owner, 0o6):
        return f"{rights.user(owner.uid)} has no right to read and write it"
    return "" if _allowed(folder, owner, 0o3) else f"{rights.user(owner.uid)} has no right to make files in the folder"


def _allowed(found: os.stat_result, owner: Owner, wanted: int) -> bool:
    shift = 6 if found.st_uid == owner.uid else 3 if found.st_gid == owner.gid else 0
    return owner.uid == 0 or found.st_mode >> shift & wanted == wanted


def _write_as(place: Path, owner: Owner) -> None:
    if os.geteuid() != owner.uid:
        groups = [owner.gid]
        with contextlib.suppress(KeyError):
            groups = os.getgrouplist(pwd.getpwuid(owner.uid).pw_name, owner.gid)
        os.setgroups(groups)
        os.setgid(owner.gid)
        os.setuid(owner.uid)
    # A running application may have made the side files already; its next start has to make them itself.
    if not os.access(place.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError("no right to make files in the folder")
    connection = apsw.Connection(str(place), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
        connection.execute("BEGIN IMMEDIATE; CREATE TABLE cutover_writes_nothing (one); ROLLBACK")
    except apsw.BusyError:  # another connection keeps the write lock: only the rights can be checked
        if problem := _by_rights(place, owner):
            raise PermissionError(problem) from None
    finally:
        connection.close()


def _problem_in_child(action: Callable[[], None]) -> str:
    """Run an action in a child process. Returns the problem; empty when there was none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        problem = "it ended unexpectedly"
        try:
            os.close(reading)
            action()
            problem = ""
        except BaseException as error:  # noqa: BLE001  # whatever it is, the parent reports it
            problem = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, problem.encode()[:1000])
            os._exit(0 if not problem else 1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        problem = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return problem or ("" if status == 0 else f"the process that tried ended with {status}")
