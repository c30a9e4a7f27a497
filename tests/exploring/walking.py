"""Airflow's part, played in one process: what runs when, what is tried again, what is skipped.

The tasks, their order, trigger rules and retries are those of the DAG objects themselves, and each attempt carries out the
operator's own ``execute`` in a forked child, so that it can be killed. Airflow's part is modelled on its scheduler: the
rules ``all_success`` and ``all_done``, branches and what they skip (also when cleared later), retries after a failure or a
kill but not after ``AirflowFailException``, attempts that were declared dead and go on, clearing and marking by a person.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped

from include.cutover.tasks.gates import Gate
from tests.exploring.points import Fault, arm

ExecutorSafeguard.test_mode = True  # operators are carried out outside of Airflow's task runner here

TERMINAL = frozenset({"success", "failed", "skipped", "upstream_failed"})


@dataclass
class Instance:
    """A task in a run.

    Attributes:
        state: As in Airflow; None before it is scheduled.
        last_try: Number of the last try that a retry may have.
    """

    task: Any
    index: int = -1
    arguments: dict[str, Any] | None = None
    state: str | None = None
    tries: int = 0
    last_try: int = 0

    @property
    def name(self) -> str:
        return self.task.task_id if self.index < 0 else f"{self.task.task_id}[{self.index}]"


@dataclass
class Attempt:
    """A child process.

    Attributes:
        instance: None for a command.
        dead: Airflow took it for dead; what becomes of it no longer counts.
        brings_down: The host goes down when it dies.
    """

    pid: int
    name: str
    run: Run | None
    instance: Instance | None
    answer: int
    begun: float
    dead: bool = False
    stopped: bool = False
    brings_down: bool = False
    result: dict[str, Any] = field(default_factory=dict)


class Run:
    """A run of a DAG."""

    def __init__(self, dag: Any, run_id: str, params: Mapping[str, Any], actor: str = "lead") -> None:
        self.dag = dag
        self.run_id = run_id
        self.params = dict(params)
        self.actor = actor
        self.triggered_at = datetime.now(UTC)
        self.answers: dict[str, tuple[str, str]] = {}
        self.followed: dict[str, set[str]] = {}
        self.instances: list[Instance] = []
        for task in dag.tasks:
            if getattr(task, "is_mapped", False):
                for index, arguments in enumerate(task.expand_input.value["arguments"]):
                    self.instances.append(Instance(task, index, arguments, last_try=task.retries + 1))
            else:
                self.instances.append(Instance(task, last_try=task.retries + 1))

    def of(self, task_id: str) -> list[Instance]:
        return [instance for instance in self.instances if instance.task.task_id == task_id]

    @property
    def finished(self) -> bool:
        return all(instance.state in TERMINAL for instance in self.instances)

    @property
    def state(self) -> str:
        """As Airflow colours it: by its leaves."""
        leaves = [instance for instance in self.instances if not instance.task.downstream_task_ids]
        if not self.finished:
            return "running"
        return "success" if all(leaf.state in ("success", "skipped") for leaf in leaves) else "failed"

    def ready(self) -> list[Instance]:
        """List the tasks that may be started now; everything that follows without starting anything is settled first."""
        while any(self._settle(instance) for instance in self.instances):
            pass
        return [instance for instance in self.instances if instance.state in (None, "up_for_retry") and self._rule(instance)]

    def _upstream(self, instance: Instance) -> list[Instance]:
        return [other for other in self.instances if other.task.task_id in instance.task.upstream_task_ids]

    def _rule(self, instance: Instance) -> bool:
        states = [other.state for other in self._upstream(instance)]
        if instance.task.trigger_rule.value == "all_done":
            return all(state in TERMINAL for state in states)
        return all(state == "success" for state in states)

    def _settle(self, instance: Instance) -> bool:
        if instance.state is not None:
            return False
        upstream = self._upstream(instance)
        for other in upstream:
            followed = self.followed.get(other.task.task_id)
            if followed is not None and other.state in TERMINAL and instance.task.task_id not in followed:
                instance.state = "skipped"
                return True
        if instance.task.trigger_rule.value == "all_success":
            states = {other.state for other in upstream}
            if states & {"failed", "upstream_failed"}:
                instance.state = "upstream_failed"
            elif "skipped" in states:
                instance.state = "skipped"
        return instance.state is not None


class World:
    """The scheduler: runs, and the processes of their attempts."""

    def __init__(self, log: Path, tell: Callable[[str], None], prepare: Callable[[], None] | None = None) -> None:
        self.log = log
        self.tell = tell
        self.prepare = prepare
        self.runs: list[Run] = []
        self.attempts: list[Attempt] = []
        self.went_down = False
        self.failures: list[str] = []

    # -- starting

    def start(self, run: Run, instance: Instance, fault: Fault | None = None) -> Attempt:
        """Start an attempt of a task."""
        self._begin(run, instance)
        name = f"{run.run_id} {instance.name}"
        self.tell(f"{name} try {instance.tries}{f', to be {fault}' if fault else ''}")
        return self._fork(name, lambda: _execute(run, instance), fault, run, instance)

    def _begin(self, run: Run, instance: Instance) -> None:
        instance.tries += 1
        instance.state = "running"
        run.followed.pop(instance.task.task_id, None)

    def carry_out(self, run: Run, instance: Instance) -> None:
        """The same in this process, for an attempt that nobody disturbs: forking costs more than most steps."""
        self._begin(run, instance)
        name = f"{run.run_id} {instance.name}"
        with self.log.open("a") as log, contextlib.redirect_stderr(log):
            log.write(f"\n--- {name}\n")
            result = _outcome(lambda: _execute(run, instance))
        settle(run, instance, self._told(name, result))

    def command(self, name: str, action: Callable[[], object], fault: Fault | None = None) -> Attempt:
        """Start something that is no task."""
        self.tell(f"{name}{f' … {fault}' if fault else ''}")
        return self._fork(name, lambda: {"outcome": "success", "value": action()}, fault, None, None)

    def _fork(
        self,
        name: str,
        action: Callable[[], dict[str, Any]],
        fault: Fault | None,
        run: Run | None,
        instance: Instance | None,
    ) -> Attempt:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._child(name, action, fault, writing)
        os.close(writing)
        down = fault is not None and fault.reboot
        attempt = Attempt(child, name, run, instance, reading, time.monotonic(), brings_down=down)
        self.attempts.append(attempt)
        return attempt

    def _child(self, name: str, action: Callable[[], dict[str, Any]], fault: Fault | None, answer: int) -> None:
        status = 1
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)
            write = os.write
            write(output, f"\n--- {name}\n".encode())
            logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
            if self.prepare is not None:
                self.prepare()
            end = arm(fault)
            result = _outcome(action)
            end()
            write(answer, json.dumps(result, default=str).encode())
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)

    # -- what became of it

    @property
    def at_work(self) -> list[Attempt]:
        """Attempts that go on by themselves."""
        return [attempt for attempt in self.attempts if not attempt.stopped]

    @property
    def stopped(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.stopped]

    def look(self) -> bool:
        """Take note of what ended or was stopped. Returns whether anything did."""
        changed = False
        for attempt in list(self.attempts):
            pid, status = os.waitpid(attempt.pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                continue
            changed = True
            if os.WIFSTOPPED(status):
                attempt.stopped = True
                self.tell(f"  {attempt.name}: stopped")
            else:
                self._ended(attempt, os.waitstatus_to_exitcode(status))
        return changed

    def _ended(self, attempt: Attempt, code: int) -> None:
        self.attempts.remove(attempt)
        self.went_down |= attempt.brings_down
        with os.fdopen(attempt.answer, "rb") as pipe:
            answer = pipe.read()
        result = json.loads(answer) if code == 0 and answer else {"outcome": "retry", "error": f"exit status {code}"}
        attempt.result = self._told(attempt.name + (" (too late)" if attempt.dead else ""), result)
        if not attempt.dead and attempt.run is not None and attempt.instance is not None:
            settle(attempt.run, attempt.instance, result)

    def _told(self, name: str, result: dict[str, Any]) -> dict[str, Any]:
        if result["outcome"] != "success":
            self.failures.append(str(result.get("error", "")))
        short = str(result.get("error", "")).replace("\n", " ")[:200]
        self.tell(f"  {name}: {result['outcome']} {short}".rstrip())
        return result

    def resume(self, attempt: Attempt) -> None:
        self.tell(f"  {attempt.name}: goes on")
        attempt.stopped = False
        os.kill(attempt.pid, signal.SIGCONT)

    def kill(self, attempt: Attempt) -> None:
        self.tell(f"  {attempt.name}: is killed")
        attempt.stopped = attempt.brings_down = False
        os.kill(attempt.pid, signal.SIGKILL)

    def go_down(self) -> None:
        """Kill every attempt, as a reboot of the host does; Airflow then finds them dead."""
        for attempt in self.attempts:
            self.kill(attempt)
        while self.attempts:
            if not self.look():
                self.wait()
        self.went_down = False

    def declare_dead(self, attempt: Attempt) -> None:
        """Airflow no longer hears of it: the task is tried again, the process is still there."""
        if attempt.run is None or attempt.instance is None or attempt.dead:
            return
        attempt.dead = True
        self.tell(f"  {attempt.name}: is taken for dead")
        settle(attempt.run, attempt.instance, {"outcome": "retry"})

    # -- what a person does

    def clear(self, run: Run, instances: list[Instance]) -> None:
        """Clear tasks, finished or not: an attempt at work is ended first."""
        for instance in instances:
            if instance.state is None:
                continue
            self._end(instance)
            instance.state = None
            instance.last_try = instance.tries + instance.task.retries + 1
        self.tell(f"{run.run_id}: cleared {', '.join(instance.name for instance in instances)}")

    def mark(self, run: Run, instance: Instance, state: str) -> None:
        """Mark a task as success or failed."""
        self._end(instance)
        instance.state = state
        self.tell(f"{run.run_id}: marked {instance.name} as {state}")

    def abort(self, run: Run) -> None:
        """Mark a run as failed: Airflow ends what is at work and starts nothing more of it."""
        for instance in run.instances:
            if instance.state == "running":
                self._end(instance)
                instance.state = "failed"
            elif instance.state not in TERMINAL:
                instance.state = "skipped"

    def _end(self, instance: Instance) -> None:
        for attempt in self.attempts:
            if attempt.instance is instance and not attempt.dead:
                attempt.dead = True
                self.kill(attempt)

    # -- the end

    def wait(self, seconds: float = 0.002) -> None:
        time.sleep(seconds)

    def walk(self, seconds: float = 60, until: Callable[[], bool] = lambda: False) -> None:
        """Let everything run to its end, or until it is so, without any fault."""
        deadline = time.monotonic() + seconds
        for attempt in self.stopped:
            self.resume(attempt)
        while not until():
            changed = self.look()
            ready = [(run, instance) for run in self.runs for instance in run.ready()]
            if ready and not self.attempts:
                begin = self.carry_out if self.prepare is None else self.start  # another user needs a process of its own
                begin(*ready[0])
                continue
            if not ready and not self.attempts:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"hangs: {', '.join(attempt.name for attempt in self.attempts)}")
            if not changed:
                self.wait()

    def close(self) -> None:
        """End every process that is left."""
        for attempt in self.attempts:
            os.kill(attempt.pid, signal.SIGKILL)
            os.waitpid(attempt.pid, 0)
            os.close(attempt.answer)
        self.attempts.clear()


def settle(run: Run, instance: Instance, result: Mapping[str, Any]) -> None:
    """Airflow's view of the end of an attempt."""
    if result["outcome"] == "success":
        instance.state = "success"
        if result.get("followed") is not None:
            run.followed[instance.task.task_id] = set(result["followed"])
    elif result["outcome"] == "retry" and instance.tries < instance.last_try:
        instance.state = "up_for_retry"
    else:
        instance.state = "failed"


def _outcome(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the state that Airflow gives to an attempt."""
    try:
        return action()
    except AirflowFailException as error:
        return {"outcome": "failed", "error": str(error)}
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return {"outcome": "retry", "error": f"{type(error).__name__}: {error}"}


def _execute(run: Run, instance: Instance) -> dict[str, Any]:
    """Carry out the operator as Airflow's task runner does."""
    task = instance.task
    if getattr(task, "is_mapped", False):
        task = task.unmap({"arguments": instance.arguments})
    pushed: dict[str, Any] = {}
    context: dict[str, Any] = {
        "dag_run": SimpleNamespace(
            dag_id=run.dag.dag_id, run_id=run.run_id, triggering_user_name=run.actor, run_after=run.triggered_at
        ),
        "ti": SimpleNamespace(
            try_number=instance.tries,
            log_url="",
            task=task,
            map_index=instance.index,
            xcom_push=lambda key, value: pushed.update({key: value}),
        ),
        "params": run.params,
        "task": task,
    }
    answer = run.answers.get(task.gate) if isinstance(task, Gate) else None
    try:
        if answer is not None:
            chosen, user = answer
            event = {
                "chosen_options": [chosen],
                "params_input": {},
                "responded_at": datetime.now(UTC),
                "responded_by_user": {"id": user, "name": user},
            }
            task.execute_complete(context, event)
        else:
            task.execute(context)
    except DownstreamTasksSkipped:
        pass  # what was followed was pushed before
    followed = pushed.get("skipmixin_key", {}).get("followed")
    return {"outcome": "success", "followed": followed}


def downstream(run: Run, instance: Instance) -> Iterator[Instance]:
    """Everything that stands behind a task."""
    ids = set(instance.task.get_flat_relative_ids(upstream=False))
    return (other for other in run.instances if other.task.task_id in ids)
