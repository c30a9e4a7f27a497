"""Everything a run kept, with its place: backup, extras, rows written after go-live, files of the evidence."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from include.cutover.evidence.record import ENVELOPE, Event, Evidence
from include.cutover.masking import mask
from include.cutover.report.events import RunEvents, time_of
from include.cutover.report.figures import RunFigures
from include.cutover.report.words import address_text, as_words, clock_text, is_plain, value_text
from include.cutover.runs import incident, runbook
from include.cutover.runs.incident import Incident

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


class Artifacts:
    """Everything that a run kept; lists of a label and a text."""

    def __init__(self, run: RunEvents, figures: RunFigures) -> None:
        self._run = run
        self._figures = figures

    @cached_property
    def backup(self) -> list[tuple[str, str]]:
        """Facts of the backup's manifest in words."""
        recorded = self._run.newest("backup")
        facts = {key: value for key, value in recorded.items() if key not in ENVELOPE}
        taken = recorded.get("taken_at") or recorded.get("time")
        facts = {**self._figures.of_step(runbook.TAKE_BACKUP), **facts, **({"time": taken} if taken else {})}
        return [(_LABELS.get(key, as_words(key)), value_text(key, value)) for key, value in facts.items() if is_plain(value)]

    @cached_property
    def extras(self) -> list[tuple[str, str]]:
        """Name and place of each extra kept beside the backup; missing ones are among the warnings."""
        kept = [item for item in self._run.newest("extras").get("kept") or [] if isinstance(item, dict) and item.get("file")]
        return [(str(item.get("name")), f"{item['file']}, {value_text('bytes', item.get('bytes'))}") for item in kept]

    @cached_property
    def written_after(self) -> list[tuple[str, str]]:
        """Rows written to the target after go-live, per table in words; empty where writes were never allowed.

        Where the newest count is unknown, an earlier one is given as well.
        """
        counts = self._run.all("rows.written")
        known = next((event for event in reversed(counts) if isinstance(event.get("tables"), dict)), None)
        lines = []
        if counts and counts[-1] is not known:
            lines.append(("all tables", f"unknown: {counts[-1].get('unknown') or 'no reason was recorded'}"))
        if known is not None:
            when = f" (counted at {clock_text(time_of(known))})" if lines else ""
            rows = [(str(table), f"{item.get('in_words')}{when}") for table, item in known["tables"].items()]
            lines += rows or [("all tables", f"none{when}")]
        return lines

    @property
    def written_files(self) -> Event:
        """The export of these rows: ``folder``, ``files`` and ``problem``; empty where there is none."""
        found = self._run.newest("rows.written")
        return found if found.get("files") or found.get("problem") else {}

    @cached_property
    def incident(self) -> Incident | None:
        """The incident of the run, open or closed; None where it left none, or its evidence is damaged."""
        return None if self._run.damage else incident.of(Evidence(self._run.folder))

    @cached_property
    def kept_for_the_inquiry(self) -> list[tuple[str, str]]:
        """Everything kept for the investigation into the incident, and its place."""
        if self.incident is None:
            return []
        return [(item.what, mask(item.where)) for item in incident.kept(Evidence(self._run.folder))]

    @cached_property
    def files(self) -> list[dict[str, Any]]:
        """The newest record of each file of the evidence that is still there."""
        newest = {str(event.get("name")): event for event in self._run.all("file")}
        return [event for name, event in newest.items() if (self._run.folder / name).is_file()]

    @cached_property
    def data_docs(self) -> list[tuple[str, str]]:
        """Name and relative address of each stage's Data Docs."""
        pages = sorted((self._run.folder / "data_docs").glob("*/index.html"))
        return [(page.parent.name.replace("_", " "), address_text(page.relative_to(self._run.folder))) for page in pages]
