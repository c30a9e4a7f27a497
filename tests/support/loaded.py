"""A target that a good copy has filled: made once, and cloned for every test that wants to spoil it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw
import psycopg
from psycopg import sql

from examples.ward_ops.generate import generate
from include.cutover.copying import tables as copying
from include.cutover.copying.table_copy import RunLease
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.source import backup
from include.cutover.source.backup_manifest import Manifest
from include.cutover.stack.postgres import Cluster
from include.cutover.target import constraints, ledger, row_counts, sequences, sql_runner
from include.cutover.target.sides import Sides

SCHEMA = "public"


@dataclass(frozen=True)
class Loaded:
    """A backup, and the database with its content; ``spoiled`` gives a clone of it."""

    cluster: Cluster
    database: str
    manifest: Manifest
    plan: Plan

    @property
    def conninfo(self) -> str:
        return self.cluster.conninfo(self.database)

    @contextmanager
    def to_spoil(self) -> Iterator[Spoilt]:
        """A clone for many tests; dropped afterwards."""
        with self.spoiled() as conninfo:
            made = Spoilt(conninfo)
            made.keep()
            yield made

    @contextmanager
    def spoiled(self, *statements: str) -> Iterator[str]:
        """Connection string of a clone in which these statements were carried out; dropped afterwards."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.database}" STRATEGY file_copy'.encode())
        try:
            with psycopg.connect(self.cluster.conninfo(name)) as connection:
                for statement in statements:
                    connection.execute(statement.encode())
            yield self.cluster.conninfo(name)
        finally:
            with psycopg.connect(self.cluster.conninfo(), autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@dataclass(frozen=True)
class Spoilt:
    """A database whose tables can be spoilt one after the other, and are whole again in between."""

    conninfo: str

    def keep(self) -> None:
        """Keep the tables as they are now, in a schema of their own."""
        with psycopg.connect(self.conninfo) as connection:
            connection.execute("CREATE SCHEMA kept")
            for table in row_counts.of_schema(connection, SCHEMA):
                names = {"kept": sql.Identifier("kept", table), "table": sql.Identifier(SCHEMA, table)}
                connection.execute(sql.SQL("CREATE TABLE {kept} AS TABLE {table}").format(**names))

    @contextmanager
    def by(self, *statements: str) -> Iterator[None]:
        """Carry statements out, past foreign keys, and put the rows of every table back afterwards."""
        with psycopg.connect(self.conninfo) as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement.encode())
        try:
            yield
        finally:
            with psycopg.connect(self.conninfo) as connection:
                connection.execute("SET session_replication_role = replica")
                for table in row_counts.of_schema(connection, "kept"):
                    names = {"kept": sql.Identifier("kept", table), "table": sql.Identifier(SCHEMA, table)}
                    connection.execute(sql.SQL("DELETE FROM {table}").format(**names))
                    connection.execute(sql.SQL("INSERT INTO {table} TABLE {kept}").format(**names))


@contextmanager
def ward_ops(cluster: Cluster, folder: Path, *changes: str, pings: int = 11_000) -> Iterator[Loaded]:
    """Ward OPS as the cutover leaves it before the decision: copied, indexed, validated, sequences set.

    Args:
        changes: SQL that is carried out in the source first.
    """
    plan, database = load_plan("ward_ops"), f"t_{uuid.uuid4().hex[:12]}"
    generate(folder / "ward_ops.db", pings=pings)
    with closing(apsw.Connection(str(folder / "ward_ops.db"))) as connection:
        for change in changes:
            connection.execute(change)
    manifest = backup.take(folder / "ward_ops.db", folder / "backups", None, run_id="run", plan=plan.name)
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{database}"'.encode())
    try:
        load(cluster.conninfo(database), plan, manifest.file, manifest.sqlite_sequence)
        yield Loaded(cluster, database, manifest, plan)
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)'.encode())


def load(conninfo: str, plan: Plan, snapshot: Path, sqlite_sequence: Mapping[str, int]) -> None:
    """Everything that the cutover does in the target."""
    ledger.ensure(conninfo)
    epoch = ledger.open_run(conninfo, "run", plan.name)
    for kind in ("pre_data", "migrations"):
        sql_runner.apply(conninfo, plan.sql_folder, kind, schema=plan.target_schema, run_id="run")
    for table in plan.tables:
        copying.copy_table(Sides.of_plan(plan, snapshot, conninfo), RunLease("run", epoch), table)
    for kind in ("post_data", "reference", "foreign_keys"):
        if (plan.sql_folder / kind).is_dir():
            sql_runner.apply(conninfo, plan.sql_folder, kind, schema=plan.target_schema, run_id="run")
    sequences.set_sequences(conninfo, plan.target_schema, sqlite_sequence)
    constraints.validate_foreign_keys(conninfo, plan.target_schema, secret={})
    ledger.release(conninfo, "run", epoch)
