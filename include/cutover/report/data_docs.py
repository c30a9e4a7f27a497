"""Data Docs, read as somebody from outside may read them: nothing but finished pages, and no way out of their folder."""

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
"""What is served; a file with another ending is not."""

MAX_BYTES = 32 << 20


def read(run_folder: Path, name: str) -> bytes | None:
    """A file below ``data_docs`` of a run's evidence.

    Each part of the path is opened inside the one before it and none may be a link, so there is no way out of the folder,
    also not by exchanging a part in between.

    Args:
        name: Path below ``data_docs``, as it came from outside.

    Returns:
        None for whatever is not served: a missing file, a link, a part that begins with a dot, an ending that is not among
        ``MEDIA_TYPES``, something that is not a regular file, a file larger than ``MAX_BYTES``.
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
        # A pipe would keep a reader waiting for its writer, but for O_NONBLOCK.
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
