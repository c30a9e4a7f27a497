"""Conditions of the target in SQLite: what is translated means the same on both sides, and the rest is refused."""

from __future__ import annotations

import apsw
import psycopg
import pytest

from include.cutover.assessment.expressions import Untranslatable, prepare, translated
from include.cutover.copying.conversion import TargetColumn
from include.cutover.stack.postgres import Cluster

COLUMNS = {
    "n": TargetColumn("n", "numeric(9,6)", "numeric", 589834, False, False, False),
    "i": TargetColumn("i", "integer", "int4", -1, False, False, False),
    "t": TargetColumn("t", "text", "text", -1, False, False, False),
    "v": TargetColumn("v", "character varying(20)", "varchar", 24, False, False, False),
    "b": TargetColumn("b", "boolean", "bool", -1, False, False, False),
    "u": TargetColumn("u", "uuid", "uuid", -1, False, False, False),
    "Odd name": TargetColumn("Odd name", "integer", "int4", -1, False, False, False),
}
TABLE = 'CREATE TEMP TABLE x (n numeric(9,6), i integer, t text, v varchar(20), b boolean, u uuid, "Odd name" integer)'
ROWS = [
    (None, None, None, None, None, None, None),
    (1.5, 4, "a", "ADMIN", 1, None, 3),
    (-90.0, -7, "É", "guest", 0, "6f1ed002-ab55-9585-9014-ebf0951522d9", 0),
    (0.0, 0, "", "  x ", 1, None, -1),
    (12.25, 100, "მთავარი", "o'brien", 0, None, 2**31 - 1),
]


@pytest.mark.parametrize(
    "condition",
    [
        "v IN ('ADMIN', 'o''brien')",
        "v NOT IN ('ADMIN', 'VIEWER')",
        "n BETWEEN -90 AND 90",
        "n >= 0 OR b",
        "NOT b",
        "b IS NOT TRUE",
        "b = true",
        "t = 'a' AND v <> t",
        "t IS NULL",
        "u IS NOT NULL",
        "length(t) > 2",
        "char_length(v) + 1 < 8",
        "octet_length(t) <= 2",
        "lower(t) = t",
        "upper(v) = v",
        "lower(t) = 'é'",
        "trim(v) <> v",
        "i % 2 = 0",
        "i * 2 - 1 > i",
        "-i < 5",
        "abs(i) = 7",
        "coalesce(n, 0) > 0",
        "coalesce(i, 1) = 1",
        '"Odd name" > 0',
        "i IS DISTINCT FROM 4",
        "v IS NOT DISTINCT FROM 'guest'",
        "n::float8 < 3.5",
        "i IN (4, 100)",
        "i > n",
        "(n > 1 AND i > 1) OR (v = 'guest' AND NOT (b OR t IS NULL))",
    ],
)
def test_source_and_target_evaluate_a_condition_alike(cluster: Cluster, condition: str) -> None:
    with psycopg.connect(cluster.conninfo()) as connection:
        connection.execute(TABLE)
        connection.execute(f"ALTER TABLE x ADD CONSTRAINT it CHECK ({condition}) NOT VALID")
        row = connection.execute("SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conname = 'it'").fetchone()
        assert row is not None
        connection.execute("ALTER TABLE x DROP CONSTRAINT it")
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO x VALUES (%s, %s, %s, %s, %s::int::boolean, %s, %s)",
                [(n, i, t, v, b, u, o) for n, i, t, v, b, u, o in ROWS],
            )
        theirs = [value for (value,) in connection.execute(f"SELECT {condition} FROM x")]
    text, used, _ = translated(row[0], COLUMNS)
    ours = apsw.Connection(":memory:")
    prepare(ours)
    ours.execute(
        'CREATE TABLE x (n REAL, i INTEGER, t TEXT COLLATE NOCASE, v VARCHAR(20), b BOOLEAN, u UUID, "Odd name" INT)'
    )
    ours.executemany("INSERT INTO x VALUES (?, ?, ?, ?, ?, ?, ?)", ROWS)
    found = [None if value is None else bool(value) for (value,) in ours.execute(f"SELECT {text} FROM x")]
    assert found == theirs and used


@pytest.mark.parametrize(
    "expression",
    [
        "(t ~ '^a'::text)",
        "(t ~~ 'a%'::text)",
        "(t < 'b'::text)",
        "(md5(t) = 'x'::text)",
        "(i / 2 = 1)",
        "((n + 0.1) = 0.3)",
        "(n % 2 = 0)",
        "((v)::character varying(2) = 'AD'::text)",
        "(u = '6f1ed002-ab55-9585-9014-ebf0951522d9'::uuid)",
        "(other > 1)",
        "(i = ANY (f(1)))",
        "(i = 1",
        "(i = 1) extra",
        "(t = 1)",
        "((t)::integer = 1)",
        "((n)::integer = 1)",
        "(i = 1); DROP TABLE x",
        "(t = E'a\\\\b'::text)",
    ],
)
def test_an_expression_without_equivalent_is_refused(expression: str) -> None:
    with pytest.raises(Untranslatable):
        translated(expression, COLUMNS)
