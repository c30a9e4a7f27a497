"""Retention on real backups and a real PostgreSQL: what goes, what stays, and that a kill at any instant loses nothing."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from include.cutover import files
from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare.retention import due
from include.cutover.aftercare.retention.record import REMOVED, REMOVING, Deed, Kind, evidence_of, removed
from include.cutover.checks import worst
from include.cutover.cli import evidence_check
from include.cutover.cli.main import main
from include.cutover.decisions import decided_snapshot
from include.cutover.errors import CutoverError, Refused
from include.cutover.evidence import lease
from include.cutover.evidence.record import Evidence
from include.cutover.extras.take import EXTRAS_MANIFEST, KeptExtra, extras_folders
from include.cutover.plan.model import Plan
from include.cutover.proof import digest_store
from include.cutover.runs import incident
from include.cutover.source import backup, backup_manifest, restore
from include.cutover.source.backup_manifest import Manifest
from include.cutover.steps.open_rollback import open_rollback
from include.cutover.steps.step import Caller, Step
from include.cutover.target import schema as target_schema
from tests.support.deciding import plan_of
from tests.support.killing import kill_at_every_step

NAME = "house"


@dataclass
class House:
    """Runs of a plan, and what they left behind."""

    folder: Path
    plan: Plan

    def run(self, run_id: str, outcome: str | None = "live", *, watched: bool = True, closed: bool = False) -> Evidence:
        """A run that took a backup and ended like that; None: it is open."""
        source = self.folder / "house.db"
        source.unlink(missing_ok=True)
        with closing(apsw.Connection(str(source))) as connection:
            connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)")
            with connection:
                connection.executemany("INSERT INTO t (x) VALUES (?)", [(f"{run_id} {n}",) for n in range(500)])
        evidence = Evidence.of(NAME, run_id)
        evidence.save("plan.json", self.plan.model_dump_json())
        evidence.append("run.opened", run_id=run_id, dag_id=f"cutover_{NAME}", source=str(source))
        manifest = backup.take(source, self.plan.backup.directory, self.plan.backup.second_copy, run_id=run_id, plan=NAME)
        evidence.append("backup", **backup_manifest.facts(manifest))
        evidence.append("snapshot", decided=decided_snapshot.untouched(manifest.file).as_dict())
        digest_store.beside(manifest.file).write_text("{}")
        for place in extras_folders(self.plan, run_id):
            place.mkdir(mode=0o700)
            (place / "configuration.tar.gz").write_bytes(b"kept")
            kept = KeptExtra(
                "configuration", False, place / "configuration.tar.gz", sha256=hashlib.sha256(b"kept").hexdigest()
            )
            (place / EXTRAS_MANIFEST).write_text(json.dumps({"run_id": run_id, "extras": [kept.as_dict()]}, default=str))
        if outcome is not None:
            evidence.append("decision", at="decide_live", outcome="go_on" if outcome == "live" else "rollback", why=[""])
            evidence.append("sealed", outcome=outcome)
        if closed:
            evidence.append(incident.CLOSED, by="lead", cause="c", fix="f", reference="r")
        if outcome == "live" and watched:
            after = aftercare_record.evidence_of(NAME, run_id)
            after.append(aftercare_record.OPENED, run_id=run_id, own_run_id="a", until=datetime.now(UTC).isoformat())
            after.append(aftercare_record.CLOSED, outcome="quiet")
        return evidence

    def after(self, what: Kind, days: float, **others: Any) -> list[Deed]:
        return due.carry_out(self.plan, what, now=datetime.now(UTC) + timedelta(days=days), **others)

    def files(self) -> dict[str, bytes]:
        """Everything in both places and in the retention's evidence."""
        places = [self.folder / "backups", self.folder / "second", evidence_of(NAME).folder]
        return {str(path): path.read_bytes() for place in places for path in sorted(place.rglob("*"))
                if path.is_file() and path.suffix != ".lock"}  # fmt: skip


def named(house: House, evidence: Evidence, suffix: str = "") -> list[Path]:
    taken = evidence.last("backup")
    assert taken is not None
    return [Path(taken[key] + suffix) for key in ("file", "second_file")]


def manifest_of(evidence: Evidence) -> Manifest:
    taken = evidence.last("backup")
    assert taken is not None
    return backup_manifest.load(Path(taken["manifest"]), Path(taken["second_manifest"]))


@pytest.fixture
def house(tmp_path: Path) -> House:
    plan = plan_of({"t": {}})
    place = plan.backup.model_copy(update={"directory": tmp_path / "backups", "second_copy": tmp_path / "second"})
    settings = plan.retention.model_copy(update={"archive_days": 2, "backup_days": 30, "kept_target_days": 30})
    return House(tmp_path, plan.model_copy(update={"backup": place, "retention": settings}))


# --- archived -----------------------------------------------------------------------------------------------------------


def test_a_backup_is_archived_in_both_places_and_restores_from_there(house: House) -> None:
    evidence = house.run("one")
    before = manifest_of(evidence)
    content = before.file.read_bytes()
    assert house.after("archive", 1.9) == []
    assert [deed.done for deed in house.after("archive", 2.1)] == [True, True]
    assert not any(path.exists() for path in named(house, evidence))
    for path in named(house, evidence, ".gz"):
        assert gzip.decompress(path.read_bytes()) == content and path.stat().st_mode & 0o777 == 0o600
    manifest = manifest_of(evidence)
    assert manifest.archives == tuple(named(house, evidence, ".gz")) and manifest.sha256 == before.sha256
    for key in ("manifest", "second_manifest"):
        assert backup_manifest.load(Path((evidence.last("backup") or {})[key])).archives == manifest.archives, (
            "each says where"
        )
    assert worst(evidence_check.check(evidence.folder)) == "passed"
    assert house.after("archive", 3) == [], "once"

    database = house.folder / "house.db"
    database.write_bytes(b"something else")
    named(house, evidence, ".gz")[0].write_bytes(b"damaged")
    result = restore.restore(database, manifest, house.folder / "kept", give_up_rows=0)
    assert database.read_bytes() == content and result.copy == named(house, evidence, ".gz")[1]


def test_a_manifest_without_archives_is_written_as_it_always_was(house: House) -> None:
    manifest = manifest_of(house.run("one"))
    assert "archive" not in manifest.to_json()
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_file_with_other_content_or_a_link_is_not_archived(house: House) -> None:
    evidence = house.run("one")
    first, second = named(house, evidence)
    first.write_bytes(b"somebody's own")
    moved = house.folder / "elsewhere"
    second.rename(moved)
    second.symlink_to(moved)
    deeds = house.after("archive", 3)
    assert [deed.done for deed in deeds] == [False, False] and all(deed.failed for deed in deeds)
    assert first.read_bytes() == b"somebody's own" and second.is_symlink() and moved.exists()


def test_a_foreign_file_in_the_place_of_the_archive_is_not_overwritten(house: House) -> None:
    evidence = house.run("one")
    first = named(house, evidence, ".gz")[0]
    first.write_bytes(b"somebody's own")
    house.after("archive", 3)
    assert first.read_bytes() == b"somebody's own" and named(house, evidence)[0].exists()


# --- removed ------------------------------------------------------------------------------------------------------------


def test_a_backup_is_removed_with_everything_beside_it_when_another_one_is_valid(house: House) -> None:
    first = house.run("one", "rolled_back", closed=True)
    second = house.run("two")
    house.after("archive", 3)
    assert house.after("remove", 29) == []
    deeds = house.after("remove", 31)
    assert [(deed.run, deed.done) for deed in deeds] == [("one", True), ("two", False)]
    assert deeds[1].why == "it is the only valid backup" and not deeds[1].failed
    left = {path for place in ("backups", "second") for path in (house.folder / place).rglob("*") if path.suffix != ".lock"}
    assert not any(Path(str(file)).name.startswith(named(house, first)[0].name) for file in left)
    assert (house.folder / "backups" / "extras-one").exists() is False
    assert all(path.exists() for path in named(house, second, ".gz"))
    event = removed(NAME, "one")
    assert event is not None and event["event"] == REMOVED and len(event["files"]) >= 8 and event["left"] == {}
    assert first.exists and worst(evidence_check.check(first.folder)) == "passed", "evidence is never removed"
    assert house.after("remove", 40)[0].run == "two", "what is gone is not looked at again"


def test_the_only_valid_backup_stays_whatever_others_are_called(house: House) -> None:
    house.run("one", "rolled_back", closed=True)
    second = house.run("two")
    for path in named(house, second):
        path.write_bytes(b"damaged")
    first, other = house.after("remove", 31)
    assert not first.done and first.why == "it is the only valid backup"
    assert not other.done and other.failed, "and one that is damaged is not taken away unseen"


def test_a_proven_dump_of_postgresql_is_another_backup_as_long_as_it_is_as_it_was(house: House) -> None:
    house.run("one")
    dump = house.folder / "dump"
    dump.write_bytes(b"a dump")
    after = aftercare_record.evidence_of(NAME, "one")
    after.append(
        aftercare_record.BACKUP, outcome="green", dump={"proven": True, "file": str(dump), "sha256": files.digest(dump)}
    )
    dump.write_bytes(b"another")
    assert [deed.done for deed in house.after("remove", 31)] == [False]
    dump.write_bytes(b"a dump")
    assert [deed.done for deed in house.after("remove", 31)] == [True]


@pytest.mark.parametrize(
    ("outcome", "closed", "why"),
    [
        (None, False, "its run is open"),
        ("failed", True, "not complete"),
        ("rolled_back", False, "incident"),
        ("released", False, "incident"),
    ],
)
def test_the_backup_of_an_unfinished_run_stays(house: House, outcome: str | None, closed: bool, why: str) -> None:
    house.run("one", outcome, closed=closed)
    house.run("two")
    kinds: tuple[Kind, ...] = ("archive", "remove")
    for what in kinds:
        deeds = [deed for deed in house.after(what, 31) if deed.run == "one"]
        assert deeds and not any(deed.done or deed.failed for deed in deeds)
        assert all(why in deed.why for deed in deeds)


def test_a_run_whose_aftercare_still_looks_stays_and_one_that_is_being_rolled_back(house: House) -> None:
    evidence = house.run("one", watched=False)
    house.run("two")
    house.plan = house.plan.model_copy(update={"retention": house.plan.retention.model_copy(update={"archive_days": 0})})
    assert "aftercare" in house.after("archive", 0)[0].why, "nobody looked yet"
    after = aftercare_record.evidence_of(NAME, "one")
    after.append(
        aftercare_record.OPENED, run_id="one", own_run_id="a", until=(datetime.now(UTC) + timedelta(days=31)).isoformat()
    )
    assert "aftercare" in house.after("remove", 31)[0].why
    after.append(aftercare_record.CLOSED, outcome="quiet")
    lease.take_over(NAME, "one", f"rollback_{NAME}/x")
    assert house.after("remove", 31)[0].why == "a rollback is in progress"
    evidence.append("reopened", by="lead", reason="doubts")
    assert house.after("remove", 31)[0].why == "its run is open"


def test_foreign_files_are_left_and_reported(house: House) -> None:
    evidence = house.run("one", "rolled_back", closed=True)
    house.run("two")
    mine = house.folder / "backups" / "extras-one" / "my notes"
    mine.write_text("do not lose them")
    named(house, evidence)[1].write_bytes(b"somebody's own")
    deeds = house.after("remove", 31)
    assert [deed.done for deed in deeds if deed.run == "one"] == [True, False, False]
    assert mine.read_text() == "do not lose them" and named(house, evidence)[1].read_bytes() == b"somebody's own"


def test_a_dry_run_reports_the_same_and_changes_nothing(house: House) -> None:
    house.run("one", "rolled_back", closed=True)
    house.run("two")
    before = house.files()
    kinds: tuple[Kind, ...] = ("archive", "remove", "drop")
    foretold = [house.after(what, 31, dry_run=True) for what in kinds]
    assert house.files() == before and not evidence_of(NAME).folder.exists()
    assert [house.after(what, 31) for what in kinds] == foretold


def test_a_run_whose_backup_is_gone_is_not_rolled_back_and_nothing_is_stopped(house: House) -> None:
    evidence = house.run("one")
    evidence_of(NAME).append(REMOVING, run="one")
    form = {"reason": "a test", "run_id": "one"}
    step = Step(NAME, "open_rollback", Caller(f"rollback_{NAME}", "r", "lead", form), None, house.plan)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="removed by retention"):
        open_rollback(step)
    assert evidence.last("reopened") is None


# --- killed -------------------------------------------------------------------------------------------------------------


class Killed:
    """The places of the backups, put back before each try, and what must come out of a run's backup."""

    def __init__(self, house: House, *runs: Evidence) -> None:
        self.house = house
        self.content = {run.folder: manifest_of(run).sha256 for run in runs}
        self.places = [house.folder / "backups", house.folder / "second"]
        for place in self.places:
            shutil.copytree(place, house.folder / "whole" / place.name)

    def begin(self) -> None:
        shutil.rmtree(evidence_of(NAME).folder, ignore_errors=True)
        for place in self.places:
            shutil.rmtree(place)
            shutil.copytree(self.house.folder / "whole" / place.name, place)

    def require(self, run: Evidence, where: str) -> None:
        """The run can be rolled back."""
        database = self.house.folder / "restored.db"
        database.unlink(missing_ok=True)
        restore.restore(database, manifest_of(run), self.house.folder / "kept-restored")
        assert files.digest(database) == self.content[run.folder], where


def test_killed_anywhere_in_archiving_the_backup_is_there_and_the_next_call_finishes(house: House) -> None:
    run = house.run("one")
    killed = Killed(house, run)

    def archive() -> None:
        house.after("archive", 3)

    for where in kill_at_every_step(killed.begin, archive, after=False):
        killed.require(run, where)
        archive()
        killed.require(run, where)
        for place in killed.places:
            assert not [*place.rglob("*.bak"), *place.rglob(".*.partial")], where
            assert len([*place.rglob("*.gz")]) == 2, where  # the backup, and the extras' own


def test_killed_anywhere_in_removing_the_next_call_finishes_and_the_other_backup_is_there(house: House) -> None:
    first, second = house.run("one", "rolled_back", closed=True), house.run("two")
    killed = Killed(house, first, second)

    def remove() -> None:
        house.after("remove", 31)

    for where in kill_at_every_step(killed.begin, remove, after=False):
        remove()
        assert not [*killed.places[0].glob(f"{named(house, first)[0].name}*"), *killed.places[1].glob("extras-one")], where
        killed.require(second, where)
        event = removed(NAME, "one")
        assert event is not None and event["event"] == REMOVED, where


# --- kept schemas -------------------------------------------------------------------------------------------------------


def test_the_schema_of_a_rolled_back_run_is_dropped_after_its_time(house: House, conninfo: str) -> None:
    evidence = house.run("one", "rolled_back")
    kept = target_schema.kept_name("public", "one")
    evidence.append("target.kept", schema=kept, rows={"t": 1})

    def drop(days: float = 31) -> list[Deed]:
        return house.after("drop", days, conninfo=lambda: conninfo)

    def there() -> bool:
        with psycopg.connect(conninfo) as connection:
            return connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [kept]).fetchone() is not None

    with psycopg.connect(conninfo) as connection:
        connection.execute(f"CREATE SCHEMA {kept}")
        connection.execute(f"CREATE TYPE {kept}.mood AS ENUM ('good')")
        connection.execute(f"CREATE TABLE {kept}.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m {kept}.mood)")
        connection.execute(f"CREATE TABLE {kept}.u (id int REFERENCES {kept}.t)")
        connection.execute(f"CREATE VIEW {kept}.v AS SELECT * FROM {kept}.t")
        connection.execute(f"CREATE VIEW public.inquiry AS SELECT count(*) FROM {kept}.t")
    assert drop(29) == []
    (deed,) = drop()
    assert "incident" in deed.why and there(), "not before the investigation is over"
    evidence.append(incident.CLOSED, by="lead", cause="c", fix="f", reference="r")
    (deed,) = drop()
    assert deed.failed and "depends on" in deed.why and there(), "what somebody else made of it is not dropped"
    with psycopg.connect(conninfo) as connection:
        connection.execute("DROP VIEW public.inquiry")
    assert [str(deed) for deed in house.after("drop", 31, conninfo=lambda: conninfo, dry_run=True)] == [
        f"one: {kept} dropped"
    ]
    assert there()
    assert [deed.done for deed in drop()] == [True] and not there()
    assert drop() == []


def test_nothing_but_a_kept_schema_is_ever_dropped(house: House, conninfo: str) -> None:
    evidence = house.run("one", "rolled_back", closed=True)
    evidence.append("target.kept", schema="public", rows={})
    (deed,) = house.after("drop", 31, conninfo=lambda: conninfo)
    assert deed.failed and not deed.done
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT FROM pg_namespace WHERE nspname = 'public'").fetchone() is not None


def test_the_command_with_dry_run_shows_the_actions(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plans").mkdir()
    plan = house.plan.model_copy(update={"retention": house.plan.retention.model_copy(update={"archive_days": 0})})
    (tmp_path / "plans" / f"{NAME}.yaml").write_text(plan.model_dump_json())
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path / "plans"))
    evidence = house.run("one")
    assert main(["retention", "--plan", NAME, "--dry-run"]) == 0
    assert "would: one: " in capsys.readouterr().out and named(house, evidence)[0].exists()
    assert main(["retention", "--plan", NAME]) == 0
    assert not named(house, evidence)[0].exists() and named(house, evidence, ".gz")[0].exists()
    assert main(["retention", "--plan", NAME]) == 0
    assert "nothing is due" in capsys.readouterr().out


def test_a_second_call_at_the_same_time_is_refused(house: House) -> None:
    house.run("one")
    folder = evidence_of(NAME).folder
    folder.mkdir(parents=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(CutoverError, match="locked"):
            house.after("archive", 3)
    finally:
        os.close(descriptor)
