"""Lets the application into the target, when the target still is as the proof found it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace

from include.cutover.aftercare import marker as go_live_marker
from include.cutover.aftercare.marker import MARKED, Marker
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, Refused
from include.cutover.proof import content, digest_store, unchanged
from include.cutover.proof.digest_store import DigestStore
from include.cutover.proof.table_result import TableResult
from include.cutover.proof.unchanged import Baseline, Look, Subject
from include.cutover.runs import runbook, verdict
from include.cutover.steps.step import Report, Step
from include.cutover.target import fence as target_fence
from include.cutover.target import lock_holders, row_versions, write_conditions, write_guard
from include.cutover.target import schema as target_schema
from include.cutover.target import session as target_session
from include.cutover.target.sides import Sides

BASELINE = "target.baseline"
"""Event: the state of the target when the proof began; ``BASELINE_FILE`` has it."""

BASELINE_FILE = "target_baseline.json"

LOCK_ATTEMPTS = 12
"""How often the tables are tried, 10 s each: a VACUUM or an ANALYZE that runs at go-live does not roll the cutover back."""

UNCHANGED = "target.unchanged"
"""Event: everything was as at the proof when the application was let in."""

_NOT_AS_BEFORE = "the application was let in, and the target then was not as at the proof"


class _Changed(Exception):
    """The target is not as the proof found it: nothing of the transaction stays."""


def record_baseline(step: Step) -> None:
    """Raise the guard on tables that lack it, and record the state of the target before the proof reads anything."""
    write_guard.raise_guard(step.target, step.plan.target_schema, step.guard)
    baseline = unchanged.take(_subject(step), step.expected_rows)
    step.evidence.save(BASELINE_FILE, baseline.as_json(), 0o600)
    step.evidence.append(BASELINE, snapshot=baseline.position.snapshot, objects=len(baseline.catalog))


def let_in(step: Step, role: str | None) -> Report:
    """Compare the target with its state at the proof, mark it, end the guard and let the role in, all in one transaction.

    While it lasts nobody else can write to the tables or change them; who holds one of them is named. Rights, settings and
    sequences, which have no lock, are compared again right after it, and the conditions of writes are checked once more.
    Safe to run again: once the application was let in, the rows are not compared any more, and nothing is once the rest had
    passed as well: the application may have worked since.

    Args:
        step: The step.
        role: The application's role; None where nobody is let in: the guard ends all the same.

    Returns:
        A report that failed when something had changed; the guard then stands, and nobody was let in.

    Raises:
        Refused: When the proof has not passed.
        CannotCheck: When the state at the proof is not known.
        Unreachable: When another session or a prepared transaction holds a table.
    """
    baseline, subject = proven_baseline(step), _subject(step)
    looks: list[Look] = []
    with target_session.session(
        step.target, subject.schema, settings={"idle_in_transaction_session_timeout": "0"}
    ) as connection:
        row_versions.secure(connection)  # a commit that ends in a crash must not leave a marker beyond the server's numbers
        try:
            with connection.transaction():
                step.guard(connection)
                marker = _let_in_before(step, go_live_marker.recorded(connection, step.run_id))
                if marker is None:
                    lock_holders.require_none_prepared(connection, subject.schema)  # no wait would end one
                    target_schema.lock_tables(connection, subject.schema, "SHARE ROW EXCLUSIVE", attempts=LOCK_ATTEMPTS)
                    looks.append(
                        unchanged.look_at_tables(
                            connection, subject, baseline, step.expected_rows, lambda tables: _compare(step, tables)
                        )
                    )
                    if Report("", checks=looks[0].checks).outcome != "passed":
                        raise _Changed
                    marker = go_live_marker.mark_within(connection, step.run_id, step.expected_rows)
                # Before the commit: a rollback reads in the evidence that the application may have had access.
                step.evidence.append(MARKED, **marker.as_dict())
                write_guard.disable(connection, subject.schema)
                if role is not None:
                    target_fence.grant_entry(connection, subject.schema, role, step.plan.target_fence)
            if role is not None:
                step.evidence.append("target.fence", raised=False, role=role, way=step.plan.target_fence)
                target_fence.require_entry(connection, subject.schema, role)
        except _Changed:
            return _report(looks, "the target changed since the proof; nobody was let in")
    report = _with_the_rest(step, marker, looks, baseline)
    held = write_guard.drop(step.target, subject.schema, step.guard)
    if held:
        note = (
            f"the disabled trigger {write_guard.NAME} is left on {', '.join(held)}: a reader held the table; drop it later"
        )
        report = replace(report, warnings=[*report.warnings, note])
    return report


def _with_the_rest(step: Step, marker: Marker, looks: list[Look], baseline: Baseline) -> Report:
    """Look at all that has no lock: rights, settings, sequences, and what acts on writes from outside the schema.

    Args:
        step: The step.
        marker: The moment at which the application was let in.
        looks: Of the tables; empty where an earlier try let the application in.
        baseline: The state of the target at the proof.
    """
    rows = f"{sum(marker.rows.values()):,} rows"
    if not looks and _was_unchanged(step, marker):
        return _report(looks, f"the target was as at the proof when the application was let in, with {rows}")
    subject = _subject(step)
    conditions = write_conditions.checks(step.target, subject.schema, list(step.plan.tables), subject.role)
    since = "the target is" if looks else "rights and structure are"
    looks = [*looks, unchanged.look_at_rest(subject, baseline), Look(conditions)]
    report = _report(looks, f"{since} as at the proof; it holds {rows}")
    if report.outcome == "passed":
        step.evidence.append(UNCHANGED, snapshot=marker.snapshot)
        return report
    return replace(report, summary=f"{_NOT_AS_BEFORE}; it held {rows}")


def _was_unchanged(step: Step, marker: Marker) -> bool:
    """Report whether an earlier try found the rest unchanged, or the services were started on the target since."""
    if step.evidence.last(UNCHANGED, snapshot=marker.snapshot) is not None:
        return True
    started = step.evidence.last("services.started", on="target")
    marked = [event["seq"] for event in step.evidence.events() if event["event"] == MARKED]
    return started is not None and started["seq"] > min(marked)


def _let_in_before(step: Step, marker: Marker | None) -> Marker | None:
    """Return the marker of an earlier try of this step that let the application in; the evidence has it as well.

    Raises:
        CannotCheck: When only the ledger has it.
    """
    if marker is not None and step.evidence.last(MARKED, snapshot=marker.snapshot) is None:
        raise CannotCheck(
            "the ledger says that the application was let in, and the evidence does not",
            where="cutover.go_live",
            expected=f"an event {MARKED} with the same position",
            do="The cutover rolls back. Find out who wrote to the ledger.",
        )
    return marker


def proven_baseline(step: Step) -> Baseline:
    """Return the state of the target when the proof that passed began.

    Raises:
        Refused: When the newest try of the proof has not passed.
        CannotCheck: When that try recorded no state, or the file is not the one that was recorded.
    """
    events = step.evidence.events()
    if not verdict.has_passed(events, runbook.CHECK_TABLES):
        raise Refused(
            "the proof has not passed, or runs again",
            where=step.run_id,
            expected=f"{runbook.CHECK_TABLES} passed",
            found=verdict.last_word(events, runbook.CHECK_TABLES),
            do="The cutover rolls back. Start a new run.",
        )
    began = max(event["seq"] for event in events if event["event"] == "step.begin" and event["step"] == runbook.CHECK_TABLES)
    taken = step.evidence.last(BASELINE)
    saved = step.evidence.last("file", name=BASELINE_FILE)
    data = _read(step)
    if taken is None or saved is None or min(taken["seq"], saved["seq"]) < began or saved["sha256"] != _digest(data):
        raise CannotCheck(
            "the state of the target at the proof is not known",
            where=str(step.evidence.folder / BASELINE_FILE),
            expected=f"the file that {runbook.CHECK_TABLES} recorded",
            do="The cutover rolls back. Start a new run.",
        )
    return Baseline.from_json(data)


def _read(step: Step) -> bytes:
    try:
        return (step.evidence.folder / BASELINE_FILE).read_bytes()
    except FileNotFoundError:
        return b""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _subject(step: Step) -> Subject:
    return Subject(step.target, step.plan.target_schema, step.ends.application_role(step.plan))


def _compare(step: Step, tables: Collection[str]) -> Sequence[TableResult]:
    """Compare the content of tables with the snapshot, as the proof does."""
    return content.compare(
        Sides.of_plan(step.plan, step.decided.file, step.target),
        tables,
        store=DigestStore(digest_store.beside(step.decided.file), step.decided.sha256 or step.manifest.sha256),
        sql_folder=step.plan.sql_folder,
    )


def _report(looks: Sequence[Look], summary: str) -> Report:
    """Return the looks as one report; of two checks with the same name the worse one counts."""
    order = {"failed": 0, "unknown": 1, "passed": 2}
    checks: dict[str, Check] = {}
    for check in (check for look in looks for check in look.checks):
        known = checks.get(check.name)
        if known is None or order[check.outcome] < order[known.outcome]:
            checks[check.name] = check
    figures = looks[0].figures if looks and looks[0].rows else {}
    warnings = list(dict.fromkeys(warning for look in looks for warning in look.warnings))
    return Report(summary, figures, list(checks.values()), warnings=warnings)
