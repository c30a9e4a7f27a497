"""SQLite files for tests: sound ones, and ones spoilt in every way."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw

from include.cutover.source.database_file import JOURNAL_MAGIC

NOBODY = 65534


def database(path: Path, *statements: str) -> Path:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


@contextlib.contextmanager
def as_somebody_else() -> Iterator[Path]:
    """A folder of ours, and rights that do not reach into it to write: root gives up being root for a moment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        before = os.geteuid()
        if before == 0:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(before)
            folder.chmod(0o755)


def spoilt(kind: str, simple: Path) -> Path:
    path, good = simple.with_name(kind), simple.read_bytes()
    match kind:
        case "directory":
            path.mkdir()
        case "zero bytes":
            path.touch()
        case "text":
            path.write_text("id,name\n1,one\n" * 50)
        case "short":
            path.write_bytes(good[:60])
        case "truncated":
            path.write_bytes(good[:-8192])
        case "encrypted":
            path.write_bytes(hashlib.shake_256(b"noise").digest(16384))
        case "encrypted but for its header":  # SQLCipher's plaintext header of 32 bytes
            path.write_bytes(good[:32] + hashlib.shake_256(b"noise").digest(len(good) - 32))
        case "encrypted but for its sizes":  # as SEE and SQLite3 Multiple Ciphers leave a header; little noise
            path.write_bytes(b"\x11" * 16 + good[16:24] + b"\x11" * (len(good) - 24))
        case "archive":
            path.write_bytes(gzip.compress(good, mtime=0))
        case "pipe":
            os.mkfifo(path)
        case "damaged":
            path.write_bytes(good[:100] + b"\xff" * 4000 + good[4100:])
        case "wal beside":
            path.write_bytes(good)
            path.with_name(path.name + "-wal").write_bytes(b"x" * 100)
        case "journal beside":
            path.write_bytes(good)
            path.with_name(path.name + "-journal").write_bytes(JOURNAL_MAGIC + b"x" * 100)
    return path
