"""The expected content of the target, worked out in plain Python from the source's rows and the plan's words.

It shares nothing with the product: values are read from SQLite by their storage class, decisions are carried out here once
more, and what PostgreSQL holds is read in PostgreSQL's own types. The one thing that is left to PostgreSQL is how it prints
JSON.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import psycopg
from psycopg import sql

from tests.chain.case import Case, Column, Link, Table, quote

Cell = tuple[str, Any]
"""Storage class and value; text as bytes."""


class NoSuchValue(Exception):
    """The target's type has no such value."""


def expected(case: Case, path: Path, connection: psycopg.Connection) -> dict[str, Counter[tuple[Any, ...]]]:
    """Table → its rows as the target must hold them.

    Raises:
        NoSuchValue: When a row cannot be in the target at all.
    """
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as reading:
        rows = {table.name: _decided(case, table, reading) for table in case.tables}
    _settle(case, rows)
    for table in case.tables:
        for column in table.columns:
            for row in rows[table.name] if column.source == "computed" else ():
                row[column.name] = int(row[column.computed] is None)
    documents = {
        text for table in case.tables for row in rows[table.name] for column in _compared(table)
        if column.kind.base == "jsonb" and isinstance(text := row[column.name], str)
    }  # fmt: skip
    shown = {text: _jsonb(connection, text) for text in documents}
    found = {}
    for table in case.tables:
        found[table.name] = Counter(
            tuple(_value(column, row[column.name], shown) for column in _compared(table)) for row in rows[table.name]
        )
    return found


def held(case: Case, connection: psycopg.Connection, schema: str) -> dict[str, Counter[tuple[Any, ...]]]:
    """Table → its rows as the target holds them."""
    found = {}
    for table in case.tables:
        cells = [
            sql.SQL(_READ.get(column.kind.base, "{}")).format(sql.Identifier(column.name)) for column in _compared(table)
        ]
        query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(cells), sql.Identifier(schema, table.name))
        rows = connection.execute(query).fetchall()
        found[table.name] = Counter(
            tuple(_found(column, value) for column, value in zip(_compared(table), row, strict=True)) for row in rows
        )
    return found


def _compared(table: Table) -> list[Column]:
    """The columns that both sides have and the target does not compute."""
    return [column for column in table.columns if column.source != "none" and column.target == "plain"]


# --- the source ---------------------------------------------------------------------------------------------------------


def _decided(case: Case, table: Table, reading: apsw.Connection) -> list[dict[str, Any]]:
    """The rows with the plan's decisions about values carried out: None, integers, reals, texts, blobs, and microseconds."""
    kept = "utf-8" if case.encoding == "UTF-8" else "utf-16-le" if case.encoding.endswith("le") else "utf-16-be"
    columns = table.stored
    cells = ", ".join(
        f"typeof({c}), CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) ELSE {c} END"
        for c in (quote(column.name) for column in columns)
    )
    settings = case.settings[table.name].get("columns", {})
    found = []
    for row in reading.execute(f"SELECT {cells} FROM {quote(table.name)}"):
        pairs = zip(columns, row[::2], row[1::2], strict=True)
        found.append(
            {
                column.name: _after(column, (kind, value), settings.get(column.name, {}), kept)
                for column, kind, value in pairs
            }
        )
    return found


class Broken(bytes):
    """Text that is none in the database's encoding."""


class Instant(int):
    """Microseconds since 2000 that a decision made of a number."""


def _after(column: Column, cell: Cell, decision: Mapping[str, Any], kept: str) -> Any:
    kind, value = cell
    base = column.kind.base
    is_text = base in ("text", "varchar", "char", "json", "jsonb", "enum")
    if kind == "text":
        value = _read(value, kept)
    if (
        decision.get("encoding")
        and is_text
        and isinstance(value, bytes)
        and not (isinstance(value, Broken) and kept != "utf-8")
    ):
        with contextlib.suppress(UnicodeError):
            value = _in_either(bytes(value), decision["encoding"])
    if decision.get("strip_nul") and isinstance(value, str):
        value = value.replace("\0", "")
        if base in ("json", "jsonb"):
            value = re.sub(r"\\(u0000|.)", lambda match: "" if match[1] == "u0000" else match[0], value, flags=re.DOTALL)
    if decision.get("empty_as_null") and value == "" and base not in ("text", "varchar", "char"):
        return None
    meaning = decision.get("datetime")
    if meaning not in (None, "iso") and base in ("timestamptz", "timestamp", "date"):
        number: int | float | Decimal | None = value if isinstance(value, int | float) else None
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
            number = Decimal(value)
        if number is not None:
            return _moment(number, meaning)
    words = decision.get("boolean")
    if words is not None and not (isinstance(value, int) and value in (0, 1)) and isinstance(value, int | float | str):
        return int(words[_printed(value)]) if _printed(value) in words else value
    return value


def _read(data: bytes, encoding: str) -> str | Broken:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return Broken(data)


def _in_either(data: bytes, encoding: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode(encoding)


def _printed(value: Any) -> str:
    return str(apsw.Connection(":memory:").execute("SELECT CAST(? AS TEXT)", (value,)).get)


def _moment(number: int | float | Decimal, meaning: str) -> Any:
    with contextlib.suppress(OverflowError, ValueError):
        exact = Fraction(number)
        if meaning == "julian":
            return Instant(round((exact - Fraction(4903089, 2)) * 86_400_000) * 1000)  # Julian day of 2000-01-01 00:00
        micros = exact * (1_000_000 if meaning == "unix" else 1000)
        if isinstance(number, Decimal) and micros.denominator != 1:
            return number
        return Instant(round(micros) - 946_684_800_000_000)
    return number


# --- references ---------------------------------------------------------------------------------------------------------


def _settle(case: Case, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Take out what quarantine takes out, and then set to NULL what the plan says, until nothing follows."""
    while True:
        for choice in ("quarantine", "set_null"):
            chosen = [
                (link, orphans)
                for link in case.links
                if _choice(case, link) == choice and (orphans := _orphans(case, link, rows))
            ]
            if chosen:
                break
        else:
            return
        for link, orphans in chosen[:1]:
            if choice == "quarantine":
                rows[link.table] = [row for at, row in enumerate(rows[link.table]) if at not in orphans]
            else:
                for at in orphans:
                    rows[link.table][at] |= dict.fromkeys(link.columns)


def _choice(case: Case, link: Link) -> str:
    return str(case.settings[link.table].get("foreign_keys", {}).get(link.name, {}).get("orphans", "block"))


def _orphans(case: Case, link: Link, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[int]:
    ends = [(link.table, link.columns), (link.referenced, link.referenced_columns)]
    own, others = ([case.table(name).column(column) for column in columns] for name, columns in ends)
    there = {_end(others, row) for row in rows[link.referenced]}
    return {
        at
        for at, row in enumerate(rows[link.table])
        if all(row[column.name] is not None for column in own) and _end(own, row) not in there
    }


def _end(columns: Sequence[Column], row: Mapping[str, Any]) -> tuple[Any, ...]:
    values = []
    for column in columns:
        try:
            values.append(_value(column, row[column.name], {}))
        except NoSuchValue:
            values.append(("!", type(row[column.name]), row[column.name]))
    return tuple(values)


# --- values -------------------------------------------------------------------------------------------------------------

_LIMITS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?: ?([Zz]|[+-]\d\d:\d\d))?)?", re.ASCII
)
_CLOCK = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?", re.ASCII)
_DAY_ZERO = date(2000, 1, 1).toordinal()
_DAY_MICROS = 86_400_000_000


def _value(column: Column, value: Any, shown: Mapping[str, str]) -> Any:
    """A value of the source as the target's type has it."""
    if value is None:
        if column.not_null or column.domain == "NOT NULL":
            raise NoSuchValue("NULL")
        return None
    made = _OF[column.kind.base](column, value, shown)
    if made is None:
        raise NoSuchValue(f"{column.name}: {value!r} in {column.kind.type}")
    return made


def _integer(column: Column, value: Any, _: Any) -> Any:
    limit = _LIMITS[column.kind.base]
    return value if type(value) is int and -limit <= value < limit else None


def _float(_: Column, value: Any, __: Any) -> Any:
    if type(value) is int:
        return struct.pack(">d", value) if int(float(value)) == value else None
    return struct.pack(">d", value) if type(value) is float else None


def _numeric(column: Column, value: Any, _: Any) -> Any:
    if type(value) not in (int, float) or value in (float("inf"), float("-inf")):
        return None
    number = Decimal(int(value)) if value == int(value) else Decimal(repr(value))
    if type(value) is float and value == 0 and struct.pack(">d", value)[0]:
        return None
    if match := re.search(r"\((\d+),(\d+)\)", column.kind.type):
        precision, scale = map(int, match.groups())
        if abs(Fraction(number)) >= Fraction(10) ** (precision - scale) or (Fraction(number) * 10**scale).denominator != 1:
            return None
    return number


def _boolean(_: Column, value: Any, __: Any) -> Any:
    return bool(value) if type(value) is int and value in (0, 1) else None


def _text(column: Column, value: Any, _: Any) -> Any:
    if not isinstance(value, str) or "\0" in value:
        return None
    length = {"varchar(5)": len(value) <= 5, "char(3)": len(value) == 3}
    return value if length.get(column.kind.type, True) else None


def _uuid(_: Column, value: Any, __: Any) -> Any:
    digits = r"(?:[0-9A-Fa-f]{4}-?){7}[0-9A-Fa-f]{4}"
    return UUID(value) if isinstance(value, str) and re.fullmatch(rf"{digits}|\{{{digits}\}}", value) else None


def _document(column: Column, value: Any, shown: Mapping[str, str]) -> Any:
    if not isinstance(value, str) or "\0" in value:
        return None
    return shown.get(value) if column.kind.base == "jsonb" else value


def _micros(hour: str, minute: str, second: str | None, fraction: str | None) -> int | None:
    fraction = (fraction or "").ljust(6, "0")
    total = (int(hour) * 3600 + int(minute) * 60 + int(second or 0)) * 1_000_000 + int(fraction[:6])
    fits = int(minute) < 60 and int(second or 0) < 60 and total <= _DAY_MICROS and not fraction[6:].strip("0")
    return total if fits else None


def _day(text: str) -> int | None:
    with contextlib.suppress(ValueError):
        return date.fromisoformat(text).toordinal() - _DAY_ZERO
    return None


def _instant(column: Column, value: Any, _: Any) -> Any:
    if isinstance(value, Instant):
        return int(value)
    match = _INSTANT.fullmatch(value) if isinstance(value, str) else None
    if match is None or (column.kind.base == "timestamp" and match[6]):
        return None
    day, clock = _day(match[1]), _micros(match[2] or "0", match[3] or "0", match[4], match[5])
    if day is None or clock is None:
        return None
    east = 0
    if (zone := match[6]) and zone not in "Zz":
        if int(zone[1:3]) > 15 or int(zone[4:]) > 59:
            return None
        east = (int(zone[1:3]) * 60 + int(zone[4:])) * 60_000_000 * (-1 if zone[0] == "-" else 1)
    return day * _DAY_MICROS + clock - east


def _date(_: Column, value: Any, __: Any) -> Any:
    if isinstance(value, Instant):
        return int(value) // _DAY_MICROS if int(value) % _DAY_MICROS == 0 else None
    return _day(value) if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII) else None


def _time(_: Column, value: Any, __: Any) -> Any:
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else _micros(*match.groups())


def _bytes(_: Column, value: Any, __: Any) -> Any:
    return bytes(value) if isinstance(value, bytes) and not isinstance(value, Broken) else None


_OF: dict[str, Callable[[Column, Any, Any], Any]] = {
    **dict.fromkeys(("smallint", "integer", "bigint"), _integer),
    **dict.fromkeys(("text", "varchar", "char", "enum"), _text),
    **dict.fromkeys(("json", "jsonb"), _document),
    **dict.fromkeys(("timestamptz", "timestamp"), _instant),
    "double precision": _float,
    "numeric": _numeric,
    "boolean": _boolean,
    "uuid": _uuid,
    "date": _date,
    "time": _time,
    "bytea": _bytes,
}


def _jsonb(connection: psycopg.Connection, text: str) -> str:
    try:
        with connection.transaction():
            row = connection.execute("SELECT %s::text::jsonb::text", [text]).fetchone()
    except psycopg.Error:
        raise NoSuchValue(f"{text!r} is no JSON") from None
    assert row is not None
    return str(row[0])


# --- the target ---------------------------------------------------------------------------------------------------------

_READ = {
    "timestamptz": "(extract(epoch FROM {}) * 1000000)::numeric(30, 0)",
    "timestamp": "(extract(epoch FROM {}) * 1000000)::numeric(30, 0)",
    "time": "(extract(epoch FROM {}) * 1000000)::numeric(30, 0)",
    "date": "{} - date '2000-01-01'",
    "json": "{}::text",
    "jsonb": "{}::text",
    "enum": "{}::text",
}


def _found(column: Column, value: Any) -> Any:
    base = column.kind.base
    if value is None:
        return None
    if base == "double precision":
        return struct.pack(">d", value)
    if base in ("timestamptz", "timestamp"):
        return int(value) - 946_684_800_000_000
    return int(value) if base == "time" else value
