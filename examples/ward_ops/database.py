"""The engine of the stand-in, and the queries of its three services."""

from __future__ import annotations

import random
import sqlite3
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from examples.ward_ops.settings import Settings, SettingsInvalid
from examples.ward_ops.tables import ping_results, standalone_devices

BUSY_SECONDS = 2.0


class Device(NamedTuple):
    """The columns that a ping of a device needs."""

    id: uuid.UUID
    ip: str
    name: str


def open_engine(settings: Settings, service: str) -> sa.Engine:
    """Return an engine that reconnects after the database was away.

    A lock on SQLite, and a lock, a statement or a connection attempt on PostgreSQL that takes too long, ends in an error:
    a service that waits for the database can still be stopped.

    Args:
        settings: Of the service.
        service: Shown as ``application_name`` in PostgreSQL.

    Raises:
        SettingsInvalid: The URL cannot be read; the message does not show it.
    """
    try:
        url = sa.make_url(settings.database_url)
    except (ArgumentError, ValueError):
        raise SettingsInvalid(
            "DATABASE_URL is not a usable URL; special characters in a password are written as %XX"
        ) from None
    if settings.database == "sqlite":
        path = url.database or ""

        def connect() -> sqlite3.Connection:
            # mode=rw: without it SQLite would create an empty database in the place of a missing one.
            return sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=BUSY_SECONDS, check_same_thread=False)

        return sa.create_engine(url, creator=connect, hide_parameters=True)
    limits = f"-c lock_timeout={BUSY_SECONDS:g}s -c statement_timeout=30s -c timezone=UTC"
    return sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_timeout=5,
        hide_parameters=True,
        connect_args={"application_name": f"ward_ops_{service}", "connect_timeout": 3, "options": limits},
    )


def reason(error: SQLAlchemyError) -> str:
    """Return the database's own message, on one line and without statement and values."""
    original = getattr(error, "orig", None)
    return " ".join(f"{type(original or error).__name__}: {original or error}".split())


def measured(device: Device) -> dict[str, Any]:
    """Return a row of ping_results as a ping of that device would give it, without a network."""
    received = random.choices((4, 3, 0), weights=(96, 3, 1))[0]
    fastest = random.randint(1, 15) if received else None
    return {
        "device_ip": device.ip,
        "device_name": device.name,
        "packets_sent": 4,
        "packets_received": received,
        "packet_loss_percent": 100 - 25 * received,
        "min_rtt_ms": fastest,
        "avg_rtt_ms": None if fastest is None else fastest + random.randint(0, 20),
        "max_rtt_ms": None if fastest is None else fastest + random.randint(20, 60),
        "is_reachable": received > 0,
        "timestamp": datetime.now(UTC),
    }


def next_devices(connection: sa.Connection, after: uuid.UUID | None, count: int) -> Sequence[Device]:
    """Return the next enabled devices in the order of their keys; after the last one, the first again."""
    columns = standalone_devices.c
    query = sa.select(columns.id, columns.ip, columns.name).where(columns.enabled).order_by(columns.id).limit(count)
    rows = connection.execute(query if after is None else query.where(columns.id > after)).all()
    if not rows and after is not None:
        rows = connection.execute(query).all()
    return [Device(*row) for row in rows]


def write_pings(connection: sa.Connection, devices: Sequence[Device]) -> int:
    """Write a row of ping_results for each device; return their number."""
    if devices:
        connection.execute(sa.insert(ping_results), [measured(device) for device in devices])
    return len(devices)
