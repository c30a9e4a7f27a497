"""A proof that the application's own user can write into its SQLite file: rights, owner and folder as they are now."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import apsw

from include.cutover import files
from include.cutover.checks import Check

BUSY_SECONDS = 5.0


def check_writable(database: Path) -> Check:
    """Check that the file's owner can write into it: a transaction of that user that changes something and is rolled back.

    A child process becomes that user and lets SQLite do it, so that the side files count as well, which SQLite makes in the
    folder. The database is unchanged afterwards. Only the rights are checked when this process may not become that user, or
    when another connection keeps the write lock.
    """
    place = files.real(database)

    def check(problem: str, found: str = "a transaction was begun, written and rolled back") -> Check:
        do = "Correct owner and mode of the file and its folder; the application cannot write." if problem else ""
        return Check(
            "source_takes_writes",
            "The application's user can write into the SQLite file",
            "failed" if problem else "passed",
            "a transaction that writes",
            problem or found,
            do,
            str(place),
        )

    try:
        owner = place.stat()
        if os.geteuid() not in (0, owner.st_uid):
            return check(_by_rights(place, owner), f"by its rights; this process cannot become user {owner.st_uid}")
    except OSError as error:
        return check(error.strerror or type(error).__name__)
    return check(_problem_in_child(lambda: _write_as(place, owner.st_uid, owner.st_gid)))


def _by_rights(place: Path, owner: os.stat_result) -> str:
    folder = place.parent.stat()
    shift = 6 if folder.st_uid == owner.st_uid else 3 if folder.st_gid == owner.st_gid else 0
    if not owner.st_mode & 0o200:
        return "its owner has no right to write"
    return "" if folder.st_mode >> shift & 0o3 == 0o3 else "its owner has no right to make files in the folder"


def _write_as(place: Path, uid: int, gid: int) -> None:
    if os.geteuid() != uid:
        groups = [gid]
        with contextlib.suppress(KeyError):
            groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    # A running application may have made the side files already; its next start has to make them itself.
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise PermissionError("no right to make files in the folder")
    connection = apsw.Connection(str(place), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
        connection.execute("BEGIN IMMEDIATE; CREATE TABLE cutover_writes_nothing (one); ROLLBACK")
    except apsw.BusyError:  # another connection keeps the write lock: only the rights can be checked
        if problem := _by_rights(place, place.stat()):
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
