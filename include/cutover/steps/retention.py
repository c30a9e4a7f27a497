"""Retention, step by step: what is due is archived, removed or dropped, and everything that was left is told."""

from __future__ import annotations

from include.cutover.aftercare.retention import due
from include.cutover.aftercare.retention.record import Deed, Kind
from include.cutover.checks import Check
from include.cutover.steps.step import Report, Step


def archive_backups(step: Step) -> Report:
    """Compress the backups that are old enough, and prove each archive before its file goes."""
    return _look_after(step, "archive")


def remove_backups(step: Step) -> Report:
    """Remove the backups whose time is over, never the only one."""
    return _look_after(step, "remove")


def drop_kept_targets(step: Step) -> Report:
    """Drop the schemas that rolled-back runs left in the target, when their time is over."""
    return _look_after(step, "drop")


def _look_after(step: Step, what: Kind) -> Report:
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
            f"{deed.what} could be dealt with",
            "failed",
            "nothing in the way",
            deed.why,
            "Look at it.",
            deed.run,
        )
        for deed in failed
    ]
    return Report(sentence(deeds, what, dry_run=dry_run), {"done": sum(deed.done for deed in deeds)}, checks)


def sentence(deeds: list[Deed], what: Kind, *, dry_run: bool) -> str:
    """What was done, in one sentence."""
    words = {"archive": "archived", "remove": "removed", "drop": "dropped"}
    done, left = sum(deed.done for deed in deeds), sum(not deed.done for deed in deeds)
    told = f"{done} {'would be ' if dry_run else ''}{words[what]}"
    return told + (f", {left} left" if left else "")
