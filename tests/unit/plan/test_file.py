"""A plan file is read whole: all faults at once, each with its path; variables come from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.cutover.errors import PlanInvalid
from include.cutover.plan.file import load_plan, parse_plan
from tests.support.plans import WARD_OPS, changed, faults_of


def test_every_fault_is_reported_at_once_with_its_path() -> None:
    faults = faults_of(
        changed(
            tables={"users": {"streams": 99}, "pings": {"chunk": 5}},
            window={"minutes": 0},
            colour="blue",
            notices={"start": "at <tme>", "completion": "x", "rollback": "y"},
            people=None,
        )
    )
    text = "\n".join(faults)
    assert "tables.users.streams: Input should be less than or equal to 16, found 99" in text
    assert "tables.pings.chunk: unknown key, found 5" in text
    assert "window.minutes: Input should be greater than or equal to 1, found 0" in text
    assert "colour: unknown key" in text
    assert "people: missing" in text
    assert "notices.start: unknown placeholder <tme>; allowed are <application>, <deadline>" in text
    assert len(faults) == 6


def test_a_repeated_key_is_a_fault() -> None:
    assert any("is given twice" in fault for fault in faults_of(WARD_OPS + "\nname: other\n"))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "{", "name: [unclosed"])
def test_text_that_is_not_a_plan_is_refused(text: str) -> None:
    assert faults_of(text)


def test_variables_come_from_the_environment_and_missing_ones_are_faults() -> None:
    text = changed(target_schema="${SCHEMA}", application="${APPLICATION:-Ward OPS}")
    assert parse_plan(text, "a.yaml", {"SCHEMA": "app"}).target_schema == "app"
    assert any("SCHEMA is not set" in fault and fault.startswith("target_schema") for fault in faults_of(text))


def test_an_unknown_plan_is_refused_with_the_known_names() -> None:
    with pytest.raises(PlanInvalid, match="there is no plan nothing") as caught:
        load_plan("nothing")
    assert "ward_ops" in str(caught.value)


def test_a_name_that_differs_from_the_file_s_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yaml").write_text(WARD_OPS, encoding="utf-8")
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path))
    with pytest.raises(PlanInvalid, match="differs"):
        load_plan("other")


def test_no_services_in_the_environment_leaves_the_data_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOVER_NO_SERVICES", "1")
    plan = load_plan("ward_ops")
    assert plan.services == () and plan.smoke_tests is None and plan.configuration is None
