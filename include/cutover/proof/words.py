"""Names and phrases that the proof's checks share."""

from __future__ import annotations

import hashlib
import re

HIDDEN = "***"  # in the place of a secret value

SNAPSHOT = "snapshot"
REFERENCE_DATA = "reference data"

MISMATCH = "Do not go live. Compare the table's chunks in the ledger with the snapshot, correct the cause and start again."

ORPHANS = "Do not go live. Correct these rows in the source application and start again; they are there as well."

UNCOUNTED = "Do not go live. Find out why it could not be checked, correct that, then run the step again."


def identifier(text: str) -> str:
    """Return a name as part of a check's stable identifier; a digest keeps apart names that had to be changed."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return plain if plain == text else f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("_")


def rows_text(rows: int) -> str:
    """Return ``1 row`` or ``12,345 rows``."""
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def count_text(rows: int, origin: str = "", delta: int | None = None) -> str:
    """Return a number of rows with its origin, or with how far it is off."""
    if origin:
        return f"{rows_text(rows)} ({origin})"
    return f"{rows_text(rows)} ({delta:+,})" if delta else rows_text(rows)
