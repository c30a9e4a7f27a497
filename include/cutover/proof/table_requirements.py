"""The requirements of one table, and of all tables together: built from the plan's rules, the catalog and the figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future

from include.cutover.proof import table_rules
from include.cutover.proof.counts import ExpectedCount, Reconciliation
from include.cutover.proof.orphans import orphan_text, orphan_title, orphans_name
from include.cutover.proof.requirements import (
    Asset,
    Requirement,
    Result,
    cannot_say,
    finds_no_row,
    in_bounds,
    in_set,
    names_at_fault,
    rows_of,
)
from include.cutover.proof.table_result import DIFFERENT, TableResult
from include.cutover.proof.table_rules import NULLS_COLUMN, TIMES_COLUMN, Stated, TableRules
from include.cutover.proof.words import (
    MISMATCH,
    ORPHANS,
    REFERENCE_DATA,
    SNAPSHOT,
    UNCOUNTED,
    count_text,
    identifier,
)
from include.cutover.target import sequences
from include.cutover.target.catalog import ForeignKey, Index
from include.cutover.target.orphans import row_name
from include.cutover.target.sequences import NextKey

_WRONG_ROWS = "Do not go live. The target refuses such rows: find out who changed it, then start again with an empty target."
_NAMED = 5
_ANY = -(2**63)  # the least that a sequence can give


def _origin(origin: str) -> str:
    if origin == REFERENCE_DATA:
        return "The number comes from the reference data; the snapshot has no rows of this table."
    if origin.startswith(f"{SNAPSHOT},"):
        return f"The number was counted in the {origin}, where the plan's decisions put them."
    return "The number was counted in the snapshot."


def count_requirement(row: Reconciliation) -> Requirement:
    """Require the number of rows that was counted in the snapshot, or that reference data brought."""

    def found(result: Result) -> str:
        observed = int(result["observed_value"])
        return count_text(observed, delta=observed - row.source_rows)

    check = row.check("")
    return Requirement(
        check.name,
        check.title,
        check.expected,
        _origin(row.origin),
        lambda gxe, **about: gxe.ExpectTableRowCountToEqual(value=row.source_rows, **about),
        found,
        MISMATCH,
    )


def content_requirement(table: str, expected: ExpectedCount | None, compared: Future[TableResult]) -> Requirement:
    """Require equal content on both sides; waits for the comparison when it is evaluated."""

    def figures() -> Mapping[str, int]:
        result = compared.result()
        if result.outcome == "unknown":
            return cannot_say(result.summary)
        return {
            "rows": result.target_rows or 0,
            "parts that differ": result.different,
            "rows missing": result.missing,
            "rows in the target only": result.extra,
            "rows changed": result.changed,
            "faults of the table": len(result.faults),
        }

    rows = {} if expected is None else {"rows": expected.rows}
    none = ("parts that differ", "rows missing", "rows in the target only", "rows changed", "faults of the table")
    return Requirement(
        f"content_{identifier(table)}",
        f"every row of {table} is the same on both sides",
        "every value" if expected is None else f"every value of {count_text(expected.rows, expected.origin)}",
        "The rows are the source's: each side computed the SHA-256 of its own rows in canonical text, part by part.",
        in_bounds(figures, at_least=rows, at_most={**rows, **dict.fromkeys(none, 0)}),
        lambda _: _without_values(compared.result()),
        DIFFERENT,
        elsewhere=True,
    )


def _without_values(result: TableResult) -> str:
    """Describe the differences by keys and names of columns."""
    if result.outcome != "failed":
        return result.summary
    words = {"missing": "missing", "extra": "in the target only"}
    named = [
        f"{row.key} {words.get(row.kind) or 'changed in ' + ', '.join(column.column for column in row.columns)}"
        for row in result.differences[:_NAMED]
    ]
    return result.headline + (f": {'; '.join(named)}" if named else "")


def rule_requirements(schema: str, rules: TableRules, secret: Collection[str]) -> list[Requirement]:
    """Require a value in every NOT NULL column, every key once, and a row for every reference."""
    wanted = []
    if rules.not_null is not None:
        wanted.append(
            Requirement(
                f"not_null_{identifier(rules.table)}",
                f"no row of {rules.table} has a NULL where there must be a value",
                f"a value in {', '.join(rules.not_null.rule)}",
                rules.not_null.origin,
                finds_no_row(table_rules.rows_with_null(schema, rules, secret)),
                lambda result: _rows_text(result, "no NULL", "row with a NULL", "rows with a NULL", _null_text),
                _WRONG_ROWS,
            )
        )
    wanted += [_unique(schema, index, secret) for index in rules.unique]
    return wanted + [_reference(schema, rules, key, secret) for key in rules.foreign_keys]


def _null_text(row: dict[str, str]) -> str:
    columns = row.pop(NULLS_COLUMN, "")
    return f"{row_name(row)} in {columns}".lstrip()


def _unique(schema: str, stated: Stated[Index], secret: Collection[str]) -> Requirement:
    index = stated.rule
    some = f" where {index.predicate}" if index.predicate else ""
    return Requirement(
        f"unique_{identifier(index.table)}_{identifier(index.name)}",
        f"no two rows of {index.table}{some} have the same {index.columns_text}",
        "every key once",
        stated.origin,
        finds_no_row(table_rules.doubled_keys(schema, index, secret)),
        lambda result: _rows_text(result, "no key twice", "key more than once", "keys more than once", _doubled_text),
        _WRONG_ROWS,
    )


def _doubled_text(row: dict[str, str]) -> str:
    times = row.pop(TIMES_COLUMN, "")
    return f"{row_name(row)} ({times} times)"


def _reference(schema: str, rules: TableRules, stated: Stated[ForeignKey], secret: Collection[str]) -> Requirement:
    key = stated.rule
    return Requirement(
        orphans_name(key),
        orphan_title(key),
        "no orphan",
        stated.origin,
        finds_no_row(table_rules.rows_without_parent(schema, key, rules.primary_key, secret)),
        lambda result: orphan_text(int(result["observed_value"]), rows_of(result)),
        ORPHANS,
    )


def _rows_text(result: Result, none: str, one: str, many: str, text: Callable[[dict[str, str]], str]) -> str:
    """Return how many rows a query found, and name the first."""
    count, rows = int(result["observed_value"]), rows_of(result)
    if not count:
        return none
    more = f"; and {count - len(rows):,} more" if count > len(rows) else ""
    return f"{count:,} {one if count == 1 else many}: {'; '.join(map(text, rows))}{more}"


def next_key_requirement(following: NextKey) -> Requirement:
    """Require that the next key of a sequence is beyond all keys given away."""
    check = following.check()
    next_value = following.next_value
    if next_value is None:
        held = in_bounds(lambda: {"keys that are left": 0}, at_least={"keys that are left": 1})
    else:
        least = _ANY if following.last is None else following.last + 1
        held = in_bounds(lambda: {"next key": next_value}, at_least={"next key": least})
    return Requirement(
        check.name,
        check.title,
        check.expected,
        "The greatest key of the table or the last that SQLite generated. The next value was drawn and rolled back.",
        held,
        lambda _: check.found,
        sequences.SET_AGAIN,
        elsewhere=True,
    )


# --- all tables together --------------------------------------------------------------------------------------------------


def reconciliation(rows: Sequence[Reconciliation], tables: Collection[str]) -> Asset:
    """Return both sides of all tables as rows: one for each table of the plan, none missing, none twice, no difference."""
    return Asset(
        "All tables",
        [*_each_table_once(tables), *_equal_counts()],
        rows=[
            {
                "name": row.table,
                "expected": row.source_rows,
                "from": row.origin,
                "found": row.target_rows,
                "delta": row.delta,
            }
            for row in rows
        ],
        first=True,
    )


def _each_table_once(tables: Collection[str]) -> list[Requirement]:
    plan = "The tables are those of the plan."
    return [
        Requirement(
            "reconciliation_number_of_tables",
            "as many tables were counted as the plan has",
            f"{len(tables)} tables",
            plan,
            lambda gxe, **about: gxe.ExpectTableRowCountToEqual(value=len(tables), **about),
            lambda result: f"{result['observed_value']} tables",
            UNCOUNTED,
        ),
        Requirement(
            "reconciliation_tables",
            "no table was counted that the plan does not have",
            "every table is one of the plan",
            plan,
            in_set("name", sorted(tables)),
            names_at_fault,
            UNCOUNTED,
        ),
        Requirement(
            "reconciliation_once",
            "each table was counted once",
            "no table twice",
            plan,
            lambda gxe, **about: gxe.ExpectColumnValuesToBeUnique(column="name", **about),
            names_at_fault,
            UNCOUNTED,
        ),
    ]


def _equal_counts() -> list[Requirement]:
    counts = "Both numbers of a table were counted: one in the snapshot (or brought by reference data), one in the target."
    return [
        Requirement(
            # The next expectation passes over empty values; without this one a table that was not counted would pass.
            "reconciliation_counted",
            "every table could be counted in the target",
            "a number for every table",
            counts,
            lambda gxe, **about: gxe.ExpectColumnValuesToNotBeNull(column="found", **about),
            names_at_fault,
            UNCOUNTED,
            otherwise="unknown",
        ),
        Requirement(
            "reconciliation_delta",
            "no table has a row more or less than expected",
            "delta 0 for every table",
            counts,
            in_set("delta", [0]),
            names_at_fault,
            MISMATCH,
        ),
    ]
