"""Orphans whose key is secret: every check that names orphans counts them, and prints no secret."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from include.cutover.assessment.assess import assess
from include.cutover.assessment.target import Target
from include.cutover.decisions.apply import apply_decisions
from include.cutover.decisions.audit import audit
from include.cutover.errors import Refused, WrongData
from include.cutover.plan.model import Plan
from include.cutover.preflight.source import check_clone
from include.cutover.proof.counts import expected_counts
from include.cutover.proof.docs_site import DocsSite
from include.cutover.proof.orphans import orphan_checks
from include.cutover.proof.table_suites import check_tables
from include.cutover.target import constraints
from include.cutover.target.sides import Sides
from tests.support.assessing import plan_of, source_of, target_of

SECRET, TABLES = "hush-hush", ("people", "notes", "replies")
SOURCE = (
    "CREATE TABLE people (email TEXT PRIMARY KEY)",
    "CREATE TABLE notes (email TEXT PRIMARY KEY, author TEXT)",
    "CREATE TABLE replies (email TEXT PRIMARY KEY, note TEXT)",
    f"INSERT INTO notes VALUES ('{SECRET}', '{SECRET} author')",
    f"INSERT INTO replies VALUES ('{SECRET} reply', '{SECRET}')",
)
MADE = (
    "CREATE TABLE people (email text PRIMARY KEY)",
    "CREATE TABLE notes (email text PRIMARY KEY, author text CONSTRAINT of_author REFERENCES people)",
    "CREATE TABLE replies (email text PRIMARY KEY, note text CONSTRAINT of_note REFERENCES notes)",
)
HIDES = {"secret": ["email", "author", "note"]}


@dataclass(frozen=True)
class Hushed:
    """A source and a target in which note and reply are orphans or follow one, all keys of which are secret."""

    file: Path
    conninfo: str
    plan: Plan
    target: Target

    @property
    def secret(self) -> dict[str, tuple[str, ...]]:
        return {name: table.secret for name, table in self.plan.tables.items()}


@pytest.fixture
def hushed(conninfo: str, tmp_path: Path) -> Hushed:
    file = source_of(tmp_path / "s.db", *SOURCE)
    with psycopg.connect(conninfo) as connection:
        for statement in MADE:
            connection.execute(statement.encode())
        connection.execute("ALTER TABLE notes DROP CONSTRAINT of_author")
        connection.execute(f"INSERT INTO notes VALUES ('{SECRET}', '{SECRET} author')")
        connection.execute(f"INSERT INTO replies VALUES ('{SECRET} reply', '{SECRET}')")
        connection.execute("ALTER TABLE notes ADD CONSTRAINT of_author FOREIGN KEY (author) REFERENCES people NOT VALID")
    return Hushed(file, conninfo, plan_of(dict.fromkeys(TABLES, HIDES)), target_of(conninfo, tmp_path, *MADE))


def test_preflight(hushed: Hushed) -> None:
    checks = check_clone(hushed.file, plan=hushed.plan, planned=hushed.target.planned)
    (found,) = [check.found for check in checks if check.outcome == "failed"]
    assert found == "1 orphans; keys rowid=1"
    assert SECRET not in str(checks)


def test_assessment(hushed: Hushed) -> None:
    found = assess(hushed.file, hushed.plan, hushed.target)
    assert {item.code for item in found.findings} >= {"orphans", "orphans_that_follow"}
    assert SECRET not in str(found)


def test_decisions(hushed: Hushed, tmp_path: Path) -> None:
    quarantine = {"foreign_keys": {"of_author": {"orphans": "quarantine", "at_most": 1}}}
    plan = plan_of({**dict.fromkeys(TABLES, HIDES), "notes": {**HIDES, **quarantine}})
    with pytest.raises(Refused, match=r"1 rows, e\.g\. email=\*\*\*") as blocked:
        apply_decisions(hushed.file, tmp_path / "d" / "decided", plan, hushed.target.planned)
    assert SECRET not in str(blocked.value)
    follows = {"foreign_keys": {"of_note": {"orphans": "quarantine", "at_most": 1}}}
    plan = plan_of({**dict.fromkeys(TABLES, HIDES), "notes": {**HIDES, **quarantine}, "replies": {**HIDES, **follows}})
    decided = apply_decisions(
        hushed.file, tmp_path / "d" / "decided", plan, hushed.target.planned, listing=tmp_path / "listing"
    )
    assert decided.quarantined == {"notes": 1, "replies": 1} and decided.listing is not None
    assert SECRET not in decided.listing.file.read_text() + str(audit(decided, plan, hushed.target.planned))


def test_validation_of_foreign_keys(hushed: Hushed) -> None:
    with pytest.raises(WrongData, match=r"of_author: 1 orphan in notes \(author\)\. Do not") as caught:
        constraints.validate_foreign_keys(hushed.conninfo, "public", secret=hushed.secret)
    assert SECRET not in str(caught.value)
    with pytest.raises(WrongData, match=SECRET):  # it is these columns that hide it
        constraints.validate_foreign_keys(hushed.conninfo, "public", secret={})


def test_orphan_checks(hushed: Hushed) -> None:
    results = orphan_checks(hushed.conninfo, "public", hushed.secret)
    assert [(result.foreign_key.name, result.count, result.keys) for result in results] == [
        ("of_author", 1, ()),
        ("of_note", 0, ()),
    ]
    assert SECRET not in str([result.check("public") for result in results])


def test_table_suites_and_their_pages(hushed: Hushed, tmp_path: Path) -> None:
    result = check_tables(
        Sides(hushed.file, hushed.conninfo, "public", hushed.secret),
        TABLES,
        expected_counts({"people": 0, "notes": 1, "replies": 1}),
        DocsSite(tmp_path / "docs"),
    )
    (orphaned,) = [check for check in result.checks if check.name.startswith("orphans_") and check.outcome != "passed"]
    assert orphaned.found == "1 orphan: email=***, author=***"
    pages = "".join(page.read_text() for page in (tmp_path / "docs").rglob("*.html"))
    assert "***" in pages
    assert SECRET not in str(replace(result, docs_index=Path())) + pages
