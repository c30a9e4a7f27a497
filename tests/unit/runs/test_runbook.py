"""The table of the runbook, held against a second list: a row that loses a mark must not go unnoticed."""

from __future__ import annotations

import pytest

from include.cutover.plan.file import load_plan
from include.cutover.runs import runbook
from include.cutover.runs.row import Place, Point
from include.cutover.runs.terms import Terms


def test_no_required_step_is_lost() -> None:
    plan = load_plan("ward_ops")
    before_stopping = [
        "open_run", "check_target", "check_source", "assess_source", "check_places", "apply_ddl", "apply_migrations",
        "wait_for_window",
    ]  # fmt: skip
    written = [
        *runbook.copies(plan), "build_keys_and_indexes", "load_reference_data", "store_quarantine", "declare_foreign_keys",
        "set_sequences", "analyze_tables",
    ]  # fmt: skip
    proofs = ["check_tables", "validate_foreign_keys", "smoke_test_database"]
    going_live = ["switch_configuration", "start_services", "smoke_test_application"]
    assert runbook.required(plan, Point.STOP) == before_stopping
    required = {*before_stopping, "stop_services", "fence_source", "take_backup", "restore_test", *written, *proofs}
    assert set(runbook.required(plan, Point.GO_LIVE)) == required | {"grant_access"}
    assert set(runbook.required(plan, Point.STAY_LIVE)) == required | {"grant_access", *going_live}
    assert runbook.required_gates(plan, Point.GO_LIVE) == ["go_no_go"]
    assert runbook.required_gates(plan, Point.STAY_LIVE) == ["go_no_go", "approve"]
    later = {"check_tables": written, "smoke_test_database": written}
    assert runbook.later(plan, Point.GO_LIVE) == later
    assert runbook.later(plan, Point.STAY_LIVE) == {
        **later,
        "start_services": ["switch_configuration"],
        "smoke_test_application": ["start_services"],
    }
    moved = required - {"open_run", "wait_for_window", "stop_services"} | {"grant_access"}
    rehearsed = {"open_rehearsal", "create_database", "clone_source", "announce_start", "mark_target"}
    way_back = {"way_back.keep_target", "way_back.restore_source", "way_back.check_restored"}
    assert set(runbook.required(plan, Point.REHEARSAL)) == moved | rehearsed | way_back
    assert runbook.later(plan, Point.REHEARSAL) == {
        **later,
        **{name: ["clone_source"] for name in ("check_source", "assess_source", "fence_source")},
        "apply_ddl": ["create_database"],
        "take_backup": ["fence_source"],
        **{name: ["take_backup", "apply_migrations"] for name in runbook.copies(plan)},
        "mark_target": ["take_backup", *written],
        "way_back.keep_target": ["mark_target"],
        "way_back.restore_source": ["take_backup"],
        "way_back.check_restored": ["way_back.restore_source"],
    }
    back = ("stop_services", "keep_target", "restore_source", "revert_configuration", "start_services", "check_health")
    assert runbook.completing("rollback") == [f"rollback.{name}" for name in back]
    assert runbook.completing("release") == ["release.lift_fence", "release.start_services", "release.check_health"]
    assert runbook.touching() == ["stop_services", "fence_source", "take_backup"]
    assert (runbook.behind("go_no_go"), runbook.behind("approve")) == ("stop_services", "switch_configuration")


def test_names_and_order_are_unique() -> None:
    names = [row.name for row in runbook.ROWS]
    assert len(names) == len(set(names))
    assert all(row.phase and row.phase != runbook.OTHER for row in runbook.ROWS)


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        ("open_run", "Prepare"),
        ("copy.users", "Copy"),
        ("copy.ping_results.1", "Copy"),
        ("release.start_services", "Release"),
        ("start_services", "Go live"),
        ("rollback.start_services", "Roll back"),
        ("a_step_of_long_ago", "Other"),
        ("check_tables.users", "Other"),
    ],
)
def test_each_step_has_its_phase(step: str, phase: str) -> None:
    assert runbook.phase_of(step) == phase


def test_every_step_of_a_way_needs_those_before_it() -> None:
    plan = load_plan("ward_ops")
    for way in ("go_live", "release", "rollback"):
        names = [row.name for row in runbook.way(way)]
        assert [runbook.terms_of(name, plan).in_turn for name in names] == [
            tuple(names[:number]) for number in range(len(names))
        ]
    first = runbook.terms_of("rollback.stop_services", plan)
    assert first.touched and first.way_back and first.course == ("forward", "go_live", "switching", "rollback")
    assert runbook.terms_of("rollback.check_health", plan).course == ("rollback",)


def test_a_rehearsal_has_no_gates_and_no_courses() -> None:
    plan = load_plan("ward_ops")
    for name in ("fence_source", "take_backup", "announce_completion", "way_back.keep_target"):
        assert runbook.terms_of(name, plan, rehearsal=True) == Terms()
    assert runbook.terms_of("close_rehearsal", plan, rehearsal=True) == Terms(closes=True)


def test_a_full_disk_stops_no_way_back() -> None:
    plan = load_plan("ward_ops")
    must_run = {row.name for row in runbook.ROWS if not row.asks and runbook.terms_of(row.name, plan).must_run}
    back = {row.name for way in ("abandon", "release", "rollback") for row in runbook.way(way)}
    closing = {"close_run", "close_rollback", "close_rehearsal"}
    assert must_run == back | closing | {"decide", "decide_live", "announce_completion", "open_rollback", "give_up"}


def test_disk_is_needed_where_something_is_written() -> None:
    found = {row.name: row.writes for row in runbook.ROWS if row.writes}
    both = (Place.CONFIGURATION, Place.BACKUPS)
    assert found == {"stop_services": both, "take_backup": both, "switch_configuration": (Place.CONFIGURATION,)}
