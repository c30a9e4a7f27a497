"""The demo's own doing: the damage it plants, its arguments, and one demo at a time."""

from __future__ import annotations

import fcntl
from pathlib import Path

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
