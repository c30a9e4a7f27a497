"""The judge: looks at what is left from outside, and believes neither the evidence's word nor the product's code.

SQLite is read with the standard library's module, PostgreSQL with plain queries, the chain of events is hashed anew. The
application's answers stand in its own journal.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import stat
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg

from include.cutover.evidence.record import Evidence
from tests.exploring import judging_kept, judging_target
from tests.exploring.others import BY_HAND, DEED
from tests.exploring.shop import PROGRAMS, WRITTEN
from tests.exploring.site import SCHEMA, Site

Table = dict[Any, tuple[Any, ...]]

QUERIES = {
    "authors": "SELECT id, id, name FROM authors",
    "books": "SELECT id, id, author_id, title, price FROM books",
    "Odd Table": 'SELECT "select", "select", "ქართული" FROM "Odd Table"',
}


def of_sqlite(file: Path) -> dict[str, Table]:
    """Every row of a database that nobody changes, by its key."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as connection:
        return {table: {row[0]: row[1:] for row in connection.execute(query)} for table, query in QUERIES.items()}


def of_postgresql(conninfo: str, schema: str) -> dict[str, Table]:
    """The same of a schema, with PostgreSQL's types as SQLite would have them."""
    found: dict[str, Table] = {}
    with psycopg.connect(conninfo) as connection:
        connection.execute(f'SET search_path = "{schema}"'.encode())
        for table, query in QUERIES.items():
            found[table] = {row[0]: tuple(_plain(value) for value in row[1:]) for row in connection.execute(query.encode())}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return float(value) if hasattr(value, "as_tuple") else value


@dataclass(frozen=True)
class Before:
    """The site before the first run.

    Attributes:
        content: Rows of the source, without those that the application writes.
    """

    content: dict[str, Table]
    owner: tuple[int, int, int]
    configuration: str

    @classmethod
    def of(cls, site: Site) -> Before:
        status = site.shop.database.stat()
        return cls(
            _given(of_sqlite(site.shop.database)),
            (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)),
            site.shop.configuration.read_text(),
        )


def _given(content: dict[str, Table]) -> dict[str, Table]:
    """Without the rows that the application wrote."""
    return {
        table: {key: row for key, row in rows.items() if not (table == "books" and str(row[2]).startswith(WRITTEN))}
        for table, rows in content.items()
    }


def _titles(content: dict[str, Table]) -> set[str]:
    return {row[2] for row in content["books"].values() if str(row[2]).startswith(WRITTEN)}


class Judge:
    """Collects what is not as it must be."""

    def __init__(self, site: Site, before: Before) -> None:
        self.site = site
        self.before = before
        self.faults: list[str] = []

    def must(self, so: bool, otherwise: str) -> None:
        if not so:
            self.faults.append(otherwise)

    def verdict(self, outcome: str) -> list[str]:
        """Look at everything; ``outcome`` is how the last run is sealed.

        Returns:
            List the faults; empty when exactly one of the two states holds, and all that was promised on the way to it.
        """
        self._chains()
        self._never_both()
        if outcome == "live":
            self._live_on_postgresql()
        elif outcome in ("rolled_back", "released", "abandoned"):
            self._live_on_sqlite(outcome)
        else:
            self.faults.append(f"the last run ended as {outcome}")
        return self.faults

    # -- both states

    def _chains(self) -> None:
        for path in self.site.evidence.glob("*/*/events.jsonl"):
            previous = "0" * 64
            for number, line in enumerate(path.read_bytes().split(b"\n")[:-1]):
                event = json.loads(line)
                self.must(
                    event["previous"] == previous and event["seq"] == number, f"{path.parent.name}: broken at event {number}"
                )
                previous = hashlib.sha256(line).hexdigest()

    def _never_both(self) -> None:
        """No row was taken by PostgreSQL while SQLite would have taken one as well, unless somebody opened the file."""
        opened = min((line["at"] for line in self._deeds_on_file()), default=float("inf"))
        taken = [line for line in self._written() if line["database"] == "postgresql" and line["at"] < opened]
        both = [line for line in taken if not line["fenced"]]
        self.must(not both, f"written to PostgreSQL while the SQLite file was writable: {both[:2]}")

    def _written(self) -> list[dict[str, Any]]:
        """Return every row that the application, or another program, was promised."""
        return [line for line in self.site.shop.journal.read() if line["what"] == "written"]

    def _deeds(self) -> list[dict[str, Any]]:
        return [line for line in self.site.shop.journal.read() if line["what"] == DEED]

    def _deeds_on_file(self) -> list[dict[str, Any]]:
        """Return what others did to the file itself, fence and all."""
        return [line for line in self._deeds() if line.get("file")]

    def _answers(self) -> dict[str, Any]:
        with httpx.Client(trust_env=False, timeout=5) as client:
            try:
                answer: dict[str, Any] = client.get(f"{self.site.shop.url}/health").json()
            except httpx.HTTPError as error:
                return {"status": f"no answer: {type(error).__name__}"}
            return answer

    def _serves(self, kind: str) -> None:
        answer = self._answers()
        self.must(answer == {"status": "ok", "database": kind}, f"the application must run on {kind} and says {answer}")
        started = {}
        for line in self.site.shop.journal.read():
            if line["what"] == "start":
                started[line["program"]] = line["database"]
        self.must(started == dict.fromkeys(PROGRAMS, kind), f"the programs run on {started}")
        # Each program writes, now.
        begun, missing = time.time(), set(PROGRAMS)
        while missing and time.time() < begun + 5:
            fresh = [line for line in self.site.shop.journal.read() if line["at"] > begun and line["what"] == "written"]
            missing = set(PROGRAMS) - {line["program"] for line in fresh if line["database"] == kind}
            time.sleep(0.01)
        self.must(not missing, f"{', '.join(sorted(missing))} cannot write to {kind}")

    def _acknowledged(self, kind: str, since: float = 0) -> set[str]:
        return {line["title"] for line in self._written() if line["database"] == kind and line["at"] > since}

    def _by_hand(self) -> set[str]:
        """Return the rows in files that a person moved into a folder of their own: that person has them."""
        found: set[str] = set()
        for file in (self.site.folder / BY_HAND).glob(f"*/{self.site.shop.database.name}"):
            with suppress(sqlite3.Error):  # a file without its tables
                found |= _titles(of_sqlite(file))
        return found

    def _moment(self, event: str) -> float:
        """When that was recorded last, in the last run that opened."""
        found = self.site.opened[-1].last(event)
        return datetime.fromisoformat(found["time"]).timestamp() if found else 0.0

    def _configuration(self) -> str:
        return self.site.shop.configuration.read_text()

    # -- live on PostgreSQL

    def _live_on_postgresql(self) -> None:
        site = self.site
        self.must(
            f"@127.0.0.1:{site.cluster.port}/{site.database}" in self._configuration(), "the configuration is not switched"
        )
        self._serves("postgresql")
        taken = of_sqlite(self._backup())
        # What PostgreSQL took before an earlier rollback is kept elsewhere. What other programs write to the retired file
        # after the switch is theirs.
        switched = self.site.shop.configuration.stat().st_mtime
        late = {line["title"] for line in self._written() if line["program"] == "rogue" and line["at"] > switched}
        promised = self._acknowledged("postgresql", since=self._moment("backup")) | self._acknowledged("sqlite") - late
        found = of_postgresql(site.conninfo, SCHEMA)
        for table, rows in taken.items():
            different = [key for key, row in rows.items() if found[table].get(key) != row]
            self.must(not different, f"PostgreSQL differs from the backup in {table}: {different[:5]}")
            more = [row for key, row in found[table].items() if key not in rows]
            strange = [row for row in more if not (table == "books" and str(row[2]).startswith(WRITTEN))]
            self.must(not strange, f"PostgreSQL has rows in {table} that nobody wrote: {strange[:3]}")
        self.must(_given(taken) == self.before.content, "the backup is not what the source was")
        lost = promised - _titles(found) - self._by_hand()
        self.must(not lost, f"{len(lost)} rows that the application was promised are lost: {sorted(lost)[:3]}")
        self._kept_and_named(but=SCHEMA, since=self._moment("backup"))
        self.faults += judging_target.faults(site)
        if not any(line["at"] > switched for line in self._deeds_on_file()):
            self._fenced_source()

    def _fenced_source(self) -> None:
        file = self.site.shop.database
        self.must(file.read_bytes()[18] == 3, "the source is not fenced")
        try:
            with closing(sqlite3.connect(file, timeout=0.1)) as connection:
                connection.execute("UPDATE authors SET name = name")
            self.faults.append("the source takes writes")
        except sqlite3.OperationalError:
            pass

    def _backup(self) -> Path:
        event = self.site.opened[-1].last("backup")
        assert event is not None
        path = Path(event["file"])
        self.must(hashlib.sha256(path.read_bytes()).hexdigest() == event["sha256"], "the backup is not what was recorded")
        return path

    # -- live on SQLite

    def _live_on_sqlite(self, outcome: str) -> None:
        file = self.site.shop.database
        self.must(f"sqlite:///{file}" in self._configuration(), "the configuration does not name the SQLite file")
        if outcome == "abandoned":
            self.must(self._configuration() == self.before.configuration, "the configuration was touched")
        self.must(not list(file.parent.glob("*.fence.json")), "the fence's note is still there")
        self.must(file.read_bytes()[18] in (1, 2), "the source is still fenced")
        status = file.stat()
        found = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        self.must(found == self.before.owner, f"owner, group and mode were {self.before.owner} and are {found}")
        self._serves("sqlite")
        promised = self._acknowledged("sqlite")  # read first: the programs go on writing
        content = of_sqlite(file)
        self.must(_given(content) == self.before.content, "rows of the source are lost or changed")
        lost = promised - _titles(content) - self._by_hand()
        self.must(not lost, f"{len(lost)} rows that SQLite took are lost: {sorted(lost)[:3]}{self._whereabouts(lost)}")
        if outcome == "rolled_back" and not self._deeds():
            self._restored()
        self._target_is_aside()

    def _restored(self) -> None:
        """The file was the backup, alone, at the moment when the first program started on it."""
        restored = [
            event
            for event in self.site.opened[-1].events()
            if event["event"] == "step.end"
            and event["step"] == "rollback.restore_source"
            and "sha256" in event.get("figures", {})
        ]
        if not restored:  # there was no verified backup yet: nothing was overwritten
            return
        begun = datetime.fromisoformat(restored[0]["time"]).timestamp()
        starts = [line for line in self.site.shop.journal.read() if line["what"] == "start" and line["database"] == "sqlite"]
        after = [line for line in starts if line["at"] > begun]
        self.must(bool(after), "no program was started on the restored file")
        if after:
            digest = hashlib.sha256(self._backup().read_bytes()).hexdigest()
            self.must(
                after[0].get("sha256") == digest, "the restored file was not the backup when the first program started"
            )
            self.must(not after[0].get("beside"), f"beside the restored file lay {after[0].get('beside')}")

    def _target_is_aside(self) -> None:
        """Nothing in the target is in the way of the application's truth, or of a later run."""
        with psycopg.connect(self.site.conninfo) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [SCHEMA]).fetchall()
            filled = []
            for (table,) in tables:
                row = connection.execute(f'SELECT EXISTS (SELECT FROM "{SCHEMA}"."{table}")'.encode()).fetchone()
                if row == (True,) and table != "schema_migrations":
                    filled.append(table)
        pending = any(_seq(run, "target.pending") > _seq(run, "target.kept") for run in self.site.opened)
        self.must(not filled or pending, f"the target still holds {filled}, and nothing says so")
        self._kept_and_named()

    def _kept_and_named(self, *, but: str = "", since: float = float("inf")) -> None:
        """Every row that PostgreSQL took before ``since`` lies in a schema; a report, an export or a document names it."""
        promised = self._acknowledged("postgresql") - self._acknowledged("postgresql", since=since)
        with psycopg.connect(self.site.conninfo) as connection:
            schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", [f"{SCHEMA}%"]).fetchall()
        for (schema,) in schemas:
            if schema != but:
                with suppress(psycopg.errors.UndefinedTable):
                    found = _titles(of_postgresql(self.site.conninfo, schema)) & promised
                    unnamed = judging_kept.unnamed(self.site, schema, found)
                    self.must(not unnamed, f"{len(unnamed)} rows in {schema} are named nowhere: {sorted(unnamed)[:3]}")
                    promised -= found
        self.must(not promised, f"{len(promised)} rows that PostgreSQL took are kept nowhere: {sorted(promised)[:3]}")

    def _whereabouts(self, lost: set[str]) -> str:
        """Say in which kept files lost rows lie; that helps to find the cause."""
        for file in self.site.evidence.rglob(f"kept/**/{self.site.shop.database.name}"):
            with suppress(sqlite3.Error):
                if there := lost & _titles(of_sqlite(file)):
                    return f"; {len(there)} of them in {file.relative_to(self.site.folder)}"
        return ""


def _seq(run: Evidence, event: str) -> int:
    found = run.last(event)
    return -1 if found is None else int(found["seq"])
