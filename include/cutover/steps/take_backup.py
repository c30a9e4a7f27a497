"""Takes the backup, carries out the plan's decisions, tests a restore, and keeps the extras."""

from __future__ import annotations

import shutil
from pathlib import Path

from include.cutover.decisions import decided_snapshot
from include.cutover.decisions.apply import apply_decisions
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.extras.take import take_extras
from include.cutover.proof import content, digest_store
from include.cutover.proof.digest_store import DigestStore
from include.cutover.source import backup, backup_copies, backup_manifest, trial_restore
from include.cutover.source.backup_manifest import Manifest
from include.cutover.steps import scratch as scratch_folders
from include.cutover.steps import source_file
from include.cutover.steps.step import Report, Step
from include.cutover.target import schema as target_schema
from include.cutover.target.sides import Sides


def take_backup(step: Step) -> Report:
    """Take and verify the backup that the copy reads and that a rollback restores.

    Safe to run again: a second try keeps the verified backup.
    """
    source_file.require_fenced(step, content=False)
    manifest = backup.take(
        step.source,
        step.plan.backup.directory,
        step.plan.backup.second_copy,
        run_id=step.run_id,
        plan=step.plan.name,
    )
    checks = backup_copies.verify(manifest)
    step.evidence.append("backup", **backup_manifest.facts(manifest))
    decided = _decide(step, manifest)
    rows = sum(manifest.counts.values())
    return Report(
        f"{manifest.file.name}: {manifest.bytes:,} bytes, {rows:,} rows in {len(manifest.counts)} tables"
        + _decided_text(decided),
        {"bytes": manifest.bytes, "sha256": manifest.sha256, "rows": rows, "counts": dict(manifest.counts)},
        checks,
        warnings=manifest.warnings,
    )


def _decide(step: Step, manifest: Manifest) -> Decided:
    """Carry the plan's decisions out on a clone of the backup, if there are any. Copy and proof read the result."""
    if any(table.columns or table.foreign_keys for table in step.plan.tables.values()):
        decided = apply_decisions(
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


def _decided_text(decided: Decided) -> str:
    if not decided.made:
        return ""
    values = sum(sum(by_decision.values()) for by_decision in decided.touched.values())
    return f"; by the plan's decisions {values:,} values changed, {sum(decided.quarantined.values()):,} rows in quarantine"


def restore_test(step: Step) -> Report:
    """Open a copy of the backup elsewhere and compare every table with the source. Safe to run again.

    The digests of the copy, whose bytes are the backup's, are kept beside the backup for the proof and for ``verify``.
    """
    scratch = scratch_folders.of(step, "restore-test")

    def digests_of(file: Path) -> dict[str, str]:
        kept = DigestStore(digest_store.beside(step.manifest.file), step.manifest.sha256)
        sides = Sides.of_plan(step.plan, file, step.target)
        return content.source_digests(sides, step.plan.tables, store=kept if file.is_relative_to(scratch) else None)

    try:
        checks = trial_restore.restore_test(step.manifest, scratch, digests=digests_of)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Report(f"the backup opens elsewhere, and {len(checks)} comparisons with the source were made", {}, checks)


def snapshot_extras(step: Step) -> Report:
    """Save the plan's extras beside the backup: Redis, configuration. Safe to run again.

    A required extra is a check; any other that is missing is a warning at the gate and in the report.
    """
    kept = take_extras(step.plan, step.run_id, step.source)
    step.evidence.append("extras", kept=[item.as_dict() for item in kept])
    there = [item for item in kept if item.file is not None]
    return Report(
        f"{len(there)} of {len(kept)} extras kept, {sum(item.bytes for item in there):,} bytes",
        {"extras": {item.name: item.bytes for item in there}},
        [item.check for item in kept if item.required or item.whole],
        warnings=[item.warning for item in kept if item.warning],
    )
