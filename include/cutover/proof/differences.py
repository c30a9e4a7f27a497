"""Describes the differences between two rows: the column, the kind of difference, and both values.

Values come as canonical text and are shown as a person reads them, except that nothing in them can be mistaken: letters that
look like others are named by their code points, blanks and control characters are visible.
"""

from __future__ import annotations

import heapq
import itertools
import json
import struct
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from include.cutover.masking import mask
from include.cutover.proof import canonical
from include.cutover.proof.canonical import Canonical
from include.cutover.proof.words import HIDDEN
from include.cutover.source import schema as source_schema

NAMED = 20  # differences of each kind that are named one by one
_SHOWN = 80
_PAIRED = 100  # rows without a key that may be the same row, changed
_NULL = canonical.NULL.encode()

Kind = Literal["missing", "extra", "changed"]


@dataclass(frozen=True)
class ColumnDifference:
    """A column whose two values are not the same.

    Attributes:
        kind: The kind of difference, e.g. ``shifted by 4:00:00``.
        source: The source's value for a person; ``***`` where the column is secret.
        target: The target's.
    """

    column: str
    kind: str
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.column}: {self.kind} ({self.source} became {self.target})"


@dataclass(frozen=True)
class RowDifference:
    """A row that is not the same on both sides.

    Attributes:
        kind: ``missing`` in the target, ``extra`` there, or ``changed``.
        key: The key for a person, e.g. ``id=5``.
        columns: For a changed row, the columns that differ.
        note: Further facts, e.g. that its values are another row's.
    """

    table: str
    kind: Kind
    key: str
    columns: tuple[ColumnDifference, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        words = {
            "missing": "missing in the target",
            "extra": "only in the target",
            "changed": "; ".join(map(str, self.columns)),
        }
        return f"{self.table}, {self.key}: {words[self.kind]}" + (f" ({self.note})" if self.note else "")


def name_of_key(key: Sequence[Canonical], text: bytes, secret: Collection[str]) -> str:
    """Return the key of a row for a person, from the canonical text of its columns."""
    values = split(text, key)
    shown = [HIDDEN if column.column in secret else _bare(column, value) for column, value in zip(key, values, strict=True)]
    return mask(source_schema.key_text([column.column for column in key], shown))


def split(text: bytes, columns: Sequence[Canonical]) -> list[bytes]:
    """Split a row's canonical text at its columns again."""
    values, at = [], 0
    for column in columns:
        end = text.find(canonical.BETWEEN_COLUMNS.encode(), at)
        if column.has_length and text[at : at + 1].isdigit():
            colon = text.index(b":", at)
            end = colon + 1 + int(text[at:colon])
        values.append(text[at:] if end < 0 else text[at:end])
        at = len(text) if end < 0 else end + 1
    return values


def between(
    columns: Sequence[Canonical], ours: Sequence[bytes], theirs: Sequence[bytes], secret: Collection[str]
) -> tuple[ColumnDifference, ...]:
    """Compare two rows, each given as the canonical texts of its columns.

    Args:
        columns: Of the table.
        ours: The source's row.
        theirs: The target's row.
        secret: Columns whose content is never shown.
    """
    return tuple(
        ColumnDifference(column.column, "differs", HIDDEN, HIDDEN)
        if column.column in secret
        else ColumnDifference(column.column, kind_of(column, left, right), shown(column, left), shown(column, right))
        for column, left, right in zip(columns, ours, theirs, strict=True)
        if left != right
    )


# --- the rows of both sides -----------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """The rows that differ: all counted, the first of each kind named."""

    missing: int = 0
    extra: int = 0
    changed: int = 0
    named: list[RowDifference] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All of them."""
        return self.missing + self.extra + self.changed

    def add(self, difference: RowDifference, times: int = 1) -> None:
        """Count a difference, and keep it while there is room for its kind."""
        setattr(self, difference.kind, getattr(self, difference.kind) + times)
        if sum(one.kind == difference.kind for one in self.named) < NAMED:
            self.named.append(difference)


Row = tuple[bytes, ...]


def tally(
    found: Tally,
    table: str,
    columns: Sequence[Canonical],
    key: Sequence[Canonical],
    ours: Iterable[Row],
    theirs: Iterable[Row],
    secret: Collection[str] = (),
    order: Callable[[bytes], Any] = bytes,
) -> None:
    """Add the differences between the rows of both sides, each given as its key and its columns, sorted by the key.

    Rows without a key are a multiset. One that is missing and one that is extra are reported as one changed row when
    most of their columns agree.

    Args:
        found: The differences so far; those of these rows are added.
        table: Its name.
        columns: Its columns, in the order of the rows' cells.
        key: Those that name a row; empty where there is no key.
        ours: The source's rows.
        theirs: The target's rows.
        secret: Columns whose content is never shown.
        order: Makes the sort key of the rows from their key.
    """
    name = _Names(table, tuple(columns), tuple(key), frozenset(secret))
    lost: list[Row] = []
    strange: list[Row] = []
    for text, balance in _unequal(ours, theirs, order):
        here, there = +balance, -balance
        if key:
            pairs = list(zip(here.elements(), there.elements(), strict=False))
            for left, right in pairs:
                found.add(name.changed(name.of_key(text), left, right))
            here, there = here - Counter(left for left, _ in pairs), there - Counter(right for _, right in pairs)
        elif len(lost) + here.total() <= _PAIRED and len(strange) + there.total() <= _PAIRED:
            lost += here.elements()
            strange += there.elements()
            continue
        for row, count in here.items():
            found.add(RowDifference(table, "missing", name.of(text, row)), count)
        for row, count in there.items():
            found.add(RowDifference(table, "extra", name.of(text, row)), count)
    for left in lost:
        nearest = _nearest(left, strange)
        if nearest is None:
            found.add(RowDifference(table, "missing", name.of(b"", left)))
        else:
            strange.remove(nearest)
            found.add(name.changed(name.of(b"", left), left, nearest))
    for row in strange:
        found.add(RowDifference(table, "extra", name.of(b"", row)))
    found.named = [replace(one, note=name.notes.get(one.key, "")) if one.table == table else one for one in found.named]


def _unequal(
    ours: Iterable[Row], theirs: Iterable[Row], order: Callable[[bytes], Any]
) -> Iterator[tuple[bytes, Counter[Row]]]:
    """Return keys whose rows are not the same on both sides, with how many more of each row the source has."""
    merged = heapq.merge(_of_side(ours, 1, order), _of_side(theirs, -1, order), key=lambda item: item[0])
    for _, group in itertools.groupby(merged, key=lambda item: item[0]):
        text, balance = b"", Counter[Row]()
        for _, side, row in group:
            text = row[0]
            balance[row[1:]] += side
        if any(balance.values()):
            yield text, balance


def _of_side(rows: Iterable[Row], side: int, order: Callable[[bytes], Any]) -> Iterator[tuple[Any, int, Row]]:
    return ((order(row[0]), side, row) for row in rows)


def _nearest(row: Row, others: Sequence[Row]) -> Row | None:
    """Return the row that differs in the fewest columns, and in no more than half of them."""
    by_distance = [(sum(left != right for left, right in zip(row, other, strict=True)), other) for other in others]
    distance, other = min(by_distance, key=lambda item: item[0], default=(len(row), row))
    return other if distance <= len(row) // 2 else None


class _Names:
    """Names rows for a person, and sees when two rows have each other's values."""

    def __init__(
        self, table: str, columns: tuple[Canonical, ...], key: tuple[Canonical, ...], secret: frozenset[str]
    ) -> None:
        self._table, self._columns, self._key, self._secret = table, columns, key, secret
        self._seen: dict[tuple[tuple[str, ...], Row, Row], str] = {}
        self.notes: dict[str, str] = {}

    def of_key(self, text: bytes) -> str:
        """Return the name of a row: its key."""
        return name_of_key(self._key, text, self._secret)

    def of(self, text: bytes, row: Row) -> str:
        """Return the name of a row: its key, or some of its columns where it has none."""
        if self._key:
            return self.of_key(text)
        cells = [
            (column, cell) for column, cell in zip(self._columns, row, strict=True) if column.column not in self._secret
        ]
        shown = source_schema.key_text([column.column for column, _ in cells[:4]], [_bare(*cell) for cell in cells[:4]])
        return f"a row without a key ({mask(shown)})"

    def changed(self, name: str, before: Row, after: Row) -> RowDifference:
        """Return the difference between two rows of one key."""
        cells = [cell for cell in zip(self._columns, before, after, strict=True) if cell[1] != cell[2]]
        names = tuple(column.column for column, _, _ in cells)
        own, other = tuple(cell for _, cell, _ in cells), tuple(cell for _, _, cell in cells)
        partner = self._seen.get((names, other, own))
        if partner is not None and max(map(len, own)) > 2:
            self.notes[name], self.notes[partner] = f"swapped with {partner}", f"swapped with {name}"
        if len(self._seen) < 10_000:
            self._seen[names, own, other] = name
        return RowDifference(self._table, "changed", name, between(self._columns, before, after, self._secret))


# --- values for a person ------------------------------------------------------------------------------------------------


def shown(column: Canonical, text: bytes) -> str:
    """Return a value for a person: NULL, quoted text, a number, a date."""
    value = _value(column, text)
    if value is None:
        return "NULL"
    if isinstance(value, _Strange):
        return f"not a value of {column.type} ({value.word})"
    if isinstance(value, str):
        return mask(_quoted(value) if column.has_length else _cut(value))
    return _bare(column, text)


def _bare(column: Canonical, text: bytes) -> str:
    value = _value(column, text)
    if value is None:
        return "NULL"
    if isinstance(value, _Strange):
        return f"!{value.word}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ").replace("+00:00", "Z")
    if isinstance(value, bytes):
        return _cut("\\x" + value.hex())
    return _cut(str(value))


def _quoted(text: str) -> str:
    """Quote text, with everything escaped that is not a plain letter, digit or sign of its script."""
    seen = "".join(letter if letter.isprintable() and letter != "\\" else _escaped(letter) for letter in text[: _SHOWN + 1])
    return f"'{seen[:_SHOWN]}…'" if len(text) > _SHOWN else f"'{seen}'"


def _escaped(letter: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}.get(letter) or f"\\u{ord(letter):04x}"


def _cut(text: str) -> str:
    return f"{text[:_SHOWN]}…" if len(text) > _SHOWN else text


@dataclass(frozen=True)
class _Strange:
    """A value that the column's type cannot stand for."""

    word: str


def _value(column: Canonical, text: bytes) -> Any:
    """Return the value that a canonical text stands for."""
    if text == _NULL:
        return None
    if text.startswith(b"!"):
        return _Strange(text[1:].decode(errors="backslashreplace"))
    kind = canonical.base_type(column.type)
    if column.has_length:
        return text.split(b":", 1)[1].decode(errors="backslashreplace")
    plain = text.decode(errors="backslashreplace")
    try:
        if kind in canonical.INTEGERS:
            return int(plain)
        if kind in ("double precision", "real"):
            return struct.unpack(">d", bytes.fromhex(plain))[0]
        if kind == "numeric":
            return struct.unpack(">d", bytes.fromhex(plain[1:]))[0] if plain.startswith("x") else Decimal(plain)
        if kind == "boolean":
            return plain == "t"
        if kind.startswith("timestamp"):
            return _instant_of(struct.unpack(">q", bytes.fromhex(plain))[0])
        if kind.startswith("time"):
            return timedelta(microseconds=int(plain))
        if kind == "uuid":
            return UUID(plain)
        if kind == "bytea":
            return bytes.fromhex(plain)
    except (ValueError, ArithmeticError, struct.error):
        return plain
    return plain


def _instant_of(micros: int) -> datetime | _Strange:
    try:
        return canonical.EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        infinite = {2**63 - 1: "infinity", -(2**63): "-infinity"}
        return _Strange(infinite.get(micros, f"{micros} µs from the year 2000"))


# --- kinds of difference ------------------------------------------------------------------------------------------------


def kind_of(column: Canonical, ours: bytes, theirs: bytes) -> str:
    """Return the kind of difference between two canonical texts of a column."""
    before, after = _value(column, ours), _value(column, theirs)
    if isinstance(before, _Strange) or isinstance(after, _Strange):
        return f"the {'source' if isinstance(before, _Strange) else 'target'} holds a value that is not {column.type}"
    if before is None or after is None:
        if "" in (before, after):
            return "NULL and empty text"
        return f"NULL in the {'source' if before is None else 'target'}"
    if column.has_length:
        return _text(before, after)
    if canonical.base_type(column.type) == "jsonb":
        return _json(before, after)
    if isinstance(before, bool):
        return "inverted"
    if isinstance(before, int | float | Decimal) and isinstance(after, int | float | Decimal):
        return _number(before, after)
    if isinstance(before, datetime) and isinstance(after, datetime):
        return _instant(before - canonical.EPOCH, after - canonical.EPOCH)
    if isinstance(before, timedelta) and isinstance(after, timedelta):
        return _instant(before, after)
    if isinstance(before, UUID) and isinstance(after, UUID):
        return _one_bit(before.bytes, after.bytes) or "another uuid"
    if isinstance(before, bytes) and isinstance(after, bytes):
        return _one_bit(before, after) or _length(len(before), len(after), "byte") or "other bytes"
    return "differs"


def _text(before: str, after: str) -> str:
    if before.rstrip() == after.rstrip():
        return "trailing blanks"
    if before.strip() == after.strip():
        return "blanks at an end"
    if unicodedata.normalize("NFC", before) == unicodedata.normalize("NFC", after):
        return f"Unicode normalization ({_form(before)} became {_form(after)})"
    if after and before.startswith(after):
        return f"cut after {len(after)} of {len(before)} characters"
    if bit := _one_bit(before.encode(errors="surrogateescape"), after.encode(errors="surrogateescape")):
        return bit
    at = next((n for n, (left, right) in enumerate(zip(before, after, strict=False)) if left != right), None)
    if at is None:
        return _length(len(before), len(after), "character")
    names = [unicodedata.name(text[at], f"U+{ord(text[at]):04X}") for text in (before, after)]
    if len(before) == len(after) and names[0].split()[0] != names[1].split()[0]:
        return f"character {at + 1} is another: {names[0]} became {names[1]}"
    return "letter case" if before.casefold() == after.casefold() else f"differs from character {at + 1} on"


def _form(text: str) -> str:
    return next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, text)), "neither form")


def _one_bit(before: bytes, after: bytes) -> str:
    if len(before) != len(after):
        return ""
    flipped = [at for at, (left, right) in enumerate(zip(before, after, strict=True)) if left != right]
    if len(flipped) == 1 and (before[flipped[0]] ^ after[flipped[0]]).bit_count() == 1:
        return f"one bit of byte {flipped[0] + 1}"
    return ""


def _length(before: int, after: int, unit: str) -> str:
    if before == after:
        return ""
    more = abs(after - before)
    return f"{more} {unit}{'' if more == 1 else 's'} {'longer' if after > before else 'shorter'}"


def _number(before: float | Decimal, after: float | Decimal) -> str:
    if isinstance(before, float) or isinstance(after, float):
        left, right = float(before), float(after)
        if left == right:
            return "sign of zero" if left == 0 else "digits beyond double precision"
        apart = abs(_place(left) - _place(right))
        if apart <= 16:
            return f"{apart} ulp{'' if apart == 1 else 's'} (units in the last place)"
        if abs(left) < 3e38 and struct.unpack("f", struct.pack("f", left))[0] == right:
            return "cut to four bytes"
        return f"differs by {right - left:+.6g}"
    return f"differs by {after - before:+}"


def _place(value: float) -> int:
    """Return where a float8 stands among all of them."""
    bits = int(struct.unpack(">q", struct.pack(">d", value))[0])
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def _instant(before: timedelta, after: timedelta) -> str:
    for unit, name in ((timedelta(seconds=1), "seconds"), (timedelta(milliseconds=1), "milliseconds")):
        if before % unit and after == before - before % unit:
            return f"fraction cut to {name}"
    shift = after - before
    if abs(shift) < timedelta(seconds=1):
        return f"differs by {shift // timedelta(microseconds=1):+} µs"
    return f"shifted by {'-' if shift < timedelta() else '+'}{abs(shift)}"


def _json(before: str, after: str) -> str:
    try:
        documents = [json.loads(text, parse_float=Decimal, parse_int=Decimal) for text in (before, after)]
        return _inside(documents[0], documents[1], "$") or "another document"
    except (ValueError, ArithmeticError, RecursionError):
        return "another document"


def _inside(before: Any, after: Any, path: str) -> str:
    """Return where two documents differ first; empty where they do not."""
    if isinstance(before, dict) and isinstance(after, dict):
        if before.keys() != after.keys():
            return f"other keys at {path}"
        return next(filter(None, (_inside(before[key], after[key], f"{path}.{key}") for key in before)), "")
    if isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            return f"{len(before)} items became {len(after)} at {path}"
        pairs = enumerate(zip(before, after, strict=True))
        return next(filter(None, (_inside(left, right, f"{path}[{at}]") for at, (left, right) in pairs)), "")
    if isinstance(before, Decimal) and isinstance(after, Decimal) and before == after and str(before) != str(after):
        return f"other digits of the same number at {path}"
    return "" if type(before) is type(after) and before == after else f"another value at {path}"
