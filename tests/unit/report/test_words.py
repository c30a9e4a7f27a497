"""Values as text."""

from __future__ import annotations

import pytest

from include.cutover.report.words import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (0.42, "0.42 s"), (9.996, "10.0 s"), (59.96, "1 min 00 s"), (65, "1 min 05 s"), (7380, "2 h 03 min"),
     (None, "–")],
)  # fmt: skip
def test_durations_in_words(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
