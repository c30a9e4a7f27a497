"""Shared by all tests: one embedded PostgreSQL for the whole session, and a fresh database for every test that asks."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from include.cutover.places import ROOT
from include.cutover.stack.postgres import OWNER, Cluster, free_port

# Airflow reads these when it is first imported; without them it would write into the home directory.
os.environ["AIRFLOW_HOME"] = str(ROOT / "var" / "airflow-of-the-tests" / os.environ.get("PYTEST_XDIST_WORKER", "alone"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "false"
os.environ["GX_ANALYTICS_ENABLED"] = "false"
os.environ["SF_PARTNER"] = "great_expectations_oss"  # as Great Expectations sets it
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(ROOT / "var" / "hypothesis")


FIRST = (
    "tests/dags/test_runs.py",
    "tests/dags/test_roles.py",
    "tests/chain/test_awkward_data.py",
    "tests/dags/test_log_in.py",
    "tests/dags/test_queues.py",
    "tests/dags/test_shape.py",
)
"""These files are taken first, in this order; the others follow by name.

``make test`` gives each worker two files at once, and then the next as soon as it has ended one. The first two take longest
and mostly wait, for Airflow and for people: they must run beside all the others and not at the end. Short ones stand behind
them.
"""

SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_prepared_transactions": "5",
    "max_wal_size": "256MB",
    "scram_iterations": "1",
}
"""Of the server of the tests, which no test crashes. Hashing passwords was half of the price of a connection."""

MEMORY, ROOM = Path("/dev/shm"), 2 << 30
"""Where that server lives when so many bytes are free there: a database is made and dropped in half the processor time."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take the files in ``FIRST`` first."""
    places = {config.rootpath / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(FIRST)))


@pytest.fixture(scope="module", autouse=True)
def environment_left_as_found() -> Iterator[None]:
    """A file that leaves a variable changed gives its places to the files that the same process takes next."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    changed.discard("PYTEST_CURRENT_TEST")
    for name in changed:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    assert not changed, f"the tests of this file left {', '.join(sorted(changed))} changed in the environment"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running PostgreSQL, in memory where there is room; stopped and removed after the session."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("postgres")
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cutover-tests-", dir=MEMORY)))
            folder.chmod(0o755)  # where root runs the tests, another user owns the server
        cluster = Cluster(folder, free_port())
        cluster.start(SETTINGS)
        stack.callback(cluster.stop)
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:  # its hash is older than the settings
            connection.execute(f"ALTER ROLE {OWNER} PASSWORD '{cluster.password}'")
        yield cluster


@pytest.fixture
def conninfo(cluster: Cluster) -> Iterator[str]:
    """libpq connection string of a new, empty database; dropped after the test."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" STRATEGY file_copy')  # cheaper to make and to drop than by its log
    try:
        yield cluster.conninfo(name)
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(autouse=True)
def _own_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the checkout's var/."""
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(tmp_path / "evidence"))
