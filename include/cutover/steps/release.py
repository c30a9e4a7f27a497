"""Releases a run that has copied nothing: lifts the fence and starts the services on SQLite again.

The source is the truth and is not overwritten.
"""

from __future__ import annotations

from include.cutover.runs.terms import RELEASE
from include.cutover.steps import sqlite_again
from include.cutover.steps.abandon import call_off
from include.cutover.steps.step import Body

BODIES: dict[str, Body] = {
    f"{RELEASE}.lift_fence": sqlite_again.lift_fence,
    f"{RELEASE}.start_services": sqlite_again.start_services,
    f"{RELEASE}.check_health": sqlite_again.check_health,
    f"{RELEASE}.call_off": call_off,
}
"""Step → body; the order is that of the runbook."""
