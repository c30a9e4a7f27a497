"""The plan's services, smoke tests and configuration: what is accepted and what is a fault."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan
from include.cutover.plan.model import Plan
from tests.support.plans import WARD_OPS, changed, faults_of

CONTROLS: dict[str, dict[str, Any]] = {
    "supervisor": {"kind": "supervisor", "url": "http://127.0.0.1:9001/RPC2", "program": "api"},
    "command": {"kind": "command", "start": ["svc", "up"], "stop": ["svc", "down"], "status": ["svc", "ok"]},
    "compose": {"kind": "compose", "directory": "/srv/ward_ops", "service": "api"},
    "systemd": {"kind": "systemd", "unit": "ward-api"},
}


@pytest.mark.parametrize("kind", CONTROLS)
def test_every_kind_of_control_is_accepted_here_and_over_ssh(kind: str) -> None:
    for control in (CONTROLS[kind], {**CONTROLS[kind], "ssh": "ward_ops_host"}):
        plan = parse_plan(changed(services=[{"name": "api", "control": control}]), "a.yaml", {})
        assert plan.services[0].control.ssh == control.get("ssh")
        assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("control", "fault"),
    [
        ({**CONTROLS["command"], "start": "svc up"}, "start: Input should be a valid tuple"),
        ({**CONTROLS["command"], "stop": []}, "stop: Tuple should have at least 1 item"),
        ({**CONTROLS["command"], "status": ["a\0b"]}, "must not hold a NUL"),
        ({**CONTROLS["compose"], "directory": "ward_ops"}, "directory: String should match pattern"),
        ({**CONTROLS["compose"], "service": "--all"}, "service: String should match pattern"),
        ({**CONTROLS["compose"], "engine": "docker compose"}, "engine: Input should be a valid tuple"),
        ({**CONTROLS["systemd"], "unit": "-H other"}, "unit: String should match pattern"),
        ({**CONTROLS["systemd"], "scope": "user", "sudo": True}, "needs no other user's rights"),
        ({**CONTROLS["supervisor"], "url": "https://h/RPC2", "ssh": "host"}, "write http:// beside ssh"),
        ({**CONTROLS["systemd"], "kind": "upstart"}, "upstart"),
    ],
)
def test_an_invalid_control_is_a_fault(control: dict[str, Any], fault: str) -> None:
    found = faults_of(changed(services=[{"name": "api", "control": control}]))
    assert any(item.startswith("services.0.control") and fault in item for item in found), found


STORE: dict[str, Any] = {
    "kind": "command", "set": ["vault", "kv", "patch", "ward", "-"], "get": ["vault", "get"],
    "live": {"A": "1"}, "rolled_back": {"A": "2"},
}  # fmt: skip  # fmt: skip


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
def test_an_invalid_store_is_a_fault(changes: dict[str, Any], fault: str) -> None:
    found = faults_of(changed(configuration={**STORE, **changes}))
    assert any(item.startswith("configuration") and fault in item for item in found), found


def test_every_example_of_the_documentation_is_a_valid_plan() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "services.md").read_text(encoding="utf-8"), re.DOTALL)
    kinds = set()
    for block in blocks:
        plan = parse_plan(changed(**yaml.safe_load(block)), "services.md", {})
        kinds |= {service.control.kind for service in plan.services}
    assert kinds == set(CONTROLS) and len(blocks) > 8
