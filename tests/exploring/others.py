"""The others: people, their programs and the host, who act on file, services and target between two steps of a run.

Each deed stands in the application's journal with its time, so that the judge knows of it from outside.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from tests.exploring.shop import PROGRAMS, WRITTEN, forked
from tests.exploring.site import SCHEMA, Site

DEED = "deed"  # how the journal calls what others did
SIDE_FILES = ("-wal", "-shm", "-journal")
BY_HAND = "by a person"

ON_ROWS = (
    "UPDATE books SET title = 'changed by a person' WHERE id = 7",
    "UPDATE books SET price = price + 0.25 WHERE id = 11",
    "UPDATE authors SET name = 'changed by a person' WHERE id = 3",
    "DELETE FROM books WHERE id = 13",
    """DELETE FROM "Odd Table" WHERE "select" = 'b'""",
    "INSERT INTO books (id, author_id, title, price) VALUES (900001, 1, 'inserted by a person', 1)",
    "INSERT INTO books (id, author_id, title, price) VALUES (900002, 77, 'an orphan by a person', 1)",
    "INSERT INTO authors (id, name) VALUES (900001, 'inserted by a person')",
)
"""Statements that change rows; none of them a row that the application wrote."""

ON_STRUCTURE = (
    "ALTER TABLE books DROP CONSTRAINT books_author_id_fkey",
    "ALTER TABLE books DISABLE TRIGGER ALL",
    "SELECT setval(pg_get_serial_sequence('books', 'id'), 5)",
    "SELECT setval(pg_get_serial_sequence('authors', 'id'), 5)",
    "ALTER TABLE books ALTER title TYPE text",
    "ALTER TABLE books ALTER price TYPE numeric(12,4)",
    "ALTER TABLE authors ALTER name DROP NOT NULL",
    'ALTER TABLE "Odd Table" SET UNLOGGED',
    "ALTER TABLE books ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE authors ENABLE ROW LEVEL SECURITY",
    "CREATE RULE not_at_all AS ON INSERT TO books DO INSTEAD NOTHING",
    "CREATE RULE not_at_all AS ON UPDATE TO books DO INSTEAD NOTHING",
    "CREATE RULE not_at_all AS ON DELETE TO authors DO INSTEAD NOTHING",
    "DROP INDEX books_author_id_idx",
    "ALTER TABLE books ADD CONSTRAINT no_more CHECK (id < 2500) NOT VALID",
    "REVOKE ALL ON books FROM {role}",
    "REVOKE USAGE ON SCHEMA {schema} FROM {role}",
    "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}",
    "ALTER ROLE {role} LOGIN",
    "ALTER ROLE {role} SET default_transaction_read_only = on",
)
"""Statements that change structure, rules, rights, sequences, persistence or row security."""

HARMLESS = (
    "GRANT CONNECT ON DATABASE {database} TO pg_monitor",
    "GRANT SELECT ON books TO pg_monitor",
    "GRANT INSERT, UPDATE ON authors TO pg_monitor",
    "GRANT SELECT ON books TO PUBLIC",
    "ALTER TABLE books SET (autovacuum_vacuum_scale_factor = 0.01)",
    "CREATE INDEX by_title ON books (title)",
    "ALTER ROLE {role} SET log_statement = 'none'",
    "ANALYZE books",
    "VACUUM books",
    "COMMENT ON TABLE books IS 'of the library'",
)
"""Daily work of an administrator, which stops no go-live."""


class Others:
    """The deeds of others at a site; all that is random comes from ``chosen``."""

    def __init__(self, site: Site, chosen: random.Random) -> None:
        self.site = site
        self.shop = site.shop
        self.random = chosen
        self.holders: list[int] = []
        self.prepared: list[str] = []
        self.away: Path | None = None
        self.count = 0
        self.acted = False

    def deeds(self) -> list[Callable[[], None]]:
        """Return everything that they may do, the frequent ones several times."""
        many = [self.start_application] * 4 + [self.change_target] * 5 + [self.write] * 2 + [self.break_fence] * 2
        many += [self.work_daily] * 2
        many += [self.hold, self.let_go, self.move_away, self.put_back, self.lay_beside, self.prepare, self.end_prepared]
        return many

    def close(self) -> None:
        """End what they still hold."""
        self.let_go()
        if self.prepared:
            self.end_prepared(commit=False)

    def _told(self, what: str, **facts: object) -> None:
        self.acted = True
        self.site.trace.append(what)
        self.shop.journal.write(DEED, did=what, **facts)

    # -- the host

    def reboot(self) -> None:
        """Everything dies at once; the services come up by themselves, with what lies there at that instant."""
        self.shop.journal.write(DEED, did="reboot")
        self.site.world.go_down()
        self.let_go(of_itself=True)
        self.shop.close()
        postgresql = self.random.random()
        if postgresql < 0.3:
            self.site.cluster.stop(signal.SIGQUIT)
        if postgresql < 0.15:
            self.site.start_postgresql()
        begun = time.time()
        self.shop.open()
        self.shop.await_writes(self.shop.up(), begun)
        if 0.15 <= postgresql < 0.3:  # the services were faster
            self.site.start_postgresql()
        on = "PostgreSQL" if self.shop.on_postgresql else "SQLite"
        self._told(f"the host is rebooted, {'with' if postgresql < 0.3 else 'without'} PostgreSQL; services came up on {on}")

    # -- the services

    def start_application(self) -> None:
        """A person starts services with the configuration as it is, and may stop them again."""
        names = self.random.choice((PROGRAMS, PROGRAMS, PROGRAMS[:1], PROGRAMS[1:]))
        stays = self.random.random() < 0.5
        down = [name for name in names if name not in self.shop.up()]
        self._told(f"a person starts {', '.join(down) or 'nothing'}{'' if stays else ', and stops it again'}")
        self.shop.start(down)
        if not stays:
            self.shop.stop(down)

    # -- the file

    def write(self) -> None:
        """A program that nobody knows writes a row, where SQLite lets it; it may die without closing the file."""
        self.count += 1
        title, dies = f"{WRITTEN}rogue {self.count}", self.random.random() < 0.4
        child = forked(lambda: self._insert(title, dies=dies))
        os.waitpid(child, 0)
        done = any(line["what"] == "written" and line["title"] == title for line in self.shop.journal.read())
        self._told(f"another program writes to the file: {'done' if done else 'refused'}{', and dies' if dies else ''}")

    def _insert(self, title: str, *, dies: bool) -> None:
        connection = sqlite3.connect(f"file:{self.shop.database}?mode=rw", uri=True, timeout=0.2, isolation_level=None)
        connection.execute("INSERT INTO books (author_id, title, price) VALUES (1, ?, 0.5)", [title])
        fresh = not connection.execute("SELECT count(*) FROM authors").fetchone()[0]
        self.shop.journal.write("written", program="rogue", database="sqlite", title=title, fenced=False, fresh=fresh)
        if dies:
            os._exit(0)
        connection.close()

    def break_fence(self) -> None:
        """Somebody restores the header, and mostly writes."""
        file = self.shop.database
        if not file.exists() or not self.shop.fenced:
            return
        file.chmod(stat.S_IMODE(file.stat().st_mode) | stat.S_IWUSR | stat.S_IWGRP)
        with file.open("r+b") as opened:
            opened.seek(19)
            version = opened.read(1)
            opened.seek(18)
            opened.write(version)
        self._told("somebody breaks the fence", file=True)
        if self.random.random() < 0.7:
            self.write()

    def hold(self) -> None:
        """Somebody opens the file and keeps it open: plainly, reading, or in a transaction that wants to write."""
        how = self.random.choice(("plainly", "reading", "writing"))
        if not self.shop.database.exists():
            return
        reading, writing = os.pipe()
        self.holders.append(forked(lambda: self._keep_open(how, writing)))
        os.close(writing)
        os.read(reading, 1)  # until it is open, or was refused
        os.close(reading)
        self._told(f"somebody holds the file open, {how}")

    def _keep_open(self, how: str, ready: int) -> None:
        file = self.shop.database.open("rb")
        if how != "plainly":
            connection = sqlite3.connect(f"file:{self.shop.database}?mode=rw", uri=True, timeout=0.1, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE" if how == "writing" else "BEGIN")
            connection.execute("SELECT count(*) FROM authors").fetchone()
        os.close(ready)
        while os.getppid() != 1 and not file.closed:
            time.sleep(0.05)

    def let_go(self, *, of_itself: bool = False) -> None:
        """End those who hold the file open."""
        for pid in self.holders:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self.holders and not of_itself:
            self._told("the file is let go")
        self.holders.clear()

    def _nobody_works(self) -> bool:
        """Return True when no step and no program is in the middle of something; then a file can be moved whole."""
        return not self.site.world.attempts and not self.holders and not self.shop.up()

    def move_away(self) -> None:
        """Somebody moves the file to another folder, with or without the fence's note."""
        file = self.shop.database
        if self.away is not None or not file.exists() or not self._nobody_works():
            return
        self.count += 1
        self.away = self.site.folder / BY_HAND / str(self.count)
        self.away.mkdir(parents=True)
        note = self.random.random() < 0.5
        for path in file.parent.glob(f"{file.name}*"):
            if note or path.suffix != ".json":
                path.rename(self.away / path.name)
        self._told(f"somebody moves the file away, {'with' if note else 'without'} the fence's note", file=True)

    def put_back(self) -> None:
        """Put the file back that was moved away, where its place is free."""
        if self.away is None or self.shop.database.exists():
            return
        for path in self.away.iterdir():
            with suppress(FileExistsError):
                if not (place := self.shop.database.with_name(path.name)).exists():
                    path.rename(place)
        self.away = None
        self._told("somebody puts the file back", file=True)

    def clear_place(self) -> None:
        """A person takes whatever lies in the place of the file into a folder of their own."""
        self.count += 1
        folder = self.site.folder / BY_HAND / str(self.count)
        folder.mkdir(parents=True)
        for path in self.shop.database.parent.glob(f"{self.shop.database.name}*"):
            shutil.move(path, folder / path.name)
        self._told("a person takes the file there away", file=True)

    def lay_beside(self) -> None:
        """Somebody leaves a file beside the database that has the name of a log and is none."""
        beside = self.shop.database.with_name(self.shop.database.name + self.random.choice(("-wal", "-journal")))
        there = any(self.shop.database.with_name(self.shop.database.name + suffix).exists() for suffix in SIDE_FILES)
        if there or not self.shop.database.exists() or not self._nobody_works():
            return
        beside.write_bytes(self.random.choice((b"", b"\0" * 512, b"no log " * 100)))
        self._told(f"somebody leaves {beside.name} there", file=True)

    # -- the target

    def change_target(self) -> None:
        """An administrator changes the target, unless the application is on it already: then it is its data."""
        if self.shop.on_postgresql:
            return
        self.change_with(self.random.choice(self.random.choice((ON_ROWS, ON_STRUCTURE))), replica=self.random.random() < 0.5)

    def work_daily(self) -> None:
        """An administrator does what changes no read and no write."""
        if self.shop.on_postgresql:
            return
        self.change_with(self.random.choice(HARMLESS), replica=False)

    def change_with(self, statement: str, *, replica: bool) -> None:
        """Carry out one statement as superuser; ``replica`` passes by ordinary triggers and foreign keys."""
        self._told(f"on the target{' as a replica' if replica else ''}: {statement}: {self._carry_out(statement, replica)}")

    def prepare(self) -> None:
        """An administrator leaves a prepared transaction that changed rows of the target."""
        if self.shop.on_postgresql:
            return
        statement = self.random.choice(ON_ROWS)
        self.count += 1
        name = f"{self.site.database} {self.count}"
        done = self._carry_out(f"{statement}; PREPARE TRANSACTION '{name}'", self.random.random() < 0.5, alone=False)
        if done == "done":
            self.prepared.append(name)
        self._told(f"a transaction is prepared on the target: {statement}: {done}")

    def end_prepared(self, *, commit: bool | None = None) -> None:
        """Commit or roll back what was prepared."""
        chosen = self.random.random() < 0.5 if commit is None else commit
        for name in list(self.prepared):
            done = self._carry_out(f"{'COMMIT' if chosen else 'ROLLBACK'} PREPARED '{name}'", False)
            if done == "done" or "does not exist" in done:
                self.prepared.remove(name)
            self._told(f"the prepared transaction is {'committed' if chosen else 'rolled back'}: {done}")

    def _carry_out(self, statement: str, replica: bool, *, alone: bool = True) -> str:
        names = {"role": self.site.role, "schema": SCHEMA, "database": self.site.database}
        for name, value in names.items():
            statement = statement.replace("{" + name + "}", f'"{value}"')
        options = "-c lock_timeout=300 -c statement_timeout=3000"
        options += " -c session_replication_role=replica" if replica else ""
        try:
            with closing(psycopg.connect(self.site.conninfo, autocommit=True, options=options)) as connection:
                connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(SCHEMA)))
                if not alone:
                    connection.execute("BEGIN")
                for part in statement.split("; "):
                    done = connection.execute(part.encode())
                return "done" if done.rowcount else "nothing to change"
        except psycopg.Error as error:
            return f"refused, {str(error).splitlines()[0][:80]}"
