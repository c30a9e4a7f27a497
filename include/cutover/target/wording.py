"""Names from the catalog in messages: quoted for a statement that a person runs, and listed up to a limit."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 10


def quoted(name: str) -> str:
    """Return an identifier as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'


def listed(names: Sequence[str]) -> str:
    """Return the first ten names with commas between them, and the number of the others."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
