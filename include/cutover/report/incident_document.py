"""The incident document of a run that was rolled back, in Markdown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from include.cutover.evidence.record import EVENTS, Evidence
from include.cutover.masking import mask, one_line
from include.cutover.plan.model import Plan
from include.cutover.report.events import time_of
from include.cutover.report.story import Story
from include.cutover.report.words import (
    address_text,
    answer_text,
    as_number,
    as_words,
    clock_text,
    duration,
    grouped_text,
    keys_text,
    md,
    moment_text,
    weblink_of,
)
from include.cutover.runs import incident, runbook


def incident_document(evidence: Evidence, plan: Plan, reason: str) -> str:
    """Return the incident document as Markdown: failures, timeline, kept data, and the questions of the investigation.

    Args:
        evidence: That of the run.
        plan: The plan that the run froze.
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
    opened = story.run.opened
    downtime = "nothing was stopped" if story.figures.downtime_seconds is None else duration(story.figures.downtime_seconds)
    facts = [
        ("Run", _code(opened.get("run_id") or story.run.folder.name)),
        ("Application", md(plan.application)),
        ("Started by", f"{md(opened.get('actor') or 'not recorded')}: {md(opened.get('reason') or 'no reason recorded')}"),
        ("Opened", moment_text(story.run.start)),
        ("Written", moment_text(datetime.now(UTC))),
        ("State at that time", md(f"{story.state.headline}. {story.state.sentence}")),
        (
            "Downtime",
            downtime + (", and there is no record that the services were started" if story.figures.still_down else ""),
        ),
        ("Reason", md(reason) or "not given"),
        ("First cause", md(story.first_failure) or "no step failed"),
        ("Lead", md(plan.people.lead.name)),
    ]
    lines = [f"# Incident: {md(plan.application)}, move to PostgreSQL", ""]
    if story.run.damage:
        lines += [f"> **The evidence is damaged.** {md(story.run.damage)}", ""]
    if story.run.jumps:
        said = "; ".join(str(jump) for jump in story.run.jumps)
        lines += [f"> **The clock was set during the run:** {md(said)}. Durations are elapsed time; the times below go on"]
        lines += ["> evenly from the first one.", ""]
    return "\n".join([*lines, "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts)])


def _what_failed(story: Story) -> str:
    lines = ["## What failed", ""]
    for step in story.failures:
        lines.append(f"- **{md(step.name)}** {md(step.outcome)} at {moment_text(step.last.end)}: {md(step.last.summary)}")
        for check in step.checks:
            if check.get("outcome") != "passed":
                lines.append(
                    f"  - {md(check.get('outcome'))}: {md(check.get('title'))} ({md(check.get('where'))});"
                    f" expected {md(check.get('expected')) or 'not stated'}, found {md(check.get('found')) or 'nothing'}."
                    f" {md(check.get('do'))}".rstrip()
                )
    for gate in story.run.all("gate"):
        if gate.get("answer") != "Go":
            lines.append(f"- The gate **{md(gate.get('gate'))}**: {md(answer_text(gate))} at {moment_text(time_of(gate))}")
    for event in story.run.all("decision"):
        why = "; ".join(md(item) for item in event.get("why") or [])
        lines.append(
            f"- Decision at {md(event.get('at'))}: **{md(as_words(str(event.get('outcome'))))}**: {why or 'no reason'}"
        )
    return "\n".join(lines if len(lines) > 2 else [*lines, "No step failed."])


def _timeline_table(story: Story) -> str:
    lines = ["## Timeline", "", "| Time (UTC) | Step | Outcome | Took | Summary |", "|---|---|---|---|---|"]
    rows: list[tuple[datetime, str]] = []
    stamp = clock_text if story.run.start.date() == story.run.end.date() else moment_text
    for step in story.steps.values():
        for attempt in step.attempts:
            rows.append(
                (
                    attempt.begin,
                    f"| {stamp(attempt.begin)} | {md(step.name)} | {attempt.outcome} | {duration(attempt.seconds)}"
                    f" | {md(attempt.summary)} |",
                )
            )
    notable = {
        "services.stopped": "services down",
        "services.started": "services up",
        "live": "live on PostgreSQL",
        "reopened": "rollback requested",
        "rollback.asked": "rollback requested",
        "continued": "rollback continued",
        "sealed": "run closed",
    }
    for event in story.run.events:
        if event["event"] in notable:
            on = {"target": " on PostgreSQL", "source": " on SQLite"}.get(str(event.get("on")), "")
            by = f" by {md(event['by'])}" if event.get("by") else ""
            rows.append((time_of(event), f"| {stamp(time_of(event))} | **{notable[event['event']]}{on}{by}** | | | |"))
    return "\n".join([*lines, *(text for _, text in sorted(rows, key=lambda row: row[0]))])


def _orphans_part(story: Story) -> str:
    if not story.figures.orphans:
        return ""
    lines = ["## Orphans", "", "Keys only; the rows are in the source as well.", ""]
    for item in story.figures.orphans:
        name = f"{item.get('table')}.{', '.join(map(str, item.get('columns') or []))}"
        lines.append(f"- {_code(name)} → {_code(item.get('referenced_table'))}: {grouped_text(item.get('count'))}")
        lines += [f"  - {_code(keys_text(key))}" for key in item.get("keys") or []]
        if len(item.get("keys") or []) < as_number(item.get("count")):
            lines.append(f"  - and {as_number(item.get('count')) - len(item.get('keys') or []):,} more")
    return "\n".join(lines)


def _kept_part(story: Story) -> str:
    lines = ["## What was kept, and where", ""]
    kept = story.run.newest("target.kept")
    target, source = story.figures.of_step(runbook.KEEP_TARGET), story.run.newest(incident.SOURCE_FOUND)
    schema = target.get("schema") or kept.get("schema")
    if schema:
        lines.append(f"- The target's data: schema {_code(schema)} in the target database.")
    elif target.get("pending"):
        lines.append(
            f"- The target's data could **not** be set aside yet ({md(target.get('reason'))}); the next run does it first."
        )
    for path, holds in incident.kept_files(story.run.folder, story.run.events):
        lines.append(f"- The source as found: {_code(path.relative_to(story.run.folder))} in the evidence: {md(holds)}.")
    if source and not source.get("kept_in"):
        lines.append(f"- **The SQLite file was not replaced.** It holds: {md(source.get('holds'))}.")
    lines += [
        f"- Backup, {md(label.lower())}: {_code(value)}"
        for label, value in story.artifacts.backup
        if label in ("File", "Second copy")
    ]
    for label, value in story.artifacts.backup:
        if label == "SHA-256":
            lines.append(f"- The backup's SHA-256: {_code(value)}")
    return "\n".join(lines if len(lines) > 2 else [*lines, "Nothing is recorded as kept."])


def _written_part(story: Story) -> str:
    if not story.artifacts.written_after:
        return ""
    lines = ["## Rows written after go-live", "", "They are in PostgreSQL only: SQLite has the data of the backup.", ""]
    lines += [f"- {_code(table)}: {md(rows)}" for table, rows in story.artifacts.written_after]
    export = story.artifacts.written_files
    if export.get("files"):
        lines += ["", f"Exported to {_code(export['folder'])} of the evidence, whole rows, secret columns included:", ""]
        lines += [f"- {_code(item['name'])}: {grouped_text(item['lines'])} lines" for item in export["files"]]
    if export.get("problem"):
        lines += ["", f"**The export is not complete** ({md(export['problem'])}); all rows are in the kept schema."]
    if story.run.newest("rows.written").get("tables") is None:
        lines += ["", "The next run counts and exports them first, once the target can be reached."]
    return "\n".join(lines)


def _evidence_part(story: Story) -> str:
    lines = ["## Evidence", "", f"- Folder: {_code(story.run.folder)}", f"- [Events]({EVENTS})", "- [Report](report.html)"]
    lines += [f"- [Data Docs: {md(name)}]({address})" for name, address in story.artifacts.data_docs]
    for event in story.artifacts.files:
        name = str(event.get("name"))
        lines.append(f"- [{md(name)}]({address_text(name)}), SHA-256 {_code(str(event.get('sha256'))[:16])}…")
    for step in story.failures:
        if weblink_of(step.log_url):
            lines.append(f"- [Log of {md(step.name)}](<{step.log_url}>)")
    return "\n".join(lines)


def _follow_up(plan: Plan) -> str:
    return "\n".join(
        [
            "## Root cause / follow-up",
            "",
            f"_To be filled in by {md(plan.people.lead.name)}._",
            "",
            "- Root cause:",
            "- Why the checks before the window did not find it:",
            "- Fix, where, by whom:",
            "- Kept data: what to do with it, and until when to keep it:",
            "- New window:",
        ]
    )


def _code(text: Any) -> str:
    flat = one_line(str(text)).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`"
