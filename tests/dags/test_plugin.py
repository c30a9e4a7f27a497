"""Cutover's pages on a real API server: who gets what over HTTP, and what loading the plugin costs everybody else."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest
from airflow.models.taskinstancekey import TaskInstanceKey

from include.cutover.evidence.record import Evidence
from include.cutover.files import slug
from include.cutover.people.roles import Accounts
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.stack.local import Stack
from include.cutover.stack.settings import StackSettings
from include.cutover.ui.links import DataDocsLink, ReportLink, plan_of

RUN_ID = "manual__2026-11-23T22:00:00+00:00"
RUN = slug(RUN_ID)
SECRET = "gAAAAAB-the-content-of-a-secret-column"
DOCS_PAGE = (
    "<!DOCTYPE html><html><head><title>Docs</title></head><body>25 of 25 tables<script>alert(1)</script></body></html>"
)

INCIDENT = """# Incident of the night

<script>alert(1)</script>

- [Events](events.jsonl)
- [Report](report.html)
- [Data Docs: tables](data_docs/tables/index.html)
- [Trap](javascript:alert(1))
"""

# Every route, and beside them what must not be served though it lies in the same folders.
PAGES = (
    "",
    "ward_ops",
    "ward_ops/",
    f"ward_ops/{RUN}",
    f"ward_ops/{RUN}/",
    f"ward_ops/{RUN}/incident",
    f"ward_ops/{RUN}/data_docs/tables/index.html",
    f"ward_ops/{RUN}/data_docs/tables/validations/tables/run/now/one.html",
    f"ward_ops/{RUN}/data_docs/tables/static/logo.png",
    "ward_ops/rollback__1/",
    "ward_ops/rehearsal~try/",
    "-/dag_run/rehearsal_ward_ops/try",
    f"-/dag_run/cutover_ward_ops/{quote(RUN_ID)}",
    "-/dag_run/rollback_ward_ops/rollback__1",
    "-/icon.svg",
    "-/page.js",
)
NOT_SERVED = (
    f"ward_ops/{RUN}/events.jsonl",
    f"ward_ops/{RUN}/plan.json",
    f"ward_ops/{RUN}/incident.md",
    f"ward_ops/{RUN}/kept/monitoring.db",
    f"ward_ops/{RUN}/monitoring.db.20261123-2200.bak",
    f"ward_ops/{RUN}/data_docs",
    f"ward_ops/{RUN}/data_docs/",
    f"ward_ops/{RUN}/data_docs/tables",
    f"ward_ops/{RUN}/data_docs/tables/validations/",
    f"ward_ops/{RUN}/data_docs/tables/secret.txt",
    f"ward_ops/{RUN}/data_docs/tables/.hidden.html",
    f"ward_ops/{RUN}/data_docs/tables/linked.html",
    f"ward_ops/{RUN}/data_docs/linked_folder/secret.html",
    f"ward_ops/{RUN}/data_docs/../events.jsonl",
    f"ward_ops/{RUN}/data_docs/..%2fevents.jsonl",
    f"ward_ops/{RUN}/data_docs/..%2Fkept%2Fsecret.html",
    f"ward_ops/{RUN}/data_docs/%2e%2e/kept/secret.html",
    f"ward_ops/{RUN}/data_docs/tables/..%2f..%2fkept%2fsecret.html",
    f"ward_ops/{RUN}/data_docs/..%252fkept%252fsecret.html",
    f"ward_ops/{RUN}/data_docs/..%5ckept%5csecret.html",
    f"ward_ops/{RUN}/data_docs/%2fetc%2fpasswd",
    f"ward_ops/{RUN}/data_docs//etc/passwd",
    f"ward_ops/{RUN}/data_docs/tables/index.html%00.png",
    f"ward_ops/{RUN}/data_docs/tables/pipe.html",
    f"ward_ops/..%2fward_ops%2f{RUN}/",
    "ward_ops/%2e%2e/",
    "..%2f..%2fetc/passwd/",
    "../cutover/../../etc/passwd",
    "-/../ward_ops/plan.json",
    "docs",
    "redoc",
    "openapi.json",
    "ward_ops/no_such_run/",
    "ward_ops/rehearsal~no_such_run/",
    "ward_ops/rehearsal~try/scratch/clone/ward_ops.db",
    "ward_ops/try/",
    "rehearsals",
    "rehearsals/ward_ops/",
    "-/dag_run/rehearsal_ward_ops/no_such_run",
    "ward_ops/no_such_run/incident",
    "no_such_plan/",
    f"no_such_plan/{RUN}/",
    f"Ward_OPS/{RUN}/",
    "-/dag_run/example_dag/run",
    "-/dag_run/cutover_ward_ops/no_such_run",
)


@dataclass(frozen=True)
class Site:
    """A running API server with evidence behind it."""

    stack: Stack
    evidence: Path
    tokens: dict[str, str] = field(default_factory=dict)

    def get(
        self, path: str, user: str | None = None, *, cookie: bool = False, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Ask for a page exactly as written: no client may tidy the path up first. Redirects are not followed."""
        asked = {"Host": urlsplit(self.stack.url).netloc, **(headers or {})}
        if user is not None:
            token = self.token(user)
            asked |= {"Cookie": f"_token={token}"} if cookie else {"Authorization": f"Bearer {token}"}
        connection = http.client.HTTPConnection(urlsplit(self.stack.url).netloc, timeout=60)
        try:
            connection.request("GET", f"/cutover/{path}", headers=asked)
            answer = connection.getresponse()
            return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
        finally:
            connection.close()

    def token(self, user: str) -> str:
        """A token of that user's."""
        if user not in self.tokens:
            login = {"username": user, "password": self.stack.logins[user]}
            answer = httpx.post(f"{self.stack.url}/auth/token", json=login, trust_env=False)
            self.tokens[user] = answer.json()["access_token"]
        return self.tokens[user]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An API server with three users: one may do everything, one may look, one may nothing."""
    folder = tmp_path_factory.mktemp("site")
    _write_evidence(folder / "evidence")
    (folder / "dags").mkdir()
    people = Accounts.of([load_plan("ward_ops")])
    settings = StackSettings(
        environment={"CUTOVER_EVIDENCE": str(folder / "evidence")},
        accounts=replace(people, users={**people.users, "stranger": ()}),
        dags_folder=folder / "dags",
    )
    stack = Stack(folder / "stack", settings)
    with stack:
        yield Site(stack, folder / "evidence")


def _write_evidence(root: Path) -> None:
    run = Evidence(root / "ward_ops" / RUN)
    run.append(
        "run.opened", run_id=RUN_ID, plan="ward_ops", application="Ward OPS", dag_id="cutover_ward_ops", actor="lead",
        reason="the planned night <b>", approve="ask", window_start="2026-11-23T22:00:00+00:00",
        window_end="2026-11-23T23:00:00+00:00", notices=True, fingerprints={"plan": "0", "sql": "0", "code": "0"},
    )  # fmt: skip
    run.append("step.begin", step="stop_services", try_number=1, pid=1, by="x", log_url="")
    run.append("step.end", step="stop_services", outcome="passed", seconds=1.0, summary="stopped", figures={}, checks=[])
    run.save("plan.json", load_plan("ward_ops").model_dump_json())
    run.save("incident.md", INCIDENT)
    run.append("sealed", outcome="rolled_back", summary="rolled back", by="cutover_ward_ops/x")
    docs = run.folder / "data_docs" / "tables"
    result = docs / "validations" / "tables" / "run" / "now"
    result.mkdir(parents=True)
    (docs / "static").mkdir()
    (docs / "static" / "logo.png").write_bytes(b"\x89PNG")
    (docs / "index.html").write_text(DOCS_PAGE)
    (result / "one.html").write_text(DOCS_PAGE)
    for hidden in (run.folder / "kept" / "monitoring.db", run.folder / "monitoring.db.20261123-2200.bak",
                   run.folder / "kept" / "secret.html", docs / "secret.txt", docs / ".hidden.html"):  # fmt: skip
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_text(SECRET)
    (docs / "linked.html").symlink_to(run.folder / "kept" / "secret.html")
    (run.folder / "data_docs" / "linked_folder").symlink_to(run.folder / "kept")
    os.mkfifo(docs / "pipe.html")

    Evidence(root / "ward_ops" / "rollback__1").append(
        "rollback.opened", subject=RUN_ID, by="lead", reason="the application is slow"
    )
    tried = Evidence(root / "rehearsals" / "ward_ops" / "try")
    tried.append("run.opened", run_id="try", plan="ward_ops", dag_id="rehearsal_ward_ops", rehearsal=True, live="/app.db")
    tried.append("sealed", outcome="rehearsal_failed", why="a check", kept=["database rehearsal_ward_ops_0"])
    damaged = Evidence(root / "ward_ops" / "damaged")
    damaged.append("run.opened", run_id="damaged", plan="ward_ops", dag_id="cutover_ward_ops")
    events = damaged.folder / "events.jsonl"
    events.write_text(events.read_text().replace('"seq":0', '"seq":1'))


@pytest.mark.parametrize("path", [*PAGES, *NOT_SERVED])
def test_nobody_sees_anything_without_a_login(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status_code == 401
    assert "ward_ops" not in answer.text
    assert SECRET not in answer.text


@pytest.mark.parametrize("token", ["", "nonsense", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJsZWFkIiwicm9sZSI6IkFETUlOIn0."])
def test_a_login_that_is_none_is_refused(site: Site, token: str) -> None:
    for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"_token={token}"}):
        answer = site.get(f"ward_ops/{RUN}/", headers=headers)
        assert answer.status_code in (401, 403)
        assert "ward_ops" not in answer.text


def test_a_browser_without_a_login_is_sent_to_it_and_back(site: Site) -> None:
    answer = site.get(f"ward_ops/{RUN}/", headers={"Accept": "text/html", "Sec-Fetch-Dest": "document"})
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/api/v2/auth/login?next={quote(f'/cutover/ward_ops/{RUN}/', safe='')}"
    assert not answer.content
    login = httpx.get(site.stack.url + answer.headers["location"], trust_env=False)
    assert login.status_code == 307
    assert login.headers["location"].startswith(f"{site.stack.url}/auth/login/?next=")


def test_a_frame_without_a_login_stays_empty_handed(site: Site) -> None:
    """The interface around it asks for the log-in; a log-in page inside it would be a trap."""
    assert site.get(f"ward_ops/{RUN}/", headers={"Accept": "text/html", "Sec-Fetch-Dest": "iframe"}).status_code == 401


@pytest.mark.parametrize("cookie", [False, True], ids=["token", "cookie"])
@pytest.mark.parametrize("path", PAGES)
def test_who_may_look_gets_every_page(site: Site, path: str, cookie: bool) -> None:
    answer = site.get(path, "observer", cookie=cookie)
    assert answer.status_code in (200, 303)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "http" not in policy, "nothing comes from another host"
    assert "script-src 'unsafe" not in policy


@pytest.mark.parametrize("path", NOT_SERVED)
def test_nothing_else_is_served(site: Site, path: str) -> None:
    answer = site.get(path, "observer")
    assert answer.status_code in (403, 404), "403 is what looks like another plan's"
    assert SECRET not in answer.text
    assert str(site.evidence) not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", [path for path in PAGES if path and not path.startswith("-/icon") and path != "-/page.js"])
def test_who_may_not_see_the_dag_sees_nothing_of_its_runs(site: Site, path: str) -> None:
    answer = site.get(path, "stranger")
    assert answer.status_code == 403
    assert RUN not in answer.text


def test_who_may_not_see_the_dag_cannot_find_out_what_there_is(site: Site) -> None:
    known, unknown = site.get(f"ward_ops/{RUN}/", "stranger"), site.get("no_such_plan/no_such_run/", "stranger")
    assert (known.status_code, known.text) == (unknown.status_code, unknown.text)
    assert "ward_ops" not in site.get("", "stranger").text


def test_the_list_has_every_run_also_a_damaged_one(site: Site) -> None:
    for path in ("", "ward_ops", "ward_ops/"):
        text = site.get(path, "observer").text
        assert RUN_ID in text
        assert "Rolled back" in text
        assert "the planned night &lt;b&gt;" in text
        assert "Evidence damaged" in text


def test_the_report_is_drawn_from_the_evidence_of_this_moment(site: Site) -> None:
    before = site.get(f"ward_ops/{RUN}/", "observer").text
    assert "Ward OPS" in before
    assert "the planned night &lt;b&gt;" in before
    assert "data-again-after" not in before
    assert "Rolled back" in before
    run = Evidence(site.evidence / "ward_ops" / RUN)
    run.append("reopened", by="lead", reason="again", holder="rollback_ward_ops/x")
    after = site.get(f"ward_ops/{RUN}/", "observer").text
    run.append("sealed", outcome="rolled_back", summary="rolled back", by="rollback_ward_ops/x")
    assert "Rolling back" in after
    assert "data-again-after" in after


def test_the_report_of_damaged_evidence_says_that_it_is_damaged(site: Site) -> None:
    answer = site.get("ward_ops/damaged/", "observer")
    assert answer.status_code == 200
    assert "the chain of events is broken" in answer.text


def test_the_report_links_only_to_what_is_served(site: Site) -> None:
    links = set(re.findall(r'<a href="([^"]*)"', site.get(f"ward_ops/{RUN}/", "observer").text))
    assert {"incident", "data_docs/tables/index.html"} <= links
    for link in links - {"#"}:
        if not link.startswith(("http", "#")):
            assert site.get(f"ward_ops/{RUN}/{link}", "observer").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"-/dag_run/cutover_ward_ops/{quote(RUN_ID, safe='')}",
        "-/dag_run/rollback_ward_ops/rollback__1",
        "ward_ops/rollback__1/",
        f"ward_ops/{RUN}",
    ],
)
def test_the_tab_of_a_run_leads_to_the_report_of_its_cutover(site: Site, path: str) -> None:
    answer = site.get(path, "observer")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/cutover/ward_ops/{RUN}/"


def test_a_rehearsal_is_listed_and_has_a_report(site: Site) -> None:
    listed = site.get("ward_ops/", "observer").text
    assert 'href="/cutover/ward_ops/rehearsal~try/"' in listed and '<small class="kind">rehearsal</small>' in listed
    page = site.get("ward_ops/rehearsal~try/", "observer").text
    assert "Rehearsal failed" in page and "database rehearsal_ward_ops_0" in page
    answer = site.get("-/dag_run/rehearsal_ward_ops/try", "observer")
    assert (answer.status_code, answer.headers["location"]) == (303, "/cutover/ward_ops/rehearsal~try/")
    assert "<h2>rehearsals</h2>" not in site.get("", "lead").text


def test_what_a_run_left_for_the_inquiry_is_in_its_report(site: Site) -> None:
    page = site.get(f"ward_ops/{RUN}/", "observer").text
    assert "Kept for the investigation" in page and "kept/monitoring.db" in page and "incident_ward_ops" in page


def test_the_incident_document_is_readable_and_nothing_in_it_runs(site: Site) -> None:
    answer = site.get(f"ward_ops/{RUN}/incident", "observer")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>Incident of the night</h1>" in answer.text
    assert "<script>alert" not in answer.text
    assert set(re.findall(r'<a href="([^"]*)"', answer.text)) == {"./", "data_docs/tables/index.html"}
    assert "<li>Events</li>" in answer.text


def test_data_docs_are_served_as_what_they_are_and_nothing_in_them_runs(site: Site) -> None:
    page = site.get(f"ward_ops/{RUN}/data_docs/tables/index.html", "observer")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "25 of 25 tables" in page.text
    picture = site.get(f"ward_ops/{RUN}/data_docs/tables/static/logo.png", "observer")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content == b"\x89PNG"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(site: Site, method: str) -> None:
    token = site.token("lead")
    answer = httpx.request(
        method, f"{site.stack.url}/cutover/ward_ops/{RUN}/", headers={"Authorization": f"Bearer {token}"}, trust_env=False
    )
    assert answer.status_code == 405


def test_airflow_knows_the_views_and_found_no_fault(site: Site) -> None:
    token = site.token("lead")
    admin = {"Authorization": f"Bearer {token}"}
    errors = httpx.get(f"{site.stack.url}/api/v2/plugins/importErrors", headers=admin, trust_env=False).json()
    assert errors["total_entries"] == 0
    plugins = httpx.get(f"{site.stack.url}/api/v2/plugins", headers=admin, trust_env=False).json()["plugins"]
    views = {
        view["destination"]: view for plugin in plugins if plugin["name"] == "cutover" for view in plugin["external_views"]
    }
    assert views["nav"]["href"] == "cutover/"
    assert views["dag_run"]["href"] == "cutover/-/dag_run/{DAG_ID}/{RUN_ID}"


def test_links_lead_to_pages_that_are_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(site.evidence))
    report = ReportLink().get_link(None, ti_key=TaskInstanceKey("cutover_ward_ops", "verify.check_tables", RUN_ID))
    docs = DataDocsLink().get_link(None, ti_key=TaskInstanceKey("cutover_ward_ops", "verify.check_tables", RUN_ID))
    assert site.get(report.removeprefix("/cutover/"), "observer").headers["location"] == f"/cutover/ward_ops/{RUN}/"
    assert "25 of 25 tables" in site.get(docs.removeprefix("/cutover/"), "observer").text


@pytest.mark.parametrize(
    ("dag", "task", "run"),
    [
        ("example", "check_tables", RUN_ID),
        ("cutover_other", "check_tables", RUN_ID),
        ("cutover_ward_ops", "check_tables", "another run"),
        ("cutover_../../etc", "check_tables", RUN_ID),
    ],
)
def test_no_link_where_there_is_nothing_to_see(
    site: Site, monkeypatch: pytest.MonkeyPatch, dag: str, task: str, run: str
) -> None:
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(site.evidence))
    assert ReportLink().get_link(None, ti_key=TaskInstanceKey(dag, task, run)) == ""
    assert DataDocsLink().get_link(None, ti_key=TaskInstanceKey(dag, task, run)) == ""
    assert DataDocsLink().get_link(None, ti_key=TaskInstanceKey("cutover_ward_ops", "close_run", RUN_ID)) == ""


def test_the_plan_is_read_from_the_name_of_the_dag() -> None:
    assert plan_of("cutover_ward_ops") == "ward_ops"
    assert plan_of("rollback_ward_ops") == "ward_ops"
    assert plan_of("example") == plan_of("Cutover_x") == plan_of("cutover_") == plan_of("cutover_../x") == ""


_LOADING = """
import copy, json, sys
standard = {"copy": copy, "json": json}
import airflow
from airflow.sdk import BaseOperator
before = set(sys.modules)
from airflow.plugins_manager import get_plugin_info, get_import_errors
names = [plugin["name"] for plugin in get_plugin_info(["name"])]
new = sorted(set(sys.modules) - before)
intact = all(sys.modules[name] is module for name, module in standard.items())
print("\\n" + json.dumps({"names": names, "errors": get_import_errors(), "new": new, "intact": intact}))
"""


def test_loading_the_plugin_costs_nearly_nothing_and_touches_nothing(tmp_path: Path) -> None:
    """Every task's process loads it, and but for .airflowignore every module below plugins/, under its bare name."""
    plugins = tmp_path / "plugins"
    shutil.copytree(ROOT / "plugins", plugins, ignore=shutil.ignore_patterns("__pycache__"))
    (plugins / "below").mkdir()
    for stray in ("copy.py", "json.py", "below/copy.py", "below/json.py", "below/cutover_ui.py"):
        (plugins / stray).write_text("raise RuntimeError('executed')\n")
    done = subprocess.run(
        [sys.executable, "-c", _LOADING], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": str(tmp_path / "home"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins), "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        },
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert "cutover" in found["names"]
    assert found["errors"] == {}
    assert found["intact"]
    heavy = ("great_expectations", "pandas", "fastapi", "starlette", "psycopg", "apsw", "airflow.api_fastapi")
    assert [name for name in found["new"] if name.startswith(heavy)] == []
    ours = [name for name in found["new"] if name.startswith(("include", "cutover_ui"))]
    assert sorted(ours) == [
        "cutover_ui",
        "include",
        "include.cutover",
        "include.cutover.tasks",
        "include.cutover.tasks.deadline_reference",
        "include.cutover.ui",
        "include.cutover.ui.links",
    ]
