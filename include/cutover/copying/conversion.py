"""How a value of a column travels from SQLite to PostgreSQL: unchanged, or not at all.

SQLite's types belong to values, and PostgreSQL's input functions are lenient: ``COPY`` takes ``20251011`` for a date,
``yes`` for a boolean, rounds numbers and cuts blanks. So each column of the target gets a ``Conversion``, which says the
same thing twice: as SQL that finds, inside SQLite and for a whole block at once, whether any value *may* be one that must
not pass, and as a Python function that decides it exactly for one value and says why not.

Values that each type takes:

- ``smallint``, ``integer``, ``bigint``: integers. ``boolean``: the integers 0 and 1.
- ``double precision``: reals, infinities included, to the last bit; integers that it holds exactly.
- ``numeric``: integers and finite reals, each as the shortest decimal that is this real; with a scale, those whose decimal
  it holds.
- ``text``, ``varchar(n)``, ``char(n)``: text that is UTF-8 and has no NUL; at most n characters, exactly n for ``char(n)``.
- ``uuid``: text of 32 hex digits in either case, with hyphens or braces or without.
- ``timestamptz``: text ``YYYY-MM-DD[(T| )HH:MM[:SS[.f]]][Z|±HH:MM]``, UTC where no offset is given; ``timestamp`` the same
  without an offset; ``date`` and ``time`` their part of it. At most six digits of fraction, unless the others are zero.
- ``json``, ``jsonb``: text that PostgreSQL takes for JSON. ``bytea``: blobs. Enumerations: text that is one of their labels.

Any other type is refused before anything is copied, ``real`` among them: it holds half the digits of SQLite's REAL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import psycopg
from psycopg.rows import tuple_row

from include.cutover.errors import Refused
from include.cutover.source.schema import SourceColumn, affinity, quote

COLUMN_END, NULL = "\x1f", "\x1d"  # COPY's delimiter and its NULL; as data they are escaped
Value = None | int | float | str | bytes

_EXACT_INTEGERS = 2**53  # a float8 holds every integer up to here


class NotConvertible(Exception):
    """A value that must not pass. ``expected`` says which values would; the value itself is never shown."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(found)
        self.expected = expected
        self.found = found


@dataclass(frozen=True)
class TargetColumn:
    """A column of the target as the catalog has it.

    Attributes:
        type: As ``format_type`` writes it, for people.
        base: Name of the type in ``pg_type``; for a domain that of the type it is made from.
        modifier: ``atttypmod`` of it, -1 where there is none.
        is_enum: ``base`` is an enumeration.
    """

    name: str
    type: str
    base: str
    modifier: int
    is_enum: bool
    not_null: bool
    generated: bool


@dataclass(frozen=True)
class Conversion:
    """The way of one column.

    Attributes:
        column: Its name, the same on both sides.
        type: The target's type, for people.
        cell: SQL expression that gives the value's text in COPY's format before escaping; NULL stays NULL.
        doubt: SQL conditions, each true for any value that has to be checked exactly, never for NULL.
        exact: Gives that text for one value that is not NULL, or raises ``NotConvertible``.
        not_null: The target refuses NULL.
    """

    column: str
    type: str
    cell: str
    doubt: tuple[str, ...]
    exact: Callable[[Value], str]
    not_null: bool

    def __call__(self, value: Value) -> str:
        """Return the field of a COPY line for one value, escaped.

        Raises:
            NotConvertible: When the value must not pass.
        """
        if value is None:
            if self.not_null:
                raise NotConvertible("a value: the target's column is NOT NULL", "NULL")
            return NULL
        field = self.exact(value)
        return _escaped(field) if _SPECIAL.search(field) else field


_SPECIAL = re.compile(f"[\\\\\n\r{COLUMN_END}{NULL}]")


def _escaped(field: str) -> str:
    field = field.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return field.replace(COLUMN_END, "\\" + COLUMN_END).replace(NULL, "\\" + NULL)


def value_class(value: Value) -> str:
    """Return the kind of a value, without showing it."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return f"text of {len(value)} characters" if value else "empty text"
    if isinstance(value, bytes):
        return f"a blob of {len(value)} bytes"
    if isinstance(value, float):
        return "a real" if math.isfinite(value) else "an infinite real"
    return "an integer"


def target_columns(connection: psycopg.Connection, schema: str, table: str) -> list[TargetColumn]:
    """Return the columns of a table of the target in its order; none where the table does not exist."""
    named = {"schema": schema, "table": table}
    rows = connection.cursor(row_factory=tuple_row).execute(_TARGET_COLUMNS, named)
    return [TargetColumn(*row) for row in rows]


_TARGET_COLUMNS = """
    WITH RECURSIVE base AS (
        SELECT attribute.attnum, attribute.atttypid AS type, attribute.atttypmod AS modifier,
               attribute.attnotnull AS not_null
        FROM pg_attribute AS attribute
        JOIN pg_class AS class ON class.oid = attribute.attrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND class.relname = %(table)s AND class.relkind IN ('r', 'p')
          AND attribute.attnum > 0 AND NOT attribute.attisdropped
        UNION ALL
        SELECT base.attnum, domain.typbasetype, domain.typtypmod, base.not_null OR domain.typnotnull
        FROM base JOIN pg_type AS domain ON domain.oid = base.type AND domain.typtype = 'd'
    )
    SELECT attribute.attname, format_type(attribute.atttypid, attribute.atttypmod), type.typname::text, base.modifier,
           type.typtype = 'e', base.not_null, attribute.attgenerated <> ''
    FROM base
    JOIN pg_type AS type ON type.oid = base.type AND type.typtype <> 'd'
    JOIN pg_class AS class ON class.relname = %(table)s
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace AND namespace.nspname = %(schema)s
    JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attnum = base.attnum
    ORDER BY base.attnum
"""


def match_columns(found: Sequence[SourceColumn], target: Sequence[TargetColumn], table: str) -> list[Conversion]:
    """Return a conversion for each column to copy, in the target's order.

    The names must be the same, letter by letter, on both sides. Generated columns of the target are left to it; one that
    only the source generates is copied like any other where the target has it, and left out where it has not.

    Raises:
        Refused: Names every column that only one side has.
    """
    by_name = {column.name: column for column in found}
    wanted = {column.name for column in target if not column.generated}
    lost = [column.name for column in found if column.name not in wanted and not column.generated]
    empty = [name for name in wanted if name not in by_name]
    if lost or empty:
        unmatched = [f"only in the source: {', '.join(sorted(lost))}"] if lost else []
        unmatched += [f"only in the target: {', '.join(sorted(empty))}"] if empty else []
        raise Refused(
            "source and target do not have the same columns",
            where=f"table {table}",
            expected="the same names on both sides",
            found="; ".join(unmatched),
            do="Correct the plan's SQL. Nothing was copied.",
        )
    return [conversion(table, by_name[column.name], column) for column in target if not column.generated]


def conversion(table: str, source: SourceColumn, target: TargetColumn) -> Conversion:
    """Return the conversion from a source column to the target column of the same name.

    Raises:
        Refused: When values cannot be carried unchanged into the target's type.
    """
    name = quote(source.name)
    made = _for_type(name, affinity(source.declared_type), target)
    if made is None:
        raise Refused(
            "values cannot be carried over unchanged into a column of this type",
            where=f"{table}.{target.name}",
            expected="a type without loss, e.g. double precision, timestamptz, numeric or text",
            found=target.type,
            do="Change the type in the plan's SQL.",
        )
    cell, doubt, exact = made
    return Conversion(source.name, target.type, cell, doubt, exact, target.not_null)


_Made = tuple[str, tuple[str, ...], Callable[[Value], str]]


def _for_type(name: str, stored_as: str, target: TargetColumn) -> _Made | None:
    base, modifier = target.base, target.modifier
    if base in _INTEGERS:
        return name, (not_a_number(name),), _integer(*_INTEGERS[base])
    if base == "bool":
        return name, (not_a_number(name),), _boolean
    if base == "float8":
        return name, _float_doubt(name, stored_as), _float
    if base == "numeric":
        return _numeric(name, stored_as, target)
    if base == "bytea":
        return f"iif({name} IS NULL, NULL, '\\x' || hex({name}))", (f"{_bare(name)} < x''",), _bytea
    doubt = _not_text(name, stored_as)
    if base in ("text", "varchar", "bpchar") and modifier < 0:
        return name, doubt, _text()
    if base == "varchar":
        length = modifier - 4
        return name, (*doubt, f"octet_length({name}) > {length} AND length({name}) > {length}"), _text(longest=length)
    if base == "bpchar":
        length = modifier - 4
        return name, (*doubt, f"length({name}) <> {length}"), _text(shortest=length, longest=length)
    if base == "uuid":
        return name, doubt, _matching(_UUID, "32 hex digits, with or without hyphens or braces")
    if base in ("json", "jsonb"):
        return name, doubt, _text()
    if target.is_enum:
        return name, doubt, _text()
    if base in _TIMES and modifier in (-1, 6):
        shapes, pattern, expected = _TIMES[base]
        return name, _no_such_time(name, shapes), _time(pattern, expected)
    return None


# --- doubt: SQL that is true for every value that has to be checked exactly ---------------------------------------------
#
# SQLite orders values by class: NULL, numbers, text, blobs. One comparison with the least text or the least blob shows the
# class, at a tenth of the cost of typeof(). The plus takes the column's affinity away, or SQLite would try each time whether
# the literal is a number; the collation is named because the column's own may be one that is not here.


def _bare(name: str) -> str:
    return f"+{name} COLLATE BINARY"


def not_a_number(name: str) -> str:
    """Return the doubt about a column, quoted, that is to hold numbers."""
    # PostgreSQL itself refuses a real ("3.5") for integers and booleans, numbers out of range and booleans other than 0, 1.
    return f"{_bare(name)} >= ''"


def _not_text(name: str, stored_as: str) -> tuple[str, ...]:
    doubt = [f"{_bare(name)} >= x''", f"{_bare(name)} = '{NULL}'"]
    # Columns of TEXT affinity turn numbers into text when they are stored; in others a number is a damaged text.
    return tuple(doubt) if stored_as == "TEXT" else (*doubt, f"{_bare(name)} < ''")


def _float_doubt(name: str, stored_as: str) -> tuple[str, ...]:
    doubt = [not_a_number(name)]
    if stored_as != "REAL":
        doubt.append(f"{_bare(name)} NOT BETWEEN -{_EXACT_INTEGERS} AND {_EXACT_INTEGERS} AND typeof({name}) = 'integer'")
    return (*doubt, *_minus_zero(name, stored_as))


def _minus_zero(name: str, stored_as: str) -> tuple[str, ...]:
    # SQLite prints -0.0 as 0.0. A column of REAL affinity cannot hold it.
    return () if stored_as == "REAL" else (f"{_bare(name)} = 0 AND typeof({name}) = 'real'",)


def _no_such_time(name: str, shapes: dict[int, str]) -> tuple[str, ...]:
    # unixepoch() reads ISO 8601 strictly, two digits where two belong, but also "now", Julian days and blanks around an
    # offset. With the shape for its length, which ends in the required digit or letter, these are excluded.
    cases = " ".join(
        f"WHEN {length} THEN {name} NOT GLOB '{shape}' OR unixepoch({name}) IS NULL" for length, shape in shapes.items()
    )
    return f"{_bare(name)} >= x''", f"CASE octet_length({name}) {cases} ELSE {name} IS NOT NULL END"


# --- exact: one value ---------------------------------------------------------------------------------------------------

_INTEGERS = {"int2": (-(2**15), 2**15 - 1), "int4": (-(2**31), 2**31 - 1), "int8": (-(2**63), 2**63 - 1)}


def _integer(least: int, greatest: int) -> Callable[[Value], str]:
    expected = f"an integer from {least} to {greatest}"

    def exact(value: Value) -> str:
        if not isinstance(value, int):
            raise NotConvertible(expected, value_class(value))
        if not least <= value <= greatest:
            raise NotConvertible(expected, "an integer beyond that")
        return str(value)

    return exact


def _boolean(value: Value) -> str:
    if not isinstance(value, int):
        raise NotConvertible("the integer 0 or 1", value_class(value))
    if value not in (0, 1):
        raise NotConvertible("the integer 0 or 1", "another integer")
    return str(value)


def _float(value: Value) -> str:
    if isinstance(value, float):
        return repr(value)
    if not isinstance(value, int):
        raise NotConvertible("a real", value_class(value))
    if int(float(value)) != value:
        raise NotConvertible("a number that double precision holds exactly", "an integer beyond 2^53")
    return str(value)


def _numeric(name: str, stored_as: str, target: TargetColumn) -> _Made | None:
    """Convert a real to the shortest decimal that reads back as the same real, or to all its digits where it is whole.

    A decimal of at most fifteen digits that reads back is the shortest one, and SQLite prints those itself. Reals that need
    more are checked exactly.
    """
    precision, scale = (
        (target.modifier - 4) >> 16 & 0xFFFF,
        (((target.modifier - 4) & 0x7FF) ^ 1024) - 1024,
    )  # eleven bits, signed
    if target.modifier < 0:
        printed, limit = f"format('%.15g', {name})", "1e15"
    elif scale >= 0:
        printed, limit = f"format('%.{scale}f', {name})", f"1e{15 - scale}"
    else:
        return None
    inexact = f"CAST({printed} AS REAL) <> {_bare(name)}"
    if target.modifier < 0 or precision > 15:  # else PostgreSQL itself refuses what has more digits
        # Reals next to zero have fewer than fifteen digits.
        tiny = f"{_bare(name)} <> 0 AND {_bare(name)} BETWEEN -1e-290 AND 1e-290"
        inexact = f"({_bare(name)} NOT BETWEEN -{limit} AND {limit} OR {tiny} OR {inexact})"
    doubt = (not_a_number(name), *_minus_zero(name, stored_as), f"typeof({name}) = 'real' AND {inexact}")
    number = _number(None if target.modifier < 0 else scale, target.type)
    return f"CASE typeof({name}) WHEN 'real' THEN {printed} ELSE {name} END", doubt, number


def _number(scale: int | None, type_name: str) -> Callable[[Value], str]:
    expected = "a finite number" if scale is None else f"a finite number that is exact in {type_name}"

    def exact(value: Value) -> str:
        if isinstance(value, int):
            return str(value)
        if not isinstance(value, float) or not math.isfinite(value):
            raise NotConvertible(expected, value_class(value))
        if value == 0 and math.copysign(1, value) < 0:
            raise NotConvertible(expected, "minus zero, which numeric does not know")
        if value.is_integer():
            return str(int(value))
        digits = format(Decimal(repr(value)), "f")
        if scale is not None and len(digits.partition(".")[2]) > scale:
            raise NotConvertible(expected, "a real with more digits")
        return digits

    return exact


def _bytea(value: Value) -> str:
    if not isinstance(value, bytes):
        raise NotConvertible("a blob", value_class(value))
    return "\\x" + value.hex()


def _required_text(value: Value, expected: str) -> str:
    if not isinstance(value, str):
        raise NotConvertible(expected, value_class(value))
    if "\0" in value:
        raise NotConvertible(
            f"{expected} without NUL characters", f"{value_class(value)}, {value.count(chr(0))} of them NUL"
        )
    return value


def _text(*, shortest: int = 0, longest: int | None = None) -> Callable[[Value], str]:
    limit = "" if longest is None else f" of at most {longest} characters" if not shortest else f" of {longest} characters"

    def exact(value: Value) -> str:
        text = _required_text(value, f"text{limit}")
        if not shortest <= len(text) <= (len(text) if longest is None else longest):
            raise NotConvertible(f"text{limit}", value_class(text))
        return text

    return exact


# PostgreSQL takes a hyphen after any group of four digits. Wherever they stand, it is the same uuid.
_HEX = r"(?:[0-9A-Fa-f]{4}-?){7}[0-9A-Fa-f]{4}"
_UUID = re.compile(rf"{_HEX}|\{{{_HEX}\}}")


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[Value], str]:
    def exact(value: Value) -> str:
        text = _required_text(value, f"text of {expected}")
        if not pattern.fullmatch(text):
            raise NotConvertible(f"text of {expected}", f"other text ({value_class(text)})")
        return text

    return exact


_DAY = r"\d{4}-\d\d-\d\d"
_CLOCK = r"(?:[01]\d|2[0-4]):[0-5]\d(?::[0-5]\d(?:\.(?P<fraction>\d+))?)?"
_OFFSET = r"(?: ?(?:[Zz]|[+-](?:0\d|1[0-5]):[0-5]\d))?"  # PostgreSQL knows none of 16 hours or more


def _time(pattern: str, expected: str) -> Callable[[Value], str]:
    compiled = re.compile(pattern, re.ASCII)

    def exact(value: Value) -> str:
        text = _required_text(value, f"text {expected}")
        match = compiled.fullmatch(text)
        if match is None:
            raise NotConvertible(f"text {expected}", f"other text ({value_class(text)})" if text else "empty text")
        start, end = match.span("fraction") if "fraction" in compiled.groupindex else (-1, -1)
        if end - start > 6:
            if text[start + 6 : end].strip("0"):
                raise NotConvertible("at most six digits of fraction", f"{end - start} digits")
            text = text[: start + 6] + text[end:]
        return text

    return exact


def _shapes(*shapes: str) -> dict[int, str]:
    """Return GLOB patterns by the length of their matches; the first of a length counts."""
    found: dict[int, str] = {}
    for shape in shapes:
        found.setdefault(len(re.sub(r"\[[^]]*\]", "?", shape)), shape)
    return found


_D, _T = "????-??-??", "????-??-??[ T]??:??"
_LOCAL = (f"{_T}:??.?????[0-9]", f"{_T}:?[0-9]", f"{_T}:??.??[0-9]", "????-??-?[0-9]", f"{_T[:-1]}[0-9]")
_ZONED = (
    f"{_T}:??Z",
    f"{_T}:??.??[0-9]Z",
    f"{_T}:??.?????[0-9]Z",
    f"{_T}:?[0-9][+-]??:??",
    f"{_T}:??.??[0-9][+-]??:??",
    f"{_T}:??.?????[0-9][+-]??:??",
)
_CLOCK_SHAPES = ("??:??:??.?????[0-9]", "??:??:?[0-9]", "??:??:??.??[0-9]", "??:?[0-9]")

# type in pg_type → shapes that need no exact check, the exact pattern, its description
_TIMES = {
    "timestamptz": (
        _shapes(*_LOCAL, *_ZONED),
        rf"{_DAY}(?:[ T]{_CLOCK}{_OFFSET})?",
        "'YYYY-MM-DD HH:MM:SS', with an optional T, fraction and offset",
    ),
    "timestamp": (
        _shapes(*_LOCAL),
        rf"{_DAY}(?:[ T]{_CLOCK})?",
        "'YYYY-MM-DD HH:MM:SS', with an optional T and fraction, without an offset",
    ),
    "date": (_shapes("????-??-?[0-9]"), _DAY, "'YYYY-MM-DD'"),
    "time": (_shapes(*_CLOCK_SHAPES), _CLOCK, "'HH:MM:SS', with an optional fraction"),
}
