"""The incident document, from evidence as the steps leave it."""

from __future__ import annotations

from include.cutover.plan.model import Plan
from include.cutover.report.incident_document import incident_document
from include.cutover.report.page import run_report
from tests.support.recorded_runs import Page, Run, rolled_back


def test_incident_document_names_the_failure_and_every_kept_file(run: Run, plan: Plan) -> None:
    rolled_back(run)
    run.evidence.save("plan.json", "{}")
    document = incident_document(run.evidence, plan, "the counts differ")
    for part in (
        "the counts differ",
        "**check_tables** failed at 2026-03-01",
        "expected 3 rows (snapshot), found 2 rows",
        "## Timeline",
        "**services up on SQLite**",
        "`id=5, device_id=0af1`",
        "schema `public_rolled_back_1`",
        "`kept/ward_ops.db` in the evidence: its content is not recorded",
        "`kept/2/ward_ops.db` in the evidence: the backup with what was written since: pings: 7 more than the backup",
        "`kept/2/ward_ops.db-wal` in the evidence: its write-ahead log, 3 bytes",
        "/backups/ward_ops.db.20260301-2005.bak",
        "- `ping_results`: 12 inserted",
        "Exported to `kept/rows_after_go_live` of the evidence, whole rows, secret columns included",
        "- `ping_results.jsonl`: 12 lines",
        "[plan.json](plan.json)",
        "## Root cause / follow-up",
        "Nino Beridze",
    ):
        assert part in document, part
    lines = [line for line in document.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {3, 6}


def test_a_file_that_was_not_replaced_is_named_with_its_rows(run: Run, plan: Plan) -> None:
    run.open()
    run.append(
        "source.found", state="newer", holds="pings: 7 more than the backup", rows={}, beyond=7, bytes=1, kept_in=None
    )
    document = incident_document(run.evidence, plan, "power cut")
    assert "**The SQLite file was not replaced.** It holds: pings: 7 more than the backup." in document


def test_target_that_was_down_is_reported_as_pending(run: Run, plan: Plan) -> None:
    run.open()
    run.append("rows.written", unknown="connection refused", tables=None, files=[])
    run.step("rollback.keep_target", summary="could not be set aside", pending=True, reason="connection refused")
    document = incident_document(run.evidence, plan, "PostgreSQL is down")
    assert "could **not** be set aside yet (connection refused)" in document
    assert "- `all tables`: unknown: connection refused" in document
    assert "The next run counts and exports them first" in document
    # What was counted before, and what became known later, are told as what they are.
    run.append("rows.written", unknown="", tables={"users": {"in_words": "1 updated"}}, folder="", files=[], problem="")
    assert "- `users`: 1 updated\n" in incident_document(run.evidence, plan, "x")
    run.append("rows.written", unknown="gone again", tables=None, files=[])
    document = incident_document(run.evidence, plan, "x")
    assert "unknown: gone again" in document and "- `users`: 1 updated (counted at " in document
    run.append("rows.written", unknown="", tables={}, folder="", files=[], problem="No space left on device")
    document = incident_document(run.evidence, plan, "x")
    assert "- `all tables`: none\n" in document and "not complete** (No space left on device)" in document
    page = Page(run_report(run.evidence, plan))
    assert "Rows written after go-live" in page.text and "No space left on device" in page.text
