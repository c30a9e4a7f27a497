"""The shop, live since a moment ago."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.aftercare.shop import Shop
from tests.support.http_application import Site


@pytest.fixture
def shop(tmp_path: Path, conninfo: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path / "plans"))
    (tmp_path / "plans").mkdir()
    http = Site()
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    shop = Shop(tmp_path, conninfo, http)
    shop.log.write_text("started on sqlite\nsqlalchemy.exc.OperationalError: from before go-live\n")

    def ping(handler: Any) -> None:
        with psycopg.connect(conninfo) as connection:
            row = connection.execute("INSERT INTO pings (ms, at) VALUES (7, now()) RETURNING id").fetchone()
        assert row is not None
        handler.say(200, {"id": row[0]})

    http.routes["/api/devices/.*/ping"] = ping
    try:
        yield shop
    finally:
        http.shutdown()
        http.server_close()
