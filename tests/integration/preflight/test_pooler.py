"""A pooler before the target: refused where it shares sessions between transactions, welcome where it does not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from include.cutover.checks import Check
from include.cutover.plan.model import Plan
from include.cutover.preflight import target_commit, target_sessions
from include.cutover.preflight.target import check_target
from tests.support.pooler import Mode, pgbouncer, pooled
from tests.support.preflight import bad, by_name

INSTALLED = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")


@pytest.fixture(params=["ours", "PgBouncer"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "PgBouncer" and INSTALLED is None:
        pytest.skip("PGBOUNCER WAS NOT TRIED: it is not installed")
    return str(request.param)


@contextmanager
def behind(kind: str, conninfo: str, mode: Mode, folder: Path, size: int = 3) -> Iterator[str]:
    with ExitStack() as stack:
        if kind == "ours":
            yield stack.enter_context(pooled(conninfo, mode, size))
        else:
            yield stack.enter_context(pgbouncer(conninfo, mode, folder, size))


def checks_of(conninfo: str, plan: Plan) -> list[Check]:
    return check_target(conninfo, plan=plan, source_bytes=1 << 20, application_role=None)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_shared_sessions_are_refused_and_nothing_is_set_in_them(
    conninfo: str, plan: Plan, kind: str, tmp_path: Path, size: int
) -> None:
    with behind(kind, conninfo, "transaction", tmp_path, size) as shared:
        checks = checks_of(shared, plan)
        assert list(by_name(checks)) == ["target_reachable", "target_sessions"]
        assert bad(checks) == {"target_sessions": "another one for each transaction: a pooler in transaction mode"}
        assert "own host and port" in checks[1].do and "pool_mode = session" in checks[1].do
        with psycopg.connect(shared, autocommit=True, prepare_threshold=None) as session:
            found = session.execute("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
            assert found.fetchone() == ("0", "0")


def test_shared_sessions_are_refused_beside_other_clients(conninfo: str, plan: Plan, kind: str, tmp_path: Path) -> None:
    with behind(kind, conninfo, "transaction", tmp_path) as shared, psycopg.connect(shared) as other:
        other.execute("SELECT 1")  # holds one of the server's sessions
        assert list(bad(checks_of(shared, plan))) == ["target_sessions"]


def test_sessions_of_their_own_pass_every_check(conninfo: str, plan: Plan, kind: str, tmp_path: Path) -> None:
    with behind(kind, conninfo, "session", tmp_path, 8) as own:
        checks = checks_of(own, plan)
    found = by_name(checks)["target_sessions"]
    assert (found.outcome, found.found) == ("passed", "its own, through a pooler in session mode")
    assert set(bad(checks)) <= {"target_free_disk"}


def test_pool_that_is_used_up_is_unknown(
    conninfo: str, plan: Plan, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_sessions, "_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(target_commit, "COMMIT_SECONDS", 1.0)
    with behind(kind, conninfo, "session", tmp_path, 1) as own:
        found = by_name(checks_of(own, plan))["target_sessions"]
    assert (found.outcome, found.found) == ("unknown", "no second session could be opened")


def test_statement_mode_is_refused(conninfo: str, plan: Plan, tmp_path: Path) -> None:
    if INSTALLED is None:
        pytest.skip("PGBOUNCER WAS NOT TRIED: it is not installed")
    with behind("PgBouncer", conninfo, "statement", tmp_path) as shared:
        checks = checks_of(shared, plan)
    assert bad(checks) == {"target_sessions": "no transactions: a pooler in statement mode"}


def test_direct_session_is_known_as_such(conninfo: str, plan: Plan) -> None:
    assert by_name(checks_of(conninfo, plan))["target_sessions"].found == "its own"
