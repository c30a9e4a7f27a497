"""Rehearsals of the second plan on a real SQLite file and a real PostgreSQL, by the tasks of the real DAG.

The walker of ``tests/exploring`` plays Airflow's part. The application runs and writes all the time.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from include.cutover.checks import worst
from include.cutover.cli import break_glass, evidence_check
from include.cutover.errors import CannotCheck
from include.cutover.evidence import fingerprints, lease, source_lease
from include.cutover.evidence.record import Evidence, evidence_root, rehearsals, runs
from include.cutover.plan.file import load_plan
from include.cutover.runs import rehearsals as runs_rehearsals
from include.cutover.runs import schema_drift
from include.cutover.stack.postgres import Cluster
from include.cutover.steps.gate_briefing import briefing
from tests.exploring.arena import Arena
from tests.exploring.points import Fault
from tests.exploring.site import PLAN, Site


@pytest.fixture(scope="module")
def arena(cluster: Cluster) -> Iterator[Arena]:
    with Arena(cluster) as made:
        yield made


FINGERPRINTS = fingerprints.of_run  # the arena leaves SQL and code out of it


@pytest.fixture
def site(arena: Arena, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with arena.site(f"rehearsal-{abs(hash(request.node.name))}") as found:
        once = FINGERPRINTS(load_plan(PLAN))  # hashing takes its time, and neither SQL nor code change meanwhile
        monkeypatch.setattr(fingerprints, "of_run", lambda plan: {**once, "plan": fingerprints.of_plan(plan)})
        yield found


def rehearse(site: Site, run_id: str = "try", **form: object) -> Evidence:
    run = site.trigger_rehearsal(run_id, **form)
    site.world.walk()
    evidence = Evidence.of(runs_rehearsals.series(PLAN), run_id)
    green = evidence.sealed is not None and evidence.sealed["outcome"] == runs_rehearsals.GREEN
    assert run.state == ("success" if green else "failed")
    return evidence


def outcome(evidence: Evidence) -> str:
    sealed = evidence.sealed
    return "open" if sealed is None else str(sealed["outcome"])


def databases(site: Site) -> list[str]:
    with psycopg.connect(site.cluster.conninfo()) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"rehearsal_{PLAN}_%"])
        return [row[0] for row in rows]


def left_behind(site: Site) -> list[str]:
    """Files of rehearsals that hold the application's data, and databases."""
    folders = [path for item in rehearsals(PLAN) for path in (item.folder / "scratch", item.folder / "kept")]
    return [*databases(site), *(str(folder) for folder in folders if folder.exists())]


class Untouched:
    """Return the parts that a rehearsal must leave as they are."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.before = self._look()

    def _look(self) -> dict[str, object]:
        site = self.site
        with psycopg.connect(site.conninfo) as connection:
            schemas = connection.execute("SELECT nspname FROM pg_namespace ORDER BY 1").fetchall()
            role = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [site.role]).fetchone()
        folder = site.shop.database.parent
        return {
            "schemas": schemas,
            "role": role,
            "configuration": (site.folder / "etc" / "app.env").read_bytes(),
            "files": sorted(path.name for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm", "-journal"))),
            "backups": sorted(str(path) for name in ("backups", "second") for path in (site.folder / name).rglob("*")),
            "lease": lease.read(PLAN),
            "source": source_lease.read(site.shop.database),
            "runs": runs(PLAN),
        }

    def check(self) -> None:
        assert self._look() == self.before


def test_a_green_rehearsal_leaves_figures_and_nothing_else(site: Site) -> None:
    untouched = Untouched(site)
    evidence = rehearse(site)
    assert outcome(evidence) == runs_rehearsals.GREEN, [
        (e.get("step"), e.get("summary")) for e in evidence.events() if e.get("outcome") not in (None, "passed")
    ]
    untouched.check()
    assert left_behind(site) == []
    assert evidence.folder.parent == evidence_root() / "rehearsals" / PLAN
    assert (evidence.folder / "report.html").is_file()
    assert {event["notice"] for event in evidence.events() if event["event"] == "notice"} == {"start", "completion"}

    found = runs_rehearsals.latest(PLAN)
    assert found is not None and found.green and found.run_id == "try" and not found.findings
    assert found.rows["books"] >= 2299 and found.source_bytes > 50_000
    assert all(found.fingerprint.values())
    restored = evidence.step("way_back.restore_source")
    backup = evidence.last("backup")
    assert restored is not None and backup is not None
    assert restored["figures"]["sha256"] == backup["sha256"]
    assert found.down is not None and found.back is not None
    assert sum(found.seconds[step] for step in ("take_backup", "check_tables")) <= found.down
    assert found.seconds["way_back.restore_source"] <= found.back


def test_what_the_clock_is_told(site: Site) -> None:
    plan = load_plan(PLAN)
    assert runs_rehearsals.measured(plan) is None
    rehearse(site)
    told, found = runs_rehearsals.measured(plan), runs_rehearsals.latest(PLAN)
    assert told is not None and found is not None and found.down is not None and found.back is not None
    assert told.run_id == "try"
    # Three services of at most 5 s each, told at once, and 3 s for the application's health.
    assert told.remaining["start_services"] == pytest.approx(8)
    assert told.remaining["stop_services"] == pytest.approx(5 + found.down + 8)
    assert told.remaining["check_target"] > told.remaining["stop_services"] > told.remaining["check_tables"] > 8
    assert told.rollback == pytest.approx(found.back + 5 + 5 + 3)
    site.trigger("cutover")
    site.world.walk()
    assert outcome(site.of("cutover")) == "live"
    after = runs_rehearsals.measured(plan)
    started = site.of("cutover").step("start_services")
    assert after is not None and started is not None
    assert after.remaining["start_services"] == pytest.approx(started["seconds"]), "as the last real run measured it"


def break_source(site: Site) -> None:
    with closing(sqlite3.connect(site.shop.database, timeout=30)) as connection, connection:
        connection.execute("INSERT INTO books VALUES (99999, 4711, 'nobody wrote it', 1)")


def test_a_red_one_keeps_what_it_made_until_the_next(site: Site) -> None:
    break_source(site)
    untouched = Untouched(site)
    evidence = rehearse(site, "red")
    untouched.check()
    assert outcome(evidence) == runs_rehearsals.RED
    sealed, (kept,) = evidence.sealed, databases(site)
    assert sealed is not None and f"database {kept}" in sealed["kept"]
    found = runs_rehearsals.latest(PLAN)
    assert found is not None and not found.green and found.kept == kept
    assert any("orphan" in text for text in found.findings.values())
    assert runs_rehearsals.latest(PLAN, green=True) is None
    with closing(sqlite3.connect(site.shop.database, timeout=30)) as connection, connection:
        connection.execute("DELETE FROM books WHERE id = 99999")
    second = rehearse(site, "second", keep_earlier=True)
    assert outcome(second) == runs_rehearsals.GREEN and databases(site) == [kept]
    made = second.step("create_database")
    assert made is not None and kept in made["warnings"][0]
    third = rehearse(site, "third")
    made = third.step("create_database")
    assert made is not None and f"database {kept}" in made["figures"]["removed"]
    assert left_behind(site) == []


def test_killed_anywhere_it_touches_nothing_and_the_next_one_clears_up(site: Site) -> None:
    untouched = Untouched(site)
    for number, (task, point) in enumerate(
        [
            ("create_database", 4),
            ("create_database", None),
            ("clone_source", 5),
            ("fence_source", None),
            ("copy.books", 8),
            ("way_back.restore_source", 30),
            ("close_rehearsal", 2),
        ]
    ):
        run = site.trigger_rehearsal(f"killed{number}")
        for instance in run.of(task):
            instance.last_try = 1  # nobody tries it again
        while all(item.task.task_id != task for item in run.ready()):
            site.world.carry_out(run, run.ready()[0])
        victim = next(item for item in run.ready() if item.task.task_id == task)
        attempt = site.world.start(run, victim, Fault(point, signal.SIGKILL))
        while not attempt.result:
            site.world.look()
            site.world.wait()
        assert "-9" in attempt.result["error"], f"{task} was not killed: {attempt.result}"
        site.world.abort(run)
        untouched.check()
    green = rehearse(site, "green")
    assert outcome(green) == runs_rehearsals.GREEN
    assert left_behind(site) == []
    untouched.check()
    for evidence in rehearsals(PLAN):
        assert evidence.sealed is not None
        chain = [check for check in evidence_check.check(evidence.folder) if check.name == "evidence_chain"]
        assert worst(chain) == "passed"


def test_it_gives_way_to_a_cutover_and_is_no_run_of_the_plan(site: Site) -> None:
    first = site.trigger_rehearsal("first")
    site.reach(first, "clone_source")
    cutover = site.trigger("cutover")
    site.world.carry_out(cutover, cutover.of("open_run")[0])
    second = site.trigger_rehearsal("second")
    site.world.carry_out(second, second.of("open_rehearsal")[0])
    site.world.walk()
    assert outcome(site.of("cutover")) == "live"
    gone = Evidence.of(runs_rehearsals.series(PLAN), "first")
    sealed = gone.sealed
    assert sealed is not None and sealed["outcome"] == runs_rehearsals.RED
    assert "must not run beside it" in sealed["why"]
    refused = Evidence.of(runs_rehearsals.series(PLAN), "second")
    assert second.state == "failed" and refused.last("run.opened") is None
    with pytest.raises(CannotCheck, match="not the evidence of a run"):
        break_glass.rollback(PLAN, gone.folder, reason="by mistake", by="somebody")
    assert [run.folder.name for run in runs(PLAN)] == ["cutover"]


def look(site: Site, run_id: str) -> Evidence:
    """A cutover as far as its first gate."""
    run = site.trigger(run_id, approve="ask")
    site.reach(run, "prepare_target.apply_migrations")
    return site.of(run_id)


def test_a_required_rehearsal_is_green_young_and_of_the_same(site: Site) -> None:
    plan = load_plan(PLAN).model_copy(update={"require_rehearsal": True})
    events = rehearse(site, "one").events()
    mine = runs_rehearsals.fingerprint(events, runs_rehearsals.of_plan(plan))

    def found(later: float = 0, **changed: str) -> str:
        now = datetime.now(UTC) + timedelta(days=later)
        check = runs_rehearsals.check(plan, runs_rehearsals.facts(plan, {**mine, **changed}), now)
        assert check is not None
        return f"{check.outcome}: {check.found}"

    assert found().startswith("passed: one at 20")
    assert found(later=8).startswith("failed: one at 20")
    for name in ("schema", "plan", "SQL", "code"):
        assert found(0, **{name: "another"}).endswith(f"was green, and since then changed: {name}")
    other = plan.model_copy(update={"ignored_tables": {"x": "left behind"}})
    assert runs_rehearsals.of_plan(other) != runs_rehearsals.of_plan(plan)
    people = plan.model_copy(update={"application": "Another", "require_rehearsal": False})
    assert runs_rehearsals.of_plan(people) == runs_rehearsals.of_plan(plan)
    assert runs_rehearsals.check(people, {}) is None
    break_source(site)
    rehearse(site, "two")
    assert found().startswith("passed: one at 20"), "a later red one says nothing about what was proven before"
    assert found(0, code="another").startswith("failed: the last one, two at 20")
    assert "no rehearsal at all" in str(runs_rehearsals.check(plan, {"run_id": None}))


def test_without_the_required_rehearsal_a_cutover_ends_before_anything_is_stopped(site: Site) -> None:
    file = site.plans / f"{PLAN}.yaml"
    file.write_text(file.read_text() + "require_rehearsal: true\n")
    first = site.trigger("first")
    site.world.walk()
    assert first.state == "failed" and outcome(site.of("first")) == "abandoned"
    looked = site.of("first").step("check_source")
    assert looked is not None and "no rehearsal at all" in looked["summary"]
    assert outcome(rehearse(site)) == runs_rehearsals.GREEN
    second = site.trigger("second")
    site.world.walk()
    assert second.state == "success"


def test_the_lead_reads_the_rehearsal_before_the_answer(site: Site) -> None:
    plan = load_plan(PLAN)
    assert "- Last rehearsal: none: this migration has never been rehearsed" in briefing(look(site, "never").events(), plan)
    site.world.abort(site.world.runs[-1])
    site.break_glass(site.of("never"))
    for run_id in ("one", "two"):
        rehearse(site, run_id)
    with closing(sqlite3.connect(site.shop.database, timeout=30)) as connection, connection:
        connection.executemany("INSERT INTO authors (name) VALUES (?)", [("late",)] * 7)
        connection.execute("CREATE INDEX late ON authors (name)")
    evidence = look(site, "cutover")
    text = briefing(evidence.events(), plan)
    assert "UTC, green (two)" in text
    assert "- Rehearsed on: NOT the same: schema changed since" in text
    assert "- Last green, unchanged since: none" in text
    assert "authors +7" in text
    assert "- Findings since then: the source's schema has drifted since the run two" in text
    assert "- Expected downtime: not known" in text
    drift = evidence.last(schema_drift.EVENT)
    assert drift is not None and drift["compared_with"] == "two", "a rehearsal is a baseline"


def test_the_expected_downtime_has_a_spread(site: Site) -> None:
    for run_id in ("one", "two"):
        rehearse(site, run_id)
    text = briefing(look(site, "cutover").events(), load_plan(PLAN))
    assert "- Rehearsed on: the same schema, plan, SQL and code" in text
    assert "in the last 2 rehearsals (from the fence to the proof" in text
    assert "stop services 5.0 s at most, by the plan's limits" in text
    assert "- Findings since then: none" in text
