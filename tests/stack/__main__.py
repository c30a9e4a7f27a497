"""``make stack-test``: docker-compose.yaml for real, from an empty machine to a cutover under two executors.

    python -m tests.stack [--keep] [--only PART] [--all-reboots] [--images TAG]

Builds the images, starts the stack in steps, cuts over as the lead over the REST API, tries what each log-in may do, goes
back, fails and goes back by itself, cuts the power of all containers in runs (reboots.py), restarts each container
in a run, runs once under the CeleryExecutor, judges each end from outside, and takes everything down with its volumes. Exit
status 0 when all held, 1 when not; where no container engine is there, 0 and a line that says that nothing was tested.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from include.cutover.errors import CutoverError
from include.cutover.files import slug
from include.cutover.stack.api_client import GateState, TaskState
from include.cutover.stack.postgres import free_port
from include.cutover.stack.processes import exit_on
from tests.stack import reboots
from tests.stack.engine import FILE, STARTED, Engine, Project
from tests.stack.site import CUTOVER, PLAN, ROLLBACK, STATE, Site, states
from tests.stack.telling import require, say

SHORT_AFTERCARE = {
    "WARD_OPS_AFTERCARE_MINUTES": "0.5",
    "WARD_OPS_AFTERCARE_INTERVAL": "10",
    "WARD_OPS_AFTERCARE_BASELINE": "0.3",
    "WARD_OPS_AFTERCARE_TOLERANCE": "0.9",
}


@dataclass(frozen=True)
class Choice:
    """The choices of the command line.

    Attributes:
        keep: Leave a stack up that failed.
        only: ``local``, ``celery`` or ``reboots``; empty for both stacks with all scenes.
        all_reboots: Cut power at every moment instead of a sample.
        images: Tag of images that were built already; empty to build them.
    """

    keep: bool
    only: str
    all_reboots: bool
    images: str


# --- before anything runs ------------------------------------------------------------------------------------------------


def starts_nothing_without_secrets(project: Project) -> None:
    """For each variable that must be set: without it compose does nothing, and names it."""
    required = sorted(set(re.findall(r"\$\{([A-Z_]+):\?", FILE.read_text(encoding="utf-8"))))
    lines = (project.folder / ".env").read_text(encoding="utf-8").splitlines()
    for name in required:
        without = project.folder / "without.env"
        without.write_text("\n".join(line for line in lines if not line.startswith(f"{name}=")), encoding="utf-8")
        done = project.compose("config", env_file=without, check=False, seconds=120)
        require(done.returncode != 0 and name in done.stdout + done.stderr, f"without {name} nothing starts", done.stderr)
    say(f"without any one of {len(required)} secrets nothing starts, and it is named")


def start(project: Project, *workers: str) -> None:
    """All of it, each part when what it needs is healthy."""
    project.start("metadata", *(["redis"] if workers else []))
    project.run_job("init")
    for line in project.logs("init").splitlines():
        say(f"  {line}")
    project.start("target", "ward-ops", "receivers")
    project.run_job("target-roles")
    project.start(*STARTED, *workers)
    say(f"healthy: {', '.join(('metadata', 'target', 'ward-ops', 'receivers', *STARTED, *workers))}")


@contextmanager
def up(engine: Engine, folder: Path, choice: Choice, *workers: str, **settings: str) -> Iterator[Site]:
    """A site in a project of its own, which is gone after the block."""
    folder.mkdir()
    ports = {"CUTOVER_PORT": str(free_port()), "DEMO_PORT": str(free_port())}
    profiles = ["demo", *(["celery"] if workers else [])]
    images = _images(engine) | ({"CUTOVER_VERSION": choice.images} if choice.images else {})
    project = Project(engine, folder, profiles, {**ports, **images, **settings}, SHORT_AFTERCARE)
    try:
        if not workers:
            starts_nothing_without_secrets(project)
            if not choice.images:
                project.compose("build", "init", "ward-ops", seconds=1800)
                say("the images are built")
        start(project, *workers)
        site = Site(project, folder, say)
        site.wait_for_dags()
        say(f"the lead sees the DAGs at {site.url}")
        yield site
    except CutoverError:
        if choice.keep:
            say(f"the stack stays up, to look at it: {project.name}, settings in {folder}")
            raise
        project.down()
        raise
    except BaseException:
        project.down()
        raise
    project.down()
    left = project.left()
    require(not left, "everything is taken down", left)
    say("everything is down, with its volumes")


def _images(engine: Engine) -> dict[str, str]:
    """The images of the file where they can be had; else, without a registry, what is there of the same kind."""
    found = {}
    for variable, wanted, also in (
        ("CUTOVER_POSTGRES_IMAGE", "postgres:15.14-bookworm", "postgres:15"),
        ("CUTOVER_REDIS_IMAGE", "redis:7.4-bookworm", "redis:7"),
    ):
        if not engine.has(wanted) and engine.has(also):
            say(f"{wanted} is not here, {also} is taken")
            found[variable] = also
    return found


# --- scenes --------------------------------------------------------------------------------------------------------------


def cuts_over(site: Site) -> str:
    """The demo: live on PostgreSQL, as the lead, over the REST API."""
    before = site.snapshot("before-live")
    run_id = site.lead.trigger(CUTOVER, {"approve": "ask", "reason": "stack test: the demo"})
    say(f"cutover {run_id}")
    state = site.follow(CUTOVER, run_id)
    require(state == "success", "the run is green", state if state == "success" else site.red_tasks(CUTOVER, run_id))
    site.judge(run_id, "live", before)
    tells_what_it_cannot_see(site, run_id)
    mail, slack = site.received()
    require(mail >= 2 and slack >= 2, "start and completion were told over both channels", (mail, slack))
    say(f"  notices that arrived: {mail} mails, {slack} in Slack")
    return run_id


def tells_what_it_cannot_see(site: Site, run_id: str) -> None:
    """From inside a container neither the target's disk nor other containers' processes: said, and accepted at the gate."""
    ends = [event for event in site.evidence(run_id).events() if event["event"] == "step.end"]
    unknown = {check["name"] for event in ends for check in event.get("checks") or [] if check["outcome"] == "unknown"}
    fenced = next(event["summary"] for event in ends if event["step"] == "fence_source")
    require(unknown == {"target_free_disk"}, "only the target's disk is unknown", unknown)
    require("only SQLite's own locks were checked" in fenced, "the fence says what it could not see", fenced)
    say(f"  unknown: {', '.join(unknown)}; {fenced}")


def goes_back(site: Site, run_id: str) -> None:
    """The manual rollback of a run that went live."""
    again = site.lead.trigger(ROLLBACK, {"reason": "stack test: back again"})
    say(f"rollback {again}")
    state = site.follow(ROLLBACK, again)
    require(state == "success", "the rollback is green", state if state == "success" else site.red_tasks(ROLLBACK, again))
    require(site.health().get("database") == "sqlite", "the application is on SQLite", site.health())
    sealed = site.evidence(run_id).sealed or {}
    require(sealed.get("outcome") == "rolled_back", "the evidence is sealed as rolled back", sealed)
    say("  the application is healthy on SQLite again")
    site.close_incident()


def fails_and_goes_back(site: Site) -> str:
    """A device is deleted after the checks and before the services stop: the orphan check fails, and nobody is asked."""
    kept: list[Path] = []

    def break_it() -> None:
        site.plant_orphan()
        kept.append(site.snapshot("before-orphan"))

    run_id = site.lead.trigger(CUTOVER, {"approve": "ask", "reason": "stack test: orphans"})
    say(f"cutover {run_id}, with an orphan after the checks")
    state = site.follow(CUTOVER, run_id, before_go=break_it)
    require(state == "failed", "the run is red", state)
    site.judge(run_id, "rolled_back", kept[0])
    site.mend_orphan()
    site.close_incident()
    return run_id


def survives_restarts(site: Site) -> None:
    """Every container is restarted once in the middle of a run, one after the other, some without a warning.

    It ends live, or rolled back, as the ends themselves say.
    """
    left = {
        "preflight.check_target": ["receivers", "dag-processor", "triggerer"],
        "prepare_target.apply_ddl": ["target"],
        "quiesce.stop_services": ["ward-ops"],  # whose supervisor starts the services again
        "copy.ping_results": ["scheduler"],
        "finish_target.build_keys_and_indexes": ["api-server"],
        "decide": ["metadata"],
    }
    killed = {"scheduler", "target"}
    restarted: list[str] = []

    def restart(tasks: list[TaskState]) -> None:
        for task_id in [task_id for task_id in left if states(tasks, task_id) & {"running", "success", "failed"}]:
            for service in left.pop(task_id):
                restarted.append(service)
                say(f"  {service} is {'killed and started' if service in killed else 'restarted'} at {task_id}")
                site.project.restart(service, kill=service in killed)
                site.project.wait_healthy(service)

    before = site.snapshot("before-restarts")
    run_id = site.lead.trigger(CUTOVER, {"approve": "ask", "reason": "stack test: restarts"})
    say(f"cutover {run_id}, with every container restarted")
    state = site.follow(CUTOVER, run_id, during=restart, seconds=1500)
    expected = {"metadata", "target", "ward-ops", "receivers", *STARTED}
    require(set(restarted) == expected, "every container was restarted", sorted(expected - set(restarted)))
    sealed = site.evidence(run_id).sealed or {}
    outcome = str(sealed.get("outcome"))
    require(outcome in ("live", "rolled_back"), "it ended live or rolled back", f"{outcome}, {state}")
    require((state == "success") == (outcome == "live"), "Airflow's colour is the truth", f"{outcome}, {state}")
    if outcome != "live":
        say(f"  why it went back: {(site.evidence(run_id).last('decision') or {}).get('why')}")
    site.judge(run_id, outcome, before)
    for service in sorted(expected):
        site.project.wait_healthy(service)
    say("  every container is healthy again")


def each_role_has_its_powers(site: Site, run_id: str) -> None:
    """Observer and communicator look at everything of the plan and change nothing, whatever they ask for."""
    from tests.dags.test_roles import SECRETS, Asked, changes

    first = next(gate for gate in site.lead.gates(CUTOVER, run_id) if gate.task_id.endswith("go_no_go"))
    asked = Asked(run_id, GateState(first.task_id, first.map_index, "", (), None, None), [], [])
    before = site.lead.tasks(CUTOVER, run_id)
    report = f"/cutover/{PLAN}/{slug(run_id)}/"
    for user in ("observer", "communicator"):
        refused = 0
        for method, path, body in changes(asked):
            path, body = json.loads(json.dumps([path, body]).replace("library", PLAN))
            status = site.ask(user, method, path, body).status_code
            require(status in (401, 403), f"{user} may not {method} {path} {body}", status)
            refused += 1
        for path in SECRETS:
            status = site.ask(user, "GET", path.replace("library", PLAN)).status_code
            require(status in (401, 403), f"{user} may not read {path}", status)
        for path in (f"/api/v2/dags/{CUTOVER}/dagRuns/{run_id}/taskInstances", report):
            answer = site.ask(user, "GET", path)
            require(answer.status_code == 200, f"{user} may read {path}", f"{answer.status_code} {answer.text[:300]}")
        say(f"  {user} reads the runs and the report, and is refused {refused} ways of changing something")
    status = site.ask(None, "GET", report).status_code
    require(status == 401, "without a log-in nothing is shown", status)
    require(site.lead.tasks(CUTOVER, run_id) == before, "nothing changed")
    shown = site.project.command("roles", "show", "--plan", PLAN, check=False)
    require(shown.returncode == 0, "roles show finds everything as the plan says", shown.stdout + shown.stderr)


def breaks_the_glass(site: Site, run_id: str) -> None:
    """With Airflow down, the way back from a container of its own."""
    site.project.compose("stop", *STARTED)
    folder = f"{STATE}/evidence/{PLAN}/{slug(run_id)}"
    done = site.project.command(
        "rollback", "--plan", PLAN, "--evidence", folder, "--reason", "stack test: no Airflow", check=False
    )
    require(done.returncode == 0, "the break-glass rollback ends well", done.stdout + done.stderr)
    require(site.health().get("database") == "sqlite", "the application is on SQLite", site.health())
    say("  with Airflow down: rolled back from a container of its own")


def splits_a_table_over_two_workers(site: Site) -> str:
    """Under the CeleryExecutor: what touches the source runs beside it, a table is split over both workers."""
    before = site.snapshot("before-celery")
    run_id = site.lead.trigger(CUTOVER, {"approve": "ask", "reason": "stack test: two workers"})
    say(f"cutover {run_id}, under the CeleryExecutor")
    state = site.follow(CUTOVER, run_id, seconds=1500)
    require(state == "success", "the run is green", state if state == "success" else site.red_tasks(CUTOVER, run_id))
    site.judge(run_id, "live", before)
    names = {site.project.inspect(worker)["Config"]["Hostname"]: worker for worker in ("worker", "worker-source")}
    streams = {names.get(host, host) for host in site.hosts(run_id, "copy.ping_results")}
    require(streams == {"worker", "worker-source"}, "both workers copied ping_results", streams)
    path = f"/api/v2/dags/{CUTOVER}/dagRuns/{run_id}/taskInstances?limit=200"
    ran: dict[str, set[str]] = {}
    for item in site.ask("lead", "GET", path).json()["task_instances"]:
        if item["hostname"]:
            ran.setdefault(str(item["queue"]), set()).add(names.get(item["hostname"], item["hostname"]))
    require(ran.get("source") == {"worker-source"}, "what touches the source ran beside it", ran)
    say(f"  ping_results was copied by {' and '.join(sorted(streams))}; queues: {ran}")
    return run_id


def run(engine: Engine, folder: Path, choice: Choice) -> None:
    """Both stacks, one after the other."""
    reboot = reboots.every if choice.all_reboots else reboots.sample
    if choice.only == "reboots":
        with up(engine, folder / "reboots", choice) as site:
            reboot(site)
    if choice.only in ("", "local"):
        with up(engine, folder / "local", choice) as site:
            first = cuts_over(site)
            each_role_has_its_powers(site, first)
            goes_back(site, first)
            failed = fails_and_goes_back(site)
            say(f"  {failed} went back by itself")
            if not choice.only:
                reboot(site)
            survives_restarts(site)
    if choice.only in ("", "celery"):
        settings = {"CUTOVER_EXECUTOR": "CeleryExecutor"}
        with up(engine, folder / "celery", choice, "worker", "worker-source", **settings) as site:
            if choice.all_reboots:
                reboots.under_celery(site)
            breaks_the_glass(site, splits_a_table_over_two_workers(site))


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack", description="Test docker-compose.yaml for real.")
    parser.add_argument("--keep", action="store_true", help="leave the stack up when it failed, to look at it")
    parser.add_argument(
        "--only", choices=("local", "celery", "reboots"), default="", help="one of the stacks, or the reboots"
    )
    parser.add_argument("--all-reboots", action="store_true", help="cut power at every moment instead of three")
    parser.add_argument("--images", metavar="TAG", default="", help="take images that were built already")
    choice = Choice(**vars(parser.parse_args()))
    engine = Engine.found()
    if engine is None:
        say(
            "SKIPPED: neither Docker with compose nor Podman with podman-compose works here; NOTHING OF THE STACK WAS TESTED"
        )
        return 0
    say(f"{engine.program}, {' '.join(engine.compose)}")
    folder = Path(tempfile.mkdtemp(prefix="cutover-stack-"))
    kept = False
    try:
        run(engine, folder, choice)
    except CutoverError as error:
        say(f"FAILED: {error}")
        kept = choice.keep
        return 1
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    say("all of it held")
    return 0


if __name__ == "__main__":
    exit_on(signal.SIGTERM, signal.SIGHUP)
    sys.exit(main())
