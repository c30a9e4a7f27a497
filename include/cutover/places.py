"""Folders of the project: its root, its plans and their SQL."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def plans_folder() -> Path:
    """Return the folder of the plan files; ``CUTOVER_PLANS`` overrides it."""
    return Path(os.environ.get("CUTOVER_PLANS") or ROOT / "include" / "plans")


def sql_root() -> Path:
    """Return the folder of the SQL folders, one per plan; ``CUTOVER_SQL`` overrides it."""
    return Path(os.environ.get("CUTOVER_SQL") or ROOT / "include" / "sql")
