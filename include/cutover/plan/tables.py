"""The plan's part about the tables: secret columns, chunks, decisions about awkward values and orphans."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from include.cutover.plan.types import Encoding, Model


class ColumnDecision(Model):
    r"""How to carry over values that the target does not take as they are. Without a decision they block the cutover.

    Attributes:
        empty_as_null: An empty string in a non-text column becomes NULL.
        strip_nul: NUL characters are removed from text, and ``\u0000`` from JSON.
        encoding: Encoding of bytes that are not UTF-8, such as ``latin-1``.
        datetime: Meaning of numbers in a date column: Unix seconds, Unix milliseconds or Julian days. ``iso``: the column
            holds no numbers.
        boolean: Meaning of values other than 0 and 1, as text: ``{"yes": true, "2": true}``.
    """

    empty_as_null: bool = False
    strip_nul: bool = False
    encoding: Encoding | None = None
    datetime: Literal["iso", "unix", "unix_ms", "julian"] | None = None
    boolean: dict[str, bool] | None = None


class ForeignKeyDecision(Model):
    """How to treat orphans: rows whose foreign key refers to a missing row.

    Attributes:
        orphans: ``block``: they block the cutover. ``quarantine``: the whole row moves to ``cutover.quarantine``, and so do
            its children when they would become orphans. ``set_null``: the reference becomes NULL.
        at_most: Largest number of rows that the decision may touch; more rows block the cutover.
    """

    orphans: Literal["block", "quarantine", "set_null"] = "block"
    at_most: int = Field(default=100, ge=0)


class Table(Model):
    """Settings of a table that the catalog does not hold.

    Attributes:
        secret: Columns whose content appears only in the two databases: not in logs, reports or evidence.
        chunk_rows: Rows that the copy writes in one transaction.
        streams: Tasks that copy the table in parallel.
        columns: Decisions about awkward values, by column.
        foreign_keys: Decisions about orphans, by name of the foreign key in the target.
    """

    secret: tuple[str, ...] = ()
    chunk_rows: int = Field(default=500_000, ge=1_000, le=1_000_000_000)
    streams: int = Field(default=1, ge=1, le=16)
    columns: dict[str, ColumnDecision] = Field(default_factory=dict)
    foreign_keys: dict[str, ForeignKeyDecision] = Field(default_factory=dict)
