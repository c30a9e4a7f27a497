"""Names of tables and columns in source, plan and target."""

from __future__ import annotations

from pathlib import Path

from include.cutover.assessment.assess import assess
from include.cutover.assessment.target import read_target
from tests.support.assessing import insert, plan_of, source_of, sql_folder, target_of, telling


def test_tables_and_columns_are_compared_both_ways(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, old TEXT, Name TEXT, total INTEGER, twice INTEGER AS (id * 2))",
        "CREATE TABLE forgotten (id INTEGER)",
        "CREATE TABLE tmp (id INTEGER)",
        "INSERT INTO tmp VALUES (1)",
        "CREATE VIRTUAL TABLE found USING fts5(body)",
    )
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE t (id int PRIMARY KEY, new text, name text, total int GENERATED ALWAYS AS (id) STORED,"
        " twice int GENERATED ALWAYS AS (id * 2) STORED)",
        "CREATE TABLE extra (id int)",
    )
    plan = plan_of({"t": None, "lost": None}, ignored_tables={"tmp": "scratch space of an importer"})
    found = telling(assess(path, plan, target), but=("sequence_missing", "generated_column"))
    assert {(item.code, item.severity, item.where) for item in found} == {
        ("column_unknown", "blocks", "t.old"),
        ("column_unknown", "blocks", "t.total"),
        ("column_unknown", "blocks", "t.Name"),
        ("column_missing", "blocks", "t.new"),
        ("column_missing", "blocks", "t.name"),
        ("table_unknown", "blocks", "forgotten"),
        ("table_virtual", "blocks", "found"),
        ("table_missing", "blocks", "lost"),
        ("table_not_made", "blocks", "lost"),
        ("table_ignored", "note", "tmp"),
        ("table_stays_empty", "note", "extra"),
    }
    by_where = {(item.code, item.where): item for item in found}
    assert "letter by letter" in by_where["column_unknown", "t.Name"].value
    assert by_where["column_unknown", "t.total"].value == "the target computes it"
    assert by_where["table_ignored", "tmp"].becomes == "the plan: scratch space of an importer"
    assert by_where["table_unknown", "forgotten"].decide.splitlines()[0] == "ignored_tables:"


def test_names_that_need_quotes_are_read(conninfo: str, tmp_path: Path) -> None:
    names = ("Order", "select", "na me", 'quo"te', "სახელი")
    columns = ", ".join('"' + name.replace('"', '""') + '" TEXT' for name in names)
    path = source_of(tmp_path / "s.db", f'CREATE TABLE "Group By" ("Id" INTEGER PRIMARY KEY, {columns})')
    insert(path, "Group By", [(1, *names), (2, "x", None, "", "a\0b", "y")])
    target = target_of(conninfo, tmp_path, f'CREATE TABLE "Group By" ("Id" int PRIMARY KEY, {columns})')
    found = assess(path, plan_of({"Group By": None}), target)
    (finding,) = found.blocks
    assert (finding.where, finding.keys) == ('Group By.quo"te', ("Id=2",))
    assert found.tables == {"Group By": 2}


def test_triggers_that_the_copy_refuses_block(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    trigger = (
        "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER swallows BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION quiet()",
    )
    table = "CREATE TABLE t (id int PRIMARY KEY)"
    (finding,) = assess(path, plan_of({"t": None}), target_of(conninfo, tmp_path, table, *trigger)).blocks
    assert (finding.code, finding.where, finding.value) == ("trigger_in_the_way", "t", "swallows")
    later = sql_folder(tmp_path / "later", table)
    sql_folder(later, *trigger, kind="post_data")
    assert not assess(path, plan_of({"t": None}), read_target(conninfo, later)).blocks
