"""The result of an assessment: findings with stable codes, and the meaning of each code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import yaml

from include.cutover.errors import CannotCheck
from include.cutover.masking import mask

Severity = Literal["blocks", "decision applied", "note"]

SEVERITIES: tuple[Severity, ...] = ("blocks", "decision applied", "note")
KEYS_SHOWN = 5
CHARACTERS_SHOWN = 80

_FORMAT = 1
_READ_CHARACTERS = 4_000  # of a value, before it is masked and shortened


class Meaning(NamedTuple):
    """The meaning of a code in one line, and what to do where the plan cannot decide it."""

    title: str
    do: str = ""


_CORRECT = "Correct the rows in the source."
_SAY = "Name its replacement under source_objects in the plan."

CODES: Mapping[str, Meaning] = {
    # values
    "text_in_number": Meaning("Text in a numeric column", _CORRECT),
    "blob_in_number": Meaning("Bytes in a numeric column", _CORRECT),
    "real_in_integer": Meaning("A number with a fraction in an integer column", _CORRECT),
    "out_of_range": Meaning("Numbers outside the range of the target's type", "Widen the target's type."),
    "key_out_of_range": Meaning("Keys outside the range of the target's key", "Make the target's key bigint."),
    "inexact_number": Meaning("Numbers that the target's precision cannot hold exactly", "Widen the target's type."),
    "infinite_in_numeric": Meaning("Infinity in a numeric column", "Use double precision instead."),
    "infinity": Meaning("Infinity, carried over unchanged"),
    "empty_text": Meaning("Empty string in a non-text column", _CORRECT),
    "text_too_long": Meaning("Text longer than the target's column", "Widen the target's column, or correct the rows."),
    "text_too_short": Meaning("Text shorter than the target's char(n)", "Use varchar(n) in the target."),
    "long_in_index": Meaning("Values that may be too long for an index of the target"),
    "nul_in_text": Meaning("NUL characters in text", _CORRECT),
    "nul_in_json": Meaning("NUL characters (\\u0000) in JSON", _CORRECT),
    "not_utf8": Meaning("Bytes that are not valid text in the database's encoding", _CORRECT),
    "blob_in_text": Meaning("Bytes in a text column", "Use bytea, or correct the rows."),
    "number_in_text": Meaning("Numbers in a text column", _CORRECT),
    "text_in_blob": Meaning("Text or numbers in a bytea column", "Use text, or correct the rows."),
    "invalid_json": Meaning("Text that is not valid jsonb", _CORRECT),
    "duplicate_json_keys": Meaning("JSON objects with a repeated key: jsonb keeps the last"),
    "not_a_datetime": Meaning("Values that are not a date and time", _CORRECT),
    "fraction_too_long": Meaning("Fractions of a second finer than a microsecond", _CORRECT),
    "number_in_datetime": Meaning("Numbers in a date and time column", _CORRECT),
    "not_boolean": Meaning("Values other than 0 and 1 in a boolean column", _CORRECT),
    "not_uuid": Meaning("Text that is not a UUID", _CORRECT),
    "damaged_at_source": Meaning(
        "Damaged in the source: SQLite turned a UUID or JSON text into a number",
        "Find the original value elsewhere and write it into a column of type TEXT; it cannot be computed.",
    ),
    "not_in_enum": Meaning("Values that are not a label of the target's enumeration", "Add the label, or correct the rows."),
    "null_in_not_null": Meaning("NULL in a column that is NOT NULL in the target", "Drop NOT NULL, or correct the rows."),
    "check_violated": Meaning("Rows that violate a CHECK of the target", "Correct the rows, or the CHECK."),
    "unprovable_value": Meaning("Values whose equality in the target cannot be proved", _CORRECT),
    # rows among each other
    "duplicate_key": Meaning("Rows that are the same under a unique key of the target", _CORRECT),
    "orphans": Meaning("Rows whose foreign key refers to a missing row", _CORRECT),
    "orphans_that_follow": Meaning("Rows that become orphans when the rows that they refer to move to quarantine", _CORRECT),
    # tables and columns
    "table_unknown": Meaning("A table of the source that is not in the plan", "Add it to the plan and its SQL."),
    "table_missing": Meaning("A table of the plan that is not in the source", "Remove it from the plan, or find the cause."),
    "table_not_made": Meaning("A table of the plan that its SQL does not create", "Add it to the plan's SQL."),
    "table_stays_empty": Meaning("A table of the target that is not in the plan: it stays empty"),
    "table_ignored": Meaning("A table that is not copied, as the plan says"),
    "table_virtual": Meaning(
        "A virtual table, whose content is stored elsewhere", "Add it to ignored_tables with the reason."
    ),
    "column_unknown": Meaning(
        "A column of the source that the target does not have, or computes itself", "Add it to the plan's SQL."
    ),
    "column_missing": Meaning("A column of the target that the source does not have", "Add it in a later migration."),
    "trigger_in_the_way": Meaning(
        "A trigger of the target that would change or drop rows during the copy",
        "Create it after the copy, in post_data.",
    ),
    "type_without_way": Meaning("A type of the target that cannot hold the values unchanged", "Change the plan's SQL."),
    "decision_misfit": Meaning("A decision of the plan that can never be carried out", "Correct the plan."),
    "decision_fails": Meaning(
        "A decision of the plan that cannot be carried out on these rows", "Correct the rows in the source, or the decision."
    ),
    "decision_unused": Meaning("A decision of the plan that no row needs"),
    # sequences
    "sequence_ahead": Meaning("AUTOINCREMENT is ahead of the greatest key; the target's sequence continues from there"),
    "sequence_out_of_range": Meaning("The next key is outside the range of the target's key", "Make the key bigint."),
    "sequence_missing": Meaning(
        "The source generates keys and the target's column has no sequence", "Declare it GENERATED … AS IDENTITY."
    ),
    "sequence_unfit": Meaning(
        "A sequence of the target that cannot be set past the keys", "Use an ascending sequence on an integer column."
    ),
    # objects that the target lacks or defines differently
    "view": Meaning("A view of the source", _SAY),
    "trigger": Meaning("A trigger of the source", _SAY),
    "generated_column": Meaning("A generated column of the source", _SAY),
    "partial_index": Meaning("A partial index of the source", _SAY),
    "expression_index": Meaning("An index on expressions", _SAY),
    "unique_key": Meaning("A unique key of the source that the target does not have", _SAY),
    "collation": Meaning("A collation of the source", _SAY),
    "check": Meaning("A CHECK of the source", _SAY),
    "default": Meaning("A default of the source that differs in the target", _SAY),
    # not assessed
    "check_not_assessed": Meaning("A CHECK of the target that only the copy verifies"),
    "key_not_assessed": Meaning("A unique key of the target that only the copy verifies"),
    "orphans_not_assessed": Meaning("A foreign key of the target that could not be verified in the source"),
}


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        code: One of ``CODES``; stable.
        severity: ``blocks``: the cutover must not start. ``decision applied``: the plan decides it. ``note``: information.
        table: Name of the table; empty where the finding is not about a table.
        column: Name of the column; several are joined by commas; empty where the finding is about the whole table.
        rows: Number of rows concerned; 0 where the finding is not about rows.
        keys: The first of these rows, by key.
        value: The class of the values, or the object concerned. Never content.
        example: One of the values, shortened; empty where the plan marks the column as secret.
        becomes: The result in the target.
        decide: YAML lines that decide the finding when they are added to the plan; empty where the plan cannot decide it.
    """

    code: str
    severity: Severity
    table: str = ""
    column: str = ""
    rows: int = 0
    keys: tuple[str, ...] = ()
    value: str = ""
    example: str = ""
    becomes: str = ""
    decide: str = ""

    @property
    def title(self) -> str:
        """The meaning of the code."""
        return CODES[self.code].title

    @property
    def do(self) -> str:
        """The action where the plan does not decide it."""
        return CODES[self.code].do if self.severity == "blocks" or self.decide else ""

    @property
    def where(self) -> str:
        """``table.column``, the table, or nothing."""
        return ".".join(part for part in (self.table, self.column) if part)

    def __str__(self) -> str:
        rows = f"{self.rows} row{'s' if self.rows != 1 else ''}, " if self.rows else ""
        keys = f" ({'; '.join(self.keys)})" if self.keys else ""
        where = f"{self.where}: " if self.where else ""
        return f"{self.severity}: {where}{self.title}: {rows}{self.value}{keys}".removesuffix(": ")

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for evidence and reports."""
        return {**asdict(self), "keys": list(self.keys), "title": self.title, "do": self.do}


@dataclass(frozen=True)
class Assessment:
    """The result of an assessment.

    Attributes:
        plan: Name of the plan.
        source: Name of the file, without its folder.
        findings: The blocking ones first, then by table and column.
        tables: Number of rows of every table that was read, by name.
        seconds: Duration.
    """

    plan: str
    source: str
    findings: tuple[Finding, ...]
    tables: Mapping[str, int]
    seconds: float

    @property
    def blocks(self) -> tuple[Finding, ...]:
        """The blocking findings; without any the cutover may start."""
        return self.of("blocks")

    @property
    def rows(self) -> int:
        """Number of rows of all tables."""
        return sum(self.tables.values())

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_json(self, *, ascii_only: bool = False) -> str:
        """Return the whole assessment as JSON text; ``from_json`` reads it back."""
        return json.dumps(
            {
                "format": _FORMAT,
                "plan": self.plan,
                "source": self.source,
                "blocks": len(self.blocks),
                "decided": len(self.of("decision applied")),
                "notes": len(self.of("note")),
                "rows": self.rows,
                "seconds": round(self.seconds, 3),
                "tables": dict(self.tables),
                "findings": [finding.as_dict() for finding in self.findings],
            },
            ensure_ascii=ascii_only,
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Assessment:
        """Read the assessment that ``to_json`` wrote.

        Raises:
            CannotCheck: When the text is something else.
        """
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise ValueError
            findings = tuple(_finding(item) for item in content["findings"])
            tables = {str(name): int(rows) for name, rows in content["tables"].items()}
            return cls(str(content["plan"]), str(content["source"]), findings, tables, float(content["seconds"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CannotCheck("the text is not an assessment of this version", do="Assess the source again.") from None


def _finding(item: dict[str, Any]) -> Finding:
    if item["code"] not in CODES or item["severity"] not in SEVERITIES:
        raise ValueError
    known = {name: item[name] for name in Finding.__dataclass_fields__}
    return Finding(**{**known, "keys": tuple(item["keys"])})


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return the findings in the order of display: the blocking ones first, then by table, column and code."""
    return tuple(
        sorted(findings, key=lambda item: (SEVERITIES.index(item.severity), item.table, item.column, item.code, item.value))
    )


def lines(content: Mapping[str, Any], comment: str = "") -> str:
    """Return YAML for the plan, with a comment above it."""
    text = str(yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=110)).rstrip("\n")
    return f"# {comment}\n{text}" if comment else text


def column_lines(table: str, column: str, decision: Mapping[str, Any], comment: str = "") -> str:
    """Return the YAML lines of a decision about the values of a column.

    Args:
        table: Name of the table.
        column: Name of the column.
        decision: Keys and values of the decision.
        comment: A line above it.
    """
    return lines({"tables": {table: {"columns": {column: dict(decision)}}}}, comment)


def cut(text: str) -> str:
    """Return content as it may be shown: one line, at most 80 characters, masked."""
    masked = mask(text[:_READ_CHARACTERS])[: CHARACTERS_SHOWN + 1]
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in masked)
    return f"{shown[: CHARACTERS_SHOWN - 1]}…" if len(shown) > CHARACTERS_SHOWN else shown
