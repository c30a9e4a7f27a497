"""Copies one table, or one stream of its chunks."""

from __future__ import annotations

from include.cutover.copying import tables as copying
from include.cutover.copying.chunks import Share
from include.cutover.copying.progress import CopyProgress
from include.cutover.copying.table_copy import RunLease
from include.cutover.runs import clock as clocks
from include.cutover.runs import runbook
from include.cutover.steps.step import Report, Step
from include.cutover.target.sides import Sides


def copy(step: Step, *, table: str, stream: int = 0) -> Report:
    """Copy one table, or one stream of its chunks, from the verified backup. A retry continues after the last whole chunk.

    When the time is up the copy stops where it is: the run goes back.

    Args:
        step: The step.
        table: The table.
        stream: Number of the stream, counted from 0.
    """
    settings = step.plan.tables[table]

    clock = clocks.read(step.evidence.events())

    def report(progress: CopyProgress) -> None:
        step.log.info("%s", progress)
        if clock is not None:
            clock.require_in_time(step.name, rest_from=runbook.BUILD_KEYS)  # the remaining statements run after the copy

    result = copying.copy_table(
        Sides.of_plan(step.plan, step.decided.file, step.target),
        RunLease(step.run_id, step.epoch),
        table,
        chunk_rows=settings.chunk_rows,
        share=Share(stream, settings.streams),
        on_progress=report,
    )
    rate = result.rows / result.seconds if result.seconds > 0 else 0
    return Report(
        f"{table}: {result.rows:,} rows in {result.seconds:.1f} s ({rate:,.0f} rows/s)",
        {
            "table": table,
            "rows": result.rows,
            "bytes": result.bytes,
            "seconds": result.seconds,
            "chunks_copied": result.chunks_copied,
            "chunks_already_there": result.chunks_already_there,
        },
    )
