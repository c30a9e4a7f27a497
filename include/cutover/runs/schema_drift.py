"""Drift of the source's schema since it was last proven: tables, columns, indexes, triggers and views, by name.

Each run and each rehearsal records the schema that it found. The baseline is the newest that proved equal content; without
one, the newest that recorded a schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from include.cutover.evidence.record import Event, Evidence, rehearsals, runs
from include.cutover.runs.verdict import ever_passed

EVENT = "source.schema"
PROOF = "check_tables"
_SHOWN = 12


@dataclass(frozen=True)
class Drift:
    """The differences between two schemas: names such as ``column users.email``.

    Attributes:
        added: Names that are new.
        removed: Names that are gone.
        changed: Names whose definition changed; a column with both types.
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
    """Compare two results of ``source.schema.schema_objects``.

    A changed table is not named beside its changed columns, nor are the columns of a table that was added or removed.
    """
    added, removed = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    whole = {name for name in (*added, *removed) if name.startswith("table ")}
    by_columns = {_table_of(name) for name in (*added, *removed, *changed) if name.startswith("column ")}

    def named(names: list[str]) -> list[str]:
        return [name for name in names if not name.startswith("column ") or _table_of(name) not in whole]

    return Drift(
        tuple(named(added)),
        tuple(named(removed)),
        tuple(_became(name, before[name], now[name]) for name in changed if name not in by_columns),
    )


def _table_of(column: str) -> str:
    return f"table {column.removeprefix('column ').split('.')[0]}"


def _became(name: str, before: str, now: str) -> str:
    return f"{name} ({before or 'no type'} became {now or 'no type'})" if name.startswith("column ") else name


def baseline(plan: str, but: Evidence) -> tuple[str, Event] | None:
    """Return the run or rehearsal to compare with, and its record: the newest that proved equal content, else the newest.

    Args:
        plan: Name of the plan.
        but: The asking run, which is left out.

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
    """Return the warning for the people who answer the gates."""
    return (
        f"the source's schema has drifted since the run {run} of {recorded['time'][:16].replace('T', ' ')} UTC: {drift}. "
        "That run or rehearsal was done with another schema."
    )
