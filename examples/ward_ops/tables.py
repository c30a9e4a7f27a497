"""The tables that the stand-in uses, defined once for SQLite and PostgreSQL.

On SQLite they read the values that the application's models wrote: UUIDs as 32 hex digits (branches: 36 characters),
datetimes as naive text in UTC, JSON as text. On PostgreSQL they are ``uuid``, ``timestamptz`` and ``jsonb``.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB


class HyphenatedUuid(sa.TypeDecorator[uuid.UUID]):
    """36 characters on SQLite, ``uuid`` elsewhere."""

    impl = sa.Uuid
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the column's type in this database."""
        return dialect.type_descriptor(sa.String(36) if dialect.name == "sqlite" else sa.Uuid())

    def process_bind_param(self, value: uuid.UUID | None, dialect: sa.Dialect) -> Any:
        """Convert a value for the database."""
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> uuid.UUID | None:
        """Convert a value from the database."""
        return uuid.UUID(value) if isinstance(value, str) else value


class Instant(sa.TypeDecorator[datetime]):
    """An aware datetime in UTC; naive text in UTC on SQLite, ``timestamptz`` elsewhere."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert a value for the database."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert a value from the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_json = sa.JSON().with_variant(JSONB(), "postgresql")
_metadata = sa.MetaData()

branches = sa.Table(
    "branches",
    _metadata,
    sa.Column("id", HyphenatedUuid, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("display_name", sa.String(200), nullable=False),
    sa.Column("region", sa.String(100)),
    sa.Column("is_active", sa.Boolean),
)

standalone_devices = sa.Table(
    "standalone_devices",
    _metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("ip", sa.String(45), nullable=False),
    sa.Column("hostname", sa.String(255)),
    sa.Column("vendor", sa.String(100)),
    sa.Column("device_type", sa.String(100)),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("last_seen", Instant),
    sa.Column("tags", _json),
    sa.Column("custom_fields", _json),
    sa.Column("branch_id", HyphenatedUuid),
)

alert_rules = sa.Table(
    "alert_rules",
    _metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("device_id", sa.Uuid),
    sa.Column("branch_id", HyphenatedUuid),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("expression", sa.String(500), nullable=False),
    sa.Column("severity", sa.String(20), nullable=False),
    sa.Column("notification_channels", _json),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)

ping_results = sa.Table(
    "ping_results",
    _metadata,
    # The key always comes from the database: the row id of SQLite, the sequence of PostgreSQL.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("device_ip", sa.String(50), nullable=False),
    sa.Column("device_name", sa.String(255)),
    sa.Column("packets_sent", sa.Integer),
    sa.Column("packets_received", sa.Integer),
    sa.Column("packet_loss_percent", sa.Integer),
    sa.Column("min_rtt_ms", sa.Integer),
    sa.Column("avg_rtt_ms", sa.Integer),
    sa.Column("max_rtt_ms", sa.Integer),
    sa.Column("is_reachable", sa.Boolean),
    sa.Column("timestamp", Instant),
)
