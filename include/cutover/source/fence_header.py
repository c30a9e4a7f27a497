"""The header bytes of a database that the fence changes: write version, read version and both change counters."""

from __future__ import annotations

import os
from pathlib import Path

from include.cutover import files, rights
from include.cutover.errors import CannotCheck
from include.cutover.source import page_checksum
from include.cutover.source.database_file import HEADER_BYTES, not_a_database

FENCED = 3
WRITE_VERSION, READ_VERSION = 18, 19
ROLLBACK, WAL = (1, 1), (2, 2)
_CHANGE_COUNTER, _VALID_FOR = 24, 92


def read(database: Path) -> bytes:
    """Read the header.

    Raises:
        CannotCheck: When the file is missing or not a SQLite database.
    """
    try:
        if database.exists() and not database.is_file():  # reading a pipe would wait for its writer
            raise CannotCheck(
                "the database is not a regular file",
                where=str(database),
                do="Check the path in the connection of the source.",
            )
        with database.open("rb") as file:
            header, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise CannotCheck(
            "the database cannot be read",
            where=str(database),
            found=rights.reason(error, database),
            do="Check the path in the connection of the source.",
        ) from None
    if header and (refusal := not_a_database(database, header, size)):
        raise refusal
    if len(header) < HEADER_BYTES:
        raise CannotCheck(
            "the file is not an SQLite database",
            where=str(database),
            expected="the header of SQLite 3",
            found="an empty file" if not header else f"{len(header)} bytes",
            do="Check the path in the connection of the source.",
        )
    return header


def versions(database: Path) -> tuple[int, int]:
    """Return bytes 18 and 19 as they were without a fence, by the header alone.

    Raises:
        CannotCheck: When the file is missing or not a SQLite database.
    """
    write, read_version = read(database)[WRITE_VERSION : READ_VERSION + 1]
    return (read_version if write == FENCED else write, read_version)


def change_counter(database: Path) -> int:
    """Return the number of changes that SQLite counted; in WAL mode, of checkpoints. It does not go back.

    Raises:
        CannotCheck: As ``read``.
    """
    return int.from_bytes(read(database)[_CHANGE_COUNTER : _CHANGE_COUNTER + 4], "big")


def without_counters(header: bytes) -> bytes:
    """Return a header with zeros for the bytes that change without a change of the content.

    They are the write and read version, both change counters and the version of the library that wrote last.
    """
    blank = bytearray(header)
    for start, length in ((WRITE_VERSION, 2), (_CHANGE_COUNTER, 4), (_VALID_FOR, 8)):
        blank[start : start + length] = bytes(length)
    return bytes(blank)


def set_write_version(descriptor: int, write_version: int) -> None:
    """Set the write version and move both change counters, in one write of one sector, durably; then the page's checksum.

    The counters make every open connection read the header again. They move by the same step: their being equal, or not,
    tells SQLite whether the size in the header can be trusted.
    """
    header = bytearray(os.pread(descriptor, HEADER_BYTES, 0))
    header[WRITE_VERSION] = write_version
    for offset in (_CHANGE_COUNTER, _VALID_FOR):
        counter = (int.from_bytes(header[offset : offset + 4], "big") + 1) & 0xFFFFFFFF
        header[offset : offset + 4] = counter.to_bytes(4, "big")
    os.pwrite(descriptor, header, 0)
    os.fsync(descriptor)
    page_checksum.refresh(descriptor)


def remove_fence_from_copy(copy: Path, original: tuple[int, int]) -> None:
    """Write bytes 18 and 19 as they were before the fence into a copy of a fenced database, durably.

    The copy must not be open anywhere.
    """
    with files.disk_errors(copy):
        descriptor = os.open(copy, os.O_RDWR)
        try:
            os.pwrite(descriptor, bytes(original), WRITE_VERSION)
            os.fsync(descriptor)
            page_checksum.refresh(descriptor)
        finally:
            os.close(descriptor)


def refresh_checksum(database: Path) -> None:
    """Set the checksum of the first page where the database has checksums; see ``page_checksum``.

    No connection of this process may be open, and none of another may write.
    """
    for mode, act in ((os.O_RDONLY, page_checksum.is_wrong), (os.O_RDWR, page_checksum.refresh)):
        with files.disk_errors(database):
            descriptor = os.open(database, mode)
            try:
                if not act(descriptor):
                    return
            finally:
                os.close(descriptor)
