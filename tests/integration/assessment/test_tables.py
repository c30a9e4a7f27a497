"""The assessment of whole tables: keys, references, names, sequences, and everything that is no row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.cutover.assessment.assess import Assessment, Progress, assess, read_target
from include.cutover.assessment.decided import assess_decided
from include.cutover.decisions.apply import apply_decisions
from include.cutover.errors import CannotCheck, Refused
from include.cutover.plan.model import Plan
from include.cutover.stack.postgres import Cluster
from include.cutover.target.schema import PlannedSchema, planned_schema
from tests.support.assessing import insert, only, plan_of, source_of, sql_folder, target_of, telling

KEY = "6f1ed002ab5595859014ebf0951522d9"
OTHER = "00000000000000000000000000000001"
SPELLED = "6F1ED002-AB55-9585-9014-EBF0951522D9"


@pytest.fixture
def conninfo(cluster: Cluster) -> str:
    """The server's own database: an assessment leaves nothing behind, so no test needs one to itself."""
    return cluster.conninfo()


# --- keys -----------------------------------------------------------------------------------------------------------------


def test_null_in_a_key_that_sqlite_lets_in(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id TEXT PRIMARY KEY)", "INSERT INTO t VALUES ('a'), (NULL), (NULL)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id text PRIMARY KEY)")
    finding = only(assess(path, plan_of({"t": None}), target))
    assert (finding.code, finding.severity, finding.rows) == ("null_in_not_null", "blocks", 2)
    assert finding.keys == ("rowid=2", "rowid=3")


@pytest.mark.parametrize(
    ("declared", "column", "key", "values", "keys"),
    [
        ("TEXT", "uuid", "v", [KEY, OTHER, SPELLED], "id=1 and id=3"),
        ("TEXT UNIQUE", "uuid", "v", [KEY, OTHER, SPELLED, "{" + SPELLED + "}"], "id=1 and id=3 and others"),
        ("TEXT UNIQUE", "text", "lower(v)", ["Ana@x", "ana@x", "ANI"], "id=1 and id=2"),
        ("TEXT UNIQUE", "text", "lower(v)", ["ÉCOLE", "école"], "id=1 and id=2"),
        ("TEXT UNIQUE", "text", "btrim(v)", ["a", "b", " a "], "id=1 and id=3"),
        ("TEXT", "text", "v", ["a", "b", "a"], "id=1 and id=3"),
        ("INTEGER", "integer", "v", [7, 8, 8], "id=2 and id=3"),
        ("TEXT UNIQUE", "timestamptz", "v", ["2025-10-10 08:00:00", "2025-10-10T12:00:00+04:00"], "id=1 and id=2"),
    ],
)
def test_rows_that_are_one_under_a_unique_key(
    conninfo: str, tmp_path: Path, declared: str, column: str, key: str, values: list[Any], keys: str
) -> None:
    path = source_of(tmp_path / "s.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")
    insert(path, "t", list(enumerate(values, start=1)))
    target = target_of(
        conninfo, tmp_path, f"CREATE TABLE t (id int PRIMARY KEY, v {column})", f"CREATE UNIQUE INDEX one ON t ({key})"
    )
    found = telling(assess(path, plan_of({"t": None}), target), but=("table_stays_empty", "sequence_missing", "unique_key"))
    (finding,) = found
    assert (finding.code, finding.severity, finding.keys) == ("duplicate_key", "blocks", (keys,))
    assert finding.rows == len(keys.split(" and "))


@pytest.mark.parametrize(
    ("declared", "values", "index"),
    [
        ("TEXT COLLATE NOCASE UNIQUE", ["a", "b"], "CREATE UNIQUE INDEX one ON t (v)"),
        ("TEXT", [None, None, ""], "CREATE UNIQUE INDEX one ON t (v)"),
        ("TEXT", ["a", "a", "b"], "CREATE UNIQUE INDEX one ON t (v) WHERE v <> 'a'"),
        ("TEXT", ["A", "a", "a "], "CREATE UNIQUE INDEX one ON t (v)"),
    ],
)
def test_rows_that_stay_different(conninfo: str, tmp_path: Path, declared: str, values: list[Any], index: str) -> None:
    path = source_of(tmp_path / "s.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")
    insert(path, "t", list(enumerate(values, start=1)))
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text)", index)
    assert not assess(path, plan_of({"t": None}), target).blocks


def test_nulls_that_the_target_calls_equal(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    insert(path, "t", [(1, None), (2, "a"), (3, None)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE NULLS NOT DISTINCT)")
    (finding,) = assess(path, plan_of({"t": None}), target).blocks
    assert (finding.code, finding.keys) == ("duplicate_key", ("id=1 and id=3",))


def test_a_composite_key_in_a_table_without_rowid(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (a TEXT, b INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID")
    insert(path, "t", [(KEY, 1), (SPELLED, 1), (KEY, 2)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (a uuid, b int, PRIMARY KEY (a, b))")
    finding = only(assess(path, plan_of({"t": None}), target))
    assert (finding.code, finding.column, finding.rows) == ("duplicate_key", "a, b", 2)
    assert finding.keys == (f"a={SPELLED}, b=1 and a={KEY}, b=1",)


def test_a_key_that_nobody_can_compare_here_is_named(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    insert(path, "t", [(1, "a"), (2, "b")])
    target = target_of(
        conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE UNIQUE INDEX one ON t (md5(v))"
    )
    found = assess(path, plan_of({"t": None}), target)
    assert [item.value for item in found.findings if item.code == "key_not_assessed"] == ["one: md5 has no equal in SQLite"]


# --- checks ---------------------------------------------------------------------------------------------------------------


def test_rows_that_break_a_check_of_the_target(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, role TEXT, low INTEGER, high INTEGER)")
    insert(path, "t", [(1, "ADMIN", 1, 2), (2, "GUEST", 1, 2), (3, None, 3, 2), (4, "VIEWER", None, 2)])
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE t (id int PRIMARY KEY, role varchar(10) CONSTRAINT known CHECK (role IN ('ADMIN', 'VIEWER')),"
        " low int, high int, CONSTRAINT ordered CHECK (low <= high))",
    )
    blocks = assess(path, plan_of({"t": None}), target).blocks
    assert {(item.value, item.column, item.rows, item.keys) for item in blocks} == {
        ("known", "role", 1, ("id=2",)),
        ("ordered", "high, low", 1, ("id=3",)),
    }


def test_arithmetic_that_overflows_in_the_target_breaks_the_check(conninfo: str, tmp_path: Path) -> None:
    """SQLite's abs() fails for the least integer; PostgreSQL's integers end where their type does."""
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, big INTEGER, small INTEGER)")
    insert(path, "t", [(1, -(2**63), 1), (2, 5, -32768), (3, 5, 20_000), (4, 5, 0), (5, -5, 7), (6, None, None)])
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE t (id int PRIMARY KEY, big bigint CONSTRAINT a CHECK (abs(big) > 0),"
        " small smallint CONSTRAINT b CHECK (abs(small) >= 0) CONSTRAINT c CHECK (small * small >= 0)"
        " CONSTRAINT d CHECK (1000 % small >= 0))",
    )
    blocks = assess(path, plan_of({"t": None}), target).blocks
    assert {(item.value, item.keys) for item in blocks} == {
        ("a", ("id=1",)),
        ("b", ("id=2",)),
        ("c", ("id=2", "id=3")),
        ("d", ("id=4",)),
    }
    with psycopg.connect(conninfo) as connection:
        for small in ("abs((-32768)::smallint)", "20000::smallint * 20000::smallint", "1000 % 0::smallint"):
            with pytest.raises(psycopg.DataError), connection.transaction():
                connection.execute(f"SELECT {small}")


def test_a_check_that_sqlite_cannot_try_is_named(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text CONSTRAINT form CHECK (v ~ '^a'))")
    (finding,) = [item for item in assess(path, plan_of({"t": None}), target).findings if item.code == "check_not_assessed"]
    assert finding.severity == "note" and finding.value.startswith("form: (v ~ '^a'::text)")


# --- references -----------------------------------------------------------------------------------------------------------

PARENTS = (
    "CREATE TABLE device (id UUID PRIMARY KEY)",
    "CREATE TABLE item (id INTEGER PRIMARY KEY, device_id VARCHAR(36))",
    "CREATE TABLE reading (id INTEGER PRIMARY KEY, item_id INTEGER)",
)
CHILDREN = (
    "CREATE TABLE device (id uuid PRIMARY KEY)",
    "CREATE TABLE item (id int PRIMARY KEY, device_id uuid CONSTRAINT of_device REFERENCES device)",
    "CREATE TABLE reading (id int PRIMARY KEY, item_id int CONSTRAINT of_item REFERENCES item)",
)


@pytest.fixture
def referring(conninfo: str, tmp_path: Path) -> Callable[..., tuple[Assessment, Plan, Path]]:
    """Three tables in a row: item 2 has no device, readings 3 and 4 are of item 2, reading 5 of none."""

    def assessed(device: Any = None, item: Any = None, reading: Any = None) -> tuple[Assessment, Plan, Path]:
        path = source_of(tmp_path / "s.db", *PARENTS)
        insert(path, "device", [(KEY,)])
        insert(path, "item", [(1, SPELLED), (2, OTHER), (6, None)])
        insert(path, "reading", [(1, 1), (3, 2), (4, 2), (5, 99), (6, None)])
        plan = plan_of({"device": device, "item": item, "reading": reading})
        return assess(path, plan, target_of(conninfo, tmp_path, *CHILDREN)), plan, path

    return assessed


def keys_of(found: Assessment) -> set[tuple[str, str, str, int, tuple[str, ...]]]:
    return {
        (item.table, item.code, item.severity, item.rows, item.keys)
        for item in found.findings
        if item.code.startswith("orphans")
    }


def test_orphans_block_and_name_who_would_follow(referring: Callable[..., tuple[Assessment, Plan, Path]]) -> None:
    found, _, _ = referring()
    assert keys_of(found) == {
        ("item", "orphans", "blocks", 1, ("id=2",)),
        ("reading", "orphans", "blocks", 1, ("id=5",)),
        ("reading", "orphans_that_follow", "note", 2, ("id=3", "id=4")),
    }
    (item,) = [finding for finding in found.blocks if finding.table == "item"]
    assert item.value == "of_device → device"
    assert item.decide.splitlines() == [
        "# quarantine, or set_null",
        "tables:",
        "  item:",
        "    foreign_keys:",
        "      of_device:",
        "        orphans: quarantine",
        "        at_most: 1",
    ]


def quarantine(name: str, at_most: int = 10, orphans: str = "quarantine") -> dict[str, Any]:
    return {"foreign_keys": {name: {"orphans": orphans, "at_most": at_most}}}


def test_orphans_in_quarantine_take_their_children_with_them(
    referring: Callable[..., tuple[Assessment, Plan, Path]],
) -> None:
    found, _, _ = referring(item=quarantine("of_device"), reading=quarantine("of_item"))
    assert keys_of(found) == {
        ("item", "orphans", "decision applied", 1, ("id=2",)),
        ("reading", "orphans", "decision applied", 1, ("id=5",)),
        ("reading", "orphans_that_follow", "decision applied", 2, ("id=3", "id=4")),
    }
    assert not found.blocks


def test_children_of_what_goes_into_quarantine_block_when_nobody_decided_for_them(
    referring: Callable[..., tuple[Assessment, Plan, Path]],
) -> None:
    found, _, _ = referring(item=quarantine("of_device"))
    assert ("reading", "orphans_that_follow", "blocks", 2, ("id=3", "id=4")) in keys_of(found)


def test_set_null_keeps_the_children(referring: Callable[..., tuple[Assessment, Plan, Path]]) -> None:
    found, _, _ = referring(item=quarantine("of_device", orphans="set_null"), reading=quarantine("of_item"))
    assert keys_of(found) == {
        ("item", "orphans", "decision applied", 1, ("id=2",)),
        ("reading", "orphans", "decision applied", 1, ("id=5",)),
    }


def test_more_than_the_cap_block(referring: Callable[..., tuple[Assessment, Plan, Path]]) -> None:
    found, _, _ = referring(item=quarantine("of_device"), reading=quarantine("of_item", at_most=2))
    blocks = {item.code: item for item in found.blocks}
    assert set(blocks) == {"orphans", "orphans_that_follow"}
    assert "allows 2" in blocks["orphans"].becomes and "there are 3" in blocks["orphans"].becomes
    assert "at_most: 3" in blocks["orphans"].decide


@pytest.mark.parametrize("orphans", ["quarantine", "set_null"])
def test_what_is_decided_is_what_decisions_carry_out(
    referring: Callable[..., tuple[Assessment, Plan, Path]], conninfo: str, tmp_path: Path, orphans: str
) -> None:
    found, plan, path = referring(item=quarantine("of_device", orphans=orphans), reading=quarantine("of_item"))
    planned = planned_schema(conninfo, sql_folder(tmp_path / "again", *CHILDREN))
    made = apply_decisions(path, tmp_path / "decided" / "s.db", plan, planned)
    rows = {
        table: sum(item.rows for item in found.findings if item.table == table and item.code.startswith("orphans"))
        for table in ("item", "reading")
    }
    assert made.foreign_keys == {"item.of_device": rows["item"], "reading.of_item": rows["reading"]}
    undecided = plan_of({"device": None, "item": None, "reading": None})
    assert not assess(made.file, undecided, target_of(conninfo, tmp_path, *CHILDREN)).blocks


def test_a_reference_that_may_not_be_null_cannot_be_set_to_null(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db",
        "CREATE TABLE a (id INTEGER PRIMARY KEY)",
        "CREATE TABLE b (id INTEGER PRIMARY KEY, a_id INTEGER NOT NULL)",
        "INSERT INTO b VALUES (1, 1)",
    )
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY, a_id int CONSTRAINT of_a REFERENCES a)",
    )
    found = assess(path, plan_of({"a": None, "b": quarantine("of_a", orphans="set_null")}), target)
    assert [(item.code, item.becomes) for item in found.blocks] == [
        ("orphans", "nothing: the reference is NOT NULL, in the source or in the target")
    ]


def test_a_table_that_refers_to_itself(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE n (id INTEGER PRIMARY KEY, up INTEGER)")
    insert(path, "n", [(1, None), (2, 1), (3, 99), (4, 3), (5, 4)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE n (id int PRIMARY KEY, up int CONSTRAINT above REFERENCES n)")
    found = assess(path, plan_of({"n": quarantine("above")}), target)
    assert keys_of(found) == {
        ("n", "orphans", "decision applied", 1, ("id=3",)),
        ("n", "orphans_that_follow", "decision applied", 2, ("id=4", "id=5")),
    }


# --- what decisions leave -----------------------------------------------------------------------------------------------

BY_TEXT = ("CREATE TABLE p (id TEXT PRIMARY KEY)", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
OF_P = ("CREATE TABLE p (id text PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, v text CONSTRAINT of_p REFERENCES p)")
STRIPPED = {"columns": {"v": {"strip_nul": True}}}


@pytest.mark.parametrize(
    ("unique", "made", "code", "says"),
    [
        ("", "text UNIQUE", "duplicate_key", "id=1 and id=2"),  # two texts become one
        ("UNIQUE", "text", "decision_fails", "would break a constraint of the source"),
        ("", "text CHECK (length(v) > 2)", "check_violated", "(length(v) > 2) is false (as the decisions leave it)"),
    ],
)
def test_what_a_decision_does_to_other_rows_and_checks(
    conninfo: str, tmp_path: Path, unique: str, made: str, code: str, says: str
) -> None:
    path = source_of(tmp_path / "s.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT {unique})")
    insert(path, "t", [(1, "ab"), (2, "ab\0"), (3, "abc")])
    target = target_of(conninfo, tmp_path, f"CREATE TABLE t (id int PRIMARY KEY, v {made})")
    plan = plan_of({"t": STRIPPED})
    assert not [item for item in assess(path, plan, target).blocks if item.code != "check_violated"]
    (finding,) = assess_decided(path, plan, target).blocks
    assert finding.code == code and finding.decide == ""
    assert says in f"{finding.keys}{finding.value}{finding.becomes}"


def test_references_are_followed_as_the_decisions_leave_them(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", *BY_TEXT)
    insert(path, "p", [("x",)])
    insert(path, "t", [(1, "x\0"), (2, None)])
    plan, target = plan_of({"p": None, "t": STRIPPED}), target_of(conninfo, tmp_path, *OF_P)
    assert "orphans_not_assessed" in {item.code for item in assess(path, plan, target).findings}
    found = assess_decided(path, plan, target)
    assert not found.blocks and "orphans_not_assessed" not in {item.code for item in found.findings}
    insert(path, "t", [(3, "y\0")])
    (finding,) = assess_decided(path, plan, target).blocks
    assert finding.code == "decision_fails" and "t.of_p: rows would point nowhere" in finding.value


def test_a_reference_set_to_null_that_others_rely_on(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE a (id INTEGER PRIMARY KEY, p INTEGER)",
        "CREATE TABLE b (id INTEGER PRIMARY KEY, a INTEGER)",
        "INSERT INTO a VALUES (1, 9)",
        "INSERT INTO b VALUES (1, 9)",
    )
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE TABLE p (id int PRIMARY KEY)",
        "CREATE TABLE a (id int PRIMARY KEY, p int UNIQUE CONSTRAINT of_p REFERENCES p)",
        "CREATE TABLE b (id int PRIMARY KEY, a int CONSTRAINT of_a REFERENCES a (p))",
    )
    decided = {"foreign_keys": {"of_p": {"orphans": "set_null"}}}
    (finding,) = assess_decided(path, plan_of({"p": None, "a": decided, "b": None}), target).blocks
    assert finding.code == "decision_fails" and "b.of_a: rows would point nowhere" in finding.value


def test_what_blocks_anyway_is_told_without_trying_the_decisions(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w INTEGER)")
    insert(path, "t", [(1, "a\0", "x")])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text, w int)")
    plan = plan_of({"t": STRIPPED})
    assert assess_decided(path, plan, target).findings == assess(path, plan, target).findings
    assert [item.name for item in tmp_path.glob("s.db*")] == ["s.db"]


# --- what the target's SQL makes that only the load would notice ----------------------------------------------------------


def test_triggers_that_the_copy_would_refuse(conninfo: str, tmp_path: Path) -> None:
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


def test_what_only_the_load_can_try_is_named(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w TEXT, d TEXT, n INTEGER)",
        "CREATE TABLE u (id INTEGER PRIMARY KEY, w TEXT)",
    )
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE DOMAIN low AS text CONSTRAINT is_low CHECK (VALUE < 'm')",
        "CREATE DOMAIN lower_still AS low",
        "CREATE TABLE t (id int, v text CONSTRAINT alike CHECK (v LIKE 'a%') CONSTRAINT by_order CHECK (v < 'b')"
        " CONSTRAINT called CHECK (md5(v) <> 'x'), w text, d lower_still, n int) PARTITION BY LIST (id)",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE u (id int, w text, CONSTRAINT apart EXCLUDE USING btree (w WITH =))",
    )
    found = assess(path, plan_of({"t": None, "u": None}), target).findings
    assert {item.value.partition(":")[0] for item in found if item.code == "check_not_assessed"} == {
        "alike",
        "apart",
        "by_order",
        "called",
        "is_low",
        "partitions",
    }


@pytest.mark.parametrize(
    ("made", "later"),
    [
        ("w int GENERATED ALWAYS AS (10 / v) STORED", "SELECT 1"),
        ("w int", "CREATE INDEX ON t ((10 / v))"),
        ("w int", "ALTER TABLE t ADD FOREIGN KEY (v, w) REFERENCES p (a, b) MATCH FULL"),
    ],
)
def test_what_the_documents_say_it_cannot_find(conninfo: str, tmp_path: Path, made: str, later: str) -> None:
    """It passes here, and PostgreSQL refuses it: what is listed as beyond the assessment is, and is worth to be listed."""
    own = "" if "GENERATED" in made else ", w INTEGER"
    source_tables = f"CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER{own})", "CREATE TABLE p (a INTEGER, b INTEGER)"
    path = source_of(tmp_path / "s.db", *source_tables, "INSERT INTO t (id, v) VALUES (1, 0)")
    parts = (f"CREATE TABLE t (id int PRIMARY KEY, v int, {made})", "CREATE TABLE p (a int, b int, UNIQUE (a, b))")
    target = target_of(conninfo, tmp_path, *parts, later)
    assert not assess(path, plan_of({"t": None, "p": None}), target).blocks
    with psycopg.connect(conninfo) as connection, connection.transaction(force_rollback=True):
        for part in parts:
            connection.execute(part.encode())
        with pytest.raises((psycopg.errors.DivisionByZero, psycopg.errors.ForeignKeyViolation)):
            connection.execute("INSERT INTO t (id, v) VALUES (1, 0)")
            connection.execute(later.encode())


@pytest.mark.parametrize("key", ["rtrim(v)", "ltrim(v)", "trim(leading from v)", "trim(trailing from v)"])
def test_blanks_at_one_side(conninfo: str, tmp_path: Path, key: str) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    right = "rtrim" in key or "trailing" in key
    insert(path, "t", [(1, "a"), (2, "a " if right else " a"), (3, " a" if right else "a ")])
    target = target_of(
        conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text)", f"CREATE UNIQUE INDEX one ON t ({key})"
    )
    (finding,) = assess(path, plan_of({"t": None}), target).blocks
    assert (finding.code, finding.keys) == ("duplicate_key", ("id=1 and id=2",))


# --- names ----------------------------------------------------------------------------------------------------------------


def test_tables_and_columns_known_both_ways(conninfo: str, tmp_path: Path) -> None:
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
    assert by_where["column_unknown", "t.total"].value == "the target computes it by itself"
    assert by_where["table_ignored", "tmp"].becomes == "the plan: scratch space of an importer"
    assert by_where["table_unknown", "forgotten"].decide.splitlines()[0] == "ignored_tables:"


def test_names_that_need_quotes(conninfo: str, tmp_path: Path) -> None:
    names = ("Order", "select", "na me", 'quo"te', "სახელი")
    columns = ", ".join('"' + name.replace('"', '""') + '" TEXT' for name in names)
    path = source_of(tmp_path / "s.db", f'CREATE TABLE "Group By" ("Id" INTEGER PRIMARY KEY, {columns})')
    insert(path, "Group By", [(1, *names), (2, "x", None, "", "a\0b", "y")])
    target = target_of(conninfo, tmp_path, f'CREATE TABLE "Group By" ("Id" int PRIMARY KEY, {columns})')
    found = assess(path, plan_of({"Group By": None}), target)
    (finding,) = found.blocks
    assert (finding.where, finding.keys) == ('Group By.quo"te', ("Id=2",))
    assert found.tables == {"Group By": 2}


@pytest.mark.parametrize(
    "create",
    [
        "CREATE TABLE t (a TEXT, v INTEGER, PRIMARY KEY (a)) WITHOUT ROWID",
        "CREATE TABLE t (a TEXT, v INTEGER)",
        "CREATE TABLE t (a TEXT, v INTEGER, PRIMARY KEY (a, v))",
        "CREATE TABLE t (a TEXT, v INTEGER, rowid TEXT, _rowid_ TEXT, oid TEXT)",
        "CREATE TABLE t (a ANY PRIMARY KEY, v ANY) STRICT",
    ],
)
def test_tables_of_every_shape(conninfo: str, tmp_path: Path, create: str) -> None:
    path = source_of(tmp_path / "s.db", create)
    more = (None,) * create.count("id")
    insert(path, "t", [(f"k{number}", number, *more[:3]) for number in range(2500)] + [("last", "x", *more[:3])])
    others = ", rowid text, _rowid_ text, oid text" if more else ""
    target = target_of(conninfo, tmp_path, f"CREATE TABLE t (a text, v int{others})")
    found = assess(path, plan_of({"t": None}), target)
    (finding,) = found.blocks
    assert (finding.code, finding.rows, found.rows) == ("text_in_number", 1, 2501)
    assert finding.keys[0].startswith("a=last") or finding.keys[0] in ("rowid=2501", "a row without a key")


def test_text_that_may_be_too_long_for_an_index(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w TEXT)")
    insert(path, "t", [(1, "x" * 2700, "x" * 9000), (2, "გ" * 1000, "")])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text, w text)", "CREATE INDEX ON t (v)")
    (finding,) = telling(assess(path, plan_of({"t": None}), target), but=("sequence_missing",))
    assert (finding.code, finding.severity, finding.where, finding.keys) == ("long_in_index", "note", "t.v", ("id=2",))
    assert finding.value == "text of up to 1,000 characters"


def test_values_that_together_may_be_too_long_for_an_index(conninfo: str, tmp_path: Path) -> None:
    columns = "a {}, b {}, c {}, d {}, e {}"
    path = source_of(tmp_path / "s.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, {columns.replace('{}', '')})")
    long, few = "x" * 1400, "y" * 20
    insert(path, "t", [(1, long, long, few, b"z" * 2701, long * 2), (2, "", few, few, b"", "")])
    target = target_of(
        conninfo,
        tmp_path,
        f"CREATE TABLE t (id int PRIMARY KEY, {columns.format('text', 'text', 'varchar(20)', 'bytea', 'text')})",
        "CREATE UNIQUE INDEX ON t (a, b, c)",
        "CREATE INDEX ON t (d)",
        "CREATE INDEX ON t (lower(e))",
    )
    found = telling(assess(path, plan_of({"t": None}), target), but=("sequence_missing",))
    assert [(item.code, item.column, item.value) for item in found] == [
        ("long_in_index", "a", "text of up to 1,400 characters"),
        ("long_in_index", "b", "text of up to 1,400 characters"),
        ("long_in_index", "d", "blob of up to 2,701 bytes"),
        ("long_in_index", "e", "text of up to 2,800 characters"),
    ]


def test_a_domain_is_what_it_is_made_from(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, d TEXT, u TEXT UNIQUE, n REAL)")
    insert(path, "t", [(1, "2025-10-10T08:08:59.12345Z", KEY, 1e15), (2, "no", SPELLED, 0.5)])
    target = target_of(
        conninfo,
        tmp_path,
        "CREATE DOMAIN at AS timestamptz NOT NULL",
        "CREATE DOMAIN key AS uuid",
        "CREATE DOMAIN amount AS numeric CONSTRAINT much CHECK (VALUE > 1)",
        "CREATE TABLE t (id int PRIMARY KEY, d at, u key UNIQUE, n amount)",
    )
    found = telling(assess(path, plan_of({"t": None}), target), but=("sequence_missing",))
    assert {(item.code, item.where) for item in found} == {
        ("not_a_datetime", "t.d"),
        ("duplicate_key", "t.u"),
        ("check_not_assessed", "t"),
    }


def test_types_without_a_way(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v inet)")
    (finding,) = assess(path, plan_of({"t": None}), target).blocks
    assert (finding.code, finding.where, finding.value) == ("type_without_way", "t.v", "inet")


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_database_in_utf16(conninfo: str, tmp_path: Path, encoding: str) -> None:
    path = source_of(
        tmp_path / "s.db", "CREATE TABLE t (id TEXT PRIMARY KEY, u TEXT, d TEXT, j TEXT, v TEXT)", encoding=encoding
    )
    good = [(f"გ{number}", SPELLED, "2025-10-10 08:08:59.575644", '{"a": "მთავარი"}', "🛰🛰") for number in range(100)]
    insert(path, "t", [*good, ("bad", "x", "y", '{"a": 1, "a": 2}', "a\0b")])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id text, u uuid, d timestamptz, j jsonb, v varchar(2))")
    found = assess(path, plan_of({"t": None}), target)
    assert {(item.code, item.keys) for item in found.findings} == {
        ("not_uuid", ("id=bad",)),
        ("not_a_datetime", ("id=bad",)),
        ("duplicate_json_keys", ("id=bad",)),
        ("nul_in_text", ("id=bad",)),
        ("unique_key", ()),
    }


def test_wide_rows_and_many_columns(conninfo: str, tmp_path: Path) -> None:
    columns = [f"c{number}" for number in range(400)]
    path = source_of(
        tmp_path / "s.db",
        f"CREATE TABLE t ({', '.join(f'{name} TEXT' for name in columns)})",
        "INSERT INTO t (c0, c399) VALUES (printf('%.*c', 40000000, 'x'), 'a'), ('y', 'b')",
    )
    insert(path, "t", [(*("z" for _ in columns[:-1]), "c\0")])
    target = target_of(conninfo, tmp_path, f"CREATE TABLE t ({', '.join(f'{name} text' for name in columns)})")
    found = assess(path, plan_of({"t": None}), target)
    (finding,) = found.blocks
    assert (finding.where, finding.keys, found.rows) == ("t.c399", ("rowid=3",), 3)


# --- what is never shown ------------------------------------------------------------------------------------------------


def test_content_of_secret_columns_is_never_shown(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (login TEXT PRIMARY KEY, token TEXT, seen DATETIME, plain TEXT)")
    insert(path, "t", [("hunter", "hunter2\0", 1760083739, "x" * 200 + "\0"), ("hunter", "hunter4\0", None, None)][:1])
    insert(path, "t", [("huntress", "hunter4\0", None, None)])
    target = target_of(
        conninfo, tmp_path, "CREATE TABLE t (login text PRIMARY KEY, token text UNIQUE, seen timestamptz, plain text)"
    )
    settings = {"secret": ["login", "token", "seen"], "columns": {"token": {"strip_nul": True}}}
    found = assess(path, plan_of({"t": settings}), target)
    text = found.to_json()
    assert "hunter" not in text and "1760083739" not in text and "2025-10-10" not in text
    by_column = {item.column: item for item in found.findings if item.code.startswith(("nul", "number"))}
    assert by_column["token"].keys == ("rowid=1", "rowid=2") and by_column["token"].becomes == "without its NUL characters"
    assert by_column["seen"].becomes == "unknown" and "datetime: unix" in by_column["seen"].decide
    assert len(by_column["plain"].example) == 80 and by_column["plain"].example.endswith("…")


# --- decisions as a whole -------------------------------------------------------------------------------------------------

PAIR = ("CREATE TABLE p (k TEXT)", "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT, n INTEGER)")
PAIR_MADE = (
    "CREATE TABLE p (k text UNIQUE)",
    "CREATE TABLE t (id int PRIMARY KEY, k text CONSTRAINT of_p REFERENCES p (k),"
    " n int CONSTRAINT odd CHECK (n IS NOT NULL))",
)


def assessed_pair(
    conninfo: str, folder: Path, p: list[Any], t: list[Any], settings: dict[str, Any], *, tried: bool = True
) -> Assessment:
    path = source_of(folder / "s.db", *PAIR)
    insert(path, "p", p)
    insert(path, "t", t)
    target = target_of(conninfo, folder, *PAIR_MADE)
    return (assess_decided if tried else assess)(path, plan_of(settings), target)


def test_rows_that_a_decision_makes_one_are_found(conninfo: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p": {"columns": {"k": {"strip_nul": True}}}, "t": None}
    arguments = (conninfo, tmp_path, [("a",), ("a\0",)], [(1, "a", 1)], settings)
    (finding,) = assessed_pair(*arguments).blocks
    assert (finding.code, finding.table, finding.column) == ("duplicate_key", "p", "k")
    assert finding.becomes.endswith("(as the decisions leave it)")
    found = assessed_pair(*arguments, tried=False)
    assert not found.blocks  # as the source stands they are two


def test_references_that_a_decision_breaks_or_mends_are_followed(conninfo: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p": {"columns": {"k": {"strip_nul": True}}}, "t": None}
    broken = assessed_pair(conninfo, tmp_path, [("a\0",)], [(1, "a\0", 1)], {**settings, "p": None, "t": settings["p"]})
    assert {(item.code, item.table) for item in broken.blocks} == {("nul_in_text", "p")}
    mended = assessed_pair(conninfo, tmp_path, [("a\0",)], [(1, "a", 1)], settings)
    assert not mended.blocks and "orphans_not_assessed" not in {item.code for item in mended.findings}
    (lost,) = assessed_pair(conninfo, tmp_path, [("a\0",)], [(1, "b", 1)], settings).blocks
    assert (lost.code, lost.table, lost.column) == ("decision_fails", "t", "")
    assert "point nowhere" in lost.becomes and "id=1" in lost.becomes and lost.value.startswith("t.of_p: ")


def test_a_decision_that_touches_nothing_leaves_nothing_open(conninfo: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p": {"columns": {"k": {"strip_nul": True}}}, "t": None}
    (finding,) = assessed_pair(conninfo, tmp_path, [("a",)], [(1, "b", 1)], settings).blocks
    assert (finding.code, finding.table, finding.rows, finding.keys) == ("orphans", "t", 1, ("id=1",))


def test_a_check_that_a_decision_breaks_is_found(conninfo: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"p": None, "t": {"columns": {"n": {"empty_as_null": True}}}}
    (finding,) = assessed_pair(conninfo, tmp_path, [], [(1, None, 1), (2, None, "")], settings).blocks
    assert (finding.code, finding.value, finding.keys) == ("check_violated", "odd", ("id=2",))
    assert not assessed_pair(conninfo, tmp_path, [], [(1, None, 1), (2, None, "")], settings, tried=False).blocks


def test_a_decision_about_rows_that_cannot_be_told_apart_fails(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", 'CREATE TABLE t (rowid TEXT, _rowid_ TEXT, "oid" TEXT)')
    insert(path, "t", [("a", "b\0", "c")])
    target = target_of(conninfo, tmp_path, 'CREATE TABLE t (rowid text, _rowid_ text, "oid" text)')
    plan = plan_of({"t": {"columns": {"_rowid_": {"strip_nul": True}}}})
    (finding,) = assess_decided(path, plan, target).blocks
    assert (finding.code, finding.table) == ("decision_fails", "t") and "cannot be identified" in finding.becomes


# --- sequences ------------------------------------------------------------------------------------------------------------


def test_sequences(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db",
        *(
            f"CREATE TABLE {name} (id INTEGER PRIMARY KEY {'AUTOINCREMENT' if name != 'plain' else ''})"
            for name in ("ahead", "emptied", "even", "used_up", "plain", "counted")
        ),
        "INSERT INTO ahead VALUES (1), (9)",
        "DELETE FROM ahead WHERE id = 9",
        "INSERT INTO emptied VALUES (5)",
        "DELETE FROM emptied",
        "INSERT INTO even VALUES (3)",
        "INSERT INTO used_up VALUES (2147483647)",
        "INSERT INTO plain VALUES (1)",
        # No rowid by another name: SQLite gives no keys, and the target would.
        "CREATE TABLE version (id INTEGER PRIMARY KEY, number INTEGER)",
        "CREATE TABLE other (id INT PRIMARY KEY)",
        "INSERT INTO other VALUES (32767)",
        "CREATE TABLE short (id INT PRIMARY KEY)",
        "INSERT INTO short VALUES (99)",
        "CREATE TABLE falling (id INT PRIMARY KEY)",
        "CREATE TABLE text (id TEXT PRIMARY KEY)",
    )
    identity = "GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"
    made = [f"CREATE TABLE {name} (id int {identity})" for name in ("ahead", "emptied", "even", "used_up")]
    made += [f"CREATE TABLE {name} (id int PRIMARY KEY)" for name in ("plain", "counted")]
    made += [
        f"CREATE TABLE other (id smallint {identity})",
        f"CREATE TABLE short (id int {identity.replace('PRIMARY KEY', '(MAXVALUE 99) PRIMARY KEY')})",
        f"CREATE TABLE falling (id int {identity.replace('PRIMARY KEY', '(INCREMENT -1) PRIMARY KEY')})",
        "CREATE TABLE version (id int PRIMARY KEY, number int GENERATED BY DEFAULT AS IDENTITY)",
        "CREATE SEQUENCE given",
        "CREATE TABLE text (id text PRIMARY KEY DEFAULT nextval('given'))",
    ]
    target = target_of(conninfo, tmp_path, *made)
    tables = ("ahead", "emptied", "even", "used_up", "plain", "counted", "version", "other", "short", "falling", "text")
    plan = plan_of(dict.fromkeys(tables))
    assert {(item.code, item.severity, item.table, item.becomes) for item in telling(assess(path, plan, target))} == {
        ("sequence_ahead", "note", "ahead", "next key 10"),
        ("sequence_ahead", "note", "emptied", "next key 6"),
        ("sequence_out_of_range", "blocks", "used_up", "refused by integer"),
        ("sequence_missing", "note", "plain", "keys come from the application alone"),
        ("sequence_missing", "note", "version", "keys come from the application alone"),
        ("sequence_missing", "blocks", "counted", "keys come from the application alone"),
        ("sequence_out_of_range", "blocks", "other", "refused by smallint"),
        ("sequence_out_of_range", "blocks", "short", "refused by integer"),
        ("sequence_unfit", "blocks", "falling", "nothing: it cannot be set past the keys, which are integer"),
        ("sequence_unfit", "blocks", "text", "nothing: it cannot be set past the keys, which are text"),
    }


def test_keys_beyond_the_targets(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (2147483648)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)")
    finding = only(assess(path, plan_of({"t": None}), target))
    assert (finding.code, finding.severity, finding.keys) == ("key_out_of_range", "blocks", ("id=2147483648",))


# --- what is no row -------------------------------------------------------------------------------------------------------

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


def test_everything_that_is_no_row_is_listed(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", *OBJECTS)
    plan = plan_of(
        {"t": None}, source_objects={"cheap": "now a query of the shop page", "t.known": "now an enumeration of the model"}
    )
    found = telling(assess(path, plan, target_of(conninfo, tmp_path, *MADE)), but=("sequence_missing",))
    assert {(item.code, item.where, item.value): item.becomes for item in found} == {
        ("view", "", "cheap"): "the plan: now a query of the shop page",
        ("view", "", "kept"): "a view of that name; what it shows was not compared",
        ("trigger", "t", "bumped after update"): "nothing",
        ("generated_column", "t.twice", "twice"): "computed by the target",
        ("generated_column", "t.shown", "shown"): "nothing",
        ("collation", "t.name", "NOCASE"): "compared as the target's database does",
        ("partial_index", "t.price", "only_plain"): "a full index",
        ("expression_index", "t.an expression", "by_lower"): "no index",
        ("unique_key", "t.price, kind", "priced"): "no index",
        ("check", "t", "known: kind IN ('plain', 'CHECK (x)')"): "the plan: now an enumeration of the model",
        ("check", "t", "check 2: price > 0"): "the target's table has no CHECK",
        ("default", "t.price", "DEFAULT 2.50"): "no default",
    }
    assert {item.severity for item in found} == {"note"}
    decide = {item.value: item.decide for item in found}
    assert decide["cheap"] == "" and decide["kept"] == "source_objects:\n  kept: what became of it"


# --- the plan -------------------------------------------------------------------------------------------------------------


def test_decisions_that_fit_nothing(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, d DATETIME)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text, d timestamptz)")
    columns = {"v": {"empty_as_null": True}, "x": {"strip_nul": True}, "d": {"datetime": "unix"}}
    plan = plan_of({"t": {"columns": columns, "foreign_keys": {"none": {"orphans": "quarantine"}}}})
    found = assess(path, plan, target)
    misfits = [item.value for item in found.blocks]
    assert [value.partition(":")[0] for value in misfits] == [
        "tables.t.columns.v.empty_as_null",
        "tables.t.columns.x",
        "tables.t.foreign_keys.none",
    ]
    assert [
        (item.column, item.value) for item in found.findings if item.code == "decision_unused" and item.column == "d"
    ] == [("d", "datetime")]


def test_decisions_about_what_the_source_has_not(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w TEXT AS (upper(v)) STORED)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text, w text, new text)")
    columns = {"w": {"strip_nul": True}, "new": {"strip_nul": True}}
    ignored = {"t": "it is copied all the same", "gone": "dropped last year"}
    plan = plan_of({"t": {"columns": columns}}, ignored_tables=ignored, source_objects={"nobody": "a view of old"})
    found = assess(path, plan, target)
    assert [item.value for item in found.blocks if item.code == "decision_misfit"] == [
        "ignored_tables.t: it stands under tables too",
        "tables.t.columns.new: the source has no such column",
        "tables.t.columns.w: computed by the source",
    ]
    unused = [item.value for item in found.findings if item.code == "decision_unused"]
    assert "ignored_tables.gone: the source has no such table" in unused
    assert "source_objects.nobody: the source has no such object" in unused


def test_no_decision_changes_the_key_of_a_table_without_rowid(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID")
    insert(path, "t", [("a\0b", "a\0b")])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id text PRIMARY KEY, v text)")
    plan = plan_of({"t": {"columns": {"id": {"strip_nul": True}, "v": {"strip_nul": True}}}})
    (finding,) = assess(path, plan, target).blocks
    assert (finding.where, finding.code) == ("t.id", "nul_in_text") and "WITHOUT ROWID" in finding.becomes


def test_no_decision_makes_integers_of_reals(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v REAL)")
    insert(path, "t", [(1, 1)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v boolean)")
    (finding,) = assess(path, plan_of({"t": {"columns": {"v": {"boolean": {"1.0": True}}}}}), target).blocks
    assert finding.code == "not_boolean" and "declared REAL" in finding.becomes


def test_a_virtual_table_of_the_plan_is_read_like_any_other(conninfo: str, tmp_path: Path) -> None:
    path = source_of(
        tmp_path / "s.db", "CREATE VIRTUAL TABLE t USING fts5(body)", "INSERT INTO t VALUES ('a'), ('b' || char(0))"
    )
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (body text)")
    found = assess(path, plan_of({"t": None}), target)
    assert [(item.code, item.keys) for item in found.blocks] == [("nul_in_text", ("rowid=2",))]


def test_a_plan_for_another_application(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE songs (id INTEGER)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int)")
    with pytest.raises(CannotCheck, match=r"the plan is for another application.*songs"):
        assess(path, plan_of({"t": None}), target)
    with pytest.raises(CannotCheck, match="has no tables"):
        assess(source_of(tmp_path / "e.db", "PRAGMA user_version = 1"), plan_of({"t": None}), target)


def test_the_result_survives_json_and_tells_its_progress(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)")
    insert(path, "t", [(number, "x" if number % 1000 == 0 else number) for number in range(1, 5001)])
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v int)")
    told: list[Progress] = []
    found = assess(path, plan_of({"t": None}), target, name="shop.db", on_progress=told.append)
    assert Assessment.from_json(found.to_json()) == found
    assert (found.source, found.rows, found.blocks[0].rows) == ("shop.db", 5000, 5)
    assert found.blocks[0].keys == ("id=1000", "id=2000", "id=3000", "id=4000", "id=5000")
    assert told[-1] == Progress("t", 5000) and len(told) > 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "findings": [{"code": "x"}]}'])
def test_what_is_no_assessment_is_refused(text: str) -> None:
    with pytest.raises(CannotCheck):
        Assessment.from_json(text)


def test_a_role_without_rights_is_told_so(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        name = f"looker_{tmp_path.name[-8:]}".lower().replace("-", "_")
        connection.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'p'")
    try:
        with pytest.raises(Refused, match="may not make a scratch schema"):
            target_of(psycopg.conninfo.make_conninfo(conninfo, user=name, password="p"), tmp_path, "CREATE TABLE t (id int)")
    finally:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(f'DROP ROLE "{name}"')


def test_planned_schema_agrees(conninfo: str, tmp_path: Path) -> None:
    """The target as the assessment reads it is the one that the other steps read."""
    folder = sql_folder(tmp_path / "sql", *CHILDREN)
    found, planned = read_target(conninfo, folder), planned_schema(conninfo, folder)
    assert isinstance(planned, PlannedSchema)
    assert {table: list(made.details.values()) for table, made in found.tables.items()} == planned.columns
    assert {table: list(made.primary_key) for table, made in found.tables.items()} == planned.primary_keys
    assert list(found.foreign_keys) == planned.foreign_keys
