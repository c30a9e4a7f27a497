"""Computes, in Python, what the plan's decisions make of a value; the audit compares the decided snapshot with it.

It shares no code with the SQL that made the snapshot.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

from include.cutover.decisions import decided_snapshot
from include.cutover.plan.tables import ColumnDecision
from include.cutover.proof.canonical import INTEGERS

Cell = tuple[str, Any]  # storage class, and the value: text as its bytes

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  the text that is made has no offset
_JULIAN_EPOCH = Decimal("2440587.5")


@dataclass(frozen=True)
class ColumnRule:
    """The decisions about one column, as a function from the original cell to the decided one.

    Attributes:
        decision: The plan's.
        type: Base type of the column in the target.
        encoding: Of the database's text.
    """

    decision: ColumnDecision
    type: str
    encoding: str

    def __call__(self, cell: Cell) -> Cell:
        """Return the cell that the decisions make of the original one."""
        kind, value = cell
        decision = self.decision
        if decision.encoding is not None and (kind == "blob" or (kind == "text" and not self._valid(value))):
            kind, value = "text", self._bytes(_in_either(value, decision.encoding))
        if decision.strip_nul and kind == "text":
            value = self._bytes(_without_nul(self._text(value), json_escapes=self.type in ("json", "jsonb")))
        if decision.empty_as_null and (kind, value) == ("text", b""):
            return "null", None
        if decision.datetime in ("unix", "unix_ms", "julian"):
            number = self._number(kind, value)
            if number is not None:
                return "text", self._bytes(_moment(number, decision.datetime, self.type))
        if decision.boolean is not None and not (kind == "integer" and value in (0, 1)):
            for word, means in decision.boolean.items():
                if self._spells(kind, value, word):
                    return "integer", int(means)
        return kind, value

    def _text(self, value: bytes) -> str:
        return decided_snapshot.decoded(value, self.encoding)

    def _bytes(self, text: str) -> bytes:
        return decided_snapshot.encoded(text, self.encoding)

    def _valid(self, value: bytes) -> bool:
        return self.encoding != "utf-8" or value.decode("utf-8", "ignore").encode() == value

    def _number(self, kind: str, value: Any) -> Decimal | None:
        if kind in ("integer", "real"):
            return Decimal(value)
        text = self._text(value) if kind == "text" else ""
        return Decimal(text) if _NUMBER.fullmatch(text) else None

    def _spells(self, kind: str, value: Any, word: str) -> bool:
        if kind == "text":
            return self._text(value) == word
        if kind == "integer":
            return str(value) == word
        try:
            # SQLite may print other digits; reals differ from integers by the point or the exponent.
            return kind == "real" and float(word) == value and not word.lstrip("-").isdigit()
        except ValueError:
            return False


def _in_either(value: bytes, encoding: str) -> str:
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(value, True)
    except UnicodeDecodeError:
        return codecs.lookup(encoding).decode(value, "replace")[0]


def _without_nul(text: str, *, json_escapes: bool) -> str:
    text = "".join(text.split("\0"))
    if not json_escapes:
        return text
    kept, position = [], 0
    while (found := text.find("\\", position)) >= 0:
        kept.append(text[position:found])
        if text[found + 1 : found + 6] == "u0000":
            position = found + 6
        else:
            kept.append(text[found : found + 2])
            position = found + 2
    return "".join([*kept, text[position:]])


def _moment(number: Decimal, unit: str, target: str) -> str:
    with localcontext() as context:
        context.prec = 500
        if unit == "julian":
            step, size = (number - _JULIAN_EPOCH) * 86_400_000, 1_000
        else:
            step, size = number * (1_000_000 if unit == "unix" else 1_000), 1
        try:
            moment = _EPOCH + timedelta(microseconds=int(step.to_integral_value(ROUND_HALF_EVEN)) * size)
        except (OverflowError, ArithmeticError, ValueError):
            return ""
    if target == "date":
        return moment.strftime("%Y-%m-%d").rjust(10, "0") if moment.time().isoformat() == "00:00:00" else ""
    return moment.isoformat(" ", "microseconds")


def comparable(kind: str, value: Any, types: Iterable[str]) -> Any:
    """Return a value as it compares with the other end of a foreign key: uuids however spelled, numbers however stored.

    Args:
        kind: Storage class of the value.
        value: The value.
        types: Base types of both ends in the target.
    """
    if kind == "null":
        return None
    if "uuid" in types:
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        return "uuid", re.sub(r"[-{}]", "", text).lower()
    if kind == "text" and set(types) & INTEGERS and _NUMBER.fullmatch(value.decode("utf-8", "replace")):
        return "number", Decimal(value.decode())
    return ("number", Decimal(value)) if kind in ("integer", "real") else (kind, value)
