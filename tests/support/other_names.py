"""A file under another name: a program that writes through a hard link and is killed, mounts in namespaces of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WRITER = """
import sqlite3, sys, time
path, mode, rows, table = sys.argv[1:]
connection = sqlite3.connect(path, isolation_level=None)
connection.execute(f"PRAGMA journal_mode={mode}")
connection.execute("PRAGMA wal_autocheckpoint=0")
if mode == "delete":  # a transaction that is killed after its pages were written
    connection.execute("PRAGMA cache_size=1")
    connection.execute("PRAGMA cache_spill=1")
    connection.execute("BEGIN IMMEDIATE")
for number in range(int(rows)):
    name = f"row {number} " + "x" * (2000 if mode == "delete" else 1)
    connection.execute(f"INSERT INTO {table} (name) VALUES (?)", [name])
print("written", flush=True)
time.sleep(600)
"""

MOUNTER = """
import subprocess, sys, time
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
for source, place in zip(sys.argv[1::2], sys.argv[2::2]):
    subprocess.run(["mount", "--bind", source, place], check=True)
print("mounted", flush=True)
time.sleep(600)
"""


def killed_writer(path: Path, mode: str = "wal", rows: int = 50, table: str = "device") -> None:
    """Write rows through that name in another process, and kill it before it can close the file."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), mode, str(rows), table], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def require_mounts() -> None:
    """Skip the test where this user may not mount anything."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make a mount namespace")


@contextmanager
def elsewhere(*pairs: Path) -> Iterator[int]:
    """A process in a mount namespace of its own, as in a container, that sees each first path at the second one.

    The mounts go with the process: they cannot outlive the test.
    """
    require_mounts()
    process = subprocess.Popen(
        ["unshare", "-m", sys.executable, "-c", MOUNTER, *map(str, pairs)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "mounted\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
