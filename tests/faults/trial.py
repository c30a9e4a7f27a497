"""One cell being tried: what a person and the harness do with a site while a fault is at work."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from include.cutover.errors import CutoverError, Refused
from include.cutover.evidence import fingerprints
from include.cutover.evidence.record import Evidence
from include.cutover.places import ROOT
from include.cutover.stack.api_client import Client, GateState
from tests.faults import reboot
from tests.faults.acknowledged import Kept, Ledger, events_in, rows_of_sqlite, rows_of_target
from tests.faults.judge import Before, State, Verdict, judge
from tests.faults.reboot import Booted
from tests.faults.restart import problems_of_restart
from tests.faults.site import CUTOVER, PLAN, ROLLBACK, FaultSite, delete_run, sha256, until
from tests.faults.true_time import true_time
from tests.support.patience import RUN_SECONDS

API_PAUSE = 0.5
"""Seconds between two requests for a state: a request costs the API server more than a heart-beat of a task does."""


class NotTried(Exception):
    """This machine lacks what a cell needs, or its user may not do it: the cell says nothing."""


@dataclass
class Result:
    """The end of a cell, or of one task of a cell that breaks many.

    Attributes:
        seconds: From the fault to the end state; None where nothing had to recover.
        acknowledged: Rows that the application had acknowledged during the cell.
        left_behind: Those of them that are not in the database that is live, and were named as left behind.
        tried: False where this machine lacks what the cell needs; it is then neither survived nor failed.
    """

    survived: bool
    state: str
    seconds: float | None
    problems: list[str] = field(default_factory=list)
    task: str = ""
    acknowledged: int = 0
    left_behind: int = 0
    tried: bool = True


class Trial:
    """A cell on a site that was just reset.

    Attributes:
        runs: Ids of Airflow's runs, ``<dag id>/<run id>``, in the order of starting.
        marked: Those whose state a person set.
        notices: True when people must have got notices in the end.
        acknowledged: The rows that the application acknowledged so far.
    """

    def __init__(self, site: FaultSite, name: str) -> None:
        self.site, self.name = site, name
        self.runs: list[str] = []
        self.marked: set[str] = set()
        self.deleted: set[str] = set()
        self.notices = True
        self.extra: list[str] = []
        self._rules: list[dict[str, Any]] = []
        self._faulted: float | None = None
        self._after = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.before = Before(self.site.ward_ops.pids(), sha256(self.site.pristine / "ward_ops.db"))
        self.lead: Client = self._after.enter_context(self.site.lead())
        self.folder = self.site.folder
        self.acknowledged = Ledger(self.site.ward_ops.url)
        until(lambda: self.acknowledged.write(3), self.site.pulse.patience(30))
        self.require(bool(self.acknowledged.rows), "the application acknowledged no row before the cell began")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._after.close()

    def afterwards(self, action: Callable[[], object]) -> None:
        """Do it when the cell is over, however it ended."""
        self._after.callback(action)

    # ---- fault points ------------------------------------------------------------------------------------------------

    def rule(self, step: str, at: str, do: str, **more: Any) -> str:
        """Let something happen in the processes of a step; returns the rule's id. See ``hooks/sitecustomize.py``."""
        name = f"r{len(self._rules)}"
        if at == "middle":
            more.setdefault("calls", max(1, self.site_calls(step) // 2))
        self._rules.append({"id": name, "step": step, "at": at, "do": do, **more})
        self.site.set_rules(self.name, self._rules)
        return name

    def no_more_rules(self) -> None:
        """Let every later process run undisturbed."""
        self._rules.clear()
        self.site.set_rules(self.name, [])

    def site_calls(self, step: str) -> int:
        """Calls of the product's functions in that step of an undisturbed run; some, where none was counted."""
        return CALLS.get(step, 40)

    def fired(self, rule: str) -> dict[str, Any] | None:
        """Return the record of the process that acted; None while none did."""
        mark = self.site.points / "fired" / f"{rule}.0"
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(mark.read_text())
            return found
        return None

    def held(self, rule: str, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """Wait until a process is held by the rule; returns its pid, its parent's and the time."""
        found: dict[str, Any] = until(
            lambda: self.fired(rule), seconds, f"a process is held at {self._rules[int(rule[1:])]}"
        )
        return found

    def release(self, rule: str) -> None:
        """Let a held process go on."""
        (self.site.points / "release" / rule).touch()

    def hold(self, step: str, at: str, **more: Any) -> str:
        """Hold the first process of a step there."""
        return self.rule(step, at, "hold", **more)

    @contextlib.contextmanager
    def held_at(self, step: str, at: str, *, start: Callable[[], str] | None = None) -> Iterator[str]:
        """Start a run, hold it in a step while the block breaks something, let it go on after the block.

        Args:
            start: Starts the run; a cutover where it is not given.

        Yields:
            The id of the run. The fault counts from the end of the block, or from ``fault`` where the block calls it.
        """
        rule = self.hold(step, at)
        run_id = (start or self.cutover)()
        self.held(rule)
        yield run_id
        self.fault()
        self.release(rule)

    def fault(self) -> None:
        """Now it is broken: from here the time to recover counts."""
        self._faulted = self._faulted or time.time()

    # ---- what people do ----------------------------------------------------------------------------------------------

    def cutover(self, approve: str = "auto", client: Client | None = None, reason: str = "") -> str:
        """Trigger a cutover; returns its run id."""
        run_id = (client or self.lead).trigger(CUTOVER, {"approve": approve, "reason": reason or self.name})
        self.runs.append(f"{CUTOVER}/{run_id}")
        return run_id

    def rollback(self, run_id: str | None = None) -> str:
        """Trigger the manual rollback; returns its run id."""
        conf = {"reason": f"after {self.name}"} | ({"run_id": run_id} if run_id else {})
        found = self.lead.trigger(ROLLBACK, conf)
        self.runs.append(f"{ROLLBACK}/{found}")
        return found

    def wait(self, run_id: str, seconds: float = RUN_SECONDS) -> str:
        """Wait for a run's end, also across a restart of the API server; returns its state.

        The application, where it runs then, is asked for more rows: they must not get lost by what comes after.
        """

        def ended() -> str:
            state = self.state(run_id)
            return state if state in ("success", "failed") else ""

        found: str = until(ended, seconds, f"{run_id} has ended", pause=API_PAUSE)
        self.acknowledged.write(2)
        return found

    def wait_until_running(self, run_id: str, seconds: float = 15.0) -> None:
        """Wait until a run that had ended runs again."""
        running, patience = ("queued", "running"), self.site.pulse.patience(seconds)
        until(lambda: self.state(run_id) in running, patience, f"{run_id} runs again", pause=API_PAUSE)

    def edit(self, file: Path, text: str) -> None:
        """Give a file another content until the cell is over.

        Raises:
            ValueError: When the content stays the same, so that nothing would be tried.
        """
        before = file.read_text()
        if text == before:
            raise ValueError(f"{file}: the edit changes nothing, so nothing would be tried")
        file.write_text(text)
        self.afterwards(lambda: file.write_text(before))

    def task_ids(self) -> list[str]:
        """Ids of the tasks of the cutover's DAG as Airflow knows it now."""
        found = self.lead._call("GET", f"/api/v2/dags/{CUTOVER}/tasks")
        return [task["task_id"] for task in found["tasks"]]

    def runs_of(self, dag_id: str) -> list[dict[str, Any]]:
        """The runs of a DAG as Airflow knows them."""
        runs: list[dict[str, Any]] = self.lead._call("GET", f"/api/v2/dags/{dag_id}/dagRuns")["dag_runs"]
        return runs

    def state(self, run_id: str) -> str:
        """Airflow's state of a run; empty while it does not answer."""
        with contextlib.suppress(CutoverError):
            return self.lead.run_state(self._dag(run_id), run_id)
        return ""

    def _dag(self, run_id: str) -> str:
        return next(run.partition("/")[0] for run in self.runs if run.endswith(f"/{run_id}"))

    def evidence(self, run_id: str) -> Evidence:
        """Of a run."""
        return Evidence.of(PLAN, run_id)

    def wait_for(self, run_id: str, event: str, seconds: float = RUN_SECONDS, **match: Any) -> dict[str, Any]:
        """Wait until an event is in the evidence."""

        def look() -> dict[str, Any] | None:
            evidence = self.evidence(run_id)
            return evidence.last(event, **match) if evidence.exists else None

        found: dict[str, Any] = until(look, seconds, f"{event} {match} in the evidence of {run_id}")
        return found

    def gate(self, run_id: str, name: str, seconds: float = RUN_SECONDS) -> GateState:
        """Wait until a gate is open for an answer."""

        def look() -> GateState | None:
            for gate in self.lead.gates(CUTOVER, run_id):
                if gate.task_id.endswith(name) and gate.answer is None:
                    return gate
            return None

        found: GateState = until(look, seconds, f"the gate {name} is open", pause=API_PAUSE)
        time.sleep(3)  # as fast as a person; see the gate's retries
        return found

    def answer(self, run_id: str, name: str, option: str = "Go") -> None:
        """Answer a gate as the lead."""
        self.lead.answer(CUTOVER, run_id, self.gate(run_id, name), option)

    def clear(self, run_id: str, tasks: Sequence[str] | None = None, *, downstream: bool = True) -> None:
        """Clear tasks of a run, or the whole run, as a person does in the interface."""
        body: dict[str, Any] = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "include_downstream": downstream,
        }
        if tasks is not None:
            body["task_ids"] = list(tasks)
        self.lead._call("POST", f"/api/v2/dags/{self._dag(run_id)}/clearTaskInstances", body)

    def mark_task(self, run_id: str, task: str, state: str) -> None:
        """Set a task's state, as a person does in the interface."""
        self.lead._call(
            "PATCH", f"/api/v2/dags/{self._dag(run_id)}/dagRuns/{run_id}/taskInstances/{task}", {"new_state": state}
        )

    def mark_run(self, run_id: str, state: str) -> None:
        """Set a run's state, as a person does in the interface."""
        self.lead._call("PATCH", f"/api/v2/dags/{self._dag(run_id)}/dagRuns/{run_id}", {"state": state})
        self.marked.add(f"{self._dag(run_id)}/{run_id}")

    def delete_run(self, run_id: str) -> None:
        """Delete a run, as an administrator can in the interface; no role of the plan may."""
        with self.site.stack.client("administrator") as administrator:
            self.require(delete_run(administrator, self._dag(run_id), run_id), "the run was not deleted")
        self.deleted.add(f"{self._dag(run_id)}/{run_id}")

    def require(self, holds: bool, problem: str) -> None:
        """A condition of this cell beside the end state."""
        if not holds:
            self.extra.append(problem)

    def reboot(self, *, airflow: bool = True, also: Sequence[int] = ()) -> Booted:
        """Let the host reboot; the application, where it came up and can write, is asked for rows.

        Args:
            airflow: False where Airflow does not come back; see ``start_airflow``.
            also: Process ids of commands that run on the host.
        """
        self.fault()
        booted = reboot.reboot(self.site, airflow=airflow, also=also)
        self.acknowledged.write(2)
        if airflow:
            self._log_in_again()
        return booted

    def start_airflow(self) -> None:
        """Start Airflow after a reboot without it."""
        reboot.start_airflow(self.site)
        self._log_in_again()

    def _log_in_again(self) -> None:
        self.lead = self._after.enter_context(self.site.lead())

    def break_glass(self, run_id: str) -> subprocess.Popen[str]:
        """Start the rollback that is typed where Airflow is down, on the host, in its own process; it sends no notice."""
        self.notices = False
        command = [sys.executable, "-m", "include.cutover", "rollback", "--plan", PLAN, "--by", "lead"]
        command += ["--evidence", str(self.evidence(run_id).folder), "--reason", f"after {self.name}"]
        with (self.folder / "break_glass.log").open("a") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, text=True, start_new_session=True,
                env={**os.environ, **self.site.environment, **self.site.airflow_connections},
            )  # fmt: skip
        self.site.commands.append(process)
        return process

    def wait_for_command(self, process: subprocess.Popen[str]) -> int:
        """Wait for a command's end, and ask the application for rows, where it runs; returns the exit status."""
        status = process.wait(RUN_SECONDS)
        self.acknowledged.write(2)
        return status

    @contextlib.contextmanager
    def target(self) -> Iterator[psycopg.Connection]:
        """The target's database as its administrator, past the proxy; committed at the end."""
        with psycopg.connect(self.site.administrator()) as connection:
            yield connection

    # ---- the end -----------------------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Look at everything from outside."""
        states = {}
        for run in self.runs:
            if run not in self.deleted:
                dag_id, _, run_id = run.partition("/")
                states[run] = self.lead.run_state(dag_id, run_id)
        marked = self.marked | self.deleted
        return judge(self.site, self.before, states, marked=marked, notices=self.notices)

    def result(self, expects: frozenset[State]) -> Result:
        """The verdict, held against what was expected of the cell."""
        found = self.verdict()
        problems = [*self.extra, *found.problems]
        if found.state not in expects:
            problems.insert(0, f"{found.state}, not {' or '.join(sorted(expects))}")
        if found.state is not State.BROKEN:
            problems += problems_of_restart(self.site, self.acknowledged)
        kept = self._kept_rows(found.state)
        problems += kept.lost
        total = len(self.acknowledged.rows)
        return Result(not problems, str(found.state), self.seconds(), problems, "", total, kept.named)

    def _kept_rows(self, state: State) -> Kept:
        """Look for the acknowledged rows in the database that is live, or, where none is, in the SQLite file."""
        live: dict[int, tuple[str, str]] = {}
        if state is State.LIVE:
            live = rows_of_target(self.site.administrator())
        elif self.site.ward_ops.database.exists():
            live = rows_of_sqlite(self.site.ward_ops.database)
        return self.acknowledged.judged(live, events_in(self.site.evidence / PLAN))

    def seconds(self) -> float | None:
        """From the fault to the last seal in the evidence; None where there was no fault, or nothing came after it."""
        sealed = [
            true_time(event)
            for file in Path(self.site.evidence / PLAN).glob("*/events.jsonl")
            for event in Evidence(file.parent).events()
            if event["event"] == "sealed"
        ]
        if self._faulted is None or not sealed or max(sealed) < self._faulted:
            return None
        return round(max(sealed) - self._faulted, 1)


CALLS: dict[str, int] = {}
"""Calls of the product's functions in each step of an undisturbed run, as ``count`` found them."""


def count(site: FaultSite) -> None:
    """Run a cutover and a rollback undisturbed, and note what each step does; known already where the code is the same."""
    code = fingerprints.of_files((ROOT / "include" / "cutover").rglob("*.py"), ROOT)
    known = ROOT / "var" / "cache" / f"fault-calls-{code[:12]}.json"
    if known.exists():
        CALLS.update(json.loads(known.read_text()))
        return
    site.reset("count")
    site.set_rules("count", [], count=True)
    with Trial(site, "count") as trial:
        run_id = trial.cutover()
        if trial.wait(run_id) != "success":
            raise Refused("the undisturbed cutover did not go live", where=str(site.folder))
        trial.wait(trial.rollback())
    for line in (site.points / "seen.jsonl").read_text().splitlines():
        seen = json.loads(line)
        if seen["at"] == "end" and seen.get("calls"):
            CALLS[seen["step"]] = seen["calls"]
    known.write_text(json.dumps(CALLS))
