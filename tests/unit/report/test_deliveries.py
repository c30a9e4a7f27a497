"""Notices in the report."""

from __future__ import annotations

from include.cutover.plan.model import Plan
from include.cutover.report.page import run_report
from tests.support.recorded_runs import START, Page, Run


def test_report_shows_the_tries_of_a_notice_and_who_changed_it(run: Run, plan: Plan) -> None:
    run.prepare()
    run.append("notice.delivery", 30, notice="start", channel="mail", outcome="failed", error="ConnectionRefusedError")
    run.append("notice", notice="deadline", subject="Ward OPS: late", text="late", due=START.isoformat(), while_open=True)
    run.append("notice", notice="completion", subject="Ward OPS: done", text="as Tamar says", by="communicator")
    run.append("notice.withheld", notice="completion", by="lead")
    text = Page(run_report(run.evidence, plan)).text
    assert "mail: failed after 2 tries" in text and "slack: sent" in text
    assert "text by communicator" in text and "withheld by lead" in text
    assert "Due at 2026-03-01 20:00:00 UTC" in text
    run.append("notice.delivery", 60, notice="start", channel="mail", outcome="sent", error="")
    run.append("sealed", outcome="rolled_back")
    text = Page(run_report(run.evidence, plan)).text
    assert "mail: sent after 3 tries" in text
    assert "Ward OPS: late" not in text, "the run was over before its deadline"
