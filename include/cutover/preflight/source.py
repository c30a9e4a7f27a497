"""Checks of the source before anything stops: the live file and a clone of it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import apsw

from include.cutover import files, rights
from include.cutover.checks import Check, Outcome
from include.cutover.errors import CannotCheck
from include.cutover.plan.model import Plan
from include.cutover.preflight.sizes import pretty
from include.cutover.preflight.writing import replaceable, writable_in_place
from include.cutover.source import database_file, fence, other_names, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.target import catalog, orphans
from include.cutover.target.schema import PlannedSchema
from include.cutover.target.wording import listed

_KEYS_SHOWN = 5
_ORPHAN_KEYS = 20
_JOURNAL_MODES = {1: "rollback journal", 2: "write-ahead log"}


def check_source(live: Path, clone: Path, *, plan: Plan, planned: PlannedSchema) -> list[Check]:
    """Check the source: the live file itself, and its content on a clone.

    Args:
        live: The application's file; only its header and its folder are read.
        clone: A copy of it, made in one step.
        plan: Names the tables.
        planned: The schema that the plan's SQL makes in the target.
    """
    return [*check_source_file(live, plan.source_other_names), *check_clone(clone, plan=plan, planned=planned)]


def check_source_file(live: Path, others: Sequence[Path] = ()) -> list[Check]:
    """Check that the live file is an SQLite database, not fenced, replaceable by its backup, and has no unknown name.

    Only the header is read.

    Args:
        live: The application's file.
        others: Hard links of it that the plan names.
    """
    return [_source_file(live), *check_source_rights(live, others)]


def check_source_rights(live: Path, others: Sequence[Path] = ()) -> list[Check]:
    """Check that this user may fence the live file and replace it, and that it has no unknown name. Nothing is read.

    Args:
        live: The application's file.
        others: Hard links of it that the plan names.
    """
    checks = [replaceable(live, "source_replaceable", "The source can be replaced by its backup")]
    if os.path.isfile(files.real(live)):  # noqa: PTH113  # False also in a folder that is closed to this user
        checks.append(writable_in_place(live, "source_writable", "The source can be fenced"))
        checks += [other_names.check(live, others), *_replaceable_names(live, others)]
    return checks


def _replaceable_names(live: Path, others: Sequence[Path]) -> list[Check]:
    """Check that a rollback can link each hard link that the plan names to the restored file."""
    names = other_names.find(live, others).named
    made = [replaceable(path, "source_other_names_replaceable", "Its other names can be replaced, too") for path in names]
    bad = [check for check in made if check.outcome != "passed"]
    return bad[:1] or made[:1]


def _source_file(live: Path) -> Check:
    def check(outcome: Outcome, found: str, do: str = "") -> Check:
        expected = "a regular file with an SQLite database, not fenced"
        return Check("source_file", "The source is an SQLite database", outcome, expected, found, do, str(live))

    file = files.real(live)
    correct = "Correct the connection of the source in Airflow."
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            return check("failed", "not a regular file", correct)
        with file.open("rb") as opened:
            header = opened.read(100)
    except FileNotFoundError:
        return check("failed", "there is no such file", correct)
    except OSError as error:
        return check("unknown", rights.reason(error, file), "Let the tasks' user read the file.")
    if not header:
        return check("failed", "an empty file", correct)
    if refusal := database_file.not_a_database(file, header, status.st_size):
        return check("failed", f"{refusal.message}: {refusal.found}", f"{refusal.do} Or {correct[0].lower()}{correct[1:]}")
    if len(header) < database_file.HEADER_BYTES:
        return check("failed", f"a file of {len(header)} bytes", correct)
    try:
        state = fence.status(file, content=False)
    except CannotCheck as error:
        return check("unknown", error.message, error.do)
    if state.raised or state.run_id is not None:
        return check("failed", state.detail, "End that run first: roll it back, or release it.")
    mode = _JOURNAL_MODES.get(header[18])
    if mode is None:
        return check("failed", f"write version {header[18]}", "Find out what wrote this file.")
    beside = []
    for item in files.side_files(file):
        with contextlib.suppress(OSError):
            beside.append(f"{item.name} of {pretty(item.stat().st_size)}")
    found = f"{pretty(status.st_size)}, {mode}"
    return check("passed", found + (f", beside it {', '.join(beside)}" if beside else ""))


def check_clone(clone: Path, *, plan: Plan, planned: PlannedSchema) -> list[Check]:
    """Check the content of the source: intact, the same tables and columns as plan and target, and without orphans."""
    integrity = _integrity(clone)
    if integrity.outcome != "passed":
        return [integrity]
    checks = [integrity]
    with snapshots.snapshot(clone) as connection:
        tables = source_schema.tables(connection)
        checks += _known_tables(
            [table for table in tables if table not in plan.ignored_tables], plan.tables, planned.columns
        )
        columns = {table: [column.name for column in source_schema.columns(connection, table)] for table in tables}
        checks += _known_columns(columns, {table: planned.columns[table] for table in tables if table in planned.columns})
        types = {table: {column.name: column.stored_type for column in known} for table, known in planned.columns.items()}
        for key in planned.foreign_keys:
            if key.table in columns and key.referenced_table in columns and not _decided(plan, key):
                secret = plan.tables[key.table].secret if key.table in plan.tables else ()
                checks.append(_orphans(connection, key, types, secret))
    return checks


def _decided(plan: Plan, key: catalog.ForeignKey) -> bool:
    """Return True when the plan decides about this key's orphans; the assessment then counts them against its cap."""
    choice = plan.tables[key.table].foreign_keys.get(key.name) if key.table in plan.tables else None
    return choice is not None and choice.orphans != "block"


def _integrity(clone: Path) -> Check:
    try:
        faults = snapshots.integrity(clone)
    except CannotCheck as error:
        faults = [f"{error.message}: {error.found}" if error.found else error.message]
    found = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}, first: {faults[0]}" if faults else "ok"
    do = "Repair the source first, e.g. with sqlite3's .recover into a new file." if faults else ""
    outcome: Outcome = "failed" if faults else "passed"
    return Check("source_integrity", "The source is intact", outcome, "ok", found[:200], do, clone.name)


def _names(name: str, title: str, expected: str, wrong: Sequence[str], do: str) -> Check:
    return Check(
        name, title, "failed" if wrong else "passed", expected, listed(wrong) if wrong else "none", do if wrong else ""
    )


def _known_tables(tables: Sequence[str], plan: Iterable[str], target: Iterable[str]) -> list[Check]:
    found, named, made = set(tables), set(plan), set(target)
    return [
        _names(
            "source_tables_unknown",
            "Tables of the source that the plan does not name",
            "none",
            sorted(found - named),
            "Add them to the plan and its SQL, or drop them from the source.",
        ),
        _names(
            "source_tables_missing",
            "Tables of the plan that the source does not have",
            "none",
            sorted(named - found),
            "Remove them from the plan, or find out why they are missing.",
        ),
        _names(
            "target_tables_missing",
            "Tables of the plan that its SQL does not create",
            "none",
            sorted(named - made),
            "Add them to the plan's SQL.",
        ),
        _names(
            "target_tables_unknown",
            "Tables of the plan's SQL that the plan does not name",
            "none",
            sorted(made - named),
            "Add them to the plan, or remove them from its SQL; they would stay empty.",
        ),
    ]


def _known_columns(found: Mapping[str, Sequence[str]], target: Mapping[str, Sequence[catalog.Column]]) -> list[Check]:
    lost, empty = [], []
    for table, columns in sorted(target.items()):
        names = {column.name for column in columns}
        lost += [f"{table}.{name}" for name in found[table] if name not in names]
        empty += [f"{table}.{column.name}" for column in columns if column.name not in found[table] and not column.generated]
    return [
        _names(
            "source_columns_unknown",
            "Columns of the source that the target does not have",
            "none",
            lost,
            "Add them to the plan's SQL; their content would be lost.",
        ),
        _names(
            "source_columns_missing",
            "Columns of the target that the source does not have",
            "none, or generated ones",
            empty,
            "Add them in a later migration, or make them generated.",
        ),
    ]


def _orphans(
    connection: apsw.Connection,
    key: catalog.ForeignKey,
    types: Mapping[str, Mapping[str, str]],
    secret: Collection[str],
) -> Check:
    columns = ", ".join(key.columns)
    name, title = f"source_orphans_{key.name}", f"Every {key.table}.{columns} exists in {key.referenced_table}"
    where = f"{key.table}.{columns}"
    try:
        count, keys = orphans.in_source(connection, key, types, secret=secret, limit=_ORPHAN_KEYS)
    except (apsw.Error, CannotCheck) as error:
        return Check(name, title, "unknown", "no orphans", str(error)[:200], "Check the table in the source.", where)
    if not count:
        return Check(name, title, "passed", "no orphans", "none", "", where)
    shown = ", ".join(str(item) for item in keys[:_KEYS_SHOWN]) + (", …" if count > _KEYS_SHOWN else "")
    do = f"Correct or delete these rows of {key.table} in the source before the cutover."
    return Check(name, title, "failed", "no orphans", f"{count} orphans; keys {shown}", do, where)
