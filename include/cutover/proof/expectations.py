"""Stages of Great Expectations: suites about the tables of the target, evaluated by one checkpoint, shown by Data Docs.

A stage is one ephemeral run: it leaves a static site of Data Docs in its folder and nothing anywhere else. An expectation
that could not be evaluated is ``unknown``, never a pass.

Importing Great Expectations takes seconds of processor time, so that happens inside a stage, and in few of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from include.cutover.checks import Check, Outcome, worst
from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.proof import docs_site, evaluation
from include.cutover.proof.docs_site import DocsSite
from include.cutover.proof.reading import reading
from include.cutover.proof.requirements import Asset, Requirement, Result, in_set, names_at_fault
from include.cutover.proof.words import UNCOUNTED

# As SQLAlchemy writes the class of an error; one that the server reports about a query has a class of its own.
_LOST = re.compile(
    r"psycopg\.(?:OperationalError|InterfaceError|errors\.(?:AdminShutdown|CrashShutdown|CannotConnectNow|ConnectionFailure))\)"
    r"|\bthe target does not answer"
)


@dataclass(frozen=True)
class StageResult:
    """The result of a stage.

    Attributes:
        success: At least one expectation was evaluated, and every single one holds.
        docs_index: Start page of the Data Docs.
        summary: One sentence.
        figures: Numbers for the report.
        results: Great Expectations' result for each of the checks; empty where nothing was evaluated.
    """

    stage: str
    success: bool
    checks: list[Check]
    docs_index: Path
    summary: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


# ---- stages -------------------------------------------------------------------------------------------------------------


def run_stage(
    stage: str, heading: str, conninfo: str, schema: str, assets: Sequence[Asset], site: DocsSite, *, seconds: float = 300
) -> StageResult:
    """Evaluate every requirement of every asset in one checkpoint, write the Data Docs, and return the results.

    The site appears in its folder (``index.html``; all links are relative, nothing is loaded from elsewhere); an earlier
    site there is removed first. Several stages may run at the same time, in processes of their own. Safe to run again: it
    reads only.

    Args:
        stage: Short name, part of the addresses in the site.
        heading: The subject of the stage, on top of every page.
        conninfo: libpq connection string of the target.
        schema: The application's schema.
        assets: In the order in which they are evaluated.
        site: Where the Data Docs go.
        seconds: How long one query may take.

    Returns:
        One check for each requirement, in their order. An expectation that could not be evaluated, and a table that is not
        there, are ``unknown``.

    Raises:
        CannotCheck: When there is nothing to evaluate, nothing was evaluated, or the Data Docs could not be written.
        Unreachable: When the target does not answer, or a connection breaks.
    """
    if not any(asset.requirements for asset in assets):
        raise _nothing_evaluated(stage)
    gx = evaluation.great_expectations()
    with reading(conninfo, schema, seconds=seconds) as connection:
        problems = evaluation.table_problems(
            connection, schema, [asset.table for asset in assets if asset.table is not None]
        )
    docs_site.clear(site.folder)
    moment = datetime.now(UTC)
    with evaluation.without_warnings(), evaluation.read_only_connections(conninfo, schema, seconds) as opener:
        context = evaluation.new_context(gx)
        batches = evaluation.add_assets(gx, context, opener, schema, assets, problems)
        definitions = [
            evaluation.define_suite(gx, context, batch, asset, number, problems.get(asset.table or "", ""))
            for number, (asset, batch) in enumerate(zip(assets, batches, strict=True))
        ]
        run = gx.RunIdentifier(run_name=stage, run_time=moment)
        evaluated = evaluation.evaluate(gx, context, stage, definitions, run)
        _require_connection(stage, evaluated)
        checks, results, suites = _results(assets, evaluated, schema)
        if not any(results):
            raise _nothing_evaluated(stage, checks)
        docs_site.build(gx, context, site.folder, {
            "heading": heading,
            "about": site.about,
            "task_log_url": docs_site.link(site.task_log_url),
            "moment": f"{moment:%Y-%m-%d %H:%M:%S} UTC",
            "suites": suites,
        })  # fmt: skip
    docs_site.finish(site.folder, len(definitions))
    return StageResult(stage, worst(checks) == "passed", checks, site.folder / "index.html", results=results)


def _results(
    assets: Sequence[Asset], evaluated: Mapping[str, Any], schema: str
) -> tuple[list[Check], list[Result], dict[str, Any]]:
    """Return the check and the result of each requirement, and the content of each suite's page."""
    checks: list[Check] = []
    results: list[Result] = []
    suites: dict[str, Any] = {}
    for number, asset in enumerate(assets):
        shown = {}
        for place, requirement in enumerate(asset.requirements):
            name = evaluation.requirement_name(number, place)
            result = evaluated.get(name)
            check = _check(requirement, result, f"{schema}.{asset.table}" if asset.table else asset.name)
            shown[name] = {**check.as_dict(), "origin": requirement.origin}
            checks.append(check)
            results.append((result.result or {}) if result is not None else {})
        page = {"name": asset.name, "first": asset.first, "rows": asset.rows, "checks": shown}
        suites[evaluation.suite_name(asset, number)] = page
    return checks, results, suites


def run_list(
    stage: str,
    heading: str,
    found: Sequence[Check],
    conninfo: str,
    schema: str,
    site: DocsSite,
) -> StageResult:
    """Record a stage of checks that were run elsewhere, such as those of the source's values.

    Args:
        stage: Short name, part of the addresses in the site.
        heading: The subject of the checks, on top of every page.
        found: The checks.
        conninfo: libpq connection string of the target.
        schema: The application's schema.
        site: Where the Data Docs go.

    Returns:
        The same checks, and those of the expectations about them.

    Raises:
        CannotCheck: When the list is empty, or the Data Docs could not be written.
    """
    if not found:
        raise CannotCheck("nothing was checked", where=f"stage {stage}", expected="at least one check")
    result = run_stage(stage, heading, conninfo, schema, [_as_asset(stage, heading, found)], site)
    wrong = [check for check in found if check.outcome != "passed"]
    first = "; ".join(f"{check.title}: {check.found}" for check in wrong[:3])
    all_passed = f"{len(found)} check{'' if len(found) == 1 else 's'} passed"
    return replace(
        result,
        success=result.success and not wrong,
        checks=[*found, *result.checks],
        summary=f"{len(wrong)} of {len(found)} checks did not pass: {first}" if wrong else all_passed,
        figures={"looked_at": len(found), "wrong": len(wrong)},
    )


def _as_asset(stage: str, heading: str, found: Sequence[Check]) -> Asset:
    """Return the checks as rows, with the requirements that each could be made and none failed."""
    origin = "One row for each check."
    return Asset(
        heading,
        [
            Requirement(
                f"{stage}_looked_at",
                "every check could be made",
                "no outcome is unknown",
                origin,
                in_set("outcome", ["passed", "failed"]),
                names_at_fault,
                UNCOUNTED,
                otherwise="unknown",
            ),
            Requirement(
                f"{stage}_passed",
                "no check failed",
                "no outcome is failed",
                origin,
                in_set("outcome", ["passed", "unknown"]),
                names_at_fault,
                "Check each of them in the report.",
            ),
        ],
        rows=[{"name": check.where or check.name, "what": check.title, "outcome": check.outcome} for check in found],
    )


def _check(requirement: Requirement, result: Any, where: str) -> Check:
    """Return the check of a requirement. Only a result that was really evaluated can pass."""

    def check(outcome: Outcome, found: str, do: str) -> Check:
        return Check(requirement.name, requirement.title, outcome, requirement.expected, found, do, where)

    raised = "" if result is None else evaluation.why_not_evaluated(result)
    if result is None or raised:
        return check("unknown", evaluation.first_line(raised) if raised else "it was not evaluated", UNCOUNTED)
    details = result.result or {}
    elements, missing = details.get("element_count"), details.get("missing_count") or 0
    if elements is not None and elements - missing <= 0:
        # Empty values are passed over, so a column without any other would hold everything.
        return check("unknown", "there was no value to check", UNCOUNTED)
    try:
        found = requirement.found(details)
    except (KeyError, TypeError, ValueError):
        return check("unknown", "the result holds no value", UNCOUNTED)
    if result.success is True:
        return check("passed", found, "")
    return check(requirement.otherwise, found, requirement.do)


def _require_connection(stage: str, evaluated: Mapping[str, Any]) -> None:
    """Raise ``Unreachable`` where the server went away: only then a retry may help."""
    for message in map(evaluation.why_not_evaluated, evaluated.values()):
        if _LOST.search(message):
            raise Unreachable(
                "the connection to the target broke",
                where=f"stage {stage}",
                found=evaluation.first_line(message),
                do="Check that the server runs, then retry.",
            )


def _nothing_evaluated(stage: str, checks: Sequence[Check] = ()) -> CannotCheck:
    return CannotCheck(
        "not a single expectation was evaluated",
        where=f"stage {stage}",
        expected="at least one",
        found="; ".join(f"{check.where}: {check.found}" for check in checks[:5]),
        do=UNCOUNTED,
    )
