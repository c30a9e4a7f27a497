"""What a person reads before they answer a gate."""

from __future__ import annotations

from typing import Any

from include.cutover.plan import load_plan
from include.cutover.tasks.gates import briefing, open_questions

CHECK = {"name": "target_free_disk", "title": "Free disk", "outcome": "unknown", "expected": "4 GB", "found": "not visible",
         "do": "Look at the server.", "where": ""}  # fmt: skip
OPENED = {"event": "run.opened", "actor": "lead", "reason": "OPS-1", "window_end": "2026-11-23T13:00:00+00:00"}


def end(step: str, **fields: Any) -> dict[str, Any]:
    return {"event": "step.end", "step": step, "outcome": "passed", "summary": "a | b", **fields}


def test_it_says_what_was_found_what_is_unknown_and_how_long() -> None:
    events = [
        OPENED,
        end("check_target", checks=[CHECK]),
        end("copy.users", figures={"rows": 3}),
        end("copy.branches", figures={"rows": 128}),
    ]
    text = briefing(events, load_plan("ward_ops"))
    assert "ends at 2026-11-23 13:00 UTC" in text
    assert "| check_target | passed | a \\| b |" in text
    assert "| copy | passed | 131 rows in 25 tables |" in text and "copy.users" not in text
    assert "- Free disk: not visible Look at the server." in text
    assert "15 minutes means no-go" in text


def test_warnings_are_read_before_the_answer() -> None:
    events = [OPENED, end("take_backup", warnings=["both copies | on one device"]), end("decide", warnings=["no Redis"])]
    text = briefing(events, load_plan("ward_ops"))
    assert "**Warnings; a go takes them as they are:**" in text
    assert "- both copies \\| on one device\n- no Redis" in text
    assert "Warnings" not in briefing([OPENED, end("take_backup", warnings=[])], load_plan("ward_ops"))


def test_a_question_that_was_settled_later_is_open_no_more() -> None:
    plan = load_plan("ward_ops")
    events = [OPENED, end("check_target", checks=[CHECK])]
    assert [check.name for check in open_questions(events, plan)] == ["target_free_disk"]
    events.append(end("check_target", checks=[{**CHECK, "outcome": "passed"}]))
    assert open_questions(events, plan) == ()
