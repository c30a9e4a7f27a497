"""What an assessment says: findings with stable codes, and what each code means."""

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
_READ_CHARACTERS = 4_000  # of a value, before what looks like a secret is taken out of it and it is cut


class Meaning(NamedTuple):
    """What a code stands for, in one line, and what to do about it where the plan cannot decide it."""

    title: str
    do: str = ""


_CORRECT = "Correct the rows in the source."
_SAY = "Say under source_objects in the plan what became of it."

CODES: Mapping[str, Meaning] = {
    # values
    "text_in_number": Meaning("Text in a column that becomes a number", _CORRECT),
    "blob_in_number": Meaning("Bytes in a column that becomes a number", _CORRECT),
    "real_in_integer": Meaning("A number with a fraction in a column that becomes an integer", _CORRECT),
    "out_of_range": Meaning("Numbers beyond the target's range", "Widen the target's type."),
    "key_out_of_range": Meaning("Keys beyond the range of the target's key", "Make the target's key bigint."),
    "inexact_number": Meaning("Numbers that the target's precision cannot hold exactly", "Widen the target's type."),
    "infinite_in_numeric": Meaning("Infinity in a column that becomes numeric", "Use double precision instead."),
    "infinity": Meaning("Infinity, carried over as it is"),
    "empty_text": Meaning("'' in a column that is no text", _CORRECT),
    "text_too_long": Meaning("Text longer than the target's column", "Widen the target's column, or correct the rows."),
    "text_too_short": Meaning("Text shorter than the target's char(n)", "Use varchar(n) in the target."),
    "long_in_index": Meaning("Values that may be too long for an index of the target"),
    "nul_in_text": Meaning("NUL characters in text", _CORRECT),
    "nul_in_json": Meaning("NUL characters (\\u0000) in JSON", _CORRECT),
    "not_utf8": Meaning("Bytes that are not text in the database's encoding", _CORRECT),
    "blob_in_text": Meaning("Bytes in a column that becomes text", "Use bytea, or correct the rows."),
    "number_in_text": Meaning("Numbers in a column that becomes text", _CORRECT),
    "text_in_blob": Meaning("Text or numbers in a column that becomes bytea", "Use text, or correct the rows."),
    "invalid_json": Meaning("Text that jsonb does not take", _CORRECT),
    "duplicate_json_keys": Meaning("JSON objects with a key twice: jsonb keeps the last"),
    "not_a_datetime": Meaning("Values that are no date and time", _CORRECT),
    "fraction_too_long": Meaning("Fractions of a second finer than a microsecond", _CORRECT),
    "number_in_datetime": Meaning("Numbers in a column that becomes date and time", _CORRECT),
    "not_boolean": Meaning("Values other than 0 and 1 in a column that becomes boolean", _CORRECT),
    "not_uuid": Meaning("Text that is no UUID", _CORRECT),
    "damaged_at_source": Meaning(
        "Damaged at the source: SQLite turned a UUID or JSON text into a number",
        "Find the original value elsewhere and write it as text into a column of type TEXT; it cannot be computed back.",
    ),
    "not_in_enum": Meaning("Values that are no label of the target's enumeration", "Add the label, or correct the rows."),
    "null_in_not_null": Meaning("NULL in a column that is NOT NULL in the target", "Drop NOT NULL, or correct the rows."),
    "check_violated": Meaning("Rows that break a CHECK of the target", "Correct the rows, or the CHECK."),
    "unprovable_value": Meaning("Values whose equality in the target could not be proved", _CORRECT),
    # rows among each other
    "duplicate_key": Meaning("Rows that are the same under a unique key of the target", _CORRECT),
    "orphans": Meaning("Rows whose foreign key points nowhere", _CORRECT),
    "orphans_that_follow": Meaning("Rows that become orphans when the rows they refer to are left out", _CORRECT),
    # tables and columns
    "table_unknown": Meaning("A table of the source that the plan does not know", "Add it to the plan and its SQL."),
    "table_missing": Meaning("A table of the plan that the source has not", "Take it out of the plan, or find out why."),
    "table_not_made": Meaning("A table of the plan that its SQL does not make", "Add it to the plan's SQL."),
    "table_stays_empty": Meaning("A table of the target that the plan does not name: it stays empty"),
    "table_ignored": Meaning("A table that is left behind, as the plan says"),
    "table_virtual": Meaning("A virtual table, whose content lies elsewhere", "Put it under ignored_tables and say why."),
    "column_unknown": Meaning("A column of the source that the target has not, or computes", "Add it to the plan's SQL."),
    "column_missing": Meaning("A column of the target that the source has not", "Add it in a later migration."),
    "trigger_in_the_way": Meaning(
        "A trigger of the target that would change or drop rows while they are copied",
        "Create it after the load, in post_data.",
    ),
    "type_without_way": Meaning("A type of the target that takes no value unchanged", "Change the plan's SQL."),
    "decision_misfit": Meaning("A decision of the plan that can never be carried out", "Correct the plan."),
    "decision_fails": Meaning(
        "A decision of the plan that cannot be carried out on these rows", "Correct the rows in the source, or the decision."
    ),
    "decision_unused": Meaning("A decision of the plan that nothing asks for"),
    # sequences
    "sequence_ahead": Meaning("AUTOINCREMENT is ahead of the greatest key; the target's sequence goes on from there"),
    "sequence_out_of_range": Meaning("The next key is beyond the range of the target's key", "Make the key bigint."),
    "sequence_missing": Meaning(
        "The source gives keys by itself and the target's column has no sequence", "Declare it GENERATED … AS IDENTITY."
    ),
    "sequence_unfit": Meaning(
        "A sequence of the target that cannot be set past the keys", "Let it ascend, on a column of whole numbers."
    ),
    # what the source has and the target has not, or differently
    "view": Meaning("A view of the source", _SAY),
    "trigger": Meaning("A trigger of the source", _SAY),
    "generated_column": Meaning("A generated column of the source", _SAY),
    "partial_index": Meaning("A partial index of the source", _SAY),
    "expression_index": Meaning("An index on expressions", _SAY),
    "unique_key": Meaning("A unique key of the source that the target has not", _SAY),
    "collation": Meaning("A collation of the source", _SAY),
    "check": Meaning("A CHECK of the source", _SAY),
    "default": Meaning("A default of the source that differs in the target", _SAY),
    # what was not looked at
    "check_not_assessed": Meaning("A CHECK of the target that only the load will try"),
    "key_not_assessed": Meaning("A unique key of the target that only the load will try"),
    "orphans_not_assessed": Meaning("A foreign key of the target that could not be followed in the source"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: One of ``CODES``; stable.
        severity: ``blocks``: the cutover must not start. ``decision applied``: the plan decides it. ``note``: to be known.
        table: Empty for what belongs to no table.
        column: Empty for what concerns the table as a whole; several are joined by commas.
        rows: How many rows it concerns; 0 where it is not about rows.
        keys: The first of them, for a person.
        value: The class of the values, or the object concerned. Never content.
        example: One of the values, cut; empty where the plan marks the column as secret.
        becomes: What becomes of it, or would.
        decide: YAML lines that decide it when they are put into the plan; empty where the plan cannot.
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
        """What the code stands for."""
        return CODES[self.code].title

    @property
    def do(self) -> str:
        """What to do when it blocks and the plan is not to decide it."""
        return CODES[self.code].do if self.severity == "blocks" or self.decide else ""

    @property
    def where(self) -> str:
        """``table.column``, or as much of it as there is."""
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
    """The result of looking at a source.

    Attributes:
        plan: Name of the plan.
        source: Name of the file, without its folder.
        findings: What blocks first, then by table and column.
        tables: Rows of every table that was read, by name.
        seconds: How long it took.
    """

    plan: str
    source: str
    findings: tuple[Finding, ...]
    tables: Mapping[str, int]
    seconds: float

    @property
    def blocks(self) -> tuple[Finding, ...]:
        """The findings with which the cutover must not start; empty when it may."""
        return self.of("blocks")

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(self.tables.values())

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_json(self, *, ascii_only: bool = False) -> str:
        """The whole assessment as JSON text; ``from_json`` gives an equal one."""
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
        """The assessment that ``to_json`` wrote.

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
            raise CannotCheck("this is not an assessment of this version", do="Assess the source again.") from None


def _finding(item: dict[str, Any]) -> Finding:
    if item["code"] not in CODES or item["severity"] not in SEVERITIES:
        raise ValueError
    known = {name: item[name] for name in Finding.__dataclass_fields__}
    return Finding(**{**known, "keys": tuple(item["keys"])})


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Findings as they are shown: what blocks first, then by table, column and code."""
    return tuple(
        sorted(findings, key=lambda item: (SEVERITIES.index(item.severity), item.table, item.column, item.code, item.value))
    )


def lines(content: Mapping[str, Any], comment: str = "") -> str:
    """YAML for the plan, with a comment above it."""
    text = str(yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=110)).rstrip("\n")
    return f"# {comment}\n{text}" if comment else text


def column_lines(table: str, column: str, decision: Mapping[str, Any], comment: str = "") -> str:
    """The lines that decide the values of a column."""
    return lines({"tables": {table: {"columns": {column: dict(decision)}}}}, comment)


def cut(text: str) -> str:
    """Content as it may be shown: one line, at most 80 characters, without what looks like a secret."""
    masked = mask(text[:_READ_CHARACTERS])[: CHARACTERS_SHOWN + 1]
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in masked)
    return f"{shown[: CHARACTERS_SHOWN - 1]}…" if len(shown) > CHARACTERS_SHOWN else shown
