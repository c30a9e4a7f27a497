"""Stages of Great Expectations: suites about the tables of the target, evaluated by one checkpoint, told by Data Docs.

A stage is one ephemeral run: it leaves a static site of Data Docs in its folder and nothing anywhere else. Great
Expectations never learns how to log in: its engine is handed connections that were opened elsewhere, read-only, so neither
the address nor the password can get into a page. What an expectation cannot look at is ``unknown``, never a pass.

Importing Great Expectations takes seconds of processor time, so that happens inside a stage, and in few of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from include.cutover.checks import Check, Outcome, worst
from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.proof.reading import query_problem, reading, relation_problem, session
from include.cutover.proof.requirements import Asset, Requirement, Result, cannot_say, in_bounds, in_set, names_at_fault
from include.cutover.proof.words import UNCOUNTED

# As SQLAlchemy writes the class of an error; one that the server reports about a query has a class of its own.
_LOST = re.compile(
    r"psycopg\.(?:OperationalError|InterfaceError|errors\.(?:AdminShutdown|CrashShutdown|CannotConnectNow|ConnectionFailure))\)"
    r"|\bthe target does not answer"
)


@dataclass(frozen=True)
class StageResult:
    """What a stage found.

    Attributes:
        success: Whether at least one expectation was evaluated and every single one holds.
        docs_index: Start page of the Data Docs.
        summary: One sentence.
        figures: Numbers for the report.
        results: What Great Expectations found for each of the checks; empty where nothing was evaluated.
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
    stage: str,
    heading: str,
    conninfo: str,
    schema: str,
    assets: Sequence[Asset],
    docs: Path,
    task_log_url: str | None = None,
    *,
    about: str = "",
    seconds: float = 300,
) -> StageResult:
    """Evaluate every requirement of every asset in one checkpoint, write the Data Docs, and say what came of it.

    The site appears in ``docs`` (``index.html``; all links are relative, nothing is loaded from elsewhere); an earlier site
    there is removed first. Several stages may run at the same time, in processes of their own. Safe to run again: it reads
    only.

    Args:
        stage: Short name, part of the addresses in the site.
        heading: What the stage checks, on top of every page.
        conninfo: libpq connection string of the target.
        assets: In the order in which they are evaluated.
        docs: Folder of this stage's site.
        task_log_url: Link to the task's log.
        about: Application and run, on top of every page.
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
    gx = great_expectations()
    with reading(conninfo, schema, seconds=seconds) as connection:
        problems = _problems(connection, schema, [asset.table for asset in assets if asset.table is not None])
    _clear(docs)
    moment = datetime.now(UTC)
    with _quiet(), _connections(conninfo, schema, seconds) as opener:
        context = _context(gx)
        batches = _batches(gx, context, opener, schema, assets, problems)
        definitions = [
            _definition(gx, context, batch, asset, number, problems.get(asset.table or "", ""))
            for number, (asset, batch) in enumerate(zip(assets, batches, strict=True))
        ]
        evaluated = _evaluate(gx, context, stage, definitions, gx.RunIdentifier(run_name=stage, run_time=moment))
        _require_connection(stage, evaluated)
        checks, results, pages = [], [], {}
        for number, asset in enumerate(assets):
            told = {}
            for place, requirement in enumerate(asset.requirements):
                result = evaluated.get(_identity(number, place))
                check = _check(requirement, result, f"{schema}.{asset.table}" if asset.table else asset.name)
                told[_identity(number, place)] = {**check.as_dict(), "origin": requirement.origin}
                checks.append(check)
                results.append((result.result or {}) if result is not None else {})
            pages[_suite(asset, number)] = {"name": asset.name, "first": asset.first, "rows": asset.rows, "checks": told}
        if not any(results):
            raise _nothing_evaluated(stage, checks)
        _build(gx, context, docs, {
            "heading": heading,
            "about": about,
            "task_log_url": _link(task_log_url),
            "moment": f"{moment:%Y-%m-%d %H:%M:%S} UTC",
            "suites": pages,
        })  # fmt: skip
    _finish(docs, len(definitions))
    return StageResult(stage, worst(checks) == "passed", checks, docs / "index.html", results=results)


def run_list(
    stage: str,
    heading: str,
    found: Sequence[Check],
    conninfo: str,
    schema: str,
    docs: Path,
    task_log_url: str | None = None,
    *,
    about: str = "",
) -> StageResult:
    """A stage from checks that were made elsewhere, such as those of the source's values. Arguments as for ``run_stage``.

    Returns:
        The same checks, and those of the expectations about them.

    Raises:
        CannotCheck: When the list is empty, or the Data Docs could not be written.
    """
    if not found:
        raise CannotCheck("nothing was looked at", where=f"stage {stage}", expected="at least one check")
    origin = "One row for each thing that was looked at."
    asset = Asset(
        heading,
        [
            Requirement(
                f"{stage}_looked_at",
                "everything could be looked at",
                "no outcome is unknown",
                origin,
                in_set("outcome", ["passed", "failed"]),
                names_at_fault,
                UNCOUNTED,
                otherwise="unknown",
            ),
            Requirement(
                f"{stage}_passed",
                "everything is as it must be",
                "no outcome is failed",
                origin,
                in_set("outcome", ["passed", "unknown"]),
                names_at_fault,
                "Look at each of them in the report.",
            ),
        ],
        rows=[{"name": check.where or check.name, "what": check.title, "outcome": check.outcome} for check in found],
    )
    result = run_stage(stage, heading, conninfo, schema, [asset], docs, task_log_url, about=about)
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


# ---- Great Expectations -------------------------------------------------------------------------------------------------


def great_expectations() -> Any:
    """The package, imported with its usage statistics off. The first call takes seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    return _Package(great_expectations)


class _Package:
    """The names of the package that a stage uses."""

    def __init__(self, package: Any) -> None:
        from great_expectations import expectations
        from great_expectations.core.batch_definition import BatchDefinition
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types import base
        from great_expectations.datasource.fluent.interfaces import TestConnectionError
        from great_expectations.datasource.fluent.sql_datasource import QueryAsset, TableAsset
        from great_expectations.render.renderer.site_builder import SiteBuilder
        from sqlalchemy import quoted_name

        self.root = package
        self.Untouchable = TestConnectionError
        self.BatchDefinition = BatchDefinition
        self.QueryAsset = QueryAsset
        self.TableAsset = TableAsset
        self.expectations = expectations
        self.RunIdentifier = RunIdentifier
        self.SiteBuilder = SiteBuilder
        self.config = base
        self.quoted_name = quoted_name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The schema of a table can only be given in a way that is announced to change; the pinned version knows it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*schema_name.*", category=DeprecationWarning)
        yield


@contextlib.contextmanager
def _connections(conninfo: str, schema: str, seconds: float) -> Iterator[Callable[[], psycopg.Connection]]:
    """Opens the connections that an engine asks for, none of which can write, and closes them all in the end."""
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(session(conninfo, schema, seconds=seconds))


def _context(gx: _Package) -> Any:
    """A context in memory."""
    return gx.root.get_context(
        mode="ephemeral",
        project_config=gx.config.DataContextConfig(
            store_backend_defaults=gx.config.InMemoryStoreBackendDefaults(),
            progress_bars=gx.config.ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )


def _batches(
    gx: _Package,
    context: Any,
    opener: Callable[[], psycopg.Connection],
    schema: str,
    assets: Sequence[Asset],
    problems: Mapping[str, str],
) -> list[Any]:
    """All rows of each asset; for a table that cannot be looked at one row stands in.

    The context writes its whole configuration anew for each thing that is added to it, so they are added at once.
    """
    described = []
    for number, asset in enumerate(assets):
        name = _suite(asset, number)
        if asset.table is not None and asset.table not in problems:
            table, place = gx.quoted_name(asset.table, True), gx.quoted_name(schema, True)
            made = gx.TableAsset(name=name, table_name=table, schema_name=place)
        else:
            query = "SELECT 1 AS nothing" if asset.table is not None else _values(asset.rows).as_string(None)
            made = gx.QueryAsset(name=name, query=query)
        made.batch_definitions.append(gx.BatchDefinition(name="all rows"))
        described.append(made)
    try:
        source = context.data_sources.add_postgres(
            name="target",
            # The address is a form that must be filled in; connections come from the opener.
            connection_string="postgresql+psycopg://target@target/target",
            kwargs={"creator": opener},
            assets=described,
        )
    except gx.Untouchable as error:
        raise CannotCheck("the tables could not be reached", where=f"schema {schema}", found=_reason(str(error))) from None
    return [source.get_asset(_suite(asset, number)).get_batch_definition("all rows") for number, asset in enumerate(assets)]


def _problems(connection: psycopg.Connection, schema: str, tables: Sequence[str]) -> dict[str, str]:
    """Why a table cannot be looked at; nothing for the others."""
    problems = relation_problem(connection, schema, tables)
    for table in tables:
        if table not in problems:
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(schema, table)))
            except psycopg.Error as error:
                if connection.broken or connection.closed:
                    raise
                problems[table] = query_problem(error)
    return problems


def _values(rows: Sequence[Mapping[str, str | int | None]]) -> sql.Composed:
    """The rows as a query in which Great Expectations finds nothing that it takes for a placeholder: texts are hex."""

    def cell(value: str | int | None, kind: str) -> sql.Composed:
        if isinstance(value, str):
            return sql.SQL("convert_from(decode({}, 'hex'), 'UTF8')").format(sql.Literal(value.encode().hex()))
        return sql.SQL("CAST({} AS {})").format(sql.Literal(value), sql.SQL(kind))

    kinds = {column: "bigint" if any(isinstance(row[column], int) for row in rows) else "text" for column in rows[0]}
    lines = [sql.SQL(", ").join(cell(row[column], kind) for column, kind in kinds.items()) for row in rows]
    return sql.SQL("SELECT * FROM (VALUES {}) AS given ({})").format(
        sql.SQL(", ").join(map(sql.SQL("({})").format, lines)), sql.SQL(", ").join(map(sql.Identifier, kinds))
    )


def _definition(gx: _Package, context: Any, batch: Any, asset: Asset, number: int, problem: str) -> Any:
    suite = gx.root.ExpectationSuite(name=_suite(asset, number))
    for place, requirement in enumerate(asset.requirements):
        make = in_bounds(lambda: cannot_say(problem)) if problem and not requirement.elsewhere else requirement.make
        suite.add_expectation(make(gx.expectations, meta={"requirement": _identity(number, place)}))
    return context.validation_definitions.add(
        gx.root.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(suite))
    )


def _identity(number: int, place: int) -> str:
    """Names of checks may meet, as those of table a_b, key c and of table a, key b_c; these do not."""
    return f"{number}.{place}"


def _suite(asset: Asset, number: int) -> str:
    """The asset's name as a file and an address can have it; the number keeps apart what becomes alike."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', asset.name)[:80]}-{number}"


def _evaluate(gx: _Package, context: Any, stage: str, definitions: Sequence[Any], run: Any) -> dict[str, Any]:
    """What came of every expectation, by the requirement's identity."""
    checkpoint = context.checkpoints.add(
        gx.root.Checkpoint(
            name=stage,
            validation_definitions=list(definitions),
            # Complete for rows in memory, which are few; of a table the expectations give what they may, see there.
            result_format={
                "result_format": "COMPLETE",
                "return_unexpected_index_query": False,
                "unexpected_index_column_names": ["name"],
            },
        )
    )
    return {
        result.expectation_config.meta["requirement"]: result
        for validation in checkpoint.run(run_id=run).run_results.values()
        for result in validation.results
    }


def _check(requirement: Requirement, result: Any, where: str) -> Check:
    """The check that a requirement becomes. Only a result that was really evaluated can pass."""

    def check(outcome: Outcome, found: str, do: str) -> Check:
        return Check(requirement.name, requirement.title, outcome, requirement.expected, found, do, where)

    raised = "" if result is None else _raised(result)
    if result is None or raised:
        return check("unknown", _reason(raised) if raised else "it was not evaluated", UNCOUNTED)
    details = result.result or {}
    elements, missing = details.get("element_count"), details.get("missing_count") or 0
    if elements is not None and elements - missing <= 0:
        # Empty values are passed over, so a column without any other would hold everything.
        return check("unknown", "there was nothing to look at", UNCOUNTED)
    try:
        found = requirement.found(details)
    except (KeyError, TypeError, ValueError):
        return check("unknown", "the result holds no value", UNCOUNTED)
    if result.success is True:
        return check("passed", found, "")
    return check(requirement.otherwise, found, requirement.do)


def _raised(result: Any) -> str:
    """Why an expectation was not evaluated; empty when it was. The information stands alone or once for each metric."""
    info = result.exception_info
    if not info:
        return ""
    if not isinstance(info, dict):
        return str(info)
    for item in [info] if "raised_exception" in info else list(info.values()):
        if not isinstance(item, dict) or item.get("raised_exception"):
            return str(item.get("exception_message") if isinstance(item, dict) else item) or "no reason was given"
    return ""


def _reason(message: str) -> str:
    """The first line of an exception's text, without the class in front and the statement behind it."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    text = re.sub(r"^\(?[\w.]+(?:Error|Exception)[\w.]*\)?:?\s*", "", lines[0]) if lines else ""
    return re.sub(r"\(psycopg[\w.]*\)\s*", "", text).strip() or "Great Expectations gave no reason"


def _require_connection(stage: str, evaluated: Mapping[str, Any]) -> None:
    """Another try may help where the server went away, and only there."""
    for message in map(_raised, evaluated.values()):
        if _LOST.search(message):
            raise Unreachable(
                "the connection to the target broke",
                where=f"stage {stage}",
                found=_reason(message),
                do="Check that the server runs, then try again.",
            )


def _nothing_evaluated(stage: str, checks: Sequence[Check] = ()) -> CannotCheck:
    return CannotCheck(
        "not a single expectation was evaluated",
        where=f"stage {stage}",
        expected="at least one",
        found="; ".join(f"{check.where}: {check.found}" for check in checks[:5]),
        do=UNCOUNTED,
    )


# ---- the site ---------------------------------------------------------------------------------------------------------
def _link(url: str | None) -> str:
    """The address when it is one that a page may link to, else nothing."""
    return url if url and re.match(r"(?:https?://|/(?!/))[^\s<>\"]+$", url) else ""


def _clear(docs: Path) -> None:
    """Remove what an earlier try left, and only that."""
    for name in ("validations", "expectations", "static"):
        shutil.rmtree(docs / name, ignore_errors=True)
    (docs / "index.html").unlink(missing_ok=True)
    docs.mkdir(parents=True, exist_ok=True)


def _build(gx: _Package, context: Any, docs: Path, stage: Mapping[str, Any]) -> None:
    """Let Great Expectations write its site, by our renderers and in our words."""
    place = {"module_name": "include.cutover.proof.validation_site"}
    look = {"view": {**place, "class_name": "Page"}}
    try:
        gx.SiteBuilder(
            data_context=context,
            site_name=stage["heading"],
            show_how_to_buttons=False,
            store_backend={
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(docs),
                "suppress_store_backend_id": True,
            },
            site_index_builder={
                "class_name": "DefaultSiteIndexBuilder",
                "renderer": {**place, "class_name": "StartPage", "stage": stage},
                **look,
            },
            site_section_builders={
                "expectations": "none",  # what was expected stands beside what was found
                "profiling": "none",
                "validations": {"renderer": {**place, "class_name": "ResultPage", "stage": stage}, **look},
            },
        ).build()
    except OSError as error:
        raise _incomplete(docs, str(error)) from None


def _finish(docs: Path, validations: int) -> None:
    """Take away the fonts and pictures that no page uses, and see that every page is there.

    Great Expectations only logs what it could not write.
    """
    shutil.rmtree(docs / "static", ignore_errors=True)
    written = sum(1 for _ in (docs / "validations").rglob("*.html"))
    index = docs / "index.html"
    if written != validations or not index.is_file() or not index.stat().st_size:
        raise _incomplete(docs, f"{written} of {validations} results")


def _incomplete(docs: Path, found: str) -> CannotCheck:
    return CannotCheck(
        "the Data Docs are not complete",
        where=str(docs),
        expected="a page for every result, and their index",
        found=found,
        do="Look at the log for what could not be written, and at the disk's free space; then run the step again.",
    )
