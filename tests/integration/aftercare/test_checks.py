"""Health, latency, scheduled jobs and sequences after go-live; one of them goes wrong at a time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from include.cutover.aftercare import checks as aftercare_checks
from include.cutover.aftercare import record as aftercare_record
from include.cutover.checks import Check
from include.cutover.errors import StepFailed
from include.cutover.steps.aftercare.look import look
from include.cutover.steps.aftercare.open_aftercare import open_aftercare
from include.cutover.steps.call import NotYet
from tests.integration.aftercare.shop import NO_ROWS, Shop, bad, found
from tests.support.http_application import says


def test_an_application_that_is_sick_or_slow_is_red(shop: Shop) -> None:
    shop.go_live(p50_seconds=0.05)
    answer = shop.http.routes["/health"]

    def slow(handler: Any) -> None:
        time.sleep(0.1)
        answer(handler)

    shop.http.routes["/health"] = slow
    assert bad(shop.first_look()) == {"aftercare_latency": "failed"}
    shop.http.routes["/health"] = says({"status": "ok", "database": "sqlite"})
    with pytest.raises(StepFailed):
        shop.look_on()
    last = aftercare_record.looks(shop.evidence.events())[-1]
    assert bad(last) == {"aftercare_health": "failed", "aftercare_latency": "unknown"}
    assert "database sqlite" in found(last, "aftercare_health")


def test_a_sequence_that_fell_behind_is_red(shop: Shop) -> None:
    shop.go_live()
    shop.http.routes.pop("/api/devices/.*/ping")
    shop.sql("INSERT INTO pings (id) VALUES (500000)")
    event = shop.first_look()
    assert bad(event) == {"aftercare_sequences": "failed", "application_write": "failed"}
    assert "pings.id" in found(event, "aftercare_sequences")


CHANGES = {
    "CREATE RULE nothing AS ON INSERT TO devices DO INSTEAD NOTHING": "rule devices nothing is new",
    "ALTER TABLE devices SET UNLOGGED": "persistence was p, is u",
    "ALTER TABLE devices ENABLE ROW LEVEL SECURITY": "row security was false, is true",
    "ALTER TABLE devices DROP CONSTRAINT devices_pkey": "devices_pkey is gone",
    "CREATE UNIQUE INDEX one ON devices (name)": "index devices one is new",
    "ALTER TABLE devices ALTER name SET DEFAULT 'x'": "definition of the column devices name",
    "ALTER SEQUENCE pings_id_seq CYCLE": "seqcycle was false, is true",
    "ALTER ROLE {role} SET statement_timeout = 5": "statement_timeout is new",
    "GRANT INSERT ON devices TO PUBLIC": "rights of PUBLIC on table devices is new (INSERT)",
    "CREATE TABLE child () INHERITS (devices)": "children was",
    "DROP TABLE devices; CREATE TABLE devices (id uuid PRIMARY KEY, name text)": "relation devices: oid was",
}


@pytest.mark.parametrize("statement", CHANGES)
def test_a_change_of_structure_rules_or_rights_after_go_live_is_red_and_named(shop: Shop, statement: str) -> None:
    shop.go_live()
    (role,) = shop.query("SELECT current_user")
    try:
        shop.sql(*statement.replace("{role}", f'"{role}"').split("; "))
        event = shop.first_look()
    finally:
        shop.sql(f'ALTER ROLE "{role}" RESET statement_timeout')
    assert bad(event)["aftercare_structure"] == "failed"
    assert CHANGES[statement] in found(event, "aftercare_structure")


def test_rows_new_objects_and_daily_work_after_go_live_are_no_fault(shop: Shop) -> None:
    shop.go_live()
    shop.sql(
        "CREATE TABLE alembic_version (version text PRIMARY KEY)",
        "INSERT INTO devices VALUES (gen_random_uuid(), 'two')",
        "DELETE FROM devices WHERE name = 'one'",
        "CREATE FUNCTION of_the_application() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE VIEW names AS SELECT name FROM devices",
        "GRANT SELECT ON alembic_version, names, devices TO pg_monitor",
        "CREATE INDEX by_name ON devices (name)",
        "VACUUM ANALYZE devices",
    )
    event = shop.first_look()
    assert bad(event) == {}, found(event, "aftercare_structure")
    assert "devices by_name is new" in found(event, "aftercare_structure")


def test_without_the_state_at_go_live_the_structure_is_unknown(shop: Shop) -> None:
    shop.go_live()
    (shop.cutover.folder / "target_live.json").write_text("[]")
    assert bad(shop.first_look()) == {"aftercare_structure": "unknown"}


def test_postgresql_down_hides_no_other_check(shop: Shop) -> None:
    shop.go_live()
    shop.do("open_aftercare", open_aftercare)
    shop.conninfo = "host=127.0.0.1 port=1 user=x dbname=x connect_timeout=1"
    with pytest.raises(NotYet):
        shop.do("look", look)
    (event,) = aftercare_record.looks(shop.evidence.events())
    assert bad(event) == {
        "aftercare_statistics": "unknown",
        "aftercare_sequences": "unknown",
        "aftercare_structure": "unknown",
        "application_write": "unknown",
    }
    assert "aftercare_health" in {check["name"] for check in event["checks"]}


def ago(seconds: float, form: str = "%Y-%m-%d %H:%M:%S.%f") -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime(form)


def sixty_a_minute() -> list[str]:
    """One row a second for the last ten minutes, as the models, CURRENT_TIMESTAMP and an API write times; and old ones."""
    forms = ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ")
    return [ago(second, forms[second % 3]) for second in range(1, 601)] + [ago(7 * 86_400 + n) for n in range(500)]


def test_the_rate_before_is_that_of_the_snapshot_and_rows_must_come_like_that(shop: Shop) -> None:
    shop.go_live(sixty_a_minute(), minutes=1, growing=[{**NO_ROWS, "baseline_minutes": 10}])
    shop.do("open_aftercare", open_aftercare)
    opened = shop.evidence.last(aftercare_record.OPENED)
    assert opened is not None and 0.95 < opened["rates"]["pings"]["rows"] / opened["rates"]["pings"]["seconds"] < 1.05
    start = aftercare_record.started_at(shop.cutover)

    def check(rows: int, seconds: float, **others: Any) -> Check | None:
        shop.sql("TRUNCATE pings")
        with psycopg.connect(shop.conninfo) as connection:
            for n in range(rows):
                connection.execute("INSERT INTO pings (at) VALUES (%s)", [start + timedelta(seconds=n * seconds / rows)])
        rate = aftercare_checks.Rate(**opened["rates"]["pings"])
        seen = aftercare_checks.Observation(start, start, start + timedelta(seconds=seconds), **others)
        return aftercare_checks.growth(shop.conninfo, "public", shop.watch("x").settings.growing[0], rate, seen)

    def outcome(*given: Any, **others: Any) -> str:
        made = check(*given, **others)
        return "none" if made is None else made.outcome

    assert outcome(60, 60) == "passed"
    assert outcome(35, 60) == "passed", "half may be missing"
    assert outcome(25, 60) == "failed"
    assert outcome(0, 60) == "failed"
    assert outcome(35, 60, own_rows=[start + timedelta(seconds=1)] * 10) == "failed", "rows of our own tests do not count"
    assert outcome(1, 5) == "none", "too early to tell"
    assert outcome(1, 5, last=True) == "unknown", "and never told"


def test_a_table_that_does_not_grow_any_more_is_red(shop: Shop) -> None:
    shop.go_live([ago(n / 20) for n in range(1200)], growing=[{**NO_ROWS, "baseline_minutes": 1}])
    shop.do("open_aftercare", open_aftercare)
    with pytest.raises(StepFailed):
        shop.look_on()
    last = aftercare_record.looks(shop.evidence.events())[-1]
    assert bad(last) == {"aftercare_growth_pings": "failed"}, found(last, "aftercare_growth_pings")


def test_an_unknown_rate_is_not_zero(shop: Shop) -> None:
    shop.go_live(growing=[NO_ROWS])
    assert bad(shop.first_look()) == {"aftercare_growth_pings": "unknown"}
