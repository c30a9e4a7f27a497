"""Reading CREATE TABLE."""

from __future__ import annotations

import pytest

from include.cutover.assessment.create_table import checks


@pytest.mark.parametrize(
    ("create", "found"),
    [
        ("CREATE TABLE t (a INTEGER)", []),
        ("CREATE TABLE t (a INTEGER CHECK (a > 0))", [("", "a > 0")]),
        (
            "CREATE TABLE t (a INTEGER CONSTRAINT \"up\" CHECK(\n a > (1 + 2) ), CHECK (a <> ')'))",
            [("up", "a > (1 + 2)"), ("", "a <> ')'")],
        ),
        ('CREATE TABLE "check" ("check" TEXT DEFAULT \'CHECK (1)\' /* CHECK (2) */) -- CHECK (3)', []),
        ("CREATE TABLE t (a CHECK (a IN ('x", [("", "a IN ('")]),
    ],
)
def test_checks_are_read_from_create_table(create: str, found: list[tuple[str, str]]) -> None:
    assert checks(create) == found
