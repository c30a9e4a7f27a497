"""The rights of each log-in, asked of a real Airflow over HTTP: the auth manager refuses, or else the steps do.

One Airflow is shared, with two plans. Of the first the lead is asked all the time; of the second nobody answers.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import httpx
import psycopg
import pytest

from include.cutover.evidence.record import Evidence
from include.cutover.people.roles import DAGS, LEAD, ROLES, Accounts, permissions
from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan
from include.cutover.stack.api_client import Client, GateState
from include.cutover.stack.local import Stack
from include.cutover.stack.postgres import Cluster
from include.cutover.stack.settings import StackSettings
from tests.support.patience import RUN_SECONDS

SECOND = ROOT / "tests" / "second_plan"
PEOPLE = {
    "library": "lead: {user: lead, name: Ana, email: a@x.example}\n"
    "  deputies: [{user: deputy, name: Dato, email: d@x.example}]\n"
    "  observer: {user: observer, name: Beka, email: b@x.example}\n"
    "  communicator: {user: communicator, name: Gia, email: g@x.example}",
    "hasty": "lead: {user: hana, name: Hana, email: h@x.example}\n"
    "  deputies: [{user: deputy, name: Dato, email: d@x.example}]\n"
    "  observer: {user: lead, name: Ana, email: a@x.example}\n"
    "  communicator: {user: communicator, name: Gia, email: g@x.example}",
}
MINUTES = {"library": "5", "hasty": "0.25"}


@dataclass
class Site:
    """A running Airflow, and what stands behind it."""

    folder: Path
    stack: Stack
    tokens: dict[str, str] = field(default_factory=dict)

    def ask(self, user: str | None, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request as that user; without a log-in for None."""
        if user is not None and user not in self.tokens:
            login = {"username": user, "password": self.stack.logins[user]}
            answer = httpx.post(f"{self.stack.url}/auth/token", json=login, trust_env=False, timeout=60)
            self.tokens[user] = answer.json()["access_token"]
        headers = {} if user is None else {"Authorization": f"Bearer {self.tokens[user]}"}
        return httpx.request(method, self.stack.url + path, json=body, headers=headers, trust_env=False, timeout=60)

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``roles``, where Airflow's settings are."""
        return subprocess.run(
            [sys.executable, "-m", "include.cutover", "roles", *arguments],
            env={**self.stack.environment, **environment},
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def rights(self) -> set[tuple[str, ...]]:
        """Every role with every right and member, as FAB's tables hold them, and the identity map."""
        with psycopg.connect(self.stack.metadata_url.replace("+psycopg2", "")) as connection:
            may = connection.execute(
                "SELECT r.name, a.name, v.name FROM ab_permission_view_role pr JOIN ab_role r ON r.id = pr.role_id"
                " JOIN ab_permission_view p ON p.id = pr.permission_view_id JOIN ab_permission a ON a.id = p.permission_id"
                " JOIN ab_view_menu v ON v.id = p.view_menu_id"
            ).fetchall()
            has = connection.execute(
                "SELECT u.username, r.name FROM ab_user_role ur JOIN ab_user u ON u.id = ur.user_id"
                " JOIN ab_role r ON r.id = ur.role_id"
            ).fetchall()
            known = connection.execute("SELECT key, is_encrypted::text FROM variable").fetchall()
        return {*may, *has, *known}

    def source(self, plan: str) -> list[str]:
        """Everything that the application's file holds, and whether somebody may write there."""
        file = self.folder / f"{plan}.db"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return [*connection.iterdump(), oct(file.stat().st_mode)]


@dataclass
class Asked:
    """A cutover that waits at its first gate, and the state in which it waits."""

    run_id: str
    gate: GateState
    states: list[Any]
    source: list[str]

    @property
    def path(self) -> str:
        return f"/api/v2/dags/cutover_library/dagRuns/{self.run_id}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "plans").mkdir()
    template = (SECOND / "plans" / "library.yaml").read_text(encoding="utf-8")
    head, people = template.split("people:\n")
    rest = people[people.index("channels:") :]
    connections, plans = {}, []
    for plan in ("library", "hasty"):
        text = f"{head}people:\n  {PEOPLE[plan]}\n{rest}".replace("library", plan)
        text = text.replace("response_minutes: 1, allow_auto_approval: true", f"response_minutes: {MINUTES[plan]}")
        (folder / "plans" / f"{plan}.yaml").write_text(text, encoding="utf-8")
        shutil.copytree(SECOND / "sql" / "library", folder / "sql" / plan)
        with apsw.Connection(str(folder / f"{plan}.db")) as source:
            source.execute(
                "CREATE TABLE authors (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);"
                "CREATE TABLE books (id INTEGER PRIMARY KEY, author_id INTEGER NOT NULL, title VARCHAR(100), price REAL);"
                'CREATE TABLE "Odd Table" ("select" TEXT PRIMARY KEY NOT NULL, "ქართული" BOOLEAN);'
                "INSERT INTO authors (name) VALUES ('Shota'); INSERT INTO books VALUES (1, 1, 'Tiger', 2.5)"
            )
        source.close()
        with psycopg.connect(cluster.conninfo(), autocommit=True) as target:
            target.execute(f"CREATE DATABASE roles_{plan}")
        connections[f"{plan}_source"] = json.dumps({"conn_type": "sqlite", "host": str(folder / f"{plan}.db")})
        connections[f"{plan}_target"] = json.dumps({
            "conn_type": "postgres", "host": "127.0.0.1", "port": cluster.port, "login": "postgres",
            "password": cluster.password, "schema": f"roles_{plan}",
        })  # fmt: skip
        plans.append(parse_plan(text, plan, {"WARD_OPS_BACKUPS": str(folder)}))
    accounts = Accounts.of(plans)
    accounts = replace(accounts, users={**accounts.users, "operator": ("Op",), "stranger": ()})
    environment = {
        "CUTOVER_PLANS": str(folder / "plans"),
        "CUTOVER_SQL": str(folder / "sql"),
        "CUTOVER_EVIDENCE": str(folder / "evidence"),
        "WARD_OPS_BACKUPS": str(folder / "backups"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",  # it mostly waits for people
    }
    stack = Stack(folder / "stack", StackSettings(connections, environment, accounts=accounts))
    with stack.roster.guarded():
        stack.start([f"{verb}_{plan}" for verb in ("cutover", "rollback") for plan in ("library", "hasty")])
        yield Site(folder, stack)


@pytest.fixture(autouse=True)
def _evidence_of_the_site(site: Site, monkeypatch: pytest.MonkeyPatch, _own_evidence: None) -> None:
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(site.folder / "evidence"))


@pytest.fixture(scope="module")
def lead(site: Site) -> Iterator[Client]:
    with site.stack.client("lead") as client:
        yield client


@pytest.fixture(scope="module")
def unanswered(site: Site) -> str:
    """A run of the other plan that nobody answers; it goes on while other tests run."""
    with site.stack.client("hana") as hana:
        return hana.trigger("cutover_hasty", {"reason": "nobody is there"})


@pytest.fixture(scope="module")
def forged(site: Site, unanswered: str) -> dict[str, tuple[str, str]]:
    """Runs that Airflow lets begin and that must refuse themselves: what was tried to user and run."""
    with site.stack.client("operator") as operator, site.stack.client("lead") as lead:
        tried = {
            "an operator with the lead's name": ("cutover_library", operator, {"reason": "forged", "actor": "lead"}),
            "an operator's rollback": ("rollback_library", operator, {"reason": "forged", "actor": "lead", "by": "lead"}),
            "automatic approval": ("cutover_library", lead, {"reason": "forged", "approve": "auto"}),
        }
        return {what: (dag, client.trigger(dag, conf)) for what, (dag, client, conf) in tried.items()}


@pytest.fixture(scope="module")
def asked(site: Site, lead: Client, forged: dict[str, tuple[str, str]]) -> Asked:
    """The lead's run, with more in its form than the form has. It asks whether to stop the application."""
    for dag, run_id in forged.values():
        lead.wait(dag, run_id, seconds=RUN_SECONDS)
    source = site.source("library")
    more = {"plan": "hasty", "actor": "observer", "allow_auto_approval": True, "dag_id": "cutover_hasty"}
    run_id = lead.trigger("cutover_library", {"reason": "the planned night", **more})
    gate = wait_for_gate(lead, "cutover_library", run_id, "go_no_go")
    return Asked(run_id, gate, lead.tasks("cutover_library", run_id), source)


def wait_for_gate(client: Client, dag_id: str, run_id: str, name: str) -> GateState:
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        waiting = {task.task_id for task in client.tasks(dag_id, run_id) if task.state == "awaiting_input"}
        for gate in client.gates(dag_id, run_id):
            if gate.task_id.endswith(name) and gate.task_id in waiting and gate.answer is None:
                time.sleep(3)  # as fast as a person; see the gate's retries
                return gate
        time.sleep(0.3)
    raise AssertionError(f"the gate {name} did not open")


def evidence(plan: str, run_id: str) -> Evidence:
    return Evidence.of(plan, run_id)


# --- what stands in the tables -------------------------------------------------------------------------------------------


def test_every_dag_has_its_row_in_the_table_of_roles() -> None:
    assert {file.stem for file in (ROOT / "dags").glob("*.py")} <= set(DAGS)


def test_nobody_has_a_right_beyond_the_plan() -> None:
    for role in ROLES:
        found = permissions("library", role)
        changing = {(action, resource) for action, resource in found if action not in ("can_read", "menu_access")}
        own = {(action, resource) for action, resource in changing if resource.endswith("_library")}
        general = {("can_edit", name) for name in ("DAG Runs", "Task Instances", "HITL Detail")} if role == LEAD else set()
        assert changing - own == general
        assert not {resource for action, resource in own if resource.split(":")[1].removesuffix("_library") not in DAGS}
        assert not {item for item in found if item[0] == "can_delete"}
        assert not {resource for _, resource in found} & {"DAGs", "Connections", "Variables", "Pools", "Configurations"} - {
            resource for action, resource in found if action == "menu_access"
        }


def test_the_command_makes_what_is_missing_tells_who_is_and_changes_nothing_twice(site: Site, tmp_path: Path) -> None:
    before = site.rights()
    with_ghost = (site.folder / "plans" / "library.yaml").read_text().replace("user: observer", "user: Observer")
    (tmp_path / "library.yaml").write_text(with_ghost)
    other = site.command("apply", "--plan", "library", CUTOVER_PLANS=str(tmp_path))
    assert other.returncode == 1, other.stderr
    assert "the user Observer does not exist" in other.stdout
    assert before - site.rights() == {("observer", "cutover_library_observer")}, "who has no part any more has no role"
    shown = site.command("show", "--plan", "library")
    assert shown.returncode == 1
    assert "observer does not have the role cutover_library_observer" in shown.stdout
    again = site.command("apply", "--plan", "library")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Ana (lead), id " in again.stdout
    assert site.rights() == before
    assert not [password for password in site.stack.logins.values() if password in shown.stdout + again.stdout]


# --- what is refused at the door -----------------------------------------------------------------------------------------


def changes(run: Asked) -> list[tuple[str, str, Any]]:
    """Requests that change something of the run, the DAG or Airflow."""
    task = f"{run.path}/taskInstances/{run.gate.task_id}"
    clear = {"dry_run": False, "only_failed": False, "dag_run_id": run.run_id}
    connection = {"connection_id": "library_target", "conn_type": "postgres", "host": "elsewhere.example"}
    variable = {"key": "cutover_identities", "value": "{}"}
    states = [{"new_state": state} for state in ("success", "failed", "skipped")]
    return [
        ("POST", "/api/v2/dags/cutover_library/dagRuns", {"logical_date": None, "conf": {"reason": "mine"}}),
        ("POST", "/api/v2/dags/rollback_library/dagRuns", {"logical_date": None, "conf": {"reason": "mine"}}),
        ("PATCH", f"{task}/-1/hitlDetails", {"chosen_options": ["Go"], "params_input": {}}),
        *(("PATCH", task, state) for state in states),
        ("PATCH", f"{task}/dry_run", states[0]),
        ("PATCH", "/api/v2/dags/cutover_library/dagRuns/~/taskInstances", {"actions": [{"action": "update", "entities": [
            {"task_id": run.gate.task_id, "dag_run_id": run.run_id, "new_state": "success"},
        ]}]}),
        ("DELETE", task, None),
        ("PUT", f"{task}/state-store/anything", {"value": 1}),
        ("POST", "/api/v2/dags/cutover_library/clearTaskInstances", clear),
        ("PATCH", run.path, {"state": "success"}),
        ("PATCH", run.path, {"state": "failed"}),
        ("PATCH", run.path, {"note": "mine"}),
        ("POST", f"{run.path}/clear", {"dry_run": False}),
        ("DELETE", run.path, None),
        ("POST", f"{task}/xcomEntries", {"key": "return_value", "value": {"answer": "Go"}}),
        ("PATCH", "/api/v2/dags/cutover_library", {"is_paused": True}),
        ("PATCH", "/api/v2/dags?dag_id_pattern=%25", {"is_paused": True}),
        ("DELETE", "/api/v2/dags/cutover_library", None),
        ("POST", "/api/v2/backfills", {
            "dag_id": "cutover_library", "from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-02T00:00:00Z",
        }),
        ("POST", "/api/v2/connections", connection),
        ("PATCH", "/api/v2/connections/library_target", connection),
        ("DELETE", "/api/v2/connections/library_target", None),
        ("POST", "/api/v2/variables", variable),
        ("PATCH", "/api/v2/variables/cutover_identities", variable),
        ("DELETE", "/api/v2/variables/cutover_identities", None),
        ("POST", "/api/v2/pools", {"name": "mine", "slots": 1, "include_deferred": False}),
        ("DELETE", "/api/v2/pools/default_pool", None),
        ("POST", "/auth/fab/v1/users", {
            "username": "x", "email": "x@y.z", "first_name": "x", "last_name": "x", "password": "x",
        }),
        ("PATCH", "/auth/fab/v1/users/observer", {"roles": [{"name": "Admin"}]}),
        ("POST", "/auth/fab/v1/roles", {"name": "mine", "permissions": []}),
    ]  # fmt: skip


SECRETS = (
    "/api/v2/connections",
    "/api/v2/connections/library_target",
    "/api/v2/variables",
    "/api/v2/config",
    "/auth/fab/v1/users",
)


@pytest.mark.parametrize("user", ["observer", "communicator", "stranger", "hana"])
def test_who_is_not_the_lead_changes_nothing(site: Site, lead: Client, asked: Asked, user: str) -> None:
    told = {}
    for method, path, body in changes(asked):
        told[f"{method} {path} {body}"] = site.ask(user, method, path, body).status_code
    for path in SECRETS:
        told[path] = site.ask(user, "GET", path).status_code
    allowed = {what: status for what, status in told.items() if status not in (401, 403)}
    assert allowed == {}
    assert lead.tasks("cutover_library", asked.run_id) == asked.states
    assert lead.run_state("cutover_library", asked.run_id) == "running"
    assert lead.gates("cutover_library", asked.run_id) == [asked.gate]
    assert not site.ask("lead", "GET", "/api/v2/dags/cutover_library").json()["is_paused"]


def test_the_lead_is_no_administrator(site: Site, asked: Asked) -> None:
    refused = ("connections", "variables", "pools", "fab/v1", "xcomEntries")
    for method, path, body in changes(asked):
        if method == "DELETE" or any(part in path for part in refused):
            assert site.ask("lead", method, path, body).status_code == 403, (method, path)
    for path in SECRETS:
        assert site.ask("lead", "GET", path).status_code == 403, path


def test_a_role_of_one_plan_is_none_of_another(site: Site, asked: Asked) -> None:
    """The lead of one plan, who observes the other, drives the one alone, also where a request names no DAG."""
    run = site.ask("lead", "GET", "/api/v2/dags/cutover_hasty/dagRuns").json()["dag_runs"][0]["dag_run_id"]
    task = f"/api/v2/dags/cutover_hasty/dagRuns/{run}/taskInstances/go_no_go"
    entity = {"dag_id": "cutover_hasty", "dag_run_id": run, "task_id": "go_no_go", "new_state": "success"}
    update = {"actions": [{"action": "update", "entities": [entity], "action_on_non_existence": "skip"}]}
    for method, path, body in (
        ("POST", "/api/v2/dags/cutover_hasty/dagRuns", {"logical_date": None, "conf": {"reason": "mine"}}),
        ("PATCH", task, {"new_state": "success"}),
        ("PATCH", f"{task}/-1/hitlDetails", {"chosen_options": ["Go"], "params_input": {}}),
        ("POST", "/api/v2/dags/cutover_hasty/clearTaskInstances", {"dry_run": False, "dag_run_id": run}),
        ("PATCH", "/api/v2/dags/cutover_hasty", {"is_paused": True}),
    ):
        assert site.ask("lead", method, path, body).status_code == 403, (method, path)
    before = site.ask("lead", "GET", task).json()["state"]
    answer = site.ask("lead", "PATCH", "/api/v2/dags/~/dagRuns/~/taskInstances", update)
    assert answer.status_code == 403 or not answer.json().get("update", {}).get("success"), answer.text
    assert site.ask("lead", "GET", task).json()["state"] == before
    site.ask("lead", "PATCH", "/api/v2/dags?dag_id_pattern=cutover_hasty", {"is_paused": True})
    assert not site.ask("lead", "GET", "/api/v2/dags/cutover_hasty").json()["is_paused"]
    assert site.ask("hana", "GET", asked.path).status_code == 403


def test_a_gate_is_answered_by_those_it_asks_alone(site: Site, lead: Client, asked: Asked) -> None:
    """Airflow's own role Op may answer any question; not this one."""
    answer = {"chosen_options": ["Go"], "params_input": {}}
    refused = site.ask("operator", "PATCH", f"{asked.path}/taskInstances/go_no_go/-1/hitlDetails", answer)
    assert refused.status_code == 403
    assert "is not a respondent" in refused.json()["detail"]
    detail = site.ask("lead", "GET", f"{asked.path}/hitlDetails").json()["hitl_details"][0]
    assert sorted(user["name"] for user in detail["assigned_users"]) == ["deputy", "lead"]
    assert all(user["id"].isdigit() for user in detail["assigned_users"])


@pytest.mark.parametrize("conf", [{}, {"reason": "no"}, {"reason": "forged", "approve": "yes"}, {"reason": ["forged"]}])
def test_a_form_that_is_not_filled_in_starts_nothing(site: Site, conf: dict[str, Any]) -> None:
    body = {"logical_date": None, "conf": conf}
    assert site.ask("lead", "POST", "/api/v2/dags/cutover_library/dagRuns", body).status_code == 400


# --- what is refused by the run itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("an operator with the lead's name", "only the lead or a deputy may start a cutover"),
        ("an operator's rollback", "only the lead or a deputy may roll back"),
        ("automatic approval", "the plan does not allow automatic approval"),
    ],
)
def test_a_run_that_nobody_entitled_asked_for_refuses_itself(
    site: Site, lead: Client, forged: dict[str, tuple[str, str]], what: str, why: str
) -> None:
    dag, run_id = forged[what]
    assert lead.wait(dag, run_id, seconds=RUN_SECONDS) == "failed"
    first = next(task for task in lead.tasks(dag, run_id) if task.task_id in ("open_run", "open_rollback"))
    assert first.state == "failed"
    assert why in lead.log(dag, run_id, first)
    found = evidence("library", run_id)
    assert not found.exists or found.last("run.opened") is None


def test_what_is_not_in_the_form_changes_nothing(site: Site, asked: Asked) -> None:
    opened = evidence("library", asked.run_id).last("run.opened")
    assert opened is not None
    assert (opened["plan"], opened["actor"], opened["approve"], opened["dag_id"]) == (
        "library",
        "lead",
        "ask",
        "cutover_library",
    )


# --- what may be seen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["observer", "communicator", "deputy"])
def test_who_has_a_part_sees_everything_of_the_plan(site: Site, asked: Asked, user: str) -> None:
    dags = site.ask(user, "GET", "/api/v2/dags").json()["dags"]
    assert {"cutover_library", "rollback_library"} <= {dag["dag_id"] for dag in dags}
    for part in ("", "/taskInstances", "/taskInstances/open_run", "/taskInstances/open_run/xcomEntries", "/hitlDetails"):
        assert site.ask(user, "GET", asked.path + part).status_code == 200, part
    for path in ("details", "tasks", "dagVersions"):
        assert site.ask(user, "GET", f"/api/v2/dags/cutover_library/{path}").status_code == 200, path
    for path in ("dagSources/cutover_library", "eventLogs?dag_id=cutover_library", "importErrors", "plugins"):
        assert site.ask(user, "GET", f"/api/v2/{path}").status_code == 200, path
    log = site.ask(user, "GET", f"{asked.path}/taskInstances/open_run/logs/1?full_content=true")
    assert "opened by lead: the planned night" in log.text
    question = site.ask(user, "GET", f"{asked.path}/taskInstances/go_no_go/-1/hitlDetails").json()
    assert "Library" in question["body"]
    report = site.ask(user, "GET", f"/cutover/library/{quote(evidence('library', asked.run_id).folder.name)}/")
    assert report.status_code == 200
    assert "the planned night" in report.text


def test_the_question_tells_what_is_needed_to_decide(site: Site, asked: Asked) -> None:
    body = site.ask("lead", "GET", f"{asked.path}/taskInstances/go_no_go/-1/hitlDetails").json()["body"]
    for wanted in ("ends at", "Expected downtime", "| check_source | passed |", "Checks: ", "rows of the source"):
        assert wanted in body
    assert "No answer within 5 minutes means no-go: nothing is stopped, the run is called off." in body
    name = quote(evidence("library", asked.run_id).folder.name)
    assert f"[Report of this run](/cutover/library/{name}/)" in body
    assert f"[Data Docs: assess_source](/cutover/library/{name}/data_docs/assess_source/index.html)" in body
    for address in ("", "data_docs/assess_source/index.html"):
        assert site.ask("lead", "GET", f"/cutover/library/{name}/{address}").status_code == 200


def test_without_a_log_in_and_without_a_part_there_is_nothing_to_see(site: Site, asked: Asked) -> None:
    name = quote(evidence("library", asked.run_id).folder.name)
    for page in (f"/cutover/library/{name}/", f"/cutover/library/{name}/data_docs/assess_source/index.html", "/cutover/"):
        nobody = site.ask(None, "GET", page)
        assert nobody.status_code == 401
        assert "library" not in nobody.text.lower()
        stranger = site.ask("stranger", "GET", page)
        assert stranger.status_code == (200 if page == "/cutover/" else 403)
        assert "the planned night" not in stranger.text and "library" not in stranger.text.lower()
    for path in (asked.path, f"{asked.path}/hitlDetails", "/api/v2/dags"):
        assert site.ask(None, "GET", path).status_code == 401
        answer = site.ask("stranger", "GET", path)
        assert answer.status_code == 403
        assert "planned night" not in answer.text


# --- what the lead may do, and what comes of it --------------------------------------------------------------------------


def test_a_gate_that_was_marked_as_success_opens_nothing(site: Site, lead: Client, asked: Asked) -> None:
    marked = site.ask("lead", "PATCH", f"{asked.path}/taskInstances/go_no_go", {"new_state": "success"})
    assert marked.status_code == 200
    assert lead.wait("cutover_library", asked.run_id, seconds=RUN_SECONDS) == "failed"
    found = evidence("library", asked.run_id)
    assert found.last("gate", gate="go_no_go") is None
    refused = found.step("wait_for_window")
    assert refused is not None and refused["outcome"] == "refused" and found.step("stop_services") is None
    assert "has no go by an entitled person" in refused["summary"]
    sealed = found.sealed
    assert sealed is not None and sealed["outcome"] == "abandoned"
    assert site.source("library") == asked.source


def test_a_closed_run_that_is_cleared_and_runs_again_does_nothing_more(site: Site, lead: Client, asked: Asked) -> None:
    found = evidence("library", asked.run_id)
    sealed = found.sealed
    clear = {"dry_run": False, "only_failed": False, "dag_run_id": asked.run_id}
    assert site.ask("lead", "POST", "/api/v2/dags/cutover_library/clearTaskInstances", clear).status_code == 200
    assert lead.wait("cutover_library", asked.run_id, seconds=RUN_SECONDS) == "failed"
    assert found.sealed == sealed and sealed is not None
    since = [event for event in found.events() if event["seq"] > sealed["seq"] and event["event"] == "step.end"]
    assert {event["step"] for event in since if event["outcome"] == "passed"} <= {"open_run", "close_run"}
    assert "refused" in {event["outcome"] for event in since}
    assert site.source("library") == asked.source


# --- nobody answers ------------------------------------------------------------------------------------------------------


def test_no_answer_before_anything_stopped_is_no_go(site: Site, unanswered: str) -> None:
    before = site.source("hasty")
    with site.stack.client("hana") as hana:
        assert hana.wait("cutover_hasty", unanswered, seconds=RUN_SECONDS) == "failed"
    found = evidence("hasty", unanswered)
    gate, sealed = found.last("gate", gate="go_no_go"), found.sealed
    assert gate is not None and (gate["answer"], gate["by"]) == ("No-go", None)
    assert sealed is not None and sealed["outcome"] == "abandoned"
    assert found.last("services.stopped") is None
    assert site.source("hasty") == before


def test_no_answer_after_the_application_stopped_is_a_rollback(site: Site, unanswered: str) -> None:
    """The deputy answers the first question; the one whom the second asks is not there."""
    before = site.source("hasty")
    with site.stack.client("hana") as hana, site.stack.client("deputy") as deputy:
        hana.wait("cutover_hasty", unanswered, seconds=RUN_SECONDS)
        run_id = hana.trigger("cutover_hasty", {"reason": "nobody is there any more"})
        gate = wait_for_gate(hana, "cutover_hasty", run_id, "go_no_go")
        deputy.answer("cutover_hasty", run_id, gate, "Go")
        assert hana.wait("cutover_hasty", run_id, seconds=RUN_SECONDS) == "failed"
    found = evidence("hasty", run_id)
    first, second, sealed = found.last("gate", gate="go_no_go"), found.last("gate", gate="approve"), found.sealed
    assert first is not None and (first["answer"], first["by"]) == ("Go", "deputy")
    assert second is not None and (second["answer"], second["by"]) == ("No-go", None)
    assert found.last("services.stopped") is not None
    assert sealed is not None and sealed["outcome"] == "rolled_back"
    assert site.source("hasty") == before
