"""What changed in the source's schema since it was last proven: tables, columns, indexes, triggers and views, by name.

Each run records the schema that it found, and so does each rehearsal. One that proved equal content says most about what a
cutover would do; where there is none, the newest that recorded a schema is what there is to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from include.cutover.evidence.record import Event, Evidence, rehearsals, runs
from include.cutover.runs import runbook
from include.cutover.runs.verdict import ever_passed

EVENT = "source.schema"
PROOF = runbook.CHECK_TABLES
_SHOWN = 12


@dataclass(frozen=True)
class Drift:
    """What differs between two schemas: names such as ``column users.email``.

    Attributes:
        changed: Each with what it was and is, where that is short.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        parts = [
            f"{word} {', '.join(names[:_SHOWN])}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            for word, names in (("added", self.added), ("removed", self.removed), ("changed", self.changed))
            if names
        ]
        return "; ".join(parts) or "nothing"


def between(before: Mapping[str, str], now: Mapping[str, str]) -> Drift:
    """The differences between two results of ``source.schema_objects``.

    A table whose columns tell the difference is not named beside them, nor are the columns of a table that came or went.
    """
    added, removed = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    whole = {name for name in (*added, *removed) if name.startswith("table ")}
    told = {_table_of(name) for name in (*added, *removed, *changed) if name.startswith("column ")}

    def named(names: list[str]) -> list[str]:
        return [name for name in names if not name.startswith("column ") or _table_of(name) not in whole]

    return Drift(
        tuple(named(added)),
        tuple(named(removed)),
        tuple(_became(name, before[name], now[name]) for name in changed if name not in told),
    )


def _table_of(column: str) -> str:
    return f"table {column.removeprefix('column ').split('.')[0]}"


def _became(name: str, before: str, now: str) -> str:
    return f"{name} ({before or 'no type'} became {now or 'no type'})" if name.startswith("column ") else name


def baseline(plan: str, but: Evidence) -> tuple[str, Event] | None:
    """The run or rehearsal to compare with, and what it recorded: the newest that proved equal content, else the newest.

    Args:
        but: The run that asks.

    Raises:
        CannotCheck: When the evidence of a run is damaged.
    """
    newest = None
    found = [(run, recorded) for run in (*runs(plan), *rehearsals(plan)) if (recorded := run.last(EVENT)) is not None]
    for run, recorded in sorted(found, key=lambda item: item[1]["time"], reverse=True):
        if run.folder == but.folder:
            continue
        if ever_passed(run.events(), PROOF):
            return run.folder.name, recorded
        newest = newest or (run.folder.name, recorded)
    return newest


def warning(run: str, recorded: Event, drift: Drift) -> str:
    """For whoever decides at a gate."""
    return (
        f"the source's schema has drifted since the run {run} of {recorded['time'][:16].replace('T', ' ')} UTC: {drift}. "
        "What was rehearsed then was another schema."
    )
