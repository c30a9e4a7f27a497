"""PostgreSQL's statistics since go-live; one of them goes wrong at a time."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from include.cutover.errors import StepFailed
from tests.integration.aftercare.shop import Shop, bad, found


def test_an_open_transaction_and_one_that_waits_for_its_client_are_red(shop: Shop) -> None:
    shop.go_live(transaction_seconds=0.1, idle_in_transaction_seconds=0.1)
    with psycopg.connect(shop.conninfo) as connection:
        connection.execute("SELECT 1")
        time.sleep(0.2)
        event = shop.first_look()
        assert bad(event) == {"aftercare_long_transactions": "failed", "aftercare_idle_transactions": "failed"}
        assert f"pid {connection.info.backend_pid}" in found(event, "aftercare_long_transactions")


def test_deadlocks_and_rollbacks_since_go_live_are_red_and_earlier_ones_are_not(shop: Shop) -> None:
    def deadlock() -> None:
        shop.sql("INSERT INTO devices SELECT gen_random_uuid(), name FROM (VALUES ('a'), ('b')) AS two (name)")
        with psycopg.connect(shop.conninfo) as one, psycopg.connect(shop.conninfo) as other:
            update = "UPDATE devices SET name = name WHERE name = %s"
            one.execute("SET deadlock_timeout = '10ms'")
            one.execute(update, ["a"])
            other.execute(update, ["b"])
            waiting = threading.Thread(target=lambda: other.execute(update, ["a"]))
            waiting.start()
            time.sleep(0.2)
            with pytest.raises(psycopg.errors.DeadlockDetected):
                one.execute(update, ["b"])
            one.rollback()
            waiting.join()
            other.rollback()

    shop.go_live(rollback_percent=1, minutes=1)
    deadlock()
    for _ in range(60):
        shop.sql("BEGIN; SELECT 1; ROLLBACK", "SELECT 1")
    event = shop.first_look()
    assert bad(event) == {"aftercare_deadlocks": "failed", "aftercare_transactions_rolled_back": "failed"}
    assert found(event, "aftercare_deadlocks") == "1"


def test_statistics_that_were_reset_are_unknown(shop: Shop) -> None:
    shop.go_live()
    shop.sql("SELECT pg_stat_reset()")
    event = shop.first_look()
    assert event["outcome"] == "unclear"
    assert set(bad(event)) == {
        "aftercare_deadlocks",
        "aftercare_lost_sessions",
        "aftercare_transactions_rolled_back",
        "aftercare_cache_hit",
    }
    with pytest.raises(StepFailed, match="not every round was green"):
        shop.look_on()


def test_a_session_that_was_killed_is_red(shop: Shop) -> None:
    shop.go_live()
    with psycopg.connect(shop.conninfo) as connection:
        shop.sql(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 5000)")
    event = shop.first_look()
    assert bad(event) == {"aftercare_lost_sessions": "failed"}
    assert found(event, "aftercare_lost_sessions") == "0 abandoned, 0 fatal, 1 killed"


def test_too_many_connections_and_too_much_growth_are_red(shop: Shop) -> None:
    shop.go_live(connections_percent=0.5, growth_megabytes=1)
    shop.sql("INSERT INTO pings (ms) SELECT 1 FROM generate_series(1, 40000)")
    event = shop.first_look()
    assert bad(event) == {"aftercare_connections": "failed", "aftercare_table_growth": "failed"}
    assert "pings +" in found(event, "aftercare_table_growth")
