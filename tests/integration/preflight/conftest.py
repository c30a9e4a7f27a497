"""A small plan and a live source for the tests of preflight."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from include.cutover.plan.model import Plan

DEVICE = "0b51f0a48f144c4e9a530f6c2d6f7a01"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan for two tables, with places under the test's folder."""
    person = {"user": "lead", "name": "Nino", "email": "nino@example.org"}
    return Plan.model_validate({
        "name": "shop",
        "application": "Shop",
        "connections": {"source": "s", "target": "t", "application": "a"},
        "tables": {"devices": None, "pings": None},
        "backup": {"directory": str(tmp_path / "backups"), "second_copy": str(tmp_path / "second")},
        "people": {"lead": person, "observer": person, "communicator": person},
        "channels": {"mail_from": "a@example.org", "mail_to": ["b@example.org"]},
        "notices": {"start": "s", "completion": "c", "rollback": "r"},
    })  # fmt: skip


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A live source: two tables, the references spelled in both ways, in WAL mode with nobody connected."""
    path = tmp_path / "data" / "shop.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE devices (id UUID PRIMARY KEY, name VARCHAR(50))")
        connection.execute("CREATE TABLE pings (id INTEGER PRIMARY KEY AUTOINCREMENT, device UUID)")
        connection.execute("INSERT INTO devices VALUES (?, 'ერთი')", [DEVICE])
        connection.executemany("INSERT INTO pings (device) VALUES (?)", [(DEVICE,), (DEVICE.upper(),), (None,)])
        connection.execute("INSERT INTO pings (device) VALUES (?)", ["0b51f0a4-8f14-4c4e-9a53-0f6c2d6f7a01"])
        connection.commit()
    return path
