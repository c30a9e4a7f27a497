"""Verification by Great Expectations, on the real tables of the target and on the reconciliation of both sides.

A stage is one ephemeral run: it leaves a static site of Data Docs in its folder and nothing anywhere else. Great
Expectations never learns how to log in: its engine is handed connections that were opened elsewhere, read-only, so neither
the address nor the password can get into a page. What an expectation cannot look at is ``unknown``, never a pass.

Importing Great Expectations takes three to four seconds of CPU, so that happens inside a stage, while the server counts.
A further stage is a list of ``Asset`` given to ``run_stage``.
"""

from __future__ import annotations

import contextlib
import html
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from include.cutover import catalog
from include.cutover.checks import Check, Outcome, worst
from include.cutover.errors import CannotCheck
from include.cutover.verification import (
    MISMATCH,
    ORPHANS,
    SHOWN_KEYS,
    UNCOUNTED,
    ExpectedCount,
    Reconciliation,
    count_checks,
    count_text,
    key_columns,
    orphan_rows,
    orphan_text,
    orphan_title,
    orphans_name,
    query_problem,
    reading,
    relation_problem,
    rows_text,
    session,
)

if TYPE_CHECKING:
    from include.cutover.catalog import ForeignKey

log = logging.getLogger(__name__)

Result = Mapping[str, Any]
"""What one expectation found, as Great Expectations gives it, e.g. ``{"observed_value": 3}``."""


@dataclass(frozen=True)
class Requirement:
    """One expectation in plain words, and how to make it.

    Attributes:
        name: Stable identifier of the check it becomes.
        title: What is checked, for the observer.
        expected: The value that must be found.
        origin: Where that value comes from, as a sentence.
        make: Makes the expectation from the module ``great_expectations.expectations``; the keyword arguments it gets are
            passed on.
        found: Puts a result into words; never with the content of a column that is no key.
        do: What to do when it does not hold.
        otherwise: The outcome when it does not hold.
        where: What the check is about, when that is not the asset.
    """

    name: str
    title: str
    expected: str
    origin: str
    make: Callable[..., Any]
    found: Callable[[Result], str]
    do: str
    otherwise: Outcome = "failed"
    where: str = ""


@dataclass(frozen=True)
class Asset:
    """What the requirements are about: a real table of the target, or rows put together in memory.

    Attributes:
        name: How it is called in the Data Docs.
        table: Name of the table, None for ``rows``.
        rows: Rows with the same columns each; the first column names a row.
    """

    name: str
    requirements: Sequence[Requirement]
    table: str | None = None
    rows: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class StageResult:
    """What a stage found.

    Attributes:
        success: Whether at least one expectation was evaluated and every single one holds.
        docs_index: Start page of the Data Docs.
        summary: One sentence.
        figures: Numbers for the report.
    """

    stage: str
    success: bool
    checks: list[Check]
    docs_index: Path
    summary: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def check_counts(
    conninfo: str,
    schema: str,
    expected: Mapping[str, ExpectedCount],
    docs: Path,
    task_log_url: str | None = None,
    *,
    seconds: float = 300,
) -> StageResult:
    """Every table holds the rows it must: asked of each real table, and of the reconciliation of both sides.

    Safe to run again: it reads only, and writes its site anew.

    Args:
        expected: Rows per table of the plan, with their origin.
        docs: Folder of this stage's site.
        task_log_url: Link to the task's log.
        seconds: How long one query may take.

    Raises:
        CannotCheck: When no table is expected, nothing was evaluated or the Data Docs could not be written.
        Unreachable: When the target does not answer.
    """
    with ThreadPoolExecutor(max_workers=1) as background:
        counting = background.submit(count_checks, conninfo, schema, expected, seconds=seconds)
        _great_expectations()
        rows = counting.result()
    assets = [_table_asset(row) for row in rows]
    assets.append(_reconciliation(rows, expected))
    result = run_stage("counts", "Row counts", conninfo, schema, assets, docs, task_log_url, seconds=seconds)
    wrong = [row for row in rows if row.delta != 0]
    total = sum(row.target_rows or 0 for row in rows)
    if not wrong and result.success:
        summary = f"{len(rows)} tables, {rows_text(total)}: every count is as expected"
    else:
        named = "; ".join(f"{row.table}: expected {row.source_rows:,}, found {_target_text(row)}" for row in wrong[:5])
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        summary = f"{len(wrong)} of {len(rows)} tables are not as expected" + (f": {named}{more}" if named else "")
    figures = {
        "tables": [
            {
                "table": row.table,
                "source_rows": row.source_rows,
                "target_rows": row.target_rows,
                "delta": row.delta,
                "origin": row.origin,
            }
            for row in rows
        ],
        "rows": total,
        "expectations": len(result.checks),
    }
    return replace(result, summary=summary, figures=figures)


def check_orphans(
    conninfo: str,
    schema: str,
    docs: Path,
    task_log_url: str | None = None,
    secret: Mapping[str, Collection[str]] | None = None,
    *,
    seconds: float = 300,
) -> StageResult:
    """No row refers to a row that is not there: one expectation for each foreign key of the target's catalog.

    Safe to run again: it reads only, and writes its site anew.

    Args:
        docs: Folder of this stage's site; it shows keys only.
        task_log_url: Link to the task's log.
        secret: Columns per table whose content is never shown, also not where they are keys.
        seconds: How long one query may take.

    Raises:
        CannotCheck: When the catalog knows no foreign key, nothing was evaluated or the Data Docs could not be written.
        Unreachable: When the target does not answer.
    """
    with reading(conninfo, schema, seconds=seconds) as connection:
        keys = catalog.foreign_keys(connection, schema)
        primary = {key.table: catalog.primary_key(connection, schema, key.table) for key in keys}
    if not keys:
        raise CannotCheck(
            "the target's catalog knows no foreign key, so nothing can be looked at",
            where=schema,
            expected="the foreign keys of the plan",
            do="Look whether declare_foreign_keys ran.",
        )
    requirements: dict[str, list[Requirement]] = {}
    for key in keys:
        hidden = (secret or {}).get(key.table, ())
        requirements.setdefault(key.table, []).append(_no_orphans(schema, key, primary[key.table], hidden))
    assets = [Asset(table, demanded, table=table) for table, demanded in requirements.items()]
    found: dict[str, Result] = {}
    result = run_stage(
        "orphans",
        "Foreign keys without orphans",
        conninfo,
        schema,
        assets,
        docs,
        task_log_url,
        seconds=seconds,
        results=found,
    )
    orphans = []
    for key in keys:
        details = found.get(orphans_name(key), {})
        if details.get("observed_value"):
            orphans.append(
                {
                    "foreign_key": key.name,
                    "table": key.table,
                    "columns": list(key.columns),
                    "referenced_table": key.referenced_table,
                    "count": details["observed_value"],
                    "keys": [_as_text(row) for row in _rows_of(details)],
                }
            )
    unknown = sum(check.outcome == "unknown" for check in result.checks)
    summary = f"{len(keys)} foreign keys looked at, no orphan"
    if orphans or unknown:
        total = sum(int(item["count"]) for item in orphans)
        named = "; ".join(f"{item['table']}.{', '.join(item['columns'])}: {item['count']:,}" for item in orphans[:5])
        summary = f"{total:,} orphans under {len(orphans)} of {len(keys)} foreign keys" + (f" ({named})" if named else "")
        summary += f"; {unknown} could not be looked at" if unknown else ""
    return replace(result, summary=summary, figures={"foreign_keys": len(keys), "orphans": orphans})


def run_stage(
    stage: str,
    heading: str,
    conninfo: str,
    schema: str,
    assets: Sequence[Asset],
    docs: Path,
    task_log_url: str | None = None,
    *,
    seconds: float = 300,
    results: dict[str, Result] | None = None,
) -> StageResult:
    """Evaluate every requirement of every asset, write the Data Docs, and say what came of it.

    The site appears in ``docs`` (``index.html``; all links are relative, nothing is loaded from elsewhere); an earlier site
    there is removed first. Several stages may run at the same time, in processes of their own.

    Args:
        stage: Short name, part of the addresses in the site.
        heading: What the stage checks, on top of every page.
        conninfo: libpq connection string of the target.
        seconds: How long one query may take.
        results: Gets what Great Expectations found, by the requirement's name.

    Returns:
        One check for each requirement, in their order. An expectation that could not be evaluated, and a table that is not
        there, are ``unknown``.

    Raises:
        CannotCheck: When there is nothing to evaluate, nothing was evaluated, or the Data Docs could not be written.
        Unreachable: When the target does not answer.
    """
    wanted = [requirement for asset in assets for requirement in asset.requirements]
    if not wanted:
        raise _nothing_evaluated(stage)
    if len({requirement.name for requirement in wanted}) < len(wanted):
        raise ValueError("two requirements of a stage have the same name")
    gx = _great_expectations()
    with reading(conninfo, schema, seconds=seconds) as connection:
        problems = relation_problem(connection, schema, [asset.table for asset in assets if asset.table is not None])
    _clear(docs)
    evaluated: dict[str, Any] = {}
    with _quiet(), _connections(conninfo, schema, seconds) as opener:
        context = _context(gx)
        run = gx.RunIdentifier(run_name=stage, run_time=datetime.now(UTC))
        tables, frames = [], []
        for number, asset in enumerate(assets):
            if asset.table is None:
                frames.append((_frame(gx, context, asset, number), asset))
            elif asset.table not in problems:
                try:
                    tables.append(_table(gx, context, opener, schema, asset, number))
                except gx.Untouchable as error:
                    problems[asset.table] = _untouchable(error)
        if tables:
            evaluated |= _evaluate(gx, context, f"{stage}-tables", tables, run)
        for (definition, frame), asset in frames:
            evaluated |= _evaluate(gx, context, f"{stage}-{_slug(asset.name)}", [definition], run, frame, asset)
        if not evaluated:
            raise _nothing_evaluated(stage, problems)
        _build(context, docs, heading, _link(task_log_url))
    _finish(docs, len(tables) + len(frames))
    checks = []
    for asset in assets:
        for requirement in asset.requirements:
            where = requirement.where or (f"{schema}.{asset.table}" if asset.table else asset.name)
            checks.append(_check(requirement, evaluated.get(requirement.name), problems.get(asset.table or "", ""), where))
    if results is not None:
        results.update({name: result.result or {} for name, result in evaluated.items()})
    return StageResult(stage, worst(checks) == "passed", checks, docs / "index.html")


# ---- what is required -------------------------------------------------------------------------------------------------


def _origin_sentence(origin: str) -> str:
    return {
        "snapshot": "The number was counted in the snapshot.",
        "reference data": "The number is what the reference data brought; the snapshot has no rows of this table.",
    }.get(origin, f"The number comes from: {origin}.")


def _table_asset(row: Reconciliation) -> Asset:
    def found(result: Result) -> str:
        observed = int(result["observed_value"])
        return count_text(observed, delta=observed - row.source_rows)

    check = row.check("")
    return Asset(
        row.table,
        [
            Requirement(
                name=check.name,
                title=check.title,
                expected=check.expected,
                origin=_origin_sentence(row.origin),
                make=lambda gxe, **about: gxe.ExpectTableRowCountToEqual(value=row.source_rows, **about),
                found=found,
                do=MISMATCH,
            )
        ],
        table=row.table,
    )


def _reconciliation(rows: Sequence[Reconciliation], expected: Mapping[str, ExpectedCount]) -> Asset:
    """Both sides of all tables as rows: one for each table of the plan, none missing, none twice, no difference."""

    def tables_at_fault(result: Result) -> str:
        faults = [str(item.get("table")) for item in result.get("unexpected_index_list") or []]
        if not faults:
            return "every table"
        return f"not so for {', '.join(faults[:10])}" + (f" and {len(faults) - 10} more" if len(faults) > 10 else "")

    plan = "The tables are those of the plan."
    counts = "Both numbers of a table were counted: one in the snapshot (or brought by reference data), one in the target."
    return Asset(
        "reconciliation",
        [
            Requirement(
                name="reconciliation_number_of_tables",
                title="the reconciliation has as many rows as the plan has tables",
                expected=str(len(expected)),
                origin=plan,
                make=lambda gxe, **about: gxe.ExpectTableRowCountToEqual(value=len(expected), **about),
                found=lambda result: str(result["observed_value"]),
                do=UNCOUNTED,
            ),
            Requirement(
                name="reconciliation_tables",
                title="the reconciliation holds no table that the plan does not have",
                expected="every table is one of the plan",
                origin=plan,
                make=lambda gxe, **about: gxe.ExpectColumnValuesToBeInSet(
                    column="table", value_set=sorted(expected), **about
                ),
                found=tables_at_fault,
                do=UNCOUNTED,
            ),
            Requirement(
                name="reconciliation_once",
                title="each table is present exactly once",
                expected="no table twice",
                origin=plan,
                make=lambda gxe, **about: gxe.ExpectColumnValuesToBeUnique(column="table", **about),
                found=tables_at_fault,
                do=UNCOUNTED,
            ),
            Requirement(
                # The next expectation passes over empty values; without this one a table that was not counted would pass.
                name="reconciliation_counted",
                title="every table was counted in the target",
                expected="a number for every table",
                origin=counts,
                make=lambda gxe, **about: gxe.ExpectColumnValuesToNotBeNull(column="target_rows", **about),
                found=tables_at_fault,
                do=UNCOUNTED,
                otherwise="unknown",
            ),
            Requirement(
                name="reconciliation_delta",
                title="no table has a row more or less than expected",
                expected="delta 0 for every table",
                origin=counts,
                make=lambda gxe, **about: gxe.ExpectColumnValuesToBeInSet(column="delta", value_set=[0], **about),
                found=tables_at_fault,
                do=MISMATCH,
            ),
        ],
        rows=[
            {"table": row.table, "source_rows": row.source_rows, "target_rows": row.target_rows, "delta": row.delta}
            for row in rows
        ],
    )


def _no_orphans(schema: str, key: ForeignKey, primary_key: Sequence[str], hidden: Collection[str]) -> Requirement:
    shown = key_columns(key, primary_key, hidden)

    def make(gxe: Any, **about: Any) -> Any:
        from include.cutover.validation_site import ExpectQueryToFindNoRows

        columns = [sql.SQL("child.{}::text AS {}").format(sql.Identifier(name), sql.Identifier(name)) for name in shown]
        columns.append(sql.SQL("count(*) OVER () AS {}").format(sql.Identifier(ExpectQueryToFindNoRows.COUNT_COLUMN)))
        query = sql.SQL("SELECT {} {} ORDER BY {} LIMIT {}").format(
            sql.SQL(", ").join(columns),
            orphan_rows(schema, key),
            sql.SQL(", ").join(sql.SQL("child.{}").format(sql.Identifier(name)) for name in primary_key or key.columns),
            sql.Literal(SHOWN_KEYS),
        )
        about["meta"] = {**about["meta"], "columns": shown}
        return ExpectQueryToFindNoRows(unexpected_rows_query=_as_template(query.as_string(None)), **about)

    return Requirement(
        name=orphans_name(key),
        title=orphan_title(key),
        expected="no orphan",
        origin=f"The rule is the foreign key {key.name} in the catalog of the target.",
        make=make,
        found=lambda result: orphan_text(int(result["observed_value"]), [_as_text(row) for row in _rows_of(result)]),
        do=ORPHANS,
    )


def _as_template(query: str) -> str:
    """The query as Great Expectations takes it: braces are placeholders there, and a colon starts a bound value.

    It also wants to put the table's name in, unquoted; cut to nothing here, since the query names its tables itself.
    """
    return re.sub(r":(?!:)(?<!::)", r"\\:", query.replace("{", "{{").replace("}", "}}")) + " {batch!s:.0}"


def _rows_of(result: Result) -> list[Mapping[str, Any]]:
    return [row for row in (result.get("details") or {}).get("unexpected_rows") or [] if row]


def _as_text(row: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): "NULL" if value is None else str(value) for name, value in row.items()}


def _target_text(row: Reconciliation) -> str:
    return row.problem if row.target_rows is None else f"{row.target_rows:,}"


# ---- Great Expectations -----------------------------------------------------------------------------------------------


def _great_expectations() -> Any:
    """The package, imported with its usage statistics off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    return _Package(great_expectations)


class _Package:
    """The names of the package that a stage uses."""

    def __init__(self, package: Any) -> None:
        from great_expectations import expectations
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types import base
        from great_expectations.datasource.fluent.interfaces import TestConnectionError
        from sqlalchemy import quoted_name

        self.root = package
        self.Untouchable = TestConnectionError
        self.expectations = expectations
        self.RunIdentifier = RunIdentifier
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
    """A context in memory that knows no site yet: it writes its whole configuration anew for each thing added to it."""
    return gx.root.get_context(
        mode="ephemeral",
        project_config=gx.config.DataContextConfig(
            store_backend_defaults=gx.config.InMemoryStoreBackendDefaults(),
            progress_bars=gx.config.ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )


def _table(
    gx: _Package, context: Any, opener: Callable[[], psycopg.Connection], schema: str, asset: Asset, number: int
) -> Any:
    sources = context.data_sources.all()
    if "target" in sources:
        source = sources["target"]
    else:
        # The address is a form that must be filled in; connections come from the opener.
        source = context.data_sources.add_postgres(
            name="target", connection_string="postgresql+psycopg://target@target/target", kwargs={"creator": opener}
        )
    batch = source.add_table_asset(
        name=_slug(asset.name, number),
        table_name=gx.quoted_name(str(asset.table), True),
        schema_name=gx.quoted_name(schema, True),
    ).add_batch_definition_whole_table("whole table")
    return _definition(gx, context, batch, asset, number)


def _frame(gx: _Package, context: Any, asset: Asset, number: int) -> tuple[Any, Any]:
    import pandas

    name = _slug(asset.name, number)
    source = context.data_sources.add_pandas(name=f"both-{number}")
    batch = source.add_dataframe_asset(name=name).add_batch_definition_whole_dataframe("all rows")
    frame = pandas.DataFrame([dict(row) for row in asset.rows]).convert_dtypes()
    return _definition(gx, context, batch, asset, number), frame


def _definition(gx: _Package, context: Any, batch: Any, asset: Asset, number: int) -> Any:
    suite = gx.root.ExpectationSuite(name=_slug(asset.name, number))
    for requirement in asset.requirements:
        words = f"{requirement.title}: {requirement.expected}. {requirement.origin}"
        suite.add_expectation(
            requirement.make(
                gx.expectations,
                # Great Expectations puts the description into its pages as it is.
                description=html.escape(words[:1].upper() + words[1:]),
                notes=[f"When it does not hold: {requirement.do}"],
                meta={"requirement": requirement.name, "title": requirement.title, "origin": requirement.origin},
            )
        )
    return context.validation_definitions.add(
        gx.root.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(suite))
    )


def _evaluate(
    gx: _Package,
    context: Any,
    name: str,
    definitions: Sequence[Any],
    run: Any,
    frame: Any = None,
    asset: Asset | None = None,
) -> dict[str, Any]:
    """Run one checkpoint; the results by the requirement's name."""
    result_format: dict[str, Any] = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
    if asset is not None and asset.rows:
        result_format["unexpected_index_column_names"] = [next(iter(asset.rows[0]))]
    checkpoint = context.checkpoints.add(
        gx.root.Checkpoint(name=name, validation_definitions=list(definitions), result_format=result_format)
    )
    outcome = checkpoint.run(run_id=run, batch_parameters=None if frame is None else {"dataframe": frame})
    return {
        result.expectation_config.meta["requirement"]: result
        for validation in outcome.run_results.values()
        for result in validation.results
    }


def _check(requirement: Requirement, result: Any, problem: str, where: str) -> Check:
    """The check that a requirement becomes. Only a result that was really evaluated can pass."""

    def check(outcome: Outcome, found: str, do: str) -> Check:
        return Check(requirement.name, requirement.title, outcome, requirement.expected, found, do, where)

    raised = "" if result is None else _raised(result.exception_info)
    if result is None or raised:
        return check("unknown", problem or raised or "it was not evaluated", UNCOUNTED)
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


def _raised(info: Any) -> str:
    """Why an expectation was not evaluated; empty when it was. The information stands alone or once for each metric."""
    if not isinstance(info, dict) or not info:
        return "" if not info else _reason(str(info))
    for item in [info] if "raised_exception" in info else list(info.values()):
        if not isinstance(item, dict) or item.get("raised_exception"):
            return _reason(str(item.get("exception_message") if isinstance(item, dict) else item))
    return ""


def _reason(message: str) -> str:
    """The first line of an exception's text, without the class in front and the statement behind it."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    text = re.sub(r"^\(?[\w.]+(?:Error|Exception)[\w.]*\)?:?\s*", "", lines[0]) if lines else ""
    return re.sub(r"\(psycopg[\w.]*\)\s*", "", text).strip() or "Great Expectations gave no reason"


def _untouchable(error: BaseException) -> str:
    """Why a table could not be touched: the server's own words where it gave any."""
    original = getattr(error.__cause__, "orig", None)
    return query_problem(original) if isinstance(original, psycopg.Error) else _reason(str(error))


def _nothing_evaluated(stage: str, problems: Mapping[str, str] | None = None) -> CannotCheck:
    return CannotCheck(
        "not a single expectation was evaluated",
        where=f"stage {stage}",
        expected="at least one",
        found="; ".join(f"{table}: {problem}" for table, problem in list((problems or {}).items())[:5]),
        do=UNCOUNTED,
    )


# ---- the site ---------------------------------------------------------------------------------------------------------


def _slug(name: str, number: int | None = None) -> str:
    """A name that is safe in a file name and in an address; the number keeps apart what becomes alike."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80]
    return safe if safe == name or number is None else f"{safe}-{number}"


def _link(url: str | None) -> str:
    """The address when it is one that a page may link to, else nothing."""
    return url if url and re.match(r"(?:https?://|/(?!/))[^\s<>\"]+$", url) else ""


def _clear(docs: Path) -> None:
    """Remove what an earlier try left, and only that."""
    for name in ("validations", "expectations", "static"):
        shutil.rmtree(docs / name, ignore_errors=True)
    (docs / "index.html").unlink(missing_ok=True)
    docs.mkdir(parents=True, exist_ok=True)


def _build(context: Any, docs: Path, heading: str, task_log_url: str) -> None:
    view = {
        "module_name": "include.cutover.validation_site",
        "class_name": "SitePage",
        "heading": heading,
        "task_log_url": task_log_url,
    }
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs),
            "suppress_store_backend_id": True,
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "view": view},
        "site_section_builders": {"expectations": {"view": view}, "validations": {"view": view}, "profiling": "none"},
    }
    try:
        context.add_data_docs_site("site", site)
        context.build_data_docs()
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
