"""``verify`` on the command line: is the target what the source is? At any time, without Airflow, and only by reading.

The source is a backup, which is read where it lies after its hash was compared with its manifest, or any other SQLite file,
live or fenced, which is cloned into a scratch folder (``TMPDIR``) and read there. Where the plan holds decisions, they are
carried out on a clone first, as in the cutover. After go-live the target has rows that the source never had: they are told
as extra, and they are a difference.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from include.cutover import files
from include.cutover.checks import Check, Outcome
from include.cutover.connections import tls
from include.cutover.decisions.apply import apply_decisions
from include.cutover.errors import CannotCheck, CutoverError, Unreachable
from include.cutover.masking import mask
from include.cutover.plan.file import load_plan
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

EQUAL, DIFFERENT, NOT_COMPARED = 0, 1, 2

_SHOWN = 10


@dataclass(frozen=True)
class Snapshot:
    """The source as it is compared.

    Attributes:
        file: What is read: the backup, a clone, or what the plan's decisions made of either.
        identity: Its SHA-256 where it is known.
        stored: Where its digests are kept; None for a clone that is thrown away.
        told: What it is, in words.
    """

    file: Path
    identity: str
    stored: Path | None
    told: str


@dataclass(frozen=True)
class Verification:
    """What was found."""

    plan: str
    source: str
    counts: Sequence[Reconciliation]
    content: Sequence[TableResult] = ()
    checks: Sequence[Check] = field(default=())

    @property
    def outcomes(self) -> list[Outcome]:
        """Of everything that was looked at; the content says of a table more than its count does."""
        tables = [result.outcome for result in self.content] or [row.check("").outcome for row in self.counts]
        return tables + [check.outcome for check in self.checks]

    @property
    def outcome(self) -> Outcome:
        """Failed before unknown before passed; unknown when nothing was looked at."""
        found = set(self.outcomes) if self.counts else {"unknown"}
        return "failed" if "failed" in found else "unknown" if "unknown" in found else "passed"

    @property
    def complete(self) -> bool:
        """Whether everything could be looked at."""
        open_questions = any(result.problem or result.faults for result in self.content)
        return bool(self.counts) and "unknown" not in self.outcomes and not open_questions


def run(
    plan_name: str,
    file: Path,
    target_url: str,
    *,
    tables: Collection[str] = (),
    fail_on_mismatch: bool = False,
    counts_only: bool = False,
    as_json: bool = False,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Compare source and target and tell what was found: counts, content, orphans, sequences, schema.

    Args:
        file: The backup, or the application's database.
        target_url: libpq URL of the target. A password may stand in PGPASSWORD instead.
        tables: Only these; all of the plan when left out.
        fail_on_mismatch: Give status 1 where the sides differ. Without it a difference is told, and the status is 0.
        counts_only: Only the table of counts and deltas.
        as_json: Write the findings as JSON, and nothing else, to ``out``.
        out: Findings; standard output when left out.
        err: What keeps it from comparing, in one sentence; standard error when left out.

    Returns:
        The exit status. 0: everything was compared and is equal, or differs and nobody asked to fail. 1: something
        differs, with ``fail_on_mismatch``. 2: something could not be compared, such as a table or column that one side has
        not, and no difference gave 1.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        plan = load_plan(plan_name)
        conninfo = tls.demanded(target_session.libpq_url(target_url), plan.tls, "--target")
        found = verify(plan, file, conninfo, tables=tables, counts_only=counts_only)
    except CutoverError as error:
        err.write(f"cutover: {mask(str(error))}\n")
        return NOT_COMPARED
    out.write(_as_json(found) if as_json else _told(found, counts_only=counts_only))
    out.flush()
    if found.outcome == "failed" and fail_on_mismatch:
        return DIFFERENT
    return EQUAL if found.complete else NOT_COMPARED


def verify(
    plan: Plan, file: Path, conninfo: str, *, tables: Collection[str] = (), counts_only: bool = False
) -> Verification:
    """The same for callers: the findings, without words for a terminal.

    Raises:
        CannotCheck: When the source cannot be read, is not the one that its manifest is about, or a table is not the plan's.
        Unreachable: When the target does not answer.
    """
    strange = sorted(set(tables) - set(plan.tables))
    if strange:
        raise CannotCheck(
            "the plan does not know this table" if len(strange) == 1 else "the plan does not know these tables",
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
            return Verification(plan.name, snapshot.told, _counts(plan, snapshot, conninfo, wanted))
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
    return Verification(plan.name, snapshot.told, counts, compared, checks)


def _require_target(plan: Plan, conninfo: str) -> None:
    with target_session.session(conninfo, plan.target_schema) as connection:
        found = catalog.tables(connection, plan.target_schema)
        database = connection.info.dbname
    if not set(found) & set(plan.tables):
        raise CannotCheck(
            "the target has no table of the plan",
            where=f"database {database}, schema {plan.target_schema}",
            expected=f"the plan's {len(plan.tables)} tables",
            found=f"{', '.join(found[:5])}{', …' if len(found) > 5 else ''}" or "no table at all",
            do="Name the database that the cutover wrote to.",
        )


# --- the source ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _snapshot(plan: Plan, file: Path, conninfo: str) -> Iterator[Snapshot]:
    with files.scratch("verify") as scratch:
        snapshot = _backup(file) or _clone(file, scratch / "clone.db")
        if any(table.columns or table.foreign_keys for table in plan.tables.values()):
            planned = target_schema.planned_schema(conninfo, plan.sql_folder)
            decided = apply_decisions(snapshot.file, scratch / "decided.db", plan, planned)
            if decided.made:
                snapshot = Snapshot(decided.file, decided.sha256, None, f"{snapshot.told}, with the plan's decisions")
        yield snapshot


def _backup(file: Path) -> Snapshot | None:
    """The file itself when it is a backup with its manifest beside it, and is whole."""
    path = file.with_name(f"{file.name}.manifest.json")
    if not os.path.exists(path):  # noqa: PTH110  where the folder is closed, the file itself says so
        return None
    try:
        manifest = backup_manifest.load(path)
    except CannotCheck:
        return None  # of another kind, or damaged: then the file is only what it is
    found = files.digest(file)
    if found != manifest.sha256:
        raise CannotCheck(
            "this is not the file that its manifest is about",
            where=str(file),
            expected=f"SHA-256 {manifest.sha256}",
            found=found,
            do="Compare with the second copy of the backup.",
        )
    return Snapshot(file, found, digest_store.beside(file), f"backup {file.name} of {manifest.time}")


def _clone(file: Path, to: Path) -> Snapshot:
    cloning.sound_clone(file, to)
    return Snapshot(to, "", None, f"{file.name} as it was a moment ago")


# --- what is looked at --------------------------------------------------------------------------------------------------


def _rows(snapshot: Snapshot, tables: Sequence[str]) -> dict[str, int]:
    """Rows of those of the tables that the source has."""
    with snapshots.snapshot(snapshot.file) as reading:
        here = set(source_schema.tables(reading))
        return source_schema.counts(reading, [table for table in tables if table in here])


def _counts(plan: Plan, snapshot: Snapshot, conninfo: str, tables: Sequence[str]) -> list[Reconciliation]:
    """Rows of both sides. A table that only reference data fills is held against what that data brings."""
    own = _rows(snapshot, tables)
    found = proof_counts.count_checks(
        conninfo, plan.target_schema, {table: ExpectedCount(own.get(table, 0)) for table in tables}
    )
    empty = [row.table for row in found if row.source_rows == 0 and row.target_rows and row.table in own]
    brought = {}
    if empty:
        compared = content.compare(Sides(snapshot.file, conninfo, plan.target_schema), empty, sql_folder=plan.sql_folder)
        brought = {result.table: _count(result, 0) for result in compared if result.origin == REFERENCE_DATA}
    missing = [Reconciliation(table, 0, None, problem="no such table in the source") for table in tables if table not in own]
    return [brought.get(row.table, row) for row in found if row.table in own] + missing


def _count(result: TableResult, own: int) -> Reconciliation:
    """The counts of a comparison; ``own`` are the snapshot's rows, also where nothing could be compared."""
    problem = result.problem or "; ".join(result.faults)
    if result.source_rows is None:
        return Reconciliation(result.table, own, None, result.origin, problem or "it was not counted")
    return Reconciliation(result.table, result.source_rows, result.target_rows, result.origin, problem)


def _strangers(plan: Plan, snapshot: Snapshot, conninfo: str) -> list[Check]:
    """Tables that the plan does not know."""
    with snapshots.snapshot(snapshot.file) as reading:
        here = sorted(set(source_schema.tables(reading)) - set(plan.tables) - set(plan.ignored_tables))
    with target_session.session(conninfo, plan.target_schema) as connection:
        there = sorted(set(catalog.tables(connection, plan.target_schema)) - set(plan.tables))
    do = "Put the table into the plan and its SQL: nothing of it was carried over." if here else ""
    return [
        Check(
            "source_tables_known",
            "every table of the source is one of the plan",
            "failed" if here else "passed",
            "no other table",
            ", ".join(here),
            do,
            snapshot.file.name,
        ),
        # Others may keep tables in the same schema; nothing of the source is lost by that.
        Check(
            "target_tables_known",
            "tables of the target that the plan does not know",
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
    """The checks, or one that says why they could not be made."""
    try:
        return look()
    except Unreachable:
        raise
    except CutoverError as error:
        return [Check(name, f"{name} could be looked at", "unknown", found=mask(str(error)), do=error.do)]


# --- told ---------------------------------------------------------------------------------------------------------------


def _as_json(found: Verification) -> str:
    words = {"passed": "equal", "failed": "different", "unknown": "not compared"}
    counts = [{**asdict(row), "delta": row.delta} for row in found.counts]
    tables = [{**asdict(result), "outcome": result.outcome, "summary": result.summary} for result in found.content]
    fields: dict[str, Any] = {
        "plan": found.plan,
        "source": found.source,
        "outcome": words[found.outcome],
        "complete": found.complete,
        "counts": counts,
        "content": tables,
        "checks": [check.as_dict() for check in found.checks],
    }
    return json.dumps(fields, indent=2) + "\n"


def _told(found: Verification, *, counts_only: bool) -> str:
    lines = [f"source: {found.source}", "", *_table(found.counts)]
    if not counts_only:
        lines += ["", "content"]
        for result in found.content:
            told = result.headline if result.differences else result.summary
            lines.append(f"  {_MARKS[result.outcome]} {result.table}: {told}")
            lines += [f"      {difference}" for difference in result.differences[:_SHOWN]]
            more = len(result.differences) - _SHOWN
            lines += [f"      and {more} more that are known; --json tells them"] if more > 0 else []
        lines += ["", "orphans, sequences, schema"]
        passed = [check for check in found.checks if check.outcome == "passed"]
        lines.append(f"  {_MARKS['passed']} {len(passed)} of {len(found.checks)} checks passed")
        lines += [f"  {_MARKS[check.outcome]} {check.title}: {check.found}" for check in found.checks if check not in passed]
    lines += ["", _verdict(found, counts_only=counts_only)]
    return "\n".join(lines) + "\n"


_MARKS: dict[Outcome, str] = {"passed": "ok      ", "failed": "DIFFERS ", "unknown": "UNKNOWN "}


def _table(counts: Sequence[Reconciliation]) -> list[str]:
    """The runbook's table of counts and deltas."""
    width = max([len("table"), *(len(row.table) for row in counts)])
    lines = [f"{'table':{width}} {'source':>14} {'target':>14} {'delta':>12}"]
    for row in counts:
        target_rows = "?" if row.target_rows is None else f"{row.target_rows:,}"
        delta = "?" if row.delta is None else f"{row.delta:+,}" if row.delta else "0"
        note = row.problem if row.delta is None else f"({row.origin})" if row.origin == REFERENCE_DATA else ""
        lines.append(f"{row.table:{width}} {row.source_rows:>14,} {target_rows:>14} {delta:>12}  {note}".rstrip())
    totals = [sum(row.source_rows for row in counts), sum(row.target_rows or 0 for row in counts)]
    lines.append(f"{'total':{width}} {totals[0]:>14,} {totals[1]:>14,} {totals[1] - totals[0]:>+12,}")
    return lines


def _verdict(found: Verification, *, counts_only: bool) -> str:
    what = "row counts" if counts_only else "source and target"
    told = {
        "passed": f"EQUAL: {what} are the same, {len(found.counts)} tables.",
        "failed": f"MISMATCH: {what} are not the same.",
        "unknown": f"NOT COMPARED: not everything could be looked at; nothing is said of whether {what} are the same.",
    }[found.outcome]
    return told if found.complete or found.outcome == "unknown" else f"{told} Not everything could be looked at."
