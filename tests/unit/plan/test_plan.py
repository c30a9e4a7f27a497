"""The plan: every fault at once, each with its place; nothing mutable; no second truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from pydantic import ValidationError

from include.cutover.errors import PlanInvalid
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan, parse_plan
from include.cutover.plan.model import Plan
from include.cutover.plan.people import Notices

WARD_OPS = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")


def changed(**changes: Any) -> str:
    """The plan of Ward OPS with top-level keys replaced; None takes a key away."""
    data = yaml.safe_load(WARD_OPS)
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    return str(yaml.safe_dump(data, allow_unicode=True))


def faults_of(text: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(text, "a.yaml", environment or {})
    return caught.value.faults


def test_the_plan_of_ward_ops_is_valid_and_complete() -> None:
    plan = parse_plan(WARD_OPS, "ward_ops.yaml", {})
    assert len(plan.tables) == 25
    assert [service.name for service in plan.services] == ["api", "worker", "beat"]
    assert plan.window.minutes == 60
    assert not plan.gates.allow_auto_approval


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


NOTICES = ("start", "completion", "rollback", "cancelled", "freeze", "delay", "deadline", "aftercare", "closing")


@pytest.mark.parametrize("notice", NOTICES)
def test_a_placeholder_that_nobody_fills_is_a_fault_in_every_notice(notice: str) -> None:
    assert set(NOTICES) == set(Notices.model_fields)
    texts = {name: f"{name} <lead>" for name in NOTICES}
    with pytest.raises(ValidationError, match=r"unknown placeholder <tme>; allowed are <application>, <deadline>, <end>"):
        Notices.model_validate(texts | {notice: "at <tme> by <lead>"})
    told = texts | {
        notice: "because <reason> at <time>, <end>, <freeze>, <deadline>, <minutes>, <lead>, <application>, <run>"
    }
    if notice in ("rollback", "cancelled", "delay", "deadline", "aftercare", "closing"):
        Notices.model_validate(told)
    else:
        with pytest.raises(ValidationError, match="unknown placeholder <reason>"):
            Notices.model_validate(told)


def test_a_smoke_test_of_an_unknown_table_is_a_fault() -> None:
    data = yaml.safe_load(WARD_OPS)
    data["smoke_tests"]["write"]["table"] = "pings"
    assert any("pings is not among the plan's tables" in fault for fault in faults_of(yaml.safe_dump(data)))


def test_a_key_that_stands_twice_is_a_fault() -> None:
    assert any("stands twice" in fault for fault in faults_of(WARD_OPS + "\nname: other\n"))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "{", "name: [unclosed"])
def test_text_that_is_no_plan(text: str) -> None:
    assert faults_of(text)


def test_variables_come_from_the_environment_and_missing_ones_are_faults() -> None:
    text = changed(target_schema="${SCHEMA}", application="${APPLICATION:-Ward OPS}")
    assert parse_plan(text, "a.yaml", {"SCHEMA": "app"}).target_schema == "app"
    assert any("SCHEMA is not set" in fault and fault.startswith("target_schema") for fault in faults_of(text))


def test_a_plan_is_frozen() -> None:
    plan = parse_plan(WARD_OPS, "a.yaml", {})
    with pytest.raises(pydantic.ValidationError):
        plan.name = "other"  # type: ignore[misc]


def test_the_frozen_plan_reads_back_equal() -> None:
    plan = parse_plan(WARD_OPS, "a.yaml", {})
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_an_unknown_plan_names_those_that_are_there() -> None:
    with pytest.raises(PlanInvalid, match="there is no plan nothing") as caught:
        load_plan("nothing")
    assert "ward_ops" in str(caught.value)


def test_the_name_in_the_file_is_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yaml").write_text(WARD_OPS, encoding="utf-8")
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path))
    with pytest.raises(PlanInvalid, match="differs"):
        load_plan("other")


def test_without_services_the_data_alone_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOVER_NO_SERVICES", "1")
    plan = load_plan("ward_ops")
    assert plan.services == () and plan.smoke_tests is None and plan.configuration is None


CONTROLS: dict[str, dict[str, Any]] = {
    "supervisor": {"kind": "supervisor", "url": "http://127.0.0.1:9001/RPC2", "program": "api"},
    "command": {"kind": "command", "start": ["svc", "up"], "stop": ["svc", "down"], "status": ["svc", "ok"]},
    "compose": {"kind": "compose", "directory": "/srv/ward_ops", "service": "api"},
    "systemd": {"kind": "systemd", "unit": "ward-api"},
}


@pytest.mark.parametrize("kind", CONTROLS)
def test_every_kind_of_control_here_and_over_ssh(kind: str) -> None:
    for control in (CONTROLS[kind], {**CONTROLS[kind], "ssh": "ward_ops_host"}):
        plan = parse_plan(changed(services=[{"name": "api", "control": control}]), "a.yaml", {})
        assert plan.services[0].control.ssh == control.get("ssh")
        assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("control", "fault"),
    [
        ({**CONTROLS["command"], "start": "svc up"}, "start: Input should be a valid tuple"),
        ({**CONTROLS["command"], "stop": []}, "stop: Tuple should have at least 1 item"),
        ({**CONTROLS["command"], "status": ["a\0b"]}, "holds no NUL"),
        ({**CONTROLS["compose"], "directory": "ward_ops"}, "directory: String should match pattern"),
        ({**CONTROLS["compose"], "service": "--all"}, "service: String should match pattern"),
        ({**CONTROLS["compose"], "engine": "docker compose"}, "engine: Input should be a valid tuple"),
        ({**CONTROLS["systemd"], "unit": "-H other"}, "unit: String should match pattern"),
        ({**CONTROLS["systemd"], "scope": "user", "sudo": True}, "needs no other user's rights"),
        ({**CONTROLS["supervisor"], "url": "https://h/RPC2", "ssh": "host"}, "write http:// beside ssh"),
        ({**CONTROLS["systemd"], "kind": "upstart"}, "upstart"),
    ],
)
def test_a_control_that_cannot_be_meant_is_a_fault(control: dict[str, Any], fault: str) -> None:
    found = faults_of(changed(services=[{"name": "api", "control": control}]))
    assert any(item.startswith("services.0.control") and fault in item for item in found), found


STORE: dict[str, Any] = {
    "kind": "command", "set": ["vault", "kv", "patch", "ward", "-"], "get": ["vault", "get"],
    "live": {"A": "1"}, "rolled_back": {"A": "2"},
}  # fmt: skip


def test_a_configuration_is_a_file_or_a_store() -> None:
    plan = parse_plan(changed(configuration=STORE), "a.yaml", {})
    assert plan.configuration is not None and plan.configuration.kind == "command"
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    # A plan that was frozen when there were only files.
    frozen = parse_plan(WARD_OPS, "a.yaml", {}).model_dump(mode="json")
    del frozen["configuration"]["kind"]
    found = Plan.model_validate(frozen).configuration
    assert found is not None and found.kind == "dotenv"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"set": ["sh", "-c", "echo {application_url}"]}, "values go through standard input"),
        ({"format": "kubernetes", "whole": True}, "a patch leaves the other keys"),
        ({"format": "toml"}, "format"),
        ({"file": "/srv/.env"}, "unknown key"),
        ({"kind": "consul"}, "consul"),
    ],
)
def test_a_store_that_cannot_be_meant_is_a_fault(changes: dict[str, Any], fault: str) -> None:
    found = faults_of(changed(configuration={**STORE, **changes}))
    assert any(item.startswith("configuration") and fault in item for item in found), found


def test_every_example_of_the_documentation_is_a_plan_s() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "services.md").read_text(encoding="utf-8"), re.DOTALL)
    kinds = set()
    for block in blocks:
        plan = parse_plan(changed(**yaml.safe_load(block)), "services.md", {})
        kinds |= {service.control.kind for service in plan.services}
    assert kinds == set(CONTROLS) and len(blocks) > 8
