"""Canonical text of every value, written once for SQLite and once for PostgreSQL, so that equal values have equal text.

These expressions have nothing in common with those of the copy: a mistake in one cannot hide in the other.

NULL is ``~``. A value that the column's type cannot stand for, such as text in a column of integers, is ``!`` and a word,
which no target value is. Text carries its length in bytes, and nothing else can hold the separators of columns and rows, so
that no content can look like another row. For each type:

* whole numbers: their digits
* ``double precision``, ``real``: the eight bytes in hexadecimal, as shortest text differs between the two
* ``numeric``: all digits of a whole number, else ``x`` and the bytes of the nearest float8, which is what SQLite keeps
* ``boolean``: ``f`` and ``t``
* ``timestamptz``, ``timestamp``: microseconds since 2000 in UTC, as eight bytes in hexadecimal, which is how PostgreSQL
  sends them; naive text counts as UTC
* ``date``: ISO 8601; ``time``: microseconds since midnight
* ``uuid``: 32 hexadecimal digits
* ``jsonb``: PostgreSQL's own text, computed anew here (sorted keys, last of equal keys, plain decimals)
* ``bytea``: hexadecimal; everything else: the text itself
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import apsw
import apsw.sqlite_extra
from psycopg import sql

from include.cutover.source.schema import quote

VERSION = 1  # of the functions below; what is stored under another one is computed anew
NULL = "~"
BETWEEN_COLUMNS = "\x1f"
BETWEEN_ROWS = "\n"
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # of timestamps
INTEGERS = frozenset({"smallint", "integer", "bigint"})

_MOST_ARGUMENTS = 100  # of a function, on either side
_JSONB, _INSTANT, _TIME = "cutover_jsonb", "cutover_instant", "cutover_time"
_TEXT, _UTF8 = "cutover_text", "cutover_utf8"


@dataclass(frozen=True)
class Canonical:
    """The canonical text of one column on either side; neither expression is ever NULL.

    Attributes:
        type: The target's type as ``format_type`` writes it; of a domain, the type it is made from.
        has_length: The text begins with its length in bytes and a colon.
    """

    column: str
    type: str
    in_source: str
    in_target: sql.Composable
    has_length: bool


def prepare(connection: apsw.Connection) -> None:
    """Register, on a connection to the snapshot, the functions that the expressions call."""
    # Without this SQLite reads a quoted name that is not a column as a string, equal in every row.
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    apsw.sqlite_extra.load(connection, "ieee754")
    encoding = text_encoding(connection)
    for name, function in _FUNCTIONS.items():
        connection.create_scalar_function(name, functools.partial(function, encoding), 1, deterministic=True)


def text_encoding(connection: apsw.Connection) -> str:
    """Return Python's name of the encoding that the database keeps its text in."""
    kept = connection.execute("PRAGMA main.encoding").get
    return {"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}.get(str(kept), "utf-8")


def base_type(type_name: str) -> str:
    """Return the type without its length or precision: ``numeric(9,6)`` is ``numeric``."""
    return re.sub(r"\([^)]*\)", "", type_name).strip()


def of_column(column: str, type_name: str, encoding: str = "utf-8") -> Canonical:
    """Return the two expressions of a column.

    Args:
        column: Its name, the same on both sides.
        type_name: The target's type as ``format_type`` writes it; of a domain, the type it is made from.
        encoding: Of the source's text; see ``text_encoding``.
    """
    c, kind = quote(column), base_type(type_name)
    in_source, in_target = _expressions(c, kind, 1 if encoding == "utf-8" else 2)
    target = sql.SQL("CASE WHEN {c} IS NULL THEN '~' ELSE " + in_target + " END").format(c=sql.Identifier(column))
    return Canonical(column, type_name, in_source, target, in_target.startswith("octet_length"))


def in_source(columns: Sequence[Canonical]) -> str:
    """Return SQL for the canonical text of several columns in SQLite."""
    texts = [column.in_source for column in columns]
    while len(texts) > 1:
        texts = [_concatenated(texts[at : at + _MOST_ARGUMENTS]) for at in range(0, len(texts), _MOST_ARGUMENTS)]
    return texts[0] if texts else "''"


def _concatenated(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"concat_ws(char({ord(BETWEEN_COLUMNS)}), {', '.join(texts)})"


def as_bytes(expression: str, encoding: str) -> str:
    """Return SQL for canonical text as a blob in UTF-8: ordered byte by byte, as by PostgreSQL's ``COLLATE "C"``."""
    data = f"CAST({expression} AS BLOB)"
    return data if encoding == "utf-8" else f"{_UTF8}({data})"


def in_target(columns: Sequence[Canonical]) -> sql.Composable:
    """Return SQL for the canonical text of several columns in PostgreSQL."""
    texts = [column.in_target for column in columns]
    while len(texts) > 1:
        groups = [texts[at : at + _MOST_ARGUMENTS] for at in range(0, len(texts), _MOST_ARGUMENTS)]
        texts = [
            sql.SQL("concat_ws({}, {})").format(sql.Literal(BETWEEN_COLUMNS), sql.SQL(", ").join(group)) for group in groups
        ]
    return texts[0] if texts else sql.SQL("''::text")


def _expressions(c: str, kind: str, width: int) -> tuple[str, str]:
    """Return the expression in SQLite, and the one in PostgreSQL for a value that is not NULL.

    Args:
        c: The column, quoted.
        kind: The target's type, without length or precision.
        width: Bytes of an ASCII character in the source.
    """
    if kind in INTEGERS:
        whole = f"CASE WHEN {c} = CAST({c} AS INTEGER) THEN CAST(CAST({c} AS INTEGER) AS TEXT) ELSE '!real' END"
        return _only(c, {"integer": f"CAST({c} AS TEXT)", "real": whole}), "{c}::text"
    if kind in ("double precision", "real"):
        bits = f"lower(hex(ieee754_to_blob(CAST({c} AS REAL))))"
        exact = f"CASE WHEN CAST(CAST({c} AS REAL) AS INTEGER) = {c} THEN {bits} ELSE '!integer' END"
        return _only(c, {"real": bits, "integer": exact}), "encode(float8send({c}::float8), 'hex')"
    if kind == "numeric":
        return _numeric(c)
    if kind == "boolean":
        word = f"CASE {c} WHEN 0 THEN 'f' WHEN 1 THEN 't' ELSE '!integer' END"
        return _only(c, {"integer": word}), "CASE WHEN {c} THEN 't' ELSE 'f' END"
    if kind in ("timestamp with time zone", "timestamp without time zone"):
        # Half the time of extract(epoch …), and infinity has one too.
        send = "timestamptz_send" if kind == "timestamp with time zone" else "timestamp_send"
        return _only(c, {"text": _microseconds(c, width)}), f"encode({send}({{c}}), 'hex')"
    if kind == "date":
        return _only(c, {"text": f"CASE WHEN {_is_day(c, width)} THEN {c} ELSE '!date' END"}), "{c}::text"
    if kind == "time without time zone":
        return _only(c, {"text": f"{_TIME}(CAST({c} AS BLOB))"}), "(extract(epoch FROM {c}) * 1000000)::bigint::text"
    if kind == "uuid":
        digits = f"unhex({c}, '-{{}}')"
        ascii_only = f"length({c}) * {width} = octet_length({c})"  # length() and unhex() stop at a NUL
        digits_or_not = f"CASE WHEN {ascii_only} AND length({digits}) = 16 THEN lower(hex({digits})) ELSE '!uuid' END"
        return _only(c, {"text": digits_or_not}), "replace({c}::text, '-', '')"
    if kind == "jsonb":
        return _only(c, {"text": f"{_JSONB}(CAST({c} AS BLOB))"}), "{c}::text"  # both escape all control characters
    if kind == "bytea":
        return _only(c, {"blob": f"lower(hex({c}))"}), "encode({c}, 'hex')"
    text = f"octet_length({c}) || ':' || {c}" if width == 1 else f"{_TEXT}(CAST({c} AS BLOB))"
    # A cast to text would cut the blanks of character(n).
    shown = "convert_from(bpcharsend({c}), 'UTF8')" if kind in ("character", "bpchar") else "{c}::text"
    return _only(c, {"text": text}), f"octet_length({shown}) || ':' || {shown}"


def _only(column: str, ways: dict[str, str]) -> str:
    """Return the expression for each storage class that belongs; NULL is ``~`` and any other class names itself."""
    cases = " ".join(f"WHEN '{name}' THEN {expression}" for name, expression in ways.items())
    return f"CASE typeof({column}) {cases} WHEN 'null' THEN '{NULL}' ELSE '!' || typeof({column}) END"


def _numeric(c: str) -> tuple[str, str]:
    bits = f"'x' || lower(hex(ieee754_to_blob({c})))"  # sixteen digits alone could be another number's
    real = (
        f"CASE WHEN abs({c}) >= 9223372036854775808.0 THEN '!real'"
        f" WHEN {c} = CAST({c} AS INTEGER) THEN CAST(CAST({c} AS INTEGER) AS TEXT) ELSE {bits} END"
    )
    # Seventeen digits name every float8. More would be a difference that the nearest float8 hides, and so would be a
    # number so small that the nearest is zero.
    digits = "length(ltrim(replace(trim_scale(abs({c}))::text, '.', ''), '0'))"
    target = (
        "CASE WHEN {c} IN ('NaN', 'Infinity', '-Infinity') THEN '!' || {c}::text"
        " WHEN {c} = trunc({c}) THEN trunc({c})::text"
        f" WHEN {digits} > 17 OR abs({{c}}) < 2.5e-324 THEN '!' || {{c}}::text"
        " ELSE 'x' || encode(float8send({c}::float8), 'hex') END"
    )
    return _only(c, {"integer": f"CAST({c} AS TEXT)", "real": real}), target


# --- dates and times ------------------------------------------------------------------------------------------------------

_NO_INSTANT = 2**63 - 2  # the last instant is earlier, and infinity is one more
_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"


def _is_day(c: str, width: int) -> str:
    return f"octet_length({c}) = {10 * width} AND {c} GLOB '{_DAY}' AND date({c}) = {c}"


def _microseconds(c: str, width: int) -> str:
    """Return SQL for the microseconds since 2000 of a date and time in text. SQLite's own functions stop at milliseconds.

    The two forms that applications write most take short ways; the third splits fraction and offset. Text without seconds,
    or with a fraction finer than microseconds, is left to ``_instant``.
    """

    # unixepoch() wants digits wherever digits belong. It takes the 31st of a short month for the first of the next.
    def micros(text: str) -> str:
        return f"(unixepoch({text}) - {int(EPOCH.timestamp())}) * 1000000"

    day, shape, six = f"substr({c}, 1, 10)", "????-??-??[ T]??:??:??", "[0-9]" * 6
    real_day = f"(substr({c}, 9, 2) <= '28' OR date({day}) = {day})"
    head, rest = f"substr({c}, 1, 19)", f"substr({c}, 21)"
    zone = f"CASE WHEN {c} GLOB '{shape}.*' THEN ltrim({rest}, '0123456789') ELSE substr({c}, 20) END"
    digits = f"CASE WHEN {c} GLOB '{shape}.*' THEN substr({rest}, 1, length({rest}) - length({zone})) ELSE '' END"
    fraction = f"CAST(substr({digits} || '000000', 1, 6) AS INTEGER)"
    ascii_only = f"length({c}) * {width} = octet_length({c})"  # length() and GLOB stop at a NUL
    number = (
        f"CASE WHEN octet_length({c}) = {26 * width} AND {c} GLOB '{shape}.{six}' AND {real_day}"
        f" THEN {micros(head)} + CAST({rest} AS INTEGER)"
        f" WHEN octet_length({c}) = {19 * width} AND {c} GLOB '{shape}' AND {real_day} THEN {micros(head)}"
        f" WHEN ({c} GLOB '{shape}.[0-9]*' AND {c} NOT GLOB '{shape}.{six}[0-9]*' OR {c} GLOB '{shape}[^.]*')"
        f" AND {ascii_only} AND {real_day}"
        f" THEN {micros(f'{head} || {zone}')} + {fraction}"
        f" ELSE {_INSTANT}(CAST({c} AS BLOB)) END"
    )
    # format() takes NULL for 0, which is an instant. The number in its place is none that PostgreSQL knows.
    shown = f"format('%016x', coalesce({number}, {_NO_INSTANT}))"
    return f"coalesce(nullif({shown}, '{_NO_INSTANT:016x}'), '!datetime')"


_INSTANTS = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?: ?(?:([Zz])|([+-])(\d\d):([0-5]\d)))?)?", re.ASCII
)
_TIMES = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?", re.ASCII)
_MICROSECOND = timedelta(microseconds=1)


def _instant(encoding: str, data: bytes) -> int | None:
    """Return microseconds since 2000, or None where the text is not an instant that can be carried over exactly."""
    found = _INSTANTS.fullmatch(data.decode(encoding, "replace"))
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, _, sign, hours, minutes = found.groups()
    micros = _micros(hour or "0", minute or "0", second, fraction)
    if micros is None:
        return None
    try:
        begin = (datetime(int(year), int(month), int(day), tzinfo=UTC) - EPOCH) // _MICROSECOND
    except ValueError:
        return None
    east = 0 if sign is None else (int(hours) * 60 + int(minutes)) * 60_000_000 * (-1 if sign == "-" else 1)
    return begin + micros - east


def _time(encoding: str, data: bytes) -> str:
    found = _TIMES.fullmatch(data.decode(encoding, "replace"))
    micros = None if found is None else _micros(*found.groups())
    return "!time" if micros is None else str(micros)


def _micros(hour: str, minute: str, second: str | None, fraction: str | None) -> int | None:
    """Return microseconds since midnight; 24:00 is the end of a day. None where it is not a time, or finer than that."""
    fraction = fraction or ""
    total = (int(hour) * 3600 + int(minute) * 60 + int(second or 0)) * 1_000_000 + int(fraction[:6].ljust(6, "0"))
    if int(minute) > 59 or int(second or 0) > 59 or total > 86_400_000_000 or fraction[6:].strip("0"):
        return None
    return total


# --- text -----------------------------------------------------------------------------------------------------------------


def _text(encoding: str, data: bytes) -> str:
    """Return text with its length in UTF-8; ``!text`` where SQLite would silently repair broken pairs of UTF-16."""
    try:
        text = data.decode(encoding)
        return f"{len(text.encode())}:{text}"
    except UnicodeError:
        return "!text"


def _utf8(encoding: str, data: bytes) -> bytes:
    return data.decode(encoding).encode()


# --- jsonb ----------------------------------------------------------------------------------------------------------------

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_LONGEST_EXPONENT = 131_072  # digits before the point of PostgreSQL's numeric


def _no_constant(name: str) -> Any:
    raise ValueError(name)


class _Fraction(Exception):
    """A number that is not whole: its digits have to be kept."""


def _fraction(text: str) -> Any:
    raise _Fraction


def _in_order(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object as jsonb orders it: of equal keys the last one, shorter ones first, then by bytes."""
    if len(pairs) < 2:
        return dict(pairs)
    return dict(sorted(dict(pairs).items(), key=lambda pair: (len(pair[0].encode()), pair[0].encode())))


_WHOLE = json.JSONDecoder(object_pairs_hook=_in_order, parse_float=_fraction, parse_constant=_no_constant)
_EXACT = json.JSONDecoder(object_pairs_hook=_in_order, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False)


def _jsonb(encoding: str, data: bytes) -> str:
    if len(data) <= 256:
        return _remembered_jsonb(encoding, data)  # the same short documents come again and again
    return _jsonb_text(encoding, data)


def _jsonb_text(encoding: str, data: bytes) -> str:
    """Return the text that PostgreSQL prints for ``text::jsonb``; ``!json`` for a document that jsonb does not take.

    Follows PostgreSQL's ``jsonb`` documentation (section JSON Types): white space is dropped, of equal keys the last is
    kept, keys are sorted by length and then by bytes, numbers keep their fraction digits.
    """
    try:
        text = data.decode(encoding)
        if _ESCAPED_NUL.search(text):
            return "!json"
        try:
            shown = _ENCODER.encode(_WHOLE.decode(text))  # escapes what PostgreSQL escapes, in the same way
        except (_Fraction, ValueError):
            shown = _shown(_EXACT.decode(text))
        shown.encode()  # a lone surrogate is not UTF-8; jsonb refuses it
        return shown
    except (ValueError, InvalidOperation, RecursionError):
        return "!json"


_remembered_jsonb = functools.lru_cache(maxsize=8192)(_jsonb_text)


def _shown(value: Any) -> str:
    if isinstance(value, Decimal):
        if abs(value.adjusted()) > _LONGEST_EXPONENT:
            raise ValueError("beyond numeric")
        digits = format(value, "f")
        return digits.removeprefix("-") if value.is_zero() else digits
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_ENCODER.encode(key)}: {_shown(item)}" for key, item in value.items()) + "}"
    return _ENCODER.encode(value)


_FUNCTIONS = {_JSONB: _jsonb, _INSTANT: _instant, _TIME: _time, _TEXT: _text, _UTF8: _utf8}
