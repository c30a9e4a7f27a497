"""Requirements of a table, or of rows in memory: expectations in plain words, and how Great Expectations gets them.

Nothing here imports Great Expectations: that happens when a stage makes its expectations (``expectations``).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from include.cutover.checks import Outcome

Result = Mapping[str, Any]
"""The result of one expectation, as Great Expectations gives it, e.g. ``{"observed_value": 3}``."""

Make = Callable[..., Any]
"""Makes an expectation from the module ``great_expectations.expectations``; its keyword arguments are passed on."""

_SHOWN = 10


@dataclass(frozen=True)
class Requirement:
    """One expectation in plain words, and how to make it.

    Attributes:
        name: Stable identifier of the check it becomes.
        title: The check in plain words, for the observer.
        expected: The value that must be found.
        origin: Where that value comes from, as a sentence.
        make: Makes the expectation; see ``finds_no_row``, ``in_bounds`` and ``in_set``.
        found: Puts a result into words; never with the content of a column that is not a key.
        do: The next action when it does not hold.
        otherwise: The outcome when it does not hold.
        elsewhere: It was found out elsewhere, so that the asset need not be there.
    """

    name: str
    title: str
    expected: str
    origin: str
    make: Make
    found: Callable[[Result], str]
    do: str
    otherwise: Outcome = "failed"
    elsewhere: bool = False


@dataclass(frozen=True)
class Asset:
    """The subject of a suite: a real table of the target, or rows put together in memory.

    Attributes:
        name: How it is called in the Data Docs.
        table: Name of the table, None for ``rows``.
        rows: Texts and whole numbers, in rows with the same columns each; the column ``name`` names a row.
        first: It stands before the others on the start page.
    """

    name: str
    requirements: Sequence[Requirement]
    table: str | None = None
    rows: Sequence[Mapping[str, str | int | None]] = ()
    first: bool = False


# ---- kinds of expectations ----------------------------------------------------------------------------------------------


def finds_no_row(query: sql.Composed) -> Make:
    """Require that the query finds nothing. It must give keys only: they are in the result, and shown."""

    def make(_: Any, **about: Any) -> Any:
        from include.cutover.proof.validation_site import ExpectQueryToFindNoRows

        return ExpectQueryToFindNoRows(unexpected_rows_query=_as_template(query.as_string(None)), **about)

    return make


def in_bounds(
    figures: Callable[[], Mapping[str, int]],
    at_least: Mapping[str, int] | None = None,
    at_most: Mapping[str, int] | None = None,
) -> Make:
    """Require that figures that were found elsewhere are within bounds.

    Args:
        figures: Called once, when the expectation is evaluated: it may wait for work under way. An error that it raises
            makes the check ``unknown``.
        at_least: Least value per figure.
        at_most: Greatest value per figure.
    """

    def make(_: Any, **about: Any) -> Any:
        from include.cutover.proof.validation_site import FIGURES, ExpectFiguresInBounds

        name = uuid.uuid4().hex
        FIGURES[name] = figures
        return ExpectFiguresInBounds(figures=name, at_least=dict(at_least or {}), at_most=dict(at_most or {}), **about)

    return make


def cannot_say(problem: str) -> Mapping[str, int]:
    """Raise the error for figures that could not be found, see ``in_bounds``."""
    raise LookupError(problem)


def in_set(column: str, values: Sequence[str | int]) -> Make:
    """Require that every value of a column is one of these. Empty values are passed over."""
    return lambda gxe, **about: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), **about)


def rows_of(result: Result) -> list[dict[str, str]]:
    """Return the keys that a query found, as text."""
    rows = (result.get("details") or {}).get("unexpected_rows") or []
    return [{str(name): "NULL" if value is None else str(value) for name, value in row.items()} for row in rows if row]


def names_at_fault(result: Result) -> str:
    """Return the names of the rows in memory that fail."""
    names = [str(item["name"]) for item in result.get("unexpected_index_list") or []]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"not true for {', '.join(names[:_SHOWN])}{more}" if names else "true for all"


def _as_template(query: str) -> str:
    """Return the query as Great Expectations takes it: braces are placeholders there, and a colon starts a bound value.

    It also wants to put the table's name in, unquoted; cut to nothing here, since the query names its tables itself.
    """
    return re.sub(r":(?!:)(?<!::)", r"\\:", query.replace("{", "{{").replace("}", "}}")) + " {batch!s:.0}"
