"""Whole runs through a real Airflow: scheduler, gates, services that stop and start, there and back.

One site is shared; the tests stand in the order in which a bad week would happen and build on one another.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from examples.receivers import read_mail, read_slack
from examples.ward_ops.demo import plant_orphans
from examples.ward_ops.local_site import DATABASE, PIPELINE_ROLE, ROLE, LocalSite
from include.cutover.aftercare import record as aftercare_record
from include.cutover.errors import CutoverError
from include.cutover.evidence.record import Evidence
from include.cutover.places import ROOT
from include.cutover.runs import rehearsals, schedule
from include.cutover.stack.api_client import Client
from tests.support.incidents import close_incidents
from tests.support.patience import RUN_SECONDS

PINGS = 20_000
SECOND = ROOT / "tests" / "second_plan"


class Site(LocalSite):
    """The site of the demo, with a second plan beside Ward OPS."""

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment,
            "CUTOVER_PLANS": str(self.folder / "plans"),
            "CUTOVER_SQL": str(self.folder / "sql"),
        }

    @property
    def _connections(self) -> Mapping[str, str]:
        found = dict(super()._connections)
        found["library_source"] = json.dumps({"conn_type": "sqlite", "host": str(self.folder / "library.db")})
        found["library_target"] = found["ward_ops_target"]
        return found

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.ward_ops.url}/api/v1/health", timeout=10, trust_env=False).json()
        return answer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    for name, ours in (("plans", ROOT / "include" / "plans"), ("sql", ROOT / "include" / "sql")):
        shutil.copytree(ours, folder / name)
        shutil.copytree(SECOND / name, folder / name, dirs_exist_ok=True)
    before = dict(os.environ)
    # Frozen as in the demo: that saves each task its imports. Without it: test_roles.py. Two rounds also on a busy machine.
    site = Site(folder, frozen_code=True, aftercare_seconds=45)
    try:
        site.start(pings=PINGS, credentials=5)
        yield site
    finally:
        site.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def _evidence_of_the_site(site: Site, monkeypatch: pytest.MonkeyPatch, _own_evidence: None) -> None:
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(site.evidence))


@pytest.fixture
def lead(site: Site) -> Iterator[Client]:
    with site.stack.client("lead") as client:
        yield client


def wait_for_gate(client: Client, dag_id: str, run_id: str, name: str) -> Any:
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        for gate in client.gates(dag_id, run_id):
            if gate.task_id.endswith(name) and gate.answer is None:
                time.sleep(3)  # as fast as a person; see the gate's retries
                return gate
        time.sleep(0.3)
    raise AssertionError(f"the gate {name} did not open")


def outcome(evidence: Evidence) -> str:
    sealed = evidence.sealed
    return "open" if sealed is None else str(sealed["outcome"])


def wait(client: Client, dag_id: str, run_id: str) -> str:
    return str(client.wait(dag_id, run_id, seconds=RUN_SECONDS))


def may_log_in(site: Site) -> bool:
    """Return True when the application's role may log in to the target."""
    with psycopg.connect(site.target.conninfo(DATABASE)) as connection:
        row = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone()
        assert row is not None
        return bool(row[0])


def cut_over(client: Client, reason: str = "a test") -> tuple[str, Evidence]:
    run_id = client.trigger("cutover_ward_ops", {"approve": "auto", "reason": reason})
    return wait(client, "cutover_ward_ops", run_id), Evidence.of("ward_ops", run_id)


def test_orphans_that_appear_after_preflight_roll_the_run_back_by_itself(site: Site, lead: Client) -> None:
    run_id = lead.trigger("cutover_ward_ops", {"approve": "ask", "reason": "orphans appear"})
    gate = wait_for_gate(lead, "cutover_ward_ops", run_id, "go_no_go")
    plant_orphans(site.ward_ops.database)
    with site.stack.client("observer") as observer, pytest.raises(CutoverError):
        observer.answer("cutover_ward_ops", run_id, gate, "Go")
    lead.answer("cutover_ward_ops", run_id, gate, "Go")
    assert wait(lead, "cutover_ward_ops", run_id) == "failed", "a rolled-back run ends red"

    evidence = Evidence.of("ward_ops", run_id)
    assert outcome(evidence) == "rolled_back"
    proof = evidence.step("check_tables")
    assert proof is not None and proof["outcome"] == "failed"
    failed = [check for check in proof["checks"] if check["outcome"] == "failed"]
    assert len(failed) == 1 and "snmp_credentials" in failed[0]["title"]
    assert site.health()["database"] == "sqlite"
    assert not may_log_in(site), "the application was never let in"
    assert evidence.last("rows.written") is None

    backup = evidence.last("backup")
    assert backup is not None
    restored = evidence.step("rollback.restore_source")
    assert restored is not None and restored["figures"]["sha256"] == backup["sha256"]
    with psycopg.connect(site.target.conninfo(DATABASE)) as connection:
        kept = evidence.last("target.kept")
        assert kept is not None
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = %s", [kept["schema"]]).fetchone() == (
            26,
        )
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    incident = (evidence.folder / "incident.md").read_text(encoding="utf-8")
    assert "snmp_credentials" in incident
    assert [message.subject for message in read_mail(site.received)] == [
        "Ward OPS: migration to PostgreSQL begins",
        "Ward OPS: migration rolled back",
    ]
    assert len(read_slack(site.received)) == 2


def test_no_new_run_opens_before_the_lead_has_closed_the_incident(site: Site, lead: Client) -> None:
    (first,) = runs_of_the_plan()
    state, refused = cut_over(lead, "again at once")
    assert state == "failed" and refused.last("run.opened") is None
    said = (refused.step("open_run") or {})["summary"]
    assert "incident of an earlier run is not closed" in said and "kept/ward_ops.db" in said
    form = {"cause": "a script deleted devices", "fix": "the script is gone", "reference": "OPS-17"}
    with site.stack.client("observer") as observer, pytest.raises(CutoverError):
        observer.trigger("incident_ward_ops", form)
    with pytest.raises(CutoverError, match="cause"):
        lead.trigger("incident_ward_ops", {**form, "cause": ""})
    assert first.last("incident.closed") is None
    assert wait(lead, "incident_ward_ops", lead.trigger("incident_ward_ops", form)) == "success"
    closed = first.last("incident.closed")
    assert closed is not None and closed["by"] == "lead" and form.items() <= closed.items()
    assert outcome(first) == "rolled_back"


def test_orphans_in_the_source_stop_the_run_before_anything_is_stopped(site: Site, lead: Client) -> None:
    pids = site.service_pids()
    state, evidence = cut_over(lead)
    assert state == "failed" and outcome(evidence) == "abandoned"
    assert site.service_pids() == pids, "no service was touched"
    check = evidence.step("check_source")
    assert check is not None and "3 orphans" in check["summary"]


def test_no_go_changes_nothing(site: Site, lead: Client) -> None:
    with closing(sqlite3.connect(site.ward_ops.database, timeout=30)) as source, source:
        source.execute("DELETE FROM snmp_credentials WHERE device_id NOT IN (SELECT id FROM standalone_devices)")
    pids = site.service_pids()
    run_id = lead.trigger("cutover_ward_ops", {"approve": "ask", "reason": "no-go"})
    gate = wait_for_gate(lead, "cutover_ward_ops", run_id, "go_no_go")
    lead.answer("cutover_ward_ops", run_id, gate, "No-go")
    assert wait(lead, "cutover_ward_ops", run_id) == "failed"
    assert outcome(Evidence.of("ward_ops", run_id)) == "abandoned"
    assert site.service_pids() == pids
    with psycopg.connect(site.target.conninfo(DATABASE)) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_a_rehearsal_moves_a_copy_and_leaves_everything_alone(site: Site, lead: Client) -> None:
    pids, told, runs = site.service_pids(), len(read_mail(site.received)), runs_of_the_plan()
    run_id = lead.trigger("rehearsal_ward_ops", {"reason": "the day before"})
    state = wait(lead, "rehearsal_ward_ops", run_id)
    found = rehearsals.latest("ward_ops")
    assert found is not None and found.run_id == run_id
    assert (state, found.result) == ("success", "green"), found.first_failure
    assert site.service_pids() == pids and site.health()["database"] == "sqlite"
    assert len(read_mail(site.received)) == told and runs_of_the_plan() == runs
    assert found.rows["ping_results"] >= PINGS and found.down and found.back
    with psycopg.connect(site.target.conninfo(DATABASE)) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'rehearsal%'").fetchone() == (0,)
    assert not (found.folder / "scratch").exists()


def test_nobody_else_may_start_or_roll_back(site: Site) -> None:
    for user in ("observer", "communicator"):
        with site.stack.client(user) as client:
            for dag_id in ("cutover_ward_ops", "rollback_ward_ops", "rehearsal_ward_ops"):
                with pytest.raises(CutoverError):
                    client.trigger(dag_id, {"approve": "auto", "reason": "not mine"})


def test_there_is_nothing_to_roll_back_yet(lead: Client) -> None:
    run_id = lead.trigger("rollback_ward_ops", {"reason": "by mistake"})
    assert wait(lead, "rollback_ward_ops", run_id) == "failed"


def test_a_cutover_ends_live_with_equal_content(site: Site, lead: Client) -> None:
    state, evidence = cut_over(lead)
    assert state == "success" and outcome(evidence) == "live"
    rehearsed = evidence.last("rehearsal")
    assert rehearsed is not None and rehearsed["result"] == "green" and rehearsed["differs"] == []
    assert site.health()["database"] == "postgresql"
    assert may_log_in(site)
    marked, let_in = evidence.last("go_live.marker"), evidence.last("target.fence", raised=False)
    assert marked is not None and let_in is not None and marked["seq"] < let_in["seq"]
    backup = evidence.last("backup")
    assert backup is not None
    with closing(sqlite3.connect(f"file:{backup['file']}?immutable=1", uri=True)) as source:
        for table in ("standalone_devices", "branches", "users", "snmp_credentials"):
            expected = source.execute(f"SELECT count(*) FROM {table}").fetchone()
            with psycopg.connect(site.target.conninfo(DATABASE)) as connection:
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == expected, table
    with (
        closing(sqlite3.connect(site.ward_ops.database, timeout=1)) as late,
        pytest.raises(sqlite3.OperationalError, match=r"readonly|read-only|unable"),
    ):
        late.execute("DELETE FROM users")
    for stage in ("assess_source", "tables"):
        assert (evidence.folder / "data_docs" / stage / "index.html").is_file()
    assert read_mail(site.received)[-1].subject == "Ward OPS: migration complete"
    with psycopg.connect(site.stack.metadata_url.replace("postgresql+psycopg2", "postgresql")) as connection:
        query = (
            "SELECT count(*) FROM deadline d JOIN dag_run r ON r.id = d.dagrun_id"
            " WHERE r.dag_id = 'cutover_ward_ops' GROUP BY r.id"
        )
        alerts = connection.execute(query).fetchall()
    assert alerts and set(alerts) == {(3,)}, "half time, three quarters and deadline of each run"


def test_the_aftercare_follows_by_itself_and_ends_with_a_restored_backup_and_a_report(site: Site, lead: Client) -> None:
    cutover = next(run for run in reversed(runs_of_the_plan()) if outcome(run) == "live")
    opened = cutover.last("run.opened")
    assert opened is not None
    run_id = f"aftercare__{opened['run_id']}"
    state = wait(lead, "aftercare_ward_ops", run_id)
    watched = aftercare_record.evidence_of("ward_ops", opened["run_id"])
    events = watched.events()
    bad = [check for event in aftercare_record.looks(events) for check in event["checks"] if check["outcome"] != "passed"]
    assert (bad, state) == ([], "success")
    assert len(aftercare_record.looks(events)) >= 2
    assert events[0]["actor"] == "lead", "who took it live, though a task triggered this"
    backup, closed = watched.last(aftercare_record.BACKUP), watched.last(aftercare_record.CLOSED)
    assert backup is not None and backup["dump"]["proven"] and Path(backup["dump"]["file"]).is_file()
    assert closed is not None and closed["outcome"] == "quiet"
    assert read_mail(site.received)[-1].subject == "Ward OPS: the aftercare is over"
    pages = httpx.Client(base_url=site.stack.url, timeout=30, trust_env=False)
    with closing(pages), site.stack.client("observer") as observer:
        assert pages.get(f"/cutover/ward_ops/{cutover.folder.name}/aftercare").status_code == 401
        login = {"username": observer.user, "password": site.stack.logins[observer.user]}
        headers = {"Authorization": f"Bearer {pages.post('/auth/token', json=login).json()['access_token']}"}
        page = pages.get(f"/cutover/-/dag_run/aftercare_ward_ops/{run_id}", headers=headers, follow_redirects=True)
        assert page.status_code == 200 and "every round was green" in page.text


def test_no_secret_is_in_the_evidence_or_the_logs(site: Site) -> None:
    with closing(sqlite3.connect(f"file:{site.ward_ops.database}?immutable=1", uri=True)) as source:
        secrets = [value for row in source.execute("SELECT community_encrypted, auth_key_encrypted FROM snmp_credentials")
                   for value in row if value]  # fmt: skip
        secrets += [value for (value,) in source.execute("SELECT hashed_password FROM users")]
    settings = json.loads((site.folder / "settings.json").read_text())
    secrets += [settings[f"{name}_password"] for name in ("supervisor", "application", "pipeline")]
    secrets.append(site.target.password)
    places = [
        path for folder in (site.evidence, site.folder / "stack" / "logs") for path in folder.rglob("*") if path.is_file()
    ]
    assert len(places) > 50 and secrets
    for path in places:
        if path.is_relative_to(site.evidence) and "kept" in path.parts:
            continue  # the database that was found: as private as the database itself
        content = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, path


def test_a_live_application_is_not_cut_over_again(site: Site, lead: Client) -> None:
    state, evidence = cut_over(lead)
    assert state == "failed" and evidence.last("run.opened") is None
    refused = evidence.step("open_run")
    assert refused is not None and "is live on the target already" in refused["summary"]
    assert site.health()["database"] == "postgresql"


def test_the_lead_rolls_a_live_run_back_with_postgresql_down(site: Site, lead: Client) -> None:
    evidence = next(run for run in reversed(runs_of_the_plan()) if outcome(run) == "live")
    site.target.stop(signal.SIGQUIT)
    try:
        run_id = lead.trigger("rollback_ward_ops", {"reason": "PostgreSQL is gone"})
        assert wait(lead, "rollback_ward_ops", run_id) == "success"
        assert outcome(evidence) == "rolled_back"
        assert site.health()["database"] == "sqlite"
        kept = evidence.step("rollback.keep_target")
        assert kept is not None and kept["figures"]["pending"] is True
        assert kept["figures"]["rows_written_after_go_live"] == "unknown", "what cannot be known is said so"
        assert "unknown" in (evidence.folder / "incident.md").read_text(encoding="utf-8")
        with closing(sqlite3.connect(site.ward_ops.database, timeout=30)) as source, source:
            source.execute("UPDATE users SET language = language")  # writable again
        again = lead.trigger("rollback_ward_ops", {"reason": "once more"})
        assert wait(lead, "rollback_ward_ops", again) == "failed", "what is rolled back is not rolled back again"
    finally:
        site.target.start({"max_wal_size": "4GB"})


def test_the_next_run_puts_the_pending_schema_aside_and_rollback_of_a_run_in_flight_takes_over(
    site: Site, lead: Client
) -> None:
    close_incidents("ward_ops")
    run_id = lead.trigger("cutover_ward_ops", {"approve": "ask", "reason": "in flight"})
    lead.answer("cutover_ward_ops", run_id, wait_for_gate(lead, "cutover_ward_ops", run_id, "go_no_go"), "Go")
    wait_for_gate(lead, "cutover_ward_ops", run_id, "approve")
    evidence = Evidence.of("ward_ops", run_id)
    look = evidence.step("check_target")
    assert look is not None and len(look["figures"]["pending_fences_executed"]) == 1
    assert not may_log_in(site)
    earlier = next(run for run in reversed(runs_of_the_plan()) if run.last("target.pending") and outcome(run) != "open")
    written = earlier.last("rows.written")
    assert written is not None and written["tables"]["ping_results"]["inserted"] > 0, "the worker had written on PostgreSQL"
    exported = (earlier.folder / written["folder"] / "ping_results.jsonl").read_bytes().splitlines()
    assert len(exported) == sum(item["lines"] for item in written["files"] if item["table"] == "ping_results")
    assert json.loads(exported[0])["operation"] == "insert"
    second = lead.trigger("rollback_ward_ops", {"reason": "the lead has doubts", "run_id": run_id})
    assert wait(lead, "rollback_ward_ops", second) == "success"
    assert outcome(evidence) == "rolled_back"
    assert site.health()["database"] == "sqlite"
    gate = wait_for_gate(lead, "cutover_ward_ops", run_id, "approve")
    lead.answer("cutover_ward_ops", run_id, gate, "Go")
    assert wait(lead, "cutover_ward_ops", run_id) == "failed", "the run that lost the lease does nothing more"
    assert outcome(evidence) == "rolled_back" and site.health()["database"] == "sqlite"


def test_a_second_application_needs_no_python(site: Site, lead: Client) -> None:
    file = site.folder / "library.db"
    with closing(sqlite3.connect(file)) as source, source:
        source.executescript(
            "CREATE TABLE authors (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);"
            "CREATE TABLE books (id INTEGER PRIMARY KEY, author_id INTEGER NOT NULL, title VARCHAR(100), price REAL);"
            'CREATE TABLE "Odd Table" ("select" TEXT PRIMARY KEY NOT NULL, "ქართული" BOOLEAN);'
        )
        source.executemany("INSERT INTO authors (name) VALUES (?)", [("შოთა",), ("O'Brien\t\\N",)])
        source.executemany(
            "INSERT INTO books VALUES (?, ?, ?, ?)", [(n, n % 2 + 1, f"Book {n}\n", n / 4) for n in range(5000)]
        )
        source.execute('INSERT INTO "Odd Table" VALUES (?, 1)', ["\x1d"])
    before = dump(file)
    # Scheduled ahead: announced now, begun by the schedule, and nothing is stopped before the window.
    start = datetime.now(UTC) + timedelta(seconds=35)
    form = {"window_start": start.isoformat(), "approve": "auto", "reason": "a second application"}
    scheduled = lead.trigger("schedule_library", form)
    assert wait(lead, "schedule_library", scheduled) == "success"
    record = schedule.of("library", scheduled).last(schedule.OPENED)
    assert record is not None
    run_id = str(record["cutover"])
    assert wait(lead, "cutover_library", run_id) == "success"
    evidence = Evidence.of("library", run_id)
    assert outcome(evidence) == "live"
    opened, stopped = evidence.last("run.opened"), evidence.last("services.stopped")
    assert opened is not None and (opened["actor"], opened["scheduled"]) == ("lead", scheduled)
    assert stopped is not None and datetime.fromisoformat(stopped["time"]) >= start
    waited = next(event for event in evidence.events() if event.get("step") == "wait_for_window")
    assert datetime.fromisoformat(waited["time"]) >= start, "no worker waited: the step began when it was time"
    with psycopg.connect(site.target.conninfo(DATABASE)) as connection:
        assert connection.execute("SELECT count(*), sum(price)::float FROM lending.books").fetchone() == (5000, 3124375.0)
        assert connection.execute("SELECT name FROM lending.authors ORDER BY id").fetchall() == [
            ("შოთა",),
            ("O'Brien\t\\N",),
        ]
        assert connection.execute('SELECT * FROM lending."Odd Table"').fetchall() == [("\x1d", True)]
        assert connection.execute("INSERT INTO lending.books (author_id) VALUES (1) RETURNING id").fetchone() == (5000,)
    second = roll_back_by_the_aftercare(site, lead, run_id)
    assert dump(file) == before
    opened = Evidence.of("library", second).step("open_rollback")
    assert opened is not None and opened["summary"].endswith("written after go-live: books: 1 inserted")
    assert "- `books`: 1 inserted" in (evidence.folder / "incident.md").read_text(encoding="utf-8")
    (line,) = (evidence.folder / "kept" / "rows_after_go_live" / "books.jsonl").read_bytes().splitlines()
    assert json.loads(line)["key"] == {"id": 5000}


def roll_back_by_the_aftercare(site: Site, lead: Client, run_id: str) -> str:
    """Make a look red, answer the question that it raises, and return the run of the rollback that follows."""
    own = f"aftercare__{run_id}"
    password = json.loads((site.folder / "settings.json").read_text())["pipeline_password"]
    with psycopg.connect(site.target.conninfo(DATABASE), user=PIPELINE_ROLE, password=password) as waiting:
        waiting.execute("SELECT 1")  # and nothing more: a transaction that waits for its client
        gate = wait_for_gate(lead, "aftercare_library", own, "ask_1")
    with site.stack.client("observer") as observer, pytest.raises(CutoverError):
        observer.answer("aftercare_library", own, gate, "Roll back")
    lead.answer("aftercare_library", own, gate, "Roll back")
    assert wait(lead, "aftercare_library", own) == "failed", "a look was red"
    asked = aftercare_record.evidence_of("library", run_id).last(aftercare_record.REQUESTED)
    assert asked is not None and asked["by"] == "lead"
    assert wait(lead, "rollback_library", asked["rollback_run_id"]) == "success"
    reopened = Evidence.of("library", run_id).last("reopened")
    assert reopened is not None and reopened["by"] == "lead" and "transaction" in reopened["reason"]
    return str(asked["rollback_run_id"])


def dump(file: Path) -> list[str]:
    """Everything that a database holds, as SQL."""
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


def runs_of_the_plan() -> list[Evidence]:
    from include.cutover.evidence.record import runs

    return runs("ward_ops")


def test_nothing_is_left_behind_in_the_backup_places(site: Site) -> None:
    hidden = [path for path in (site.folder / "backups").rglob(".*") if path.suffix != ".lock"]
    assert hidden == []
