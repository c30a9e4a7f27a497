"""Prints a run on a terminal from its evidence: one line for each step as it ends, gates, downtime, lost rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from include.cutover.cli.output import MARKS
from include.cutover.errors import StepFailed, Unreachable
from include.cutover.evidence import steady
from include.cutover.evidence.record import Event, Evidence
from include.cutover.masking import visible
from include.cutover.plan.model import Plan
from include.cutover.report.page import summary
from include.cutover.runs import runbook
from include.cutover.stack.api_client import ENDED, Client


class Narrator:
    """Prints the events of one run in the order of their arrival.

    Args:
        console: The terminal.
        plan: Plan of the run.
        phases: Phase (task group) of each step; a step without one is a phase of its own.
    """

    def __init__(self, console: Console, plan: Plan, phases: dict[str, str] | None = None) -> None:
        self._console = console
        self._phases = phases or {}
        self._moves_services = bool(plan.services)
        self._copies = sum(table.streams for table in plan.tables.values())
        self._copied: dict[str, Event] = {}
        self._first_copy: Event | None = None
        self._stopped: Event | None = None

    def tell(self, event: Event) -> None:
        """Print one event of the evidence, if it concerns the reader."""
        kind, at = str(event["event"]), datetime.fromisoformat(event["time"])
        step = str(event.get("step", ""))
        if kind == "step.begin" and runbook.is_copy(step) and self._first_copy is None:
            self._first_copy = event
        elif kind == "step.end" and runbook.is_copy(step) and event["outcome"] == "passed":
            self._copied[step] = event
            if len(self._copied) == self._copies:
                self._print_copies(at, event)
        elif kind == "step.end":
            self._line(at, MARKS[event["outcome"]], step, event["seconds"], str(event.get("summary", "")))
        elif kind == "gate":
            by = f"by {event['by']}" if event["by"] else "no answer in time"
            by = "automatic approval" if event["automatic"] else by
            mark = MARKS["passed"] if event["answer"] == "Go" else MARKS["failed"]
            self._line(at, mark, event["gate"], None, f"{event['answer']}, {by}")
        elif kind == "services.stopped":
            self._stopped = self._stopped or event
            what = "services stop" if self._moves_services else "writes stop"
            self._line(at, "[yellow]▼[/]", what, None, "the downtime begins")
        elif kind == "services.started" and self._stopped is not None:
            seconds = steady.between(self._stopped, event)
            self._stopped = None
            on = {"target": "on PostgreSQL", "source": "on SQLite"}.get(str(event.get("on")), "")
            what = "services run" if self._moves_services else "writes may continue"
            self._line(at, "[yellow]▲[/]", what, seconds, f"{on}; the downtime was that long")
        elif kind == "rows.written" and not event.get("folder"):  # counted before a rollback; a step reports the export
            rows = [f"{table}: {item['in_words']}" for table, item in (event["tables"] or {}).items()]
            found = "; ".join(rows) or "none" if event["tables"] is not None else f"unknown: {event['unknown']}"
            self._line(at, "[yellow]![/]", "rows since go-live", None, f"{found}; they will not be in SQLite")
        elif kind == "notice.delivery" and event["outcome"] != "sent":
            self._line(
                at, "[yellow]![/]", event["notice"], None, f"not delivered by {event['channel']}: {event.get('error')}"
            )

    def _print_copies(self, at: datetime, last: Event) -> None:
        rows = sum(event["figures"]["rows"] for event in self._copied.values())
        tables = {event["figures"]["table"] for event in self._copied.values()}
        seconds = steady.between(self._first_copy, last) if self._first_copy else 0.0
        self._line(at, MARKS["passed"], "copy", seconds, f"{rows:,} rows in {len(tables)} tables")

    def _line(self, at: datetime, mark: str, step: str, seconds: float | None, text: str) -> None:
        phase = self._phases.get(step)
        name = f"[dim]{escape(phase)}[/] {escape(step.removeprefix(f'{phase}.'))}" if phase else escape(step)
        pad = " " * max(0, 38 - len(Text.from_markup(name)))
        took = f"{seconds:7.2f} s" if seconds is not None else " " * 9
        first, *more = text.splitlines() or [""]
        self._console.print(
            f"{at.astimezone():%H:%M:%S} {mark} {name}{pad} {took}  {escape(visible(first))}", soft_wrap=True
        )
        for line in more:
            self._console.print(f"{'':61}{escape(visible(line))}", soft_wrap=True)


def follow(
    client: Client,
    dag_id: str,
    run_id: str,
    evidence: Evidence,
    tell: Callable[[Event], None],
    *,
    after: int = 0,
    seconds: float = 6 * 3600,
) -> str:
    """Wait for the end of a run of Airflow, and pass on each event that is added to its evidence.

    The evidence is read from disk, which does not load Airflow; its API is asked once a second for the run's state. An API
    server that does not answer is retried for a minute.

    Args:
        client: Client of Airflow's API.
        dag_id: DAG of the run.
        run_id: Id of the run.
        evidence: Evidence of the run.
        tell: Called with each event.
        after: Number of the first event to pass on.
        seconds: Time limit, in seconds.

    Returns:
        Airflow's state of the run, ``success`` or ``failed``.

    Raises:
        StepFailed: When the run has not ended after ``seconds``.
    """
    deadline, asked, away, size = time.monotonic() + seconds, 0.0, 0.0, -1
    state = "queued"
    while True:
        if time.monotonic() - asked >= 1:
            try:
                state, away = client.run_state(dag_id, run_id), 0.0
            except Unreachable:
                away = away or time.monotonic()
                if time.monotonic() - away > 60:
                    raise
            asked = time.monotonic()
        file = evidence.folder / "events.jsonl"
        found = file.stat().st_size if file.exists() else -1
        if found != size:
            size = found
            for event in evidence.events():
                if event["seq"] >= after:
                    after = event["seq"] + 1
                    tell(event)
        elif state in ENDED:
            return state
        if time.monotonic() > deadline:
            raise StepFailed(
                "the run has not ended in time",
                where=f"{dag_id} {run_id}",
                found=f"state {state}",
                do="Read the run's log in Airflow.",
            )
        time.sleep(0.2)


def phases(client: Client, dag_id: str, run_id: str) -> dict[str, str]:
    """Return the phase of each step of a run, from the groups of its tasks."""
    found = {}
    for task in client.tasks(dag_id, run_id):
        group, _, name = task.task_id.rpartition(".")
        if group:
            found[task.task_id if group in ("rollback", "release", "copy") else name] = group
    return found


def print_summary(evidence: Evidence, plan: Plan, console: Console) -> None:
    """Print the figures of a run and the paths of its reports."""
    figures = summary(evidence, plan)
    checks = f"{figures['checks_passed']} passed, {figures['checks_failed']} failed"
    if figures["checks_unknown"]:
        checks += f", {figures['checks_unknown']} could not be made"
    downtime = figures["downtime_seconds"]
    lines = {
        "outcome": str(figures["outcome"]).replace("_", " "),
        "copied": f"{figures['rows'] or 0:,} rows in {figures['tables'] or 0} tables",
        "checks": checks,
        "first failure": figures["first_failure"],
        "downtime": "none, nothing was stopped" if downtime is None else f"{downtime:.1f} s",
        "duration": f"{figures['duration_seconds']:.1f} s",
    }
    for title, name in (("report", "report.html"), ("incident document", "incident.md"), ("data docs", "data_docs")):
        lines[title] = str(evidence.folder / name) if (evidence.folder / name).exists() else ""
    console.print("\n[bold]Summary[/]")
    for title, text in lines.items():
        if text:
            console.print(f"  {title:18}{escape(visible(text))}", soft_wrap=True)
