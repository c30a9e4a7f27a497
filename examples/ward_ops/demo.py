"""The cutover of the stand-in, watched from beginning to end.

    python -m examples.ward_ops.demo run [--fail orphans] [--orphans N] [--then rollback] [--pings N] [--port N]
    python -m examples.ward_ops.demo up [--pings N] [--port N]
    python -m examples.ward_ops.demo status
    python -m examples.ward_ops.demo down

``run`` makes a new site in ``var/demo``, moves Ward OPS to PostgreSQL and ends every process again; evidence and reports
stay. ``--fail orphans`` deletes devices after the pipeline's checks and before it stops the services. ``--orphans N`` begins
with credentials of devices that do not exist. ``--then rollback`` rolls back after the cutover. ``up`` leaves Ward OPS and
Airflow running, for a cutover by hand; after a crash it starts what does not run, and prints the state of the run, as
``status`` does. ``down`` ends them.

Exit status of ``run``: 0 only when Ward OPS is live on PostgreSQL, 1 when it is not, 3 when it was rolled back as requested,
2 when the demo itself could not run.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psycopg
from rich.console import Console
from rich.markup import escape

from examples.receivers import read_mail, read_slack
from examples.ward_ops.generate import PINGS
from examples.ward_ops.local_site import PLAN, LocalSite
from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import report as aftercare_report
from include.cutover.cli.console import Narrator, follow, phases, print_summary
from include.cutover.cli.status import print_state
from include.cutover.errors import CutoverError, Refused, StepFailed
from include.cutover.evidence.record import Event, Evidence
from include.cutover.masking import mask
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.report.plan_state import state_of_plan
from include.cutover.stack.api_client import Client
from include.cutover.stack.processes import exit_on

LIVE, NOT_LIVE, UNUSABLE, ROLLED_BACK = 0, 1, 2, 3
CUTOVER = f"cutover_{PLAN}"
ROLLBACK = f"rollback_{PLAN}"
AFTERCARE = f"aftercare_{PLAN}"
DEMO = ROOT / "var" / "demo"
UP = ROOT / "var" / "up"
PLANTED = 3
AFTERCARE_SECONDS = 12.0  # an hour in production; see the plan

console = Console(highlight=False)


def run(given: argparse.Namespace) -> int:
    """Run the demo; return its exit status."""
    began = time.monotonic()
    with _alone(DEMO.with_suffix(".lock")):
        LocalSite(DEMO).stop()  # of a demo that was killed together with its guard
        shutil.rmtree(DEMO, ignore_errors=True)
        site = LocalSite(DEMO, port=given.port, frozen_code=True, aftercare_seconds=AFTERCARE_SECONDS)
        with site.roster.guarded([sys.executable, "-m", "examples.ward_ops.demo", "down", "--folder", str(DEMO)]):
            console.print(f"Ward OPS with {given.pings:,} pings, PostgreSQL and Airflow are starting …")
            site.start(pings=given.pings, credentials=5 if given.fail else 1, orphans=given.orphans)
            _print_addresses(site)
            console.print(f"  ready after {time.monotonic() - began:.1f} s\n")
            with site.stack.client("lead") as lead:
                status = Demo(site, lead, given).run()
            console.print("Everything is ended again; evidence and reports stay.")
    return status


class Demo:
    """One cutover of a running site, driven as by the migration lead."""

    def __init__(self, site: LocalSite, lead: Client, given: argparse.Namespace) -> None:
        self._site = site
        self._lead = lead
        self._given = given
        os.environ.update(site.environment)
        self._plan: Plan = load_plan(PLAN)
        self._processes = site.service_pids()
        self._told = 0
        self._planted = False

    def run(self) -> int:
        """Cut over, check the outcome from outside, report it; return the exit status."""
        approve = "ask" if self._given.fail else "auto"
        console.print(f"[bold]Cutover, triggered by the lead[/] (approval: {approve})")
        run_id = self._lead.trigger(CUTOVER, {"approve": approve, "reason": "make demo"})
        evidence = Evidence.of(PLAN, run_id)
        self._follow(CUTOVER, run_id, evidence)
        sealed = evidence.sealed
        outcome = str(sealed["outcome"]) if sealed else "not opened"
        self._summarise(evidence)
        if outcome != "live":
            self._explain(evidence, outcome)
            return NOT_LIVE
        self._require_database("postgresql")
        console.print("[bold green]Ward OPS is live on PostgreSQL.[/]")
        if self._given.then != "rollback":
            self._look_after(run_id)
            return LIVE
        console.print("\n[bold]Rollback, triggered by the lead[/]")
        again = self._lead.trigger(ROLLBACK, {"reason": "make demo THEN=rollback"})
        self._follow(ROLLBACK, again, evidence)
        sealed = evidence.sealed
        self._summarise(evidence)
        if sealed is None or sealed["outcome"] != "rolled_back":
            self._explain(evidence, str(sealed["outcome"]) if sealed else "not closed")
            return NOT_LIVE
        self._require_database("sqlite")
        console.print("[bold yellow]Ward OPS was rolled back, as asked; it is healthy on SQLite.[/]")
        return ROLLED_BACK

    def _look_after(self, run_id: str) -> None:
        """Follow the aftercare, which the cutover triggered, and report each look."""
        console.print(f"\n[bold]Aftercare[/], {AFTERCARE_SECONDS:g} s instead of the plan's hour")
        watched = aftercare_record.evidence_of(PLAN, run_id)

        def tell(event: Event) -> None:
            if event["event"] in (aftercare_record.LOOK, aftercare_record.BACKUP):
                what = "first backup" if event["event"] == aftercare_record.BACKUP else f"look {event['number']}"
                summary = event["summary"] or f"{len(event['checks'])} checks passed"
                colour = "green" if event["outcome"] == "green" else "red"
                console.print(f"  {what:14}[{colour}]{event['outcome']}[/]  {escape(summary)}", soft_wrap=True)

        follow(self._lead, AFTERCARE, f"aftercare__{run_id}", watched, tell)
        closed = watched.last(aftercare_record.CLOSED) if watched.exists else None
        console.print(f"  {escape(str(closed['summary'] if closed else 'it was not completed'))}")
        console.print(f"  report        {watched.folder / aftercare_report.FILE}", soft_wrap=True)

    def _follow(self, dag_id: str, run_id: str, evidence: Evidence) -> None:
        narrator = Narrator(console, self._plan, phases(self._lead, dag_id, run_id))

        def tell(event: Event) -> None:
            self._told = event["seq"] + 1
            narrator.tell(event)
            if event["event"] == "gate.asked":
                self._answer(dag_id, run_id, str(event["gate"]))

        state = follow(self._lead, dag_id, run_id, evidence, tell, after=self._told)
        if not evidence.exists:
            failed = next((task for task in self._lead.tasks(dag_id, run_id) if task.state == "failed"), None)
            log = self._lead.log(dag_id, run_id, failed) if failed else ""
            raise StepFailed("the run left no evidence", where=f"{dag_id} {run_id}", found=f"{state}: {log[-1500:]}")

    def _answer(self, dag_id: str, run_id: str, gate: str) -> None:
        """Break the data where that was requested, then answer the gate as the lead.

        An answer that comes before Airflow has put the gate's task to rest is lost, and the gate asks again.
        """
        if self._given.fail and gate == "go_no_go" and not self._planted:
            plant_orphans(self._site.ward_ops.database)
            self._planted = True
            console.print(f"{'':9}[yellow]! {PLANTED} devices are deleted in the live SQLite now, their credentials stay[/]")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for question in self._lead.gates(dag_id, run_id):
                if question.task_id.endswith(gate) and question.answer is None:
                    self._lead.answer(dag_id, run_id, question, "Go")
                    return
            time.sleep(0.2)
        raise StepFailed("the gate is not open for an answer", where=gate)

    def _explain(self, evidence: Evidence, outcome: str) -> None:
        """Report the state of Ward OPS, seen from outside."""
        console.print(f"[bold red]{escape(outcome.replace('_', ' '))}[/]: Ward OPS is not live on PostgreSQL.")
        for event in evidence.events():
            if event["event"] == "step.end":
                for check in event.get("checks") or []:
                    if check["outcome"] == "failed":
                        console.print(f"  {escape(check['title'])}: {escape(check['found'])}", soft_wrap=True)
        self._require_database("sqlite")
        same = self._site.service_pids() == self._processes
        stopped = "it was never stopped" if same else "its services were stopped and started again"
        console.print(f"Ward OPS is healthy on SQLite; {stopped}.")

    def _require_database(self, expected: str) -> None:
        answer = httpx.get(f"{self._site.ward_ops.url}/api/v1/health", timeout=10, trust_env=False).json()
        if answer.get("status") != "ok" or answer.get("database") != expected:
            raise StepFailed(
                "Ward OPS is not in the expected state", where=self._site.ward_ops.url, expected=f"healthy on {expected}",
                found=str({key: answer.get(key) for key in ("status", "database")}),
            )  # fmt: skip

    def _summarise(self, evidence: Evidence) -> None:
        print_summary(evidence, self._plan, console)
        for kind, messages in (("mail", read_mail(self._site.received)), ("Slack", read_slack(self._site.received))):
            for message in messages:
                subject = message.subject or message.text.splitlines()[0]
                console.print(f"  {kind:18}{escape(subject)}", soft_wrap=True)
        console.print()


def plant_orphans(database: Path) -> None:
    """Delete devices that have credentials, as a careless script would while Ward OPS runs."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        done = connection.execute(
            "DELETE FROM standalone_devices WHERE id IN (SELECT device_id FROM snmp_credentials WHERE device_id NOT IN"
            " (SELECT device_id FROM alert_rules WHERE device_id IS NOT NULL) ORDER BY id LIMIT ?)",
            [PLANTED],
        )
        if done.rowcount != PLANTED:
            raise StepFailed("the orphans could not be planted", where=str(database), found=f"{done.rowcount} devices")


def up(given: argparse.Namespace) -> int:
    """Start a site that stays, or the parts of it that do not run; print addresses and state; return the exit status."""
    with _alone(UP.with_suffix(".lock")):
        site = LocalSite(UP, port=given.port)
        ran = site.running_parts()
        try:
            site.start(pings=given.pings)
        except (CutoverError, psycopg.Error) as error:
            sys.stderr.write(f"demo: {mask(str(error))}\n")
            runs = ", ".join(sorted(site.running_parts())) or "nothing"
            sys.stderr.write(f"Running: {runs}. 'make up' starts the rest, 'make down' ends everything.\n")
            _print_state(site)
            return UNUSABLE
        except BaseException:  # interrupted
            if not ran:
                site.stop()
            raise
        _print_addresses(site)
        _print_state(site)
        console.print("\n'make status' prints the state again, 'make down' ends everything.")
    return 0


def status(given: argparse.Namespace) -> int:
    """Print the parts of a site that run, and the state of its run; return the exit status."""
    site = LocalSite(given.folder)
    if not (given.folder / "settings.json").exists():
        console.print("Nothing was started there. 'make up' starts it.")
        return 0
    console.print(f"Running: {', '.join(sorted(site.running_parts())) or 'nothing'}")
    if not site.stack.complete or not site.ward_ops.running:
        console.print("Not all of it runs: 'make up' starts the rest.")
    _print_state(site)
    return 0


def _print_state(site: LocalSite) -> None:
    """Print the state of the run from its evidence, and how the application answers now."""
    os.environ.update(site.environment)
    console.print()
    print_state(state_of_plan(PLAN), console)
    console.print(f"  {'answers':13}Ward OPS {site.ward_ops.health()}", soft_wrap=True)
    console.print(f"  {'commands':13}first: set -a; . {site.write_environment()}; set +a", soft_wrap=True)


def down(given: argparse.Namespace) -> int:
    """End a site, however it was started; return the exit status."""
    LocalSite(given.folder).stop()
    return 0


def _print_addresses(site: LocalSite) -> None:
    console.print(f"  Ward OPS    {site.ward_ops.url}/monitor")
    console.print(f"  PostgreSQL  127.0.0.1:{site.target.port}, database ward_flux")
    console.print(f"  Airflow     {site.stack.url}")
    for user, password in site.stack.logins.items():
        console.print(f"              {user} / {escape(password)}")


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold the lock of a folder; its processes do not inherit it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("another demo runs here", where=str(lock.with_suffix("")), do="Wait for its end.") from None
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.ward_ops.demo", description="The cutover of the stand-in.")
    actions = parser.add_subparsers(required=True)
    for name, action in (("run", run), ("up", up), ("status", status), ("down", down)):
        sub = actions.add_parser(name)
        sub.set_defaults(action=action)
        if name in ("status", "down"):
            sub.add_argument("--folder", type=Path, default=UP, metavar="DIR", help="folder of the site")
            continue
        sub.add_argument("--pings", type=int, default=PINGS, metavar="N", help=f"rows of ping_results ({PINGS})")
        sub.add_argument("--port", type=int, default=None, metavar="N", help="of Airflow (a free one)")
        if name == "run":
            sub.add_argument(
                "--fail", choices=("orphans",), help="break the data after the checks, before the services stop"
            )
            sub.add_argument("--orphans", type=int, default=0, metavar="N", help="broken data from the beginning (0)")
            sub.add_argument("--then", choices=("rollback",), help="what to do after a successful cutover")
    given = parser.parse_args(arguments)
    try:
        return int(given.action(given))
    except CutoverError as error:
        sys.stderr.write(f"demo: {error}\n")
        return UNUSABLE
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted; everything that was started is ended\n")
        return 130


if __name__ == "__main__":
    exit_on(signal.SIGTERM, signal.SIGHUP)
    sys.exit(main())
