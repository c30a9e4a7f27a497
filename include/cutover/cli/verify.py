"""The command ``verify``: compares source and target at any time, without Airflow."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from include.cutover.checks import Outcome
from include.cutover.cli.options import AsJson, PlanName, TargetUrl, from_options
from include.cutover.cli.verification import Verification, verify
from include.cutover.connections import tls
from include.cutover.errors import CutoverError
from include.cutover.masking import mask
from include.cutover.plan.file import load_plan
from include.cutover.proof.counts import Reconciliation
from include.cutover.proof.words import REFERENCE_DATA
from include.cutover.target import session as target_session

EQUAL, DIFFERENT, NOT_COMPARED = 0, 1, 2

_SHOWN = 10


@dataclass(frozen=True)
class VerifyOptions:
    """Options of the command ``verify``."""

    plan: PlanName
    source: Annotated[
        Path, typer.Option(readable=False, help="Backup or SQLite file of the application; it is not changed.")
    ]
    target: TargetUrl
    tables: Annotated[str, typer.Option(help="Only these tables, separated by commas; all of the plan when left out.")] = ""
    fail_on_mismatch: Annotated[bool, typer.Option("--fail-on-mismatch", help="Exit with 1 on a difference.")] = False
    counts_only: Annotated[bool, typer.Option("--counts-only", help="Compare only row counts.")] = False
    as_json: AsJson = False

    @property
    def table_names(self) -> list[str]:
        """The names in ``tables``."""
        return [name.strip() for name in self.tables.split(",") if name.strip()]


@from_options(VerifyOptions)
def command(options: VerifyOptions) -> None:
    """Compare source and target: counts, content, orphans, sequences, schema.

    Exit status: 0 equal, or different without --fail-on-mismatch; 1 different, with it; 2 something could not be compared.
    """
    raise typer.Exit(run(options))


def run(options: VerifyOptions, *, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Compare source and target and print the result: counts, content, orphans, sequences, schema.

    Args:
        options: The options of the command; a password may be in PGPASSWORD instead of the URL.
        out: Stream of the findings; standard output when left out.
        err: Stream of an error; standard error when left out.

    Returns:
        The exit status. 0: everything was compared and is equal, or differs without ``fail_on_mismatch``. 1: something
        differs, with ``fail_on_mismatch``. 2: something could not be compared, such as a table or column that one side does
        not have, and no difference gave 1.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        plan = load_plan(options.plan)
        conninfo = tls.demanded(target_session.libpq_url(options.target), plan.tls, "--target")
        found = verify(plan, options.source, conninfo, tables=options.table_names, counts_only=options.counts_only)
    except CutoverError as error:
        err.write(f"cutover: {mask(str(error))}\n")
        return NOT_COMPARED
    out.write(_json(found) if options.as_json else _text(found, counts_only=options.counts_only))
    out.flush()
    if found.outcome == "failed" and options.fail_on_mismatch:
        return DIFFERENT
    return EQUAL if found.complete else NOT_COMPARED


def _json(found: Verification) -> str:
    words = {"passed": "equal", "failed": "different", "unknown": "not compared"}
    counts = [{**asdict(row), "delta": row.delta} for row in found.counts]
    tables = [{**asdict(result), "outcome": result.outcome, "summary": result.summary} for result in found.content]
    fields: dict[str, Any] = {
        "plan": found.plan,
        "source": found.source,
        "outcome": words[found.outcome],
        "complete": found.complete,
        "counts": counts,
        "content": tables,
        "checks": [check.as_dict() for check in found.checks],
    }
    return json.dumps(fields, indent=2) + "\n"


def _text(found: Verification, *, counts_only: bool) -> str:
    lines = [f"source: {found.source}", "", *_table(found.counts)]
    if not counts_only:
        lines += ["", "content"]
        for result in found.content:
            text = result.headline if result.differences else result.summary
            lines.append(f"  {_MARKS[result.outcome]} {result.table}: {text}")
            lines += [f"      {difference}" for difference in result.differences[:_SHOWN]]
            more = len(result.differences) - _SHOWN
            lines += [f"      and {more} more; --json lists them"] if more > 0 else []
        lines += ["", "orphans, sequences, schema"]
        passed = [check for check in found.checks if check.outcome == "passed"]
        lines.append(f"  {_MARKS['passed']} {len(passed)} of {len(found.checks)} checks passed")
        lines += [f"  {_MARKS[check.outcome]} {check.title}: {check.found}" for check in found.checks if check not in passed]
    lines += ["", _verdict(found, counts_only=counts_only)]
    return "\n".join(lines) + "\n"


_MARKS: dict[Outcome, str] = {"passed": "ok      ", "failed": "DIFFERS ", "unknown": "UNKNOWN "}


def _table(counts: Sequence[Reconciliation]) -> list[str]:
    """Return the runbook's table of counts and deltas."""
    width = max([len("table"), *(len(row.table) for row in counts)])
    lines = [f"{'table':{width}} {'source':>14} {'target':>14} {'delta':>12}"]
    for row in counts:
        target_rows = "?" if row.target_rows is None else f"{row.target_rows:,}"
        delta = "?" if row.delta is None else f"{row.delta:+,}" if row.delta else "0"
        note = row.problem if row.delta is None else f"({row.origin})" if row.origin == REFERENCE_DATA else ""
        lines.append(f"{row.table:{width}} {row.source_rows:>14,} {target_rows:>14} {delta:>12}  {note}".rstrip())
    totals = [sum(row.source_rows for row in counts), sum(row.target_rows or 0 for row in counts)]
    lines.append(f"{'total':{width}} {totals[0]:>14,} {totals[1]:>14,} {totals[1] - totals[0]:>+12,}")
    return lines


def _verdict(found: Verification, *, counts_only: bool) -> str:
    what = "row counts" if counts_only else "source and target"
    text = {
        "passed": f"EQUAL: {what} are the same, {len(found.counts)} tables.",
        "failed": f"MISMATCH: {what} are not the same.",
        "unknown": f"NOT COMPARED: something could not be compared; {what} may differ.",
    }[found.outcome]
    return text if found.complete or found.outcome == "unknown" else f"{text} Something could not be compared."
