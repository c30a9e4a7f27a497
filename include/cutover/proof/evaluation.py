"""Evaluates requirements with Great Expectations: a context in memory, read-only connections, one checkpoint.

Great Expectations never learns how to log in: its engine is handed connections that were opened elsewhere, so neither the
address nor the password can get into a page.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from include.cutover.errors import CannotCheck
from include.cutover.proof.reading import query_problem, relation_problem, session
from include.cutover.proof.requirements import Asset, cannot_say, in_bounds


def great_expectations() -> Any:
    """Import the package, with its usage statistics off. The first call takes seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    return Package(great_expectations)


class Package:
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
def without_warnings() -> Iterator[None]:
    """Silence the warning that the way to give a table's schema will change; the pinned version knows it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*schema_name.*", category=DeprecationWarning)
        yield


@contextlib.contextmanager
def read_only_connections(conninfo: str, schema: str, seconds: float) -> Iterator[Callable[[], psycopg.Connection]]:
    """Open the connections that an engine asks for, none of which can write, and close them all in the end."""
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(session(conninfo, schema, seconds=seconds))


def new_context(gx: Package) -> Any:
    """Return a context in memory."""
    return gx.root.get_context(
        mode="ephemeral",
        project_config=gx.config.DataContextConfig(
            store_backend_defaults=gx.config.InMemoryStoreBackendDefaults(),
            progress_bars=gx.config.ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )


def add_assets(
    gx: Package,
    context: Any,
    opener: Callable[[], psycopg.Connection],
    schema: str,
    assets: Sequence[Asset],
    problems: Mapping[str, str],
) -> list[Any]:
    """Add the assets to the context, and return a batch with all rows of each; one row stands for a table with a problem.

    The context writes its whole configuration anew for each addition, so they are added at once.

    Args:
        gx: Great Expectations.
        context: The context in memory.
        opener: Opens a connection with the target.
        schema: The application's schema.
        assets: Tables, and rows in memory.
        problems: Why a table cannot be queried.
    """
    described = []
    for number, asset in enumerate(assets):
        name = suite_name(asset, number)
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
        raise CannotCheck(
            "the tables could not be reached",
            where=f"schema {schema}",
            found=first_line(str(error)),
            do="Check the target's log, then run the step again.",
        ) from None
    return [
        source.get_asset(suite_name(asset, number)).get_batch_definition("all rows") for number, asset in enumerate(assets)
    ]


def table_problems(connection: psycopg.Connection, schema: str, tables: Sequence[str]) -> dict[str, str]:
    """Return why a table cannot be queried; nothing for the others."""
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
    """Return the rows as a query without anything that Great Expectations takes for a placeholder: texts are hex."""

    def cell(value: str | int | None, kind: str) -> sql.Composed:
        if isinstance(value, str):
            return sql.SQL("convert_from(decode({}, 'hex'), 'UTF8')").format(sql.Literal(value.encode().hex()))
        return sql.SQL("CAST({} AS {})").format(sql.Literal(value), sql.SQL(kind))

    kinds = {column: "bigint" if any(isinstance(row[column], int) for row in rows) else "text" for column in rows[0]}
    lines = [sql.SQL(", ").join(cell(row[column], kind) for column, kind in kinds.items()) for row in rows]
    return sql.SQL("SELECT * FROM (VALUES {}) AS given ({})").format(
        sql.SQL(", ").join(map(sql.SQL("({})").format, lines)), sql.SQL(", ").join(map(sql.Identifier, kinds))
    )


def define_suite(gx: Package, context: Any, batch: Any, asset: Asset, number: int, problem: str) -> Any:
    """Define the suite of an asset over its batch. With a problem only figures that came from elsewhere are evaluated.

    Args:
        gx: Great Expectations.
        context: The context in memory.
        batch: The rows of the asset.
        asset: The table, or the rows in memory.
        number: Of the asset in the stage.
        problem: Why the table cannot be queried; empty when it can.
    """
    suite = gx.root.ExpectationSuite(name=suite_name(asset, number))
    for place, requirement in enumerate(asset.requirements):
        make = in_bounds(lambda: cannot_say(problem)) if problem and not requirement.elsewhere else requirement.make
        suite.add_expectation(make(gx.expectations, meta={"requirement": requirement_name(number, place)}))
    return context.validation_definitions.add(
        gx.root.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(suite))
    )


def requirement_name(number: int, place: int) -> str:
    """Return a name that no other requirement has: names of checks may meet, as of table a_b, key c and table a, key b_c."""
    return f"{number}.{place}"


def suite_name(asset: Asset, number: int) -> str:
    """Return the asset's name for a file and an address; the number keeps apart names that become alike."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', asset.name)[:80]}-{number}"


def evaluate(gx: Package, context: Any, stage: str, definitions: Sequence[Any], run: Any) -> dict[str, Any]:
    """Evaluate all suites in one checkpoint, and return the result of each expectation by the requirement's name.

    Args:
        gx: Great Expectations.
        context: The context in memory.
        stage: Name of the checkpoint.
        definitions: The suites with their batches.
        run: Great Expectations' identifier of the run.
    """
    checkpoint = context.checkpoints.add(
        gx.root.Checkpoint(
            name=stage,
            validation_definitions=list(definitions),
            # Complete for rows in memory, which are few; for a table the expectations limit their result.
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


def why_not_evaluated(result: Any) -> str:
    """Return why an expectation was not evaluated; empty when it was. The information stands alone or per metric."""
    info = result.exception_info
    if not info:
        return ""
    if not isinstance(info, dict):
        return str(info)
    for item in [info] if "raised_exception" in info else list(info.values()):
        if not isinstance(item, dict) or item.get("raised_exception"):
            return str(item.get("exception_message") if isinstance(item, dict) else item) or "no reason was given"
    return ""


def first_line(message: str) -> str:
    """Return the first line of an exception's text, without the class in front and the statement behind it."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    text = re.sub(r"^\(?[\w.]+(?:Error|Exception)[\w.]*\)?:?\s*", "", lines[0]) if lines else ""
    return re.sub(r"\(psycopg[\w.]*\)\s*", "", text).strip() or "Great Expectations gave no reason"
