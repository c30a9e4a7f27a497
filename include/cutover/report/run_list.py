"""The list of a plan's runs, as a page.

Everything that comes from evidence or from outside is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

from include.cutover.evidence.record import EVENTS, REHEARSALS, Evidence, evidence_root
from include.cutover.report.addresses import key_of
from include.cutover.report.pages import page
from include.cutover.report.story import Story
from include.cutover.report.words import duration


@dataclass(frozen=True)
class RunSummary:
    """One line in the list of runs.

    Attributes:
        key: Its name in addresses, see ``key_of``.
        run_id: As Airflow knows it.
        kind: ``cutover``, ``rehearsal``, ``rollback``: the verb of its DAG's name.
        subject: The run id of the cutover that a rollback works on.
        state: Where it stands, in words.
        tone: good, warn, bad, calm or busy.
        opened: Time of its first event; None when nothing is readable.
        seconds: From the first event to the seal; None while it is open.
        downtime: Seconds without services; None where they were never stopped.
    """

    key: str
    run_id: str
    kind: str
    state: str
    tone: str
    opened: datetime | None
    subject: str | None = None
    actor: str = ""
    reason: str = ""
    seconds: float | None = None
    downtime: float | None = None


def summarise(evidence: Evidence) -> RunSummary:
    """Return the line of a run. Damaged evidence gets a line too: it must not hide the other runs."""
    key = key_of(evidence)
    story = Story(evidence)
    begin = story.run.start if story.run.events else None
    if story.run.damage:
        return RunSummary(key, key, "cutover", "Evidence damaged", "bad", begin)
    rollback = story.run.newest("rollback.opened")
    if rollback:
        return RunSummary(
            key=key,
            run_id=str(rollback.get("run_id") or key),
            kind="rollback",
            state="Rollback",
            tone="warn",
            opened=begin,
            subject=str(rollback.get("subject")),
            actor=str(rollback.get("by") or ""),
            reason=str(rollback.get("reason") or ""),
        )
    opened, waits = story.run.opened, not story.run.sealed and _waits(story)
    return RunSummary(
        key=key,
        run_id=str(opened.get("run_id") or key),
        kind=str(opened.get("dag_id") or "cutover").partition("_")[0],
        state="Waiting for an answer" if waits else story.state.headline,
        tone="busy" if waits else story.state.tone,
        opened=begin,
        actor=str(opened.get("actor") or ""),
        reason=str(opened.get("reason") or ""),
        seconds=(story.run.end - story.run.start).total_seconds() if story.run.sealed else None,
        downtime=story.figures.downtime_seconds,
    )


def runs_of(plan: str) -> list[RunSummary]:
    """List all runs and rehearsals of a plan that left evidence, newest first."""
    found = [*_all_below(evidence_root() / plan), *_all_below(evidence_root() / REHEARSALS / plan)]
    never = datetime.max.replace(tzinfo=UTC)
    return sorted((summarise(item) for item in found), key=lambda run: (run.opened or never, run.key), reverse=True)


def _all_below(folder: Path) -> list[Evidence]:
    """List all evidence in a folder, damaged evidence included."""
    return [Evidence(item) for item in folder.iterdir() if (item / EVENTS).is_file()] if folder.is_dir() else []


def _waits(story: Story) -> bool:
    """Report whether the last event is a question, notices and files aside."""
    seen = [event for event in story.run.events if event["event"] != "file" and not event["event"].startswith("notice")]
    return bool(seen) and seen[-1]["event"] == "gate.asked"


def runs_page(plans: Mapping[str, Sequence[RunSummary]], base: str) -> str:
    """Render the runs of each plan as one page.

    Args:
        plans: By name.
        base: Path of the plugin's pages, without a slash at the end.
    """
    parts = ["<h1>Cutovers</h1>"]
    if not plans:
        parts.append("<p>You may not see the DAG of any plan.</p>")
    for name, found in plans.items():
        parts.append(f"<h2>{escape(name)}</h2>")
        if not found:
            parts.append(f"<p>No run yet. Trigger the DAG <code>cutover_{escape(name)}</code> to start one.</p>")
            continue
        parts.append(
            "<table><thead><tr><th>Run</th><th>Outcome</th><th>Opened</th><th>By</th><th>Reason</th>"
            '<th class="number">Took</th><th class="number">Downtime</th></tr></thead><tbody>'
        )
        parts += [_row(name, run, base) for run in found]
        parts.append("</tbody></table>")
    return page("Cutovers", "".join(parts))


def _row(plan: str, run: RunSummary, base: str) -> str:
    address = f"{base}/{quote(plan)}/{quote(run.key)}/"
    kind = "" if run.kind == "cutover" else f'<small class="kind">{escape(run.kind)}</small> '
    about = f"<br><small>of {escape(run.subject)}</small>" if run.subject else ""
    when = f"{run.opened.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if run.opened else ""
    return (
        f'<tr><td class="run">{kind}<a href="{escape(address)}">{escape(run.run_id)}</a>{about}</td>'
        f'<td><span class="badge {escape(run.tone)}">{escape(run.state)}</span></td>'
        f'<td class="time">{when}</td><td>{escape(run.actor)}</td><td>{escape(run.reason)}</td>'
        f'<td class="number">{_duration(run.seconds)}</td><td class="number">{_duration(run.downtime)}</td></tr>'
    )


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)
