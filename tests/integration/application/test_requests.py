"""The application from outside: real HTTP servers, truthful and lying ones, and a real target behind them."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from include.cutover.application import requests
from include.cutover.checks import Check
from include.cutover.plan.application import SmokeTests
from include.cutover.stack.postgres import free_port
from tests.support.http_application import Answer, Handler, Site, says

DEVICE = "0b51f0a4-8f14-4c4e-9a53-0f6c2d6f7a01"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield site
    finally:
        site.ending.set()
        site.shutdown()
        site.server_close()


@pytest.fixture
def target(conninfo: str) -> str:
    """Three devices and five pings; the database's time zone and search path are not the usual ones."""
    with psycopg.connect(conninfo) as connection:
        connection.execute('CREATE SCHEMA "Ward"')
        connection.execute('CREATE TABLE "Ward".devices (id uuid PRIMARY KEY, name text)')
        connection.execute('CREATE TABLE "Ward".pings (id bigserial PRIMARY KEY, device uuid)')
        connection.execute('INSERT INTO "Ward".devices VALUES (%s), (gen_random_uuid()), (gen_random_uuid())', [DEVICE])
        connection.execute('INSERT INTO "Ward".pings (device) SELECT %s FROM generate_series(1, 5)', [DEVICE])
        connection.execute("UPDATE \"Ward\".devices SET id = ('f' || substr(id::text, 2))::uuid WHERE id <> %s", [DEVICE])
    return conninfo


def ping(target: str, *, committed: float = 0.0) -> Answer:
    """A truthful application: write a row, answer with its key; ``committed`` seconds after the answer."""

    def answer(handler: Handler) -> None:
        device = handler.path.split("/")[3]
        with psycopg.connect(target) as connection:
            row = connection.execute('INSERT INTO "Ward".pings (device) VALUES (%s) RETURNING id', [device]).fetchone()
            if not committed:
                connection.commit()
            handler.say(201, {"id": row[0] if row else None})
            handler.wfile.flush()
            time.sleep(committed)

    return answer


def outcomes(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks}


# --- health -------------------------------------------------------------------------------------------------------------


def test_a_healthy_application_on_the_right_database_passes(site: Site) -> None:
    check = requests.wait_healthy(site.smoke(), "target")
    assert (check.outcome, check.found) == ("passed", "status ok, database postgresql")
    assert check.where.endswith("/health")
    assert requests.health(site.smoke(), "target").outcome == "passed"


def test_the_wrong_database_fails_on_both_sides(site: Site) -> None:
    assert requests.wait_healthy(site.smoke(), "source").found == "status ok, database postgresql"
    site.routes["/health"] = says({"status": "ok", "database": "sqlite"})
    check = requests.wait_healthy(site.smoke(), "target")
    assert (check.outcome, check.expected, check.found) == (
        "failed",
        "status ok, database postgresql",
        "status ok, database sqlite",
    )
    assert requests.wait_healthy(site.smoke(), "source").outcome == "passed"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (says({"status": "ok", "database": "postgresql"}, status=503), 'status 503: {"status": "ok", "database":'),
        (says({"status": "degraded", "database": "postgresql"}), "status degraded, database postgresql"),
        (
            says({"status": "ok", "database": "postgresql", "error": "relation users does not exist"}),
            "an error inside: relation users does not exist",
        ),
        (says({"status": "ok", "database": "postgresql", "errors": ["pool"]}), "an error inside: ['pool']"),
        (says({"error": "connection refused"}), "JSON without status and database"),
        (says({"status": "ok"}), "JSON without database"),
        (says({"status": True, "database": "postgresql"}), "status True, database postgresql"),
        (says("<html>It works!</html>"), "not JSON: <html>It works!</html>"),
        (says('["ok", "postgresql"]'), 'not a JSON object: ["ok", "postgresql"]'),
        (says(""), "not JSON:"),
        (
            says("gone", status=302, Location="http://elsewhere.example/login"),
            "status 302 to http://elsewhere.example/login",
        ),
        (
            says({"status": "postgresql://ward:hunter2@db/x failed", "database": "postgresql"}),
            "status postgresql://ward:***@db/x failed, database postgresql",
        ),
    ],
)
def test_a_wrong_health_answer_fails_and_is_shown(site: Site, answer: Answer, found: str) -> None:
    site.routes["/health"] = answer
    check = requests.health(site.smoke(), "target")
    assert check.outcome == "failed"
    assert check.found.startswith(found)
    assert len(check.found) <= 80


def test_empty_errors_in_an_answer_do_not_fail(site: Site) -> None:
    site.routes["/health"] = says({"status": "ok", "database": "postgresql", "error": None, "errors": []})
    assert requests.health(site.smoke(), "target").outcome == "passed"


def test_the_fields_may_lie_deeper(site: Site) -> None:
    site.routes["/health"] = says({"state": {"word": "up"}, "checks": {"db": {"kind": "pg"}}})
    smoke = site.smoke(
        health={"path": "/health", "field": "checks.db.kind", "target": "pg", "status_field": "state.word", "status": "up"}
    )
    assert requests.health(smoke, "target").outcome == "passed"


def test_a_redirect_to_a_healthy_application_is_not_followed(site: Site) -> None:
    site.routes["/other"] = site.routes["/health"]
    site.routes["/health"] = says("", status=307, Location="/other")
    assert requests.health(site.smoke(), "target").found == "status 307 to /other"
    assert site.asked == ["GET /health"]


def test_an_application_that_comes_up_late_passes(site: Site) -> None:
    answers = [says("starting", status=503), says({"status": "starting", "database": "postgresql"}), site.routes["/health"]]
    site.routes["/health"] = lambda handler: answers.pop(0)(handler) if len(answers) > 1 else answers[0](handler)
    assert requests.wait_healthy(site.smoke(seconds=30), "target").outcome == "passed"
    assert site.asked == ["GET /health"] * 3


def test_an_application_that_is_not_there_fails_in_time() -> None:
    smoke = SmokeTests.model_validate(
        {"base_url": f"http://127.0.0.1:{free_port()}", "seconds": 1, "health": {"path": "/health"}}
    )
    check = requests.wait_healthy(smoke, "target")
    assert check.outcome == "failed" and "refused" in check.found


def test_an_application_that_hangs_fails_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://cutover:hunter2@127.0.0.1:{silent.getsockname()[1]}"
        smoke = SmokeTests.model_validate({"base_url": base_url, "seconds": 1, "health": {"path": "/health"}})
        check = requests.wait_healthy(smoke, "target")
    assert check.outcome == "failed" and check.found.startswith("no answer in")
    assert "hunter2" not in check.where


def test_an_answer_that_never_ends_fails_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not site.ending.is_set():
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    site.routes["/health"] = drip
    monkeypatch.setattr(requests, "_ASK_SECONDS", 0.3)
    assert requests.health(site.smoke(), "target").found.startswith("an answer that did not end")


def test_headers_that_never_end_fail_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(OSError):
            for number in itertools.count():
                if site.ending.wait(0.02):
                    break
                handler.wfile.write(b"X-Header-%d: x\r\n" % number)
                handler.wfile.flush()

    site.routes["/health"] = drip
    monkeypatch.setattr(requests, "_ASK_SECONDS", 0.3)
    assert requests.health(site.smoke(), "target").found.startswith("no complete answer in")


def test_an_answer_without_bounds_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_MAX_BYTES", 1 << 20)
    site.routes["/health"] = says("x" * (3 << 20))
    assert requests.health(site.smoke(), "target").found == "an answer of more than 1 MB"


def test_a_proxy_of_the_environment_is_not_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert requests.health(site.smoke(), "target").outcome == "passed"


# --- the whole test -----------------------------------------------------------------------------------------------------


def test_an_application_that_works_passes(site: Site, target: str) -> None:
    site.routes["/api/devices/[^/]+/ping"] = ping(target)
    checks = requests.smoke_test(site.smoke(), target, "Ward", {"devices": 3, "pings": 5})
    assert outcomes(checks) == {
        "application_health": "passed",
        "application_count_devices_api_devices": "passed",
        "application_count_pings_monitor": "passed",
        "application_write": "passed",
    }
    # The key is the one of a real device, and the row is really there.
    assert site.asked[-1] == f"POST /api/devices/{DEVICE}/ping"
    assert checks[-1].found == "row 6"
    # Once more: one row more, the same answer.
    again = requests.smoke_test(site.smoke(), target, "Ward", {"devices": 3, "pings": 5})
    assert {check.outcome for check in again} == {"passed"} and again[-1].found == "row 7"


@pytest.mark.parametrize(
    ("path", "answer", "check", "found"),
    [
        ("/api/devices", says({"total": 2}), "application_count_devices_api_devices", "2"),
        ("/api/devices", says({"total": 4}), "application_count_devices_api_devices", "4"),
        ("/api/devices", says({"total": "3"}), "application_count_devices_api_devices", "total is not an integer: '3'"),
        ("/api/devices", says({"total": True}), "application_count_devices_api_devices", "total is not an integer: True"),
        ("/api/devices", says({"count": 3}), "application_count_devices_api_devices", "JSON without total"),
        (
            "/api/devices",
            says({"total": 3}, status=500),
            "application_count_devices_api_devices",
            'status 500: {"total": 3}',
        ),
        ("/monitor", says('<b data-table="pings">4</b>'), "application_count_pings_monitor", "4"),
        ("/monitor", says("<b>nothing</b>"), "application_count_pings_monitor", "a page without the number"),
        ("/monitor", says("login", status=401), "application_count_pings_monitor", "status 401: login"),
    ],
)
def test_a_number_that_is_not_right_fails(
    site: Site, target: str, path: str, answer: Answer, check: str, found: str
) -> None:
    site.routes["/api/devices/[^/]+/ping"] = ping(target)
    site.routes[path] = answer
    checks = requests.smoke_test(site.smoke(), target, "Ward", {"devices": 3, "pings": 5})
    assert [(item.name, item.found) for item in checks if item.outcome != "passed"] == [(check, found)]


def test_a_growing_table_may_show_more(site: Site, target: str) -> None:
    site.routes["/monitor"] = says('<b data-table="pings">50000</b>')
    site.routes["/api/devices/[^/]+/ping"] = ping(target)
    checks = requests.smoke_test(site.smoke(), target, "Ward", {"devices": 3, "pings": 5})
    assert {check.outcome for check in checks} == {"passed"}


def test_a_table_without_a_count_is_unknown(site: Site, target: str) -> None:
    site.routes["/api/devices/[^/]+/ping"] = ping(target)
    checks = requests.smoke_test(site.smoke(), target, "Ward", {"devices": 3})
    assert outcomes(checks)["application_count_pings_monitor"] == "unknown"


def test_an_unhealthy_application_is_not_asked_further(site: Site, target: str) -> None:
    site.routes["/health"] = says({"status": "ok", "database": "sqlite"})
    site.routes["/api/devices/[^/]+/ping"] = ping(target)
    checks = requests.smoke_test(site.smoke(), target, "Ward", {"devices": 3, "pings": 5})
    assert list(outcomes(checks).values()) == ["failed", "unknown", "unknown", "unknown"]
    assert set(site.asked) == {"GET /health"}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (says({"id": 999}), "pings has no row 999"),
        (says({"id": 5}), "row 5 of pings is older than the request"),
        (says({"id": "five"}), "id of the answer is not a key of pings"),
        (says({"id": 10**30}), "id of the answer is not a key of pings"),
        (says({"id": None}), "an answer without id"),
        (says({"id": True}), "an answer without id"),
        (says({"ok": True}), "an answer without id"),
        (says({"id": 6}, status=500), 'status 500: {"id": 6}'),
        (says("", status=303, Location="/monitor"), "status 303 to /monitor"),
    ],
)
def test_a_write_that_did_not_happen_fails(
    site: Site, target: str, monkeypatch: pytest.MonkeyPatch, answer: Answer, found: str
) -> None:
    monkeypatch.setattr(requests, "_READ_BACK_SECONDS", 0.2)
    site.routes["/api/devices/[^/]+/ping"] = answer
    check = requests.smoke_test(site.smoke(), target, "Ward", {"devices": 3, "pings": 5})[-1]
    assert (check.outcome, check.found) == ("failed", found)


def test_a_row_committed_after_the_answer_is_waited_for(site: Site, target: str) -> None:
    site.routes["/api/devices/[^/]+/ping"] = ping(target, committed=0.5)
    assert requests.smoke_test(site.smoke(), target, "Ward", {"devices": 3, "pings": 5})[-1].outcome == "passed"


def test_a_uuid_may_be_answered_without_hyphens(site: Site, target: str) -> None:
    with psycopg.connect(target) as connection:
        connection.execute('CREATE TABLE "Ward".jobs (id uuid PRIMARY KEY DEFAULT gen_random_uuid())')

    def answer(handler: Handler) -> None:
        with psycopg.connect(target) as connection:
            row = connection.execute('INSERT INTO "Ward".jobs DEFAULT VALUES RETURNING id').fetchone()
        handler.say(200, {"id": row[0].hex if row else None})

    site.routes["/jobs/.*"] = answer
    smoke = site.smoke(write={"path": "/jobs/{key}", "for_table": "devices", "table": "jobs"})
    assert requests.smoke_test(smoke, target, "Ward", {"devices": 3, "pings": 5})[-1].outcome == "passed"


def test_a_key_is_encoded_into_the_path(site: Site, target: str) -> None:
    with psycopg.connect(target) as connection:
        connection.execute('CREATE TABLE "Ward".names (name text PRIMARY KEY)')
        connection.execute("INSERT INTO \"Ward\".names VALUES ('a/../b?c=თ')")
    smoke = site.smoke(write={"path": "/names/{key}/x", "for_table": "names", "table": "pings"})
    site.routes["/names/.*"] = says({"id": 1})
    requests.smoke_test(smoke, target, "Ward", {"devices": 3, "pings": 5})
    assert site.asked[-1] == "POST /names/a%2F..%2Fb%3Fc%3D%E1%83%97/x"


def test_an_impossible_write_test_is_unknown(site: Site, target: str) -> None:
    with psycopg.connect(target) as connection:
        connection.execute('CREATE TABLE "Ward".nobody (id int PRIMARY KEY)')
        connection.execute('CREATE TABLE "Ward".pairs (a int, b int, PRIMARY KEY (a, b))')
    found = []
    for table in ("nobody", "pairs", "absent"):
        smoke = site.smoke(write={"path": "/x/{key}", "for_table": table, "table": "pings"})
        check = requests.smoke_test(smoke, target, "Ward", {"devices": 3, "pings": 5})[-1]
        found.append((check.outcome, check.found))
    assert found == [
        ("unknown", "nobody has no row"),
        ("unknown", "pairs has a key of 2 columns"),
        ("unknown", "absent has a key of 0 columns"),
    ]
    assert not [line for line in site.asked if line.startswith("POST")]


def test_a_missing_target_is_unknown_and_not_passed(site: Site) -> None:
    gone = f"host=127.0.0.1 port={free_port()} user=ward password=hunter2 dbname=x"
    check = requests.smoke_test(site.smoke(), gone, "Ward", {"devices": 3, "pings": 5})[-1]
    assert check.outcome == "unknown" and "hunter2" not in check.found


# --- back on the source -------------------------------------------------------------------------------------------------


def test_back_on_the_source_health_and_numbers_are_asked_and_nothing_is_written(site: Site) -> None:
    site.routes["/health"] = says({"status": "ok", "database": "sqlite"})
    checks = requests.check_source_side(site.smoke(), {"devices": 3, "pings": 5})
    assert [check.outcome for check in checks] == ["passed"] * 3
    assert not [line for line in site.asked if line.startswith("POST")]
    assert [check.outcome for check in requests.check_source_side(site.smoke(), {"devices": 4, "pings": 5})] == [
        "passed",
        "failed",
        "passed",
    ]


def test_without_a_backup_only_the_health_is_asked(site: Site) -> None:
    site.routes["/health"] = says({"status": "ok", "database": "sqlite"})
    assert outcomes(requests.check_source_side(site.smoke(), {})) == {"application_health": "passed"}


def test_an_application_left_on_the_target_fails(site: Site) -> None:
    assert outcomes(requests.check_source_side(site.smoke(), {})) == {"application_health": "failed"}
