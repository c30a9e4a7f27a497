"""The comparison of content: whatever the tables look like, equal ones are equal, and what differs is named."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.proof import canonical, content, digests, parts
from include.cutover.proof.digest_store import DigestStore
from include.cutover.proof.table_result import TableResult
from include.cutover.source import snapshots
from include.cutover.target.sides import Sides


@dataclass
class Pair:
    """A source file and a target."""

    folder: Path
    conninfo: str

    @property
    def file(self) -> Path:
        return self.folder / "source.db"

    def source(self, *statements: str, rows: Sequence[Sequence[Any]] = (), into: str = "t") -> None:
        with contextlib.closing(apsw.Connection(str(self.file))) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            for statement in statements:
                connection.execute(statement)
            with connection:
                for row in rows:
                    connection.execute(f"INSERT INTO {into} VALUES ({', '.join('?' * len(row))})", tuple(row))

    def target(self, *statements: str, rows: Sequence[Sequence[Any]] = (), into: str = "t") -> None:
        with psycopg.connect(self.conninfo) as connection:
            for statement in statements:
                connection.execute(statement.encode())
            with connection.cursor() as cursor:
                marks = ", ".join(["%s"] * len(rows[0])) if rows else ""
                cursor.executemany(f"INSERT INTO {into} VALUES ({marks})".encode(), [tuple(row) for row in rows])

    def both(self, declared: str, typed: str, rows: Sequence[Sequence[Any]]) -> None:
        """One table ``t`` with the same rows on both sides."""
        self.source(f"CREATE TABLE t ({declared})", rows=rows)
        self.target(f"CREATE TABLE t ({typed})", rows=rows)

    def compare(self, *tables: str, **options: Any) -> list[TableResult]:
        secret = options.pop("secret", {})
        return content.compare(Sides(self.file, self.conninfo, "public", secret), tables or ("t",), **options)

    def result(self, **options: Any) -> TableResult:
        (result,) = self.compare("t", **options)
        return result


@pytest.fixture
def pair(tmp_path: Path, conninfo: str) -> Pair:
    return Pair(tmp_path, conninfo)


def named(result: TableResult) -> list[tuple[str, str, tuple[str, ...]]]:
    """Kind, key and columns of each difference."""
    return [(one.kind, one.key, tuple(column.column for column in one.columns)) for one in result.differences]


# --- names ----------------------------------------------------------------------------------------------------------------

# What the proof's own SQL calls its columns and tables.
OWN_NAMES = ("lower", "upper", "rows", "t", "k", "place", "number", "own", "one", "part", "range", "convert_to", "encode")


@pytest.mark.parametrize("table", ["t", "range", "own", "100%"])
@pytest.mark.parametrize("key", OWN_NAMES)
def test_columns_named_like_the_proofs_own_names_are_compared(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, table: str, key: str
) -> None:
    monkeypatch.setattr(parts, "ROWS", 2)
    others = ", ".join(f'"{name}" integer' for name in OWN_NAMES if name != key)
    rows = [(number, *[None if number % 2 else number % 5] * (len(OWN_NAMES) - 1)) for number in (9, 10, 11, 100, 101)]
    made = f'CREATE TABLE "{table}" ("{key}" integer PRIMARY KEY, {others})'
    pair.source(made, rows=rows, into=f'"{table}"')
    with psycopg.connect(pair.conninfo) as connection, connection.cursor() as cursor:
        cursor.execute(made.encode())
        marks = ", ".join(["%s"] * len(rows[0]))
        cursor.executemany(f'INSERT INTO "{table.replace("%", "%%")}" VALUES ({marks})'.encode(), rows)
    (result,) = pair.compare(table)
    assert (result.outcome, result.source_rows) == ("passed", 5), result.summary
    with psycopg.connect(pair.conninfo) as connection:
        connection.execute(f'UPDATE "{table}" SET "{key}" = 12 WHERE "{key}" = 100'.encode())
    (result,) = pair.compare(table)
    assert {(one.kind, one.key) for one in result.differences} == {("missing", f"{key}=100"), ("extra", f"{key}=12")}


# --- keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        [0],
        list(range(1, 30_001)),
        list(range(-12_345, 12_345)),
        [-(2**63), -(2**62), -1, 0, 1, 2**62, 2**63 - 1],
        [number << 22 for number in range(-15_000, 15_000)],
        [1, *range(10**12, 10**12 + 25_000)],
    ],
    ids=["one", "dense", "around zero", "the ends of the range", "sparse", "one far away"],
)
def test_integer_keys_of_any_spread_are_compared(pair: Pair, keys: list[int]) -> None:
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    with contextlib.closing(apsw.Connection(str(pair.file))) as writing, writing:
        writing.executemany("INSERT INTO t VALUES (?, ?)", [(key, f"v{key}") for key in keys])
    pair.target("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
    with psycopg.connect(pair.conninfo) as connection, connection.cursor().copy("COPY t FROM STDIN") as copy:
        for key in keys:
            copy.write_row((key, f"v{key}"))
    result = pair.result()
    assert result.outcome == "passed"
    assert (result.source_rows, result.target_rows) == (len(keys), len(keys))
    assert result.parts <= 2 * (len(keys) // parts.ROWS + 1)
    last = keys[-1]
    pair.target(f"UPDATE t SET v = v || ' ' WHERE id = {last}")
    found = pair.result()
    assert (found.different, named(found)) == (1, [("changed", f"id={last}", ("v",))])
    assert found.differences[0].columns[0].kind == "trailing blanks"


def test_rows_beyond_the_keys_of_the_source_are_extra(pair: Pair) -> None:
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id bigint PRIMARY KEY, v text", [(1, "a"), (2, "b")])
    pair.target("INSERT INTO t SELECT n, 'new' FROM generate_series(100, 60000) AS n", "INSERT INTO t VALUES (-5, 'old')")
    result = pair.result()
    assert (result.missing, result.extra, result.changed, result.different) == (0, 59_902, 0, 0)
    assert (result.outcome, result.target_rows) == ("failed", 59_904)
    assert named(result)[:3] == [("extra", "id=-5", ()), ("extra", "id=100", ()), ("extra", "id=101", ())]


@pytest.mark.parametrize(
    ("declared", "typed", "rows"),
    [
        ("id TEXT PRIMARY KEY, v", "id text PRIMARY KEY, v text",
         [("b", "1"), ("a|~", "2"), ("ა\n\x1f", "3"), ("", "4"), ("A", "5"), ("aa", "6")]),
        ("a INTEGER, b TEXT, v TEXT, PRIMARY KEY (b, a)", "a integer, b text, v text, PRIMARY KEY (b, a)",
         [(1, "x", "1"), (2, "x", "2"), (10, "", "3"), (-1, "y", "4")]),
        ("id BLOB PRIMARY KEY, v TEXT", "id bytea PRIMARY KEY, v text", [(b"\x00", "1"), (b"", "2"), (b"\xff\x1f\n", "3")]),
        ("id TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID --", "id text PRIMARY KEY, v text", [("b", "1"), ("a", "2")]),
        ("id BIGINT PRIMARY KEY, v TEXT", "id bigint PRIMARY KEY, v text", [(-7, "1"), (7, "2"), (2**60, "3")]),
        ("id REAL PRIMARY KEY, v TEXT", "id double precision PRIMARY KEY, v text", [(0.1, "1"), (-2.5, "2")]),
    ],
    ids=["text", "composite", "blob", "without rowid", "bigint", "real"],
)  # fmt: skip
def test_keys_of_any_kind_are_compared(pair: Pair, declared: str, typed: str, rows: list[tuple[Any, ...]]) -> None:
    made = f"CREATE TABLE t ({declared}" + ("\n)" if "--" not in declared else "")
    pair.source(made, rows=rows)
    pair.target(f"CREATE TABLE t ({typed})", rows=rows)
    assert pair.result().outcome == "passed"
    pair.target("UPDATE t SET v = 'other' WHERE v = '2'", "DELETE FROM t WHERE v = '1'")
    result = pair.result()
    assert (result.missing, result.extra, result.changed) == (1, 0, 1)
    assert result.source_rows == len(rows)


def test_uuids_in_any_spelling_are_cut_by_digits_and_found_again(pair: Pair) -> None:
    import uuid

    ids = [uuid.UUID(int=number * 0x0123456789ABCDEF0123456789ABCDEF % 2**128) for number in range(1, 12_001)]
    spelled = [[one.hex, str(one), f"{{{str(one).upper()}}}"][number % 3] for number, one in enumerate(ids)]
    pair.both("id TEXT PRIMARY KEY, v INTEGER", "id uuid PRIMARY KEY, v integer", [])
    pair.source(rows=[(text, number) for number, text in enumerate(spelled)])
    pair.target(rows=[(one, number) for number, one in enumerate(ids)])
    result = pair.result()
    assert (result.outcome, result.parts) == ("passed", 16)
    pair.target(f"UPDATE t SET v = -1 WHERE id = '{ids[77]}'", f"DELETE FROM t WHERE id = '{ids[5]}'")
    result = pair.result()
    assert {(one.kind, one.key) for one in result.differences} == {
        ("changed", f"id={ids[77]}"), ("missing", f"id={ids[5]}"),
    }  # fmt: skip


def test_tables_without_a_key_are_multisets(pair: Pair) -> None:
    rows = [("a", 1), ("a", 1), ("b", 2), (None, None)]
    pair.source("CREATE TABLE t (v TEXT, n INTEGER)", rows=rows)
    pair.target("CREATE TABLE t (v text, n integer)", rows=rows[::-1])
    assert pair.result().outcome == "passed"
    pair.target("DELETE FROM t WHERE v = 'b'", "INSERT INTO t VALUES ('a', 1)")
    result = pair.result()
    assert (result.source_rows, result.target_rows) == (4, 4)
    assert named(result) == [("changed", "a row without a key (v=b, n=2)", ("v", "n"))] or (
        {kind for kind, _, _ in named(result)} == {"missing", "extra"}
    )


def test_a_key_that_only_the_target_has_is_used(pair: Pair) -> None:
    pair.both("id INTEGER, v TEXT", "id integer PRIMARY KEY, v text", [(1, "a"), (2, "b")])
    pair.target("UPDATE t SET v = 'c' WHERE id = 2")
    assert named(pair.result()) == [("changed", "id=2", ("v",))]


def test_null_in_a_key_and_text_in_an_integer_key_are_found(pair: Pair) -> None:
    pair.source(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, v TEXT)",
        rows=[(1, "a"), (None, "b"), (None, "c"), ("seven", "d"), (2.5, "e"), (b"\x01", "f")],
    )
    pair.target("CREATE TABLE t (id bigint PRIMARY KEY, v text)", rows=[(1, "a"), (7, "d")])
    result = pair.result()
    assert result.outcome == "failed"
    assert (result.missing, result.extra) == (5, 1)
    assert {"id=!text", "id=NULL", "id=!real", "id=!blob"} == {
        one.key for one in result.differences if one.kind == "missing"
    }


def test_a_target_without_its_index_is_compared_in_one_pass(pair: Pair) -> None:
    rows = [(number, f"v{number}") for number in range(-15_000, 15_000)]
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id bigint, v text", rows)
    assert pair.result().outcome == "passed"
    pair.target("UPDATE t SET v = '' WHERE id = -3", "INSERT INTO t SELECT * FROM t WHERE id = 9")
    result = pair.result()
    assert sorted(named(result)) == [("changed", "id=-3", ("v",)), ("extra", "id=9", ())]


def test_a_row_of_the_target_without_its_key_is_extra(pair: Pair) -> None:
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id bigint, v text", [(1, "a")])
    pair.target("INSERT INTO t VALUES (NULL, 'b')")
    assert named(pair.result()) == [("extra", "id=NULL", ())]


# --- the tables themselves ----------------------------------------------------------------------------------------------


def test_tables_and_columns_that_one_side_lacks(pair: Pair) -> None:
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, here TEXT, \"Both\" TEXT)", "CREATE TABLE gone (id INTEGER)",
                rows=[(1, "a", "b")])  # fmt: skip
    pair.target('CREATE TABLE t (id integer PRIMARY KEY, "Both" text, there text)', "CREATE TABLE strange (id integer)")
    pair.target("INSERT INTO t VALUES (1, 'b', NULL)")
    results = {result.table: result for result in pair.compare("t", "gone", "strange", "nowhere")}
    assert results["t"].faults == ("column here is only in the source", "column there is only in the target")
    assert results["gone"].faults == ("no such table in the target",)
    assert results["strange"].faults == ("no such table in the source",)
    assert {result.outcome for result in results.values()} == {"failed"}


def test_a_column_in_another_case_is_not_the_same_column(pair: Pair) -> None:
    pair.both("ID INTEGER PRIMARY KEY, v TEXT", "id integer PRIMARY KEY, v text", [(1, "a")])
    assert pair.result().faults == ("column ID is only in the source", "column id is only in the target")


def test_generated_columns_of_the_target_are_left_out_and_named(pair: Pair) -> None:
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER, twice INTEGER GENERATED ALWAYS AS (v * 2) STORED,"
                " kept INTEGER AS (v + 1))")  # fmt: skip
    pair.source("INSERT INTO t (id, v) VALUES (1, 10)")
    pair.target("CREATE TABLE t (id integer PRIMARY KEY, v integer, twice integer GENERATED ALWAYS AS (v * 2) STORED,"
                " kept integer)", "INSERT INTO t (id, v, kept) VALUES (1, 10, 11)")  # fmt: skip
    result = pair.result()
    assert (result.outcome, result.left_out) == ("passed", ("twice",))
    assert result.summary == "1 row equal (computed by the target and not compared: twice)"
    pair.target("UPDATE t SET kept = 12")
    assert named(pair.result()) == [("changed", "id=1", ("kept",))]


def test_names_that_need_quotes_are_compared(pair: Pair) -> None:
    pair.source('CREATE TABLE "Order ""x""" ("select" INTEGER PRIMARY KEY, "ქალაქი %s {}" TEXT)')
    pair.source('INSERT INTO "Order ""x""" VALUES (1, \'a\')')
    pair.target('CREATE TABLE "Order ""x""" ("select" integer PRIMARY KEY, "ქალაქი %s {}" text)')
    pair.target('INSERT INTO "Order ""x""" VALUES (1, \'b\')')
    (result,) = pair.compare('Order "x"')
    assert named(result) == [("changed", "select=1", ("ქალაქი %s {}",))]


def test_domains_and_enumerations_are_compared(pair: Pair) -> None:
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, mood TEXT)", rows=[(1, 5, "sad")])
    pair.target("CREATE DOMAIN small AS integer CHECK (value < 10)", "CREATE DOMAIN tiny AS small",
                "CREATE TYPE mood AS ENUM ('sad', 'glad')", "CREATE TABLE t (id integer PRIMARY KEY, n tiny, mood mood)",
                rows=[(1, 5, "sad")])  # fmt: skip
    assert pair.result().outcome == "passed"


def test_blanks_of_fixed_length_count(pair: Pair) -> None:
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id integer PRIMARY KEY, v character(5)", [(1, "ab   "), (2, "abcde")])
    assert pair.result().outcome == "passed"


# --- values ---------------------------------------------------------------------------------------------------------------


def test_text_that_is_not_utf8_differs_and_is_named(pair: Pair) -> None:
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, j JSON)",
                "INSERT INTO t VALUES (1, CAST(x'61ff62' AS TEXT), CAST(x'22ff22' AS TEXT))")  # fmt: skip
    pair.target("CREATE TABLE t (id integer PRIMARY KEY, v text, j jsonb)", """INSERT INTO t VALUES (1, 'ab', '""')""")
    result = pair.result()
    assert named(result) == [("changed", "id=1", ("v", "j"))]
    assert result.differences[0].columns[0].source == r"'a\\xffb'"


def test_text_behind_a_nul_is_compared(pair: Pair) -> None:
    """SQLite's own functions stop at a NUL."""
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, at DATETIME, u TEXT)",
                "INSERT INTO t VALUES (1, 'a' || char(0) || 'b', '2025-10-10 08:08:59' || char(0) || 'x',"
                " '6f1ed002ab5595859014ebf0951522d9' || char(0))")  # fmt: skip
    pair.target("CREATE TABLE t (id integer PRIMARY KEY, v text, at timestamptz, u uuid)",
                "INSERT INTO t VALUES (1, 'a', '2025-10-10 08:08:59+00', '6f1ed002ab5595859014ebf0951522d9')")  # fmt: skip
    assert named(pair.result()) == [("changed", "id=1", ("v", "at", "u"))]


def test_values_that_other_sides_cannot_hold_are_differences_not_errors(pair: Pair) -> None:
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME, n NUMERIC, f REAL, d TEXT)",
                rows=[(1, "2025-10-10", 1.5, 1.5, "2025-10-10")])  # fmt: skip
    pair.target("CREATE TABLE t (id integer PRIMARY KEY, at timestamptz, n numeric, f double precision, d date)")
    for at, n, f, d in [("infinity", "NaN", "NaN", "infinity"),
                        ("4714-11-24 00:00+00 BC", "1e-400", "-Infinity", "0044-03-15 BC"),
                        ("294276-12-31 00:00+00", "1e400", "1e-320", "5874897-12-31")]:  # fmt: skip
        pair.target("TRUNCATE t", f"INSERT INTO t VALUES (1, '{at}', '{n}', '{f}', '{d}')")
        assert named(pair.result()) == [("changed", "id=1", ("at", "n", "f", "d"))]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_source_in_utf16_is_compared(pair: Pair, encoding: str) -> None:
    rows = [("a\x1f\n", "მთავარი 🛰", "2025-10-10 08:08:59", '{"bb": 1, "a": "ქ"}', "2025-10-10 08:08:59.123456", "7"),
            ("ა", "", "2025-10-10", "[]", "2025-10-10T08:08:59.5Z", "{6F1ED002-AB55-9585-9014-EBF0951522D9}"),
            ("\uffff", "~", None, "null", "2025-10-10 08:08", None), ("🛰", "é", None, "1.10", None, None)]  # fmt: skip
    rows[0] = (*rows[0][:5], "6f1ed002ab5595859014ebf0951522d9")
    declared = "k TEXT PRIMARY KEY, v TEXT, a TEXT, j TEXT, b TEXT, u TEXT"
    pair.source(f"PRAGMA encoding='{encoding}'", f"CREATE TABLE t ({declared})", rows=rows)
    typed = "k text PRIMARY KEY, v text, a timestamptz, j jsonb, b timestamptz, u uuid"
    pair.target("SET TimeZone = 'UTC'", f"CREATE TABLE t ({typed})", rows=rows)
    assert pair.result().outcome == "passed"
    pair.target("UPDATE t SET v = 'მთავარი' WHERE k LIKE 'a%'")
    result = pair.result()
    assert named(result) == [("changed", r"k=a\x1f\x0a", ("v",))]
    assert result.differences[0].columns[0].kind == "cut after 7 of 9 characters"


def test_wide_rows_are_cut_into_small_parts(pair: Pair) -> None:
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
                "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8) INSERT INTO t"
                " SELECT i, replace(hex(zeroblob(1500000)), '0', 'a') || i FROM n")  # fmt: skip
    pair.target("CREATE TABLE t (id integer PRIMARY KEY, v text)",
                "INSERT INTO t SELECT i, repeat('a', 3000000) || i FROM generate_series(1, 8) AS i")  # fmt: skip
    result = pair.result()
    assert (result.outcome, result.parts) == ("passed", 4)
    pair.target("UPDATE t SET v = overlay(v PLACING 'z' FROM 2999999) WHERE id = 4")
    assert named(pair.result()) == [("changed", "id=4", ("v",))]


def test_a_part_that_is_too_large_for_one_value_is_streamed(pair: Pair) -> None:
    """A part of 80 MB: more than SQLite is given, and what PostgreSQL streams when it is asked to, give one digest."""
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", "CREATE TABLE u (id INTEGER PRIMARY KEY, v TEXT)",
                "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) INSERT INTO t"
                " SELECT i, replace(hex(zeroblob(1000000)), '0', 'a') || i FROM n")  # fmt: skip
    pair.target("CREATE TABLE t (id bigint PRIMARY KEY, v text)",
                "INSERT INTO t SELECT i, repeat('a', 2000000) || i FROM generate_series(1, 40) AS i")  # fmt: skip
    ranges, whole = parts.Cuts(40, ((1, 40),), rowid=True), parts.Cuts(40, small=False)
    with snapshots.snapshot(pair.file) as reading, psycopg.connect(pair.conninfo) as connection:
        canonical.prepare(reading)
        shape = parts.compared_tables(reading, connection, "public", ["t"])["t"]
        found = digests.of_source(reading, shape, ranges)
        assert found == digests.of_target(connection, "public", shape, ranges)
        assert {name: rows for name, (rows, _) in found.items()} == {"1..40": 40}
        streamed = digests.of_target(connection, "public", shape, whole)
        assert streamed == digests.of_source(reading, shape, whole)
        assert {name: rows for name, (rows, _) in streamed.items()} == {"": 40}


def test_secret_columns_are_named_and_never_shown(pair: Pair) -> None:
    pair.both(
        "id INTEGER PRIMARY KEY, token TEXT, v TEXT", "id integer PRIMARY KEY, token text, v text", [(1, "hush-1", "a")]
    )
    pair.target("UPDATE t SET token = 'hush-2', v = 'b'")
    result = pair.result(secret={"t": ["token"]})
    assert named(result) == [("changed", "id=1", ("token", "v"))]
    assert "hush" not in str(result) + result.summary + str(result.check("public"))
    assert result.differences[0].columns[0].source == result.differences[0].columns[0].target == "***"
    hidden = pair.result(secret={"t": ["id", "token"]})
    assert hidden.differences[0].key == "id=***"


def test_many_differences_are_counted_and_the_first_named(pair: Pair) -> None:
    rows = [(number, "2025-10-10 08:00:00") for number in range(1, 1_001)]
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME)", rows=rows)
    pair.target("CREATE TABLE t (id integer PRIMARY KEY, at timestamptz)",
                "INSERT INTO t SELECT n, '2025-10-10 08:00:00+04' FROM generate_series(1, 1000) AS n",
                "DELETE FROM t WHERE id = 1000", "INSERT INTO t VALUES (0, now())")  # fmt: skip
    result = pair.result()
    assert (result.missing, result.extra, result.changed, result.counted) == (1, 1, 999, True)
    assert [one.kind for one in result.differences].count("changed") == 20
    assert result.differences[-1].kind == "missing"
    assert result.differences[1].columns[0].kind == "shifted by -4:00:00"


# --- the source's digests -----------------------------------------------------------------------------------------------


def test_the_digests_of_a_snapshot_are_computed_once(pair: Pair, tmp_path: Path) -> None:
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id integer PRIMARY KEY, v text", [(1, "a"), (2, "b")])
    stored = tmp_path / "digests.json"
    assert pair.result(store=DigestStore(stored, "abc")).outcome == "passed"
    assert stored.stat().st_mode & 0o777 == 0o600
    kept = json.loads(stored.read_bytes())
    kept["tables"]["t"]["parts"]["1..2"][1] = "0" * 64
    stored.write_text(json.dumps(kept))
    assert pair.result(store=DigestStore(stored, "abc")).problem.startswith("the digests differ, although")
    assert pair.result(store=DigestStore(stored, "of another snapshot")).outcome == "passed"
    assert json.loads(stored.read_bytes())["snapshot"] == ["of another snapshot"]


def test_digests_of_another_shape_or_a_damaged_file_are_not_used(pair: Pair, tmp_path: Path) -> None:
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id integer PRIMARY KEY, v text", [(1, "2025-10-10")])
    stored = tmp_path / "digests.json"
    pair.result(store=DigestStore(stored))
    pair.target("ALTER TABLE t ALTER COLUMN v TYPE date USING v::date")
    assert pair.result(store=DigestStore(stored)).outcome == "passed"
    stored.write_bytes(b'{"snapshot": ["x"], "tables": ')
    assert pair.result(store=DigestStore(stored)).outcome == "passed"


def test_a_changed_snapshot_is_not_taken_for_the_one_that_was_digested(pair: Pair, tmp_path: Path) -> None:
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id integer PRIMARY KEY, v text", [(1, "a")])
    stored = tmp_path / "digests.json"
    assert pair.result(store=DigestStore(stored)).outcome == "passed"
    pair.source("UPDATE t SET v = 'b'")
    assert pair.result(store=DigestStore(stored)).outcome == "failed"


def test_whole_digests_tell_a_copy_from_another_file(pair: Pair, tmp_path: Path) -> None:
    rows = [(number, f"v{number}") for number in range(25_000)]
    pair.source("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", rows=rows)
    pair.target("CREATE TABLE t (id bigint, v text)")  # still empty: only its types are needed
    stored = tmp_path / "digests.json"
    before = content.source_digests(Sides(pair.file, pair.conninfo, "public"), ["t"], store=DigestStore(stored))
    copy = tmp_path / "copy.db"
    copy.write_bytes(pair.file.read_bytes())
    assert content.source_digests(Sides(copy, pair.conninfo, "public"), ["t"]) == before
    with contextlib.closing(apsw.Connection(str(copy))) as connection:
        connection.execute("UPDATE t SET v = 'V9' WHERE id = 9")
    assert content.source_digests(Sides(copy, pair.conninfo, "public"), ["t"]) != before
    pair.target("ALTER TABLE t ADD PRIMARY KEY (id)", "INSERT INTO t SELECT n, 'v' || n FROM generate_series(0, 24999) AS n")
    pair.source("DROP TABLE t", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    assert pair.result(store=DigestStore(stored)).outcome == "failed"  # the digests were of another file


# --- when it cannot be compared -----------------------------------------------------------------------------------------


def test_no_table_is_no_proof(pair: Pair) -> None:
    with pytest.raises(CannotCheck):
        content.compare(Sides(pair.file, pair.conninfo, "public"), [])


def test_a_table_that_may_not_be_read_is_unknown_and_the_others_are_compared(pair: Pair) -> None:
    pair.both("id INTEGER PRIMARY KEY", "id integer PRIMARY KEY", [(1,)])
    pair.source("CREATE TABLE closed (id INTEGER PRIMARY KEY)", "INSERT INTO closed VALUES (1)")
    pair.target("CREATE TABLE closed (id integer PRIMARY KEY)", "INSERT INTO closed VALUES (1)")
    role = f"reader_{pair.folder.name[-12:]}".replace("-", "_").lower()
    with psycopg.connect(pair.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'x'".encode())
        connection.execute(f'GRANT SELECT ON t TO "{role}"'.encode())
        connection.execute(f'ALTER TABLE closed OWNER TO "{role}"'.encode())
        connection.execute(f'REVOKE ALL ON closed FROM "{role}"'.encode())
    try:
        reader = psycopg.conninfo.make_conninfo(pair.conninfo, user=role, password="x")
        results = content.compare(Sides(pair.file, reader, "public"), ["closed", "t"])
        assert [result.outcome for result in results] == ["unknown", "passed"]
        assert "permission denied" in results[0].problem
    finally:
        with psycopg.connect(pair.conninfo, autocommit=True) as connection:
            connection.execute(f'DROP OWNED BY "{role}"'.encode())
            connection.execute(f'DROP ROLE "{role}"'.encode())


def test_a_damaged_page_makes_its_table_unknown(pair: Pair) -> None:
    rows = [(number, "x" * 500) for number in range(2_000)]
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id integer PRIMARY KEY, v text", rows)
    pair.source("CREATE TABLE sound (id INTEGER PRIMARY KEY)", "INSERT INTO sound VALUES (1)")
    pair.target("CREATE TABLE sound (id integer PRIMARY KEY)", "INSERT INTO sound VALUES (1)")
    data = bytearray(pair.file.read_bytes())
    data[4096 * 20 : 4096 * 21] = b"\xff" * 4096
    pair.file.write_bytes(data)
    results = pair.compare("t", "sound")
    assert [result.outcome for result in results] == ["unknown", "passed"]
    assert results[0].problem.startswith("the source cannot be read: ")


def test_a_connection_that_breaks_is_an_error(pair: Pair) -> None:
    rows = [(number, "x" * 100) for number in range(30_000)]
    pair.both("id INTEGER PRIMARY KEY, v TEXT", "id integer PRIMARY KEY, v text", rows)

    def end_the_sessions(_: TableResult | None = None) -> None:
        with psycopg.connect(pair.conninfo, autocommit=True) as connection:
            while True:
                ended = connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%string_agg%'"
                    " AND pid <> pg_backend_pid() AND datname = current_database()"
                ).fetchall()
                if ended or stop.is_set():
                    return

    stop = threading.Event()
    thread = threading.Thread(target=end_the_sessions)
    thread.start()
    try:
        with pytest.raises(Unreachable):
            for _ in range(100):
                pair.result()
    finally:
        stop.set()
        thread.join()


def test_an_interrupt_ends_the_comparison_at_once(pair: Pair) -> None:
    """Digests that are still being computed are given up."""
    for table in ("t", "slow"):
        pair.source(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY)", f"INSERT INTO {table} VALUES (1)")
        pair.target(f"CREATE TABLE {table} (id integer PRIMARY KEY)", f"INSERT INTO {table} VALUES (1)")

    def end(_: TableResult) -> None:
        raise KeyboardInterrupt

    with psycopg.connect(pair.conninfo) as locking:
        locking.execute("LOCK TABLE slow IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(KeyboardInterrupt):
            pair.compare("t", "slow", on_table=end)


def test_the_target_is_read_in_one_moment(pair: Pair) -> None:
    """Rows that come while the tables are compared do not come into it."""
    for table in ("t", "u"):
        pair.source(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY)", f"INSERT INTO {table} VALUES (1)")
        pair.target(f"CREATE TABLE {table} (id integer PRIMARY KEY)", f"INSERT INTO {table} VALUES (1)")

    def write(result: TableResult) -> None:
        if result.table == "t":
            pair.target("INSERT INTO u VALUES (2)", "INSERT INTO t VALUES (2)")

    assert [result.outcome for result in pair.compare("t", "u", on_table=write)] == ["passed", "passed"]
    assert [result.extra for result in pair.compare("t", "u")] == [1, 1]
