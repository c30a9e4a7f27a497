"""Canonical text: equal values have equal text on both sides, and unequal ones do not, tried value by value."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.cutover.proof import canonical

COMMON = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def source_texts(type_name: str, values: list[Any]) -> list[str]:
    """Canonical text of values as SQLite keeps them in a column without affinity."""
    connection = apsw.Connection(":memory:")
    canonical.prepare(connection)
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    expression = canonical.of_column("x", type_name).in_source
    return [text for (text,) in connection.execute(f"SELECT {expression} FROM t ORDER BY rowid")]


def target_texts(conninfo: str, type_name: str, values: list[Any]) -> list[str]:
    """Canonical text of the same values, given to PostgreSQL as text and read in its type."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'Asia/Tbilisi'")
        connection.execute(f"CREATE TEMP TABLE t (n int, x {type_name})")
        shown = [repr(value) if isinstance(value, float) else value for value in values]
        with connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO t VALUES (%s, %s::text::{type_name})",
                [(number, None if value is None else str(value)) for number, value in enumerate(shown)],
            )
        query = psycopg.sql.SQL("SELECT {} FROM t ORDER BY n").format(canonical.of_column("x", type_name).in_target)
        return [text for (text,) in connection.execute(query)]


@COMMON
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_integers_have_one_canonical_text_on_both_sides(conninfo: str, values: list[int]) -> None:
    assert source_texts("bigint", [*values, None]) == target_texts(conninfo, "bigint", [*values, None])


@COMMON
@given(values=st.lists(st.floats(allow_nan=False), max_size=50))
def test_floats_are_compared_to_the_last_bit(conninfo: str, values: list[float]) -> None:
    kept = [0.0 if value == 0 else value for value in values]  # SQLite keeps no negative zero
    assert source_texts("double precision", kept) == target_texts(conninfo, "double precision", kept)


@COMMON
@given(values=st.lists(st.integers(-(10**9), 10**9), max_size=50))
def test_numerics_have_one_canonical_text_on_both_sides(conninfo: str, values: list[int]) -> None:
    kept = [value / 10**6 for value in values]
    assert source_texts("numeric(12,6)", kept) == target_texts(conninfo, "numeric(12,6)", kept)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@COMMON
@given(values=st.lists(TEXT, max_size=50))
def test_text_has_one_canonical_text_on_both_sides(conninfo: str, values: list[str]) -> None:
    assert source_texts("text", values) == target_texts(conninfo, "text", values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@COMMON
@given(values=st.lists(JSON, max_size=20), ascii_only=st.booleans())
def test_json_documents_have_one_canonical_text_on_both_sides(conninfo: str, values: list[Any], ascii_only: bool) -> None:
    texts = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    assert source_texts("jsonb", texts) == target_texts(conninfo, "jsonb", texts)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"bb": 1, "a": 2, "á": 3}', "1.10", "1e2", "1.0E-3", "-0.0", "-0", "[]", "{}",
     '"\\u00e9\\/\\u007f\\b"', " [ 1 ,2 ] ", "123456789012345678901234567890.123456789", '"\\\\u0000"',
     "9" * 5000, '{"b": {"d": 1, "c": 1.0}, "a": [true, false, null]}', '{"": 1, "b": 2, "ab": 3, "a": 4}'],
)  # fmt: skip
def test_json_is_printed_as_postgresql_prints_it(conninfo: str, text: str) -> None:
    assert source_texts("jsonb", [text]) == target_texts(conninfo, "jsonb", [text])


@pytest.mark.parametrize("text", ["{", "NaN", "[Infinity]", '"\\u0000"', '"\\ud800"', "", "'a'", '{"a":1}x'])
def test_text_that_jsonb_refuses_has_no_equal(conninfo: str, text: str) -> None:
    assert source_texts("jsonb", [text]) == ["!json"]
    with psycopg.connect(conninfo) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT %s::text::jsonb", [text])


@COMMON
@given(values=st.lists(st.datetimes(), max_size=30), form=st.sampled_from(["{:%H:%M:%S.%f}", "{:%H:%M:%S}"]),
       between=st.sampled_from(" T"), zone=st.sampled_from(["", "Z", "+04:00", "-09:30"]))  # fmt: skip
def test_instants_have_one_canonical_text_on_both_sides(
    conninfo: str, values: list[Any], form: str, between: str, zone: str
) -> None:
    # strftime's %Y does not pad years before 1000.
    texts = [f"{value.date().isoformat()}{between}{form.format(value)}{zone}" for value in values if value.year > 1]
    in_utc = [text if zone else text + "+00" for text in texts]
    assert source_texts("timestamp with time zone", texts) == target_texts(conninfo, "timestamp with time zone", in_utc)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("2025-10-10 08:08:59", "2025-10-10 08:08:59+00"),
        ("2025-10-10", "2025-10-10 00:00:00+00"),
        ("2025-10-10T08:08:59.5Z", "2025-10-10 08:08:59.5+00"),
        ("2025-10-10 08:08:59.123456000", "2025-10-10 08:08:59.123456+00"),
        ("2025-10-10T08:08:59.1+04:00", "2025-10-10 04:08:59.1+00"),
        ("2025-10-10T08:08:59.575644-09:30", "2025-10-10 17:38:59.575644+00"),
        ("2025-10-10 08:08:59.575644 +04:00", "2025-10-10 04:08:59.575644+00"),
        ("2025-10-10T08:08:59.575z", "2025-10-10 08:08:59.575+00"),
        ("2025-10-10T08:08:59+00:00", "2025-10-10 08:08:59+00"),
        ("2025-10-10 08:08", "2025-10-10 08:08:00+00"),
        ("2025-10-10T08:08+04:00", "2025-10-10 04:08:00+00"),
        ("2025-10-10T08:08Z", "2025-10-10 08:08:00+00"),
        ("2025-10-10 24:00:00", "2025-10-11 00:00:00+00"),
        ("2024-02-29 23:59:59.999999", "2024-02-29 23:59:59.999999+00"),
        ("2000-01-01 00:00:00", "2000-01-01 00:00:00+00"),
    ],
)
def test_every_form_of_an_instant_is_read(conninfo: str, text: str, same_as: str) -> None:
    assert source_texts("timestamp with time zone", [text]) == target_texts(conninfo, "timestamp with time zone", [same_as])


NO_INSTANTS = (
    "", "now", "epoch", "11/10/2025", "20251011", "2025-13-01 00:00:00", "2025-10-10 08:08:59.1234567",
    "2025-10-10 08:08:60", "2025-10-10 08:08:59+0400", "2025-10-10  08:08:59", "2025-02-30 00:00:00", "2025-04-31",
    "2025-02-29T00:00:00.000000", "2025-02-29 00:00:00Z", "2025-10-10 08:08:59.", "2025-10-10 08:08:59.Z", "2025-10-10 08",
    "2025-10-10 08:08:59\0", "2025-10-10 08:08:59Z\0x", "2025-10-10 24:00:01", "2025-10-10 08:08:5", "2025-10-1 08:08:59",
    "2025-10-10 08:08:59 UTC", "2025-10-10 08:08:59.12345a", "+025-10-10 08:08:59", "2025-10-10 08:08:59.1234560001Z",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_INSTANTS)
def test_text_that_is_not_an_instant_has_no_equal(text: str) -> None:
    assert source_texts("timestamp with time zone", [text]) == ["!datetime"]


@pytest.mark.parametrize(
    ("type_name", "texts", "none"),
    [
        ("date", ["2025-10-10", "0001-01-01", "9999-12-31", "2024-02-29"],
         ["2025-02-29", "2025-10-10 00:00:00", "10.10.2025", "", "2025-10-1"]),
        ("time without time zone", ["08:08", "08:08:59", "08:08:59.5", "23:59:59.999999", "24:00:00", "08:08:59.1200000"],
         ["8:08", "08:08:60", "08:60", "24:00:01", "08:08:59.1234567", "08:08:59Z", "", "08:08\0"]),
    ],
)  # fmt: skip
def test_dates_and_times_have_one_canonical_text_on_both_sides(
    conninfo: str, type_name: str, texts: list[str], none: list[str]
) -> None:
    assert source_texts(type_name, [*texts, None]) == target_texts(conninfo, type_name, [*texts, None])
    assert all(text.startswith("!") for text in source_texts(type_name, none))


@pytest.mark.parametrize(
    ("type_name", "values"),
    [
        ("numeric", [2**62 + 1, -(2**63), 0, 9007199254740993, 4.5, 0.1, -1e-300, 1e15, 123456789012345.6]),
        ("numeric(20,4)", [1.5, -0.0001, 12345678901234, 0.0]),
        ("double precision", [2**53, 7, 5e-324, 1.7976931348623157e308, float("inf"), -0.1]),
        ("real", [0.5, 16777216.0, 1e10]),
        ("bigint", [3.0, -(2.0**62)]),
        ("text", ["a", "~", "!text", "1:a", "მთავარი", "\x1f", "\n"]),
        ("character(3)", ["a  ", "abc", "ქქქ"]),
    ],
)
def test_values_at_the_limits_have_one_canonical_text_on_both_sides(
    conninfo: str, type_name: str, values: list[Any]
) -> None:
    given = [int(value) if type_name == "bigint" else value for value in values]
    assert source_texts(type_name, values) == target_texts(conninfo, type_name, given)


def test_different_numbers_have_different_canonical_texts(conninfo: str) -> None:
    """The sixteen digits of a whole number can be the bytes of a fraction."""
    assert source_texts("numeric", [4.5]) != target_texts(conninfo, "numeric", ["4012000000000000"])
    assert source_texts("double precision", [2**53 + 1]) == ["!integer"]
    assert target_texts(conninfo, "numeric", ["0.10000000000000000001"]) == ["!0.10000000000000000001"]
    assert target_texts(conninfo, "numeric", ["NaN", "Infinity"]) == ["!NaN", "!Infinity"]
    # A whole real is compared digit by digit, also where double precision holds fewer.
    assert source_texts("numeric", [2.0**60]) == ["1152921504606846976"]


@pytest.mark.parametrize("text", ["6f1ed002ab5595859014ebf0951522d9", "6F1ED002-AB55-9585-9014-EBF0951522D9",
                                  "{6f1ed002-ab55-9585-9014-ebf0951522d9}"])  # fmt: skip
def test_every_spelling_of_a_uuid_is_the_same(conninfo: str, text: str) -> None:
    assert source_texts("uuid", [text]) == target_texts(conninfo, "uuid", [text])


@pytest.mark.parametrize(
    ("type_name", "values"),
    [
        ("bigint", ["7", 3.5, b"7"]),
        ("boolean", [2, "true", 1.0]),
        ("text", [1, 1.5, b"a"]),
        ("uuid", [12345, 1.5e30, "", "12", "{}", "a" * 34]),
        ("jsonb", [1, 1.5]),
        ("bytea", ["text"]),
        ("double precision", ["0.1"]),
        ("numeric(9,6)", ["0.1", 1e300]),
        ("timestamp with time zone", [1627303906, 2459000.5]),
    ],
)
def test_a_value_of_another_storage_class_has_no_equal(type_name: str, values: list[Any]) -> None:
    assert all(text.startswith("!") for text in source_texts(type_name, values))


def test_null_is_not_empty(conninfo: str) -> None:
    assert source_texts("text", [None, ""]) == target_texts(conninfo, "text", [None, ""]) == ["~", "0:"]


def test_bytes_have_one_canonical_text_on_both_sides(conninfo: str, tmp_path: Path) -> None:
    data = struct.pack("8B", 0, 1, 9, 10, 92, 127, 128, 255)
    assert source_texts("bytea", [data]) == target_texts(conninfo, "bytea", ["\\x" + data.hex()])
