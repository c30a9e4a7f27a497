"""Judges single values: whether each can be carried over, with or without a decision, and the code of the finding if not.

This is the exact check of values that the fast conditions do not accept. It uses the copy's own conversion and the proof's
own canonical form, so that a value that passes here passes there, and adds the checks that only PostgreSQL itself makes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import apsw

from include.cutover.assessment import moments
from include.cutover.assessment.columns import INTEGERS, TEXTS, TIMES, AssessedColumn, type_name
from include.cutover.assessment.findings import Severity, cut
from include.cutover.assessment.json_text import json_fault
from include.cutover.copying.conversion import NotConvertible
from include.cutover.proof import canonical


class Text(bytes):
    """The bytes of a value that SQLite calls text."""


_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(frozen=True)
class Verdict:
    """A finding about one value.

    Attributes:
        code: Code of the finding.
        severity: Severity of the finding.
        value: Class of the value.
        example: Content of the value, shortened; empty in a secret column.
        becomes: Its result in the target, or why there is none.
        length: Length in characters, where a limit was exceeded.
        meanings: Possible meanings of a number in a date column.
        word: A value of a boolean column as a plan would name it; empty where that cannot be shown. May be a secret.
    """

    code: str
    severity: Severity
    value: str
    example: str = ""
    becomes: str = ""
    length: int = 0
    meanings: frozenset[str] = field(default_factory=frozenset)
    word: str = ""


class ValueJudge:
    """Judges the values of one column.

    Args:
        column: The column.
        encoding: Encoding of the database, as Python names it.
    """

    def __init__(self, column: AssessedColumn, encoding: str) -> None:
        self._column = column
        self._encoding = encoding
        self._base = column.target.base
        self._connection = apsw.Connection(":memory:")
        canonical.prepare(self._connection)
        self._in_source = canonical.of_column("x", type_name(column.target)).in_source

    def __call__(self, cell: Any) -> tuple[Verdict, ...]:
        """Return the findings about a value, in the order in which decisions apply; empty for a valid value."""
        if cell is None:
            refused = "refused by the target's NOT NULL"
            return (Verdict("null_in_not_null", "blocks", "NULL", "", refused),) if self._column.target.not_null else ()
        verdicts: list[Verdict] = []
        value = cell
        for look in (self._read, self._without_nul, self._without_emptiness, self._moment, self._boolean):
            value = look(value, verdicts)
            if value is None or _stopped(verdicts):
                break
        else:
            verdicts += self._objections(value)
        if self._column.is_fixed:
            verdicts = [_refused(item) if item.severity == "decision applied" else item for item in verdicts]
        return tuple(verdicts)

    # --- decisions, in the order in which they are carried out; None ends the judgement

    def _read(self, value: Any, verdicts: list[Verdict]) -> Any:
        if isinstance(value, Text):
            try:
                return value.decode(self._encoding)
            except UnicodeDecodeError:
                code, kind = "not_utf8", f"text that is not {self._encoding.upper()}"
        elif isinstance(value, bytes) and (self._base in TEXTS or self._column.is_json or self._column.target.is_enum):
            code, kind = "blob_in_text", "blob"
        else:
            return value
        shown = value.decode(self._encoding, "backslashreplace")
        wanted = self._column.decision.encoding if self._column.decision else None
        if wanted is None:
            why = "nothing: it is not text in this encoding"
            self._add(verdicts, code, "blocks", kind, shown, why, meanings=_readable_as(value))
            return None
        for name in ("utf-8", wanted):
            try:
                text = value.decode(name)
                text.encode()  # some encodings give half surrogate pairs
            except UnicodeError:
                continue
            self._add(verdicts, code, "decision applied", kind, shown, f"read as {name}", text)
            return text
        self._add(verdicts, code, "blocks", kind, shown, f"nothing: it is not {wanted} either")
        return None

    def _without_nul(self, value: Any, verdicts: list[Verdict]) -> Any:
        if not isinstance(value, str):
            return value
        code, text = "nul_in_text", value.replace("\0", "")
        if self._column.is_json:
            text = _ESCAPED_NUL.sub(r"\1", text)
            code = "nul_in_text" if "\0" in value else "nul_in_json"
        if text == value:
            return value
        allowed = self._column.decision is not None and self._column.decision.strip_nul
        if not allowed:
            self._add(verdicts, code, "blocks", "text", value, "nothing: PostgreSQL has no NUL character")
            return value
        self._add(verdicts, code, "decision applied", "text", value, "without its NUL characters", text)
        return text

    def _without_emptiness(self, value: Any, verdicts: list[Verdict]) -> Any:
        if value != "" or self._base in TEXTS:
            return value
        target = self._column.target
        not_null = "the target's" if target.not_null else "the source's" if self._column.source.not_null else ""
        if self._column.decision is None or not self._column.decision.empty_as_null:
            self._add(verdicts, "empty_text", "blocks", "empty text", "", f"nothing: it is not a value of {target.type}")
        elif not_null:
            self._add(verdicts, "empty_text", "blocks", "empty text", "", f"NULL, refused by {not_null} NOT NULL")
        else:
            self._add(verdicts, "empty_text", "decision applied", "empty text", "", "NULL")
        return None

    def _moment(self, value: Any, verdicts: list[Verdict]) -> Any:
        in_text = isinstance(value, str) and moments.is_number(value)
        if self._base not in TIMES or not (in_text or isinstance(value, int | float)):
            return value
        kind = "number as text" if in_text else "integer" if isinstance(value, int) else "real"
        meaning = self._column.decision.datetime if self._column.decision else None
        if meaning is None or meaning == "iso" or self._base == "time":
            meanings = frozenset() if self._base == "time" else moments.possible_meanings(value, self._base)
            possible = [
                f"{moments.moment(value, name, self._base)} as {name}" for name in moments.MEANINGS if name in meanings
            ]
            why = "unknown: it may be " + " or ".join(possible) if possible else "unknown: not a usual count of time"
            why = "unknown" if self._column.secret else why
            self._add(verdicts, "number_in_datetime", "blocks", kind, str(value), why, meanings=meanings)
            return None
        text = moments.moment(value, meaning, self._base)
        if text is None:
            why = f"nothing: as {meaning}, it is not a {self._column.target.type} of the years 1 to 9999"
            self._add(verdicts, "number_in_datetime", "blocks", kind, str(value), why)
            return None
        self._add(verdicts, "number_in_datetime", "decision applied", kind, str(value), f"read as {meaning}", text)
        return text

    def _boolean(self, value: Any, verdicts: list[Verdict]) -> Any:
        if self._base != "bool" or (isinstance(value, int) and value in (0, 1)):
            return value
        kind = _kind(value)
        decided = (self._column.decision.boolean if self._column.decision else None) or {}
        text = str(self._connection.execute("SELECT CAST(? AS TEXT)", (value,)).get) if kind != "blob" else ""
        if kind == "blob" or text not in decided:
            self._add(verdicts, "not_boolean", "blocks", kind, text, "nothing: only 0 and 1 are booleans")
            if self._column.secret or cut(text) == text:
                verdicts[-1] = replace(verdicts[-1], word=text)
            return None
        if self._column.makes_reals:
            why = f"nothing: a column declared {self._column.source.declared_type} cannot hold integers"
            self._add(verdicts, "not_boolean", "blocks", kind, text, why)
            return None
        truth = decided[text]
        self._add(verdicts, "not_boolean", "decision applied", kind, text, "true" if truth else "false")
        return int(truth)

    def _add(
        self,
        verdicts: list[Verdict],
        code: str,
        severity: Severity,
        value: str,
        example: str,
        becomes: str,
        result: str | None = None,
        *,
        meanings: frozenset[str] = frozenset(),
    ) -> None:
        if self._column.secret:
            example = ""
        elif result is not None:
            becomes = f"{becomes}: {cut(result)}"
        verdicts.append(Verdict(code, severity, value, cut(example), becomes, 0, meanings))

    # --- objections to the decided value

    def _objections(self, value: Any) -> list[Verdict]:
        """Return why the value, after all decisions, cannot be carried over, and notes about it."""
        kind = _kind(value)
        if kind == "real" and math.isinf(value):
            kind = "infinite real"
        if isinstance(value, str) and not value:
            kind = "empty text"
        example = "" if self._column.secret else cut(_content(value))
        found: list[Verdict] = []

        def object_(code: str, becomes: str, severity: Severity = "blocks", length: int = 0) -> list[Verdict]:
            found.append(Verdict(code, severity, kind, example, becomes, length))
            return found

        try:
            self._column.conversion.exact(value)
        except NotConvertible as wrong:
            code, length = self._named(kind, value)
            return object_(code, f"nothing: the target takes {wrong.expected}", length=length)
        if self._base == "numeric":
            limit = self._digits_before_the_point()
            if limit is not None and abs(Fraction(value)) >= Fraction(10) ** limit:
                return object_("out_of_range", f"nothing: {self._column.target.type} ends below 10^{limit}")
        elif self._base in TIMES:
            if not moments.exists(value, self._base):
                return object_("not_a_datetime", "nothing: this day or hour does not exist")
        elif self._column.target.is_enum:
            if value not in self._column.labels:
                return object_("not_in_enum", f"nothing: the labels are {cut(', '.join(self._column.labels))}")
        elif self._column.is_json:
            fault, twice = json_fault(value)
            if fault:
                return object_("invalid_json", f"nothing: {fault}")
            if twice and self._base == "jsonb":
                object_("duplicate_json_keys", "the last of equal keys", "note")
        elif kind == "infinite real":
            return object_("infinity", "infinity, unchanged", "note")
        limit = self._column.index_limit
        if limit is not None and len(value.encode() if isinstance(value, str) else value) > limit:
            object_("long_in_index", "refused by the index, unless it compresses well", "note", len(value))
        if not self._provable(value):
            return object_("unprovable_value", "a value that the proof of equal content cannot compare")
        return found

    def _named(self, kind: str, value: Any) -> tuple[str, int]:
        """Return the code of a value that the copy refuses, and its length where that is the reason."""
        base = self._base
        if base in INTEGERS or base in ("float8", "numeric"):
            if kind in ("text", "empty text"):
                return "text_in_number", 0
            if kind == "blob":
                return "blob_in_number", 0
            if base not in INTEGERS:
                return ("infinite_in_numeric" if kind == "infinite real" else "inexact_number"), 0
            if kind == "integer":
                return ("key_out_of_range" if self._column.is_key else "out_of_range"), 0
            return "real_in_integer", 0
        if base == "bytea":
            return "text_in_blob", 0
        if kind == "blob":
            return ("not_a_datetime" if base in TIMES else "blob_in_text"), 0
        if kind in ("integer", "real", "infinite real"):
            return ("damaged_at_source" if base == "uuid" or self._column.is_json else "number_in_text"), 0
        if base == "uuid":
            return "not_uuid", 0
        if base in TIMES:
            fraction = re.search(r"\.\d{7,}", value)
            return ("fraction_too_long" if fraction else "not_a_datetime"), 0
        longest = self._column.target.modifier - 4
        return ("text_too_short" if len(value) < longest else "text_too_long"), len(value)

    def _digits_before_the_point(self) -> int | None:
        modifier = self._column.target.modifier - 4
        return None if modifier < 0 else (modifier >> 16 & 0xFFFF) - (((modifier & 0x7FF) ^ 1024) - 1024)

    def _provable(self, value: Any) -> bool:
        text = self._connection.execute(f"SELECT {self._in_source} FROM (SELECT ? AS x)", (value,)).get  # noqa: S608
        return not str(text).startswith("!")


def _kind(value: Any) -> str:
    return {int: "integer", float: "real", str: "text"}.get(type(value), "blob")


def _readable_as(data: bytes) -> frozenset[str]:
    try:
        data.decode()
    except UnicodeDecodeError:
        return frozenset()
    return frozenset({"utf-8"})


def _refused(verdict: Verdict) -> Verdict:
    why = "nothing: no decision changes the key of a table WITHOUT ROWID"
    return replace(verdict, severity="blocks", becomes=why)


def _stopped(verdicts: list[Verdict]) -> bool:
    return bool(verdicts) and verdicts[-1].severity == "blocks"


def _content(value: Any) -> str:
    return f"x'{value[:40].hex()}'" if isinstance(value, bytes) else str(value)
