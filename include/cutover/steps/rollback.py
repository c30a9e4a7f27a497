"""Rolls back to the verified backup.

Everything here needs the evidence and the plan only; it works with PostgreSQL down. Each step verifies its outcome and can
run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psycopg

from include.cutover import files
from include.cutover.aftercare import rows_since_go_live
from include.cutover.application import configuration, services
from include.cutover.errors import CutoverError, Refused
from include.cutover.evidence.record import Event
from include.cutover.report import incident_document
from include.cutover.runs import incident, runbook
from include.cutover.runs.terms import ROLLBACK
from include.cutover.runs.verdict import has_backup, has_begun
from include.cutover.source import fence, found_file, other_names, relink, restore
from include.cutover.source.found_file import Found
from include.cutover.steps import source_file
from include.cutover.steps.announce import announce
from include.cutover.steps.configuration import fill, kept_configuration
from include.cutover.steps.quiesce import stop_again
from include.cutover.steps.set_aside import set_schema_aside
from include.cutover.steps.sqlite_again import check_health, lift_fence, start_services
from include.cutover.steps.step import Body, Report, Step


def stop_services(step: Step) -> Report:
    """Stop every running service, on either database, and keep their logs for the investigation. Safe to run again."""
    if step.evidence.last("services.stopped") is None or step.evidence.last("services.started") is not None:
        step.evidence.append("services.stopped")
    results = services.stop(step.plan.services, step.remote)
    missing = _keep_logs(step)
    return Report(
        f"stopped: {', '.join(result.name for result in results) or 'the plan has no services'}"
        + (f"; no log was kept of {', '.join(missing)}" if missing else ""),
        {"logs_missing": missing},
    )


def _keep_logs(step: Step) -> dict[str, str]:
    """Save the services' logs, masked, as ``kept/logs/…``. Return service → reason where there is none. Never fails."""
    settings = step.plan.configuration
    secrets: set[str] = set()
    if settings is not None:
        secrets = configuration.secrets(settings, kept_configuration(step, settings))
    logs, missing = services.kept_logs(step.plan.services, secrets, step.remote)
    try:
        files.make_private(step.evidence.folder / "kept")
        for name, text in logs.items():
            step.evidence.save(f"kept/logs/{name}.log", text, 0o600)
    except (CutoverError, OSError) as error:
        step.log.warning("the services' logs are not kept: %s", error)
        missing.update(dict.fromkeys(logs, "it could not be written"))
    return missing


def keep_target(step: Step) -> Report:
    """Shut the application out of the target, export the rows that it wrote there, and set the schema aside; never drop it.

    Going back does not wait for PostgreSQL: with it down, this is reported as pending, and the next run does it before
    anything else.
    """
    pending = step.evidence.append("target.pending", run_id=step.run_id)
    try:
        kept = set_schema_aside(step, step.evidence, step.run_id)
    except (CutoverError, psycopg.Error) as error:
        reason = str(error).strip().splitlines()[0]
        step.log.warning("the target could not be set aside: %s", reason)
        written = rows_since_go_live.newest(step.evidence, since=pending["seq"])
        written = written if written.summary else rows_since_go_live.record_unknown(step.evidence, reason)
        return Report(
            "; ".join(filter(None, ["the target could not be set aside now; the next run does it first", written.summary])),
            {"pending": True, "reason": reason, "rows_written_after_go_live": written.figures},
        )
    written = rows_since_go_live.newest(step.evidence)
    kept_text = f"kept as schema {kept.name} with {sum(kept.rows.values()):,} rows"
    return Report(
        "; ".join(filter(None, [kept_text, written.summary])),
        {"schema": kept.name, "pending": False, "rows_written_after_go_live": written.figures},
    )


def restore_source(step: Step) -> Report:
    """Restore the backup to the place of the source; the file found there goes into the evidence first. Safe to run again.

    The source is the truth and is not overwritten where it has no verified backup: then only a fence is lifted. The same
    holds for a file with rows beyond the backup: since the restore, or in spite of the fence, the application wrote to it.
    """
    stop_again(step)
    if not has_backup(step.evidence.events()):
        return lift_fence(step)
    kept, others = step.evidence.folder / "kept", step.plan.source_other_names
    warnings = relink.left_behind(step.source, others)
    if step.source.exists():
        other_names.require_no_log(step.source, others)
    result = restore.restore(
        step.source,
        step.manifest,
        kept,
        give_up_rows=_rows_given_up(step),
        changes=_changes_before(step),
        on_found=lambda found, folder: record_found(step, found, folder),
    )
    if result.stays and result.found is not None:
        fence.lift(step.source)
        return Report(
            f"{step.source.name} stays as it is: {result.found.holds}",
            {"stays": True, "rows_beyond_the_backup": result.found.differences.as_dict()},
            warnings=_warnings(result.found),
        )
    _require_nothing_beyond(step, others)
    linked = relink.relink(step.source, others, kept)
    return Report(
        f"{step.source.name} is the backup again, hash {result.sha256[:12]}… equal"
        + (f"; linked to it: {', '.join(map(str, linked))}" if linked else ""),
        {"sha256": result.sha256, "kept": [str(path.relative_to(step.evidence.folder)) for path in result.kept]},
        warnings=warnings,
    )


def _require_nothing_beyond(step: Step, others: Sequence[Path]) -> None:
    """Refuse to link a name to the restored file that leads to a database with rows of its own.

    Raises:
        Refused: Names it, with its rows.
    """
    for path in others:
        if not path.exists() or path.samefile(step.source):
            continue
        found = found_file.examine(files.real(path), step.manifest, files.real(step.source))
        if not found.replaceable:
            raise Refused(
                "another name of the database leads to a file with rows beyond the backup",
                where=str(path),
                expected="the source as it was fenced",
                found=found.holds,
                do=f"Save these rows, and move the file away. {restore.AGAIN}",
            )


def _rows_given_up(step: Step) -> int | None:
    """Return the number of rows that the person who asked for this rollback gave up; it counts for one file only."""
    asked = _asked(step)
    if asked is None or asked.get("give_up_rows") is None:
        return None
    found = step.evidence.last(incident.SOURCE_FOUND)
    if found is None or found["seq"] < asked["seq"] or found["kept_in"] is None:
        return int(asked["give_up_rows"])
    # Recorded before the move: where the file is not kept yet, a killed attempt is continued.
    moved = (step.evidence.folder / found["kept_in"] / files.real(step.source).name).exists()
    return None if moved else int(asked["give_up_rows"])


def record_found(step: Step, found: Found, folder: Path | None) -> None:
    """Record the file found in the database's place before it is moved, and the folder of the evidence that it goes to."""
    kept = None if folder is None else str(folder.relative_to(step.evidence.folder))
    counts = dict(found.differences.counts) if folder is None else {}
    ready = restore.ready_path(files.real(step.source))
    inode = ready.stat().st_ino if ready.exists() else None
    step.evidence.append(incident.SOURCE_FOUND, **found.as_dict(), kept_in=kept, counts=counts, ready_inode=inode)


def _changes_before(step: Step) -> int:
    """Return the change counter that a successor of the source cannot be below; 0 for a file that this run restored.

    A restored file has the counter of the backup, which begins anew.
    """
    place = files.real(step.source)
    restored = [event.get("ready_inode") for event in step.evidence.events() if event["event"] == incident.SOURCE_FOUND]
    return 0 if place.exists() and place.stat().st_ino in restored else source_file.changes_before(step)


def _warnings(found: Found) -> list[str]:
    if found.state == "fenced":
        return ["the backup could not be restored; its fence was lifted from the source, which is equal by its hash"]
    differences = found.differences
    lead = "the file was changed since the backup"
    if differences.beyond:
        lead = "the file holds rows that the backup lacks"
    elif differences.missing:
        lead = "rows of the backup were deleted in the file, and none was added or changed; so it is newer"
    return [f"{lead}, and was not replaced: {differences.words}"]


def revert_configuration(step: Step) -> Report:
    """Restore the configuration from before the switch, and set the plan's values for a rolled-back application.

    Other keys that people added or changed since stay. Safe to run again.
    """
    settings = step.plan.configuration
    if settings is None:
        return Report("the plan switches no configuration")
    kept = kept_configuration(step, settings)
    if not kept.exists():
        return Report(f"{configuration.name(settings)} was never switched")
    values = fill(settings.rolled_back, source_path=str(step.source))
    later = configuration.restore(settings, kept, values, switched=settings.live, remote=step.remote)
    stay = f"; changed since the switch, and left as they are: {', '.join(later)}" if later else ""
    return Report(
        f"{configuration.name(settings)} is restored: {', '.join(sorted(values))} set{stay}", {"later_keys": later}
    )


def write_incident(step: Step) -> Report:
    """Write the incident document for the investigation: what failed, when, and where the evidence is."""
    path = step.evidence.save(
        "incident.md", incident_document.incident_document(step.evidence, step.plan, rollback_reason(step))
    )
    return Report(f"written: {path.name}")


def give_up(step: Step) -> Report:
    """End a run that has touched nothing of the application: only its tables in the target are set aside."""
    made_tables = has_begun(step.evidence.events(), runbook.APPLY_DDL)
    kept = keep_target(step) if made_tables else Report("the target was not touched")
    if step.evidence.last("notice", notice="start") is not None:
        announce(step, notice="cancelled", reason=rollback_reason(step))
    return Report(f"nothing was stopped; {kept.summary}", kept.figures)


def rollback_reason(step: Step) -> str:
    """Return why the run is rolled back: the person's reason, else the first failure."""
    asked = _asked(step)
    if asked is not None:
        return f"{asked['reason']} (requested by {asked['by']})"
    decided = step.evidence.last("decision")
    return str(decided["why"][0]) if decided and decided["why"] else "no reason is recorded"


def _asked(step: Step) -> Event | None:
    """Return the newest request of a person for this rollback."""
    events = [event for event in step.evidence.events() if event["event"] in ("reopened", "rollback.asked")]
    return events[-1] if events else None


def announce_rollback(step: Step) -> Report:
    """Post the notice that the application is back on SQLite."""
    return announce(step, notice="rollback", reason=rollback_reason(step))


BODIES: dict[str, Body] = {
    f"{ROLLBACK}.stop_services": stop_services,
    f"{ROLLBACK}.keep_target": keep_target,
    f"{ROLLBACK}.restore_source": restore_source,
    f"{ROLLBACK}.revert_configuration": revert_configuration,
    f"{ROLLBACK}.start_services": start_services,
    f"{ROLLBACK}.check_health": check_health,
    f"{ROLLBACK}.write_incident": write_incident,
    f"{ROLLBACK}.announce_rollback": announce_rollback,
}
"""Step → body; the order is that of the runbook."""
