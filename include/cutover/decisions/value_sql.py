"""The plan's decisions about values, as SQL over the rows of an SQLite table.

A change says which values a decision touches, and what each becomes. SQLite does the work wherever it can; Python functions
are called only for values that are touched, or may be.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import apsw

from include.cutover.decisions import decided_snapshot
from include.cutover.errors import Refused
from include.cutover.plan.tables import ColumnDecision
from include.cutover.proof.canonical import base_type
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import SourceColumn, quote
from include.cutover.target.catalog import Column
from include.cutover.target.schema import PlannedSchema

_JSONS = frozenset({"json", "jsonb"})


def names(decision: ColumnDecision) -> list[str]:
    """Return the names of the decisions about a column, in the order in which they are carried out."""
    chosen = {
        "encoding": decision.encoding is not None,
        "strip_nul": decision.strip_nul,
        "empty_as_null": decision.empty_as_null,
        "datetime": decision.datetime not in (None, "iso"),
        "boolean": decision.boolean is not None,
    }
    return [name for name, is_chosen in chosen.items() if is_chosen]


# --- one decision about one column --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ValueChange:
    """A decision about a column, as SQL over a row ``r``.

    Attributes:
        column: The column of the source.
        target: The column of the target.
        decision: Its name, e.g. ``strip_nul``.
        condition: True for the values that it touches, never NULL.
        new: The new value; NULL for a value that the decision cannot convert.
        writes: Storage class of the new value.
        expected: Old values that can be converted, in words.
        bindings: Values of the parameters in ``condition`` and ``new``.
    """

    column: SourceColumn
    target: Column
    decision: str
    condition: str
    new: str
    writes: Literal["text", "integer", "null"]
    expected: str
    bindings: Mapping[str, Any] = field(default_factory=dict)


def value_changes(
    connection: apsw.Connection, table: str, decisions: Mapping[str, ColumnDecision], planned: PlannedSchema
) -> list[ValueChange]:
    """Return the changes of a table's columns, those of one column in the order in which they are carried out.

    Args:
        connection: The snapshot.
        table: Name of the table.
        decisions: Column → decisions.
        planned: The target's schema.

    Raises:
        Refused: When a decision is about a column that is not in the source, or generated there.
    """
    found: list[ValueChange] = []
    if not any(names(decision) for decision in decisions.values()):
        return found
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
                    do="Remove the decision from the plan.",
                )
            found.append(_change(kind, column, targets[name], decision, f"b{len(found)}", utf8))
    return found


def _change(
    kind: str, column: SourceColumn, target: Column, decision: ColumnDecision, binding: str, utf8: bool
) -> ValueChange:
    c = f"r.{quote(column.name)}"
    data = f"CAST({c} AS BLOB)"
    if kind == "encoding":
        # Text with ASCII alone is UTF-8. In a UTF-16 database broken text cannot be read in another encoding.
        beyond_ascii = f"({c} GLOB ('*[^' || char(1) || '-' || char(127) || ']*') OR instr({c}, char(0)) > 0)"
        broken = f"typeof({c}) = 'text' AND {beyond_ascii} AND cutover_is_not_utf8({data})" if utf8 else "false"
        condition, new = f"(typeof({c}) = 'blob' OR {broken})", f"cutover_read({data}, :{binding})"
        expected = f"bytes that can be read in {decision.encoding}"
        return ValueChange(column, target, kind, condition, new, "text", expected, {binding: decision.encoding})
    if kind == "strip_nul":
        is_json = int(base_type(target.stored_type) in _JSONS)
        stripped = f"cutover_without_nul({data}, {is_json})"
        condition = f"instr({c}, char(0)) > 0"
        if is_json:
            condition += f" OR instr({c}, '\\u0000') > 0 AND {stripped} <> {data}"
        condition = f"(typeof({c}) = 'text' AND ({condition}))"
        return ValueChange(column, target, kind, condition, f"CAST({stripped} AS TEXT)", "text", "text")
    if kind == "empty_as_null":
        return ValueChange(column, target, kind, f"(typeof({c}) = 'text' AND octet_length({c}) = 0)", "NULL", "null", "''")
    if kind == "datetime":
        return _datetime_change(column, target, decision, c)
    printed = f"CAST({c} AS TEXT) COLLATE BINARY"
    words = {f"{binding}_{number}": word for number, word in enumerate(sorted(decision.boolean or {}))}
    known = f"typeof({c}) IN ('text', 'integer', 'real') AND NOT (typeof({c}) = 'integer' AND {c} IN (0, 1))"
    condition = f"({known} AND {printed} IN ({', '.join(f':{name}' for name in words)}))"
    cases = " ".join(f"WHEN :{name} THEN {int((decision.boolean or {})[word])}" for name, word in words.items())
    return ValueChange(column, target, kind, condition, f"CASE {printed} {cases} END", "integer", "a word of the map", words)


def _datetime_change(column: SourceColumn, target: Column, decision: ColumnDecision, c: str) -> ValueChange:
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
    return ValueChange(column, target, "datetime", condition, new, "text", expected)


# --- functions that the SQL calls ----------------------------------------------------------------------------------------

_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799  # 0001-01-01 00:00:00 and 9999-12-31 23:59:59 in unix seconds
_JULIAN_SECONDS = 210_866_760_000  # from the first Julian day to 1970
_ESCAPE = re.compile(r"\\(u0000|.)", re.DOTALL)


def register(connection: apsw.Connection) -> None:
    """Register the functions that the SQL of the changes calls."""
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
    """Return ISO text in UTC with six digits of fraction, or the day alone for ``date``; None where there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    above, below = (Decimal(value) if isinstance(value, str) else value).as_integer_ratio()
    if unit == "julian":
        microseconds = _rounded((above * 86_400 - _JULIAN_SECONDS * below) * 1_000, below) * 1_000
    else:
        above *= 1_000_000 if unit == "unix" else 1_000
        if isinstance(value, str) and above % below:  # the target cannot hold digits that were written down
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
    """Return the nearest whole number to a fraction, the even one of two; without a float in between."""
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
    """Replace the type of one column in a CREATE TABLE statement. The caller verifies how SQLite reads the result.

    Args:
        create: The statement.
        column: Name of the column.
        instead: Its new type; empty for none.
    """
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
