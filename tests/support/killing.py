"""A process that is killed with SIGKILL before and after each of its steps, one after the other.

Steps are the calls that change a file, and, where asked for, the statements that are sent to PostgreSQL.
"""

from __future__ import annotations

import itertools
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg.sql import Composable

CHANGING = (
    *("open", "write", "pwrite", "ftruncate", "truncate", "fsync"),
    *("rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir"),
    *("chmod", "fchmod", "chown", "fchown"),
)


def kill_at_every_step(
    begin: Callable[[], object], action: Callable[[], object], *, after: bool = True, statements: bool = False
) -> Iterator[str]:
    """Run ``action`` in a child process again and again, each time killed one step later, until it comes to its end.

    Args:
        begin: Called before each run, to put everything back as it was.
        after: Also kill right after each step, and around fsync. Needed where something else, such as SQLite, writes between
            two steps; else what is on disk is the same as before the next step.
        statements: Statements that change something in PostgreSQL are steps too. Before one, everything that was to be
            committed before is committed, so there is no more to see after it.

    Yields:
        Where the child was killed, e.g. ``after rename (7)``; look at what it left then.
    """
    for number in itertools.count():
        begin()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                point = _die_at(number, writing, after, statements)
                action()
                point("at", "the end")
                os._exit(0)
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            where = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            assert number > 3, "nothing was changed, so nothing was tested"
            return
        assert code == -signal.SIGKILL, f"the child failed by itself, exit status {code}"
        yield where


def _die_at(number: int, report: int, after: bool, statements: bool) -> Callable[[str, str], None]:
    points = itertools.count()
    write = os.write

    def point(when: str, name: str) -> None:
        if next(points) == number:
            write(report, f"{when} {name} ({number})".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def dangerous(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return original(*arguments, **keywords)
            point("before", name)
            result = original(*arguments, **keywords)
            if after:
                point("after", name)
            return result

        return call

    def sent(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(cursor: Any, query: Any, *arguments: Any, **keywords: Any) -> Any:
            text = query.as_string(cursor.connection) if isinstance(query, Composable) else query
            text = text.decode() if isinstance(text, bytes) else text
            if not text.lstrip().startswith("SELECT") or "pg_terminate_backend" in text:
                point("before", text)
            return original(cursor, query, *arguments, **keywords)

        return call

    for name in CHANGING if after else set(CHANGING) - {"fsync"}:
        setattr(os, name, dangerous(name, getattr(os, name)))
    if statements:
        for kind in (psycopg.Cursor, psycopg.ServerCursor):
            kind.execute = sent(kind.execute)  # type: ignore[method-assign]
    return point
