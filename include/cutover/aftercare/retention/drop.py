"""Schemas that rolled-back runs left in the target, dropped when their time is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from psycopg import sql

from include.cutover.aftercare.retention import past_runs
from include.cutover.aftercare.retention.past_runs import PastRun
from include.cutover.aftercare.retention.record import DROPPED, DROPPING, Deed
from include.cutover.aftercare.retention.work import Work
from include.cutover.target import drop as target_drop
from include.cutover.target import schema as target_schema
from include.cutover.target import session as target_session
from include.cutover.target import sql_runner


def drop(work: Work, run: PastRun, conninfo: Callable[[], str] | None) -> Iterator[Deed]:
    """Drop the schema that the run's rollback kept in the target, when it is old enough.

    Args:
        work: The call.
        run: The run.
        conninfo: The target's; None where the log-in is not known.
    """
    kept = run.last("target.kept")
    if kept is None or not work.older(kept["time"], work.plan.retention.kept_target_days):
        return
    if work.evidence.exists and work.evidence.last(DROPPED, run=run.name) is not None:
        return
    schema = str(kept["schema"])
    because = past_runs.keep_reason(run, work.plan, work.now)
    if not because and run.outcome == "live":
        because = "its run is live"
    if because:
        yield Deed("drop", run.name, schema, False, because)
        return
    if schema != target_schema.kept_name(run.frozen_plan(work.plan).target_schema, run.run_id):
        yield Deed("drop", run.name, schema, False, "its name is not that of a kept schema", failed=True)
        return
    if conninfo is None:
        yield Deed("drop", run.name, schema, False, "the log-in for the target is not defined", failed=True)
        return
    with target_session.session(conninfo(), "pg_catalog") as connection:
        there = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is not None
        if there and not work.dry_run:
            work.evidence.append(DROPPING, run=run.name, schema=schema, rows=kept.get("rows"))
            with connection.transaction():
                target_drop.drop_objects(connection, schema, sql_runner.objects(connection, schema))
                connection.execute(sql.SQL("DROP SCHEMA {} RESTRICT").format(sql.Identifier(schema)))
    if not work.dry_run:
        work.evidence.append(DROPPED, run=run.name, schema=schema)
    if there:
        yield Deed("drop", run.name, schema, True)
