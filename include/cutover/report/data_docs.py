"""Data Docs as they are served: finished pages only, and never a file outside their folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

FOLDER = "data_docs"

MEDIA_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ico": "image/x-icon",
}
"""Endings of the files that are served; others are not."""

MAX_BYTES = 32 << 20


def read(run_folder: Path, name: str) -> bytes | None:
    """Read a file below ``data_docs`` of a run's evidence.

    Each part of the path is opened inside the one before it, and none may be a link. So nothing outside the folder can be
    read, even if a part is replaced meanwhile.

    Args:
        run_folder: Folder of the run's evidence.
        name: Path below ``data_docs``, as it came from outside.

    Returns:
        None for a file that is not served: it is missing, a link, not a regular file, or larger than ``MAX_BYTES``; a part
        of its path begins with a dot, or its ending is not among ``MEDIA_TYPES``.
    """
    parts = name.split("/")
    if any(not part or part.startswith(".") or "\0" in part or "\\" in part for part in parts):
        return None
    if Path(parts[-1]).suffix not in MEDIA_TYPES:
        return None
    held: int | None = None
    try:
        for folder in (str(run_folder / FOLDER), *parts[:-1]):
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
            if held is not None:
                os.close(held)
            held = inner
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=held)
    except OSError:
        return None
    finally:
        if held is not None:
            os.close(held)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
            return None
        return file.read(MAX_BYTES)
