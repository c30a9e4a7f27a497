"""The judge turns red on every planted fault, and on nothing else.

One site is live and one was rolled back; each test spoils one and mends it.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from unittest import mock

import psycopg
import pytest

from tests.exploring import judging_kept
from tests.exploring.arena import Arena
from tests.exploring.judging import Before, Judge
from tests.exploring.others import BY_HAND
from tests.exploring.shop import WRITTEN
from tests.exploring.site import PLAN, SCHEMA, Site


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as made:
        yield made


Judged = Callable[[], list[str]]


@pytest.fixture(scope="module")
def live(arena: Arena) -> Iterator[tuple[Site, Judged]]:
    with arena.site("live") as site:
        before = Before.of(site)
        site.trigger("one")
        site.world.walk()
        yield site, lambda: judged_at(site, before, "live")


def judged_at(site: Site, before: Before, outcome: str) -> list[str]:
    """Judge with the site's own addresses: each test has others, and here are two sites."""
    with mock.patch.dict(os.environ, site.environment):
        return Judge(site, before).verdict(outcome)


@pytest.fixture(scope="module")
def back(arena: Arena) -> Iterator[tuple[Site, Judged]]:
    """Rolled back after go-live: there are rows that PostgreSQL took."""
    with arena.site("back") as site:
        before = Before.of(site)
        site.trigger("one")
        site.world.walk()
        site.trigger_rollback("two")
        site.world.walk()
        yield site, lambda: judged_at(site, before, "rolled_back")


def execute(site: Site, *statements: str) -> None:
    with psycopg.connect(site.conninfo, autocommit=True) as connection:
        connection.execute(f'SET search_path = "{SCHEMA}"'.encode())
        for statement in statements:
            connection.execute(statement.replace("{role}", f'"{site.role}"').encode())


def test_a_sound_site_has_no_faults(live: tuple[Site, Judged], back: tuple[Site, Judged]) -> None:
    assert (live[1](), back[1]()) == ([], [])


KEY = "ALTER TABLE books ADD CONSTRAINT books_author_id_fkey FOREIGN KEY (author_id) REFERENCES authors (id)"
ON_TARGET = {
    "a changed row": ("UPDATE books SET price = 9 WHERE id = 7", "UPDATE books SET price = 1.75 WHERE id = 7", "differs"),
    "a lost row": (
        'DELETE FROM "Odd Table" WHERE "select" = \'b\'',
        "INSERT INTO \"Odd Table\" VALUES ('b', false)",
        "differs",
    ),
    "a row of nobody": (
        "INSERT INTO authors (id, name) VALUES (900, 'who?')",
        "DELETE FROM authors WHERE id = 900",
        "nobody wrote",
    ),
    "a dropped key": ("ALTER TABLE books DROP CONSTRAINT books_author_id_fkey", KEY, "lacks"),
    "a key that was not validated": (
        f"ALTER TABLE books DROP CONSTRAINT books_author_id_fkey; {KEY} NOT VALID",
        "ALTER TABLE books VALIDATE CONSTRAINT books_author_id_fkey",
        "lacks",
    ),
    "triggers that are off": ("ALTER TABLE books DISABLE TRIGGER ALL", "ALTER TABLE books ENABLE TRIGGER ALL", "lacks"),
    "a rule": (
        "CREATE RULE no AS ON DELETE TO authors DO INSTEAD NOTHING",
        "DROP RULE no ON authors",
        "rule authors",
    ),
    "row security": (
        "ALTER TABLE authors ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE authors DISABLE ROW LEVEL SECURITY",
        "cannot work",
    ),
    "a table that is not logged": ('ALTER TABLE "Odd Table" SET UNLOGGED', 'ALTER TABLE "Odd Table" SET LOGGED', "lacks"),
    "another type": ("ALTER TABLE books ALTER title TYPE text", "ALTER TABLE books ALTER title TYPE varchar(100)", "lacks"),
    "a column that may be null": (
        "ALTER TABLE authors ALTER name DROP NOT NULL",
        "ALTER TABLE authors ALTER name SET NOT NULL",
        "lacks",
    ),
    "a dropped index": ("DROP INDEX books_author_id_idx", "CREATE INDEX ON books (author_id)", "lacks"),
    "a sequence that was set back": (
        "SELECT setval(pg_get_serial_sequence('authors', 'id'), 19)",
        "SELECT setval(pg_get_serial_sequence('authors', 'id'), 60)",
        "sequence of authors",
    ),
    "a trigger": (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER no BEFORE UPDATE ON authors FOR EACH ROW EXECUTE FUNCTION no()",
        "DROP FUNCTION no() CASCADE",
        "is not updated",
    ),
    "a right that is missing": ("REVOKE DELETE ON authors FROM {role}", "GRANT DELETE ON authors TO {role}", "cannot work"),
    "a prepared transaction": (
        "BEGIN; UPDATE authors SET name = 'later' WHERE id = 4; PREPARE TRANSACTION 'later'",
        "ROLLBACK PREPARED 'later'",
        "prepared transactions",
    ),
}


@pytest.mark.parametrize(("plant", "mend", "word"), ON_TARGET.values(), ids=ON_TARGET.keys())
def test_a_live_target_with_a_fault_is_red(live: tuple[Site, Judged], plant: str, mend: str, word: str) -> None:
    site, judged = live
    execute(site, *plant.split("; ", plant.count("PREPARE") * 2))
    try:
        faults = judged()
    finally:
        execute(site, mend)
    assert any(word in fault for fault in faults), faults


def test_a_lost_row_of_the_application_is_red(live: tuple[Site, Judged], back: tuple[Site, Judged]) -> None:
    """A promise that no database kept, on either side."""
    for (site, judged), kind in ((live, "postgresql"), (live, "sqlite"), (back, "postgresql"), (back, "sqlite")):
        title = f"{WRITTEN}nobody on {kind}"
        journal = site.shop.journal.file.read_bytes()
        promise = {"program": "api", "database": kind, "title": title, "fenced": True}
        site.shop.journal.write("written", **promise)
        faults = judged()
        site.shop.journal.file.write_bytes(journal)  # the programs' own lines since then are promises that were kept
        assert any(title in fault for fault in faults), (kind, faults)


def test_a_row_in_the_hands_of_a_person_is_not_lost(back: tuple[Site, Judged]) -> None:
    site, judged = back
    title = f"{WRITTEN}rogue in a moved file"
    folder = site.folder / BY_HAND / "1"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(site.shop.database)) as live, closing(sqlite3.connect(folder / "library.db")) as moved:
        live.backup(moved)
        moved.execute("INSERT INTO books (author_id, title) VALUES (1, ?)", [title])
        moved.commit()
    site.shop.journal.write("written", program="rogue", database="sqlite", title=title, fenced=False)
    assert judged() == []
    shutil.rmtree(folder)
    faults = judged()
    assert any(title in fault for fault in faults), faults
    site.shop.journal.file.write_bytes(
        b"".join(line for line in site.shop.journal.file.read_bytes().splitlines(True) if title.encode() not in line)
    )


def test_a_source_that_changed_is_red(back: tuple[Site, Judged]) -> None:
    site, judged = back
    with closing(sqlite3.connect(site.shop.database, timeout=5)) as connection:
        connection.execute("UPDATE authors SET name = 'no' WHERE id = 3")
        connection.commit()
        faults = judged()
        connection.execute("UPDATE authors SET name = ? WHERE id = 3", ["ავტორი 2\t\\N"])
        connection.commit()
    assert any("rows of the source" in fault for fault in faults), faults
    assert judged() == []


def test_kept_rows_that_are_named_nowhere_are_red(back: tuple[Site, Judged]) -> None:
    """Without the export and the figures of the steps, nobody would know of the rows in the kept schema."""
    site, _ = back
    schema = next(name for (name,) in site.query(f"SELECT nspname FROM pg_namespace WHERE nspname LIKE '{SCHEMA}_rolled%'"))
    titles = {title for (title,) in site.query(f"SELECT title FROM {schema}.books WHERE title LIKE '{WRITTEN}%'")}
    taken = {line["title"] for line in site.shop.journal.read() if line.get("database") == "postgresql" and "title" in line}
    written = titles & taken
    assert written
    assert judging_kept.unnamed(site, schema, written) == set()
    folder = site.evidence / PLAN / "one"
    kept, events = folder / "kept", folder / "events.jsonl"
    content = events.read_bytes()
    kept.rename(folder / "away")
    events.write_bytes(content.replace(judging_kept.FIGURE.encode(), b"something_else"))
    others = [file for file in site.evidence.glob("*/*/events.jsonl") if file != events]
    saved = {file: file.read_bytes() for file in others}
    for file in others:
        file.write_bytes(saved[file].replace(judging_kept.FIGURE.encode(), b"something_else"))
    try:
        assert judging_kept.unnamed(site, schema, written) == written
    finally:
        (folder / "away").rename(kept)
        for file, before in {**saved, events: content}.items():
            file.write_bytes(before)


def test_an_application_that_is_down_or_on_the_other_database_is_red(back: tuple[Site, Judged]) -> None:
    site, judged = back
    site.shop.stop(["worker"])
    assert any("worker cannot write" in fault for fault in judged())
    site.shop.start(["worker"])
    assert judged() == []
    text = site.shop.configuration.read_text()
    site.shop.configuration.write_text(text.replace("sqlite:///", "sqlite:////nowhere"))
    time.sleep(0.01)
    assert any("configuration does not name" in fault for fault in judged())
    site.shop.configuration.write_text(text)


def test_the_last_words_of_a_failure_are_read_with_what_to_do(back: tuple[Site, Judged]) -> None:
    site, _ = back
    file = site.evidence / PLAN / "one" / "events.jsonl"
    before = file.read_bytes()
    try:
        for name, summary in (("x", "library.db: there is no file. Put it back."), ("close_run", "not finished.")):
            event = {"event": "step.end", "step": name, "outcome": "error", "summary": summary}
            file.write_bytes(file.read_bytes() + json.dumps(event).encode() + b"\n")
        assert judging_kept.last_words(file.parent).rstrip().endswith("Put it back.")
    finally:
        file.write_bytes(before)
