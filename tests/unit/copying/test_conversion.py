"""Conversions: what the SQL lets pass without a look is what the exact function accepts, and reads the same."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.cutover.copying.conversion import Conversion, NotConvertible, TargetColumn, Value, conversion
from include.cutover.errors import Refused
from include.cutover.source.schema import SourceColumn

TEMPLATES = (
    "2025-10-11 08:08:59.575644", "2025-10-11T08:08:59Z", "2025-10-11 08:08:59.5+04:00", "2025-10-11", "2025-10-11 08:08",
    "08:08:59.123456", "08:08", "abcde", "", "\x1d", "a0eebc999c0b4ef8bb6d6bb9bd380a11",
)  # fmt: skip
# What PostgreSQL alone decides is left out: spellings of uuids, JSON and enumerations, ranges of integers.
TYPES: dict[str, tuple[str, int]] = {
    "timestamptz": ("timestamptz", -1),
    "timestamp": ("timestamp", -1),
    "date": ("date", -1),
    "time": ("time", -1),
    "text": ("text", -1),
    "varchar(5)": ("varchar", 9),
    "char(5)": ("bpchar", 9),
    "numeric": ("numeric", -1),
    "numeric(9,6)": ("numeric", (9 << 16 | 6) + 4),
    "numeric(20,15)": ("numeric", (20 << 16 | 15) + 4),
    "double precision": ("float8", -1),
    "bytea": ("bytea", -1),
}


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """One of the templates with some characters changed, added or taken away."""
    text = list(draw(st.sampled_from(TEMPLATES)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 1))] = draw(st.text("0123456789-:. TZz+\tABe\x1d\x1fé", max_size=1))
    return "".join(text)


VALUES = st.one_of(
    st.none(),
    spoilt(),
    spoilt().map(str.encode),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.integers(-(10**9), 10**9).map(lambda number: number / 10**6),
)


def way(type_name: str, declared: str = "", *, not_null: bool = False) -> Conversion:
    base, modifier = TYPES[type_name]
    target = TargetColumn("v", type_name, base, modifier, False, not_null, False)
    return conversion("t", SourceColumn("v", declared, False, 0), target)


def exactly(item: Conversion, value: Value) -> str | None:
    with contextlib.suppress(NotConvertible):
        return item.exact(value)
    return None


def same(printed: Any, exact: str, value: Value) -> bool:
    if isinstance(value, float):
        return float(printed) == float(exact) == value
    if isinstance(value, bytes):
        return str(printed).lower() == exact
    return str(printed) == exact


@pytest.mark.parametrize("declared", ["", "TEXT", "DATETIME", "REAL", "INTEGER"])
@settings(max_examples=15, deadline=None)
@given(values=st.lists(VALUES, min_size=40, max_size=80))
def test_nothing_passes_without_a_look_that_the_exact_way_refuses(declared: str, values: list[Value]) -> None:
    with contextlib.closing(apsw.Connection(":memory:")) as connection:
        connection.execute(f"CREATE TABLE t(v {declared})")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        for type_name in TYPES:
            item = way(type_name, declared)
            doubt = " OR ".join(f"({condition})" for condition in item.doubt)
            for value, doubted, printed in connection.execute(f"SELECT v, {doubt}, {item.cell} FROM t"):
                if value is None:
                    assert not doubted
                    assert printed is None
                elif not doubted:
                    exact = exactly(item, value)
                    assert exact is not None, f"{value!r} passes for {type_name}"
                    assert same(printed, exact, value), f"{value!r} is {printed!r} or {exact!r}"


# --- numeric: a real is the shortest decimal that is this real, whichever way it goes -------------------------------------

PRECISIONS = ((9, 6), (15, 15), (16, 2), (18, 17), (30, 20), (38, 25), (17, 0), (3, 5), (400, 300), (1000, 324))
REALS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.builds(lambda number, scale: number / 10**scale, st.integers(-(10**17), 10**17), st.integers(0, 25)),
    st.builds(lambda number, exponent: number * 2.0**exponent, st.integers(1, 2**53), st.integers(-1074, 60)),
    st.integers(-(2**63), 2**63 - 1).map(float),
    st.sampled_from([0.1, 9.95, 1 / 3, 0.30000000000000004, 5e-324, 4.94e-321, 1e15, 1e15 + 0.5, 2.0**60, 0.0]),
)


def decimal_of(value: float) -> Decimal:
    return Decimal(int(value)) if value.is_integer() else Decimal(repr(value))


@settings(max_examples=30, deadline=None)
@given(values=st.lists(REALS, min_size=50, max_size=100))
@pytest.mark.parametrize("precision", [None, *PRECISIONS])
def test_both_ways_of_numeric_give_the_shortest_decimal_or_none(
    precision: tuple[int, int] | None, values: list[float]
) -> None:
    modifier = -1 if precision is None else (precision[0] << 16 | precision[1]) + 4
    target = TargetColumn("v", "numeric", "numeric", modifier, False, False, False)
    with contextlib.closing(apsw.Connection(":memory:")) as connection:
        connection.execute("CREATE TABLE t(v REAL)")  # keeps -0.0 out
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        item = conversion("t", SourceColumn("v", "REAL", False, 0), target)
        doubt = " OR ".join(f"({condition})" for condition in item.doubt)
        for value, doubted, printed in connection.execute(f"SELECT v, {doubt}, CAST({item.cell} AS TEXT) FROM t"):
            number, found = decimal_of(value), exactly(item, value)
            scale = -int(number.as_tuple().exponent)
            assert (found is None) == (precision is not None and scale > precision[1])
            assert found is None or Decimal(found) == number
            taken = precision is None or abs(Decimal(printed)) < Decimal(10) ** (precision[0] - precision[1])
            if taken and not doubted:  # what has too many digits before the point PostgreSQL refuses
                assert Decimal(printed) == number, f"{value!r} is {printed} or {number}"


@pytest.mark.parametrize(
    ("type_name", "value", "field"),
    [
        ("text", "a\tb\nc\rd\\e\x1d\x1e\x1f", "a\tb\\nc\\rd\\\\e\\\x1d\x1e\\\x1f"),
        ("text", "", ""),
        ("text", None, "\x1d"),
        ("bytea", b"\x00\xff", "\\\\x00ff"),
        ("timestamptz", "2025-10-11 08:08:59.123456000Z", "2025-10-11 08:08:59.123456Z"),
        ("double precision", 0.1 + 0.2, "0.30000000000000004"),
        ("double precision", -0.0, "-0.0"),
        ("numeric(9,6)", 44.8271, "44.8271"),
        ("numeric", 2.0**60, "1152921504606846976"),
        ("numeric(20,15)", 9.95, "9.95"),
    ],
)
def test_fields_of_a_copy_line_are_escaped(type_name: str, value: Value, field: str) -> None:
    assert way(type_name)(value) == field


@pytest.mark.parametrize(
    ("type_name", "value", "found"),
    [
        ("numeric", -0.0, "minus zero"),
        ("numeric", float("inf"), "an infinite real"),
        ("timestamptz", "2025-10-11 08:08:60", "other text"),
        ("timestamptz", "2025-10-11 08:08:59+0400", "other text"),
        ("timestamptz", "2025-10-11  08:08:59", "other text"),
        ("text", "a\0b", "text of 3 characters, 1 of them NUL"),
    ],
)
def test_what_is_refused_is_described_and_not_shown(type_name: str, value: Value, found: str) -> None:
    with pytest.raises(NotConvertible) as caught:
        way(type_name)(value)
    assert found in caught.value.found


def test_null_is_refused_where_the_target_takes_none() -> None:
    with pytest.raises(NotConvertible, match="NULL"):
        way("text", not_null=True)(None)


@pytest.mark.parametrize(("base", "modifier"), [("float4", -1), ("timestamptz", 3), ("interval", -1), ("inet", -1)])
def test_types_that_would_change_values_are_refused(base: str, modifier: int) -> None:
    with pytest.raises(Refused, match="cannot be carried over unchanged"):
        conversion("t", SourceColumn("v", "", False, 0), TargetColumn("v", base, base, modifier, False, False, False))
