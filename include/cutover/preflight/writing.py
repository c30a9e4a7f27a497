"""Checks of writing: a folder takes files, a file can be replaced."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from include.cutover import files, rights
from include.cutover.checks import Check
from include.cutover.errors import Refused


def write_problem(directory: Path) -> str:
    """Return why no file can be written there; empty when one was written, synced and removed."""
    trial = directory / f".cutover-{secrets.token_hex(6)}"
    try:
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return rights.reason(error, directory)
    try:
        os.write(descriptor, b"\0" * 4096)
        os.fsync(descriptor)
    except OSError as error:
        return rights.reason(error, directory)
    finally:
        os.close(descriptor)
        trial.unlink(missing_ok=True)
    return ""


def replaceable(path: Path, name: str, title: str) -> Check:
    """Check that a file can be replaced by renaming another into its place, with owner, group and mode kept.

    It is tried: a file in the same folder is given to the owner and the group, and removed again.
    """
    file = files.real(path)
    problems, todo = [], []
    if files.is_mount(file):
        problems.append("it is a mount of a single file")
        todo.append("Mount its folder instead.")
    problem = write_problem(file.parent)
    if problem:
        problems.append(f"its folder: {problem}")
        todo.append("Let the tasks' user write in the folder.")
    else:
        problem = _give_problem(file)
        if problem:
            problems.append(problem)
            todo.append("Run the tasks as the file's owner and in its group, or as root.")
    try:
        file.stat()
    except OSError as error:
        problems.append(rights.reason(error, file))
        todo.append("Check the path.")
    return Check(
        name,
        title,
        "failed" if problems else "passed",
        expected="a file in a writable folder, with an owner and a group that the tasks' user can give to a new file",
        found="; ".join(problems) or "it can",
        do=" ".join(todo),
        where=str(path),
    )


def _give_problem(file: Path) -> str:
    """Return why a new file in the folder cannot have the file's owner, group and mode; empty where it can."""
    trial = file.with_name(f".cutover-{secrets.token_hex(6)}")
    try:
        found = file.stat()
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            files.give(descriptor, file, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
        finally:
            os.close(descriptor)
            trial.unlink(missing_ok=True)
    except Refused as error:
        return f"{error.message}: {error.found}"
    except OSError:  # another part of the check says so
        return ""
    return ""


def writable_in_place(path: Path, name: str, title: str) -> Check:
    """Check that this user may read and write a database and the files that SQLite keeps beside it. Nothing is opened."""
    file = files.real(path)
    present = (item for item in (file, *files.side_files(file)) if item.exists())
    closed = [item for item in present if not os.access(item, os.R_OK | os.W_OK, effective_ids=True)]
    found = f"{rights.user(os.geteuid())} may not; {'; '.join(map(rights.owners, closed))}" if closed else "it can"
    return Check(
        name,
        title,
        "failed" if closed else "passed",
        expected="the right to read and write the file, and its -wal, -shm and -journal where they exist",
        found=found,
        do="Run the tasks as the file's owner, or give them these rights; a setgid folder gives new files its group."
        if closed
        else "",
        where=str(path),
    )
