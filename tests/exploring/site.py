"""Everything a cutover needs, small: the second plan with services, its SQLite file, PostgreSQL, the shop that runs on them.

The bodies of the steps are the product's own, but for the stages of Great Expectations, whose import alone costs seconds:
``plain_stages`` puts the comparisons in their place that those stages wrap.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import yaml
from psycopg import sql

from include.cutover import locks
from include.cutover.application import requests, services
from include.cutover.checks import Check
from include.cutover.cli import break_glass
from include.cutover.evidence import claims, fingerprints
from include.cutover.evidence.record import Evidence, runs
from include.cutover.places import ROOT
from include.cutover.proof import content, counts, expectations, orphans, table_suites
from include.cutover.proof.expectations import StageResult
from include.cutover.stack.postgres import Cluster
from include.cutover.target import sequences, session
from include.cutover.target.sides import Sides
from tests.exploring.shop import PROGRAMS, TABLES, Shop
from tests.exploring.walking import Run, World

PLAN = "library"
SCHEMA = "lending"
SECOND_PLAN = ROOT / "tests" / "second_plan"
ROWS = 2300
POSTGRESQL = {"fsync": "off", "full_page_writes": "off", "max_prepared_transactions": "10"}
"""Settings of the server; what is committed survives a kill of it."""


@cache
def plan_file() -> str:
    """The second plan with services, a configuration and smoke tests; places come from the environment."""
    plan = yaml.safe_load((SECOND_PLAN / "plans" / "library.yaml").read_text(encoding="utf-8"))
    plan["connections"]["application"] = "library_application"
    plan["services"] = [
        {
            "name": name,
            "control": {"kind": "supervisor", "url": "${SHOP_SUPERVISOR}", "program": name},
            "stop_seconds": 5,
            "start_seconds": 5,
            "log": "${SHOP}/logs/" + name + ".log",
        }
        for name in PROGRAMS
    ]
    plan["smoke_tests"] = {
        "base_url": "${SHOP_URL}",
        "seconds": 3,
        "health": {"path": "/health"},
        "counts": [{"path": "/books", "field": "total", "table": "books", "growing": True}],
        "write": {"path": "/books/{key}", "for_table": "books", "table": "books"},
    }
    plan["configuration"] = {
        "file": "${SHOP}/etc/app.env",
        "live": {"DATABASE_URL": "{application_url}", "FALLBACK": "false"},
        "rolled_back": {"DATABASE_URL": "sqlite:///{source_path}", "FALLBACK": "true"},
    }
    plan["backup"] = {"directory": "${SHOP}/backups", "second_copy": "${SHOP}/second"}
    plan["aftercare"] = {"enabled": False}  # what comes after a walk is no part of it
    plan["preflight"] = {"accept_unknown": ["target_free_disk"], "free_connections": 3}
    return str(yaml.safe_dump(plan, allow_unicode=True, sort_keys=False))


def load_dags(folder: Path) -> tuple[Any, ...]:
    """The DAGs of the plan, from the real DAG files. Their shape depends on nothing that differs between sites."""
    places = {
        "CUTOVER_PLANS": str(folder / "plans"),
        "CUTOVER_SQL": str(SECOND_PLAN / "sql"),
        **_addresses("x", "x", folder),
    }
    (folder / "plans").mkdir(parents=True, exist_ok=True)
    (folder / "plans" / f"{PLAN}.yaml").write_text(plan_file(), encoding="utf-8")
    found = []
    with mock.patch.dict(os.environ, places):
        for name in ("cutover", "rollback", "rehearsal"):
            spec = importlib.util.spec_from_file_location(f"exploring_{name}", ROOT / "dags" / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            found.append(vars(module)[f"{name}_{PLAN}"])
    return tuple(found)


def _addresses(url: str, supervisor: str, folder: Path) -> dict[str, str]:
    return {"SHOP_URL": f"http://{url}", "SHOP_SUPERVISOR": f"http://{supervisor}", "SHOP": str(folder)}


def make_source(file: Path, *, wal: bool) -> None:
    """The database before the move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {'wal' if wal else 'delete'}")
        connection.executescript(TABLES)
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO authors (name) VALUES (?)", [(f"ავტორი {n}\t\\N",) for n in range(20)])
        connection.execute("DELETE FROM authors WHERE id = 20")
        connection.executemany(
            "INSERT INTO books VALUES (?, ?, ?, ?)", [(n, n % 19 + 1, f"Book {n}\n", n / 4) for n in range(1, ROWS)]
        )
        connection.executemany('INSERT INTO "Odd Table" VALUES (?, ?)', [("\x1d", 1), ("b", 0), ("c", None)])
        connection.execute("COMMIT")
    file.chmod(0o640)


class Site:
    """One site below ``folder``; ``open`` starts its application, ``close`` ends everything and drops the databases."""

    def __init__(self, folder: Path, cluster: Cluster, dags: tuple[Any, ...], *, wal: bool = False) -> None:
        self.folder = folder
        self.cluster = cluster
        self.cutover, self.rollback, self.rehearsal = dags
        self.shop = Shop(folder, SCHEMA)
        self.evidence = folder / "evidence"
        self.database = f"s_{secrets.token_hex(6)}"
        self.role = f"app_{self.database}"
        self.plans = folder / "plans"
        self.plans.mkdir(parents=True)
        (self.plans / f"{PLAN}.yaml").write_text(plan_file(), encoding="utf-8")
        make_source(self.shop.database, wal=wal)
        self.trace: list[str] = []
        self.world = World(folder / "log", self.trace.append)
        self._before: dict[str, str] = {}

    @property
    def conninfo(self) -> str:
        return self.cluster.conninfo(self.database)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that the steps, the commands and the plan read."""
        login = {"conn_type": "postgres", "host": "127.0.0.1", "port": self.cluster.port, "schema": self.database}
        return {
            "CUTOVER_EVIDENCE": str(self.evidence),
            "CUTOVER_PLANS": str(self.plans),
            "CUTOVER_SQL": str(SECOND_PLAN / "sql"),
            "SHOP": str(self.folder),
            "SHOP_URL": self.shop.url,
            "SHOP_SUPERVISOR": self.shop.supervisor_url,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "lead:op,observer:viewer,communicator:viewer",
            "AIRFLOW_CONN_LIBRARY_SOURCE": json.dumps({"conn_type": "sqlite", "host": str(self.shop.database)}),
            "AIRFLOW_CONN_LIBRARY_TARGET": json.dumps({**login, "login": "postgres", "password": self.cluster.password}),
            "AIRFLOW_CONN_LIBRARY_APPLICATION": json.dumps({**login, "login": self.role, "password": "of-the-shop"}),
        }

    def open(self) -> None:
        self._before = dict(os.environ)
        self.shop.open()
        os.environ.update(self.environment)
        with psycopg.connect(self.cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{self.database}" STRATEGY file_copy'.encode())
            connection.execute(f"CREATE ROLE \"{self.role}\" LOGIN PASSWORD 'of-the-shop'".encode())

    def close(self) -> None:
        try:
            self.world.close()
            self.shop.close()
            with psycopg.connect(self.cluster.conninfo(), autocommit=True) as connection:
                connection.execute(f'DROP DATABASE IF EXISTS "{self.database}" WITH (FORCE)'.encode())
                connection.execute(f'DROP ROLE IF EXISTS "{self.role}"'.encode())
        finally:
            os.environ.clear()
            os.environ.update(self._before)
            shutil.rmtree(self.folder, ignore_errors=True)

    def start_postgresql(self) -> None:
        """Start the server, unless it runs."""
        if self.cluster.postmaster() is None:
            self.cluster.start(POSTGRESQL)

    def trigger(self, run_id: str, **params: Any) -> Run:
        """Queue a cutover."""
        form = {"approve": "auto", "reason": "a test", "window_start": None, "notify": False, **params}
        return self._add(Run(self.cutover, run_id, form))

    def trigger_rollback(self, run_id: str, subject: str | None = None) -> Run:
        """Queue a manual rollback."""
        return self._add(Run(self.rollback, run_id, {"reason": "a test", "run_id": subject}))

    def trigger_rehearsal(self, run_id: str, **params: Any) -> Run:
        """Queue a rehearsal."""
        return self._add(Run(self.rehearsal, run_id, {"reason": "a test", "keep_earlier": False, **params}))

    def _add(self, run: Run) -> Run:
        self.world.runs.append(run)
        return run

    def of(self, run_id: str) -> Evidence:
        return Evidence.of(PLAN, run_id)

    def reach(self, run: Run, task_id: str) -> None:
        """Let a run go on until a task has come to its end."""
        self.world.walk(until=lambda: all(instance.state == "success" for instance in run.of(task_id)))

    @property
    def opened(self) -> list[Evidence]:
        """Evidence of the cutovers that opened, oldest first."""
        return [evidence for evidence in runs(PLAN) if evidence.last("run.opened") is not None]

    def break_glass(self, evidence: Evidence) -> str:
        """The command's work; for a child process."""
        return break_glass.rollback(PLAN, evidence.folder, reason="a test", by="somebody").summary

    def query(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo) as connection:
            return connection.execute(sql.SQL(query)).fetchall()


@contextmanager
def plain_stages() -> Iterator[None]:
    """The comparisons that the stages of Great Expectations wrap in the stages' place, and short pauses."""
    with (
        mock.patch.object(table_suites, "check_tables", _check_tables),
        mock.patch.object(expectations, "run_list", _run_list),
        mock.patch.object(services, "_PAUSE", 0.005),
        mock.patch.object(requests, "_PAUSE", 0.02),
        mock.patch.object(claims, "PAUSE_SECONDS", 0.005),
        mock.patch.object(claims, "WAIT_SECONDS", 1.0),
        mock.patch.object(claims, "PATIENCE_SECONDS", 0.5),
        mock.patch.object(locks, "HUNG_SECONDS", 0.5),
        mock.patch.object(break_glass, "PAUSE_SECONDS", 0.05),
        mock.patch.object(session, "LOCK_TIMEOUT", "1500ms"),
        # SQL and code are hashed anew by each step; here only the plan changes while a run is in flight.
        mock.patch.object(fingerprints, "of_run", lambda plan: {"plan": fingerprints.of_plan(plan)}),
    ):
        yield


def _stage(name: str, checks: list[Check]) -> StageResult:
    return StageResult(name, all(check.outcome == "passed" for check in checks), checks, Path(), f"{len(checks)} looked at")


def _check_tables(sides: Sides, tables: Any, expected: Any, *_: Any, **settings: Any) -> StageResult:
    conninfo, schema = sides.conninfo, sides.schema
    checks = [row.check(schema) for row in counts.count_checks(conninfo, schema, expected)]
    checks += [result.check(schema) for result in orphans.orphan_checks(conninfo, schema, sides.secret)]
    kept = {name: settings[name] for name in ("store", "sql_folder")}
    checks += [result.check(schema) for result in content.compare(sides, tables, **kept)]
    checks += sequences.check_sequences(conninfo, schema, settings["sqlite_sequence"])
    return _stage("tables", checks)


def _run_list(stage: str, heading: str, found: Any, *_: Any, **__: Any) -> StageResult:
    return _stage(stage, list(found))
