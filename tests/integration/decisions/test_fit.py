"""Decisions that the target cannot hold are found before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include.cutover.decisions.apply import apply_decisions
from include.cutover.decisions.fit import misfits
from include.cutover.errors import PlanInvalid
from include.cutover.target import schema as target_schema
from tests.support.assessing import sql_folder
from tests.support.deciding import carry_out, database, plan_of, rows_of, schema_of


@pytest.mark.parametrize(
    ("kind", "decision", "fault"),
    [
        ("text", {"empty_as_null": True}, "a value like any other"),
        ("date!", {"empty_as_null": True}, "NOT NULL in the target"),
        ("bytea", {"strip_nul": True}, "bytea holds NUL bytes"),
        ("uuid", {"encoding": "latin-1"}, "uuid is not a text type"),
        ("text", {"encoding": "utf-16"}, "cannot be distinguished from UTF-8"),
        ("text", {"encoding": "base64"}, "cannot be distinguished from UTF-8"),
        ("text", {"encoding": "unicode_escape"}, "cannot be distinguished from UTF-8"),
        ("text", {"encoding": "utf-7"}, "cannot be distinguished from UTF-8"),
        ("text", {"datetime": "unix"}, "text is not a date type"),
        ("integer", {"boolean": {"yes": True}}, "the target's type is integer"),
        ("boolean", {"boolean": {}}, "the map is empty"),
        ("boolean", {"boolean": {"1": False}}, "0 is false and 1 is true"),
    ],
)
def test_a_decision_that_does_not_fit_is_refused_before_anything_is_read(
    tmp_path: Path, kind: str, decision: dict[str, Any], fault: str
) -> None:
    plan, planned = plan_of({"t": {"columns": {"x": decision}}}), schema_of({"t": {"x": kind}})
    (found,) = misfits(plan, planned)
    assert found.startswith("tables.t.columns.x.") and fault in found
    with pytest.raises(PlanInvalid, match=fault):
        apply_decisions(tmp_path / "no backup", tmp_path / "decided.db", plan, planned)


def test_common_encodings_are_accepted() -> None:
    planned = schema_of({"t": {"x": "text"}})
    for name in ("latin-1", "cp1252", "cp1251", "koi8-r", "iso8859-15", "gb18030", "big5", "euc-jp", "shift_jis", "utf-8"):
        assert misfits(plan_of({"t": {"columns": {"x": {"encoding": name}}}}), planned) == []


def test_decisions_about_missing_names_are_misfits() -> None:
    planned = schema_of({"p": {"id": "integer!"}, "t": {"p": "integer!"}}, [("t", "t_p_fkey", "p", "p", "id")])
    plan = plan_of(
        {
            "u": {"columns": {"x": {"strip_nul": True}}},
            "t": {
                "columns": {"y": {"strip_nul": True}},
                "foreign_keys": {"t_p_fkey": {"orphans": "set_null"}, "other": {"orphans": "quarantine"}},
            },
        }
    )
    assert misfits(plan, planned) == [
        "tables.u: the target has no such table",
        "tables.t.columns.y: the target has no such column",
        "tables.t.foreign_keys.t_p_fkey: set_null, but p is NOT NULL in the target",
        "tables.t.foreign_keys.other: the target has no such foreign key; it has t_p_fkey",
    ]


def test_domain_counts_as_its_base_type(place: Path, conninfo: str, tmp_path: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id TEXT PRIMARY KEY);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, p TEXT, flag BOOLEAN, note TEXT, at DATETIME, doc TEXT)",
        {"p": [("a0eebc999c0b4ef8bb6d6bb9bd380a11",)],
         "t": [(1, "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "yes", "", 0, '"\\u0000"')]},
    )  # fmt: skip
    made = sql_folder(
        tmp_path / "sql",
        *("CREATE DOMAIN key AS uuid", "CREATE DOMAIN own_key AS key", "CREATE DOMAIN flag AS boolean"),
        *("CREATE DOMAIN note AS varchar(9)", "CREATE DOMAIN moment AS timestamptz", "CREATE DOMAIN doc AS jsonb"),
        "CREATE TABLE p (id own_key PRIMARY KEY)",
        "CREATE TABLE t (id int PRIMARY KEY, p key CONSTRAINT of_p REFERENCES p, flag flag, note note, at moment, doc doc)",
    )
    planned = target_schema.planned_schema(conninfo, made)
    columns = {"flag": {"boolean": {"yes": True}}, "at": {"datetime": "unix"}, "doc": {"strip_nul": True}}
    plan = plan_of({"p": {}, "t": {"columns": columns, "foreign_keys": {"of_p": {"orphans": "quarantine"}}}})
    assert misfits(plan, planned) == []
    decided = carry_out(place, snapshot, plan, planned)
    (row,) = rows_of(decided.file, "SELECT flag, note, at, doc FROM t")
    assert row == (1, "", "1970-01-01 00:00:00.000000", '""') and not decided.quarantined
    wrong = plan_of({"p": {}, "t": {"columns": {"note": {"empty_as_null": True}, "at": {"boolean": {"yes": True}}}}})
    assert len(misfits(wrong, planned)) == 2
