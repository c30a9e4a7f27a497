"""The proof before go-live as suites of Great Expectations: one for each table, built from the plan and the catalog.

A suite holds everything that must be true of its table: the count is the snapshot's, no column that is NOT NULL has a NULL,
every key is there once, every reference leads to a row, the content is the same on both sides, the next key is free. The
rows of the target are queried for all of that but content and next keys: those come from ``content`` and
``target.sequences``, and their figures are compared with the required ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.proof import content, table_rules
from include.cutover.proof import counts as row_counts
from include.cutover.proof.counts import ExpectedCount, Reconciliation
from include.cutover.proof.digest_store import DigestStore
from include.cutover.proof.docs_site import DocsSite
from include.cutover.proof.evaluation import great_expectations
from include.cutover.proof.expectations import StageResult, run_stage
from include.cutover.proof.orphans import orphans_name
from include.cutover.proof.requirements import Asset, Result, rows_of
from include.cutover.proof.table_requirements import (
    content_requirement,
    count_requirement,
    next_key_requirement,
    reconciliation,
    rule_requirements,
)
from include.cutover.proof.table_result import TableResult
from include.cutover.proof.table_rules import TableRules
from include.cutover.proof.words import REFERENCE_DATA, identifier, rows_text
from include.cutover.target import sequences
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.sequences import NextKey
from include.cutover.target.sides import Sides

_NAMED = 5


@dataclass(frozen=True)
class _Facts:
    """The facts that the suites are built from.

    Attributes:
        expected: Rows per table, with their origin.
        compared: Per table of the plan the result of its comparison, which may still be under way.
        counts: Rows of both sides, per table.
        rules: Rules per table of plan and catalog.
        next_keys: Of every sequence.
    """

    expected: Mapping[str, ExpectedCount]
    compared: Mapping[str, Future[TableResult]]
    counts: Mapping[str, Reconciliation]
    rules: Mapping[str, TableRules]
    next_keys: Sequence[NextKey]

    @property
    def tables(self) -> Iterable[str]:
        """Those of the plan first, in the order of their comparison; then others that the target has."""
        return dict.fromkeys([*self.compared, *self.rules, *(following.table for following in self.next_keys)])

    @property
    def rows(self) -> int:
        """Rows of all tables in the target."""
        return sum(row.target_rows or 0 for row in self.counts.values())

    def references(self, schema: str) -> dict[tuple[str, str], ForeignKey]:
        """Return the foreign keys by place and name of their checks."""
        return {
            (f"{schema}.{table}", orphans_name(stated.rule)): stated.rule
            for table, stands in self.rules.items()
            for stated in stands.foreign_keys
        }


def check_tables(
    sides: Sides,
    tables: Collection[str],
    expected: Mapping[str, ExpectedCount],
    site: DocsSite,
    *,
    sqlite_sequence: Mapping[str, int] | None = None,
    store: DigestStore | None = None,
    sql_folder: Path | None = None,
    seconds: float = content.SECONDS,
) -> StageResult:
    """Check everything that must be true of the loaded tables, and write Data Docs.

    The content is compared while Great Expectations is imported and queries the target. Safe to run again: it reads only,
    but for drawing from the sequences, which is rolled back.

    Args:
        sides: The snapshot that was copied, and the target. Secret columns are not even shown where they are keys.
        tables: Those of the plan. Others that the schema has are held to its keys.
        expected: Rows per table, with their origin.
        site: Where the Data Docs go. They show keys and numbers, no other values.
        sqlite_sequence: Table to the last key given away, as the source has it.
        store: Where the source's digests are kept.
        sql_folder: The plan's SQL: its keys are checked although the target may lack them, and it has the reference data.
        seconds: How long one statement in the target may take.

    Returns:
        One check for each requirement, by table.

    Raises:
        CannotCheck: When there is no table, or the Data Docs could not be written.
        Unreachable: When the target does not answer.
    """
    if not tables:
        raise CannotCheck(
            "there is no table to check",
            where=sides.schema,
            expected="the tables of the plan",
            do="Check the backup's manifest.",
        )
    by_size = sorted(tables, key=lambda table: _size(expected.get(table, ExpectedCount(0))))
    compared: dict[str, Future[TableResult]] = {table: Future() for table in by_size}
    with ThreadPoolExecutor(max_workers=2) as background:
        on_table = partial(_note, compared)
        comparing = background.submit(
            content.compare, sides, by_size, store=store, sql_folder=sql_folder, seconds=seconds, on_table=on_table
        )
        comparing.add_done_callback(lambda ended: _nothing_more_comes(compared.values(), ended.exception()))
        counting = background.submit(row_counts.count_checks, sides.conninfo, sides.schema, expected, seconds=seconds)
        rules = table_rules.read(sides.conninfo, sides.schema, sql_folder)
        next_keys = sequences.next_keys(sides.conninfo, sides.schema, sqlite_sequence or {})
        great_expectations()
        facts = _Facts(expected, compared, {row.table: row for row in counting.result()}, rules, next_keys)
        assets = _assets(facts, sides, tables)
        result = run_stage("tables", "Tables of the target", sides.conninfo, sides.schema, assets, site, seconds=seconds)
        results = comparing.result()
    return _in_the_plans_order(result, facts, results, sides.schema, tables)


def _note(compared: Mapping[str, Future[TableResult]], result: TableResult) -> None:
    compared[result.table].set_result(result)


def _size(count: ExpectedCount) -> tuple[bool, int]:
    """Great Expectations queries small tables while large ones are compared; reference data is compared after all."""
    return count.origin == REFERENCE_DATA, count.rows


def _assets(facts: _Facts, sides: Sides, tables: Collection[str]) -> list[Asset]:
    """Return a suite for all tables together, and one for each table with requirements."""
    assets = [reconciliation(list(facts.counts.values()), tables)]
    for table in facts.tables:
        wanted = [count_requirement(facts.counts[table])] if table in facts.counts else []
        if table in facts.compared:
            wanted.append(content_requirement(table, facts.expected.get(table), facts.compared[table]))
        if table in facts.rules:
            wanted += rule_requirements(sides.schema, facts.rules[table], sides.secret_of(table))
        wanted += [next_key_requirement(following) for following in facts.next_keys if following.table == table]
        assets += [Asset(table, wanted, table=table)] if wanted else []
    return assets


def _in_the_plans_order(
    result: StageResult, facts: _Facts, results: Sequence[TableResult], schema: str, tables: Collection[str]
) -> StageResult:
    """Order the checks of the stage as the plan has the tables, and add summary, figures and the values that differ.

    Args:
        result: The stage as it was evaluated.
        facts: All that the suites were built from.
        results: The comparisons of content.
        schema: The application's schema.
        tables: Those of the plan.
    """
    # The suite of all tables is the least specific, and comes last.
    places = {f"{schema}.{table}": place for place, table in enumerate(tables)} | {"All tables": len(tables) + 1}
    evaluated = sorted(
        zip(result.checks, result.results, strict=True), key=lambda one: places.get(one[0].where, len(places))
    )
    contents = {f"content_{identifier(found.table)}": found for found in results}
    checks = [_with_values(check, contents.get(check.name)) for check, _ in evaluated]
    return replace(
        result,
        checks=checks,
        results=[details for _, details in evaluated],
        summary=_summary(len(tables), facts.rows, checks),
        figures=_figures(facts, evaluated, schema),
    )


def _with_values(check: Check, found: TableResult | None) -> Check:
    """Return the check as the evidence has it, with the values that differ; the Data Docs do not show them."""
    return replace(check, found=found.summary) if found is not None and found.outcome == check.outcome == "failed" else check


def _figures(facts: _Facts, evaluated: Sequence[tuple[Check, Result]], schema: str) -> dict[str, Any]:
    references = facts.references(schema)
    return {
        "tables": [_count_figures(row) for row in facts.counts.values()],
        "rows": facts.rows,
        "foreign_keys": len(references),
        "orphans": [
            _orphan_figures(references[check.where, check.name], details)
            for check, details in evaluated
            if (check.where, check.name) in references and details.get("observed_value")
        ],
    }


def _orphan_figures(key: ForeignKey, details: Result) -> dict[str, Any]:
    return {
        "foreign_key": key.name,
        "table": key.table,
        "columns": list(key.columns),
        "referenced_table": key.referenced_table,
        "count": details["observed_value"],
        "keys": rows_of(details),
    }


def _count_figures(row: Reconciliation) -> dict[str, Any]:
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
        return f"{tables} tables, {rows_text(rows)}: counts, content, keys, references and sequences are correct"
    named = "; ".join(f"{check.title}: {check.found.partition(': ')[0]}" for check in bad[:_NAMED])
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"{len(bad)} of {len(checks)} checks did not pass: {named}{more}"


def _nothing_more_comes(waiting: Iterable[Future[TableResult]], error: BaseException | None) -> None:
    """End the waiting for comparisons that will never be made."""
    for future in waiting:
        if not future.done():
            future.set_exception(LookupError(str(error or "it was not compared")))
