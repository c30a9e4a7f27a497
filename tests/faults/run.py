"""Runs one cell."""

from __future__ import annotations

import traceback

from include.cutover.errors import CutoverError
from tests.faults.matrix import Cell
from tests.faults.site import FaultSite
from tests.faults.trial import NotTried, Result, Trial


def try_cell(site: FaultSite, cell: Cell) -> list[Result]:
    """Reset the site, run the cell, judge it, keep what it left.

    Returns:
        One result, or one for each task that the cell broke.
    """
    try:
        site.reset(cell.name)
    except (CutoverError, TimeoutError):  # a busy machine; the second time says it if it is more than that
        site.reset(cell.name)
    with Trial(site, cell.name) as trial:
        try:
            single = list(cell.act(trial) or [])
            result = trial.result(cell.expects)
        except NotTried as reason:
            single, result = [], Result(False, "not tried", None, [str(reason)], tried=False)
        except Exception as error:  # noqa: BLE001  # a cell that cannot be driven to its end was not survived
            single, result = (
                [],
                Result(False, "not judged", None, [f"{type(error).__name__}: {error}", traceback.format_exc()]),
            )
        finally:
            site.keep(cell.name)
    if not single:
        return [result]
    for item in single:
        item.survived = item.survived and result.survived
        item.state = result.state
        item.problems += result.problems
    single[0].acknowledged, single[0].left_behind = result.acknowledged, result.left_behind
    return single
