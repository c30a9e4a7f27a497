"""The API of the stand-in for Ward OPS: the paths that a cutover checks, on SQLite and PostgreSQL alike.

    python -m examples.ward_ops.application

Listens on WARD_OPS_HOST (127.0.0.1), port WARD_OPS_PORT (5001).
"""

from __future__ import annotations

import logging
import sys
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from examples.ward_ops import monitor
from examples.ward_ops.database import Device, measured, open_engine, reason
from examples.ward_ops.settings import SettingsInvalid, leave, read_settings
from examples.ward_ops.tables import alert_rules, branches, ping_results, standalone_devices

NEWEST_PINGS = 12

log = logging.getLogger("uvicorn.error")

Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0)]


def create_app(engine: sa.Engine) -> FastAPI:
    """Return the application on that engine. An error of the database is answered with 503 and logged."""
    app = FastAPI(title="Ward OPS (stand-in)", docs_url=None, redoc_url=None, openapi_url=None)
    database = engine.dialect.name

    @app.exception_handler(SQLAlchemyError)
    def database_failed(request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("SQL error: %s", reason(error))
        # The class only: the message may name hosts and roles.
        return JSONResponse({"status": "error", "database": database, "error": type(error).__name__}, status_code=503)

    @app.get("/api/v1/health")
    def health() -> dict[str, Any]:
        with engine.connect() as connection:
            devices = _count(connection, standalone_devices)
        return {"status": "ok", "database": database, "devices": devices, "time": datetime.now(UTC).isoformat()}

    @app.get("/api/v1/devices")
    def devices(limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
        return _page(engine, standalone_devices, limit, offset)

    @app.get("/api/v1/alerts")
    def alerts(limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
        return _page(engine, alert_rules, limit, offset)

    @app.get("/monitor", response_class=HTMLResponse)
    def show_monitor() -> str:
        columns = ping_results.c
        newest = sa.select(ping_results).order_by(columns.id.desc()).limit(NEWEST_PINGS)
        with engine.connect() as connection:
            counts = {
                table.name: _count(connection, table) for table in (standalone_devices, branches, alert_rules, ping_results)
            }
            pings = [
                monitor.Ping(row.device_name or "", row.device_ip, bool(row.is_reachable), row.avg_rtt_ms, row.timestamp)
                for row in connection.execute(newest)
            ]
        return monitor.render(database, counts, pings, datetime.now(UTC))

    @app.post("/api/v1/devices/{key}/ping")
    def ping(key: str) -> dict[str, Any]:
        try:
            wanted = uuid.UUID(key)
        except ValueError:
            raise HTTPException(404, "no such device") from None
        columns = standalone_devices.c
        query = sa.select(columns.id, columns.ip, columns.name).where(columns.id == wanted)
        with engine.begin() as connection:
            found = connection.execute(query).one_or_none()
            if found is None:
                raise HTTPException(404, "no such device")
            device = Device(*found)
            insertion = sa.insert(ping_results).values(measured(device)).returning(ping_results.c.id)
            written = connection.execute(insertion).scalar_one()
        return {"id": written, "device_ip": device.ip}

    @app.get("/api/v1/pings/{key}")
    def show_ping(key: int) -> dict[str, Any]:
        with engine.connect() as connection:
            found = connection.execute(sa.select(ping_results).where(ping_results.c.id == key)).one_or_none()
        if found is None:
            raise HTTPException(404, "no such ping")
        return {name: _plain(value) for name, value in found._mapping.items()}

    return app


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def _page(engine: sa.Engine, table: sa.Table, limit: int, offset: int) -> dict[str, Any]:
    with engine.connect() as connection:
        total = _count(connection, table)
        rows = connection.execute(sa.select(table).order_by(table.c.id).limit(limit).offset(offset)).all()
    return {"total": total, "items": [{name: _plain(value) for name, value in row._mapping.items()} for row in rows]}


def _plain(value: Any) -> Any:
    """Return a JSON value that is the same on both databases."""
    if isinstance(value, uuid.UUID):
        return str(value)
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value


def main() -> int:
    """Serve until SIGTERM; return the exit status."""
    try:
        settings = read_settings()
        engine = open_engine(settings, "api")
    except SettingsInvalid as error:
        leave("api", error)
    uvicorn.run(create_app(engine), host=settings.host, port=settings.port, timeout_graceful_shutdown=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
