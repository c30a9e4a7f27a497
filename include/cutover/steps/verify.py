"""The proof before go-live. Wrong data is a red check; being unable to look is red as well."""

from __future__ import annotations

from collections.abc import Sequence

from include.cutover.decisions import decided as decisions
from include.cutover.evidence.record import Event
from include.cutover.proof import counts, digests, table_suites
from include.cutover.runs import clock as clocks
from include.cutover.runs import verdict
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import Report, Step
from include.cutover.target import constraints, structure
from include.cutover.target import schema as target_schema


def check_tables(step: Step) -> Report:
    """Every table is what it must be: its count, every value, its keys and references, its sequence.

    One suite of Great Expectations for each table. Where the plan decided about rows, that was done as it says. The source's
    digests are computed once for a snapshot and kept beside it; the restore test may have done that already.
    """
    expected = counts.expected_counts(step.manifest.counts, _reference_rows(step), step.decided.quarantined)
    secret = {name: set(table.secret) for name, table in step.plan.tables.items()}
    result = table_suites.check_tables(
        step.decided.file,
        step.target,
        step.plan.target_schema,
        list(step.plan.tables),
        expected,
        step.evidence.folder / "data_docs" / "tables",
        step.log_url or None,
        about=f"{step.plan.application} · {step.run_id}",
        sqlite_sequence=step.manifest.sqlite_sequence,
        secret=secret,
        stored=digests.beside(step.decided.file),
        identity=step.decided.sha256 or step.manifest.sha256,
        sql_folder=step.plan.sql_folder,
    )
    checks = list(result.checks)
    if step.decided.made:
        planned = target_schema.planned_schema(step.target, step.plan.sql_folder)
        checks += decisions.audit(step.decided, step.plan, planned)
    return Report(result.summary, result.figures, checks)


def validate_foreign_keys(step: Step) -> Report:
    """PostgreSQL has the last word: every constraint is validated, every index valid, and none of them is missing."""
    keys = constraints.validate_foreign_keys(step.target, step.plan.target_schema, step.guard)
    checks = structure.checks(step.target, step.plan.target_schema, step.plan.sql_folder, list(step.plan.tables))
    return Report(
        f"{len(keys)} foreign keys validated by PostgreSQL; tables, constraints and indexes are as the SQL makes them",
        {"foreign_keys": len(keys)},
        checks,
    )


def smoke_test_database(step: Step) -> Report:
    """The plan's own questions to the database."""
    if not (step.plan.sql_folder / "smoke").is_dir():
        return Report("the plan has no questions of its own")
    checks = counts.smoke_test_database(step.target, step.plan.target_schema, step.plan.sql_folder)
    return Report(f"{len(checks)} questions asked", {}, checks)


def _reference_rows(step: Step) -> dict[str, int]:
    event = step.evidence.last("reference.rows")
    return dict(event["rows"]) if event else {}


# What must have passed before each branch goes on, in the order of the runbook.
BEFORE_STOPPING = (
    "open_run",
    "check_target",
    "check_source",
    "assess_source",
    "check_places",
    "apply_ddl",
    "apply_migrations",
    "wait_for_window",
)
BEFORE = (*BEFORE_STOPPING, "stop_services", "fence_source", "take_backup")
FINISHING = (
    "build_keys_and_indexes",
    "load_reference_data",
    "store_quarantine",
    "declare_foreign_keys",
    "set_sequences",
    "analyze_tables",
)
PROOFS = (
    "check_tables",
    "validate_foreign_keys",
    "smoke_test_database",
)
EXTRAS = "snapshot_extras"
ACCESS = "grant_access"
GOING_LIVE = ("switch_configuration", "start_services", "smoke_test_application")


def required_steps(step: Step, at: str) -> list[str]:
    """Names of the steps whose pass a branch needs; the copies come from the plan's tables, one for each stream."""
    required = [*BEFORE, *_copies(step), "restore_test", *FINISHING, *PROOFS]
    if step.plan.extras.required:
        required.append(EXTRAS)
    if step.plan.access is not None:
        required.append(ACCESS)
    return required if at == "decide" else [*required, *GOING_LIVE]


def _copies(step: Step) -> list[str]:
    copies = []
    for name, table in step.plan.tables.items():
        copies += [f"copy.{name}"] if table.streams == 1 else [f"copy.{name}.{stream}" for stream in range(table.streams)]
    return copies


def _later(step: Step, at: str) -> dict[str, Sequence[str]]:
    """A proof holds for what was written before it; what went live was looked at afterwards."""
    written = [*_copies(step), *FINISHING]
    later: dict[str, Sequence[str]] = {proof: written for proof in PROOFS if proof != "validate_foreign_keys"}
    if at == "decide_live":
        later |= {"start_services": ["switch_configuration"], "smoke_test_application": ["start_services"]}
    return later


def decide(step: Step, *, at: str) -> Report:
    """Read the evidence and choose: go on, abandon, release or roll back. What was chosen once stays, but for a go."""
    events = step.evidence.events()
    course = verdict.course(events)
    if course in ("abandon", "release", "rollback", "live"):
        chosen = _again(events, course)
    else:
        gates = ("go_no_go",) if at == "decide" else ("go_no_go", "approve")
        late = _late(events, at)
        chosen = verdict.decide(
            events,
            required=required_steps(step, at),
            gates=gates,
            entitled=step.entitled,
            changed=step.changed if at == "decide" else (),
            late=late,
            later=_later(step, at),
        )
        step.evidence.append("decision", at=at, outcome=chosen.outcome, why=list(chosen.why))
        if chosen.outcome == "go_on" and at == "decide_live":
            step.evidence.append("live")
        elif late and chosen.outcome != "go_on":
            notice_steps.post(step.evidence, step.plan, "deadline", run_id=step.run_id, reason=f"{late}; it goes back.")
    figures = {"outcome": chosen.outcome, "why": list(chosen.why)}
    return Report(f"{chosen.outcome}: {chosen.why[0]}", figures, warnings=_extras_missing(step))


def _late(events: list[Event], at: str) -> str:
    """Why there is no time left to go live. What is live already stays so: only what came too late before that counts."""
    found = clocks.read(events)
    return verdict.late(events) or (found.late(at) if found is not None and at == "decide" else "")


def _extras_missing(step: Step) -> list[str]:
    """That nobody knows of the extras: their step may have been killed, or taken out by a person. What it says, it says."""
    if not step.plan.extras.wanted or verdict.has_passed(step.evidence.events(), EXTRAS):
        return []
    return [f"the extras of the plan are not known to be kept: {EXTRAS} did not pass"]


def _again(events: list[Event], course: str) -> verdict.Decision:
    """What was decided before; a rollback may also have begun where nothing could be decided."""
    if course == "live":
        return verdict.Decision("go_on", ("the run is live",))
    for event in events:
        if event["event"] == "decision" and event["outcome"] == course:
            return verdict.Decision(event["outcome"], tuple(event["why"]))
    return verdict.Decision("rollback", ("the rollback has begun",))
