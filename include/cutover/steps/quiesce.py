"""Stops the services and fences the source: the downtime begins."""

from __future__ import annotations

from include.cutover.application import services
from include.cutover.source import fence, holders
from include.cutover.steps.step import Report, Step


def stop_services(step: Step) -> Report:
    """Stop every service; the downtime begins. Safe to run again: a stopped service stays stopped."""
    if step.evidence.last("services.stopped") is None:
        step.evidence.append("services.stopped")
    results = services.stop(step.plan.services, step.remote)
    return Report(f"stopped: {', '.join(result.name for result in results) or 'the plan has no services'}")


def stop_again(step: Step) -> list[str]:
    """Stop the services that run although the run stopped them: after a restart of the host they start by themselves.

    Returns:
        Their names.
    """
    up = [name for name, is_up in services.status(step.plan.services, step.remote).items() if is_up]
    services.stop([service for service in step.plan.services if service.name in up], step.remote)
    if up:
        step.log.warning("%s had started since the stop, and were stopped again", ", ".join(up))
    return up


def fence_source(step: Step) -> Report:
    """Prove that no process holds the file open, and make it unwritable for every SQLite. Safe to run again."""
    unheld = holders.check_nobody_holds(step.source)
    if unheld.outcome == "failed":
        return Report("a process still holds the database open after the services have stopped", {}, [unheld])
    state = fence.raise_fence(step.source, run_id=step.run_id, note=f"Cutover of {step.plan.application} to PostgreSQL")
    step.evidence.append("fence.raised", note=str(state.note))
    seen = unheld.outcome == "passed"
    # Where not every process can be seen, SQLite's switch out of WAL mode and its exclusive lock are the only check.
    detector = "" if seen else f"; {unheld.found}, so only SQLite's own locks were checked"
    return Report(
        f"no SQLite client can write to {step.source.name} any more{detector}",
        {"sha256": state.sha256},
        [unheld] if seen else [],
    )
