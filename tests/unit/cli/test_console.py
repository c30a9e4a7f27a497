"""The terminal's account of a run."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from include.cutover.cli.console import Narrator, print_summary
from include.cutover.evidence.record import Evidence
from include.cutover.plan.file import load_plan


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=60, highlight=False)


def lines(screen: Console) -> list[str]:
    assert isinstance(screen.file, io.StringIO)
    return [re.sub(r" +", " ", line).strip() for line in screen.file.getvalue().splitlines()]


def told(screen: Console, *events: dict[str, Any]) -> list[str]:
    narrator = Narrator(screen, load_plan("ward_ops"), {"check_source": "preflight", "rollback.check_health": "rollback"})
    for number, event in enumerate(events):
        narrator.tell({"time": f"2025-10-11T08:00:{number % 60:02}.000000+00:00", **event})
    return [re.sub(r"^[0-9:]{8} ", "", line) for line in lines(screen)]


def test_a_step_is_one_line_with_its_phase_and_duration(screen: Console) -> None:
    found = told(
        screen,
        {"event": "step.begin", "step": "check_source"},
        {"event": "step.end", "step": "check_source", "outcome": "passed", "seconds": 1.234, "summary": "all [22] passed"},
        {"event": "step.end", "step": "decide", "outcome": "failed", "seconds": 0.1, "summary": "first\nsecond"},
    )
    assert found == ["✓ preflight check_source 1.23 s all [22] passed", "✗ decide 0.10 s first", "second"]


def test_the_copies_are_one_line_when_the_last_of_them_has_passed(screen: Console) -> None:
    plan = load_plan("ward_ops")
    names = [
        f"copy.{name}" if table.streams == 1 else f"copy.{name}.{stream}"
        for name, table in plan.tables.items()
        for stream in range(table.streams)
    ]
    ends = [
        {
            "event": "step.end", "step": name, "outcome": "passed", "seconds": 1.0,
            "figures": {"table": name.split(".")[1], "rows": 1000},
        }
        for name in names
    ]  # fmt: skip
    assert told(screen, {"event": "step.begin", "step": names[0]}, *ends[:-1]) == []
    assert told(screen, {"event": "step.begin", "step": names[0]}, *ends) == ["✓ copy 26.00 s 26,000 rows in 25 tables"]


def test_a_failed_copy_is_printed_at_once(screen: Console) -> None:
    event = {"event": "step.end", "step": "copy.users", "outcome": "error", "seconds": 2.0, "summary": "not a number"}
    assert told(screen, event) == ["✗ copy.users 2.00 s not a number"]


def test_downtime_gates_and_failed_notices_are_printed(screen: Console) -> None:
    assert told(
        screen,
        {"event": "gate", "gate": "go_no_go", "answer": "Go", "by": "lead", "automatic": False},
        {"event": "services.stopped"},
        {"event": "services.started", "on": "target"},
        {"event": "gate", "gate": "approve", "answer": "No-go", "by": None, "automatic": False},
        {"event": "notice.delivery", "notice": "completion", "channel": "mail", "outcome": "failed", "error": "refused"},
        {"event": "services.started", "on": "source"},
    ) == [
        "✓ go_no_go Go, by lead",
        "▼ services stop the downtime begins",
        "▲ services run 1.00 s on PostgreSQL; the downtime was that long",
        "✗ approve No-go, no answer in time",
        "! completion not delivered by mail: refused",
    ]


def test_rows_lost_by_a_rollback_are_printed_before_it(screen: Console) -> None:
    users = {"users": {"in_words": "2 inserted"}}
    assert told(
        screen,
        {"event": "rows.written", "tables": users, "folder": "", "files": []},
        {"event": "rows.written", "tables": {}, "folder": "", "files": []},
        {"event": "rows.written", "tables": None, "unknown": "no answer", "files": []},
        {"event": "rows.written", "tables": users, "folder": "kept/rows_after_go_live", "files": []},
    ) == [
        "! rows since go-live users: 2 inserted; they will not be in SQLite",
        "! rows since go-live none; they will not be in SQLite",
        "! rows since go-live unknown: no answer; they will not be in SQLite",
    ]


def test_the_summary_names_figures_and_files(screen: Console, tmp_path: Path) -> None:
    evidence = Evidence.of("ward_ops", "a run")
    evidence.append("run.opened", run_id="a run", plan="ward_ops", application="Ward OPS", actor="lead", approve="auto")
    evidence.append("sealed", outcome="abandoned", summary="called off")
    evidence.save("report.html", "<html></html>")
    print_summary(evidence, load_plan("ward_ops"), screen)
    found = lines(screen)
    assert "outcome abandoned" in found
    assert "downtime none, nothing was stopped" in found
    assert f"report {evidence.folder / 'report.html'}" in found
    assert not [line for line in found if line.startswith("incident")]
