"""Sizes in bytes as ``pg_size_pretty`` shows them."""

from __future__ import annotations


def pretty(size: float) -> str:
    """Return a number of bytes with its unit."""
    if abs(size) < 10 * 1024:
        return f"{int(size)} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1024
        if abs(size) < 10 * 1024:
            return f"{size:.0f} {unit}"
    return f"{size / 1024:.0f} TB"
