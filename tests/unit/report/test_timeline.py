"""The timeline of a run."""

from __future__ import annotations

import re

from include.cutover.plan.model import Plan
from include.cutover.report.page import run_report
from tests.support.recorded_runs import Page, Run


def test_long_wait_does_not_squeeze_the_steps(run: Run, plan: Plan) -> None:
    run.open()
    run.step("check_target", 2)
    run.append("gate", 3600, gate="go_no_go", answer="Go", by="lead", automatic=False)
    run.step("take_backup", 2)
    run.append("sealed", 0.1, outcome="live", summary="", by="x")
    widths = [
        float(width)
        for width in re.findall(
            r"<i class=\"passed\" style=\"left:[\d.]+%;width:([\d.]+)%\"", run_report(run.evidence, plan)
        )
    ]
    assert len(widths) == 2 and min(widths) > 30
    assert "waits, cut short: 1 h 00 min" in Page(run_report(run.evidence, plan)).text
