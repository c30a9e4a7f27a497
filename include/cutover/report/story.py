"""The story of a run: its steps, gates, checks and outcome, read from the events of its evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from include.cutover.errors import CannotCheck
from include.cutover.evidence.record import EVENTS, Event, Evidence, sealing
from include.cutover.masking import mask
from include.cutover.report.words import (
    address_text,
    answer_text,
    as_number,
    as_words,
    clock_text,
    is_plain,
    only_time,
    value_text,
)
from include.cutover.runs import briefing, incident, runbook
from include.cutover.runs.incident import Incident
from include.cutover.runs.terms import ROLLBACK

Figures = dict[str, Any]


class State(NamedTuple):
    """Where a run stands: a word for programs, a headline, a sentence, and one of good, warn, bad, calm, busy."""

    outcome: str
    headline: str
    sentence: str
    tone: str


_STATES = {
    "live": State("live", "Live on PostgreSQL", "The application runs on PostgreSQL; every step before passed.", "good"),
    "rolled_back": State("rolled_back", "Rolled back", "The application runs on SQLite again, as of the backup.", "warn"),
    "released": State(
        "released",
        "Released",
        "Called off after the services had stopped: they run on SQLite again, nothing was lost.",
        "warn",
    ),
    "abandoned": State(
        "abandoned", "Abandoned", "Called off before anything was stopped: the application was not touched.", "calm"
    ),
    "failed": State("failed", "Failed", "The run did not reach a safe end: somebody must look now.", "bad"),
    "rehearsed": State("rehearsed", "Rehearsed", "Everything passed on a clone, the way back included.", "good"),
    "rehearsal_failed": State(
        "rehearsal_failed",
        "Rehearsal not green",
        "The application was not touched: this would have stopped a cutover.",
        "bad",
    ),
    "lost": State("lost", "Taken over", "Another run took over; this one does nothing more.", "warn"),
    "running": State("running", "Running", "The run is not closed.", "busy"),
}


NEXT_STEPS = {
    "live": (
        "Follow the aftercare: it looks at logs, jobs and PostgreSQL, takes a first backup, and asks when something is red.",
        "Without one: watch the logs for an hour, see that scheduled tasks run again, and that PostgreSQL is backed up.",
        "The backup of SQLite is kept for as long as the plan's retention says.",
    ),
    "rolled_back": (
        "Look at the first failure, and at the document incident.md.",
        "The target's data was put aside for the inquiry; nothing was dropped.",
        "Plan a new window only when the cause is known and corrected.",
    ),
    "released": (
        "Look at the first failure. Nothing of the source was overwritten.",
        "Plan a new window when the cause is corrected.",
    ),
    "abandoned": ("Look at the first failure. Plan a new window when the cause is corrected.",),
    "failed": (
        "Look at the first failure and at the state of the services now.",
        "Run the rollback DAG; it needs this evidence and the plan only.",
    ),
    "rehearsed": ("Plan the window. A change of schema, plan, SQL or code wants another rehearsal.",),
    "rehearsal_failed": (
        "Look at the first failure. Database and files are kept until the next rehearsal.",
        "Correct the cause, then rehearse again.",
    ),
    "lost": ("Follow the run that holds the lease.",),
    "running": ("Wait for the end. When nothing moves any more, run the rollback DAG.",),
}


_LABELS = {
    "file": "File",
    "second_file": "Second copy",
    "manifest": "Manifest",
    "bytes": "Size",
    "sha256": "SHA-256",
    "sqlite_version": "SQLite",
    "schema_fingerprint": "Schema fingerprint",
    "time": "Taken at",
    "same_device": "Copies on the same device",
    "run_id": "Run",
    "rows": "Rows",
}


_ENVELOPE = frozenset({"seq", "time", "event", "previous"})


@dataclass(frozen=True)
class Attempt:
    """One try of a step.

    Attributes:
        outcome: ``passed``, ``failed``, ``error``, ``refused``; without a recorded end ``running``, or ``unfinished`` when
            the run went on without it.
        end: The last event of the run where no end is recorded.
    """

    begin: datetime
    end: datetime
    outcome: str
    summary: str

    @property
    def seconds(self) -> float:
        """How long it took, or took until the last event."""
        return max(0.0, (self.end - self.begin).total_seconds())


@dataclass(frozen=True)
class StepView:
    """All tries of a step; its checks and figures are those of the last one."""

    name: str
    attempts: tuple[Attempt, ...]
    checks: tuple[Mapping[str, Any], ...] = ()
    figures: Mapping[str, Any] | None = None
    log_url: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def last(self) -> Attempt:
        """The newest try."""
        return self.attempts[-1]

    @property
    def outcome(self) -> str:
        """What became of the newest try."""
        return self.last.outcome

    @property
    def is_copy(self) -> bool:
        """Whether it copies a table, or a part of one."""
        return runbook.is_copy(self.name)

    @property
    def title(self) -> str:
        """Plain words: ``rollback.restore_source`` is ``restore source``."""
        name = re.sub(r"^(rollback|release|way_back)\.", "", self.name)
        copied = re.fullmatch(r"copy\.(.+?)(?:\.(\d+))?", name)
        if copied:
            return f"copy {copied[1]}" + (f", stream {int(copied[2]) + 1}" if copied[2] else "")
        return name.replace("_", " ")

    @property
    def phase(self) -> str:
        """The part of the runbook it belongs to."""
        return runbook.phase_of(self.name)


class Story:
    """What the events of a run tell. Every attribute copes with events that are missing."""

    def __init__(self, evidence: Evidence) -> None:
        self.folder = evidence.folder
        self.damage = ""
        try:
            events = evidence.events()
        except CannotCheck as problem:
            if not evidence.exists:
                raise
            events, self.damage = _legible(evidence.folder / EVENTS), mask(str(problem))
        self.events: list[Event] = [item for event in events if _is_event(item := _masked(event))]

    def all(self, kind: str) -> list[Event]:
        """Every event of a kind, in order."""
        return [event for event in self.events if event["event"] == kind]

    def newest(self, kind: str, **match: Any) -> Event:
        """The newest event of a kind, empty where there is none."""
        for event in reversed(self.all(kind)):
            if all(event.get(key) == value for key, value in match.items()):
                return event
        return {}

    @cached_property
    def opened(self) -> Event:
        """How the run was opened."""
        return self.newest("run.opened")

    @cached_property
    def sealed(self) -> Event:
        """How the run was closed; empty while it is open."""
        return sealing(self.events) or {}

    @property
    def start(self) -> datetime:
        """Time of the first event."""
        return time_of(self.events[0]) if self.events else datetime.fromtimestamp(0, UTC)

    @property
    def end(self) -> datetime:
        """Time of the seal, or of the last event."""
        return time_of(self.sealed or self.events[-1]) if self.events else self.start

    @cached_property
    def steps(self) -> dict[str, StepView]:
        """Every step that left a record, in the order of beginning."""
        begun: dict[str, list[dict[str, Any]]] = {}
        for event in self.events:
            kind, name = event["event"], str(event.get("step") or "")
            if not name:
                continue
            tries = begun.setdefault(name, []) if kind in ("step.begin", "step.end") else []
            if kind == "step.begin":
                tries.append({"begin": time_of(event), "log_url": event.get("log_url")})
            elif kind == "step.end":
                if not tries or "event" in tries[-1]:
                    # A step that was refused at the door never began.
                    tries.append({"begin": _earlier(time_of(event), event.get("seconds"))})
                tries[-1] |= {"end": time_of(event), "event": event}
        return {name: self._step(name, tries) for name, tries in begun.items()}

    def _step(self, name: str, tries: list[dict[str, Any]]) -> StepView:
        attempts = []
        for number, item in enumerate(tries):
            event = item.get("event", {})
            following = tries[number + 1]["begin"] if number + 1 < len(tries) else self.end
            ended = event or number + 1 < len(tries) or self._left_behind(item["begin"])
            attempts.append(
                Attempt(
                    item["begin"],
                    max(item["begin"], item.get("end", following)),
                    str(event.get("outcome") or ("unfinished" if ended else "running")),
                    str(event.get("summary") or ("" if event else "no end is recorded" if ended else "no end yet")),
                )
            )
        last = tries[-1].get("event", {})
        checks = tuple(check for check in last.get("checks") or [] if isinstance(check, dict))
        figures = last.get("figures")
        log_url = next((str(item["log_url"]) for item in reversed(tries) if item.get("log_url")), "")
        warnings = tuple(str(text) for text in last.get("warnings") or [])
        return StepView(name, tuple(attempts), checks, figures if isinstance(figures, dict) else {}, log_url, warnings)

    def _left_behind(self, begin: datetime) -> bool:
        """Whether the run decided, went back or was closed after that moment: a step without an end then has died."""
        over = ("decision", "sealed", "reopened", "rollback.asked")
        return any(
            time_of(event) >= begin
            and (
                event["event"] in over or (event["event"] == "step.begin" and str(event.get("step")).startswith("rollback."))
            )
            for event in self.events
        )

    def figures(self, step: str) -> Figures:
        """Figures of a step, empty where it has none."""
        return dict((self.steps[step].figures if step in self.steps else None) or {})

    @cached_property
    def checks(self) -> list[dict[str, Any]]:
        """The checks of every step's newest end: failed before unknown before passed, then in the order of the run."""
        order = {"failed": 0, "unknown": 1, "passed": 2}
        found = [{**check, "step": step.name} for step in self.steps.values() for check in step.checks]
        return sorted(found, key=lambda check: order.get(str(check.get("outcome")), 1))

    def count(self, outcome: str) -> int:
        """Checks with that outcome; what is neither passed nor failed is unknown."""
        known = ("passed", "failed")
        return sum(
            check.get("outcome") == outcome if outcome in known else check.get("outcome") not in known
            for check in self.checks
        )

    @cached_property
    def warnings(self) -> list[tuple[str, str]]:
        """What stopped nothing and somebody should know, with the step that said so first."""
        found: dict[str, str] = {}
        for step in self.steps.values():
            for text in step.warnings:
                found.setdefault(text, step.title)
        return [(title, text) for text, title in found.items()]

    @cached_property
    def outages(self) -> list[tuple[datetime, datetime | None]]:
        """When the services were down; the end is None while they still are."""
        found: list[tuple[datetime, datetime | None]] = []
        for event in self.events:
            if event["event"] == "services.stopped" and (not found or found[-1][1] is not None):
                found.append((time_of(event), None))
            elif event["event"] == "services.started" and found and found[-1][1] is None:
                found[-1] = (found[-1][0], time_of(event))
        return found

    @property
    def downtime_seconds(self) -> float | None:
        """Sum of all outages, up to the last event while one lasts; None where nothing was stopped."""
        if not self.outages:
            return None
        return sum(((end or self.end) - begin).total_seconds() for begin, end in self.outages)

    @property
    def still_down(self) -> bool:
        """Whether the services were stopped and are not recorded as started since."""
        return bool(self.outages) and self.outages[-1][1] is None

    @cached_property
    def state(self) -> State:
        """Where the run stands."""
        if self.sealed:
            outcome = str(self.sealed.get("outcome"))
            known = _STATES.get(outcome, State(outcome, outcome.replace("_", " ").capitalize(), "", "warn"))
            return known
        if (
            self.newest("reopened")
            or self.newest("rollback.asked")
            or any(s.phase == "Roll back" for s in self.steps.values())
        ):
            return State("running", "Rolling back", "The way back is not finished.", "bad" if self.failures else "busy")
        if self.newest("live"):
            return State(
                "running", "Live on PostgreSQL", "The application runs on PostgreSQL; the run is not closed.", "good"
            )
        if self.failures:
            return State("running", "Running, with a failure", "A step did not pass; the run is not closed.", "bad")
        asked, answered = self.newest("gate.asked"), self.newest("gate")
        if asked and (not answered or answered["seq"] < asked["seq"]):
            return State("running", "Waits for an answer", f"The gate {asked.get('gate')} is open for the lead.", "busy")
        return _STATES["running"]

    @cached_property
    def failures(self) -> list[StepView]:
        """Steps whose newest try did not pass, in the order in which that was known.

        A step without an end counts too, except the one that writes this. Steps that were refused, which another failure
        caused, come last.
        """
        writing = {row.name for row in runbook.ROWS if row.writes_report}
        back = {row.name for row in runbook.way(ROLLBACK)}
        bad = [
            step
            for step in self.steps.values()
            if step.outcome not in ("passed", "running") and not (step.outcome == "unfinished" and step.name in writing)
        ]
        return sorted(bad, key=lambda step: (step.outcome == "refused", step.name in back, step.last.end))

    @property
    def first_failure(self) -> str:
        """The first failure in one sentence, empty where everything passed."""
        if not self.failures:
            answer = next((gate for gate in self.all("gate") if gate.get("answer") not in (None, "Go")), None)
            return f"{answer.get('gate')}: {answer_text(answer)}" if answer else ""
        step = self.failures[0]
        check = next((item for item in step.checks if item.get("outcome") != "passed"), None)
        if check is None:
            return f"{step.name}: {step.last.summary or step.outcome}"
        where = f"{check.get('where')}: " if check.get("where") else ""
        expected = f"expected {check['expected']}, " if check.get("expected") else ""
        return f"{step.name}: {where}{check.get('title')}; {expected}found {check.get('found') or 'nothing'}"

    @property
    def turns(self) -> list[Event]:
        """Answers at the gates and decisions, in order."""
        return [event for event in self.events if event["event"] in ("gate", "decision")]

    @cached_property
    def counts(self) -> list[dict[str, Any]]:
        """Both sides of every table: those with a difference first, then by name."""
        rows = [row for row in self.figures(runbook.CHECK_TABLES).get("tables") or [] if isinstance(row, dict)]
        return sorted(rows, key=lambda row: (row.get("delta") == 0, str(row.get("table"))))

    @property
    def rows(self) -> int:
        """Rows in the target as counted, or copied as long as they were not counted."""
        if self.counts:
            return sum(as_number(row.get("target_rows")) for row in self.counts)
        return sum(as_number((step.figures or {}).get("rows")) for step in self._copies)

    @property
    def tables(self) -> int:
        """Tables that were counted, or copied as long as they were not counted."""
        return len(self.counts) or len({(step.figures or {}).get("table") or step.name for step in self._copies})

    @property
    def _copies(self) -> list[StepView]:
        return [step for step in self.steps.values() if step.is_copy and step.outcome == "passed"]

    @cached_property
    def orphans(self) -> list[dict[str, Any]]:
        """Foreign keys with orphans and the orphans' keys."""
        return [item for item in self.figures(runbook.CHECK_TABLES).get("orphans") or [] if isinstance(item, dict)]

    @cached_property
    def backup(self) -> list[tuple[str, str]]:
        """Facts of the backup's manifest in words."""
        facts = {key: value for key, value in self.newest("backup").items() if key not in _ENVELOPE}
        taken = self.newest("backup").get("taken_at") or self.newest("backup").get("time")
        facts = {**self.figures(runbook.TAKE_BACKUP), **facts, **({"time": taken} if taken else {})}
        return [(_LABELS.get(key, as_words(key)), value_text(key, value)) for key, value in facts.items() if is_plain(value)]

    @cached_property
    def extras(self) -> list[tuple[str, str]]:
        """What was kept beside the backup, and where; what is missing is among the warnings."""
        kept = [item for item in self.newest("extras").get("kept") or [] if isinstance(item, dict) and item.get("file")]
        return [(str(item.get("name")), f"{item['file']}, {value_text('bytes', item.get('bytes'))}") for item in kept]

    @cached_property
    def written_after(self) -> list[tuple[str, str]]:
        """What was written to the target after go-live, per table in words; empty where nothing had been let in.

        What is unknown now may have been counted before: then that is told too.
        """
        found = self.all("rows.written")
        known = next((event for event in reversed(found) if isinstance(event.get("tables"), dict)), None)
        told = []
        if found and found[-1] is not known:
            told.append(("all tables", f"unknown: {found[-1].get('unknown') or 'no reason is recorded'}"))
        if known is not None:
            when = f" (at {clock_text(time_of(known))}, before)" if told else ""
            rows = [(str(table), f"{item.get('in_words')}{when}") for table, item in known["tables"].items()]
            told += rows or [("all tables", f"none{when}")]
        return told

    @property
    def written_files(self) -> Event:
        """The export of these rows: ``folder``, ``files`` and ``problem``; empty where there is none."""
        found = self.newest("rows.written")
        return found if found.get("files") or found.get("problem") else {}

    @cached_property
    def rehearsal(self) -> list[tuple[str, str]]:
        """Of a cutover: the rehearsal before it, and what is different since. Of a rehearsal: what it made and measured."""
        return briefing.of_rehearsal(self.events) or briefing.facts(self.events)

    @cached_property
    def incident(self) -> Incident | None:
        """What the run left, open or closed."""
        return None if self.damage else incident.of(Evidence(self.folder))

    @cached_property
    def kept(self) -> list[tuple[str, str]]:
        """What was kept for the inquiry of the incident, and where."""
        return (
            [] if self.incident is None else [(item.what, mask(item.where)) for item in incident.kept(Evidence(self.folder))]
        )

    @cached_property
    def notices(self) -> list[dict[str, Any]]:
        """Each notice with what became of it in each channel and after how many ``tries``, and ``said``: what people did.

        What belonged to an open run and was not needed any more is left out.
        """
        found: dict[str, dict[str, Any]] = {}
        for event in self.events:
            name = str(event.get("notice"))
            if event["event"] == "notice":
                found.setdefault(name, {"deliveries": {}, "said": []}).update(event)
                if event.get("by"):
                    found[name]["said"].append(f"text by {event['by']}")
            elif event["event"] == "notice.delivery":
                entry = found.setdefault(name, {"notice": name, "deliveries": {}, "said": [], **only_time(event)})
                channel = str(event.get("channel"))
                before = entry["deliveries"].get(channel, {})
                if before.get("outcome") != "sent":
                    entry["deliveries"][channel] = {**event, "tries": before.get("tries", 0) + 1}
            elif event["event"] in ("notice.released", "notice.withheld") and name in found:
                found[name]["said"].append(f"{event['event'].removeprefix('notice.')} by {event.get('by')}")
        over = bool(self.sealed or self.newest("live"))
        return [item for item in found.values() if item["deliveries"] or not (over and item.get("while_open"))]

    @cached_property
    def files(self) -> list[dict[str, Any]]:
        """The newest record of each file of the evidence that is still there."""
        newest = {str(event.get("name")): event for event in self.all("file")}
        return [event for name, event in newest.items() if (self.folder / name).is_file()]

    @cached_property
    def data_docs(self) -> list[tuple[str, str]]:
        """Name and relative address of each stage's Data Docs."""
        pages = sorted((self.folder / "data_docs").glob("*/index.html"))
        return [(page.parent.name.replace("_", " "), address_text(page.relative_to(self.folder))) for page in pages]


def _legible(path: Path) -> list[Event]:
    """What can still be read of events whose chain is broken."""
    events = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _is_event(event: Event) -> bool:
    try:
        return isinstance(event.get("event"), str) and time_of(event).tzinfo is not None
    except (TypeError, ValueError, KeyError):
        return False


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(str(key)): _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value


def time_of(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(event["time"]))


def _earlier(moment: datetime, seconds: Any) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() - (seconds if isinstance(seconds, int | float) else 0), UTC)
