"""The proof of equal content: each side computes digests of its own rows, both at once, and they are compared.

On a difference the parts that differ are read row by row, and missing, extra and changed rows are distinguished, with the
columns and the values that differ. The target is read in one moment, also by several connections. A
table that cannot be compared never counts as equal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from include.cutover.errors import CannotCheck, CutoverError, Unreachable
from include.cutover.proof import parts, readers, reference_rows
from include.cutover.proof.digest_store import DigestStore
from include.cutover.proof.parts import ComparedTable
from include.cutover.proof.readers import Readers
from include.cutover.proof.table_comparison import TableComparison
from include.cutover.proof.table_result import TableResult
from include.cutover.proof.words import REFERENCE_DATA
from include.cutover.source import schema as source_schema
from include.cutover.target.sides import Sides

log = logging.getLogger(__name__)

WORKERS = 2
SECONDS = 1_800.0


def compare(
    sides: Sides,
    tables: Collection[str],
    *,
    store: DigestStore | None = None,
    sql_folder: Path | None = None,
    workers: int = WORKERS,
    seconds: float = SECONDS,
    on_table: Callable[[TableResult], None] | None = None,
) -> list[TableResult]:
    """Compare the content of tables, both sides computing at once. Safe to run again, at any time: it reads only.

    A table that has no rows in the snapshot must be empty, or hold exactly the rows that the plan's reference data brings.

    Args:
        sides: The snapshot, and the target that must hold the same.
        tables: Names of the tables to compare.
        store: Where the source's digests are kept: used where they belong to this snapshot, written where they are missing.
        sql_folder: The plan's SQL, for the reference data; without it none is expected.
        workers: Sessions with the target, and threads that read the source.
        seconds: How long one statement in the target may take.
        on_table: Called with each table's result.

    Returns:
        One result per table. A table that could not be read is ``unknown``; the others are compared all the same.

    Raises:
        CannotCheck: When no table is named, or the snapshot cannot be read at all.
        Unreachable: When the target does not answer, or the connection breaks.
    """
    if not tables:
        raise CannotCheck("no table to compare", where=sides.schema, expected="the plan's tables", do="Check the manifest.")
    identity = store.identity_of(sides.snapshot) if store is not None else []
    results: dict[str, TableResult] = {}

    def report(result: TableResult) -> None:
        log.info("%s: %s", result.table, result.summary)
        results[result.table] = result
        if on_table is not None:
            on_table(result)

    with readers.opened(sides, workers, seconds) as both:
        wanted = parts.compared_tables(both.reading, both.connection, sides.schema, tables)
        known = store.load(identity, wanted) if store is not None else {}
        comparisons = {table: TableComparison(both, compared, known.get(table)) for table, compared in wanted.items()}
        unexpected: dict[str, TableResult] = {}
        for table, comparison in comparisons.items():
            result = comparison.result(sides.secret_of(table))
            if sql_folder is not None and result.source_rows == 0 and result.extra and not result.faults:
                unexpected[table] = result
            else:
                report(result)
        if store is not None:
            fresh = {table: one.ours for table, one in comparisons.items() if table not in known and one.ours is not None}
            store.keep(identity, wanted, fresh)
        if sql_folder is not None and unexpected:
            for result in _reference_results(both, sides, sql_folder, wanted, unexpected):
                report(result)
    return [results[table] for table in wanted]


def source_digests(
    sides: Sides, tables: Collection[str], *, store: DigestStore | None = None, workers: int = WORKERS
) -> dict[str, str]:
    """Compute one digest of the whole content of each table in the snapshot; equal for any true copy of it.

    Of the target only the columns' types are needed, so it can be computed while the copy is still going on. Digests that
    are stored for this snapshot are not computed again, and those that were computed are stored.

    Args:
        sides: The snapshot, and the target with the same tables.
        tables: Names of the tables.
        store: Where the digests are kept, as for ``compare``.
        workers: Threads that read the source.

    Returns:
        Table → digest.

    Raises:
        CannotCheck: When a table cannot be read, or is not on both sides.
        Unreachable: When the target does not answer.
    """
    identity = store.identity_of(sides.snapshot) if store is not None else []
    with readers.opened(sides, workers, SECONDS) as both:
        wanted = parts.compared_tables(both.reading, both.connection, sides.schema, tables)
        faults = [f"{table}: {', '.join(compared.faults)}" for table, compared in wanted.items() if compared.faults]
        if faults:
            raise CannotCheck(
                "source and target do not have the same columns",
                where=sides.schema,
                found="; ".join(faults),
                do="Correct the plan's SQL.",
            )
        known = store.load(identity, wanted) if store is not None else {}
        comparisons = {
            table: TableComparison(both, compared, None, source_only=True)
            for table, compared in wanted.items()
            if table not in known
        }
        fresh = {table: comparison.digests() for table, comparison in comparisons.items()}
        if store is not None:
            store.keep(identity, wanted, fresh)
        return {table: {**known, **fresh}[table].whole for table in wanted}


def _reference_results(
    both: Readers,
    sides: Sides,
    sql_folder: Path,
    compared: Mapping[str, ComparedTable],
    unexpected: Mapping[str, TableResult],
) -> Iterator[TableResult]:
    """Compare tables without a row in the snapshot with the rows that the plan's reference data brings.

    Args:
        both: Sessions with both sides.
        sides: The snapshot and the target.
        sql_folder: The plan's SQL.
        compared: The columns of every table.
        unexpected: The tables, with the results of their comparison with the snapshot.
    """
    wanted = {table: compared[table] for table in unexpected}
    filled = [table for table in source_schema.tables(both.reading) if table not in unexpected]
    try:
        brought = reference_rows.compare(sides, sql_folder, both.connection, wanted, filled)
    except Unreachable:
        raise
    except CutoverError as error:
        problem = f"the reference data could not be tried: {error}"
        yield from (TableResult(table, None, None, problem=problem, origin=REFERENCE_DATA) for table in unexpected)
        return
    for table, (expected, held, found) in brought.items():
        if not expected:
            yield unexpected[table]
            continue
        yield TableResult(
            table,
            expected,
            held,
            parts=1,
            different=1 if found.rows else 0,
            missing=found.missing,
            extra=found.extra,
            changed=found.changed,
            differences=tuple(found.named),
            origin=REFERENCE_DATA,
        )
