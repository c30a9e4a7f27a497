"""Reads a dump of Redis or Valkey far enough to verify that it is whole, and to learn its server.

A dump begins with a magic word and the version of its format, describes its server, and ends with a mark and a checksum over
all before it. A server with ``rdbchecksum no`` writes zeros for it; such a dump can be verified to be complete, not more.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from include.cutover import rights
from include.cutover.errors import CannotCheck, StepFailed

_MAGIC = re.compile(rb"REDIS(\d{4})|VALKEY(\d{3})")
_HEAD = 9
_END = 0xFF
_FOOT = 9  # the mark and eight bytes of checksum
_ABOUT = 0xFA
_MODEL = "CRC64-REDIS"
_BLOCK = 1 << 20
_LONGEST_WORD = 1 << 16


@dataclass(frozen=True)
class Dump:
    """The description that a dump holds of itself.

    Attributes:
        format: E.g. ``REDIS0011``.
        server: Version of the server that wrote it; empty where it does not say.
        created: When its writing began, by the server's clock, in seconds since 1970; None where it does not say.
        checksum: True when it has one; it was verified.
    """

    format: str
    server: str
    created: int | None
    checksum: bool


def read(path: Path) -> Dump:
    """Verify the end and the checksum of a dump, read from its device, and return its description.

    Raises:
        StepFailed: When it is not a dump, or is cut off or damaged.
        CannotCheck: When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return _read(file, path)
    except OSError as error:
        raise CannotCheck("the dump cannot be read", where=str(path), found=rights.reason(error, path)) from None


def _read(file: BinaryIO, path: Path) -> Dump:
    import anycrc

    magic = file.read(_HEAD)
    if not _MAGIC.fullmatch(magic):
        raise StepFailed(
            "the file is not a dump of Redis", where=str(path), expected="REDIS and four digits", found=repr(magic)[:40]
        )
    about = _about(file)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(_HEAD, size - _FOOT))
    foot = file.read(_FOOT)
    if size < _HEAD + _FOOT or foot[0] != _END:
        raise StepFailed("the dump is cut off: its end is missing", where=str(path), found=f"{size:,} bytes")
    expected = int.from_bytes(foot[1:], "little")
    if expected:
        model, crc, left = anycrc.Model(_MODEL), 0, size - len(foot[1:])
        file.seek(0)
        while left:
            block = file.read(min(_BLOCK, left))
            if not block:
                raise StepFailed("the dump became shorter while it was read", where=str(path))
            crc = model.calc(block, crc)
            left -= len(block)
        if crc != expected:
            raise StepFailed(
                "the dump is damaged: its checksum is wrong",
                where=str(path),
                expected=f"{expected:016x}",
                found=f"{crc:016x}",
            )
    created = about.get("ctime", "")
    return Dump(
        magic.decode(),
        about.get("redis-ver") or about.get("valkey-ver") or "",
        int(created) if created.isdigit() else None,
        bool(expected),
    )


def _about(file: BinaryIO) -> dict[str, str]:
    """Read the fields about the server at the beginning; stop at the first that is not understood."""
    found = {}
    while file.read(1) == bytes([_ABOUT]):
        key, value = _word(file), _word(file)
        if key is None or value is None:
            break
        found[key] = value
    return found


def _word(file: BinaryIO) -> str | None:
    """Read a string, or an integer in its place; None for compressed and very long ones."""
    first = file.read(1)
    if not first:
        return None
    kind, low = first[0] >> 6, first[0] & 0x3F
    if kind == 0:
        length = low
    elif kind == 1:
        length = low << 8 | int.from_bytes(file.read(1), "big")
    elif kind == 3 and low < 3:
        return str(int.from_bytes(file.read(1 << low), "little", signed=True))
    else:
        return None
    if length > _LONGEST_WORD:
        return None
    return file.read(length).decode(errors="replace")
