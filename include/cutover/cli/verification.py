"""Compares source and target at any time, without Airflow, and only by reading.

The source is a backup, which is read in place after its hash was compared with its manifest, or any other SQLite file, live
or fenced, which is cloned into a scratch folder (``TMPDIR``) and read there. Where the plan holds decisions, they are first
carried out on a clone, as in the cutover. After go-live the target has rows that the source never had: they are reported as
extra, and they are a difference.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check, Outcome
from include.cutover.decisions.apply import apply_decisions
from include.cutover.errors import CannotCheck, CutoverError, Unreachable
from include.cutover.masking import mask
from include.cutover.plan.model import Plan
from include.cutover.proof import content, digest_store
from include.cutover.proof import counts as proof_counts
from include.cutover.proof import orphans as proof_orphans
from include.cutover.proof.counts import ExpectedCount, Reconciliation
from include.cutover.proof.digest_store import DigestStore
from include.cutover.proof.table_result import TableResult
from include.cutover.proof.words import REFERENCE_DATA
from include.cutover.source import backup_manifest, cloning, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.target import catalog, structure
from include.cutover.target import schema as target_schema
from include.cutover.target import sequences as target_sequences
from include.cutover.target import session as target_session
from include.cutover.target.sides import Sides


@dataclass(frozen=True)
class ComparedSource:
    """The source in the form that is compared.

    Attributes:
        file: The file to read: the backup, a clone, or the result of the plan's decisions on either.
        identity: Its SHA-256 where it is known.
        stored: Place of its digests; None for a temporary clone.
        title: Description of the source for the reader.
    """

    file: Path
    identity: str
    stored: Path | None
    title: str


@dataclass(frozen=True)
class Verification:
    """The result of a comparison.

    Attributes:
        plan: Name of the plan.
        source: Description of the source.
        counts: Rows of both sides, by table.
        content: Comparison of the content, by table; empty when only counts were compared.
        checks: Orphans, sequences, schema, and tables that are not in the plan.
    """

    plan: str
    source: str
    counts: Sequence[Reconciliation]
    content: Sequence[TableResult] = ()
    checks: Sequence[Check] = field(default=())

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of all comparisons; the content of a table includes its count."""
        tables = [result.outcome for result in self.content] or [row.check("").outcome for row in self.counts]
        return tables + [check.outcome for check in self.checks]

    @property
    def outcome(self) -> Outcome:
        """Failed before unknown before passed; unknown when nothing was compared."""
        found = set(self.outcomes) if self.counts else {"unknown"}
        return "failed" if "failed" in found else "unknown" if "unknown" in found else "passed"

    @property
    def complete(self) -> bool:
        """True when everything could be compared."""
        open_questions = any(result.problem or result.faults for result in self.content)
        return bool(self.counts) and "unknown" not in self.outcomes and not open_questions


def verify(
    plan: Plan, file: Path, conninfo: str, *, tables: Collection[str] = (), counts_only: bool = False
) -> Verification:
    """Compare source and target.

    Args:
        plan: The plan.
        file: The backup, or the application's database.
        conninfo: libpq connection string of the target.
        tables: Tables to compare; all of the plan when empty.
        counts_only: Compare only row counts.

    Raises:
        CannotCheck: When the source cannot be read or does not match its manifest, or a table is not in the plan.
        Unreachable: When the target does not answer.
    """
    strange = sorted(set(tables) - set(plan.tables))
    if strange:
        raise CannotCheck(
            "the table is not in the plan" if len(strange) == 1 else "the tables are not in the plan",
            where=", ".join(strange),
            expected=", ".join(plan.tables),
        )
    wanted = [table for table in plan.tables if table in tables or not tables]
    secret = {name: table.secret for name, table in plan.tables.items()}
    _require_target(plan, conninfo)  # before the source is cloned
    with _snapshot(plan, file, conninfo) as snapshot:
        with snapshots.snapshot(snapshot.file) as reading:
            source_schema.require_application(source_schema.tables(reading), plan.tables, plan.name, file)
        if counts_only:
            return Verification(plan.name, snapshot.title, _counts(plan, snapshot, conninfo, wanted))
        compared = content.compare(
            Sides.of_plan(plan, snapshot.file, conninfo),
            wanted,
            store=DigestStore(snapshot.stored, snapshot.identity) if snapshot.stored is not None else None,
            sql_folder=plan.sql_folder,
        )
        checks = [] if tables else _strangers(plan, snapshot, conninfo)
        own = _rows(snapshot, [result.table for result in compared if result.source_rows is None])
        with snapshots.snapshot(snapshot.file) as reading:
            given = {table: last for table, last in source_schema.sqlite_sequence(reading).items() if table in wanted}
    counts = [_count(result, own.get(result.table, 0)) for result in compared]
    checks += _checks(plan, conninfo, wanted, given, secret)
    return Verification(plan.name, snapshot.title, counts, compared, checks)


def _require_target(plan: Plan, conninfo: str) -> None:
    with target_session.session(conninfo, plan.target_schema) as connection:
        found = catalog.tables(connection, plan.target_schema)
        database = connection.info.dbname
    if not set(found) & set(plan.tables):
        raise CannotCheck(
            "the target has no table of the plan",
            where=f"database {database}, schema {plan.target_schema}",
            expected=f"the plan's {len(plan.tables)} tables",
            found=f"{', '.join(found[:5])}{', …' if len(found) > 5 else ''}" or "no tables",
            do="Name the database that the cutover wrote to.",
        )


# --- the source ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _snapshot(plan: Plan, file: Path, conninfo: str) -> Iterator[ComparedSource]:
    with files.scratch("verify") as scratch:
        snapshot = _backup(file) or _clone(file, scratch / "clone.db", plan.source_other_names)
        if any(table.columns or table.foreign_keys for table in plan.tables.values()):
            planned = target_schema.planned_schema(conninfo, plan.sql_folder)
            decided = apply_decisions(snapshot.file, scratch / "decided.db", plan, planned)
            if decided.made:
                snapshot = ComparedSource(decided.file, decided.sha256, None, f"{snapshot.title}, with the plan's decisions")
        yield snapshot


def _backup(file: Path) -> ComparedSource | None:
    """Return the file itself when it is an intact backup with its manifest beside it."""
    path = file.with_name(f"{file.name}.manifest.json")
    if not os.path.exists(path):  # noqa: PTH110  where the folder cannot be read, reading the file reports it
        return None
    try:
        manifest = backup_manifest.load(path)
    except CannotCheck:
        return None  # another kind of file, or damaged: the source is then a plain SQLite file
    found = files.digest(file)
    if found != manifest.sha256:
        raise CannotCheck(
            "the file does not match its manifest",
            where=str(file),
            expected=f"SHA-256 {manifest.sha256}",
            found=found,
            do="Compare with the second copy of the backup.",
        )
    return ComparedSource(file, found, digest_store.beside(file), f"backup {file.name} of {manifest.time}")


def _clone(file: Path, to: Path, others: Sequence[Path]) -> ComparedSource:
    cloning.sound_clone(file, to, others=others)
    return ComparedSource(to, "", None, f"a clone of {file.name}")


# --- the comparisons --------------------------------------------------------------------------------------------------


def _rows(snapshot: ComparedSource, tables: Sequence[str]) -> dict[str, int]:
    """Return the number of rows of those tables that the source has."""
    with snapshots.snapshot(snapshot.file) as reading:
        here = set(source_schema.tables(reading))
        return source_schema.counts(reading, [table for table in tables if table in here])


def _counts(plan: Plan, snapshot: ComparedSource, conninfo: str, tables: Sequence[str]) -> list[Reconciliation]:
    """Count the rows of both sides; a table filled only by reference data is compared with that data."""
    own = _rows(snapshot, tables)
    found = proof_counts.count_checks(
        conninfo, plan.target_schema, {table: ExpectedCount(own.get(table, 0)) for table in tables}
    )
    empty = [row.table for row in found if row.source_rows == 0 and row.target_rows and row.table in own]
    brought = {}
    if empty:
        compared = content.compare(Sides.of_plan(plan, snapshot.file, conninfo), empty, sql_folder=plan.sql_folder)
        brought = {result.table: _count(result, 0) for result in compared if result.origin == REFERENCE_DATA}
    missing = [Reconciliation(table, 0, None, problem="no such table in the source") for table in tables if table not in own]
    return [brought.get(row.table, row) for row in found if row.table in own] + missing


def _count(result: TableResult, own: int) -> Reconciliation:
    """Return the counts of a comparison; ``own`` are the rows of the source where nothing could be compared."""
    problem = result.problem or "; ".join(result.faults)
    if result.source_rows is None:
        return Reconciliation(result.table, own, None, result.origin, problem or "it was not counted")
    return Reconciliation(result.table, result.source_rows, result.target_rows, result.origin, problem)


def _strangers(plan: Plan, snapshot: ComparedSource, conninfo: str) -> list[Check]:
    """Check for tables that are not in the plan."""
    with snapshots.snapshot(snapshot.file) as reading:
        here = sorted(set(source_schema.tables(reading)) - set(plan.tables) - set(plan.ignored_tables))
    with target_session.session(conninfo, plan.target_schema) as connection:
        there = sorted(set(catalog.tables(connection, plan.target_schema)) - set(plan.tables))
    do = "Add the table to the plan and its SQL: it was not copied." if here else ""
    return [
        Check(
            "source_tables_known",
            "every table of the source is in the plan",
            "failed" if here else "passed",
            "no other table",
            ", ".join(here),
            do,
            snapshot.file.name,
        ),
        # Others may have tables in the same schema; that loses nothing of the source.
        Check(
            "target_tables_known",
            "tables of the target that are not in the plan",
            "passed",
            "",
            ", ".join(there) or "none",
        ),
    ]


def _checks(
    plan: Plan,
    conninfo: str,
    tables: Collection[str],
    sqlite_sequence: Mapping[str, int],
    secret: Mapping[str, Collection[str]],
) -> list[Check]:
    schema = plan.target_schema
    orphans = [
        result.check(schema)
        for result in proof_orphans.orphan_checks(conninfo, schema, secret)
        if result.foreign_key.table in tables
    ]
    sequences = [
        check
        for check in _tried(
            "sequences", lambda: target_sequences.check_sequences(conninfo, schema, sqlite_sequence, draw=False)
        )
        if check.outcome == "unknown" or any(check.where == table or check.where.startswith(f"{table}.") for table in tables)
    ]
    return orphans + sequences + _tried("structure", lambda: structure.checks(conninfo, schema, plan.sql_folder, tables))


def _tried(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """Return the checks, or one that reports why they could not be made."""
    try:
        return look()
    except Unreachable:
        raise
    except CutoverError as error:
        return [Check(name, f"{name} could be checked", "unknown", found=mask(str(error)), do=error.do)]
