"""Names the rows of a table to a person."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from include.cutover.masking import mask
from include.cutover.source.schema import TableShape, key_text, quote


class RowNames:
    """Names rows by their primary key, or otherwise where it is secret, NULL or missing."""

    def __init__(self, shape: TableShape, secret: Sequence[str], encoding: str = "utf-8") -> None:
        self._names, self._encoding = shape.key, encoding
        self._hidden = bool(set(shape.key) & set(secret))
        self._has_rowid = shape.rowid is not None
        cells = [*(quote(name) for name in shape.key), *([shape.rowid] if shape.rowid else [])]
        # The results to select; text comes as bytes, because it may not be UTF-8.
        self.results = [f"CASE typeof({cell}) WHEN 'text' THEN CAST({cell} AS BLOB) ELSE {cell} END" for cell in cells]

    def __call__(self, cells: Sequence[Any]) -> str:
        """Return the name of the row with these results."""
        key = cells[: len(self._names)]
        if key and not self._hidden and None not in key:
            return mask(key_text(self._names, [self._decoded(cell) for cell in key]))
        if self._has_rowid:
            return f"rowid={cells[-1]}"
        if key:
            return f"a row whose key has SHA-256 {hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
        return "a row without a key"

    def _decoded(self, cell: Any) -> Any:
        return cell.decode(self._encoding, "backslashreplace") if isinstance(cell, bytes) else cell
