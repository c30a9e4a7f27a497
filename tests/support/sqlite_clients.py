"""Clients of an SQLite file: other processes with connections of their own, as the application has them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE device (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, note TEXT);
CREATE TABLE doomed (a);
CREATE INDEX by_note ON device (note);
INSERT INTO device (name, note) VALUES ('a', 'one'), ('b', 'two'), ('c', NULL);
INSERT INTO doomed VALUES (1);
"""


CLIENT = """
import importlib, json, sys
module, path = sys.argv[1:]
if module == "apsw":
    import apsw
    connection = apsw.Connection(path)
    run = lambda sql: [row for part in sql.split(";; ") for row in connection.execute(part)]
else:
    import sqlite3
    connection = sqlite3.connect(path, isolation_level=None)
    def run(sql):
        rows = []
        for part in sql.split(";; "):
            rows = connection.execute(part).fetchall()
        return rows
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    try:
        answer = {"rows": run(json.loads(line))}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Client:
    """Another process with a connection of its own, as the application has."""

    def __init__(self, module: str, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, module, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.output, self.input = self.process.stdout, self.process.stdin
        assert json.loads(self.output.readline()) == "ready"

    def ask(self, sql: str) -> Any:
        """Return SQLite's answer: rows, or the error as a string."""
        self.input.write(json.dumps(sql) + "\n")
        self.input.flush()
        answer = json.loads(self.output.readline())
        return answer.get("rows", answer.get("error"))

    def close(self) -> None:
        self.input.close()
        self.output.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def client(path: Path, module: str = "sqlite3") -> Iterator[Client]:
    """A client that has read already, so that its cache is warm."""
    found = Client(module, path)
    try:
        assert found.ask("SELECT count(*) FROM device") == [[3]]
        yield found
    finally:
        found.close()


def make_source(path: Path, journal_mode: str = "delete") -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.executescript(SCHEMA)
    path.chmod(0o664)
    return path
