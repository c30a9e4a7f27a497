"""Objects of the source that are not rows."""

from __future__ import annotations

from pathlib import Path

from include.cutover.assessment.assess import assess
from tests.support.assessing import plan_of, source_of, target_of, telling

OBJECTS = (
    """CREATE TABLE t (
        id INTEGER PRIMARY KEY,
        name TEXT COLLATE NOCASE UNIQUE,
        kind TEXT DEFAULT 'plain' CONSTRAINT known CHECK (kind IN ('plain', 'CHECK (x)')),
        at DATETIME DEFAULT CURRENT_TIMESTAMP,
        on_ BOOLEAN DEFAULT 1,
        price REAL DEFAULT 2.50 CHECK (price > 0), -- CHECK (nothing)
        twice REAL GENERATED ALWAYS AS (price * 2) VIRTUAL,
        shown TEXT AS (upper(name)) STORED
    )""",
    "CREATE VIEW cheap AS SELECT * FROM t WHERE price < 1",
    "CREATE VIEW kept AS SELECT 1",
    "CREATE TRIGGER bumped AFTER UPDATE ON t BEGIN SELECT 1; END",
    "CREATE INDEX only_plain ON t (price) WHERE kind = 'plain'",
    "CREATE INDEX by_lower ON t (lower(name))",
    "CREATE UNIQUE INDEX priced ON t (price, kind)",
)


MADE = (
    "CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE, kind text DEFAULT 'plain', at timestamptz DEFAULT now(),"
    " on_ boolean DEFAULT true, price float8, twice float8 GENERATED ALWAYS AS (price * 2) STORED)",
    "CREATE VIEW kept AS SELECT 1 AS one",
    "CREATE INDEX only_plain ON t (price)",
)


def test_all_objects_that_are_not_rows_are_listed(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", *OBJECTS)
    plan = plan_of(
        {"t": None}, source_objects={"cheap": "now a query of the shop page", "t.known": "now an enumeration of the model"}
    )
    found = telling(assess(path, plan, target_of(conninfo, tmp_path, *MADE)), but=("sequence_missing",))
    assert {(item.code, item.where, item.value): item.becomes for item in found} == {
        ("view", "", "cheap"): "the plan: now a query of the shop page",
        ("view", "", "kept"): "a view of that name; its content was not compared",
        ("trigger", "t", "bumped after update"): "nothing",
        ("generated_column", "t.twice", "twice"): "computed by the target",
        ("generated_column", "t.shown", "shown"): "nothing",
        ("collation", "t.name", "NOCASE"): "compared by the collation of the target's database",
        ("partial_index", "t.price", "only_plain"): "a full index",
        ("expression_index", "t.an expression", "by_lower"): "no index",
        ("unique_key", "t.price, kind", "priced"): "no index",
        ("check", "t", "known: kind IN ('plain', 'CHECK (x)')"): "the plan: now an enumeration of the model",
        ("check", "t", "check 2: price > 0"): "the target's table has no CHECK",
        ("default", "t.price", "DEFAULT 2.50"): "no default",
    }
    assert {item.severity for item in found} == {"note"}
    decide = {item.value: item.decide for item in found}
    assert decide["cheap"] == "" and decide["kept"] == "source_objects:\n  kept: its replacement in the target"
