"""From the first stopped service to a loaded, indexed target."""

from __future__ import annotations

import shutil
from pathlib import Path

from include.cutover.application import services
from include.cutover.copying import tables as copying
from include.cutover.decisions import decided as decisions
from include.cutover.decisions import quarantine
from include.cutover.decisions import snapshot as decided_snapshot
from include.cutover.errors import StepFailed
from include.cutover.extras import take as extras
from include.cutover.proof import content, digests
from include.cutover.runs import clock as clocks
from include.cutover.source import backup, fence
from include.cutover.steps.step import Report, Step
from include.cutover.target import access, constraints, sql_files
from include.cutover.target import schema as target_schema


def stop_services(step: Step) -> Report:
    """Stop every service; the downtime begins. A service that is stopped already stays stopped."""
    if step.evidence.last("services.stopped") is None:
        step.evidence.append("services.stopped")
    results = services.stop(step.plan.services, step.remote)
    return Report(f"stopped: {', '.join(result.name for result in results) or 'the plan has no services'}")


def fence_source(step: Step) -> Report:
    """Prove that nobody holds the file open, and make it unwritable for every SQLite. Safe to run again."""
    nobody = fence.check_nobody_holds(step.source)
    if nobody.outcome == "failed":
        return Report("somebody still holds the database open after the services have stopped", {}, [nobody])
    state = fence.raise_fence(step.source, run_id=step.run_id, note=f"Cutover of {step.plan.application} to PostgreSQL")
    step.evidence.append("fence.raised", note=str(state.note))
    seen = nobody.outcome == "passed"
    # Where not every process can be seen, SQLite's switch out of WAL mode and its exclusive lock were the detector.
    detector = "" if seen else f"; {nobody.found}, so SQLite's own locks were the detector"
    return Report(
        f"no SQLite writes to {step.source.name} any more{detector}", {"sha256": state.sha256}, [nobody] if seen else []
    )


def take_backup(step: Step) -> Report:
    """The backup that everything is copied from and that rollback restores; verified before it counts.

    A second try of the same run finds the verified backup and keeps it.
    """
    manifest = backup.take(
        step.source,
        step.plan.backup.directory,
        step.plan.backup.second_copy,
        run_id=step.run_id,
        plan=step.plan.name,
    )
    checks = backup.verify(manifest)
    step.evidence.append("backup", **backup.facts(manifest))
    decided = _decide(step, manifest)
    rows = sum(manifest.counts.values())
    return Report(
        f"{manifest.file.name}: {manifest.bytes:,} bytes, {rows:,} rows in {len(manifest.counts)} tables" + _told(decided),
        {"bytes": manifest.bytes, "sha256": manifest.sha256, "rows": rows, "counts": dict(manifest.counts)},
        checks,
        warnings=manifest.warnings,
    )


def _decide(step: Step, manifest: backup.Manifest) -> decisions.Decided:
    """Carry the plan's decisions out on a clone of the backup, where they touch a row. Copy and proof read the result."""
    if any(table.columns or table.foreign_keys for table in step.plan.tables.values()):
        decided = decisions.apply(
            manifest.file,
            manifest.file.with_name(f"{manifest.file.name}.decided"),
            step.plan,
            target_schema.planned_schema(step.target, step.plan.sql_folder),
            listing=step.evidence.folder / "decided",
        )
    else:
        decided = decided_snapshot.untouched(manifest.file)
    step.evidence.append("snapshot", decided=decided.as_dict())
    return decided


def _told(decided: decisions.Decided) -> str:
    if not decided.made:
        return ""
    values = sum(sum(by_decision.values()) for by_decision in decided.touched.values())
    return f"; by the plan's decisions {values:,} values changed, {sum(decided.quarantined.values()):,} rows in quarantine"


def store_quarantine(step: Step) -> Report:
    """Keep the originals of all rows that a decision touched, whole, in the target. Safe to run again."""
    if not step.decided.made:
        return Report("no decision of the plan touched a row")
    stored = quarantine.store(step.target, step.run_id, quarantine.rows(step.decided, step.plan), step.guard)
    return Report(f"{sum(stored.values()):,} rows kept in cutover.quarantine", {"rows": stored})


def restore_test(step: Step) -> Report:
    """Open the backup's copy elsewhere and compare every table with the source.

    The digests of the copy, whose bytes are the backup's, are kept beside the backup for the proof and for ``verify``.
    """
    scratch = step.plan.backup.directory / f".restore-test-{step.evidence.folder.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, mode=0o700)

    def digests_of(file: Path) -> dict[str, str]:
        kept = digests.beside(step.manifest.file) if file.is_relative_to(scratch) else None
        return content.source_digests(
            file, step.target, step.plan.target_schema, step.plan.tables, stored=kept, identity=step.manifest.sha256
        )

    try:
        checks = backup.restore_test(step.manifest, scratch, digests=digests_of)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Report(f"the copy opens, and {len(checks)} comparisons with the snapshot were made", {}, checks)


def snapshot_extras(step: Step) -> Report:
    """Keep what the plan wants beside the backup: Redis, configuration. Safe to run again: what is whole is kept as it is.

    What the plan requires is a check; anything else that is missing is a warning at the gate and in the report.
    """
    kept = extras.take(step.plan, step.run_id, step.source)
    step.evidence.append("extras", kept=[item.as_dict() for item in kept])
    there = [item for item in kept if item.file is not None]
    return Report(
        f"{len(there)} of {len(kept)} extras kept, {sum(item.bytes for item in there):,} bytes",
        {"extras": {item.name: item.bytes for item in there}},
        [item.check for item in kept if item.required or item.whole],
        warnings=[item.warning for item in kept if item.warning],
    )


def copy(step: Step, *, table: str, stream: int = 0) -> Report:
    """Copy one table, or one stream of its chunks, from the verified backup. A retry goes on after the last whole chunk.

    When the time is up it ends where it is: the run goes back.
    """
    settings = step.plan.tables[table]

    clock = clocks.read(step.evidence.events())

    def tell(progress: copying.Progress) -> None:
        step.log.info("%s", progress)
        if clock is not None:
            clock.require_in_time(step.name, rest_from="build_keys_and_indexes")  # what has begun is measured no more

    result = copying.copy_table(
        step.decided.file,
        step.target,
        run_id=step.run_id,
        epoch=step.epoch,
        schema=step.plan.target_schema,
        table=table,
        chunk_rows=settings.chunk_rows,
        stream=stream,
        streams=settings.streams,
        secret=settings.secret,
        on_progress=tell,
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


def build_keys_and_indexes(step: Step) -> Report:
    """Primary and unique keys, then indexes: built once over the loaded rows."""
    return _apply(step, "post_data")


def load_reference_data(step: Step) -> Report:
    """Rows that the application needs and the source did not bring; only into tables without rows."""
    before = constraints.row_counts(step.target, step.plan.target_schema, step.plan.tables)
    report = _apply(step, "reference")
    after = constraints.row_counts(step.target, step.plan.target_schema, step.plan.tables)
    brought = {table: after[table] - before[table] for table in after if after[table] != before[table]}
    overwritten = sorted(table for table in brought if before[table])
    if overwritten:
        raise StepFailed(
            "reference data went into a table that the source had filled",
            where=", ".join(overwritten),
            do="Let the SQL file insert only where the table has no rows.",
        )
    if brought:
        step.evidence.append("reference.rows", rows=brought)
    told = ", ".join(f"{rows} into {table}" for table, rows in brought.items())
    return Report(f"{report.summary}; {told or 'the source had brought it all'}", {"rows": brought})


def declare_foreign_keys(step: Step) -> Report:
    """Foreign keys as NOT VALID: they hold for new rows at once; the old ones are looked at next."""
    return _apply(step, "foreign_keys")


def set_sequences(step: Step) -> Report:
    """Every sequence past the greatest key and past what SQLite had given away."""
    states = constraints.set_sequences(step.target, step.plan.target_schema, step.manifest.sqlite_sequence, step.guard)
    return Report(f"{len(states)} sequences set", {state.name: state.next_value for state in states})


def analyze_tables(step: Step) -> Report:
    """Statistics for the planner, so that the application is not slow in its first minutes."""
    constraints.analyze(step.target, step.plan.target_schema, step.guard)
    return Report("statistics gathered")


def grant_access(step: Step) -> Report:
    """The tables become their owner's, and reporting may read them, but for the secret columns. Safe to run again."""
    roles = access.required(step.plan)
    done = access.run(step.target, step.plan, roles=False, guard=step.guard)
    about = ", ".join(name for name in (roles.owner, roles.reporting) if name is not None)
    return Report(f"rights of {about or roles.application}: {len(done)} statements", {"statements": len(done)})


def _apply(step: Step, kind: str) -> Report:
    names = sql_files.apply(
        step.target, step.plan.sql_folder, kind, schema=step.plan.target_schema, run_id=step.run_id, guard=step.guard
    )
    return Report(f"{kind}: {len(names)} files applied" + (f" ({', '.join(names)})" if names else ""), {"applied": names})
