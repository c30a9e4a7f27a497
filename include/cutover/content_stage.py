"""The proof of content as a stage of Great Expectations, and any list of checks as one: a row for each thing looked at.

What is compared is compared by ``content`` and the others; Great Expectations holds their findings against what must be, and
writes the Data Docs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from include.cutover import content, verification
from include.cutover.checks import Check
from include.cutover.content import TableResult
from include.cutover.errors import CannotCheck
from include.cutover.expectations import Asset, Requirement, Result, StageResult, run_stage
from include.cutover.verification import UNCOUNTED, rows_text

_SHOWN = 10


def check_content(
    snapshot: Path,
    conninfo: str,
    schema: str,
    tables: Collection[str],
    docs: Path,
    task_log_url: str | None = None,
    *,
    secret: Mapping[str, Collection[str]] | None = None,
    stored: Path | None = None,
    identity: str = "",
    sql_folder: Path | None = None,
    workers: int = content.WORKERS,
    seconds: float = content.SECONDS,
    on_table: Callable[[TableResult], None] | None = None,
) -> StageResult:
    """Every row of every table is the same on both sides. Safe to run again: it reads only, and writes its site anew.

    Args:
        snapshot: What was copied; arguments that are not told here are those of ``content.compare``.
        docs: Folder of this stage's site. It shows table names and numbers, never a value.
        task_log_url: Link to the task's log.

    Returns:
        One check for each table, naming the rows and columns that differ, and those of the expectations.

    Raises:
        CannotCheck: When there is no table to compare, or the Data Docs could not be written.
        Unreachable: When the target does not answer.
    """
    with ThreadPoolExecutor(max_workers=1) as background:
        comparing = background.submit(
            content.compare,
            snapshot,
            conninfo,
            schema,
            tables,
            secret=secret,
            stored=stored,
            identity=identity,
            sql_folder=sql_folder,
            workers=workers,
            seconds=seconds,
            on_table=on_table,
        )
        _import_early()
        results = comparing.result()
    asset = Asset("content", _content_requirements(tables), rows=[_row(result) for result in results])
    stage = run_stage("content", "Equal content", conninfo, schema, [asset], docs, task_log_url)
    checks = [result.check(schema) for result in results]
    wrong = [result for result in results if result.outcome != "passed"]
    rows = sum(result.target_rows or 0 for result in results)
    if wrong:
        named = "; ".join(f"{result.table}: {result.summary}" for result in wrong[:3])
        more = f"; and {len(wrong) - 3} more tables" if len(wrong) > 3 else ""
        summary = f"{len(wrong)} of {len(results)} tables are not proven equal: {named}{more}"
    else:
        summary = f"{len(results)} tables, {rows_text(rows)}: every value is the same on both sides"
    return replace(
        stage,
        success=stage.success and not wrong,
        checks=checks + stage.checks,
        summary=summary,
        figures={"tables": [_row(result) for result in results], "rows": rows, "parts": sum(r.parts for r in results)},
    )


def check_list(
    stage: str,
    heading: str,
    found: Sequence[Check],
    conninfo: str,
    schema: str,
    docs: Path,
    task_log_url: str | None = None,
) -> StageResult:
    """A stage from checks that were made elsewhere, such as those of the sequences or of the schema.

    Args:
        stage: Short name, e.g. ``sequences``.
        heading: What the stage checks, on top of every page.

    Returns:
        The same checks, and those of the expectations about them.

    Raises:
        CannotCheck: When the list is empty, or the Data Docs could not be written.
    """
    if not found:
        raise CannotCheck("nothing was looked at", where=f"stage {stage}", expected="at least one check")
    rows = [
        {"check": check.name, **{k: v for k, v in check.as_dict().items() if k not in ("name", "do")}} for check in found
    ]
    about = "One row for each thing that was looked at."
    asset = Asset(
        stage,
        [
            _requirement(f"{stage}_looked_at", "everything could be looked at", "no outcome is unknown", about,
                         "outcome", ["passed", "failed"], otherwise_unknown=True),
            _requirement(f"{stage}_passed", "everything is as it must be", "no outcome is failed", about,
                         "outcome", ["passed", "unknown"]),
        ],
        rows=rows,
    )  # fmt: skip
    result = run_stage(stage, heading, conninfo, schema, [asset], docs, task_log_url)
    wrong = [check for check in found if check.outcome != "passed"]
    told = "; ".join(f"{check.title}: {check.found}" for check in wrong[:3])
    summary = (
        f"{len(wrong)} of {len(found)} are not as they must be: {told}" if wrong else f"{len(found)} looked at, all right"
    )
    return replace(
        result,
        success=result.success and not wrong,
        checks=[*found, *result.checks],
        summary=summary,
        figures={"looked_at": len(found), "wrong": len(wrong)},
    )


def _import_early() -> None:
    """Great Expectations takes seconds to import; they pass while the sides compute."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations  # noqa: F401


def _row(result: TableResult) -> dict[str, Any]:
    return {
        "table": result.table,
        "outcome": result.outcome,
        "origin": result.origin,
        "source_rows": result.source_rows,
        "target_rows": result.target_rows,
        "parts": result.parts,
        "different_parts": result.different,
        "missing": result.missing,
        "extra": result.extra,
        "changed": result.changed,
        "faults": len(result.faults),
    }


def _content_requirements(tables: Collection[str]) -> list[Requirement]:
    plan = "The tables are those of the plan."
    digests = "Each side computed the SHA-256 of its own rows in canonical text, part by part."
    return [
        Requirement(
            name="content_number_of_tables",
            title="as many tables were compared as the plan has",
            expected=str(len(tables)),
            origin=plan,
            make=lambda gxe, **about: gxe.ExpectTableRowCountToEqual(value=len(tables), **about),
            found=lambda result: str(result["observed_value"]),
            do=UNCOUNTED,
        ),
        _requirement("content_tables", "no other table than the plan's was compared", "every table is one of the plan", plan,
                     "table", sorted(tables)),
        _requirement("content_compared", "every table could be compared", "no outcome is unknown", digests,
                     "outcome", ["passed", "failed"], otherwise_unknown=True),
        *(
            _requirement(f"content_{column}", title, "0 for every table", digests, column, [0])
            for column, title in (
                ("different_parts", "every part of every table has the same digest on both sides"),
                ("missing", "no row is missing"),
                ("extra", "no row is in the target only"),
                ("changed", "no row was changed"),
                ("faults", "both sides have the same columns"),
            )
        ),
        _requirement("content_equal", "every table is proven equal", "passed for every table", digests,
                     "outcome", ["passed"]),
    ]  # fmt: skip


def _requirement(
    name: str, title: str, expected: str, origin: str, column: str, values: Sequence[Any], *, otherwise_unknown: bool = False
) -> Requirement:
    def at_fault(result: Result) -> str:
        # Each row comes with the column that was looked at and the one that names it.
        rows = [item.get("table", item.get("check")) for item in result.get("unexpected_index_list") or []]
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        return f"not so for {', '.join(map(str, rows[:_SHOWN]))}{more}" if rows else "so it is"

    return Requirement(
        name=name,
        title=title,
        expected=expected,
        origin=origin,
        make=lambda gxe, **about: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), **about),
        found=at_fault,
        do=UNCOUNTED if otherwise_unknown else verification.MISMATCH,
        otherwise="unknown" if otherwise_unknown else "failed",
    )
