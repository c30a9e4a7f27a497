"""The application checked from outside, over HTTP: its health, its database, the rows that it shows, a row that it writes.

An application that does not answer, or answers something else, is a failed check. Redirects are never followed: only the
application that the plan names is checked. Everything found is masked and cut before it goes into a check.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import httpx
import psycopg
from psycopg import sql

from include.cutover.checks import Check, Outcome
from include.cutover.connections import http_answers
from include.cutover.connections.http_answers import Answer, NotUsable
from include.cutover.masking import mask
from include.cutover.plan.application import CountTest, SmokeTests, WriteTest
from include.cutover.target import catalog
from include.cutover.target import session as target_session

log = logging.getLogger(__name__)

Side = Literal["source", "target"]

_ASK_SECONDS = 5.0
_PAGE_SECONDS = 20.0
_WRITE_SECONDS = 30.0
_READ_BACK_SECONDS = 5.0
_PAUSE = 0.25
_LAST_SECONDS = 1.0
_MAX_BYTES = 32 * 1024 * 1024
_EXCERPT = 80


def health(smoke: SmokeTests, expect: Side) -> Check:
    """Check that the application reports itself healthy and on that side's database. Asks once, for at most 5 s."""
    with _client(smoke) as client:
        return _health(client, smoke, expect, _ASK_SECONDS)


def timed_health(smoke: SmokeTests) -> tuple[Check, float]:
    """Check its health on the target once, and return the check and the seconds that the answer took."""
    with _client(smoke) as client:
        begun = time.monotonic()
        return _health(client, smoke, "target", _ASK_SECONDS), time.monotonic() - begun


def writes(smoke: SmokeTests, conninfo: str, schema: str) -> Check | None:
    """Run the write test alone: the application's background job writes a row, which is read back from the target.

    Returns:
        The check; None where the plan has no write test.
    """
    if smoke.write is None:
        return None
    with _client(smoke) as client:
        return _write(client, smoke, smoke.write, conninfo, schema)


def wait_healthy(smoke: SmokeTests, expect: Side) -> Check:
    """Ask for the application's health until it is healthy on that side's database: for ``smoke.seconds``, then once more.

    Returns:
        The passed check, or the last failed one. Safe to call again; it only reads.
    """
    deadline = time.monotonic() + smoke.seconds
    tries = 0
    with _client(smoke) as client:
        while True:
            left = deadline - time.monotonic()
            check = _health(client, smoke, expect, min(_ASK_SECONDS, max(left, _LAST_SECONDS)))
            tries += 1
            if check.outcome == "passed" or left <= _PAUSE:
                break
            log.debug("not yet healthy: %s", check.found)
            time.sleep(_PAUSE)
    log.info("health %s after %d tries: %s", check.outcome, tries, check.found)
    return check


def smoke_test(smoke: SmokeTests, conninfo: str, schema: str, counts: Mapping[str, int]) -> list[Check]:
    """Check the application on the target: it is healthy, shows the rows that were copied, and writes.

    Args:
        smoke: The plan's smoke tests.
        conninfo: The target, where the row that the application wrote is read back.
        schema: The schema of the application's tables there.
        counts: Table → rows that the application must show.

    Returns:
        Checks ``application_health``, ``application_count_…`` and ``application_write``. When the application is not
        healthy the others are unknown. Running it again writes one more row, which does no harm.
    """
    checks = [wait_healthy(smoke, "target")]
    healthy = checks[0].outcome == "passed"
    with _client(smoke) as client:
        checks += [_count(client, smoke, test, counts) if healthy else _not_asked(test) for test in smoke.counts]
        if smoke.write is not None:
            checks.append(_write(client, smoke, smoke.write, conninfo, schema) if healthy else _not_asked(smoke.write))
    return checks


def check_source_side(smoke: SmokeTests, counts: Mapping[str, int]) -> list[Check]:
    """Check the application back on the source: it is healthy and shows the rows of the backup. Only reads.

    Args:
        smoke: The plan's smoke tests.
        counts: Table → rows from the backup's manifest; where it is empty, because there is no backup, only the health
            is checked.
    """
    checks = [wait_healthy(smoke, "source")]
    healthy = checks[0].outcome == "passed"
    with _client(smoke) as client:
        for test in smoke.counts if counts else ():
            checks.append(_count(client, smoke, test, counts) if healthy else _not_asked(test))
    return checks


def _client(smoke: SmokeTests) -> httpx.Client:
    # No proxies and no ~/.netrc from the environment: the application itself is asked. With a context of our own, httpx
    # ignores SSL_CERT_FILE; plain HTTP needs none.
    context = ssl.create_default_context() if smoke.base_url.startswith("https") else False
    return httpx.Client(verify=context, trust_env=False, follow_redirects=False, timeout=_ASK_SECONDS)


def _url(smoke: SmokeTests, path: str) -> str:
    return smoke.base_url.rstrip("/") + path


def _short(text: str) -> str:
    """Return one line, masked before it is cut: a part of a secret is not recognised."""
    line = " ".join(mask(text).split())
    line = "".join(character for character in line if character.isprintable())
    return line if len(line) <= _EXCERPT else line[: _EXCERPT - 1] + "…"


def _fetch(client: httpx.Client, method: str, url: str, seconds: float) -> Answer:
    """Return the answer within ``seconds``, read to ``_MAX_BYTES``."""
    try:
        request = client.build_request(method, url)
    except httpx.InvalidURL as error:
        raise NotUsable(f"no answer: {error}") from None
    return http_answers.fetch(client, request, http_answers.Limits(seconds, _MAX_BYTES))


def _excerpt(answer: Answer) -> str:
    """Return the answer, short and masked."""
    said = f"status {answer.status}"
    if answer.location:
        return _short(f"{said} to {answer.location}")
    return _short(f"{said}: {answer.body}" if answer.body.strip() else said)


def _object(answer: Answer) -> dict[str, Any]:
    """Return the JSON object of an answer with a status of success."""
    if not 200 <= answer.status < 300:
        raise NotUsable(_excerpt(answer))
    try:
        data = json.loads(answer.body)
    except ValueError:
        raise NotUsable(f"not JSON: {answer.body}") from None
    if not isinstance(data, dict):
        raise NotUsable(f"not a JSON object: {answer.body}")
    return data


_MISSING = object()


def _field(data: dict[str, Any], name: str) -> Any:
    """Return the value at ``name``, which may name a field of an inner object: ``checks.database``."""
    if name in data:
        return data[name]
    value: Any = data
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _health(client: httpx.Client, smoke: SmokeTests, expect: Side, seconds: float) -> Check:
    test = smoke.health
    database = test.target if expect == "target" else test.source
    url = _url(smoke, test.path)
    found, passed = "", False
    try:
        data = _object(_fetch(client, "GET", url, seconds))
        said = {name: _field(data, name) for name in (test.status_field, test.field)}
        missing = [name for name, value in said.items() if value is _MISSING]
        inside = next((data[name] for name in ("error", "errors") if isinstance(data.get(name), str | list)), None)
        if missing:
            found = f"JSON without {' and '.join(missing)}"
        elif inside:
            found = f"an error inside: {inside}"
        else:
            found = ", ".join(f"{name} {value}" for name, value in said.items())
            passed = said[test.status_field] == test.status and said[test.field] == database
    except NotUsable as problem:
        found = str(problem)
    return Check(
        "application_health",
        f"The application is healthy and runs on {database}",
        "passed" if passed else "failed",
        expected=f"{test.status_field} {test.status}, {test.field} {database}",
        found=_short(found),
        do="" if passed else "Read the application's log.",
        where=mask(url),
    )


def _name(test: CountTest | WriteTest) -> str:
    if isinstance(test, WriteTest):
        return "application_write"
    place = re.sub(r"[^a-z0-9]+", "_", test.path.lower()).strip("_")
    return f"application_count_{test.table}_{place}"


def _title(test: CountTest | WriteTest) -> str:
    if isinstance(test, WriteTest):
        return f"The application writes a row into {test.table}"
    return f"{test.path} shows all rows of {test.table}"


def _not_asked(test: CountTest | WriteTest) -> Check:
    return Check(
        _name(test),
        _title(test),
        "unknown",
        found="not checked: the application is not healthy",
        do="Restore its health first.",
    )


def _count(client: httpx.Client, smoke: SmokeTests, test: CountTest, counts: Mapping[str, int]) -> Check:
    url = _url(smoke, test.path)

    def check(outcome: Outcome, expected: str, found: str, do: str = "") -> Check:
        return Check(_name(test), _title(test), outcome, expected, _short(found), do, mask(url))

    if test.table not in counts:
        return check("unknown", "", f"the rows of {test.table} were not counted", "Count the rows of the table first.")
    rows = counts[test.table]
    expected = f"{'at least ' if test.growing else ''}{rows}"
    do = f"Count the rows of {test.table} in the database and read the application's log."
    try:
        shown = _number(_fetch(client, "GET", url, _PAGE_SECONDS), test)
    except NotUsable as problem:
        return check("failed", expected, str(problem), do)
    passed = shown >= rows if test.growing else shown == rows
    return check("passed" if passed else "failed", expected, str(shown), "" if passed else do)


def _number(answer: Answer, test: CountTest) -> int:
    if test.field is not None:
        value = _field(_object(answer), test.field)
        if value is _MISSING:
            raise NotUsable(f"JSON without {test.field}")
        if not isinstance(value, int) or isinstance(value, bool):
            raise NotUsable(f"{test.field} is not an integer: {value!r}")
        return value
    if not 200 <= answer.status < 300:
        raise NotUsable(_excerpt(answer))
    match = re.search(test.pattern or "", answer.body)
    if match is None:
        raise NotUsable("a page without the number")
    try:
        return int(match[1] or "")
    except ValueError:
        raise NotUsable(f"not a number: {match[1]}") from None


def _write(client: httpx.Client, smoke: SmokeTests, test: WriteTest, conninfo: str, schema: str) -> Check:
    expected = f"the row that {test.returns} of the answer names, new in {test.table}"

    def check(outcome: Outcome, found: str, do: str = "Read the application's log.", url: str = "") -> Check:
        do = "" if outcome == "passed" else do
        return Check(_name(test), _title(test), outcome, expected, _short(found), do, mask(url or _url(smoke, test.path)))

    try:
        with target_session.connect(conninfo, seconds=5) as connection:
            connection.execute("SET statement_timeout = '10s'")
            connection.wait_for_statements()
            keys = {table: catalog.primary_key(connection, schema, table) for table in (test.for_table, test.table)}
            for table, columns in keys.items():
                if len(columns) != 1:
                    return check(
                        "unknown", f"{table} has a key of {len(columns)} columns", "Name tables with one key column."
                    )
            for_key = _some_key(connection, schema, test.for_table, keys[test.for_table][0])
            if for_key is None:
                return check("unknown", f"{test.for_table} has no row", "Name a table with rows in the plan's write test.")
            url = _url(smoke, test.path.format(key=quote(for_key, safe="")))
            before = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
            try:
                key = _field(_object(_fetch(client, "POST", url, _WRITE_SECONDS)), test.returns)
            except NotUsable as problem:
                return check("failed", str(problem), url=url)
            if isinstance(key, bool) or not isinstance(key, int | str) or key == "":
                return check("failed", f"an answer without {test.returns}", url=url)
            new = _read_back(connection, schema, test.table, keys[test.table][0], str(key), before[0] if before else "0")
            if new is None:
                return check("failed", f"{test.table} has no row {key}", url=url)
            if not new:
                return check("failed", f"row {key} of {test.table} is older than the request", url=url)
            return check("passed", f"row {key}", url=url)
    except psycopg.DataError:
        return check("failed", f"{test.returns} of the answer is not a key of {test.table}")
    except psycopg.Error as error:
        # Unknown, not failed: the application may have written.
        return check("unknown", f"the target: {target_session.primary_message(error)}", "Read the target's log.")


def _some_key(connection: psycopg.Connection, schema: str, table: str, column: str) -> str | None:
    """Return the first key of a table, as text."""
    query = sql.SQL("SELECT {column}::text FROM {table} ORDER BY {column} LIMIT 1").format(
        column=sql.Identifier(column), table=sql.Identifier(schema, table)
    )
    row = connection.execute(query).fetchone()
    return None if row is None else str(row[0])


def _read_back(connection: psycopg.Connection, schema: str, table: str, column: str, key: str, before: str) -> bool | None:
    """Return True when that row was written at or after transaction ``before``; None when there is no such row.

    Waits a little for the row: some applications commit just after they have answered.
    """
    # Literals: a % in one of the names would be read as a parameter.
    query = sql.SQL("SELECT age(xmin) <= age(({before}::xid8)::xid) FROM {table} WHERE {column} = {key}").format(
        table=sql.Identifier(schema, table), column=sql.Identifier(column), before=sql.Literal(before), key=sql.Literal(key)
    )
    deadline = time.monotonic() + _READ_BACK_SECONDS
    while True:
        row = connection.execute(query).fetchone()
        if row is not None:
            return bool(row[0])
        if time.monotonic() >= deadline:
            return None
        time.sleep(_PAUSE)
