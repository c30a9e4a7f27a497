"""Types of the target, what applications declare for them in SQLite, and values: those that fit, and those that look so."""

from __future__ import annotations

import base64
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from tests.support.assessing import Raw

Strategy = st.SearchStrategy[Any]


@dataclass(frozen=True)
class Kind:
    """A type of the target, and what applications keep in such columns.

    Attributes:
        base: The type without length and precision.
        declared: Declared type of such a column in SQLite.
        fit: Values that the target takes.
        near: Values that look like them.
    """

    type: str
    base: str
    declared: tuple[str, ...]
    fit: Strategy
    near: Strategy

    @property
    def keys(self) -> bool:
        """Return True when PostgreSQL can have it in a primary key."""
        return self.base not in ("json", "jsonb")


ODD = ("", "\\N", "\\.", "\x1d", "\x1e", "\x1f", "a\x1fb\x1ec", "\ufeffa", "🛰", "e\u0301", "NULL", " both ",
       "a\n\\.\nb", "\r", "é", "მთავარი", "'", '"', "\\", "~", "!text", "1:a", "a ", "A", "a", "I", "İ", "ß", "true",
       "1", "1.0", "\u2028")  # fmt: skip
TEXT = st.sampled_from(ODD) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
BROKEN = st.sampled_from(
    ["x\0y", "\0", "abc\0", Raw(b"caf\xe9"), Raw(b"\xff\xfe"), Raw(b"\xed\xa0\x80"), Raw(b"\x80"), Raw(b"\x00\xd8"),
     b"\xff", b"", b"abc", "გამარჯობა".encode(), 5, 1.5, "a" * 60]
)  # fmt: skip
LONG = tuple(base64.b64encode(random.Random(number).randbytes(1_500)).decode() for number in range(3))  # no pattern in it
FLOATS = st.floats(allow_nan=False) | st.sampled_from(
    [
        0.1,
        0.30000000000000004,
        5e-324,
        1.7976931348623157e308,
        math.inf,
        -math.inf,
        -0.0,
        0.0,
        2.0**53,
        2.0**60,
        1e15,
        9.95,
        1 / 3,
    ]
)
DAYS = st.dates().map(str) | st.sampled_from(["2024-02-29", "0001-01-01", "9999-12-31", "2000-01-01", "1999-12-31"])
CLOCKS = st.sampled_from(
    ["08:08:59", "08:08", "00:00:00", "23:59:59.999999", "24:00:00", "08:08:59.1", "08:08:59.120000000", "00:00:00.000001"]
)
ZONES = st.sampled_from(["", "", "Z", "z", "+04:00", "-09:30", " +04:00", "+00:00", "+14:00", "-15:59", " Z"])
NO_MOMENT = st.sampled_from(
    ["", "now", "epoch", "11/10/2025", "20251011", "2025-02-30", "0000-01-01", "2025-10-10 24:30:00", "2025-10-10 08:08:60",
     "2025-10-10 08:08:59+0400", "2025-10-10 08:08:59+16:00", "2025-10-10  08:08:59", "2025-10-10 08:08:59.1234567",
     "infinity", "2025-10-10 08:08:59\0", "1760083739", 1760083739, 1760083739.25, 1760083739123, 2460958.5, 0, -1, 20251011,
     "08:08:60",
     "8:08", b"2025-10-10", math.inf, "2460958.5", "1760083739.1234567", 2460959, "-1.5"]
)  # fmt: skip
UUIDS = (st.integers(0, 7).map(lambda number: f"{number:08x}-ab55-9585-9014-ebf0951522d9") | st.uuids().map(str)).flatmap(
    lambda text: st.sampled_from([text, text.replace("-", ""), text.upper(), f"{{{text}}}"])
)
NO_UUID = st.sampled_from(
    ["", "1" * 32, "12345678901234567890123456789e12", "g" * 32, "a" * 31, 7, b"a" * 16, "{" + "a" * 32]
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
).flatmap(lambda value: st.booleans().map(lambda plain: json.dumps(value, ensure_ascii=plain))) | st.sampled_from(
    [
        '{"a":1,"a":2}',
        "1.10",
        "[-0, -0.0, 1e3, 1E-3]",
        ' {"b": 1 , "aa": [ ] }',
        '"\\\\u0000"',
        '"\\ud83d\\ude00"',
        '"\\/"',
        "[0e5]",
    ]
)
NO_DOCUMENT = st.sampled_from(
    ["", "{", "NaN", '"\\u0000"', '{"a\\u0000":1}', '"\\ud800"', "1e400000", "[1,]", "'a'", 1, 1.5, b"{}", '"\t"',
     "\ufeff{}", Raw(b'"\xe9"'), "[1]\0", "nul", "1e-16384"]
)  # fmt: skip
NO_NUMBER = st.sampled_from(
    ["", "abc", "1", "0x1F", " 12 ", "3.5", "1e3", "NaN", b"", b"12", 3.0, 3.5, math.inf, "Infinity", -0.0]
)
NO_BOOLEAN = st.sampled_from(["", "yes", "no", "true", "t", 2, -1, 1.0, 0.5, b"\1", "1", "0", "2"])
BYTES = st.binary(max_size=6) | st.sampled_from([b"", b"\0\xff", b"\\x", b"a"])
MEANT: Mapping[str, Strategy] = {
    "unix": st.integers(0, 4 * 10**9) | st.floats(0, 4e9) | st.just("1760083739.25"),
    "unix_ms": st.integers(0, 4 * 10**12) | st.floats(0, 4e12),
    "julian": st.integers(2_440_000, 2_470_000) | st.floats(2_440_000, 2_470_000),
}
MIDNIGHTS: Mapping[str, Strategy] = {
    "unix": st.integers(-9_000, 40_000).map(lambda day: day * 86_400),
    "unix_ms": st.integers(-9_000, 40_000).map(lambda day: day * 86_400_000),
    "julian": st.integers(2_440_000, 2_470_000).map(lambda day: day + 0.5),
}
TOO_LONG = st.sampled_from([2**53 + 1, 999.5, 0.125, 10**3, 10**9, 10**18])
LONGER = st.sampled_from(["abcdef", "abc   ", "გამარჯობა", "ab", "abcd", ""])
NO_LABEL = st.sampled_from(["", "Sad", "sad\0", b"sad", 1, "sad "])
LABELS = ("sad", "happy", "o'brien", "é", "SAD", 'a"b', "1")


def integers(bits: int) -> Strategy:
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    ways = [st.integers(-2, 9)] * 8 + [st.integers(0, 99)] * 8 + [st.sampled_from([least, most]), st.integers(least, most)]
    return st.sampled_from(ways).flatmap(lambda way: way)


def beyond(bits: int) -> Strategy:
    return NO_NUMBER | st.sampled_from([2 ** (bits - 1), -(2 ** (bits - 1)) - 1, 2.0**63] if bits < 64 else [2.0**63, -1e19])


def decimals(precision: int, scale: int) -> Strategy:
    most = 10**precision - 1
    whole = st.integers(-min(most, 10**15), min(most, 10**15)) | st.integers(-20, 20)
    reals = whole.map(lambda number: float(Decimal(number).scaleb(-scale)))
    plain = st.integers(-min(10 ** (precision - scale) - 1, 2**63 - 1), min(10 ** (precision - scale) - 1, 2**63 - 1))
    return reals | (plain if precision > scale else reals)


IN_INTEGER = ("INTEGER", "INT", "BIGINT", "SMALLINT", "NUMERIC", "", "FLOATING POINT")
IN_REAL = ("REAL", "DOUBLE PRECISION", "FLOAT", "NUMERIC", "", "DECIMAL(9,6)")
IN_TEXT = ("TEXT", "VARCHAR(50)", "CLOB", "character varying(9)", "", "BLOB", "STRING")
IN_DATE = ("DATETIME", "TIMESTAMP", "TEXT", "", "DATE")
ANY_DECLARED = ("INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB", "", "ANY", "CHARINT", "BOOLEAN")
STRICT_DECLARED = ("INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY")


def moments(zones: Strategy) -> Strategy:
    return DAYS | st.builds("{}{}{}{}".format, DAYS, st.sampled_from(" T"), CLOCKS, zones)


KINDS = (
    Kind("smallint", "smallint", IN_INTEGER, integers(16), beyond(16)),
    Kind("integer", "integer", IN_INTEGER, integers(32), beyond(32)),
    Kind("bigint", "bigint", IN_INTEGER, integers(64), beyond(64)),
    Kind("double precision", "double precision", IN_REAL, FLOATS | st.integers(-(2**53), 2**53), NO_NUMBER | TOO_LONG),
    Kind("numeric", "numeric", IN_REAL, decimals(15, 6) | st.floats(-1e15, 1e15) | integers(64), NO_NUMBER | FLOATS),
    *(
        Kind(f"numeric({p},{s})", "numeric", IN_REAL, decimals(p, s), NO_NUMBER | FLOATS | TOO_LONG)
        for p, s in ((9, 6), (3, 0), (20, 2), (18, 17), (38, 25), (3, 5))
    ),
    Kind("boolean", "boolean", ("BOOLEAN", "INTEGER", "", "TINYINT"), st.integers(0, 1), NO_BOOLEAN),
    Kind("text", "text", IN_TEXT, TEXT, BROKEN | st.sampled_from(LONG)),
    Kind("varchar(5)", "varchar", IN_TEXT, TEXT.map(lambda text: text[:5]), BROKEN | LONGER),
    Kind("char(3)", "char", IN_TEXT, TEXT.map(lambda text: (text + "ab ")[:3]), BROKEN | LONGER),
    Kind("uuid", "uuid", ("UUID", "TEXT", "CHAR(32)", "VARCHAR(36)", ""), UUIDS, NO_UUID),
    Kind("jsonb", "jsonb", ("JSON", "TEXT", "", "CLOB"), DOCUMENTS, NO_DOCUMENT),
    Kind("json", "json", ("JSON", "TEXT", ""), DOCUMENTS, NO_DOCUMENT),
    Kind("timestamptz", "timestamptz", IN_DATE, moments(ZONES), NO_MOMENT),
    Kind("timestamp", "timestamp", IN_DATE, moments(st.just("")), NO_MOMENT),
    Kind("date", "date", IN_DATE, DAYS, NO_MOMENT),
    Kind("time", "time", ("TIME", "TEXT", ""), CLOCKS, NO_MOMENT),
    Kind("bytea", "bytea", ("BLOB", "", "BYTEA"), BYTES, BROKEN | st.sampled_from(LONG).map(str.encode)),
    Kind('"Mood"', "enum", ("TEXT", "VARCHAR(9)", ""), st.sampled_from(LABELS), NO_LABEL),
)  # fmt: skip
BY_TYPE = {kind.type: kind for kind in KINDS}
INTEGERS = ("smallint", "integer", "bigint")
ANYTHING = st.one_of(
    NO_NUMBER,
    NO_BOOLEAN,
    NO_MOMENT,
    NO_UUID,
    NO_DOCUMENT,
    BROKEN,
    TEXT,
    FLOATS,
    BYTES,
    integers(64),
    st.sampled_from(LABELS),
)
