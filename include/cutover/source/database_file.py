"""Checks of an SQLite file by its header, its size and the logs beside it; SQLite does not open it.

Harmless beside a running application: nothing is locked, nothing is written.
"""

from __future__ import annotations

import math
import stat
import time
from pathlib import Path

from include.cutover import rights
from include.cutover.errors import CannotCheck

MAGIC = b"SQLite format 3\0"
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
HEADER_BYTES = 100

# The kernel stamps files with a clock that ticks every few milliseconds: two writes within one tick look like one.
CLOCK_TICK = 0.05

_NEWEST_SCHEMA = 4  # "schema format number" of https://sqlite.org/fileformat2.html
_FRACTIONS = bytes((64, 32, 32))  # bytes 21 to 23 of every header
_NOISE = 5.7  # bits per byte of the header
_KINDS = {
    b"** This file contains an SQLite 2": "a database of SQLite 2",
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a ZIP archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"\xfd7zXZ": "an XZ archive",
    bytes(16): "zeros",
}

_NAME_IT = "Name the application's database itself."
_COPY_AGAIN = "Copy it again; an interrupted copy or a full disk does this."


def require_database(path: Path, *, seconds: float = 1.0) -> None:
    """Refuse a file that is not a whole SQLite database.

    Args:
        path: The file.
        seconds: How long to keep checking a file that seems to end too early: a commit writes its header before its end.

    Raises:
        CannotCheck: When the file is missing, empty, truncated, encrypted, not a database or unreadable.
    """
    deadline = time.monotonic() + seconds
    while truncated := truncation(path, read_header(path)):
        if time.monotonic() > deadline:
            raise truncated
        time.sleep(CLOCK_TICK)


def read_header(path: Path) -> bytes:
    """Read the file's first 100 bytes.

    Raises:
        CannotCheck: When the file is missing, empty, encrypted, not a database or unreadable.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise CannotCheck("this is a directory", where=str(path), expected="an SQLite file", do=_NAME_IT)
        if not stat.S_ISREG(found.st_mode):
            raise CannotCheck("this is not a regular file", where=str(path), expected="an SQLite file", do=_NAME_IT)
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise CannotCheck("there is no such file", where=str(path), do="Check the path of the source.") from None
    except OSError as error:
        raise CannotCheck(
            "the file cannot be read",
            where=str(path),
            found=rights.reason(error),
            do="Check the rights of the user that the tasks run as.",
        ) from None
    if not header:
        raise CannotCheck(
            "the file has zero bytes",
            where=str(path),
            expected="an SQLite database",
            do="SQLite creates such a file at a wrong path: check the path first.",
        )
    if refusal := not_a_database(path, header, found.st_size):
        raise refusal
    if len(header) < HEADER_BYTES:
        expected = f"a header of {HEADER_BYTES} bytes"
        raise CannotCheck(
            "the file is truncated", where=str(path), expected=expected, found=f"{len(header)} bytes", do=_COPY_AGAIN
        )
    return header


def not_a_database(path: Path, header: bytes, size: int) -> CannotCheck | None:
    """Return the error for a file that is not an SQLite database, or is encrypted; None for one with a sound header.

    The error describes the file by its kind and shows no byte of it: the content may be secret.

    Args:
        path: The file.
        header: Its first 100 bytes, or all of a shorter one.
        size: Of the file, in bytes.
    """
    if header.startswith(MAGIC) and not _is_partly_encrypted(header):
        return None
    if header.startswith(MAGIC) or _is_encrypted(header, size):
        found = "whole pages that look like noise"
        if header.startswith(MAGIC):
            found = "a header of which only the first bytes are not encrypted"
        return CannotCheck(
            "the file is not an SQLite database, or it is encrypted",
            where=str(path),
            expected="a header that says 'SQLite format 3', and is whole",
            found=found,
            do="Decrypt it with the application's own tool first (SQLCipher, SEE), and name the decrypted file.",
        )
    return CannotCheck(
        "the file is not an SQLite database",
        where=str(path),
        expected="a header that says 'SQLite format 3'",
        found=next((kind for start, kind in _KINDS.items() if header.startswith(start)), _unknown(header)),
        do=_NAME_IT,
    )


def _is_partly_encrypted(header: bytes) -> bool:
    """Recognise SQLCipher's plaintext header, which ends before fields that SQLite keeps small, or zero."""
    return len(header) == HEADER_BYTES and int.from_bytes(header[44:48], "big") > _NEWEST_SCHEMA and any(header[72:92])


def _is_encrypted(header: bytes, size: int) -> bool:
    """Recognise whole pages of noise; text, archives and images have a header of their own.

    SEE, and others after it, leave the page's size and the fixed fractions of the header as they are.
    """
    if len(header) < HEADER_BYTES or size % 512:
        return False
    counts = [header.count(byte) for byte in set(header)]
    entropy = -sum(count / len(header) * math.log2(count / len(header)) for count in counts)
    return entropy > _NOISE or (header[21:24] == _FRACTIONS and header[0] != 0)


def _unknown(header: bytes) -> str:
    printable = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in header)
    return (
        "text" if printable else f"{len(header)} bytes of no known kind" if len(header) < HEADER_BYTES else "no known kind"
    )


def truncation(path: Path, header: bytes) -> CannotCheck | None:
    """Return the error for a file that ends before its header says; None for a whole one."""
    page = int.from_bytes(header[16:18], "big")
    pages, counter, valid_for = (int.from_bytes(header[at : at + 4], "big") for at in (28, 24, 92))
    expected = pages * (65536 if page == 1 else page)
    size = path.stat().st_size
    if not pages or counter != valid_for or size >= expected:
        return None
    return CannotCheck(
        "the file is truncated",
        where=str(path),
        expected=f"{expected} bytes ({pages} pages)",
        found=f"{size} bytes",
        do=_COPY_AGAIN,
    )


def refuse_unread_logs(path: Path) -> None:
    """Refuse a snapshot with a ``-wal`` or ``-journal`` beside it: its content would be missed."""
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if log_has_content(beside):
            raise CannotCheck(
                "a log lies beside the snapshot, and its content would be lost",
                where=str(beside),
                expected="no such file",
                do="Take the snapshot with the backup step; never copy a live database file by file.",
            )


def log_has_content(log: Path) -> bool:
    """Check whether a ``-wal`` or ``-journal`` holds anything; a journal with a zeroed header was committed and left."""
    try:
        if log.name.endswith("-journal"):
            with log.open("rb") as file:
                return file.read(len(JOURNAL_MAGIC)) == JOURNAL_MAGIC
        return log.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable_log(log, error) from None


def unreadable_log(log: Path, error: OSError) -> CannotCheck:
    """Return the error for a log that cannot be read."""
    return CannotCheck(
        "a log beside the database cannot be read, and it may hold the last commits",
        where=str(log),
        found=rights.reason(error, log),
        do="Let the user that reads the database read its -wal and -journal too.",
    )
