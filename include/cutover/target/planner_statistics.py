"""The planner's statistics of a loaded schema."""

from __future__ import annotations

from psycopg import sql

from include.cutover.errors import StepFailed
from include.cutover.target import catalog
from include.cutover.target.ledger import Guard
from include.cutover.target.session import session


def gather(conninfo: str, schema: str, guard: Guard | None = None) -> None:
    """Gather the statistics of every table, each in a transaction of its own. Safe to run again.

    Raises:
        StepFailed: When PostgreSQL left a table out, which it reports as a warning only.
    """
    warnings: list[str] = []
    with session(conninfo, schema) as connection:
        connection.add_notice_handler(
            lambda notice: (
                warnings.append(notice.message_primary or "") if notice.severity_nonlocalized == "WARNING" else None
            )
        )
        for table in catalog.tables(connection, schema):
            with connection.transaction():
                if guard is not None:
                    guard(connection)
                connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table)))
    if warnings:
        raise StepFailed(
            "statistics were not gathered for every table",
            where=f"schema {schema}",
            found="; ".join(warnings),
            do="Let the pipeline's role own these tables, then retry.",
        )
