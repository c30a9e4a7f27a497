"""Hosts of the plan by Airflow's SSH connections: in a task, and in the rollback without Airflow."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from include.cutover.application import configuration
from include.cutover.cli.break_glass import EndsOfEvidence
from include.cutover.connections import ssh
from include.cutover.connections.commands import Runner
from include.cutover.errors import CannotCheck
from include.cutover.evidence.record import Evidence
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.steps import preflight as preflight_steps
from include.cutover.steps import rollback
from include.cutover.steps.step import Caller, Step
from tests.support.ends import FakeEnds
from tests.support.ssh_host import Host, running

ID = "ward_ops_host"
VARIABLE = "AIRFLOW_CONN_WARD_OPS_HOST"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host that is reached over SSH."""
    with running("asyncssh", tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture(params=["a task", "break glass"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """How a step gets to a host: in Airflow's task, or without it."""
    if request.param == "break glass":
        return EndsOfEvidence(Evidence(tmp_path / "evidence")).remote
    from include.cutover.tasks.ends import AirflowEnds

    return AirflowEnds().remote


@pytest.fixture
def plan() -> Plan:
    return load_plan("ward_ops")


def in_json(host: Host, **extra: Any) -> str:
    fields = host.fields(**extra)
    found = {"conn_type": "ssh", "host": fields["host"], "port": fields["port"], "login": fields["user"]}
    return json.dumps({**found, "extra": fields["extra"]})


def in_url(host: Host, **extra: Any) -> str:
    fields = host.fields(**extra)
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields["extra"].items())
    return f"ssh://{fields['user']}:a%2Fb@127.0.0.1:{fields['port']}/?{query}"


@pytest.mark.parametrize("form", [in_json, in_url])
def test_a_connection_of_the_environment_leads_to_its_host(
    host: Host, plan: Plan, remote: Any, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    monkeypatch.setenv(VARIABLE, form(host))
    there: Runner = remote(plan, ID)
    assert there.run(["echo", "it's me"], 20).output == "it's me\n"


def test_what_airflow_packs_into_one_extra_is_read(
    host: Host, plan: Plan, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = host.fields(look_for_keys=False)
    packed = quote(json.dumps(fields["extra"]), safe="")
    monkeypatch.setenv(VARIABLE, f"ssh://{fields['user']}@127.0.0.1:{fields['port']}/?__extra__={packed}")
    assert remote(plan, ID).run(["true"], 20).code == 0


def test_a_connection_that_is_not_there_or_unusable_is_told_without_its_secrets(
    host: Host, plan: Plan, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(CannotCheck, match="connection ward_ops_host"):
        remote(plan, ID)
    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "ssh", "login": "x", "password": "hunter2"}))
    with pytest.raises(CannotCheck, match="names no host") as caught:
        remote(plan, ID)
    assert "hunter2" not in str(caught.value)


def test_only_the_plan_leaves_the_host_s_key_unchecked(
    host: Host, plan: Plan, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, in_json(host, no_host_key_check=True, host_key=""))
    with pytest.raises(CannotCheck, match="the plan does not accept that"):
        remote(plan, ID)
    connections = plan.connections.model_copy(update={"ssh_unverified": (ID,)})
    assert remote(plan.model_copy(update={"connections": connections}), ID).run(["true"], 20).code == 0


# --- in a step ----------------------------------------------------------------------------------------------------------


def test_a_store_and_services_on_another_host_in_the_steps(host: Host, plan: Plan, tmp_path: Path) -> None:
    values = tmp_path / "values"
    values.write_text(json.dumps({"DATABASE_URL": "sqlite:///old.db", "OTHER": "hunter2"}))
    code = (
        "import json, sys; f = sys.argv[1]; v = {**json.load(open(f)), **json.load(sys.stdin)}; json.dump(v, open(f, 'w'))"
    )
    control = {"kind": "command", "start": ["true"], "stop": ["true"], "status": ["true"], "ssh": ID}
    settings = {
        "kind": "command", "set": [sys.executable, "-c", code, str(values)], "get": ["cat", str(values)], "ssh": ID,
        "live": {"DATABASE_URL": "{application_url}"}, "rolled_back": {"DATABASE_URL": "sqlite:///{source_path}"},
    }  # fmt: skip
    data = plan.model_dump(mode="json")
    data.update(
        services=[{"name": "api", "control": control}],
        configuration=settings,
        backup={"directory": str(tmp_path / "backups")},
    )
    (tmp_path / "ward_ops.db").write_bytes(b"")
    asked: list[str] = []

    def connect(connection: str) -> Runner:
        asked.append(connection)
        return ssh.Ssh(ssh.login(connection, **host.fields()))

    url = "postgresql+psycopg://ward:s3cret@db/ward_flux"
    ends = FakeEnds(tmp_path / "ward_ops.db", url=url, remote=connect)
    step = Step("ward_ops", "check_places", Caller("cutover_ward_ops", "run", "lead"), ends)
    step.plan = Plan.model_validate(data)

    checks = {check.name: check for check in preflight_steps.check_places(step).checks}
    assert {name: checks[name].outcome for name in ("service_api", "configuration_values")} == {
        "service_api": "passed",
        "configuration_values": "passed",
    }
    settings_of = step.plan.configuration
    assert settings_of is not None and "configuration_replaceable" not in checks

    assert "was never switched" in rollback.revert_configuration(step).summary
    kept = configuration.kept_as(settings_of, step.evidence.folder.name, step.plan.backup.directory)
    live = {"DATABASE_URL": ends.application_url(step.plan)}
    configuration.switch(settings_of, live, keep_as=kept, remote=step.remote)
    assert json.loads(values.read_text()) == {**live, "OTHER": "hunter2"}
    report = rollback.revert_configuration(step)
    assert "s3cret" not in report.summary and "is restored: DATABASE_URL set" in report.summary
    assert json.loads(values.read_text()) == {"DATABASE_URL": f"sqlite:///{tmp_path}/ward_ops.db", "OTHER": "hunter2"}
    assert asked == [ID], "one connection for all of it"
