"""Shared by all tests: one embedded PostgreSQL for the whole session, and a fresh database for every test that asks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from include.cutover.places import ROOT
from include.cutover.stack.postgres import Cluster, free_port

# Airflow reads these when it is first imported; without them it would write into the home directory.
os.environ["AIRFLOW_HOME"] = str(ROOT / "var" / "airflow-of-the-tests" / os.environ.get("PYTEST_XDIST_WORKER", "alone"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "false"
os.environ["GX_ANALYTICS_ENABLED"] = "false"
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(ROOT / "var" / "hypothesis")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running PostgreSQL, stopped after the session."""
    cluster = Cluster(tmp_path_factory.mktemp("postgres"), free_port())
    cluster.start({"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_prepared_transactions": "5"})
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def conninfo(cluster: Cluster) -> Iterator[str]:
    """libpq connection string of a new, empty database; dropped after the test."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield cluster.conninfo(name)
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(autouse=True)
def _own_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the checkout's var/."""
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(tmp_path / "evidence"))
