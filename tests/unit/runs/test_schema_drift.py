"""Drift of the source's schema since the last rehearsal: everything that changed is named, and nothing else."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from include.cutover.evidence.record import Evidence
from include.cutover.runs import schema_drift
from include.cutover.runs.schema_drift import Drift
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots

BEFORE = """
    CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(50) NOT NULL, age INT DEFAULT 1);
    CREATE TABLE posts (id INTEGER PRIMARY KEY, user_id INT REFERENCES users(id), body TEXT);
    CREATE TABLE old (x, y);
    CREATE INDEX by_name ON users (name);
    CREATE INDEX by_user ON posts (user_id);
    CREATE VIEW names AS SELECT name FROM users;
    CREATE TRIGGER keep BEFORE DELETE ON users BEGIN SELECT RAISE(ABORT, 'no'); END;
"""


def objects(folder: Path, statements: str, name: str = "x.db") -> tuple[str, dict[str, str]]:
    path = folder / name
    path.unlink(missing_ok=True)
    with apsw.Connection(str(path)) as connection:
        connection.execute(statements)
    connection.close()
    with snapshots.snapshot(path) as snapshot:
        return source_schema.schema_fingerprint(snapshot), source_schema.schema_objects(snapshot)


@pytest.mark.parametrize(
    ("change", "drift"),
    [
        ("INSERT INTO users (name) VALUES ('a'); ANALYZE; DELETE FROM users WHERE false", Drift()),
        ("CREATE TABLE new (a INT, b INT)", Drift(added=("table new",))),
        ("DROP TABLE old", Drift(removed=("table old",))),
        ("ALTER TABLE users ADD COLUMN mail TEXT", Drift(added=("column users.mail",))),
        ("ALTER TABLE old DROP COLUMN y", Drift(removed=("column old.y",))),
        ("ALTER TABLE old RENAME COLUMN y TO z", Drift(("column old.z",), ("column old.y",))),
        ("ALTER TABLE old RENAME TO older", Drift(("table older",), ("table old",))),
        ("CREATE INDEX by_age ON users (age)", Drift(added=("index by_age",))),
        ("DROP INDEX by_user", Drift(removed=("index by_user",))),
        ("DROP INDEX by_user; CREATE UNIQUE INDEX by_user ON posts (user_id)", Drift(changed=("index by_user",))),
        ("DROP VIEW names; CREATE VIEW names AS SELECT name, age FROM users", Drift(changed=("view names",))),
        ("DROP VIEW names", Drift(removed=("view names",))),
        ("DROP TRIGGER keep", Drift(removed=("trigger keep",))),
        ("CREATE TRIGGER t AFTER INSERT ON old BEGIN SELECT 1; END", Drift(added=("trigger t",))),
        (
            "DROP TABLE posts; CREATE TABLE posts (id INTEGER PRIMARY KEY, user_id INT, body TEXT)",
            Drift(removed=("index by_user",), changed=("table posts",)),  # the foreign key is the table's own
        ),
        (
            "DROP TABLE posts; CREATE TABLE posts (id INTEGER PRIMARY KEY, user_id INT REFERENCES users(id), body INT)",
            Drift(removed=("index by_user",), changed=("column posts.body (TEXT became INT)",)),
        ),
        (
            "DROP TABLE old; CREATE TABLE old (x, y INT NOT NULL DEFAULT 5)",
            Drift(changed=("column old.y (no type became INT NOT NULL DEFAULT 5)",)),
        ),
    ],
)
def test_every_changed_object_is_named(tmp_path: Path, change: str, drift: Drift) -> None:
    before_print, before = objects(tmp_path, BEFORE)
    now_print, now = objects(tmp_path, BEFORE + change)
    assert schema_drift.between(before, now) == drift
    assert bool(drift) is (before_print != now_print)


def test_drift_fits_in_one_line() -> None:
    drift = Drift(tuple(f"table t{number:02}" for number in range(15)), (), ("view v",))
    assert str(drift).startswith("added table t00, table t01") and "table t11 and 3 more; changed view v" in str(drift)


def record(run: str, fingerprint: str, *, proven: bool = False) -> Evidence:
    evidence = Evidence.of("p", run)
    evidence.append("run.opened")
    evidence.append(schema_drift.EVENT, fingerprint=fingerprint, objects={})
    if proven:
        evidence.append("step.end", step=schema_drift.PROOF, outcome="passed")
    return evidence


def test_the_run_to_compare_with_is_the_last_that_proved_its_schema() -> None:
    """A run that only checked a drifted schema, and was called off for it, must not make the drift disappear."""
    me = Evidence.of("p", "me")
    assert schema_drift.baseline("p", me) is None
    record("first", "a")
    found = schema_drift.baseline("p", me)
    assert found is not None and found[0] == "first"
    record("rehearsed", "b", proven=True)
    record("called_off", "c")
    Evidence.of("p", "never_looked").append("run.opened")
    record("me", "d")
    found = schema_drift.baseline("p", me)
    assert found is not None and (found[0], found[1]["fingerprint"]) == ("rehearsed", "b")
