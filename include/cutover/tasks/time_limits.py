"""Ends a step that hangs. The time that people have to answer is a matter of the gates."""

from __future__ import annotations

import faulthandler
import functools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowTaskTimeout

from include.cutover.errors import Unreachable
from include.cutover.steps.step import Body, Report

GRACE_SECONDS = 30
_OURS = Path(__file__).resolve().parents[1]


def in_time(body: Body, limit: timedelta | None) -> Body:
    """Return the body of a step, with an error that says that it took too long, and where it was then."""

    @functools.wraps(body)
    def limited(*arguments: Any, **named: Any) -> Report:
        try:
            return body(*arguments, **named)
        except AirflowTaskTimeout as timeout:
            raise Unreachable(
                "the step was ended because it took too long",
                where=_place(timeout),
                expected="its end" if limit is None else f"its end within {limit.total_seconds() / 60:g} minutes",
                do="Find out why it waited there. Steps that move data get more time from a longer window in the plan.",
            ) from None

    return limited


@contextmanager
def hard_limit(limit: timedelta | None) -> Iterator[None]:
    """End this process 30 s after ``limit``, with a traceback on standard error, when nothing else has ended the block.

    Airflow's own limit is an exception, which never reaches code that does not return to Python.
    """
    if limit is None:
        yield
        return
    faulthandler.dump_traceback_later(limit.total_seconds() + GRACE_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _place(error: BaseException) -> str:
    """Return the innermost of our own functions in the traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(_OURS):
            return f"{Path(frame.filename).stem}.{frame.name}, line {frame.lineno}"
    return ""
