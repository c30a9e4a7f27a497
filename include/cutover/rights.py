"""Words for missing rights: the path, its owner, group and mode, and the user that this process runs as."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

_DENIED = (errno.EACCES, errno.EPERM)


def reason(error: OSError, place: Path | None = None) -> str:
    """Return why the operating system refused; where rights are missing, also whose they are.

    Args:
        error: Its error.
        place: The file or folder that was to be used; the error's own when left out.
    """
    words = error.strerror or type(error).__name__
    if error.errno not in _DENIED:
        return words
    given = place if place is not None else error.filename
    found = "" if given is None or isinstance(given, int) else owners(Path(os.fsdecode(given)))
    return "; ".join(filter(None, (f"{words} for {user(os.geteuid())}", found)))


def owners(path: Path) -> str:
    """Return owner, group and mode of a path and of its folder; of the nearest folder that can be seen where they cannot."""
    found = []
    for item in (path, path.parent):
        with suppress(OSError):
            found.append(_of(item))
    above = path.parent
    while not found and above != above.parent:
        above = above.parent
        with suppress(OSError):
            found.append(_of(above))
    return "; ".join(found)


def user(uid: int) -> str:
    """Return a user as ``user 1001 (name)``; without the name where there is no account."""
    name = ""
    with suppress(KeyError):
        name = f" ({pwd.getpwuid(uid).pw_name})"
    return f"user {uid}{name}"


def group(gid: int) -> str:
    """Return a group as ``group 1001 (name)``; without the name where it has none."""
    name = ""
    with suppress(KeyError):
        name = f" ({grp.getgrgid(gid).gr_name})"
    return f"group {gid}{name}"


def _of(path: Path) -> str:
    found = path.stat()
    return f"{path} has {user(found.st_uid)}, {group(found.st_gid)}, mode {stat.S_IMODE(found.st_mode):04o}"
