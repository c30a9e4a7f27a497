"""The steps of ``retention_<plan>``: archive, remove or drop what is due, and report what was left, with the reason."""

from __future__ import annotations

from include.cutover.aftercare.retention import due
from include.cutover.aftercare.retention.record import Deed, Kind
from include.cutover.checks import Check
from include.cutover.steps.step import Report, Step


def archive_backups(step: Step) -> Report:
    """Compress the backups that are old enough, and verify each archive before its file is removed. Safe to run again."""
    return _work_off(step, "archive")


def remove_backups(step: Step) -> Report:
    """Remove the backups whose time is over, never the only one. Safe to run again."""
    return _work_off(step, "remove")


def drop_kept_targets(step: Step) -> Report:
    """Drop the kept schemas of rolled-back runs whose time is over. Safe to run again."""
    return _work_off(step, "drop")


def _work_off(step: Step, what: Kind) -> Report:
    dry_run = bool(step.params.get("dry_run"))
    if not step.plan.retention.enabled and not dry_run:
        return Report("the plan has retention switched off")
    deeds = due.carry_out(step.plan, what, conninfo=lambda: step.target, dry_run=dry_run)
    for deed in deeds:
        step.log.info("%s", deed)
    failed = [deed for deed in deeds if deed.failed]
    checks = [
        Check(
            "retention",
            f"{deed.what} could be processed",
            "failed",
            "no error",
            deed.why,
            "Find the cause in the log; the next run retries.",
            deed.run,
        )
        for deed in failed
    ]
    return Report(sentence(deeds, what, dry_run=dry_run), {"done": sum(deed.done for deed in deeds)}, checks)


def sentence(deeds: list[Deed], what: Kind, *, dry_run: bool) -> str:
    """Describe the work done, in one sentence."""
    words = {"archive": "archived", "remove": "removed", "drop": "dropped"}
    done, left = sum(deed.done for deed in deeds), sum(not deed.done for deed in deeds)
    summary = f"{done} {'would be ' if dry_run else ''}{words[what]}"
    return summary + (f", {left} not yet" if left else "")
