"""Foreign text in keys, values and reasons: it is shown as text everywhere, and does nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import yaml

from examples.receivers import MAIL, SLACK
from include.cutover.places import ROOT
from tests.faults.matrix import RESTORED, cell
from tests.faults.site import CUTOVER, PLAN, until
from tests.faults.trial import Trial

MARK = "foreignmark"
TEXT = (
    f"{MARK} <script>alert(1)</script> <!channel> <http://evil.invalid|click> {{{{ 7 * 191 }}}} "
    "[link](http://evil.invalid) **bold** `code` |cell| \x1b[31mred\x1b[0m \x07 \u202eeslaf\u202c "
    "\u2066hidden\u2069\n# forged heading\nsealed: live \x9b2J"
)
_JINJA = str(7 * 191)
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_FORGED = re.compile(r"^\W*(?:# forged heading|sealed: live)", re.MULTILINE)

_SOURCE = """
CREATE TABLE zones (code TEXT NOT NULL PRIMARY KEY);
CREATE TABLE zone_notes (code TEXT NOT NULL PRIMARY KEY, zone TEXT REFERENCES zones (code));
"""
_SQL = {
    "pre_data": "CREATE TABLE zones (code text NOT NULL);\nCREATE TABLE zone_notes (code text NOT NULL, zone text);\n",
    "post_data": "ALTER TABLE zones ADD CONSTRAINT zones_pkey PRIMARY KEY (code);\n"
    "ALTER TABLE zone_notes ADD CONSTRAINT zone_notes_pkey PRIMARY KEY (code);\n"
    "CREATE INDEX zone_notes_zone_idx ON zone_notes (zone);\n",
    "foreign_keys": "ALTER TABLE zone_notes ADD CONSTRAINT zone_notes_zone_fkey\n"
    "    FOREIGN KEY (zone) REFERENCES zones (code) NOT VALID;\n",
}


def more_tables(trial: Trial) -> None:
    """Give application and plan two tables with keys of text, until the cell is over."""
    site = trial.site
    file = site.plans / f"{PLAN}.yaml"
    plan = yaml.safe_load(file.read_text())
    plan["tables"] |= {"zones": None, "zone_notes": None}
    for kind, statements in _SQL.items():
        files = (site.sql / PLAN / kind).glob("*.sql")
        added = site.sql / PLAN / kind / f"{max(int(file.name[:3]) for file in files) + 1:03}_zones.sql"
        added.write_text(statements)
        trial.afterwards(added.unlink)
    pristine, kept = site.pristine / "ward_ops.db", site.folder / "pristine.kept"
    shutil.copy2(pristine, kept)
    trial.afterwards(lambda: kept.replace(pristine))
    for statement in (
        _SOURCE,
        "INSERT INTO zones VALUES (:text)",
        "INSERT INTO zone_notes VALUES ('note ' || :text, :text)",
    ):
        in_source(trial, statement)
    edited = datetime.now(UTC)
    trial.edit(file, yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))

    def parsed() -> bool:
        found = trial.lead._call("GET", f"/api/v2/dags/{CUTOVER}")
        return datetime.fromisoformat(found["last_parsed_time"]) > edited

    until(parsed, site.pulse.patience(90), "the DAG was parsed again")


def in_source(trial: Trial, statement: str) -> None:
    """Carry a statement out in the application's database, and in the one that the judge compares it with."""
    for database in (trial.site.ward_ops.database, trial.site.pristine / "ward_ops.db"):
        with contextlib.closing(sqlite3.connect(database, timeout=15)) as connection, connection:
            if ":text" in statement:
                connection.execute(statement, {"text": TEXT})
            else:
                connection.executescript(statement)


def outputs(trial: Trial, run_id: str) -> Iterator[tuple[str, str]]:
    """Yield each output of the run in which the text is: a name, and its content as a reader's program gets it."""
    evidence = trial.evidence(run_id).folder
    for path in sorted(evidence.rglob("*")):
        if path.suffix in (".html", ".md", ".jsonl", ".json", ".csv", ".txt"):
            yield path.relative_to(evidence).as_posix(), path.read_text(errors="replace")
    for path in sorted((trial.site.stack.folder / "logs" / "tasks").rglob("*.log")):
        yield f"logs/{path.name}", path.read_text(errors="replace")
    for name in (SLACK, MAIL):
        lines = (trial.site.received / name).read_text().splitlines()
        yield from ((name, json.loads(line)["text"]) for line in lines)
    place = ["--plan", PLAN]
    commands = (["status", *place], ["evidence", "check", str(evidence)], ["incident", "show", *place])
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "include.cutover", *command], capture_output=True, cwd=ROOT, check=False,
            env={**os.environ, **trial.site.environment, **trial.site.airflow_connections},
        )  # fmt: skip
        yield f"command {command[0]}", (done.stdout + done.stderr).decode(errors="replace")


def problems_in(name: str, text: str) -> list[str]:
    """Return what is not neutral in an output."""
    found = [f"{name}: raw {match!r}" for match in sorted(set(_RAW.findall(text)))]
    kind = Path(name).suffix
    if kind == ".md":
        text = re.sub(r"(?<!\\)`[^`]*`", "", text)  # a span of code shows what is in it
    if kind == ".html":
        found += [f"{name}: {tag}" for tag in ("<script>alert", "<http://evil") if tag in text]
    elif kind == ".md":
        found += [
            f"{name}: {words}"
            for words in (" <script>alert", "](http://evil")
            if re.search(f"(?<!\\\\){re.escape(words)}", text)
        ]
    elif name == SLACK:
        found += [f"{name}: {words}" for words in ("<!channel>", "<http://evil") if words in text]
    if kind not in (".jsonl", ".json", ".log", ".html") and _FORGED.search(text):
        found.append(f"{name}: the text begins a line of its own")
    if MARK in text and f"{MARK} {_JINJA}" in text:
        found.append(f"{name}: a template was carried out")
    return found


@cell(
    26,
    "foreign-text",
    "foreign text in a key, an orphan's value and the reason; the proof fails",
    "before the proof",
    RESTORED,
)
def _(trial: Trial) -> None:
    more_tables(trial)
    rule = trial.hold("stop_services", "begin")
    run_id = trial.cutover(reason=TEXT)
    trial.held(rule, trial.site.pulse.patience(90))
    in_source(trial, "DELETE FROM zones")
    trial.fault()
    trial.release(rule)
    trial.wait(run_id)
    seen = set()
    for name, text in outputs(trial, run_id):
        if MARK in text:
            seen.add(Path(name).suffix or name)
        for problem in problems_in(name, text):
            trial.require(False, problem)
    for wanted in (".html", ".md", ".jsonl", SLACK, MAIL):
        trial.require(wanted in seen or Path(wanted).suffix in seen, f"the text is not in {wanted}: nothing was tried there")
