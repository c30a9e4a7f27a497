"""The folder of a backup, and a backup with orphans."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.deciding import SECRET, SITES, U1, U2, database


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


@pytest.fixture
def sites(place: Path) -> Path:
    """Region 9 is missing: its site, that site's device, a device behind that one, and alerts of both follow."""
    return database(
        place / "backup.db",
        SITES,
        {
            "regions": [(1, "Kakheti")],
            "sites": [(U1, 1), (U2.upper(), 9)],
            "devices": [
                ("d1", U1.replace("-", ""), None, SECRET),
                ("d2", "{" + U2 + "}", None, SECRET),
                ("d3", U1, "d2", SECRET),
                ("d4", None, "d4", SECRET),
            ],
            "alerts": [(1, "d1", None, b"\0\xff"), (2, "d2", None, None), (3, "d3", "d1", None), (4, "d1", "d3", None)],
        },
    )
