"""The proof stays true until go-live: the target is compared with its state when the proof began.

``take`` records that state before the proof reads anything. ``look_at_tables`` runs in the transaction that lets the
application in, with every table locked against writes; ``look_at_rest`` runs right after it, because rights, settings and
sequences have no lock. A row counts as written when its transaction is younger than the record; a deleted one is missing
from the count of the proof. Such tables are compared with the snapshot once more, by the proof's own code; tables that the
snapshot does not know are compared with a digest of their content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from include.cutover.checks import Check, Outcome
from include.cutover.errors import CutoverError, Unreachable
from include.cutover.proof.reading import reading
from include.cutover.proof.table_result import TableResult
from include.cutover.proof.words import UNCOUNTED, identifier, rows_text
from include.cutover.target import catalog, catalog_state, harmless_changes, lock_holders, row_versions, sequences
from include.cutover.target.catalog_state import Change, Key
from include.cutover.target.row_versions import Position, Versions
from include.cutover.target.session import session

DO = "The cutover does not go live. Find out who changed the target, see pg_stat_activity and the server's log; start again."
SECONDS = 1_800.0
LOST_NUMBERS = 1_000
"""Numbers that inserts which were rolled back may take from a sequence; more than these is a change."""

HARMLESS = "changed since the proof, and nothing that was proved depends on it"
"""Begins the warning about a change that does not stop a go-live."""

_SHOWN = 10
_GROUPS = {
    "structure": "no table, column, key, index, trigger or function changed since the proof",
    "rights": "no owner, right, role or setting changed since the proof",
    "guard": "the guard stands on every table",
}
_OF_RIGHTS = {
    *(catalog_state.RIGHTS, catalog_state.LOGIN, catalog_state.ROLE, catalog_state.SETTING, catalog_state.ACTING),
    *("database", "schema"),
}


@dataclass(frozen=True)
class Baseline:
    """The state of the target when the proof began.

    Attributes:
        position: Tells rows that were written later.
        rows: Rows of the tables that the snapshot does not know, which the proof does not count.
        digests: Digests of the content of these tables.
        sequences: Sequence → the value that it gives next; None where it is used up.
        catalog: Everything else.
    """

    position: Position
    rows: Mapping[str, int]
    digests: Mapping[str, str]
    sequences: Mapping[str, int | None]
    catalog: Mapping[Key, str]

    def as_json(self) -> str:
        """Return the text for a file of the evidence; ``from_json`` reads it again."""
        fields = {
            "position": self.position.as_dict(),
            "rows": dict(self.rows),
            "digests": dict(self.digests),
            "sequences": dict(self.sequences),
            "catalog": catalog_state.as_rows(self.catalog),
        }
        return json.dumps(fields, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Baseline:
        """Read ``as_json``."""
        fields = json.loads(text)
        return cls(
            Position(**fields["position"]),
            fields["rows"],
            fields["digests"],
            fields["sequences"],
            catalog_state.from_rows(fields["catalog"]),
        )


@dataclass(frozen=True)
class Look:
    """The result of a look.

    Attributes:
        checks: One for each kind of change, and one for each table that was compared again.
        rows: Table → rows that it holds.
        written: Table → rows that were written since, with whatever content.
        warnings: Changes that do no harm.
    """

    checks: Sequence[Check]
    rows: Mapping[str, int] = field(default_factory=dict)
    written: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    def figures(self) -> dict[str, Any]:
        """The figures for the report."""
        return {"rows": sum(self.rows.values()), "tables": len(self.rows), "written_since_the_proof": dict(self.written)}


@dataclass(frozen=True)
class Subject:
    """The target that is compared.

    Attributes:
        conninfo: libpq connection string of the target.
        schema: The plan's target schema.
        role: The application's role; None where the plan moves no application.
    """

    conninfo: str
    schema: str
    role: str | None

    def reading(self) -> AbstractContextManager[psycopg.Connection]:
        """Open a session with one transaction that reads."""
        return reading(self.conninfo, self.schema, seconds=SECONDS)


def take(subject: Subject, known: Collection[str]) -> Baseline:
    """Record the state of the target. Call it before the proof reads anything. It changes nothing.

    One transaction without rows is committed: later numbers of transactions then stay later, also after a crash.

    Args:
        subject: The target.
        known: Tables that the proof counts.

    Raises:
        Unreachable: When a prepared transaction can still change the target: it could be committed at any time.
    """
    with session(subject.conninfo, subject.schema) as connection:
        lock_holders.require_none_prepared(connection, subject.schema)
        position = row_versions.position(connection)
        row_versions.secure(connection)
        state = catalog_state.read(connection, subject.schema, subject.role)
        standing = sequences.positions(connection, subject.schema)
        others = [table for table in catalog_state.tables(connection, subject.schema) if table not in known]
    found = row_versions.digests(others, subject.schema, subject.reading)
    rows = {table: count for table, (count, _) in found.items()}
    return Baseline(position, rows, {table: digest for table, (_, digest) in found.items()}, standing, state)


def look_at_tables(
    connection: psycopg.Connection,
    subject: Subject,
    baseline: Baseline,
    expected: Mapping[str, int],
    compare: Callable[[Collection[str]], Sequence[TableResult]],
) -> Look:
    """Compare rows, structure, rights and sequences with the baseline. It reads only.

    Args:
        connection: In a transaction that keeps every other session from writing to the tables.
        subject: The target.
        baseline: Of the proof that passed.
        expected: Rows per table, as the proof counted them.
        compare: Compares the content of tables with the snapshot.

    Raises:
        CannotCheck: When the target cannot be compared with the baseline.
        Unreachable: When the target does not answer.
    """
    row_versions.require_same_server(
        connection, baseline.position.server, baseline.position.since, moment="the proof", do="Roll back."
    )
    state = catalog_state.read(connection, subject.schema, subject.role)
    checks, harmless = _catalog_checks(catalog_state.changes(baseline.catalog, state), baseline, state, subject.schema)
    not_valid = catalog.unvalidated_constraints(connection, subject.schema)
    checks.append(_check("unchanged_validated", "every constraint is validated", not_valid, subject.schema))
    found, warnings = _sequences(connection, subject.schema, baseline)
    warnings = [*harmless, *warnings]
    checks.append(found)
    present = catalog_state.tables(connection, subject.schema)
    wanted = {**baseline.rows, **expected}
    files = catalog_state.new_files(baseline.catalog, state)
    try:
        versions = row_versions.count(present, subject.schema, baseline.position, subject.reading)
        moved = [table for table in present if _has_moved(versions[table], wanted.get(table)) or table in files]
        content = _content(moved, subject, baseline, expected, compare)
    except Unreachable:
        raise
    except CutoverError as error:
        unread = Check("unchanged_rows", _ROWS, "unknown", "", error.found or error.message, UNCOUNTED, subject.schema)
        return Look([*checks, unread], warnings=warnings)
    row_checks, more = _row_checks(moved, versions, wanted, content)
    missing = [
        table for table in wanted if table not in versions and (catalog_state.RELATION, table, "") in baseline.catalog
    ]
    total = f"{rows_text(sum(one.rows for one in versions.values()))} in {len(versions)} tables"
    bad = [check for check in row_checks if check.outcome != "passed"]
    what = [f"{table} is gone" for table in missing] + [f"{check.where}: {check.found}" for check in bad]
    checks.append(_check("unchanged_rows", _ROWS, what, subject.schema, good=total))
    return Look(
        [*checks, *row_checks],
        {table: one.rows for table, one in versions.items()},
        {table: one.written for table, one in versions.items() if one.written},
        [*warnings, *more],
    )


def look_at_rest(subject: Subject, baseline: Baseline) -> Look:
    """Compare structure, rights and sequences with the baseline, after the application was let in. It reads only.

    The rights, the log-in and the end of the guard that go-live brings are no changes.
    """
    with session(subject.conninfo, subject.schema) as connection:
        state = catalog_state.read(connection, subject.schema, subject.role)
        found = catalog_state.without_entry(catalog_state.changes(baseline.catalog, state), subject.role)
        checks, harmless = _catalog_checks(found, baseline, state, subject.schema)
        check, warnings = _sequences(connection, subject.schema, baseline)
    return Look([*checks, check], warnings=[*harmless, *warnings])


_ROWS = "no row was written or deleted since the proof, or its content is the same"


def _has_moved(found: Versions, expected: int | None) -> bool:
    return bool(found.written) or found.rows != expected


def _content(
    moved: Sequence[str],
    subject: Subject,
    baseline: Baseline,
    expected: Mapping[str, int],
    compare: Callable[[Collection[str]], Sequence[TableResult]],
) -> dict[str, tuple[Outcome, str]]:
    """Compare the content of tables that moved, with the snapshot or with the digest in the baseline.

    Returns:
        Table → result and its description; without tables that the proof did not know.
    """
    known = [table for table in moved if table in expected]
    found: dict[str, tuple[Outcome, str]] = {
        result.table: (result.outcome, result.summary) for result in (compare(known) if known else ())
    }
    others = [table for table in moved if table not in expected and table in baseline.digests]
    for table, content in row_versions.digests(others, subject.schema, subject.reading).items():
        same = content == (baseline.rows[table], baseline.digests[table])
        found[table] = ("passed", "its digest is the same") if same else ("failed", "not in the snapshot; other content")
    return found


def _row_checks(
    moved: Sequence[str],
    versions: Mapping[str, Versions],
    wanted: Mapping[str, int],
    content: Mapping[str, tuple[Outcome, str]],
) -> tuple[list[Check], list[str]]:
    """Return a check for each table that moved, and warnings about those whose content is the same."""
    checks, warnings = [], []
    for table in moved:
        one, expected = versions[table], wanted.get(table)
        outcome, summary = content.get(table, ("failed", "not in the snapshot"))
        changed = _movement(one, expected)
        if outcome == "passed" and one.rows != expected:
            outcome = "failed"
        if outcome == "passed":
            warnings.append(f"{table} was written to since the proof, and its content is the same: {changed}")
        checks.append(
            Check(
                name=f"unchanged_{identifier(table)}",
                title=f"the content of {table} is still that of the proof",
                outcome=outcome,
                expected="" if expected is None else rows_text(expected),
                found=f"{changed}; {summary}",
                do="" if outcome == "passed" else DO,
                where=table,
            )
        )
    return checks, warnings


def _movement(found: Versions, expected: int | None) -> str:
    parts = [f"{rows_text(found.written)} written since"] if found.written else []
    if expected is None:
        parts.append("a table that the proof did not know")
    elif found.rows != expected:
        parts.append(f"{rows_text(abs(found.rows - expected))} {'more' if found.rows > expected else 'fewer'}")
    return ", ".join(parts) or "the table was written anew"


def _catalog_checks(
    found: Sequence[Change], baseline: Baseline, state: catalog_state.State, schema: str
) -> tuple[list[Check], list[str]]:
    """Return a check for each group of changes, and warnings about those that change nothing that was proved."""
    acting = harmless_changes.acting_roles(baseline.catalog, state)
    groups: dict[str, list[str]] = {name: [] for name in _GROUPS}
    harmless = [change for change in found if harmless_changes.is_harmless(change, acting)]
    for change in found:
        if change not in harmless:
            kind = change.key[0]
            group = "guard" if kind == catalog_state.GUARD else "rights" if kind in _OF_RIGHTS else "structure"
            groups[group].append(str(change))
    warnings = [f"{HARMLESS}: {text}" for text in _shown(harmless_changes.descriptions(harmless))]
    return [_check(f"unchanged_{name}", title, groups[name], schema) for name, title in _GROUPS.items()], warnings


def _sequences(connection: psycopg.Connection, schema: str, baseline: Baseline) -> tuple[Check, list[str]]:
    """Check that no sequence was set back, used up or set far ahead; warn of one that gave some numbers away."""
    standing = sequences.positions(connection, schema)
    wrong: list[str] = []
    ahead: list[str] = []
    for name, before in baseline.sequences.items():
        after = standing.get(name)
        if name not in standing or after == before:
            continue  # one that is gone is a change of the structure
        text = f"{name} would have given {before}, gives {'nothing' if after is None else after}"
        lost = -1 if after is None or before is None else after - before
        (ahead if 0 < lost <= LOST_NUMBERS else wrong).append(text)
    check = _check("unchanged_sequences", "no sequence was set since the proof", wrong, schema)
    return check, [f"a sequence gave numbers away since the proof: {text}" for text in ahead]


def _check(name: str, title: str, wrong: Sequence[str], schema: str, *, good: str = "") -> Check:
    outcome: Outcome = "failed" if wrong else "passed"
    return Check(name, title, outcome, "", "; ".join(_shown(wrong)) or good, DO if wrong else "", f"schema {schema}")


def _shown(texts: Sequence[str]) -> list[str]:
    return [*texts[:_SHOWN], *([f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else [])]
