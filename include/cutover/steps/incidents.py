"""Closes an incident and writes the report of its run again."""

from __future__ import annotations

from include.cutover.plan.file import load_plan
from include.cutover.report import page as report_page
from include.cutover.runs import incident
from include.cutover.runs.incident import Incident
from include.cutover.steps.step import frozen_plan


def close(plan: str, run: str = "", *, by: str | None, cause: str, fix: str, reference: str) -> Incident:
    """Close the incident of a run; see ``incident.close``. Safe to run again.

    Args:
        plan: The plan's name.
        run: Run id, or the folder of its evidence; empty for the open incident, else the newest.
        by: User name of the lead or a deputy.
        cause: The cause, for the evidence.
        fix: The correction.
        reference: A ticket or a document with more.

    Raises:
        Refused: As there.
    """
    found = incident.close(plan, run, by=by, cause=cause, fix=fix, reference=reference)
    evidence = found.evidence
    evidence.save("report.html", report_page.run_report(evidence, frozen_plan(evidence) or load_plan(plan)))
    return found
