"""The demo profile of a project that is up: people who log in, runs, and what is there, seen from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psycopg

from include.cutover.errors import CutoverError, StepFailed
from include.cutover.evidence.record import Evidence
from include.cutover.files import slug
from include.cutover.stack.api_client import Client, GateState, TaskState
from tests.faults.judge import differences_in_target, different, rows_of, sqlite_refuses
from tests.stack.engine import Project

PLAN = "ward_ops"
CUTOVER, ROLLBACK, AFTERCARE = f"cutover_{PLAN}", f"rollback_{PLAN}", f"aftercare_{PLAN}"
STATE = "/var/lib/cutover"
DATABASE = "/srv/ward-ops/data/ward_ops.db"
READ_AT_LEISURE = 3  # seconds; a question is answered as fast as by a person

_COPY = """
import sqlite3, sys
live = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=15)
live.backup(sqlite3.connect("/tmp/copy/ward_ops.db"))
"""
_ORPHAN = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as live:
    live.execute("DELETE FROM standalone_devices WHERE id IN (SELECT device_id FROM snmp_credentials)")
    assert live.total_changes, "no device has a credential"
"""
_MENDED = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as live:
    live.execute("DELETE FROM alert_rules WHERE device_id NOT IN (SELECT id FROM standalone_devices)")
    live.execute(
        "UPDATE snmp_credentials SET device_id = (SELECT min(id) FROM standalone_devices"
        "  WHERE id NOT IN (SELECT device_id FROM snmp_credentials))"
        " WHERE device_id NOT IN (SELECT id FROM standalone_devices)"
    )
"""


class Site:
    """The site as a test uses it.

    Args:
        say: Prints a line of progress.
    """

    def __init__(self, project: Project, folder: Path, say: Callable[[str], None]) -> None:
        self.project = project
        self.folder = folder
        self.say = say
        self.url = f"http://127.0.0.1:{project.values['CUTOVER_PORT']}"
        self.ward_ops = f"http://127.0.0.1:{project.values['DEMO_PORT']}"
        self.passwords: dict[str, str] = json.loads(project.secret("CUTOVER_PASSWORDS"))

    @cached_property
    def lead(self) -> Client:
        return Client(self.url, "lead", self.passwords["lead"], seconds=60)

    def wait_for_dags(self, seconds: float = 240) -> None:
        """Wait until the lead can trigger both."""
        self.until(lambda: all(self.lead.dag_ready(dag) for dag in (CUTOVER, ROLLBACK)), "the DAGs appear", seconds)

    # --- runs ------------------------------------------------------------------------------------------------------------

    def follow(
        self,
        dag_id: str,
        run_id: str,
        *,
        before_go: Callable[[], None] | None = None,
        during: Callable[[list[TaskState]], None] | None = None,
        check: Callable[[], None] = lambda: None,
        answer: str = "Go",
        seconds: float = 900,
    ) -> str:
        """Answer every question of a run, as the lead, until it ends; returns Airflow's state of it.

        Args:
            dag_id: The DAG.
            run_id: Its run.
            before_go: Done before the question whether to stop the services is answered.
            during: Called with the tasks' states, about every second.
            check: Called about every second, also while Airflow does not answer.
            answer: To every question.
            seconds: How long the run may take.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            check()
            try:
                tasks = self.lead.tasks(dag_id, run_id)
                state = self.lead.run_state(dag_id, run_id)
                gate = self._open_gate(dag_id, run_id, tasks)
            except CutoverError:  # the API server, or what is behind it, is being started again
                time.sleep(1)
                continue
            if gate is not None and before_go is not None:
                before_go()
                before_go = None
            if gate is not None:
                time.sleep(READ_AT_LEISURE)
                with suppress(CutoverError):  # it is asked again, and answered again
                    self.lead.answer(dag_id, run_id, gate, answer)
                    self.say(f"  the lead answers {gate.task_id}: {answer}")
            if during is not None:
                during(tasks)
            if state in ("success", "failed"):
                return state
            time.sleep(1)
        raise StepFailed("the run has not ended in time", where=f"{dag_id} {run_id}", found=self._unfinished(dag_id, run_id))

    def clear(self, dag_id: str, run_id: str, tasks: Collection[str]) -> None:
        """Clear tasks of a run with all after them, as the lead does in the interface."""
        body = {"dag_run_id": run_id, "task_ids": list(tasks), "include_downstream": True}
        body |= {"dry_run": False, "only_failed": False}
        answer = self.ask("lead", "POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body)
        if answer.status_code != 200:
            raise StepFailed("the lead cannot clear tasks", where=run_id, found=answer.text[:500])
        self.until(lambda: self.lead.run_state(dag_id, run_id) in ("queued", "running"), "the run runs again", 60)

    def _open_gate(self, dag_id: str, run_id: str, tasks: list[TaskState]) -> GateState | None:
        waiting = {task.task_id for task in tasks if task.state == "awaiting_input"}
        if not waiting:
            return None
        return next((g for g in self.lead.gates(dag_id, run_id) if g.task_id in waiting and g.answer is None), None)

    def _unfinished(self, dag_id: str, run_id: str) -> str:
        states = [f"{t.task_id}[{t.map_index}] {t.state}" for t in self.lead.tasks(dag_id, run_id) if t.state != "success"]
        return ", ".join(states)

    def red_tasks(self, dag_id: str, run_id: str) -> str:
        """The failed tasks of a run with the ends of their logs."""
        found = [task for task in self.lead.tasks(dag_id, run_id) if task.state == "failed"]
        return "\n".join(f"{task.task_id}: {self.lead.log(dag_id, run_id, task)[-1500:]}" for task in found)

    def hosts(self, run_id: str, task_id: str) -> list[str]:
        """Where the mapped instances of a task ran."""
        path = f"/api/v2/dags/{CUTOVER}/dagRuns/{run_id}/taskInstances/{task_id}/listMapped"
        return [str(item["hostname"]) for item in self.ask("lead", "GET", path).json()["task_instances"]]

    def ask(self, user: str | None, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request as that user; without a log-in for None."""
        headers = {}
        if user is not None:
            login = {"username": user, "password": self.passwords[user]}
            token = httpx.post(f"{self.url}/auth/token", json=login, trust_env=False, timeout=60).json()["access_token"]
            headers["Authorization"] = f"Bearer {token}"
        return httpx.request(method, self.url + path, json=body, headers=headers, trust_env=False, timeout=60)

    def close_incident(self) -> None:
        """Close the incident of a run that went back, as the lead does before the next cutover."""
        words = (
            "--by",
            "lead",
            "--cause",
            "the stack test wanted it so",
            "--fix",
            "none is needed",
            "--reference",
            "stack test",
        )
        self.project.command("incident", "close", "--plan", PLAN, *words)

    # --- the application -------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Return the application's report on itself."""
        try:
            found: dict[str, Any] = httpx.get(f"{self.ward_ops}/api/v1/health", timeout=10, trust_env=False).json()
        except (httpx.HTTPError, ValueError) as error:
            return {"status": type(error).__name__}
        return found

    def configured(self) -> str:
        """Return the kind of database that the application's settings name."""
        text = self.project.execute("ward-ops", "cat", str(Path(DATABASE).parent.parent / ".env"))
        line = next(line for line in text.splitlines() if line.startswith("DATABASE_URL="))
        return line.partition("=")[2].strip("'\"").partition(":")[0].partition("+")[0]

    def plant_orphan(self) -> None:
        """Delete a device that has a credential, behind the pipeline's back."""
        self.project.execute("ward-ops", "python", "-c", _ORPHAN, DATABASE)

    def mend_orphan(self) -> None:
        """Give the credential to another device, as the application's owner does afterwards; the next plant finds it."""
        self.project.execute("ward-ops", "python", "-c", _MENDED, DATABASE)

    def snapshot(self, name: str) -> Path:
        """A consistent copy of the application's SQLite file, on this host."""
        self.project.execute("ward-ops", "sh", "-c", "rm -rf /tmp/copy && mkdir /tmp/copy")
        self.project.execute("ward-ops", "python", "-c", _COPY, DATABASE)
        return self.project.fetch("ward-ops", "/tmp/copy", self.folder / name) / "ward_ops.db"

    def target_address(self) -> dict[str, Any]:
        """Return where the target is from outside: at its container's address, for its superuser."""
        networks = self.project.inspect("target")["NetworkSettings"]["Networks"]
        address = next(network["IPAddress"] for network in networks.values() if network["IPAddress"])
        password = self.project.secret("DEMO_TARGET_PASSWORD")
        return {"host": address, "user": "postgres", "password": password, "dbname": "ward_flux", "connect_timeout": 10}

    def target(self) -> psycopg.Connection:
        """Return a session with the target."""
        return psycopg.connect(**self.target_address(), autocommit=True)

    # --- judging ---------------------------------------------------------------------------------------------------------

    def evidence(self, run_id: str) -> Evidence:
        """The evidence of a run, copied to this host; its chain is computed anew when it is read."""
        folder = f"{STATE}/evidence/{PLAN}/{slug(run_id)}"
        return Evidence(self.project.fetch("scheduler", folder, self.folder / "evidence" / slug(run_id)))

    def events(self, path: str) -> list[dict[str, Any]]:
        """Return the events in a file of the evidence, as they lie there."""
        lines = self.project.execute("dag-processor", "cat", path).splitlines()
        return [json.loads(line) for line in lines]

    def judge(self, run_id: str, outcome: str, before: Path) -> None:
        """Nothing of it is the pipeline's own word: both ends are compared value by value, and the application is asked.

        Args:
            outcome: ``live`` or ``rolled_back``.
            before: The application's SQLite file before the run.

        Raises:
            StepFailed: With everything that is not as it must be.
        """
        wanted = {"live": "postgresql", "rolled_back": "sqlite"}[outcome]
        self.until(lambda: self.health().get("status") == "ok", "the application is well", 60)
        problems = [] if self.health().get("database") == wanted else [f"the application says {self.health()}"]
        evidence = self.evidence(run_id)
        sealed = evidence.sealed or {}
        problems += [] if sealed.get("outcome") == outcome else [f"the evidence is sealed as {sealed.get('outcome')}"]
        checked = self.project.command(
            "evidence", "check", f"{STATE}/evidence/{PLAN}/{slug(run_id)}", check=False, seconds=180
        )
        problems += [] if checked.returncode == 0 else [f"evidence check: {checked.stdout[-600:]}{checked.stderr[-600:]}"]
        backup = evidence.last("backup")
        if backup is None:
            problems.append("there is no backup")
        else:
            kept = self.project.fetch("scheduler", str(Path(backup["file"]).parent), self.folder / "backup" / slug(run_id))
            saved = rows_of(kept / Path(backup["file"]).name)
            problems += different(rows_of(before), saved, "the backup")
            if outcome == "live":
                with self.target() as connection:
                    problems += differences_in_target(connection, saved)
                source = self.project.fetch("ward-ops", str(Path(DATABASE).parent), self.folder / "fenced" / slug(run_id))
                if not sqlite_refuses(source / "ward_ops.db"):
                    problems.append("SQLite takes writes beside PostgreSQL")
            else:
                problems += different(saved, rows_of(self.snapshot(f"after-{slug(run_id)}")), "the restored source")
        problems += [] if self._pings() else ["the application cannot write"]
        if problems:
            raise StepFailed(f"the run did not end as {outcome}", where=run_id, found="; ".join(problems[:8]))
        steps = [event for event in evidence.events() if event["event"] == "step.end"]
        rows = next((event["figures"].get("rows") for event in steps if event["step"] == "take_backup"), 0)
        self.say(f"  judged from outside: {outcome}; {rows:,} rows equal value by value, {len(steps)} steps in the evidence")

    def _pings(self) -> bool:
        device = httpx.get(f"{self.ward_ops}/api/v1/devices?limit=1", timeout=15, trust_env=False).json()["items"][0]["id"]
        answer = httpx.post(f"{self.ward_ops}/api/v1/devices/{device}/ping", timeout=15, trust_env=False)
        return answer.status_code == 200

    def received(self) -> tuple[int, int]:
        """Mails and Slack messages that arrived."""
        script = "cd /srv/received && touch mail.jsonl slack.jsonl && wc -l < mail.jsonl && wc -l < slack.jsonl"
        mail, slack = self.project.execute("receivers", "sh", "-c", script).split()
        return int(mail), int(slack)

    def until(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until it holds; an error of a call counts as no."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if holds():
                    return
            except CutoverError:
                pass
            if time.monotonic() > deadline:
                raise StepFailed("it did not happen in time", expected=what, found=f"not after {seconds:.0f} s")
            time.sleep(1)


def states(tasks: Collection[TaskState], task_id: str) -> set[str | None]:
    """States of a task's instances."""
    return {task.state for task in tasks if task.task_id == task_id}
