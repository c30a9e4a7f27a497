"""Numbers as dates and times."""

from __future__ import annotations

import pytest

from include.cutover.assessment.moments import moment


@pytest.mark.parametrize(
    ("value", "meaning", "base", "text"),
    [
        (0, "unix", "timestamptz", "1970-01-01 00:00:00.000000"),
        (-1, "unix", "timestamptz", "1969-12-31 23:59:59.000000"),
        (1760083739.1234567, "unix", "timestamptz", "2025-10-10 08:08:59.123457"),
        ("1760083739.123456", "unix", "timestamptz", "2025-10-10 08:08:59.123456"),
        ("1760083739.1234567", "unix", "timestamptz", None),
        (1760083739123, "unix_ms", "timestamptz", "2025-10-10 08:08:59.123000"),
        (2440587.5, "julian", "timestamptz", "1970-01-01 00:00:00.000000"),
        (86400, "unix", "date", "1970-01-02"),
        (86401, "unix", "date", None),
        (10**15, "unix", "timestamptz", None),
        (float("inf"), "unix", "timestamptz", None),
    ],
)
def test_a_number_is_read_by_its_meaning(value: float | str, meaning: str, base: str, text: str | None) -> None:
    assert moment(value, meaning, base) == text
