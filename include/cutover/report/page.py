"""The report of a run for the observer and the lead, and the document that an inquiry starts from.

Both are derived from the events of the evidence and nothing else, so that they can be written for a run that was killed,
with PostgreSQL down, or years later. A missing event leaves a gap that is said, never a failure. What looks like a secret is
masked once more before anything is rendered, and every value is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Template

from include.cutover.errors import CannotCheck
from include.cutover.evidence.record import EVENTS, Event, Evidence, sealing
from include.cutover.masking import mask
from include.cutover.plan.model import Plan
from include.cutover.runs import briefing, incident
from include.cutover.runs.incident import Incident

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

_NEXT = {
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

_PHASES = (
    (
        "Prepare",
        r"open_(run|rehearsal)|create_database|clone_source|announce_start|check_(target|source|services|places)|assess_source"
        r"|apply_ddl|apply_migrations|go_no_go|wait_for_window",
    ),
    ("Stop and back up", r"stop_services|fence_source|take_backup|plan_copy"),
    ("Copy", r"copy\..*|restore_test|snapshot_extras"),
    (
        "Finish the target",
        r"build_keys_and_indexes|load_reference_data|store_quarantine|declare_foreign_keys|set_sequences|analyze_tables"
        r"|grant_access",
    ),
    ("Verify", r"check_\w+|validate_foreign_keys|smoke_test_database|decide|mark_target"),
    ("Go live", r"approve|switch_configuration|start_services|smoke_test_application|decide_live|announce_completion"),
    ("Release", r"release\..*"),
    ("Roll back", r"rollback\..*|open_rollback"),
    ("Way back", r"way_back\..*"),
    ("Close", r"abandon|close_(run|rollback|rehearsal)"),
)


def phase_of(step: str) -> str:
    """The part of the run that a step belongs to; ``Other`` for one that is not known."""
    return next((phase for phase, pattern in _PHASES if re.fullmatch(pattern, step)), "Other")


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
        return self.name.startswith("copy.")

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
        return phase_of(self.name)


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
        return _time(self.events[0]) if self.events else datetime.fromtimestamp(0, UTC)

    @property
    def end(self) -> datetime:
        """Time of the seal, or of the last event."""
        return _time(self.sealed or self.events[-1]) if self.events else self.start

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
                tries.append({"begin": _time(event), "log_url": event.get("log_url")})
            elif kind == "step.end":
                if not tries or "event" in tries[-1]:
                    # A step that was refused at the door never began.
                    tries.append({"begin": _earlier(_time(event), event.get("seconds"))})
                tries[-1] |= {"end": _time(event), "event": event}
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
            _time(event) >= begin
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
                found.append((_time(event), None))
            elif event["event"] == "services.started" and found and found[-1][1] is None:
                found[-1] = (found[-1][0], _time(event))
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
        writing = {"close_run", "close_rollback", "close_rehearsal", "rollback.write_incident"}
        bad = [
            step
            for step in self.steps.values()
            if step.outcome not in ("passed", "running") and not (step.outcome == "unfinished" and step.name in writing)
        ]
        return sorted(bad, key=lambda step: (step.outcome == "refused", step.name.startswith("rollback."), step.last.end))

    @property
    def first_failure(self) -> str:
        """The first failure in one sentence, empty where everything passed."""
        if not self.failures:
            answer = next((gate for gate in self.all("gate") if gate.get("answer") not in (None, "Go")), None)
            return f"{answer.get('gate')}: {_answer(answer)}" if answer else ""
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
        rows = [row for row in self.figures("check_tables").get("tables") or [] if isinstance(row, dict)]
        return sorted(rows, key=lambda row: (row.get("delta") == 0, str(row.get("table"))))

    @property
    def rows(self) -> int:
        """Rows in the target as counted, or copied as long as they were not counted."""
        if self.counts:
            return sum(_number(row.get("target_rows")) for row in self.counts)
        return sum(_number((step.figures or {}).get("rows")) for step in self._copies)

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
        return [item for item in self.figures("check_tables").get("orphans") or [] if isinstance(item, dict)]

    @cached_property
    def backup(self) -> list[tuple[str, str]]:
        """Facts of the backup's manifest in words."""
        facts = {key: value for key, value in self.newest("backup").items() if key not in _ENVELOPE}
        taken = self.newest("backup").get("taken_at") or self.newest("backup").get("time")
        facts = {**self.figures("take_backup"), **facts, **({"time": taken} if taken else {})}
        return [(_LABELS.get(key, _words(key)), _value(key, value)) for key, value in facts.items() if _is_plain(value)]

    @cached_property
    def extras(self) -> list[tuple[str, str]]:
        """What was kept beside the backup, and where; what is missing is among the warnings."""
        kept = [item for item in self.newest("extras").get("kept") or [] if isinstance(item, dict) and item.get("file")]
        return [(str(item.get("name")), f"{item['file']}, {_value('bytes', item.get('bytes'))}") for item in kept]

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
            when = f" (at {_clock(_time(known))}, before)" if told else ""
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
                entry = found.setdefault(name, {"notice": name, "deliveries": {}, "said": [], **_only_time(event)})
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
        return [(page.parent.name.replace("_", " "), _address(page.relative_to(self.folder))) for page in pages]


def run_report(evidence: Evidence, plan: Plan) -> str:
    """The report as one HTML page that needs nothing beside itself: no script, no other file.

    Links to Data Docs and files are relative to the folder of the evidence, where the page belongs.

    Raises:
        CannotCheck: When there is no evidence.
    """
    story = Story(evidence)
    return _page().render(
        story=story,
        plan=plan,
        state=story.state,
        summary=summary(evidence, plan, story),
        timeline=_Timeline(story),
        next_steps=_NEXT.get(story.state.outcome, ()),
        written=datetime.now(UTC),
    )


@cache
def _page() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=ChainableUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        duration=duration, clock=_clock, moment=_moment, value=_plain_value, number=_grouped, delta=_signed, keys=_keys_text,
        address=_address, answer=_answer,
        weblink=_weblink,
    )  # fmt: skip
    return environment.get_template("report.html.j2")


def summary(evidence: Evidence, plan: Plan, story: Story | None = None) -> dict[str, Any]:
    """The run in a few figures.

    Returns:
        ``outcome`` (``running`` while the run is open), ``rows``, ``tables``, ``checks_passed``, ``checks_failed``,
        ``checks_unknown``, ``downtime_seconds`` (None where nothing was stopped), ``duration_seconds`` and
        ``first_failure`` (a sentence; empty where everything passed).

    Raises:
        CannotCheck: When there is no evidence.
    """
    told = story or Story(evidence)
    downtime = told.downtime_seconds
    return {
        "outcome": told.state.outcome,
        "rows": told.rows,
        "tables": told.tables,
        "checks_passed": told.count("passed"),
        "checks_failed": told.count("failed"),
        "checks_unknown": told.count("unknown"),
        "downtime_seconds": None if downtime is None else round(downtime, 3),
        "duration_seconds": round((told.end - told.start).total_seconds(), 3),
        "first_failure": told.first_failure,
    }


# ---- the incident document --------------------------------------------------------------------------------------------


def incident_document(evidence: Evidence, plan: Plan, reason: str) -> str:
    """What failed, when and why, where everything was kept, and what is left to find out: Markdown for the inquiry.

    Args:
        reason: Why the run was rolled back.

    Raises:
        CannotCheck: When there is no evidence.
    """
    story = Story(evidence)
    parts = [
        _head(story, plan, mask(reason)),
        _what_failed(story),
        _timeline_table(story),
        _orphans_part(story),
        _kept_part(story),
        _written_part(story),
        _evidence_part(story),
        _follow_up(plan),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(story: Story, plan: Plan, reason: str) -> str:
    opened = story.opened
    downtime = "nothing was stopped" if story.downtime_seconds is None else duration(story.downtime_seconds)
    facts = [
        ("Run", _code(opened.get("run_id") or story.folder.name)),
        ("Application", _md(plan.application)),
        ("Started by", f"{_md(opened.get('actor') or 'not recorded')}: {_md(opened.get('reason') or 'no reason recorded')}"),
        ("Opened", _moment(story.start)),
        ("This was written", _moment(datetime.now(UTC))),
        ("State then", _md(f"{story.state.headline}. {story.state.sentence}")),
        ("Downtime", downtime + (", and the services are not recorded as started" if story.still_down else "")),
        ("Reason", _md(reason) or "not given"),
        ("First cause", _md(story.first_failure) or "no step failed"),
        ("Lead", _md(plan.people.lead.name)),
    ]
    lines = [f"# Incident: {_md(plan.application)}, move to PostgreSQL", ""]
    if story.damage:
        lines += [f"> **The evidence is damaged.** {_md(story.damage)}", ""]
    return "\n".join([*lines, "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts)])


def _what_failed(story: Story) -> str:
    lines = ["## What failed", ""]
    for step in story.failures:
        lines.append(f"- **{_md(step.name)}** {_md(step.outcome)} at {_moment(step.last.end)}: {_md(step.last.summary)}")
        for check in step.checks:
            if check.get("outcome") != "passed":
                lines.append(
                    f"  - {_md(check.get('outcome'))}: {_md(check.get('title'))} ({_md(check.get('where'))});"
                    f" expected {_md(check.get('expected')) or 'not stated'}, found {_md(check.get('found')) or 'nothing'}."
                    f" {_md(check.get('do'))}".rstrip()
                )
    for gate in story.all("gate"):
        if gate.get("answer") != "Go":
            lines.append(f"- The gate **{_md(gate.get('gate'))}**: {_md(_answer(gate))} at {_moment(_time(gate))}")
    for event in story.all("decision"):
        why = "; ".join(_md(item) for item in event.get("why") or [])
        lines.append(
            f"- Decision at {_md(event.get('at'))}: **{_md(_words(str(event.get('outcome'))))}**: {why or 'no reason'}"
        )
    return "\n".join(lines if len(lines) > 2 else [*lines, "No step failed."])


def _timeline_table(story: Story) -> str:
    lines = ["## Timeline", "", "| Time (UTC) | Step | Outcome | Took | What it said |", "|---|---|---|---|---|"]
    rows: list[tuple[datetime, str]] = []
    stamp = _clock if story.start.date() == story.end.date() else _moment
    for step in story.steps.values():
        for attempt in step.attempts:
            rows.append(
                (
                    attempt.begin,
                    f"| {stamp(attempt.begin)} | {_md(step.name)} | {attempt.outcome} | {duration(attempt.seconds)}"
                    f" | {_md(attempt.summary)} |",
                )
            )
    told = {
        "services.stopped": "the services go down",
        "services.started": "the services are up",
        "live": "live on PostgreSQL",
        "reopened": "a rollback was asked for",
        "rollback.asked": "a rollback was asked for",
        "continued": "the way back goes on",
        "sealed": "the run is closed",
    }
    for event in story.events:
        if event["event"] in told:
            on = {"target": " on PostgreSQL", "source": " on SQLite"}.get(str(event.get("on")), "")
            by = f" by {_md(event['by'])}" if event.get("by") else ""
            rows.append((_time(event), f"| {stamp(_time(event))} | **{told[event['event']]}{on}{by}** | | | |"))
    return "\n".join([*lines, *(text for _, text in sorted(rows, key=lambda row: row[0]))])


def _orphans_part(story: Story) -> str:
    if not story.orphans:
        return ""
    lines = ["## Orphans", "", "Keys only; the rows are in the source as well.", ""]
    for item in story.orphans:
        name = f"{item.get('table')}.{', '.join(map(str, item.get('columns') or []))}"
        lines.append(f"- {_code(name)} → {_code(item.get('referenced_table'))}: {_grouped(item.get('count'))}")
        lines += [f"  - {_code(_keys_text(key))}" for key in item.get("keys") or []]
        if len(item.get("keys") or []) < _number(item.get("count")):
            lines.append(f"  - and {_number(item.get('count')) - len(item.get('keys') or []):,} more")
    return "\n".join(lines)


def _kept_part(story: Story) -> str:
    lines = ["## What was kept, and where", ""]
    kept = story.newest("target.kept")
    target, source = story.figures("rollback.keep_target"), story.figures("rollback.restore_source")
    schema = target.get("schema") or kept.get("schema")
    if schema:
        lines.append(f"- The target's data: schema {_code(schema)} in the target database.")
    elif target.get("pending"):
        lines.append(
            f"- The target's data could **not** be put aside yet ({_md(target.get('reason'))}); the next run does it."
        )
    for name in source.get("kept") or []:
        lines.append(f"- The source as it was found: {_code(name)} in the folder {_code('kept')} of the evidence.")
    lines += [
        f"- Backup, {_md(label.lower())}: {_code(value)}"
        for label, value in story.backup
        if label in ("File", "Second copy")
    ]
    for label, value in story.backup:
        if label == "SHA-256":
            lines.append(f"- The backup's SHA-256: {_code(value)}")
    return "\n".join(lines if len(lines) > 2 else [*lines, "Nothing is recorded as kept."])


def _written_part(story: Story) -> str:
    if not story.written_after:
        return ""
    lines = ["## Rows written after go-live", "", "They are in PostgreSQL only: SQLite is as of the backup.", ""]
    lines += [f"- {_code(table)}: {_md(rows)}" for table, rows in story.written_after]
    export = story.written_files
    if export.get("files"):
        lines += ["", f"Exported to {_code(export['folder'])} of the evidence, whole rows, secret columns included:", ""]
        lines += [f"- {_code(item['name'])}: {_grouped(item['lines'])} lines" for item in export["files"]]
    if export.get("problem"):
        lines += ["", f"**Not all of them could be exported** ({_md(export['problem'])}); they are in the kept schema."]
    if story.newest("rows.written").get("tables") is None:
        lines += ["", "When the target can be reached, the next run counts and exports them before it begins."]
    return "\n".join(lines)


def _evidence_part(story: Story) -> str:
    lines = ["## Evidence", "", f"- Folder: {_code(story.folder)}", f"- [Events]({EVENTS})", "- [Report](report.html)"]
    lines += [f"- [Data Docs: {_md(name)}]({address})" for name, address in story.data_docs]
    for event in story.files:
        name = str(event.get("name"))
        lines.append(f"- [{_md(name)}]({_address(name)}), SHA-256 {_code(str(event.get('sha256'))[:16])}…")
    for step in story.failures:
        if _weblink(step.log_url):
            lines.append(f"- [Log of {_md(step.name)}](<{step.log_url}>)")
    return "\n".join(lines)


def _follow_up(plan: Plan) -> str:
    return "\n".join(
        [
            "## Root cause / follow-up",
            "",
            f"_To be filled in by {_md(plan.people.lead.name)}._",
            "",
            "- Root cause:",
            "- Why the checks before the window did not find it:",
            "- What is corrected, where, by whom:",
            "- What happens with the kept data, and until when it is kept:",
            "- New window:",
        ]
    )


# ---- the timeline -----------------------------------------------------------------------------------------------------


class _Timeline:
    """Steps along a scale of time on which long waits are cut short, so that what took a second can still be seen."""

    _LONGEST_WAIT = 8.0  # seconds without any step that are drawn as they are
    _WAIT_WIDTH = 0.03  # part of the whole that a cut wait takes

    def __init__(self, story: Story) -> None:
        self._story = story
        spans = sorted((item.begin, item.end) for step in story.steps.values() for item in step.attempts)
        merged: list[list[datetime]] = []
        for begin, end in spans:
            if merged and begin <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([begin, end])
        edges = [story.start, *(moment for span in merged for moment in span), max([story.end, *(end for _, end in spans)])]
        pieces = [(edges[i], edges[i + 1], i % 2 == 0) for i in range(len(edges) - 1) if edges[i + 1] > edges[i]]
        shown = sum((end - begin).total_seconds() for begin, end, idle in pieces if not self._is_cut(begin, end, idle))
        cuts = sum(self._is_cut(*piece) for piece in pieces)
        unit = shown / max(0.3, 1 - cuts * self._WAIT_WIDTH) or 1.0
        self._pieces: list[tuple[datetime, datetime, float, float]] = []
        self.waits: list[tuple[float, float, float]] = []
        at = 0.0
        for begin, end, idle in pieces:
            seconds = (end - begin).total_seconds()
            cut = self._is_cut(begin, end, idle)
            width = self._WAIT_WIDTH if cut else seconds / unit
            self._pieces.append((begin, end, at, width))
            if cut:
                self.waits.append((100 * at, 100 * width, seconds))
            at += width

    def _is_cut(self, begin: datetime, end: datetime, idle: bool) -> bool:
        return idle and (end - begin).total_seconds() > self._LONGEST_WAIT

    def percent(self, moment: datetime) -> float:
        """Where a moment lies, in percent."""
        for begin, end, at, width in self._pieces:
            if moment <= end:
                share = (moment - begin).total_seconds() / (end - begin).total_seconds()
                return 100 * (at + width * min(1.0, max(0.0, share)))
        return 100.0 if self._pieces else 0.0

    def bars(self, step: StepView) -> list[dict[str, Any]]:
        """One bar for each try."""
        found = []
        for attempt in step.attempts:
            left = min(self.percent(attempt.begin), 99.6)
            width = max(0.4, self.percent(attempt.end) - left)
            found.append({"left": f"{left:.2f}", "width": f"{width:.2f}", "outcome": attempt.outcome})
        return found

    @property
    def shade(self) -> str:
        """Background of the lanes: when the services were down, and where a wait is cut, as CSS."""
        layers = []
        for begin, end in self._story.outages:
            layers.append(_band("--down", self.percent(begin), self.percent(end or self._story.end)))
        layers += [_band("--wait", left, left + width) for left, width, _ in self.waits]
        return ", ".join(layers) or "none"

    @property
    def phases(self) -> list[tuple[str, list[StepView], float]]:
        """The parts of the runbook in the order in which they began, with their steps and how long they took."""
        grouped: dict[str, list[StepView]] = {}
        for step in self._story.steps.values():
            grouped.setdefault(step.phase, []).append(step)
        phases = []
        for name, steps in grouped.items():
            begin = min(item.begin for step in steps for item in step.attempts)
            end = max(item.end for step in steps for item in step.attempts)
            phases.append((name, steps, (end - begin).total_seconds()))
        return phases


def _band(colour: str, left: float, right: float) -> str:
    return (
        f"linear-gradient(90deg, transparent {left:.2f}%, var({colour}) {left:.2f}% {right:.2f}%, transparent {right:.2f}%)"
    )


# ---- words ------------------------------------------------------------------------------------------------------------


def duration(seconds: Any) -> str:
    """``0.42 s``, ``12.3 s``, ``1 min 05 s``, ``2 h 03 min``; a dash for what is no number."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return "–"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _answer(gate: Mapping[str, Any]) -> str:
    """``Go by lead``, ``No-go: nobody answered in time``, ``Go, automatically as the plan allows``."""
    answer = str(gate.get("answer"))
    if gate.get("automatic"):
        return f"{answer}, automatically as the plan allows"
    return f"{answer} by {gate['by']}" if gate.get("by") else f"{answer}: nobody answered in time"


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
        return isinstance(event.get("event"), str) and _time(event).tzinfo is not None
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


def _time(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(event["time"]))


def _only_time(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"time": event["time"], "subject": "", "text": ""}


def _earlier(moment: datetime, seconds: Any) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() - (seconds if isinstance(seconds, int | float) else 0), UTC)


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M:%S}"


def _moment(moment: Any) -> str:
    """``2026-03-01 12:00:05 UTC``; text that is no time stays as it is."""
    if isinstance(moment, datetime):
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    text = str(moment or "")
    try:
        return _moment(datetime.fromisoformat(text))
    except ValueError:
        return text


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _grouped(value: Any) -> str:
    """``12,345``; what is no number as it is, nothing as a dash."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if value is None else str(value)


def _signed(value: Any) -> str:
    """``+12``, ``−3``, ``0``."""
    number = _number(value)
    return f"{number:+,}".replace("-", "−") if number else _grouped(value)


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, dict | list) and value != ""


def _plain_value(value: Any) -> str:
    return _value("", value)


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "bytes":
        return f"{_number(value):,} bytes"
    if key == "time":
        return _moment(value)
    return _grouped(value)


def _keys_text(key: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in key.items()) if isinstance(key, dict) else str(key)


def _address(path: Any) -> str:
    """A relative path as an address."""
    text = path.as_posix() if isinstance(path, Path) else str(path)
    return quote(text, safe="/")


def _weblink(url: Any) -> str:
    """The address when it is one that a page may link to, else nothing."""
    return str(url) if re.match(r"(?:https?://|/(?!/))[^\s<>\"]+$", str(url or "")) else ""


def _md(text: Any) -> str:
    """Text as Markdown shows it unchanged, on one line."""
    flat = " ".join(("" if text is None else str(text)).split())
    return re.sub(r"([\\`*\[\]|<>#]|(?<!\w)_|_(?!\w))", r"\\\1", flat)


def _code(text: Any) -> str:
    flat = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`"
