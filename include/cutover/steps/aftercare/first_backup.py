"""Takes and proves the first backup of PostgreSQL."""

from __future__ import annotations

from include.cutover.aftercare import first_backup as aftercare_first_backup
from include.cutover.aftercare import record as aftercare_record
from include.cutover.steps.aftercare.watch import Watch, as_sentence, notify
from include.cutover.steps.step import Report


def first_backup(watch: Watch) -> Report:
    """Dump PostgreSQL, restore the dump elsewhere and compare. Safe to run again; a proven dump is kept.

    A failed check is reported, and people are asked about it, as for a red round.
    """
    known = watch.evidence.last(aftercare_record.BACKUP)
    if known is not None and known["dump"]["proven"]:
        return Report("the first backup exists")
    if not aftercare_record.is_live(watch.cutover):
        return Report("the application is rolled back; there is nothing to back up")
    dumped = aftercare_first_backup.take(watch.target, watch.plan, watch.cutover.folder.name)
    outcome = aftercare_record.judge(dumped.checks, watch.settings.accept_unknown)
    summary = aftercare_record.sentence(dumped.checks) or f"{dumped.bytes:,} bytes, restored and equal"
    event = watch.evidence.append(
        aftercare_record.BACKUP,
        outcome=outcome,
        summary=summary,
        checks=[check.as_dict() for check in dumped.checks],
        dump={name: value for name, value in dumped.as_dict().items() if name != "checks"},
    )
    if outcome != "green":
        notify(watch, f"aftercare.{event['seq']}", "aftercare", as_sentence(summary))
    return Report(summary, {"bytes": dumped.bytes, "rows": sum(dumped.rows.values())}, dumped.checks)
