"""Runs whose events are written at chosen times, and a reader of HTML pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from include.cutover.checks import Check
from include.cutover.evidence.record import Evidence

START = datetime(2026, 3, 1, 20, 0, 0, tzinfo=UTC)

TABLES = {"alert_rules": 4, "branches": 128, "ping_results": 2_513_179, "standalone_devices": 875, "users": 3}


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
        self.step("announce_start", summary="sent to slack, missing: mail")
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
    run.append(
        "source.found",
        state="newer",
        holds="the backup with what was written since: pings: 7 more than the backup",
        rows={"pings": {"more": 7, "changed": 0, "missing": 0}},
        beyond=7,
        bytes=1,
        kept_in="kept/2",
        counts={},
    )
    for name, content in (("ward_ops.db", "1"), ("2/ward_ops.db", "2"), ("2/ward_ops.db-wal", "log")):
        (run.evidence.folder / "kept" / name).parent.mkdir(parents=True, exist_ok=True)
        (run.evidence.folder / "kept" / name).write_text(content)
    run.step("rollback.restore_source", 1.0, summary="ward_ops.db is the backup again", sha256="d" * 64,
             kept=["kept/ward_ops.db", "kept/2/ward_ops.db", "kept/2/ward_ops.db-wal"])  # fmt: skip
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
