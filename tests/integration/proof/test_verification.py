"""Counts, orphans and smoke tests on a real database."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from include.cutover.checks import worst
from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.proof.counts import ExpectedCount, count_checks, expected_counts
from include.cutover.proof.orphans import orphan_checks
from include.cutover.proof.reading import session
from include.cutover.proof.smoke import smoke_test_database

SCHEMA = "Ward"


@pytest.fixture
def target(conninfo: str) -> str:
    """A database with a schema that takes care with names."""
    execute(
        conninfo,
        """
        CREATE SCHEMA "Ward";
        SET search_path = "Ward";
        CREATE TABLE branches (id uuid PRIMARY KEY, name text NOT NULL);
        CREATE TABLE "order" (id bigint PRIMARY KEY, "Branch id" uuid, token text);
        CREATE VIEW shown AS SELECT * FROM "order";
        INSERT INTO branches VALUES ('00000000-0000-0000-0000-000000000001', 'one');
        INSERT INTO "order" SELECT n, '00000000-0000-0000-0000-000000000001', 'hidden' FROM generate_series(1, 3) AS n;
        """,
    )
    return conninfo


def execute(conninfo: str, statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statements.encode())


def one(conninfo: str, query: str) -> object:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def login(conninfo: str, grants: str) -> str:
    """Conninfo of a role that may only what ``grants`` says; it belongs to this test's database alone."""
    name = f"reader_{one(conninfo, 'SELECT current_database()')}"
    execute(conninfo, f"CREATE ROLE {name} LOGIN PASSWORD 'p'; GRANT USAGE ON SCHEMA \"Ward\" TO {name};")
    execute(conninfo, 'SET search_path = "Ward"; ' + grants.format(role=name))
    return make_conninfo(conninfo, user=name, password="p")


# ---- counts


def test_counts_compare_each_table_and_say_where_the_number_comes_from(target: str) -> None:
    expected = expected_counts({"branches": 1, "order": 3})
    rows = count_checks(target, SCHEMA, expected)
    assert [(row.table, row.source_rows, row.target_rows, row.delta) for row in rows] == [
        ("branches", 1, 1, 0),
        ("order", 3, 3, 0),
    ]
    assert worst([row.check(SCHEMA) for row in rows]) == "passed"
    assert rows[1].check(SCHEMA).expected == "3 rows (snapshot)"


@pytest.mark.parametrize(("expected", "delta", "found"), [(4, -1, "3 rows (-1)"), (2, 1, "3 rows (+1)")])
def test_a_row_missing_or_too_many_fails_and_names_table_expected_and_found(
    target: str, expected: int, delta: int, found: str
) -> None:
    (row,) = count_checks(target, SCHEMA, {"order": expected})
    check = row.check(SCHEMA)
    assert row.delta == delta
    assert (check.outcome, check.where, check.found) == ("failed", "Ward.order", found)
    assert check.do


@pytest.mark.parametrize(
    ("table", "problem"),
    [("Order", "no such table in schema Ward"), ("shown", "a view, not a table"), ("users", "no such table")],
)
def test_what_is_no_table_is_unknown_also_when_no_row_is_expected(target: str, table: str, problem: str) -> None:
    missing, there = count_checks(target, SCHEMA, {table: 0, "order": 3})
    assert missing.target_rows is None and missing.delta is None
    check = missing.check(SCHEMA)
    assert check.outcome == "unknown" and problem in check.found
    assert there.check(SCHEMA).outcome == "passed"


def test_a_table_that_may_not_be_read_is_unknown(target: str) -> None:
    reader = login(target, 'GRANT SELECT ON "order" TO {role};')
    hidden, readable = count_checks(reader, SCHEMA, {"branches": 1, "order": 3})
    assert hidden.check(SCHEMA).outcome == "unknown" and "permission denied" in hidden.problem
    assert readable.check(SCHEMA).outcome == "passed"


def test_rows_hidden_by_a_policy_are_no_smaller_count(target: str) -> None:
    reader = login(
        target,
        'ALTER TABLE "order" ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON "order" USING (id < 3);'
        ' GRANT SELECT ON "order" TO {role};',
    )
    (row,) = count_checks(reader, SCHEMA, {"order": 2})
    assert row.check(SCHEMA).outcome == "unknown" and "row-level security" in row.problem


def test_counting_nothing_is_an_error(target: str) -> None:
    with pytest.raises(CannotCheck, match="no table to count"):
        count_checks(target, SCHEMA, {})


def test_a_server_that_does_not_answer_is_an_error_without_the_password(target: str) -> None:
    away = make_conninfo(target, port="1", password="do-not-tell")
    with pytest.raises(Unreachable) as caught:
        count_checks(away, SCHEMA, {"order": 3})
    assert caught.value.retry_helps
    assert "do-not-tell" not in str(caught.value)


def test_reference_data_is_expected_only_where_the_snapshot_has_no_rows() -> None:
    expected = expected_counts({"cities": 0, "users": 3}, {"cities": 82})
    assert expected == {"cities": ExpectedCount(82, "reference data"), "users": ExpectedCount(3, "snapshot")}
    with pytest.raises(CannotCheck, match="3 rows in the snapshot and 5"):
        expected_counts({"users": 3}, {"users": 5})
    with pytest.raises(CannotCheck, match="not in the snapshot"):
        expected_counts({"users": 3}, {"extra": 5})


def test_the_session_cannot_write(target: str) -> None:
    with pytest.raises(Exception, match="read-only"), session(target, SCHEMA, seconds=5) as connection:
        connection.execute('DELETE FROM "order"')
    assert one(target, 'SELECT count(*) FROM "Ward"."order"') == 3


# ---- orphans

KEY = (
    'ALTER TABLE "Ward"."order" ADD CONSTRAINT "order_Branch" FOREIGN KEY ("Branch id")'
    ' REFERENCES "Ward".branches (id) NOT VALID;'
)


def orphan(rows: str) -> str:
    return f'INSERT INTO "Ward"."order" SELECT n, gen_random_uuid(), \'hidden\' FROM {rows} AS n;'


def test_no_orphan_is_a_pass_and_a_null_is_no_orphan(target: str) -> None:
    execute(target, 'INSERT INTO "Ward"."order" VALUES (9, NULL, NULL);' + KEY)
    (result,) = orphan_checks(target, SCHEMA, {})
    assert (result.count, result.keys) == (0, ())
    assert result.check(SCHEMA).outcome == "passed"


def test_orphans_are_counted_and_named_by_their_keys_alone(target: str) -> None:
    execute(target, orphan("generate_series(10, 59)") + KEY)
    (result,) = orphan_checks(target, SCHEMA, {})
    assert result.count == 50
    assert [key["id"] for key in result.keys] == [str(n) for n in range(10, 30)]
    assert set(result.keys[0]) == {"id", "Branch id"}
    check = result.check(SCHEMA)
    assert check.outcome == "failed" and check.where == "Ward.order"
    assert "50 orphans: id=10, Branch id=" in check.found and "and 30 more" in check.found
    assert "hidden" not in str(result)


def test_a_referencing_value_that_is_secret_is_not_shown(target: str) -> None:
    execute(target, orphan("generate_series(10, 10)") + KEY)
    (result,) = orphan_checks(target, SCHEMA, {"order": {"Branch id"}})
    assert result.keys == ({"id": "10"},)


def test_a_table_without_primary_key_shows_the_referencing_value(target: str) -> None:
    execute(
        target,
        'CREATE TABLE "Ward".loose (branch uuid REFERENCES "Ward".branches DEFERRABLE);'
        ' ALTER TABLE "Ward".loose DISABLE TRIGGER ALL; INSERT INTO "Ward".loose VALUES (\'' + "f" * 32 + "');",
    )
    (result,) = orphan_checks(target, SCHEMA, {})
    assert result.keys == ({"branch": "ffffffff-ffff-ffff-ffff-ffffffffffff"},)
    (hidden,) = orphan_checks(target, SCHEMA, {"loose": {"branch"}})
    assert (hidden.count, hidden.keys, hidden.check(SCHEMA).found) == (1, (), "1 orphan")


def test_a_composite_key_is_an_orphan_only_when_no_part_is_null(target: str) -> None:
    execute(
        target,
        """
        SET search_path = "Ward";
        CREATE TABLE parent (a int, b text, PRIMARY KEY (a, b));
        CREATE TABLE child (id int PRIMARY KEY, a int, b text);
        INSERT INTO parent VALUES (1, 'x');
        INSERT INTO child VALUES (1, 1, 'x'), (2, 1, NULL), (3, NULL, 'y'), (4, 1, 'y'), (5, 2, 'x');
        ALTER TABLE child ADD FOREIGN KEY (a, b) REFERENCES parent (a, b) NOT VALID;
        """,
    )
    (result,) = orphan_checks(target, SCHEMA, {})
    assert [key["id"] for key in result.keys] == ["4", "5"]


def test_orphans_of_a_reference_to_the_same_table_are_found(target: str) -> None:
    execute(
        target,
        'CREATE TABLE "Ward".tree (id int PRIMARY KEY, up int); INSERT INTO "Ward".tree VALUES (1, NULL), (2, 1), (3, 7);'
        ' ALTER TABLE "Ward".tree ADD FOREIGN KEY (up) REFERENCES "Ward".tree (id) NOT VALID;',
    )
    (result,) = orphan_checks(target, SCHEMA, {})
    assert result.keys == ({"id": "3", "up": "7"},)


def test_a_foreign_key_that_cannot_be_looked_at_is_unknown(target: str) -> None:
    execute(target, KEY)
    reader = login(target, 'GRANT SELECT ON "order" TO {role};')
    (result,) = orphan_checks(reader, SCHEMA, {})
    assert result.count is None
    assert result.check(SCHEMA).outcome == "unknown" and "permission denied" in result.problem


def test_a_schema_without_foreign_keys_gives_no_result(target: str) -> None:
    assert orphan_checks(target, SCHEMA, {}) == []


# ---- smoke tests


def ask(target: str, folder: Path, sql: str | bytes, seconds: float = 30) -> list[tuple[str, str, str]]:
    file = folder / "smoke" / "010_questions.sql"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(sql.encode() if isinstance(sql, str) else sql)
    checks = smoke_test_database(target, SCHEMA, folder, seconds=seconds)
    assert all(check.where == "smoke/010_questions.sql" for check in checks)
    return [(check.outcome, check.title, check.found) for check in checks]


def test_each_row_of_a_smoke_test_becomes_a_check(target: str, tmp_path: Path) -> None:
    found = ask(
        target,
        tmp_path,
        """
        -- Unqualified names are those of the target's schema; 100 % of this file is sent as it stands.
        SELECT 'orders are there' AS name, count(*) = 3 AS passed, count(*)::text AS found FROM "order"
        UNION ALL SELECT 'no order without branch', false, '2 orders'
        UNION ALL SELECT 'cannot be said', NULL, 'no data';
        """,
    )
    assert found == [
        ("passed", "orders are there", "3"),
        ("failed", "no order without branch", "2 orders"),
        ("unknown", "cannot be said", "the query gave NULL instead of an answer; no data"),
    ]


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELECT 'x' AS name, true AS passed", "columns name, passed"),
        ("SELECT 'x' AS name, 'true' AS passed, '' AS found", "columns name, passed, found"),
        ("SELECT 'x' AS name, true AS passed, '' AS found WHERE false", "no rows"),
        ("SELECT 'x' AS name, true AS passed, '' AS found; SELECT 1", "more than one statement"),
        ("", "columns none"),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELECT pg_sleep(60)", "the query reached its time limit"),
        ('DELETE FROM "order"', "read-only transaction"),
        ("SELECT 'გამარჯობა'".encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_smoke_test_that_asks_nothing_is_unknown(target: str, tmp_path: Path, sql: str | bytes, problem: str) -> None:
    ((outcome, title, found),) = ask(target, tmp_path, sql, seconds=1)
    assert (outcome, title) == ("unknown", "the smoke test 010_questions.sql can be run")
    assert problem in found


def test_a_smoke_test_that_leaves_its_transaction_still_cannot_write(target: str, tmp_path: Path) -> None:
    ((outcome, _, found),) = ask(target, tmp_path, 'COMMIT; BEGIN; DELETE FROM "order"; COMMIT;')
    assert outcome == "unknown" and "read-only" in found
    assert one(target, 'SELECT count(*) FROM "Ward"."order"') == 3


def test_one_bad_file_does_not_hide_the_others(target: str, tmp_path: Path) -> None:
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "010_bad.sql").write_text("SELEC")
    (tmp_path / "smoke" / "020_good.sql").write_text("SELECT 'fine' AS name, true AS passed, NULL::text AS found")
    bad, good = smoke_test_database(target, SCHEMA, tmp_path)
    assert (bad.outcome, good.outcome, good.found) == ("unknown", "passed", "")


def test_without_smoke_tests_nothing_is_proved(target: str, tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="no such folder"):
        smoke_test_database(target, SCHEMA, tmp_path)
    (tmp_path / "smoke").mkdir()
    with pytest.raises(CannotCheck, match="at least one file"):
        smoke_test_database(target, SCHEMA, tmp_path)
