"""The report and the incident document, from evidence as the steps leave it, and as a killed run leaves it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.evidence.record import EVENTS, Evidence
from include.cutover.plan.file import parse_plan
from include.cutover.plan.model import Plan
from include.cutover.report import incident_document
from include.cutover.report import page as report_page
from include.cutover.report import words as report_words

START = datetime(2026, 3, 1, 20, 0, 0, tzinfo=UTC)
TOKEN = "gAAAAABmVqbC9n2xX4Zs0dPq7fYw3uT1kLrE"

TABLES = {"alert_rules": 4, "branches": 128, "ping_results": 2_513_179, "standalone_devices": 875, "users": 3}


@pytest.fixture(scope="module")
def plan() -> Plan:
    text = (Path(__file__).parents[3] / "include/plans/ward_ops.yaml").read_text(encoding="utf-8")
    return parse_plan(text, where="ward_ops.yaml", environment={})


class Run:
    """Writes the events of a run at chosen times."""

    def __init__(self, folder: Path) -> None:
        self.evidence = Evidence(folder)
        self.clock = START

    def append(self, event: str, after: float = 0.0, **fields: Any) -> None:
        self.clock += timedelta(seconds=after)
        self.evidence.append(event, time=self.clock.isoformat(timespec="microseconds"), **fields)

    def open(self) -> None:
        self.append(
            "run.opened", run_id="manual__2026-03-01", plan="ward_ops", application="Ward OPS", dag_id="cutover_ward_ops",
            actor="lead", reason="the window of March", approve="ask", window_start=START.isoformat(),
            window_end=(START + timedelta(minutes=60)).isoformat(), notices=True,
            fingerprints={"plan": "a" * 64, "sql": "b" * 64, "code": "c" * 64},
        )  # fmt: skip

    def step(
        self,
        name: str,
        seconds: float = 0.4,
        outcome: str = "passed",
        summary: str = "",
        checks: tuple[Check, ...] = (),
        wait: float = 0.3,
        **figures: Any,
    ) -> None:
        self.append("step.begin", wait, step=name, try_number=1, pid=7, log_url=f"http://airflow/dags/x/runs/y/tasks/{name}")
        self.append(
            "step.end", seconds, step=name, outcome=outcome, seconds=seconds, summary=summary, figures=figures,
            checks=[check.as_dict() for check in checks],
        )  # fmt: skip

    def prepare(self) -> None:
        self.open()
        self.step("open_run", summary="opened by lead: the window of March")
        self.append("notice", notice="start", subject="Ward OPS: migration to PostgreSQL begins", text="Heads up: at 20:00")
        self.append("notice.delivery", notice="start", channel="slack", outcome="sent", error="")
        self.append("notice.delivery", notice="start", channel="mail", outcome="failed", error="ConnectionRefusedError")
        self.step("announce_start", summary="sent to slack, not to mail")
        disk = Check("target_free_disk", "free disk of the target", "unknown", "2.1 GB", "the server is on another host",
                     "Ask the administrator.", "PostgreSQL at db:5432")  # fmt: skip
        size = Check("target_version", "version of PostgreSQL", "passed", "14 or newer", "18.0", "", "PostgreSQL at db:5432")
        self.step("check_target", 1.2, summary="1 of 2 checks passed", checks=(disk, size))
        self.step("apply_ddl", 0.7, summary="pre_data: 3 files applied")
        self.append("gate.asked", 0.2, gate="go_no_go", minutes=15)
        self.append("gate", 312, gate="go_no_go", answer="Go", by="lead", automatic=False)

    def stop_and_copy(self) -> None:
        self.append("services.stopped", 0.5)
        self.step("stop_services", 2.1, summary="stopped: beat, worker, api")
        self.step("fence_source", 0.3, summary="nobody holds ward_ops.db open")
        self.append(
            "backup", file="/backups/ward_ops.db.20260301-2005.bak", second_file="/second/ward_ops.db.20260301-2005.bak",
            bytes=548_000_000, sha256="d" * 64, sqlite_version="3.54.0", same_device=False, counts=TABLES,
            manifest="/backups/ward_ops.db.20260301-2005.bak.manifest.json",
        )  # fmt: skip
        self.step("take_backup", 2.4, summary="548,000,000 bytes", bytes=548_000_000, counts=TABLES)
        for table, rows in TABLES.items():
            self.step(f"copy.{table}", max(0.1, rows / 600_000), wait=0.05, summary=f"{table}: {rows:,} rows", table=table,
                      rows=rows)  # fmt: skip
        self.step("restore_test", 1.4, summary="the copy opens")
        self.step("build_keys_and_indexes", 3.2, summary="post_data: 2 files applied")

    def prove(self, orphans: Sequence[tuple[Check, dict[str, Any]]] = (), **target: int) -> None:
        found = {**TABLES, **target}
        checks = tuple(
            Check(f"row_count_{table}", f"rows of {table} are as many as expected",
                  "passed" if found[table] == rows else "failed", f"{rows:,} rows (snapshot)", f"{found[table]:,} rows",
                  "" if found[table] == rows else "Do not go live.", f"public.{table}")
            for table, rows in TABLES.items()
        )  # fmt: skip
        tables = [
            {"table": table, "source_rows": rows, "target_rows": found[table], "delta": found[table] - rows,
             "origin": "snapshot"}
            for table, rows in TABLES.items()
        ]  # fmt: skip
        checks += tuple(check for check, _ in orphans)
        wrong = sum(check.outcome == "failed" for check in checks)
        summary = f"{wrong} of {len(checks)} checks did not pass"
        self.step("check_tables", 1.9, "failed" if wrong else "passed", summary, checks, tables=tables,
                  rows=sum(found.values()), foreign_keys=12, orphans=[key for _, key in orphans])  # fmt: skip

    def go_live(self) -> None:
        self.append("decision", 0.2, at="decide", outcome="go_on", why=["every step before this one passed"])
        self.append("gate", 20, gate="approve", answer="Go", by="lead", automatic=False)
        self.step("start_services", 2.0, summary="started: api, worker, beat")
        self.append("services.started", on="target")
        self.step("smoke_test_application", 0.9, summary="6 questions asked from outside")
        self.append("decision", 0.2, at="decide_live", outcome="go_on", why=["every step before this one passed"])
        self.append("live")
        self.append("sealed", 0.4, outcome="live", summary="live on PostgreSQL", by="cutover_ward_ops/manual")


def live(run: Run) -> None:
    run.prepare()
    run.stop_and_copy()
    run.prove()
    run.go_live()


def rolled_back(run: Run) -> None:
    run.prepare()
    run.stop_and_copy()
    key = {"foreign_key": "snmp_credentials_device_id_fkey", "table": "snmp_credentials", "columns": ["device_id"],
           "referenced_table": "standalone_devices", "count": 22, "keys": [{"id": "5", "device_id": "0af1"}]}  # fmt: skip
    orphan = Check("orphans_snmp_credentials", "every snmp_credentials.device_id refers to a row", "failed",
                   "no orphan", "22 orphans: id=5, device_id=0af1", "Do not.", "public.snmp_credentials")  # fmt: skip
    run.prove([(orphan, key)], users=2)
    run.append("decision", 0.2, at="decide", outcome="rollback", why=["check_tables failed: 2 of 6 checks did not pass"])
    run.step("rollback.stop_services", 0.2, summary="stopped: none")
    run.append(
        "rows.written", unknown="", tables={"ping_results": {"in_words": "12 inserted"}}, folder="kept/rows_after_go_live",
        files=[{"name": "ping_results.jsonl", "lines": 12}], problem="",
    )  # fmt: skip
    run.step("rollback.keep_target", 0.3, summary="kept as schema public_rolled_back_1", schema="public_rolled_back_1",
             pending=False)  # fmt: skip
    run.step("rollback.restore_source", 1.0, summary="ward_ops.db is the backup again", sha256="d" * 64,
             kept=["ward_ops.db", "ward_ops.db-wal"])  # fmt: skip
    run.step("rollback.start_services", 2.0, summary="started: api, worker, beat")
    run.append("services.started", on="source")
    run.step("rollback.check_health", 0.3)
    run.append("sealed", 0.4, outcome="rolled_back", summary="rolled back", by="x")


class Page(HTMLParser):
    """Tags and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "ward_ops" / "manual__2026-03-01")


def test_a_live_run_says_so_and_gives_the_downtime(run: Run, plan: Plan) -> None:
    live(run)
    page = Page(report_page.run_report(run.evidence, plan))
    assert "Live on PostgreSQL" in page.text
    assert "Go by lead" in page.text
    assert "slack: sent" in page.text and "mail: failed" in page.text
    assert "2,513,179" in page.text and "548,000,000 bytes" in page.text

    told = report_page.summary(run.evidence, plan)
    assert told["outcome"] == "live"
    assert (told["rows"], told["tables"]) == (sum(TABLES.values()), 5)
    assert (told["checks_passed"], told["checks_failed"], told["checks_unknown"]) == (6, 0, 1)
    assert told["first_failure"] == ""
    events = run.evidence.events()
    stopped, started = (next(e for e in events if e["event"] == f"services.{word}") for word in ("stopped", "started"))
    outage = datetime.fromisoformat(started["time"]) - datetime.fromisoformat(stopped["time"])
    assert told["downtime_seconds"] == pytest.approx(outage.total_seconds(), abs=0.001)
    assert f"{report_words.duration(outage.total_seconds())} downtime" in page.text


def test_a_failure_is_named_first_with_expected_found_and_what_to_do(run: Run, plan: Plan) -> None:
    rolled_back(run)
    page = Page(report_page.run_report(run.evidence, plan))
    assert "Rolled back" in page.text
    first = "check_tables: public.users: rows of users are as many as expected; expected 3 rows (snapshot), found 2 rows"
    assert f"First failure: {first}" in page.text
    assert report_page.summary(run.evidence, plan)["first_failure"] == first
    assert page.text.index("rows of users are as many") < page.text.index("version of PostgreSQL")
    assert "id=5, device_id=0af1" in page.text and "and 21 more" in page.text
    assert "ping_results 12 inserted" in page.text
    rows = re.findall(r"<tr( class=\"bad\")?><td><code>(\w+)</code>", report_page.run_report(run.evidence, plan))
    assert rows[0] == (' class="bad"', "users") and [mark for mark, _ in rows[1:]] == [""] * 4


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("live", "Live on PostgreSQL"),
        ("rolled_back", "Rolled back"),
        ("abandoned", "Abandoned"),
        ("released", "Released"),
        ("failed", "somebody must look now"),
        ("lost", "Another run took over"),
    ],
)
def test_every_end_has_its_words(run: Run, plan: Plan, outcome: str, words: str) -> None:
    run.open()
    run.append("sealed", 3, outcome=outcome, summary="", by="x")
    assert words in Page(report_page.run_report(run.evidence, plan)).text
    assert report_page.summary(run.evidence, plan)["outcome"] == outcome
    assert report_page.summary(run.evidence, plan)["downtime_seconds"] is None


def test_warnings_are_told_once_and_extras_with_their_place(run: Run, plan: Plan) -> None:
    run.prepare()
    run.stop_and_copy()
    kept = {"name": "configuration", "file": "/backups/extras-run/configuration.tar.gz", "bytes": 12_345, "sha256": "e" * 64}
    run.append("extras", kept=[kept, {"name": "redis", "file": None, "problems": ["it does not answer"]}])
    said = "the snapshot of Redis was not kept: <it> does not answer"
    for step in ("snapshot_extras", "decide", "decide_live"):
        run.append("step.begin", step=step)
        run.append("step.end", step=step, outcome="passed", warnings=[said] if step != "decide_live" else [])
    page = report_page.run_report(run.evidence, plan)
    assert page.count("the snapshot of Redis was not kept: &lt;it&gt; does not answer") == 1
    assert "<strong>snapshot extras:</strong>" in page
    assert "/backups/extras-run/configuration.tar.gz, 12,345 bytes" in page and "Kept beside it: redis" not in page


def test_a_run_opened_again_is_no_longer_closed(run: Run, plan: Plan) -> None:
    live(run)
    run.append("reopened", 60, by="lead", reason="errors in the log", holder="rollback_ward_ops/x")
    run.append("services.stopped", 1)
    run.append("step.begin", step="rollback.stop_services", try_number=1, pid=9, log_url="")
    told = report_page.summary(run.evidence, plan)
    assert told["outcome"] == "running"
    page = Page(report_page.run_report(run.evidence, plan))
    assert "Rolling back" in page.text and "still down" in page.text


def test_the_downtime_is_the_sum_of_all_outages(run: Run, plan: Plan) -> None:
    run.open()
    for event, after in (("stopped", 1), ("stopped", 2), ("started", 3), ("stopped", 10), ("started", 4)):
        run.append(f"services.{event}", after)
    run.append("sealed", 100, outcome="rolled_back", summary="", by="x")
    assert report_page.summary(run.evidence, plan)["downtime_seconds"] == 9.0


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
def test_what_is_missing_leaves_a_gap_and_no_failure(run: Run, plan: Plan, left: Callable[[Run], None]) -> None:
    left(run)
    assert "</html>" in report_page.run_report(run.evidence, plan)
    assert "Root cause / follow-up" in incident_document.incident_document(run.evidence, plan, "")
    assert set(report_page.summary(run.evidence, plan)) == {
        "outcome", "rows", "tables", "checks_passed", "checks_failed", "checks_unknown", "downtime_seconds",
        "duration_seconds", "first_failure",
    }  # fmt: skip


def test_a_step_without_an_end_is_running_until_the_run_goes_on_without_it(run: Run, plan: Plan) -> None:
    _killed_in_a_step(run)
    page = Page(report_page.run_report(run.evidence, plan))
    assert "no end yet" in page.text and "The services are down." in page.text
    assert report_page.summary(run.evidence, plan)["first_failure"] == ""

    run.append("decision", 5, at="decide", outcome="rollback", why=["copy.users began and never ended"])
    assert report_page.summary(run.evidence, plan)["first_failure"] == "copy.users: no end is recorded"
    run.append("sealed", 5, outcome="failed", summary="", by="x")
    assert "The services are not recorded as started." in Page(report_page.run_report(run.evidence, plan)).text


def test_a_retry_that_passed_is_no_failure(run: Run, plan: Plan) -> None:
    run.open()
    run.step("take_backup", outcome="error", summary="the disk is full")
    run.step("take_backup", summary="done")
    assert report_page.summary(run.evidence, plan)["first_failure"] == ""
    assert "(2 tries)" in Page(report_page.run_report(run.evidence, plan)).text
    assert "the disk is full" in incident_document.incident_document(run.evidence, plan, "")


def test_the_cause_comes_before_what_it_caused(run: Run, plan: Plan) -> None:
    run.open()
    run.append("step.end", 1, step="approve", outcome="refused", seconds=0.1, summary="no go")
    run.step("check_tables", outcome="error", summary="the target does not answer")
    assert report_page.summary(run.evidence, plan)["first_failure"] == "check_tables: the target does not answer"


def test_a_no_go_is_the_first_failure_when_nothing_else_failed(run: Run, plan: Plan) -> None:
    run.open()
    run.append("gate", 900, gate="go_no_go", answer="No-go", by=None, automatic=False)
    run.append("sealed", 1, outcome="abandoned", summary="", by="x")
    assert report_page.summary(run.evidence, plan)["first_failure"] == "go_no_go: No-go: nobody answered in time"


def test_broken_evidence_is_shown_as_far_as_it_can_be_read(run: Run, plan: Plan) -> None:
    rolled_back(run)
    path = run.evidence.folder / EVENTS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"garbage\n", *lines[4:]]))
    page = Page(report_page.run_report(run.evidence, plan))
    assert "The evidence is damaged" in page.text and "chain broken" in page.text
    assert "rows of users are as many as expected" in page.text
    assert "The evidence is damaged" in incident_document.incident_document(run.evidence, plan, "x")


def test_without_evidence_there_is_no_report(tmp_path: Path, plan: Plan) -> None:
    for write in (report_page.run_report, report_page.summary):
        with pytest.raises(CannotCheck):
            write(Evidence(tmp_path / "nothing"), plan)
    with pytest.raises(CannotCheck):
        incident_document.incident_document(Evidence(tmp_path / "nothing"), plan, "")


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
    text = report_page.run_report(hostile, evil)
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in page.text
    assert all(not link.startswith("javascript") for link in page.values("href"))

    document = incident_document.incident_document(hostile, evil, HOSTILE)
    assert not re.findall(r"(?<!\\)<(?!https?://)\w+", re.sub(r"`[^`\n]*`", "", document))


def test_secrets_do_not_get_into_a_report(run: Run, plan: Plan) -> None:
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
    page = report_page.run_report(run.evidence, plan)
    document = incident_document.incident_document(run.evidence, plan, next(iter(secrets)))
    told = str(report_page.summary(run.evidence, plan))
    for secret in secrets.values():
        assert secret not in page and secret not in document and secret not in told


def test_the_page_needs_nothing_beside_itself(run: Run, plan: Plan) -> None:
    live(run)
    for name in ("assess_source", "tables"):
        folder = run.evidence.folder / "data_docs" / name
        folder.mkdir(parents=True)
        (folder / "index.html").write_text("x")
    run.evidence.save("incident & more.md", "text")
    page = Page(report_page.run_report(run.evidence, plan))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert [link for tag, attributes in page.tags if tag == "link" and (link := attributes.get("href"))] == ["data:,"]
    assert "url(" not in report_page.run_report(run.evidence, plan)
    relative = [link for link in page.values("href") if not link.startswith(("http://airflow/", "data:"))]
    assert {"data_docs/assess_source/index.html", "data_docs/tables/index.html", EVENTS, "incident%20%26%20more.md"} == set(
        relative
    )


def test_only_web_addresses_are_linked(run: Run, plan: Plan) -> None:
    run.open()
    run.append("step.begin", step="check_tables", log_url="javascript:alert(1)")
    page = Page(report_page.run_report(run.evidence, plan))
    assert "javascript:alert(1)" not in page.values("href")


def test_a_long_wait_does_not_squeeze_the_steps(run: Run, plan: Plan) -> None:
    run.open()
    run.step("check_target", 2)
    run.append("gate", 3600, gate="go_no_go", answer="Go", by="lead", automatic=False)
    run.step("take_backup", 2)
    run.append("sealed", 0.1, outcome="live", summary="", by="x")
    widths = [
        float(width) for width in re.findall(r"<i class=\"passed\" style=\"left:[\d.]+%;width:([\d.]+)%\"", _page(run, plan))
    ]
    assert len(widths) == 2 and min(widths) > 30
    assert "waits, cut short: 1 h 00 min" in Page(_page(run, plan)).text


def _page(run: Run, plan: Plan) -> str:
    return report_page.run_report(run.evidence, plan)


def test_the_incident_document_says_what_failed_and_where_everything_is(run: Run, plan: Plan) -> None:
    rolled_back(run)
    run.evidence.save("plan.json", "{}")
    document = incident_document.incident_document(run.evidence, plan, "the counts differ")
    for part in (
        "the counts differ",
        "**check_tables** failed at 2026-03-01",
        "expected 3 rows (snapshot), found 2 rows",
        "## Timeline",
        "**the services are up on SQLite**",
        "`id=5, device_id=0af1`",
        "schema `public_rolled_back_1`",
        "`ward_ops.db-wal`",
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


def test_a_target_that_was_down_is_told_as_pending(run: Run, plan: Plan) -> None:
    run.open()
    run.append("rows.written", unknown="connection refused", tables=None, files=[])
    run.step("rollback.keep_target", summary="could not be put aside", pending=True, reason="connection refused")
    document = incident_document.incident_document(run.evidence, plan, "PostgreSQL is down")
    assert "could **not** be put aside yet (connection refused)" in document
    assert "- `all tables`: unknown: connection refused" in document
    assert "the next run counts and exports them" in document
    # What was counted before, and what became known later, are told as what they are.
    run.append("rows.written", unknown="", tables={"users": {"in_words": "1 updated"}}, folder="", files=[], problem="")
    assert "- `users`: 1 updated\n" in incident_document.incident_document(run.evidence, plan, "x")
    run.append("rows.written", unknown="gone again", tables=None, files=[])
    document = incident_document.incident_document(run.evidence, plan, "x")
    assert "unknown: gone again" in document and "- `users`: 1 updated (at " in document
    run.append("rows.written", unknown="", tables={}, folder="", files=[], problem="No space left on device")
    document = incident_document.incident_document(run.evidence, plan, "x")
    assert "- `all tables`: none\n" in document and "could be exported** (No space left on device)" in document
    page = Page(report_page.run_report(run.evidence, plan))
    assert "Rows written after go-live" in page.text and "No space left on device" in page.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (0.42, "0.42 s"), (9.996, "10.0 s"), (59.96, "1 min 00 s"), (65, "1 min 05 s"), (7380, "2 h 03 min"),
     (None, "–")],
)  # fmt: skip
def test_durations_in_words(seconds: float | None, text: str) -> None:
    assert report_words.duration(seconds) == text


def test_the_report_says_how_often_a_notice_was_tried_and_who_touched_it(run: Run, plan: Plan) -> None:
    run.prepare()
    run.append("notice.delivery", 30, notice="start", channel="mail", outcome="failed", error="ConnectionRefusedError")
    run.append("notice", notice="deadline", subject="Ward OPS: late", text="late", due=START.isoformat(), while_open=True)
    run.append("notice", notice="completion", subject="Ward OPS: done", text="as Tamar says", by="communicator")
    run.append("notice.withheld", notice="completion", by="lead")
    text = Page(report_page.run_report(run.evidence, plan)).text
    assert "mail: failed after 2 tries" in text and "slack: sent" in text
    assert "text by communicator" in text and "withheld by lead" in text
    assert "Due at 2026-03-01 20:00:00 UTC" in text
    run.append("notice.delivery", 60, notice="start", channel="mail", outcome="sent", error="")
    run.append("sealed", outcome="rolled_back")
    text = Page(report_page.run_report(run.evidence, plan)).text
    assert "mail: sent after 3 tries" in text
    assert "Ward OPS: late" not in text, "the run was over before its deadline"
