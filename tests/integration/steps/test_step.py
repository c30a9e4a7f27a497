"""When a step may run, and what is recorded of it: the evidence decides, not what Airflow believes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any

import apsw
import pytest

from include.cutover.errors import CutoverError, LeaseLost, Refused, StepFailed
from include.cutover.evidence import lease
from include.cutover.evidence.record import Event, Evidence, evidence_root
from include.cutover.plan.file import load_plan
from include.cutover.runs import incident, runbook
from include.cutover.runs.row import Point
from include.cutover.runs.terms import Terms
from include.cutover.source import backup, backup_manifest, fence, fence_note
from include.cutover.steps import abandon as abandon_steps
from include.cutover.steps import (
    close_run,
    open_run,
    quiesce,
    rollback,
    scratch,
    set_aside,
    source_file,
    sqlite_again,
    take_backup,
)
from include.cutover.steps import decide as decide_steps
from include.cutover.steps import open_rollback as open_rollback_steps
from include.cutover.steps.running import run
from include.cutover.steps.step import FROZEN_PLAN, Body, Caller, Report, Step
from include.cutover.target import ledger
from tests.support.ends import APPLICATION_URL, UNREACHABLE, FakeEnds
from tests.support.killing import kill_at_every_step

PLAN = "ward_ops"
CUTOVER, ROLLBACK = f"cutover_{PLAN}", f"rollback_{PLAN}"
FORM: dict[str, Any] = {"approve": "ask", "reason": "a test", "notify": False, "run_id": None}


@pytest.fixture
def ends(tmp_path: Path) -> FakeEnds:
    with contextlib.closing(apsw.Connection(str(tmp_path / "app.db"))) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
    return FakeEnds(tmp_path / "app.db", UNREACHABLE, url=APPLICATION_URL)


def step_of(ends: FakeEnds, name: str, run_id: str = "one", dag_id: str = CUTOVER) -> Step:
    return Step(PLAN, name, Caller(dag_id, run_id, "lead", FORM), ends)


def do(ends: FakeEnds, name: str, body: Body | None = None, terms: Terms = Terms(), **arguments: Any) -> Report:  # noqa: B008
    return run(step_of(ends, name), body or (lambda _: Report("done")), terms, arguments)


@pytest.fixture
def evidence(ends: FakeEnds) -> Evidence:
    """The evidence of an open run."""
    do(ends, "open_run", open_run.open_run, Terms(opens=True))
    return Evidence.of(PLAN, "one")


def passed(evidence: Evidence, *steps: str) -> None:
    for step in steps:
        evidence.append("step.begin", step=step)
        evidence.append("step.end", step=step, outcome="passed")


def decided(evidence: Evidence, outcome: str, at: str = "decide") -> None:
    evidence.append("decision", at=at, outcome=outcome, why=["a test"])


def newest(evidence: Evidence, step: str) -> Event:
    found = evidence.step(step)
    assert found is not None
    return found


def terms_of(step: str) -> Terms:
    return runbook.terms_of(step, load_plan(PLAN))


# --- what is recorded ---------------------------------------------------------------------------------------------------


def test_the_end_is_recorded_before_the_next_attempt_can_begin(
    ends: FakeEnds, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, held = Evidence.append, []

    def watched(self: Evidence, event: str, **fields: Any) -> Event:
        if event == "step.end":
            descriptor = os.open(evidence_root() / PLAN / ".claims" / "one.copy", os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(fields["outcome"])
            finally:
                os.close(descriptor)
        return append(self, event, **fields)

    monkeypatch.setattr(Evidence, "append", watched)
    do(ends, "copy")

    def fail(_: Step) -> Report:
        raise StepFailed("it failed")

    with pytest.raises(StepFailed):
        do(ends, "copy", fail)
    assert held == ["passed", "error"]


def test_a_run_that_opened_has_its_plan_frozen_wherever_it_was_killed(ends: FakeEnds, tmp_path: Path) -> None:
    number = 0

    def begin() -> None:
        nonlocal number
        number += 1
        os.environ["CUTOVER_EVIDENCE"] = str(tmp_path / f"evidence-{number}")
        (tmp_path / "app.db.lease.json").unlink(missing_ok=True)

    opened = 0
    for where in kill_at_every_step(begin, lambda: do(ends, "open_run", open_run.open_run, Terms(opens=True)), after=False):
        found = Evidence.of(PLAN, "one")
        if found.exists and found.last("run.opened") is not None:
            opened += 1
            assert (found.folder / FROZEN_PLAN).is_file(), where
        do(ends, "open_run", open_run.open_run, Terms(opens=True))
        assert (Evidence.of(PLAN, "one").folder / FROZEN_PLAN).is_file(), where
    assert opened, "it was never killed after the run had opened"


# --- when a step may run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["abandon", "release", "rollback"])
def test_no_step_goes_forward_once_a_way_back_is_decided(ends: FakeEnds, evidence: Evidence, outcome: str) -> None:
    passed(evidence, "copy")
    decided(evidence, outcome)
    for step, terms in (("copy", Terms()), *((row.name, terms_of(row.name)) for row in runbook.way("go_live"))):
        with pytest.raises(Refused, match=f"the run is not in the right phase for this step.*found {outcome}"):
            do(ends, step, terms=terms)
    assert newest(evidence, "copy")["outcome"] == "refused"


def test_nothing_is_cleared_under_an_application_that_goes_live(ends: FakeEnds, evidence: Evidence) -> None:
    decided(evidence, "go_on")
    assert do(ends, "check_tables").outcome == "passed", "a proof may be made again while the gate waits"
    passed(evidence, "switch_configuration")
    for step in ("stop_services", "set_sequences"):
        with pytest.raises(Refused, match="found switching"):
            do(ends, step)


def test_a_marked_branch_lets_nothing_through(ends: FakeEnds, evidence: Evidence) -> None:
    """Airflow runs every branch then: none of them was decided."""
    passed(evidence, "stop_services", "fence_source", "take_backup")
    for step, terms in (
        ("release.lift_fence", terms_of("release.lift_fence")),
        ("abandon", Terms(way_back=True, course=("abandon",))),
        ("switch_configuration", terms_of("switch_configuration")),
        ("announce_completion", Terms(way_back=True, course=("live",))),
    ):
        with pytest.raises(Refused, match="found forward"):
            do(ends, step, terms=terms)
    assert do(ends, "rollback.stop_services", terms=terms_of("rollback.stop_services")).outcome == "passed"


def test_a_live_run_is_rolled_back_only_when_somebody_asks(ends: FakeEnds, evidence: Evidence) -> None:
    passed(evidence, "stop_services", "take_backup")
    decided(evidence, "go_on", at="decide_live")
    terms = terms_of("rollback.stop_services")
    with pytest.raises(Refused, match="found live"):
        do(ends, "rollback.stop_services", terms=terms)
    assert close_run.outcome_of(evidence.events()) == "live"
    evidence.append("rollback.asked", by="lead", reason="a test")
    assert do(ends, "rollback.stop_services", terms=terms).outcome == "passed"


def test_a_rollback_with_nothing_to_roll_back_does_not_count_as_begun(ends: FakeEnds, evidence: Evidence) -> None:
    with pytest.raises(Refused, match="there is nothing to roll back"):
        do(ends, "rollback.stop_services", terms=terms_of("rollback.stop_services"))
    assert close_run.outcome_of(evidence.events()) == "abandoned"


def test_each_step_of_the_way_back_needs_the_ones_before_it(ends: FakeEnds, evidence: Evidence) -> None:
    passed(evidence, "stop_services", "take_backup")
    decided(evidence, "rollback")
    steps = [row.name for row in runbook.way("rollback")]
    for name in steps[1:]:
        with pytest.raises(Refused, match="a step before this one has not passed"):
            do(ends, name, terms=terms_of(name))
    for name in steps:
        do(ends, name, terms=terms_of(name))
    do(ends, steps[0], terms=terms_of(steps[0]))
    with pytest.raises(Refused, match="or ran again since"):
        do(ends, "rollback.check_health", terms=terms_of("rollback.check_health"))


def test_nothing_is_stopped_before_everything_was_looked_at(ends: FakeEnds, evidence: Evidence) -> None:
    before = runbook.required(load_plan(PLAN), Point.STOP)
    passed(evidence, *before[:-1])
    with pytest.raises(Refused, match="wait_for_window has not run"):
        do(ends, "stop_services", terms=Terms(after=before))


def test_what_was_decided_stays_decided(ends: FakeEnds, evidence: Evidence) -> None:
    passed(evidence, "stop_services")
    first = do(ends, "decide", decide_steps.decide, Terms(way_back=True, course=()), at="decide")
    assert first.figures["outcome"] == "release"
    passed(evidence, "fence_source", "take_backup")
    again = do(ends, "decide_live", decide_steps.decide, Terms(way_back=True, course=()), at="decide_live")
    assert again.figures == first.figures


# --- the way back -------------------------------------------------------------------------------------------------------


def backed_up(ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARD_OPS_BACKUPS", str(tmp_path / "backups"))
    monkeypatch.setenv("WARD_OPS_SECOND_COPY", str(tmp_path / "second"))
    fence.raise_fence(ends.source, run_id="one")
    manifest = backup.take(ends.source, tmp_path / "backups", None, run_id="one", plan=PLAN)
    evidence.append("backup", **backup_manifest.facts(manifest))
    passed(evidence, "stop_services", "fence_source", "take_backup")


def rows(ends: FakeEnds) -> Any:
    with contextlib.closing(apsw.Connection(str(ends.source))) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM t ORDER BY id")]


def restore(ends: FakeEnds) -> Report:
    """Restore the source for an application without services."""
    step = step_of(ends, "rollback.restore_source")
    step.plan = step.plan.model_copy(update={"services": ()})
    return rollback.restore_source(step)


def write_on(ends: FakeEnds, *numbers: int) -> None:
    with contextlib.closing(apsw.Connection(str(ends.source))) as connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in numbers])


def kept_of(evidence: Evidence) -> dict[str, str]:
    return {
        str(path.relative_to(evidence.folder)): holds
        for path, holds in incident.kept_files(evidence.folder, evidence.events())
    }


def test_what_the_application_wrote_since_the_restore_is_not_overwritten(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evidence knows nothing of it: the host was restarted, and the services started by themselves."""
    backed_up(ends, evidence, tmp_path, monkeypatch)
    first = restore(ends)
    assert "is the backup again" in first.summary
    write_on(ends, 2, 3)
    report = restore(ends)
    assert rows(ends) == [1, 2, 3]
    assert "stays as it is" in report.summary and "t: 2 more than the backup" in report.summary
    assert report.figures["rows_beyond_the_backup"] == {"t": {"more": 2, "changed": 0, "missing": 0}}
    assert report.warnings and report.outcome == "passed"
    assert kept_of(evidence) == {
        "kept/app.db": "the source as it was fenced; the backup holds its rows",
        "kept/app.db.fence.json": "the note of its fence, "
        f"{(evidence.folder / 'kept/app.db.fence.json').stat().st_size:,} bytes",
    }


def test_what_was_written_in_spite_of_the_fence_is_not_overwritten(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(ends, evidence, tmp_path, monkeypatch)
    ends.source.chmod(0o644)
    with ends.source.open("r+b") as file:
        file.seek(18)
        file.write(b"\x01")
    write_on(ends, 2)
    report = restore(ends)
    assert rows(ends) == [1, 2]
    assert "1 more than the backup" in report.summary
    assert not fence_note.note_path(ends.source).exists(), "the fence is lifted"
    assert kept_of(evidence) == {}


def test_a_person_who_knows_the_number_of_rows_may_give_them_up_once(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(ends, evidence, tmp_path, monkeypatch)
    restore(ends)
    write_on(ends, 2)
    evidence.append("rollback.asked", by="lead", reason="no", holder="x", give_up_rows=2)
    with pytest.raises(Refused, match="expected 2; found 1; "):
        restore(ends)
    evidence.append("rollback.asked", by="lead", reason="no", holder="x", give_up_rows=1)
    assert "is the backup again" in restore(ends).summary
    assert rows(ends) == [1]
    assert "1 more than the backup" in kept_of(evidence)["kept/2/app.db"]
    write_on(ends, 9)
    assert "stays as it is" in restore(ends).summary, "the number was about the other row"
    assert rows(ends) == [1, 9]


def test_without_an_intact_backup_the_fence_is_lifted_from_the_equal_source(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(ends, evidence, tmp_path, monkeypatch)
    for copy in (tmp_path / "backups").glob("*.bak"):
        copy.unlink()
    report = restore(ends)
    assert report.figures["stays"] and report.warnings
    write_on(ends, 2)
    assert rows(ends) == [1, 2]


def test_a_number_is_spent_also_for_a_file_that_cannot_be_counted(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(ends, evidence, tmp_path, monkeypatch)
    restore(ends)
    evidence.append("rollback.asked", by="lead", reason="no", holder="x", give_up_rows=0)
    ends.source.write_bytes(b"unreadable")
    assert "is the backup again" in restore(ends).summary
    ends.source.write_bytes(b"unreadable too")
    with pytest.raises(Refused, match="may hold rows beyond it"):
        restore(ends)


def test_a_number_is_spent_also_for_a_source_named_by_a_symbolic_link(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "current.db"
    link.symlink_to(ends.source)
    ends.source = link
    backed_up(ends, evidence, tmp_path, monkeypatch)
    restore(ends)
    write_on(ends, 2)
    evidence.append("rollback.asked", by="lead", reason="no", holder="x", give_up_rows=1)
    assert "is the backup again" in restore(ends).summary
    assert link.is_symlink() and "1 more than the backup" in kept_of(evidence)["kept/2/app.db"]
    write_on(ends, 9)
    assert "stays as it is" in restore(ends).summary, "the number was about the other row"
    assert rows(ends) == [1, 9]


def test_a_file_in_which_rows_were_only_deleted_is_described_so(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(apsw.Connection(str(ends.source))) as connection:
        connection.execute("INSERT INTO t VALUES (7), (8)")
    backed_up(ends, evidence, tmp_path, monkeypatch)
    restore(ends)
    with contextlib.closing(apsw.Connection(str(ends.source))) as connection:
        connection.execute("DELETE FROM t WHERE id = 8")
    report = restore(ends)
    (warning,) = report.warnings
    assert warning == (
        "rows of the backup were deleted in the file, and none was added or changed; so it is newer, and was not replaced: "
        "t: 1 of the backup missing"
    )
    assert rows(ends) == [1, 7]


def test_a_copy_that_a_killed_step_left_beside_the_backup_goes_with_the_run(
    ends: FakeEnds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARD_OPS_BACKUPS", str(tmp_path / "backups"))
    do(ends, "open_run", open_run.open_run, Terms(opens=True))
    for name in ("restore-test", "clone-check_source"):
        folder = scratch.of(step_of(ends, "restore_test"), name)
        (folder / "copy.db").write_bytes(ends.source.read_bytes())
    place = step_of(ends, "restore_test").plan.backup.directory
    other = place / ".restore-test-another"
    other.mkdir()
    with pytest.raises(StepFailed):
        do(ends, "close_run", close_run.close, Terms(closes=True))
    assert [path for path in place.iterdir() if path.is_dir()] == [other]


def test_a_file_that_stayed_can_be_given_up_afterwards(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(ends, evidence, tmp_path, monkeypatch)
    restore(ends)
    write_on(ends, 2)
    restore(ends)
    evidence.append("sealed", outcome="rolled_back", summary="")

    def ask(rows_to_give_up: int | None, run_id: str) -> Report:
        form = {**FORM, "give_up_rows": rows_to_give_up}
        step = Step(PLAN, "open_rollback", Caller(ROLLBACK, run_id, "lead", form), ends)
        return run(step, open_rollback_steps.open_rollback, Terms(opens=True))

    with pytest.raises(Refused, match="there is nothing to roll back"):
        ask(None, "back1")
    assert "rolling back one" in ask(1, "back2").summary
    assert "is the backup again" in restore(ends).summary
    assert rows(ends) == [1]


def without_services(ends: FakeEnds, name: str) -> Step:
    step = step_of(ends, name)
    step.plan = step.plan.model_copy(update={"services": ()})
    return step


@pytest.mark.parametrize("found", ["another file", "no file"])
def test_another_file_in_the_place_of_the_database_is_never_taken_for_it(
    ends: FakeEnds, evidence: Evidence, tmp_path: Path, found: str
) -> None:
    """An application that finds no file makes a new one; a backup of that would be the empty database."""
    source_file.record(step_of(ends, "check_source"))
    moved = ends.source.rename(tmp_path / "elsewhere.db")
    if found == "another file":
        with contextlib.closing(apsw.Connection(str(ends.source))) as connection:
            connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    for name, body in (("fence_source", quiesce.fence_source), ("take_backup", take_backup.take_backup)):
        with pytest.raises(Refused, match=r"another file lies|the database is missing"):
            body(without_services(ends, name))
    for name in ("release.lift_fence", "rollback.restore_source"):
        body = rollback.restore_source if "restore" in name else sqlite_again.lift_fence
        with pytest.raises(Refused, match="Find it and move it back"):
            body(without_services(ends, name))
    moved.replace(ends.source)
    assert "no SQLite client can write" in quiesce.fence_source(without_services(ends, "fence_source")).summary
    assert "writable again" in sqlite_again.lift_fence(without_services(ends, "release.lift_fence")).summary


def test_a_backup_is_taken_of_a_fenced_source_only(ends: FakeEnds, evidence: Evidence) -> None:
    with pytest.raises(Refused, match="not as this run fenced it"):
        take_backup.take_backup(step_of(ends, "take_backup"))


def open_rollback(ends: FakeEnds, run_id: str) -> Report:
    step = step_of(ends, "open_rollback", run_id, ROLLBACK)
    return run(step, open_rollback_steps.open_rollback, Terms(opens=True))


def test_a_later_try_does_not_take_the_lease_back(ends: FakeEnds, evidence: Evidence) -> None:
    passed(evidence, "stop_services")
    open_rollback(ends, "back1")
    open_rollback(ends, "back1")
    lease.take_over(PLAN, "one", "break_glass/now")
    with pytest.raises(LeaseLost, match="break_glass/now"):
        open_rollback(ends, "back1")
    assert lease.holds(PLAN, "one", "break_glass/now")
    open_rollback(ends, "back2")
    assert lease.holds(PLAN, "one", f"{ROLLBACK}/back2"), "another rollback may take over"


def test_an_untouched_run_is_refused_as_long_as_it_can_end_by_itself(ends: FakeEnds, evidence: Evidence) -> None:
    with pytest.raises(Refused, match="stopped nothing yet"):
        open_rollback(ends, "back1")
    assert lease.holds(PLAN, "one", f"{CUTOVER}/one")
    lease.take_over(PLAN, "one", "break_glass/killed")
    open_rollback(ends, "back2")
    closed = run(step_of(ends, "close_rollback", "back2", ROLLBACK), close_run.close_rollback, Terms(closes=True))
    assert "nothing was touched" in closed.summary
    assert evidence.sealed is not None and evidence.sealed["outcome"] == "abandoned"


# --- a target that is down when a run is called off ---------------------------------------------------------------------


def close(ends: FakeEnds) -> None:
    with pytest.raises(StepFailed, match="called off before anything was stopped"):
        do(ends, "close_run", close_run.close, Terms(closes=True))


def test_what_could_not_be_cleared_is_set_aside_by_the_next_run(ends: FakeEnds, evidence: Evidence) -> None:
    passed(evidence, "apply_ddl")
    evidence.append("lease.target", holder=f"{CUTOVER}/one", epoch=1)
    decided(evidence, "abandon")
    report = do(ends, "abandon", abandon_steps.call_off, Terms(way_back=True, course=("abandon",)))
    assert "the next run sets the target aside" in report.summary
    assert evidence.last("target.pending") is not None
    close(ends)


def test_the_lease_of_a_target_that_was_down_does_not_stop_the_next_run(
    ends: FakeEnds, evidence: Evidence, conninfo: str
) -> None:
    ledger.ensure(conninfo)
    ledger.open_run(conninfo, "one", PLAN)
    passed(evidence, "apply_ddl")
    close(ends)  # with the target down
    ends.target = conninfo
    do_second(ends, "open_run", open_run.open_run, Terms(opens=True))
    assert set_aside.finish_pending(step_of(ends, "check_target", "two")) != []
    assert ledger.open_run(conninfo, "two", PLAN) > 1


def do_second(ends: FakeEnds, name: str, body: Body, terms: Terms) -> Report:
    return run(step_of(ends, name, "two"), body, terms)


def test_a_lease_of_the_target_that_was_never_recorded_is_given_back(
    ends: FakeEnds, evidence: Evidence, conninfo: str
) -> None:
    ends.target = conninfo
    evidence.append("step.begin", step="apply_ddl")
    ledger.ensure(conninfo)
    ledger.open_run(conninfo, "one", PLAN)  # killed before it could record it
    close(ends)
    held = ledger.lease(conninfo)
    assert held is not None and held.run_id is None


def test_the_report_is_recorded_with_its_hash(ends: FakeEnds, evidence: Evidence) -> None:
    close(ends)
    with pytest.raises(CutoverError):
        do(ends, "close_run", close_run.close, Terms(closes=True))
    recorded = [event for event in evidence.events() if event["event"] == "file" and event["name"] == "report.html"]
    assert len(recorded) == 2
