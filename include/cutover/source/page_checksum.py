"""The checksum of a database's first page, for applications that use SQLite's checksum VFS (``cksumvfs``).

That VFS keeps a checksum in the last 8 bytes of every page, when the header reserves exactly 8 bytes of each page (byte 20),
and refuses a page whose checksum is wrong with "disk I/O error" (https://sqlite.org/cksumvfs.html). Fence and backup change
bytes of the header, and an SQLite without that VFS changes them as well. So the checksum of the first page is set anew after
each change. Other users of the reserved bytes keep theirs: the file must have a page with a right checksum.
"""

from __future__ import annotations

import os
import struct

from include.cutover.source.database_file import HEADER_BYTES

_RESERVED_AT, _RESERVED = 20, 8
_SEARCHED = 16  # pages; those of the list of free ones may never have been written


def refresh(descriptor: int) -> bool:
    """Set the checksum of page 1 where the database has checksums and that one is wrong, durably. Safe to run again.

    Args:
        descriptor: The database, open for writing. No connection may write to it meanwhile.

    Returns:
        True when the checksum was changed.
    """
    checksum = _due(descriptor)
    if checksum is None:
        return False
    os.pwrite(descriptor, checksum[0], checksum[1])
    os.fsync(descriptor)
    return True


def is_wrong(descriptor: int) -> bool:
    """Report whether the database has checksums and that of page 1 is wrong; the descriptor may be for reading only."""
    return _due(descriptor) is not None


def _due(descriptor: int) -> tuple[bytes, int] | None:
    """Return the checksum to write for page 1, and its place in the file; None where there is nothing to write."""
    size = _page_size(descriptor)
    if size is None:
        return None
    first = os.pread(descriptor, size, 0)
    if len(first) < size or first[-_RESERVED:] == _checksum(first) or not _has_checksums(descriptor, size):
        return None
    return _checksum(first), size - _RESERVED


def _page_size(descriptor: int) -> int | None:
    """Return the size of a page; None where the header does not reserve the bytes of a checksum."""
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if len(header) < HEADER_BYTES or header[_RESERVED_AT] != _RESERVED:
        return None
    size = int.from_bytes(header[16:18], "big")
    return 65536 if size == 1 else size


def _has_checksums(descriptor: int, size: int) -> bool:
    for number in range(1, _SEARCHED + 1):
        page = os.pread(descriptor, size, number * size)
        if len(page) < size:
            return False
        if any(page) and page[-_RESERVED:] == _checksum(page):
            return True
    return False


def _checksum(page: bytes) -> bytes:
    """Return the 8 bytes that the VFS keeps: two sums over little-endian words of 32 bits, each of which adds the other."""
    one = two = 0
    words = struct.unpack(f"<{(len(page) - _RESERVED) // 4}I", page[:-_RESERVED])
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return struct.pack("<II", one, two)
