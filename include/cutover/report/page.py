"""The report of a run, for the observer and the lead.

It is derived from the events of the evidence and nothing else, so it can be written for a run that was killed, with
PostgreSQL down, or years later. A missing event leaves a visible gap, never a failure. Text that looks like a secret is
masked again before rendering, and every value is escaped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Template

from include.cutover.evidence.record import Evidence
from include.cutover.masking import visible
from include.cutover.plan.model import Plan
from include.cutover.report.run_state import NEXT_STEPS
from include.cutover.report.story import Story
from include.cutover.report.timeline import TimelineChart
from include.cutover.report.words import (
    address_text,
    answer_text,
    clock_text,
    duration,
    grouped_text,
    keys_text,
    moment_text,
    plain_value,
    signed,
    weblink_of,
)


def run_report(evidence: Evidence, plan: Plan) -> str:
    """Render the report as one HTML page that needs no script and no other file.

    Links to Data Docs and files are relative to the folder of the evidence, where the page belongs.

    Raises:
        CannotCheck: When there is no evidence.
    """
    story = Story(evidence)
    page = _page().render(
        story=story,
        run=story.run,
        figures=story.figures,
        artifacts=story.artifacts,
        state=story.state,
        plan=plan,
        summary=summary(evidence, plan, story),
        timeline=TimelineChart(story),
        next_steps=NEXT_STEPS.get(story.state.outcome, ()),
        written=datetime.now(UTC),
    )
    return visible(page)


@cache
def _page() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=ChainableUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        duration=duration, clock=clock_text, moment=moment_text, value=plain_value, number=grouped_text, delta=signed,
        keys=keys_text,
        address=address_text, answer=answer_text,
        weblink=weblink_of,
    )  # fmt: skip
    return environment.get_template("report.html.j2")


def summary(evidence: Evidence, plan: Plan, story: Story | None = None) -> dict[str, Any]:
    """Summarise the run in a few figures.

    Returns:
        ``outcome`` (``running`` while the run is open), ``rows``, ``tables``, ``checks_passed``, ``checks_failed``,
        ``checks_unknown``, ``downtime_seconds`` (None where nothing was stopped), ``duration_seconds`` and
        ``first_failure`` (a sentence; empty where everything passed).

    Raises:
        CannotCheck: When there is no evidence.
    """
    story = story or Story(evidence)
    run, figures = story.run, story.figures
    downtime = figures.downtime_seconds
    return {
        "outcome": story.state.outcome,
        "rows": figures.rows,
        "tables": figures.tables,
        "checks_passed": figures.count("passed"),
        "checks_failed": figures.count("failed"),
        "checks_unknown": figures.count("unknown"),
        "downtime_seconds": None if downtime is None else round(downtime, 3),
        "duration_seconds": round((run.end - run.start).total_seconds(), 3),
        "first_failure": story.first_failure,
    }
