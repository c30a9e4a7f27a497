"""The demo's own doing: the damage it plants, its arguments, and one demo at a time."""

from __future__ import annotations

import argparse
import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import apsw
import pytest

from examples.ward_ops import demo
from examples.ward_ops.generate import generate
from include.cutover.errors import StepFailed

ORPHANS = "SELECT count(*) FROM {table} WHERE device_id NOT IN (SELECT id FROM standalone_devices)"


def test_exactly_three_credentials_lose_their_device_and_nothing_else_does(tmp_path: Path) -> None:
    database = tmp_path / "ward_ops.db"
    generate(database, pings=100, credentials=5)
    demo.plant_orphans(database)
    connection = apsw.Connection(str(database))
    counts = {
        table: connection.execute(ORPHANS.format(table=table)).fetchone()
        for table in ("snmp_credentials", "alert_rules", "monitoring_items")
    }
    connection.close()
    assert counts == {"snmp_credentials": (3,), "alert_rules": (0,), "monitoring_items": (0,)}


def test_a_gate_that_asks_again_is_answered_again_and_nothing_more_is_planted(tmp_path: Path) -> None:
    """Airflow loses an answer that comes before the gate's task rests; on a quick machine the demo is that early."""
    database, answered = tmp_path / "ward_ops.db", list[str]()
    generate(database, pings=100, credentials=5)
    site = SimpleNamespace(environment={}, service_pids=list, ward_ops=SimpleNamespace(database=database))
    lead = SimpleNamespace(
        gates=lambda dag_id, run_id: [SimpleNamespace(task_id="go_no_go", answer=None)],
        answer=lambda dag_id, run_id, gate, option: answered.append(option),
    )
    drill = demo.Demo(cast("Any", site), cast("Any", lead), argparse.Namespace(fail="orphans"))
    drill._answer("cutover_ward_ops", "run", "go_no_go")
    drill._answer("cutover_ward_ops", "run", "go_no_go")
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute(ORPHANS.format(table="snmp_credentials")).fetchone() == (demo.PLANTED,)
    assert answered == ["Go", "Go"]


def test_too_few_credentials_are_reported(tmp_path: Path) -> None:
    database = tmp_path / "ward_ops.db"
    generate(database, pings=100, credentials=1)
    with pytest.raises(StepFailed, match="could not be planted"):
        demo.plant_orphans(database)


def test_a_second_demo_at_the_same_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "DEMO", tmp_path / "demo")
    with (tmp_path / "demo.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert demo.main(["run"]) == demo.UNUSABLE
    assert "another demo runs here" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_down_without_running_processes_succeeds(tmp_path: Path) -> None:
    assert demo.main(["down", "--folder", str(tmp_path / "never")]) == 0
    assert not (tmp_path / "never").exists() or not any((tmp_path / "never").glob("*/*"))


@pytest.mark.parametrize(
    "arguments", [[], ["run", "--fail", "everything"], ["run", "--then", "dance"], ["run", "--pings", "x"]]
)
def test_wrong_arguments_have_status_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main(arguments)
    assert ended.value.code == 2
