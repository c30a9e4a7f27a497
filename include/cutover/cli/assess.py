"""The command ``assess``: assesses an SQLite file against a plan, without Airflow and without changing the file."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, TextIO

import typer

from include.cutover import files, rights
from include.cutover.assessment.decided import assess_decided
from include.cutover.assessment.findings import Assessment, Finding
from include.cutover.assessment.page import render_html
from include.cutover.assessment.tables import RowsRead
from include.cutover.assessment.target import read_target
from include.cutover.cli.options import URL_FORM, AsJson, PlanName, ReadOnlySource, from_options
from include.cutover.connections import tls
from include.cutover.errors import CannotCheck, CutoverError
from include.cutover.files import write_atomically
from include.cutover.masking import mask
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.source import cloning
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.target import session as target_session

CLEAN, BLOCKED, NOT_ASSESSED = 0, 1, 2


@dataclass(frozen=True)
class AssessOptions:
    """Options of the command ``assess``."""

    plan: PlanName
    source: ReadOnlySource
    target: Annotated[
        str | None, typer.Option(help=f"{URL_FORM}, of the target's version; a local PostgreSQL when left out.")
    ] = None
    as_json: AsJson = False
    html: Annotated[Path | None, typer.Option(help="File for a report in HTML.")] = None


@from_options(AssessOptions)
def command(options: AssessOptions) -> None:
    """Check every value of a source against the target, before the window.

    Exit status: 0 nothing blocks; 1 something blocks; 2 the source could not be assessed.
    """
    raise typer.Exit(run(options))


def run(options: AssessOptions, *, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Assess an SQLite file and print the findings.

    The file is cloned into a scratch folder (``TMPDIR``) and read there: its bytes do not change, also beside a live
    application and on read-only media. Nothing is kept in the target.

    Args:
        options: The options of the command.
        out: Stream of the findings; standard output when left out.
        err: Stream of an error; standard error when left out.

    Returns:
        The exit status: 0 when nothing blocks, 1 when something does, 2 when the source could not be assessed.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        with _ended_by_signals():
            plan = load_plan(options.plan)
            found = _assess(plan, options.source, options.target, err)
            if options.html is not None:
                _write(options.html, render_html(found, plan))
    except CutoverError as error:
        err.write(f"cutover: {mask(str(error))}\n")
        return NOT_ASSESSED
    out.write(f"{found.to_json(ascii_only=True)}\n" if options.as_json else _text(found))
    out.flush()
    return BLOCKED if found.blocks else CLEAN


def _assess(plan: Plan, file: Path, target: str | None, err: TextIO) -> Assessment:
    with files.scratch("assess") as scratch:
        clone = scratch / "clone.db"
        try:
            cloning.sound_clone(file, clone, others=plan.source_other_names)
            with _target(target, scratch, plan) as conninfo:
                made = read_target(conninfo, plan.sql_folder)
            progress = _Progress(err)
            try:
                return assess_decided(clone, plan, made, name=file.name, on_progress=progress if err.isatty() else None)
            finally:
                progress.end()
        except CutoverError as error:
            if error.where == str(clone):
                error.where = str(file)
            raise


@contextlib.contextmanager
def _target(url: str | None, scratch: Path, plan: Plan) -> Iterator[str]:
    """Return the connection string of the given server, or of one that runs as long as the block."""
    if url is not None:
        yield tls.demanded(target_session.libpq_url(url), plan.tls, "--target")
        return
    cluster = Cluster(scratch / "postgres", free_port())
    try:
        cluster.start({"fsync": "off", "max_connections": "10"})
        yield cluster.conninfo()
    finally:
        cluster.stop(signal.SIGQUIT)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End the block on SIGTERM and SIGHUP as on Ctrl-C, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(html: Path, page: str) -> None:
    try:
        write_atomically(html, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise CannotCheck(
            "the report cannot be written",
            where=str(html),
            found=rights.reason(error, html),
            do="Name another file with --html.",
        ) from None


class _Progress:
    """A line on a terminal that shows the progress."""

    def __init__(self, err: TextIO) -> None:
        self._err, self._shown = err, False

    def __call__(self, progress: RowsRead) -> None:
        self._shown = True
        self._err.write(f"\r\x1b[K{progress.table}: {progress.rows:,} rows")
        self._err.flush()

    def end(self) -> None:
        if self._shown:
            self._err.write("\r\x1b[K")
            self._err.flush()


def _text(found: Assessment) -> str:
    lines = [f"{found.source} against the plan {found.plan}: {found.rows:,} rows in {len(found.tables)} tables"]
    for finding in found.findings:
        lines += _lines(finding)
    blocks = len(found.blocks)
    decided, notes = len(found.of("decision applied")), len(found.of("note"))
    verdict = f"{blocks} finding{'s' if blocks > 1 else ''} block{'' if blocks > 1 else 's'}" if blocks else "nothing blocks"
    lines.append(f"{verdict}; {decided} decided by the plan, {notes} notes; {found.seconds:.1f} s")
    return "\n".join(lines) + "\n"


def _lines(finding: Finding) -> list[str]:
    lines = [str(finding)]
    if finding.example:
        lines.append(f"    for example {finding.example}")
    if finding.becomes:
        lines.append(f"    becomes {finding.becomes}")
    if finding.do:
        lines.append(f"    {finding.do}")
    if finding.decide:
        lines.append("    or in the plan:" if finding.severity == "blocks" else "    in the plan:")
        lines += [f"      {line}" for line in finding.decide.splitlines()]
    return lines
