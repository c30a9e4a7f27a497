"""JSON as jsonb takes it."""

from __future__ import annotations

import pytest

from include.cutover.assessment.json_text import json_fault


@pytest.mark.parametrize(
    ("text", "fault", "twice"),
    [
        ('{"a": 1}', "", False),
        ('[{"a": 1}, {"a": 1}]', "", False),
        ('{"a": {"b": 1, "b": 1}}', "", True),
        ('{"a": 1, "\\u0061": 2}', "", True),
        ("1e131071", "", False),
        ("1e131072", "a number in it is beyond numeric", False),
        ("1e-16384", "a number in it is beyond numeric", False),
        ("1e999999999999999999999", "a number in it is beyond numeric", False),
        ("[" * 100_000, "it is nested too deeply", False),
        ('"\\ud800"', "it holds half a surrogate pair", False),
        ("Infinity", "it is not valid JSON", False),
        ("", "it is not valid JSON", False),
    ],
)
def test_json_that_jsonb_refuses_has_a_fault(text: str, fault: str, twice: bool) -> None:
    assert json_fault(text) == (fault, twice)
