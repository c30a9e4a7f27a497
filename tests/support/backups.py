"""A database of odd tables, its backup, and damage to it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from include.cutover.source import backup
from include.cutover.source.backup_manifest import Manifest

RUN = "manual__2025-10-11T08:00:00+00:00"


SCHEMA = """
CREATE TABLE device (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, score REAL, raw BLOB);
CREATE TABLE pair (b TEXT COLLATE NOCASE, a INT, PRIMARY KEY (b, a DESC)) WITHOUT ROWID;
CREATE TABLE "odd ""name" (rowid TEXT, _rowid_ TEXT, oid TEXT, doubled AS (rowid || rowid));
CREATE TABLE empty (a);
CREATE VIEW names AS SELECT name FROM device;
INSERT INTO device (name, score, raw) VALUES ('ა', 0.1 + 0.2, x'00ff'), ('b', 9e999, 'text'), (NULL, NULL, NULL);
DELETE FROM device WHERE name IS NULL;
INSERT INTO pair VALUES ('b', 1), ('b', 2), ('A', 1);
INSERT INTO "odd ""name" (rowid) VALUES (NULL), (x'80'), (char(0) || 'after NUL');
"""


def make_live(path: Path, journal_mode: str = "delete") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.executescript(SCHEMA)
    path.chmod(0o660)
    return path


def take(live: Path, places: tuple[Path, Path | None], run_id: str = RUN) -> Manifest:
    return backup.take(live, *places, run_id=run_id, plan="ward_ops")


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        connection.text_factory = lambda data: data.decode(errors="surrogateescape")
        return list(connection.iterdump())


def visible(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 512)
