"""Closing an incident, with the report of the run written anew."""

from __future__ import annotations

from include.cutover.plan.file import load_plan
from include.cutover.report import page as report_page
from include.cutover.runs import incident
from include.cutover.runs.incident import Incident
from include.cutover.steps.step import frozen_plan


def close(plan: str, run: str = "", *, by: str | None, cause: str, fix: str, reference: str) -> Incident:
    """Close the incident of a run; see ``incident.close``. Safe to run again.

    Raises:
        Refused: As there.
    """
    found = incident.close(plan, run, by=by, cause=cause, fix=fix, reference=reference)
    evidence = found.evidence
    evidence.save("report.html", report_page.run_report(evidence, frozen_plan(evidence) or load_plan(plan)))
    return found
