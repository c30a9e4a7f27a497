"""The report, from evidence as the steps leave it, and as a killed run leaves it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.evidence.record import EVENTS, Evidence
from include.cutover.plan.model import Plan
from include.cutover.report.incident_document import incident_document
from include.cutover.report.page import run_report, summary
from include.cutover.report.words import duration
from tests.support.recorded_runs import TABLES, Page, Run, live, rolled_back

TOKEN = "gAAAAABmVqbC9n2xX4Zs0dPq7fYw3uT1kLrE"


def test_live_run_shows_its_outcome_and_downtime(run: Run, plan: Plan) -> None:
    live(run)
    page = Page(run_report(run.evidence, plan))
    assert "Live on PostgreSQL" in page.text
    assert "Go by lead" in page.text
    assert "slack: sent" in page.text and "mail: failed" in page.text
    assert "2,513,179" in page.text and "548,000,000 bytes" in page.text

    told = summary(run.evidence, plan)
    assert told["outcome"] == "live"
    assert (told["rows"], told["tables"]) == (sum(TABLES.values()), 5)
    assert (told["checks_passed"], told["checks_failed"], told["checks_unknown"]) == (6, 0, 1)
    assert told["first_failure"] == ""
    events = run.evidence.events()
    stopped, started = (next(e for e in events if e["event"] == f"services.{word}") for word in ("stopped", "started"))
    outage = datetime.fromisoformat(started["time"]) - datetime.fromisoformat(stopped["time"])
    assert told["downtime_seconds"] == pytest.approx(outage.total_seconds(), abs=0.001)
    assert f"{duration(outage.total_seconds())} downtime" in page.text


def test_first_failure_is_shown_with_expected_and_found(run: Run, plan: Plan) -> None:
    rolled_back(run)
    page = Page(run_report(run.evidence, plan))
    assert "Rolled back" in page.text
    first = "check_tables: public.users: rows of users are as many as expected; expected 3 rows (snapshot), found 2 rows"
    assert f"First failure: {first}" in page.text
    assert summary(run.evidence, plan)["first_failure"] == first
    assert page.text.index("rows of users are as many") < page.text.index("version of PostgreSQL")
    assert "id=5, device_id=0af1" in page.text and "and 21 more" in page.text
    assert "ping_results 12 inserted" in page.text
    rows = re.findall(r"<tr( class=\"bad\")?><td><code>(\w+)</code>", run_report(run.evidence, plan))
    assert rows[0] == (' class="bad"', "users") and [mark for mark, _ in rows[1:]] == [""] * 4


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("live", "Live on PostgreSQL"),
        ("rolled_back", "Rolled back"),
        ("abandoned", "Abandoned"),
        ("released", "Released"),
        ("failed", "It needs attention now"),
        ("lost", "Another run took over"),
    ],
)
def test_every_outcome_has_a_headline(run: Run, plan: Plan, outcome: str, words: str) -> None:
    run.open()
    run.append("sealed", 3, outcome=outcome, summary="", by="x")
    assert words in Page(run_report(run.evidence, plan)).text
    assert summary(run.evidence, plan)["outcome"] == outcome
    assert summary(run.evidence, plan)["downtime_seconds"] is None


def test_each_warning_is_shown_once_and_each_extra_with_its_place(run: Run, plan: Plan) -> None:
    run.prepare()
    run.stop_and_copy()
    kept = {"name": "configuration", "file": "/backups/extras-run/configuration.tar.gz", "bytes": 12_345, "sha256": "e" * 64}
    run.append("extras", kept=[kept, {"name": "redis", "file": None, "problems": ["it does not answer"]}])
    said = "the snapshot of Redis was not kept: <it> does not answer"
    for step in ("snapshot_extras", "decide", "decide_live"):
        run.append("step.begin", step=step)
        run.append("step.end", step=step, outcome="passed", warnings=[said] if step != "decide_live" else [])
    page = run_report(run.evidence, plan)
    assert page.count("the snapshot of Redis was not kept: &lt;it&gt; does not answer") == 1
    assert "<strong>snapshot extras:</strong>" in page
    assert "/backups/extras-run/configuration.tar.gz, 12,345 bytes" in page and "Kept beside it: redis" not in page


def test_reopened_run_is_shown_as_running(run: Run, plan: Plan) -> None:
    live(run)
    run.append("reopened", 60, by="lead", reason="errors in the log", holder="rollback_ward_ops/x")
    run.append("services.stopped", 1)
    run.append("step.begin", step="rollback.stop_services", try_number=1, pid=9, log_url="")
    told = summary(run.evidence, plan)
    assert told["outcome"] == "running"
    page = Page(run_report(run.evidence, plan))
    assert "Rolling back" in page.text and "still down" in page.text


def test_downtime_is_the_sum_of_all_outages(run: Run, plan: Plan) -> None:
    run.open()
    for event, after in (("stopped", 1), ("stopped", 2), ("started", 3), ("stopped", 10), ("started", 4)):
        run.append(f"services.{event}", after)
    run.append("sealed", 100, outcome="rolled_back", summary="", by="x")
    assert summary(run.evidence, plan)["downtime_seconds"] == 9.0


def _killed_at_the_start(run: Run) -> None:
    run.append("run.opened")


def _killed_in_a_step(run: Run) -> None:
    run.prepare()
    run.append("services.stopped")
    run.append("step.begin", 1, step="copy.users", try_number=1, pid=3, log_url="")


def _strange(run: Run) -> None:
    run.append("step.end", step="check_tables", outcome="passed", checks=None, figures=None)
    run.append("step.end", step="restore_test", outcome="odd", checks=["text", {}], figures=[1])
    run.append("step.begin")
    run.append("gate")
    run.append("decision", why=None)
    run.append("notice.delivery", notice="start", channel="slack", outcome="failed")
    run.append("file", name="gone.txt")
    run.append("services.started")
    run.append("backup")
    run.append("sealed")


@pytest.mark.parametrize("left", [_killed_at_the_start, _killed_in_a_step, _strange])
def test_missing_events_leave_a_gap_and_no_error(run: Run, plan: Plan, left: Callable[[Run], None]) -> None:
    left(run)
    assert "</html>" in run_report(run.evidence, plan)
    assert "Root cause / follow-up" in incident_document(run.evidence, plan, "")
    assert set(summary(run.evidence, plan)) == {
        "outcome", "rows", "tables", "checks_passed", "checks_failed", "checks_unknown", "downtime_seconds",
        "duration_seconds", "first_failure",
    }  # fmt: skip


def test_step_without_an_end_is_running_until_the_run_goes_on_without_it(run: Run, plan: Plan) -> None:
    _killed_in_a_step(run)
    page = Page(run_report(run.evidence, plan))
    assert "no end yet" in page.text and "The services are down." in page.text
    assert summary(run.evidence, plan)["first_failure"] == ""

    run.append("decision", 5, at="decide", outcome="rollback", why=["copy.users began and never ended"])
    assert summary(run.evidence, plan)["first_failure"] == "copy.users: no end was recorded"
    run.append("sealed", 5, outcome="failed", summary="", by="x")
    assert "There is no record that the services were started." in Page(run_report(run.evidence, plan)).text


def test_step_that_passed_on_a_retry_is_not_a_failure(run: Run, plan: Plan) -> None:
    run.open()
    run.step("take_backup", outcome="error", summary="the disk is full")
    run.step("take_backup", summary="done")
    assert summary(run.evidence, plan)["first_failure"] == ""
    assert "(2 tries)" in Page(run_report(run.evidence, plan)).text
    assert "the disk is full" in incident_document(run.evidence, plan, "")


def test_refused_step_is_listed_after_the_failure_that_caused_it(run: Run, plan: Plan) -> None:
    run.open()
    run.append("step.end", 1, step="approve", outcome="refused", seconds=0.1, summary="no go")
    run.step("check_tables", outcome="error", summary="the target does not answer")
    assert summary(run.evidence, plan)["first_failure"] == "check_tables: the target does not answer"


def test_no_go_is_the_first_failure_when_no_step_failed(run: Run, plan: Plan) -> None:
    run.open()
    run.append("gate", 900, gate="go_no_go", answer="No-go", by=None, automatic=False)
    run.append("sealed", 1, outcome="abandoned", summary="", by="x")
    assert summary(run.evidence, plan)["first_failure"] == "go_no_go: No-go: no answer in time"


def test_damaged_evidence_is_shown_as_far_as_it_is_legible(run: Run, plan: Plan) -> None:
    rolled_back(run)
    path = run.evidence.folder / EVENTS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"garbage\n", *lines[4:]]))
    page = Page(run_report(run.evidence, plan))
    assert "The evidence is damaged" in page.text and "chain broken" in page.text
    assert "rows of users are as many as expected" in page.text
    assert "The evidence is damaged" in incident_document(run.evidence, plan, "x")


def test_report_without_evidence_is_refused(tmp_path: Path, plan: Plan) -> None:
    for write in (run_report, summary):
        with pytest.raises(CannotCheck):
            write(Evidence(tmp_path / "nothing"), plan)
    with pytest.raises(CannotCheck):
        incident_document(Evidence(tmp_path / "nothing"), plan, "")


HOSTILE = "<script>alert(1)</script>&\"'><img src=x onerror=alert(1)>"


def _fill(value: Any) -> Any:
    """The same structure with hostile text in the place of every string but names of events, times and outcomes."""
    if isinstance(value, dict):
        keep = {"event", "time", "step", "outcome", "gate", "answer", "at", "previous", "seq", "name"}
        return {key: item if key in keep else _fill(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_every_value_is_escaped(run: Run, plan: Plan, tmp_path: Path) -> None:
    rolled_back(run)
    hostile = Evidence(tmp_path / "hostile")
    for event in run.evidence.events():
        fields = _fill(event)
        if event["event"] in ("run.opened",):
            fields["window_start"] = HOSTILE
        hostile.append(
            event["event"], **{key: item for key, item in fields.items() if key not in ("seq", "event", "previous")}
        )
    evil = plan.model_copy(update={"application": HOSTILE})
    text = run_report(hostile, evil)
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in page.text
    assert all(not link.startswith("javascript") for link in page.values("href"))

    document = incident_document(hostile, evil, HOSTILE)
    assert not re.findall(r"(?<!\\)<(?!https?://)\w+", re.sub(r"`[^`\n]*`", "", document))


def test_secrets_are_masked_in_page_document_and_summary(run: Run, plan: Plan) -> None:
    run.open()
    secrets = {
        "postgresql://cutover:s3cr3t-one@db/ward_flux": "s3cr3t-one",
        "host=db password=s3cr3t-two dbname=x": "s3cr3t-two",
        f"community_encrypted {TOKEN}": TOKEN,
    }
    for number, text in enumerate(secrets):
        check = Check(f"c{number}", text, "failed", text, text, text, text)
        run.step(f"step_{number}", 1, "error", text, (check,), schema=text)
        run.append("notice", notice=f"n{number}", subject=text, text=text)
    page = run_report(run.evidence, plan)
    document = incident_document(run.evidence, plan, next(iter(secrets)))
    told = str(summary(run.evidence, plan))
    for secret in secrets.values():
        assert secret not in page and secret not in document and secret not in told


def test_page_needs_no_script_and_no_other_file(run: Run, plan: Plan) -> None:
    live(run)
    for name in ("assess_source", "tables"):
        folder = run.evidence.folder / "data_docs" / name
        folder.mkdir(parents=True)
        (folder / "index.html").write_text("x")
    run.evidence.save("incident & more.md", "text")
    page = Page(run_report(run.evidence, plan))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert [link for tag, attributes in page.tags if tag == "link" and (link := attributes.get("href"))] == ["data:,"]
    assert "url(" not in run_report(run.evidence, plan)
    relative = [link for link in page.values("href") if not link.startswith(("http://airflow/", "data:"))]
    assert {"data_docs/assess_source/index.html", "data_docs/tables/index.html", EVENTS, "incident%20%26%20more.md"} == set(
        relative
    )


def test_only_web_addresses_are_linked(run: Run, plan: Plan) -> None:
    run.open()
    run.append("step.begin", step="check_tables", log_url="javascript:alert(1)")
    page = Page(run_report(run.evidence, plan))
    assert "javascript:alert(1)" not in page.values("href")
