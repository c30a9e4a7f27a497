"""The plan's decisions about values, as SQL over the rows of an SQLite table.

A step says which values a decision touches, what becomes of each, and what the new values are called. SQLite does the work
wherever it can; Python functions are called for values that are touched, or may be.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import apsw

from include.cutover.decisions import snapshot as decided_snapshot
from include.cutover.errors import Refused
from include.cutover.plan.tables import ColumnDecision
from include.cutover.proof.canonical import base_type
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import SourceColumn, quote
from include.cutover.target.catalog import Column
from include.cutover.target.schema import PlannedSchema

TEXTS = frozenset({"text", "character varying", "character", "name"})
JSONS = frozenset({"json", "jsonb"})
DATES = frozenset({"timestamp with time zone", "timestamp without time zone", "date"})
_NO_TEXT = DATES | {
    *("smallint", "integer", "bigint", "double precision", "real", "numeric", "boolean", "uuid", "bytea"),
    *("time without time zone", "time with time zone"),
}

# Every letter, and what UTF-7, ISO 2022, unicode_escape and IDNA read as something else.
_ASCII = bytes(range(32, 127)) + b"\t\n\r \\u0041 +AEE- ~{ xn--e1afmkfd"


def names(decision: ColumnDecision) -> list[str]:
    """The decisions that were made about a column, in the order in which they are carried out."""
    chosen = {
        "encoding": decision.encoding is not None,
        "strip_nul": decision.strip_nul,
        "empty_as_null": decision.empty_as_null,
        "datetime": decision.datetime not in (None, "iso"),
        "boolean": decision.boolean is not None,
    }
    return [name for name, is_chosen in chosen.items() if is_chosen]


def misfits(column: Column, decision: ColumnDecision) -> Iterator[str]:
    """Decisions that could never be carried out on a column of the target, with the reason."""
    kind = base_type(column.stored_type)
    if decision.empty_as_null and kind in TEXTS:
        yield f"empty_as_null: '' is a value like any other in {column.type}"
    if decision.empty_as_null and column.not_null:
        yield "empty_as_null: the column is NOT NULL in the target"
    if decision.strip_nul and kind == "bytea":
        yield "strip_nul: bytea holds NUL bytes"
    if decision.encoding is not None and kind in _NO_TEXT:
        yield f"encoding: {column.type} is no text"
    if decision.encoding is not None and not _extends_ascii(decision.encoding):
        yield f"encoding: bytes in {decision.encoding} cannot be told from UTF-8"
    if decision.datetime not in (None, "iso") and kind not in DATES:
        yield f"datetime: {column.type} holds no date"
    if decision.boolean is not None:
        if kind != "boolean":
            yield f"boolean: the target's type is {column.type}"
        if not decision.boolean:
            yield "boolean: the map is empty"
        if decision.boolean.get("0") or decision.boolean.get("1") is False:
            yield "boolean: 0 is false and 1 is true"


def _extends_ascii(encoding: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unicode_escape grumbles about what stands in _ASCII
            return _ASCII.decode(encoding) == _ASCII.decode("ascii")
    except (UnicodeError, LookupError, ValueError):  # LookupError: a codec that makes no text, such as base64
        return False


# --- one decision about one column --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A decision about a column, as SQL over a row ``r``.

    Attributes:
        condition: True for the values that it touches, never NULL.
        new: The new value; NULL for a value that cannot become what the decision says.
        writes: What class of value that is.
        expected: What the old value must be for that, in words.
    """

    column: SourceColumn
    target: Column
    decision: str
    condition: str
    new: str
    writes: Literal["text", "integer", "null"]
    expected: str
    bindings: Mapping[str, Any] = field(default_factory=dict)


def steps(
    connection: apsw.Connection, table: str, decisions: Mapping[str, ColumnDecision], planned: PlannedSchema
) -> list[Step]:
    """The decisions about a table's columns, those about one column in the order in which they are carried out."""
    steps: list[Step] = []
    if not any(names(decision) for decision in decisions.values()):
        return steps
    columns = {column.name: column for column in source_schema.columns(connection, table)}
    targets = {column.name: column for column in planned.columns[table]}
    utf8 = decided_snapshot.text_encoding(connection) == "utf-8"
    for name, decision in sorted(decisions.items()):
        for kind in names(decision):
            column = columns.get(name)
            if column is None or column.generated:
                raise Refused(
                    "a decision is about a column that the source computes" if column else "the source has no such column",
                    where=f"table {table}, column {name}",
                    do="Take the decision out of the plan.",
                )
            steps.append(_step(kind, column, targets[name], decision, f"b{len(steps)}", utf8))
    return steps


def _step(kind: str, column: SourceColumn, target: Column, decision: ColumnDecision, binding: str, utf8: bool) -> Step:
    c = f"r.{quote(column.name)}"
    data = f"CAST({c} AS BLOB)"
    if kind == "encoding":
        # Text with ASCII alone is UTF-8. In a UTF-16 database broken text is no text in an encoding.
        beyond_ascii = f"({c} GLOB ('*[^' || char(1) || '-' || char(127) || ']*') OR instr({c}, char(0)) > 0)"
        broken = f"typeof({c}) = 'text' AND {beyond_ascii} AND cutover_is_not_utf8({data})" if utf8 else "false"
        condition, new = f"(typeof({c}) = 'blob' OR {broken})", f"cutover_read({data}, :{binding})"
        expected = f"bytes that can be read in {decision.encoding}"
        return Step(column, target, kind, condition, new, "text", expected, {binding: decision.encoding})
    if kind == "strip_nul":
        is_json = int(base_type(target.stored_type) in JSONS)
        stripped = f"cutover_without_nul({data}, {is_json})"
        condition = f"instr({c}, char(0)) > 0"
        if is_json:
            condition += f" OR instr({c}, '\\u0000') > 0 AND {stripped} <> {data}"
        condition = f"(typeof({c}) = 'text' AND ({condition}))"
        return Step(column, target, kind, condition, f"CAST({stripped} AS TEXT)", "text", "text")
    if kind == "empty_as_null":
        return Step(column, target, kind, f"(typeof({c}) = 'text' AND octet_length({c}) = 0)", "NULL", "null", "''")
    if kind == "datetime":
        return _datetime_step(column, target, decision, c)
    printed = f"CAST({c} AS TEXT) COLLATE BINARY"
    words = {f"{binding}_{number}": word for number, word in enumerate(sorted(decision.boolean or {}))}
    known = f"typeof({c}) IN ('text', 'integer', 'real') AND NOT (typeof({c}) = 'integer' AND {c} IN (0, 1))"
    condition = f"({known} AND {printed} IN ({', '.join(f':{name}' for name in words)}))"
    cases = " ".join(f"WHEN :{name} THEN {int((decision.boolean or {})[word])}" for name, word in words.items())
    return Step(column, target, kind, condition, f"CASE {printed} {cases} END", "integer", "a word of the map", words)


def _datetime_step(column: SourceColumn, target: Column, decision: ColumnDecision, c: str) -> Step:
    digits = f"CASE WHEN substr({c}, 1, 1) = '-' THEN substr({c}, 2) ELSE {c} END"
    number_in_text = (
        f"typeof({c}) = 'text' AND instr({c}, char(0)) = 0 AND ({digits}) GLOB '[0-9]*' AND {c} GLOB '*[0-9]'"
        f" AND ({digits}) NOT GLOB '*[^0-9.]*' AND {c} NOT GLOB '*.*.*'"
    )
    condition = f"(typeof({c}) IN ('integer', 'real') OR {number_in_text})"
    unit, kind = decision.datetime or "", base_type(target.stored_type)
    new = f"cutover_time({c}, '{unit}', '{kind}')"
    if kind != "date":
        # Whole numbers are the rule, and SQLite is exact about whole seconds.
        seconds, fraction, (least, greatest) = {
            "unix": (c, "'000000'", (_EARLIEST, _LATEST)),
            "unix_ms": (
                f"(({c} - (({c} % 1000) + 1000) % 1000) / 1000)",
                f"format('%03d000', (({c} % 1000) + 1000) % 1000)",
                (_EARLIEST * 1000, _LATEST * 1000 + 999),
            ),
            "julian": (f"({c} * 86400 - {_JULIAN_SECONDS})", "'000000'", (1_721_426, 5_373_484)),
        }[unit]
        printed = f"strftime('%Y-%m-%d %H:%M:%S', {seconds}, 'unixepoch') || '.' || {fraction}"
        whole = f"typeof({c}) = 'integer' AND {c} BETWEEN {least} AND {greatest}"
        new = f"CASE WHEN {whole} THEN {printed} ELSE {new} END"
    days = " at midnight" if kind == "date" else ""
    expected = f"a number ({unit}) from the years 1 to 9999{days}, as text to the microsecond"
    return Step(column, target, "datetime", condition, new, "text", expected)


# --- what the SQL calls -------------------------------------------------------------------------------------------------

_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799  # 0001-01-01 00:00:00 and 9999-12-31 23:59:59 in unix seconds
_JULIAN_SECONDS = 210_866_760_000  # from the first Julian day to 1970
_ESCAPE = re.compile(r"\\(u0000|.)", re.DOTALL)


def register(connection: apsw.Connection) -> None:
    """Give a connection the functions that the steps call."""
    encoding = decided_snapshot.text_encoding(connection)

    def without_nul(data: bytes, is_json: int) -> bytes:
        text = decided_snapshot.decoded(data, encoding).replace("\0", "")
        if is_json:  # escapes from the left: in \\u0000 the backslash is escaped, and the rest is plain text
            text = _ESCAPE.sub(lambda match: "" if match[1] == "u0000" else match[0], text)
        return decided_snapshot.encoded(text, encoding)

    functions: dict[str, tuple[Callable[..., Any], int]] = {
        "cutover_is_not_utf8": (_is_not_utf8, 1),
        "cutover_read": (_read, 2),
        "cutover_without_nul": (without_nul, 2),
        "cutover_time": (_time, 3),
    }
    for name, (function, arguments) in functions.items():
        connection.create_scalar_function(name, function, arguments, deterministic=True)


def _is_not_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


def _read(data: bytes, encoding: str) -> str | None:
    for name in ("utf-8", encoding):
        with contextlib.suppress(UnicodeError):
            text = data.decode(name)
            text.encode()  # some codecs give lone surrogates
            return text
    return None


def _time(value: int | float | str, unit: str, kind: str) -> str | None:
    """ISO text in UTC with six digits of fraction, or the day alone for ``date``; None where there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    above, below = (Decimal(value) if isinstance(value, str) else value).as_integer_ratio()
    if unit == "julian":
        microseconds = _rounded((above * 86_400 - _JULIAN_SECONDS * below) * 1_000, below) * 1_000
    else:
        above *= 1_000_000 if unit == "unix" else 1_000
        if isinstance(value, str) and above % below:  # these digits were written down, and the target has no place for them
            return None
        microseconds = _rounded(above, below)
    seconds, fraction = divmod(microseconds, 1_000_000)
    if not _EARLIEST <= seconds <= _LATEST:
        return None
    days, clock = divmod(seconds, 86_400)
    day = date.fromordinal(days + date(1970, 1, 1).toordinal()).isoformat()
    if kind == "date":
        return day if clock == fraction == 0 else None
    return f"{day} {clock // 3_600:02}:{clock // 60 % 60:02}:{clock % 60:02}.{fraction:06}"


def _rounded(above: int, below: int) -> int:
    """The nearest whole number to a fraction, the even one of two; without a float in between."""
    whole, rest = divmod(above, below)
    return whole + (2 * rest > below or (2 * rest == below and whole % 2 == 1))


_TOKEN = re.compile(
    r"""(?P<blank>--[^\n]*|/\*.*?(?:\*/|\Z)|\s+)|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*')"""
    r"|(?P<word>[^\W\d][\w$]*)|(?P<other>.)",
    re.DOTALL,
)
_AFTER_A_TYPE = frozenset(
    {"CONSTRAINT", "PRIMARY", "NOT", "NULL", "UNIQUE", "CHECK", "DEFAULT", "COLLATE", "REFERENCES", "GENERATED", "AS"}
)


def without_type(create: str, column: str, instead: str) -> str:
    """A CREATE TABLE statement with another type for one column. The caller looks at what SQLite makes of it."""
    depth, begins, inside = 0, False, False  # the token begins a definition; the definition is the column's
    start = end = -1
    for token in _TOKEN.finditer(create):
        text = token.group()
        if token.lastgroup == "blank":
            continue
        if text == ")":
            depth -= 1
        if inside:
            if depth == 0 or (depth == 1 and (text == "," or text.upper() in _AFTER_A_TYPE)):
                break
            start, end = token.start() if start < 0 else start, token.end()
        elif begins:
            inside = _unquoted(text) == column
        if text == "(":
            depth += 1
        begins = depth == 1 and (text == "," or (text == "(" and not inside and not begins))
    return create if start < 0 else create[:start] + instead + create[end:]


def _unquoted(text: str) -> str:
    closing = {'"': '"', "`": "`", "[": "]", "'": "'"}.get(text[:1])
    if closing is None or len(text) < 2:
        return text
    inner = text[1:-1]
    return inner if closing == "]" else inner.replace(closing * 2, closing)
