"""Fault points of the test stack: a step can be killed, held or given a wrong clock at its begin, in its middle, at its end.

Python imports this module by its name at every start, where this folder is on PYTHONPATH; only the stack of the fault
matrix has it there. The product has no hook of its own: what is wrapped is ``Evidence.append``, through which every step
tells that it begins and that it ends.

The folder in CUTOVER_FAULT_POINTS holds::

    rules.json      {"cell": …, "rules": [{"id", "step", "at", "do", "times", "calls", "seconds"}]}
    fired/<id>.<n>  made, before it acts, by the process that acts: its pid, its parent and when
    release/<id>    lets a held process go on
    seen.jsonl      a line for each begin and end of a step, and the source's hash where the services are about to start

``at`` is ``begin`` (recorded, nothing done), ``middle`` (after so many ``calls`` of the product's functions, or of the one
named in ``function`` as ``module.function``), ``end`` (all done, not recorded) or ``after`` (recorded, Airflow does not
know). Of a gate, ``begin`` is the question, ``end`` the answer.
The task ``start_aftercare`` records nothing: its ``begin`` is where it reads the evidence.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_FOLDER = Path(os.environ.get("CUTOVER_FAULT_POINTS") or "/nonexistent")
_PRODUCT = f"{os.sep}include{os.sep}cutover{os.sep}"
_TRIGGERS = os.path.join("tasks", "aftercare.py")  # noqa: PTH118


def _rules() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((_FOLDER / "rules.json").read_text())
    except (OSError, ValueError):
        return {"cell": "", "rules": []}
    return found


def _tell(**fields: Any) -> None:
    line = json.dumps({"time": time.time(), "pid": os.getpid(), **fields}).encode() + b"\n"
    descriptor = os.open(_FOLDER / "seen.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _fires(rule: dict[str, Any], step: str) -> bool:
    """Return True when this process is the one that acts on the rule; each of its ``times`` happens once."""
    for number in range(rule.get("times", 1)):
        mark = _FOLDER / "fired" / f"{rule['id']}.{number}"
        try:
            descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        facts = {"step": step, "pid": os.getpid(), "parent": os.getppid(), "time": time.time()}
        os.write(descriptor, json.dumps(facts).encode())
        os.close(descriptor)
        return True
    return False


def _act(rule: dict[str, Any], step: str) -> None:
    if not _fires(rule, step):
        return
    if rule["do"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif rule["do"] == "hold":
        cell = _rules()["cell"]
        while not (_FOLDER / "release" / rule["id"]).exists():
            if _rules()["cell"] != cell:  # the harness is at its next cell: nobody comes for this one any more
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)
    elif rule["do"] == "clock":
        _shift_clock(rule["seconds"])
    elif rule["do"] == "zone":
        os.environ["TZ"] = rule["zone"]
        time.tzset()
    elif rule["do"] == "patience":
        _limit_patience(rule["seconds"])


def _shift_clock(seconds: float) -> None:
    """From now on this process believes that it is earlier or later than it is; time that it measures goes on evenly."""
    import datetime as module

    real, true_time = module.datetime, time.time

    class Shifted(real):  # type: ignore[misc,valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.now(tz) + module.timedelta(seconds=seconds)

    time.time = lambda: true_time() + seconds
    for name, loaded in list(sys.modules.items()):
        if name.startswith("include.cutover") and getattr(loaded, "datetime", None) is real:
            loaded.datetime = Shifted  # type: ignore[attr-defined]


def _limit_patience(seconds: float) -> None:
    """Two minutes of silence before a connection is given up are right in a window, and too long for a matrix.

    Raises:
        AttributeError: When the product has this limit no more, or elsewhere: a matrix without it would prove nothing.
    """
    copying = importlib.import_module("include.cutover.copying.tables")
    defaults = copying.copy_table.__kwdefaults__
    if "stall_seconds" not in defaults:
        raise AttributeError(f"copy_table has no default for stall_seconds; it has {', '.join(sorted(defaults))}")
    defaults["stall_seconds"] = seconds


class _Middle:
    """Counts calls of the product's functions in a step; acts in the middle."""

    def __init__(self, step: str, rules: list[dict[str, Any]]) -> None:
        self.step, self.calls = step, 0
        self.rules = [rule for rule in rules if "function" not in rule]
        self._named = [rule for rule in rules if "function" in rule]
        self._calls: dict[str, int] = {}

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if event != "call" or _PRODUCT not in frame.f_code.co_filename:
            return
        self.calls += 1
        for rule in self.rules:
            if rule["calls"] == self.calls:
                _act(rule, self.step)
        if self._named:
            function = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
            self._calls[function] = self._calls.get(function, 0) + 1
            for rule in self._named:
                if rule["function"] == function and rule["calls"] == self._calls[function]:
                    _act(rule, self.step)


_counting: list[_Middle] = []


def _points(event: str, fields: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """The step that an event is of, and the points before and after it is recorded."""
    step = str(fields.get("step") or fields.get("gate"))
    return {
        "step.begin": (step, None, "begin"),
        "step.end": (step, "end", "after"),
        "gate.asked": (step, None, "begin"),
        "gate": (step, "end", "after"),
    }.get(event, ("", None, None))


def _at(point: str | None, step: str, known: dict[str, Any]) -> None:
    for rule in known["rules"]:
        if rule["at"] == point and fnmatch.fnmatchcase(step, rule["step"]):
            _act(rule, step)


def _install() -> None:
    from include.cutover.evidence.record import Evidence

    original = Evidence.append

    def append(self: Evidence, event: str, **fields: Any) -> Any:
        step, before, after = _points(event, fields)
        if not step:
            return original(self, event, **fields)
        known = _rules()
        if before == "end":
            sys.setprofile(None)
            counted = _counting.pop() if _counting else None
            _tell(step=step, at="end", outcome=fields.get("outcome"), calls=counted and counted.calls)
            if counted is not None:
                for rule in counted.rules:  # it was quicker than when its calls were counted
                    if rule["calls"] > counted.calls:
                        _act(rule, step)
            _at(before, step, known)
        record = original(self, event, **fields)
        if after == "begin":
            _tell(step=step, at="begin", **_source(step))
        _at(after, step, known)
        middle = [rule for rule in known["rules"] if rule["at"] == "middle" and fnmatch.fnmatchcase(step, rule["step"])]
        if after == "begin" and (middle or known.get("count")):
            _counting.append(_Middle(step, middle))
            sys.setprofile(_counting[-1])
        return record

    Evidence.append = append  # type: ignore[method-assign]
    read = Evidence.events

    def events(self: Evidence) -> Any:
        reader = sys._getframe(1).f_back
        if reader is not None and reader.f_code.co_name == "execute" and reader.f_code.co_filename.endswith(_TRIGGERS):
            _at("begin", "start_aftercare", _rules())
        return read(self)

    Evidence.events = events  # type: ignore[method-assign]


def _source(step: str) -> dict[str, Any]:
    """The source file as it is before the services start on it again, seen by the matrix's own eyes."""
    if not step.endswith(".start_services"):
        return {}
    file = Path(os.environ["WARD_OPS_ROOT"]) / "data" / "ward_ops.db"
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None
    return {"sha256": digest, "beside": sorted(path.name for path in file.parent.glob(f"{file.name}-*"))}


if _FOLDER.is_dir():
    _install()
