"""The proof before go-live as suites of Great Expectations: one for each table, built from the plan and the catalog.

A suite holds all that must be true of its table: the count is the snapshot's, no column that is NOT NULL has a NULL, every
key is there once, every reference leads to a row, the content is the same on both sides, the next key is free. The rows of
the target are asked for all of that but content and next keys: those were found out by ``content`` and ``finishing``, and
their figures are held against what must be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.proof import content, table_rules
from include.cutover.proof import counts as proof_counts
from include.cutover.proof.content import TableResult
from include.cutover.proof.counts import ExpectedCount, Reconciliation
from include.cutover.proof.expectations import StageResult, great_expectations, run_stage
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
from include.cutover.proof.table_rules import NULLS_COLUMN, TIMES_COLUMN, Stated, TableRules
from include.cutover.proof.words import (
    MISMATCH,
    ORPHANS,
    REFERENCE_DATA,
    SNAPSHOT,
    UNCOUNTED,
    count_text,
    identifier,
    key_text,
    rows_text,
)
from include.cutover.target import sequences
from include.cutover.target.catalog import ForeignKey, Index
from include.cutover.target.sequences import NextKey

_WRONG_ROWS = "Do not go live. The target refuses such rows: find out who changed it, then start again with an empty target."
_NAMED = 5
_ANY = -(2**63)  # the least that a sequence can give


def check_tables(
    snapshot: Path,
    conninfo: str,
    schema: str,
    tables: Collection[str],
    expected: Mapping[str, ExpectedCount],
    docs: Path,
    task_log_url: str | None = None,
    *,
    about: str = "",
    sqlite_sequence: Mapping[str, int] | None = None,
    secret: Mapping[str, Collection[str]] | None = None,
    stored: Path | None = None,
    identity: str = "",
    sql_folder: Path | None = None,
    workers: int = content.WORKERS,
    seconds: float = content.SECONDS,
) -> StageResult:
    """Everything that must be true of the loaded tables, with Data Docs.

    The content is compared while Great Expectations is imported and asks the target. Safe to run again: it reads only, but
    for drawing from the sequences, which is rolled back.

    Args:
        snapshot: What was copied; arguments that are not told here are those of ``content.compare``.
        tables: Those of the plan. Others that the schema has are held to its keys.
        expected: Rows per table, with their origin.
        docs: Folder of the stage's site. It shows keys and numbers, no other values.
        task_log_url: Link to the task's log.
        about: Application and run, on top of every page.
        sqlite_sequence: Table to the last key given away, as the source has it.
        secret: Columns per table whose content is never shown, also not where they are keys.
        sql_folder: The plan's SQL: its keys are looked at although the target may lack them, and it has the reference data.

    Returns:
        One check for each requirement, by table.

    Raises:
        CannotCheck: When there is no table, or the Data Docs could not be written.
        Unreachable: When the target does not answer.
    """
    if not tables:
        raise CannotCheck("there is no table to look at", where=schema, expected="the tables of the plan")
    hidden = {table: frozenset(columns) for table, columns in (secret or {}).items()}

    def size(table: str) -> tuple[bool, int]:
        """Great Expectations asks about small tables while large ones are compared; reference data is compared after all."""
        count = expected.get(table, ExpectedCount(0))
        return count.origin == REFERENCE_DATA, count.rows

    by_size = sorted(tables, key=size)
    compared: dict[str, Future[TableResult]] = {table: Future() for table in by_size}
    with ThreadPoolExecutor(max_workers=2) as background:
        comparing = background.submit(
            content.compare,
            snapshot,
            conninfo,
            schema,
            by_size,
            secret=hidden,
            stored=stored,
            identity=identity,
            sql_folder=sql_folder,
            workers=workers,
            seconds=seconds,
            on_table=lambda result: compared[result.table].set_result(result),
        )
        comparing.add_done_callback(lambda ended: _nothing_more_comes(compared.values(), ended.exception()))
        counting = background.submit(proof_counts.count_checks, conninfo, schema, expected, seconds=seconds)
        rules = table_rules.read(conninfo, schema, sql_folder)
        next_keys = sequences.next_keys(conninfo, schema, sqlite_sequence or {})
        great_expectations()
        counts = {row.table: row for row in counting.result()}
        assets = [_reconciliation(list(counts.values()), tables)]
        for table in dict.fromkeys([*by_size, *rules, *(following.table for following in next_keys)]):
            wanted = [_count(counts[table])] if table in counts else []
            wanted += [_content(table, expected.get(table), compared[table])] if table in compared else []
            wanted += _rules(schema, rules[table], hidden.get(table, frozenset())) if table in rules else []
            wanted += [_next_key(following) for following in next_keys if following.table == table]
            assets += [Asset(table, wanted, table=table)] if wanted else []
        result = run_stage(
            "tables", "Tables of the target", conninfo, schema, assets, docs, task_log_url, about=about, seconds=seconds
        )
        contents = {f"content_{identifier(found.table)}": found for found in comparing.result()}
    references = {
        (f"{schema}.{table}", orphans_name(stated.rule)): stated.rule
        for table, stands in rules.items()
        for stated in stands.foreign_keys
    }
    # As the plan has the tables; all of them together say least.
    places = {f"{schema}.{table}": place for place, table in enumerate(tables)} | {assets[0].name: len(tables) + 1}
    evaluated = sorted(
        zip(result.checks, result.results, strict=True), key=lambda one: places.get(one[0].where, len(places))
    )
    checks = [_with_values(check, contents.get(check.name)) for check, _ in evaluated]
    rows = sum(row.target_rows or 0 for row in counts.values())
    figures = {
        "tables": [_figures(row) for row in counts.values()],
        "rows": rows,
        "foreign_keys": len(references),
        "orphans": [
            _orphans(references[check.where, check.name], details)
            for check, details in evaluated
            if (check.where, check.name) in references and details.get("observed_value")
        ],
    }
    return replace(
        result,
        checks=checks,
        results=[details for _, details in evaluated],
        summary=_summary(len(tables), rows, checks),
        figures=figures,
    )


def _with_values(check: Check, found: TableResult | None) -> Check:
    """For the evidence, which shows the values that differ; the Data Docs do not."""
    return replace(check, found=found.summary) if found is not None and found.outcome == check.outcome == "failed" else check


def _orphans(key: ForeignKey, details: Result) -> dict[str, Any]:
    return {
        "foreign_key": key.name,
        "table": key.table,
        "columns": list(key.columns),
        "referenced_table": key.referenced_table,
        "count": details["observed_value"],
        "keys": rows_of(details),
    }


def _figures(row: Reconciliation) -> dict[str, Any]:
    return {
        "table": row.table,
        "source_rows": row.source_rows,
        "target_rows": row.target_rows,
        "delta": row.delta,
        "origin": row.origin,
    }


def _summary(tables: int, rows: int, checks: Sequence[Check]) -> str:
    bad = [check for check in checks if check.outcome != "passed"]
    if not bad:
        return f"{tables} tables, {rows_text(rows)}: counts, content, keys, references and sequences are as they must be"
    named = "; ".join(f"{check.title}: {check.found.partition(': ')[0]}" for check in bad[:_NAMED])
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"{len(bad)} of {len(checks)} checks did not pass: {named}{more}"


def _nothing_more_comes(waiting: Iterable[Future[TableResult]], error: BaseException | None) -> None:
    """Let nobody wait for what will never be there."""
    for future in waiting:
        if not future.done():
            future.set_exception(LookupError(str(error or "it was not compared")))


# --- what is required of a table ------------------------------------------------------------------------------------------


def _origin(origin: str) -> str:
    if origin == REFERENCE_DATA:
        return "The number is what the reference data brought; the snapshot has no rows of this table."
    if origin.startswith(f"{SNAPSHOT},"):
        return f"The number was counted in the {origin}, where the plan's decisions put them."
    return "The number was counted in the snapshot."


def _count(row: Reconciliation) -> Requirement:
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


def _content(table: str, expected: ExpectedCount | None, compared: Future[TableResult]) -> Requirement:
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
        content.DIFFERENT,
        elsewhere=True,
    )


def _without_values(result: TableResult) -> str:
    """What differs, by keys and names of columns."""
    if result.outcome != "failed":
        return result.summary
    words = {"missing": "missing", "extra": "in the target only"}
    named = [
        f"{row.key} {words.get(row.kind) or 'changed in ' + ', '.join(column.column for column in row.columns)}"
        for row in result.differences[:_NAMED]
    ]
    return result.headline + (f": {'; '.join(named)}" if named else "")


def _rules(schema: str, rules: TableRules, secret: Collection[str]) -> list[Requirement]:
    """No NULL where there must be a value, no key twice, no reference that leads nowhere."""
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
    return f"{key_text(row)} in {columns}".lstrip()


def _unique(schema: str, stated: Stated[Index], secret: Collection[str]) -> Requirement:
    index = stated.rule
    some = f" where {index.predicate}" if index.predicate else ""
    return Requirement(
        f"unique_{identifier(index.table)}_{identifier(index.name)}",
        f"no two rows of {index.table}{some} have the same {table_rules.key_text(index)}",
        "every key once",
        stated.origin,
        finds_no_row(table_rules.doubled_keys(schema, index, secret)),
        lambda result: _rows_text(result, "no key twice", "key more than once", "keys more than once", _doubled_text),
        _WRONG_ROWS,
    )


def _doubled_text(row: dict[str, str]) -> str:
    times = row.pop(TIMES_COLUMN, "")
    return f"{key_text(row)} ({times} times)"


def _reference(schema: str, rules: TableRules, stated: Stated[ForeignKey], secret: Collection[str]) -> Requirement:
    key = stated.rule
    return Requirement(
        orphans_name(key),
        orphan_title(key),
        "no orphan",
        stated.origin,
        finds_no_row(table_rules.orphans(schema, key, rules.primary_key, secret)),
        lambda result: orphan_text(int(result["observed_value"]), rows_of(result)),
        ORPHANS,
    )


def _rows_text(result: Result, none: str, one: str, many: str, text: Callable[[dict[str, str]], str]) -> str:
    """The number of what a query found, and the first of it."""
    count, rows = int(result["observed_value"]), rows_of(result)
    if not count:
        return none
    more = f"; and {count - len(rows):,} more" if count > len(rows) else ""
    return f"{count:,} {one if count == 1 else many}: {'; '.join(map(text, rows))}{more}"


def _next_key(following: NextKey) -> Requirement:
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
        "The greatest key of the table or the last that SQLite gave away. The next value was drawn, and taken back.",
        held,
        lambda _: check.found,
        sequences.SET_AGAIN,
        elsewhere=True,
    )


# --- all tables together --------------------------------------------------------------------------------------------------


def _reconciliation(rows: Sequence[Reconciliation], tables: Collection[str]) -> Asset:
    """Both sides of all tables as rows: one for each table of the plan, none missing, none twice, no difference."""
    plan = "The tables are those of the plan."
    counts = "Both numbers of a table were counted: one in the snapshot (or brought by reference data), one in the target."
    return Asset(
        "All tables",
        [
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
        ],
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
