"""Checks of writing: a folder takes files, a file can be replaced."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check


def write_problem(directory: Path) -> str:
    """Return why no file can be written there; empty when one was written, synced and removed."""
    trial = directory / f".cutover-{secrets.token_hex(6)}"
    try:
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return error.strerror or type(error).__name__
    try:
        os.write(descriptor, b"\0" * 4096)
        os.fsync(descriptor)
    except OSError as error:
        return error.strerror or type(error).__name__
    finally:
        os.close(descriptor)
        trial.unlink(missing_ok=True)
    return ""


def replaceable(path: Path, name: str, title: str) -> Check:
    """Check that a file can be replaced by renaming another into its place, with owner and mode kept."""
    file = files.real(path)
    problems, todo = [], []
    if files.is_mount(file):
        problems.append("it is a mount of a single file")
        todo.append("Mount its folder instead.")
    problem = write_problem(file.parent)
    if problem:
        problems.append(f"its folder: {problem}")
        todo.append("Let the tasks' user write in the folder.")
    try:
        owner = file.stat().st_uid
        if os.geteuid() not in (0, owner):
            problems.append(f"it belongs to user {owner} and the tasks run as user {os.geteuid()}")
            todo.append("Run the tasks as the file's owner.")
    except OSError as error:
        problems.append(error.strerror or type(error).__name__)
        todo.append("Check the path.")
    return Check(
        name,
        title,
        "failed" if problems else "passed",
        expected="a file in a writable folder, owned by the tasks' user",
        found="; ".join(problems) or "it can",
        do=" ".join(todo),
        where=str(path),
    )
