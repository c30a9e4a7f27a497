# ruff: noqa: S608  every identifier is quoted, every value is bound
"""Carries out the plan's decisions about awkward values and orphans, before anything is copied.

Copy and proof read one SQLite file. Where a decision touches a row, that file is not the backup but a clone of it in which
the decisions were carried out, the decided snapshot; where none does, no file is made. The backup is never changed. Each
changed value and each row taken out is recorded, and ``audit`` proves them in another way.

Order: bytes are read in their encoding, NUL characters go, '' becomes NULL, numbers become dates and words become booleans,
each on what the decision before it left; then orphans go into quarantine, with the rows that
become orphans by that, and only then are the references of the remaining orphans set to NULL. Uuids are compared as
uuids, however they are spelled.

The exact meaning of each decision:

* ``encoding``: bytes that are UTF-8 are UTF-8; others are read in the encoding. It also turns blobs into text, by the same
  rule. Encodings in which ASCII is not ASCII are refused, as they cannot be distinguished from UTF-8.
* ``datetime``: a number that a TEXT column made text counts as a number, with at most six digits after the second. Reals go
  to the nearest microsecond; Julian days to the nearest millisecond, as in SQLite's own functions: a real holds no more of
  them. Years 1 to 9999.
* ``boolean``: a value's text as SQLite prints it must be a key of the map, letter by letter. 0 and 1 stay what they are.
* ``at_most``: counts the rows that a foreign key takes out or sets to NULL, those that follow from others among them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apsw

from include.cutover import files
from include.cutover.decisions import decided_snapshot, foreign_keys, value_sql, workspace
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.decisions.fit import misfits
from include.cutover.decisions.listing import write_listing
from include.cutover.decisions.orphans import OrphanSettler
from include.cutover.decisions.value_changes import ValueChanger
from include.cutover.decisions.workspace import Workspace
from include.cutover.errors import PlanInvalid
from include.cutover.files import sync_folder
from include.cutover.locks import locked
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.orphans import count_in_source
from include.cutover.target.schema import PlannedSchema

log = logging.getLogger(__name__)

_BYTES_PER_TOUCHED = 256  # generous: growth of the clone, record and its index
_BYTES_PER_LINE = 512
_MARGIN = 1 << 20


@dataclass(frozen=True)
class _Order:
    """The decided snapshot to make.

    Attributes:
        snapshot: The verified backup.
        decided: Where the decided snapshot goes.
        plan: The plan with the decisions.
        planned: The target's schema.
        listing: Folder for the listing; None for none.
        fingerprint: Of everything that determines its content.
    """

    snapshot: Path
    decided: Path
    plan: Plan
    planned: PlannedSchema
    listing: Path | None
    fingerprint: str


def apply_decisions(
    snapshot: Path, decided: Path, plan: Plan, planned: PlannedSchema, *, listing: Path | None = None
) -> Decided:
    """Carry out the plan's decisions on a clone of the backup, where they touch any row.

    Without a decision in the plan, nothing is read. Otherwise the columns with decisions are read first, and nothing is made
    unless a row is touched. The clone appears whole and durable, or not at all.

    Safe to run again, and by several processes at once: a decided snapshot made from this backup by these decisions is kept;
    one that is half-made, changed or of other decisions is made again, with the same bytes each time.

    Args:
        snapshot: The verified backup.
        decided: Where the decided snapshot goes; two files of that name lie beside it. Its folder is made private.
        plan: The plan with the decisions.
        planned: The target's schema.
        listing: Folder for ``touched.jsonl``, one line for each value touched and each row taken out. It holds no
            content of secret columns and of others at most 80 characters.

    Raises:
        PlanInvalid: When a decision does not fit the target; see ``fit.misfits``.
        Refused: When more orphans than ``at_most`` would be touched, when a row would become an orphan of a foreign key
            whose decision is to block, or when there is not enough free disk. Nothing was changed.
        WrongData: When a value cannot become what its decision says, or two rows would become the same. Nothing was changed.
        CannotCheck: When the backup cannot be read.
        StepFailed: When the place cannot be written.
    """
    if faults := misfits(plan, planned):
        raise PlanInvalid("decisions do not fit the target", faults, where=plan.name, do="Correct the plan.")
    if not _decides(plan):
        return decided_snapshot.untouched(snapshot)
    order = _Order(snapshot, decided, plan, planned, listing, _fingerprint(plan, planned))
    found = None
    if decided_snapshot.load(decided, snapshot, order.fingerprint) is None:
        found = _probe(snapshot, plan, planned)
        if not found.touches:
            return decided_snapshot.untouched(snapshot)
    files.make_private(decided.parent)
    with files.disk_errors(decided.parent), locked(decided.with_name(f".{decided.name}.lock")):
        result = decided_snapshot.load(decided, snapshot, order.fingerprint)  # another process may have been faster
        if result is None:
            result = _make(order, found or _probe(snapshot, plan, planned))
        if listing is None:
            return result
        return replace(result, listing=write_listing(result, plan, listing))


def _decides(plan: Plan) -> bool:
    return any(
        any(value_sql.names(decision) for decision in table.columns.values())
        or any(choice.orphans != "block" for choice in table.foreign_keys.values())
        for table in plan.tables.values()
    )


def _fingerprint(plan: Plan, planned: PlannedSchema) -> str:
    """Return a hash of everything that determines the content of the decided snapshot."""
    content = {
        "sqlite": apsw.sqlite_lib_version(),
        "decisions": {
            name: {
                "columns": {column: item.model_dump() for column, item in table.columns.items()},
                "foreign_keys": {key: item.model_dump() for key, item in table.foreign_keys.items()},
            }
            for name, table in plan.tables.items()
        },
        "columns": {
            table: [[column.name, column.stored_type, column.not_null] for column in columns]
            for table, columns in planned.columns.items()
        },
        "foreign_keys": [
            [key.table, key.name, key.columns, key.referenced_table, key.referenced_columns] for key in planned.foreign_keys
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Found:
    """The values to touch in the backup, and its orphans; None for orphans that depend on changed values."""

    values: int
    orphans: Mapping[ForeignKey, int] | None

    @property
    def touches(self) -> bool:
        return self.values > 0 or any((self.orphans or {}).values())

    @property
    def expected(self) -> int:
        return self.values + sum((self.orphans or {}).values())


def _probe(snapshot: Path, plan: Plan, planned: PlannedSchema) -> _Found:
    """Count what the decisions would touch: one scan for each table with decisions, one query for each foreign key."""
    values = 0
    with snapshots.snapshot(snapshot) as connection:
        value_sql.register(connection)
        for table, settings in sorted(plan.tables.items()):
            changes = value_sql.value_changes(connection, table, settings.columns, planned)
            if not changes:
                continue
            counted = ", ".join(f"count(CASE WHEN {change.condition} THEN 1 END)" for change in changes)
            bindings = {name: value for change in changes for name, value in change.bindings.items()}
            query = f"SELECT {counted} FROM {workspace.rows_of(source_schema.shape(connection, table))}"
            counts: Any = connection.execute(query, bindings).fetchall()
            values += sum(counts[0])
        if values:  # they may make orphans, or resolve some; that shows in the clone
            return _Found(values, None)
        orphans = {}
        for key in foreign_keys.decided_keys(plan, planned):
            orphans[key] = count_in_source(connection, key, foreign_keys.column_types(planned))
            foreign_keys.refuse_more_than_allowed(plan, key, orphans[key])
        return _Found(values, orphans)


def _make(order: _Order, found: _Found) -> Decided:
    decided = order.decided
    scratch = decided.with_name(f".{decided.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed attempt
    needs = {decided.parent: order.snapshot.stat().st_size + found.expected * _BYTES_PER_TOUCHED + _MARGIN}
    if order.listing is not None:
        files.make_private(order.listing)
        needs[order.listing] = needs.get(order.listing, 0) + found.expected * _BYTES_PER_LINE
    files.require_space(needs)
    try:
        scratch.mkdir(mode=0o700)
        clone, record = scratch / "decided", scratch / "record"
        workspace.clone(order.snapshot, clone)
        with workspace.opened(clone, record, scratch / "work", order.snapshot) as connection:
            _carry_out(Workspace(connection, order.plan, order.planned), found)
            touched, quarantined, keys = workspace.summary(connection)
        for path in (clone, record):
            _sync(path)
        result = Decided(order.snapshot, decided, files.digest(clone), touched, quarantined, keys)
        # The manifest goes first and comes last: at no time does it stand beside files that it does not describe.
        decided_snapshot.manifest_of(decided).unlink(missing_ok=True)
        sync_folder(decided.parent)
        record.replace(result.record)
        clone.replace(decided)
        sync_folder(decided.parent)
        decided_snapshot.publish(result, order.fingerprint)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    values = sum(sum(counts.values()) for counts in touched.values())
    log.info("%s: decisions changed %d values and moved %d rows to quarantine", decided, values, sum(quarantined.values()))
    return result


def _carry_out(work: Workspace, found: _Found) -> None:
    """Carry out all decisions in the clone: values first, then orphans."""
    changer = ValueChanger(work)
    changer.carry_out()
    OrphanSettler(work, changer.changed).settle(found.orphans)
    work.connection.execute(
        "DELETE FROM record.touched WHERE EXISTS"
        " (SELECT 1 FROM record.removed AS gone WHERE (gone.t, gone.place) = (touched.t, touched.place))"
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
