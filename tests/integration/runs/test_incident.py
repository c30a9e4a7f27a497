"""After a run that did not end live: nothing opens before the lead has said what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.cutover.checks import worst
from include.cutover.cli import evidence_check
from include.cutover.cli.main import main
from include.cutover.errors import Refused
from include.cutover.evidence.record import Evidence
from include.cutover.runs import incident
from include.cutover.steps import incidents
from tests.integration.steps.test_open_run import (
    open_run,
    source,  # noqa: F401
)

PLAN = "ward_ops"
SAID = {"cause": "a script deleted devices", "fix": "the script is gone", "reference": "OPS-17"}
COMMAND = ["--cause", SAID["cause"], "--fix", SAID["fix"], "--reference", SAID["reference"]]


@pytest.fixture
def rolled_back(source: Path) -> Evidence:  # noqa: F811
    """A run that went live, was rolled back, and left everything behind that one can leave."""
    evidence = open_run(source, "one")
    evidence.append("rollback.asked", by="lead", reason="alerts are late", holder="x")
    evidence.append("target.kept", schema="public_one", rows={"users": 3, "branches": 4})
    evidence.append("backup", file="/backups/app.bak", second_file=None, sha256="x")
    evidence.append(
        "rows.written", tables={"users": {"in_words": "1 inserted"}}, folder="kept/rows_after_go_live", problem="",
        files=[{"name": "users.jsonl", "table": "users", "lines": 1, "bytes": 9, "sha256": "x"}],
    )  # fmt: skip
    (evidence.folder / "kept" / "logs").mkdir(parents=True)
    (evidence.folder / "kept" / "app.db").write_bytes(b"found")
    (evidence.folder / "kept" / "logs" / "api.log").write_text("it failed")
    evidence.save("incident.md", "# Incident")
    evidence.append("sealed", outcome="rolled_back", summary="")
    return evidence


def test_refusal_of_a_new_run_names_the_incident_and_everything_kept(source: Path, rolled_back: Evidence) -> None:  # noqa: F811
    with pytest.raises(Refused) as refused:
        open_run(source, "two")
    said = str(refused.value)
    for part in (
        "the run one ended as rolled_back",
        "alerts are late (requested by lead)",
        "schema public_one in the target, 7 rows",
        f"{rolled_back.folder}/kept/rows_after_go_live, 1 lines",
        "kept/logs: api.log",
        "kept/app.db",
        "incident.md",
        "/backups/app.bak",
        "incident_ward_ops",
    ):
        assert part in said, part
    incidents.close(PLAN, by="lead", **SAID)
    open_run(source, "two")


@pytest.mark.parametrize("by", ["observer", "communicator", "", None])
def test_only_a_decider_closes_an_incident(rolled_back: Evidence, by: str | None) -> None:
    with pytest.raises(Refused, match="only the lead or a deputy may close"):
        incidents.close(PLAN, by=by, **SAID)
    assert rolled_back.last(incident.CLOSED) is None


@pytest.mark.parametrize("left_out", ["cause", "fix", "reference"])
def test_closing_without_cause_fix_or_reference_is_refused(rolled_back: Evidence, left_out: str) -> None:
    with pytest.raises(Refused, match=f"none for {left_out}"):
        incidents.close(PLAN, by="lead", **{**SAID, left_out: "  "})
    assert rolled_back.last(incident.CLOSED) is None


def test_incident_is_closed_once_and_the_sealed_evidence_stays_whole(rolled_back: Evidence) -> None:
    first = incidents.close(PLAN, "one", by="lead", **SAID)
    again = incidents.close(PLAN, "one", by="lead", **{**SAID, "cause": "another one"})
    assert first.closed is not None and again.closed == first.closed
    assert first.closed["by"] == "lead" and SAID.items() <= first.closed.items()
    assert rolled_back.sealed is not None and rolled_back.sealed["outcome"] == "rolled_back"
    checks = [check for check in evidence_check.check(rolled_back.folder) if "backup" not in check.title.lower()]
    assert worst(checks) == "passed"
    page = (rolled_back.folder / "report.html").read_text()
    assert "a script deleted devices" in page and "public_one" in page and "OPS-17" in page


def test_secret_in_a_cause_is_masked(rolled_back: Evidence) -> None:
    incidents.close(PLAN, by="lead", **{**SAID, "cause": "postgresql://app:hunter22@db/x was wrong"})
    assert "hunter22" not in (rolled_back.folder / "events.jsonl").read_text()


def test_incomplete_way_back_must_be_completed_first(source: Path) -> None:  # noqa: F811
    evidence = open_run(source, "one")
    evidence.append("sealed", outcome="failed", summary="")
    with pytest.raises(Refused, match=r"was not completed.*trigger rollback_ward_ops again.*incident_ward_ops"):
        open_run(source, "two")
    with pytest.raises(Refused, match="way back of this run is not complete"):
        incidents.close(PLAN, by="lead", **SAID)
    evidence.append("continued", by="x")
    assert incident.of(evidence) is None, "it is open again"
    evidence.append("sealed", outcome="rolled_back", summary="")
    incidents.close(PLAN, by="lead", **SAID)
    open_run(source, "two")


def test_closing_counts_only_for_the_end_before_it(source: Path, rolled_back: Evidence) -> None:  # noqa: F811
    incidents.close(PLAN, by="lead", **SAID)
    rolled_back.append("continued", by="x")
    rolled_back.append("sealed", outcome="released", summary="")
    with pytest.raises(Refused, match="ended as released"):
        open_run(source, "two")


def test_commands_show_and_close_an_incident(rolled_back: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["incident", "show", "--plan", PLAN]) == 1
    shown = capsys.readouterr().out
    assert "one ended as rolled_back" in shown and "the incident is open" in shown and "public_one" in shown
    assert main(["incident", "close", "--plan", PLAN, "--by", "observer", *COMMAND]) == 2
    assert "only the lead or a deputy" in capsys.readouterr().err
    assert main(["incident", "close", "--plan", PLAN, "--run", "nobody", "--by", "lead", *COMMAND]) == 2
    assert "there is no such incident" in capsys.readouterr().err
    assert main(["incident", "close", "--plan", PLAN, "--run", "one", "--by", "lead", *COMMAND]) == 0
    assert "closed by lead" in capsys.readouterr().out
    assert main(["incident", "show", "--plan", PLAN, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["closed"]["cause"] == SAID["cause"] and {item["what"] for item in told["kept"]} >= {"backup", "evidence"}
    assert main(["incident", "show", "--plan", "library"]) == 0
    assert "has left an incident" in capsys.readouterr().out
