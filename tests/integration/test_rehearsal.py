"""Rehearsals of the second plan on a real SQLite file and a real PostgreSQL, by the tasks of the real DAG.

The walker of ``tests/exploring`` plays Airflow's part. The application runs and writes all the time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from include.cutover import lease, rehearsal, source_lease
from include.cutover.embedded import Cluster
from include.cutover.evidence import Evidence, evidence_root, rehearsals, runs
from include.cutover.plan import load_plan
from tests.exploring.arena import Arena
from tests.exploring.site import PLAN, Site


@pytest.fixture(scope="module")
def arena(cluster: Cluster) -> Iterator[Arena]:
    with Arena(cluster) as made:
        yield made


@pytest.fixture
def site(arena: Arena, request: pytest.FixtureRequest) -> Iterator[Site]:
    with arena.site(request.node.name) as found:
        yield found


def rehearse(site: Site, run_id: str = "try", **form: object) -> Evidence:
    run = site.trigger_rehearsal(run_id, **form)
    site.world.walk()
    evidence = Evidence.of(rehearsal.series(PLAN), run_id)
    green = evidence.sealed is not None and evidence.sealed["outcome"] == rehearsal.GREEN
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
    """What a rehearsal must leave as it is."""

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
    assert outcome(evidence) == rehearsal.GREEN, evidence.events()[-1]
    untouched.check()
    assert left_behind(site) == []
    assert evidence.folder.parent == evidence_root() / "rehearsals" / PLAN
    assert (evidence.folder / "report.html").is_file()
    assert {event["notice"] for event in evidence.events() if event["event"] == "notice"} == {"start", "completion"}

    found = rehearsal.latest(PLAN)
    assert found is not None and found.green and found.run_id == "try" and not found.findings
    assert found.rows["books"] >= 2299 and found.source_bytes > 50_000
    assert all(found.fingerprint.values())
    restored = evidence.step("way_back.restore_source")
    backup = evidence.last("backup")
    assert restored is not None and backup is not None
    assert restored["figures"]["sha256"] == backup["sha256"]
    assert found.down is not None and found.back is not None
    assert sum(found.seconds[step] for step in ("take_backup", "copy.books", "check_tables")) <= found.down
    assert found.seconds["way_back.restore_source"] <= found.back


def test_what_the_clock_is_told(site: Site) -> None:
    plan = load_plan(PLAN)
    assert rehearsal.measured(plan) is None
    rehearse(site)
    told, found = rehearsal.measured(plan), rehearsal.latest(PLAN)
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
    after = rehearsal.measured(plan)
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
    assert outcome(evidence) == rehearsal.RED
    sealed, (kept,) = evidence.sealed, databases(site)
    assert sealed is not None and f"database {kept}" in sealed["kept"]
    found = rehearsal.latest(PLAN)
    assert found is not None and not found.green and found.kept == kept
    assert any("orphan" in text for text in found.findings.values())
    assert rehearsal.latest(PLAN, green=True) is None
    with closing(sqlite3.connect(site.shop.database, timeout=30)) as connection, connection:
        connection.execute("DELETE FROM books WHERE id = 99999")
    second = rehearse(site, "second", keep_earlier=True)
    assert outcome(second) == rehearsal.GREEN and databases(site) == [kept]
    made = second.step("create_database")
    assert made is not None and kept in made["warnings"][0]
    third = rehearse(site, "third")
    made = third.step("create_database")
    assert made is not None and f"database {kept}" in made["figures"]["removed"]
    assert left_behind(site) == []
