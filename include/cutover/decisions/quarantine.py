# ruff: noqa: S608  every identifier is quoted, every value is bound
"""The quarantine: the whole originals of all rows that a decision touched, in the target's table ``cutover.quarantine``.

There a row can be found, long after the cutover, as it was before a decision changed it or took it out. A row is kept as
JSON from which it can be built again: text, integers and reals as they are, and an object for values that JSON cannot
express: ``{"blob": "<hex>"}``, ``{"text": "<hex>"}`` for text that is not valid or holds NUL, ``{"real": "Infinity"}``.

Secret columns are kept too: the table lies beside the ledger, which the application's role may not read. They never reach a
file or a log.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from include.cutover.decisions import decided_snapshot
from include.cutover.decisions.decided_snapshot import Decided, beside
from include.cutover.errors import Refused
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import quote
from include.cutover.target import ledger
from include.cutover.target import session as target_session
from include.cutover.target.ledger import Guard

TABLE = "quarantine"

_COLUMNS = {
    "run_id": "text NOT NULL",
    "table_name": "text NOT NULL",
    "key": "text NOT NULL",
    "kind": "text NOT NULL CHECK (kind IN ('taken out', 'changed'))",
    "reason": "text NOT NULL",
    "row": "jsonb NOT NULL",
    "at": "timestamptz NOT NULL DEFAULT clock_timestamp()",
}


@dataclass(frozen=True)
class QuarantinedRow:
    """A row of the backup that a decision touched.

    Attributes:
        table: Its table.
        key: Its key for a person; secret columns of the key are hidden.
        kind: ``taken out`` rows are not in the target, ``changed`` ones are, with other values.
        reason: The decision, and its cause.
        row: Column → value as JSON text, see the module's docstring. Holds secrets.
    """

    table: str
    key: str
    kind: Literal["taken out", "changed"]
    reason: str
    row: str


def rows(decided: Decided, plan: Plan) -> Iterator[QuarantinedRow]:
    """Read the originals of all rows that were taken out or changed, one by one, from the backup. Memory stays flat.

    Raises:
        CannotCheck: When a file cannot be read.
    """
    if not decided.made:
        return
    with decided_snapshot.opened(decided) as connection:
        encoding = decided_snapshot.text_encoding(connection)
        kinds: dict[Literal["taken out", "changed"], str] = {
            "taken out": "SELECT place, foreign_key || CASE WHEN follows THEN ': the row that it refers to is in quarantine'"
            " ELSE ': it refers to no row' END AS reason FROM record.removed WHERE t = {t}",
            "changed": "SELECT place, group_concat(c || ': ' || decision || coalesce(' by ' || foreign_key, ''), '; ')"
            " AS reason FROM record.touched WHERE t = {t} GROUP BY place",
        }
        for t, table in decided_snapshot.recorded_tables(connection):
            shape, secret = source_schema.shape(connection, table), plan.tables[table].secret
            names = [column.name for column in source_schema.columns(connection, table) if not column.generated]
            keys = decided_snapshot.key_columns(shape, "original")
            cells = [decided_snapshot.cell(f"original.{quote(name)}") for name in names]
            for kind, places in kinds.items():
                clause = beside(shape, f"({places.format(t=t)})", "original")
                query = f"SELECT x.reason, {', '.join([*keys, *cells])} FROM {clause}"
                for reason, *found in connection.execute(query):
                    key, values = found[: len(keys)], found[len(keys) :]
                    row = {
                        name: as_json(values[2 * number], values[2 * number + 1], encoding)
                        for number, name in enumerate(names)
                    }
                    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
                    yield QuarantinedRow(table, decided_snapshot.row_name(shape, key, secret, encoding), kind, reason, text)


def as_json(kind: str, value: Any, encoding: str) -> Any:
    """Return a value that ``decided_snapshot.cell`` read, in the form that the module's docstring describes."""
    if kind == "blob":
        return {"blob": value.hex()}
    if kind == "text":
        try:
            text = str(value, encoding)
        except UnicodeDecodeError:
            return {"text": value.hex()}
        return {"text": value.hex()} if "\0" in text else text
    if kind == "real" and not math.isfinite(value):
        return {"real": "Infinity" if value > 0 else "-Infinity"}
    return value


def store(conninfo: str, run_id: str, rows: Iterable[QuarantinedRow], guard: Guard | None = None) -> dict[str, int]:
    """Write the rows into ``cutover.quarantine``, in one transaction. Memory stays flat.

    Safe to run again: the run's rows replace those of an earlier attempt, and other runs' rows stay.

    Args:
        conninfo: Connection to the target.
        run_id: The run that the rows belong to.
        rows: The rows.
        guard: Checks, in the same transaction, that the run still holds its lease.

    Returns:
        Table → rows of this run in the table now.

    Raises:
        Refused: When another table of that name exists.
        LeaseLost: From ``guard``.
        Unreachable: When the target does not answer.
    """
    with target_session.session(conninfo, ledger.SCHEMA) as connection, connection.transaction():
        if guard is not None:
            guard(connection)
        _ensure(connection)
        connection.execute("DELETE FROM cutover.quarantine WHERE run_id = %s", [run_id])
        statement = "COPY cutover.quarantine (run_id, table_name, key, kind, reason, row) FROM STDIN"
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for item in rows:
                copy.write_row((run_id, item.table, item.key, item.kind, item.reason, item.row))
        return _stored(connection, run_id)


def stored(conninfo: str, run_id: str) -> dict[str, int]:
    """Count the rows of a run in ``cutover.quarantine``, per table; empty where it does not exist."""
    with target_session.session(conninfo, ledger.SCHEMA) as connection:
        row = connection.execute("SELECT to_regclass('cutover.quarantine')").fetchone()
        return {} if row is None or row[0] is None else _stored(connection, run_id)


def _stored(connection: psycopg.Connection, run_id: str) -> dict[str, int]:
    query = (
        "SELECT table_name, count(*) FROM cutover.quarantine WHERE run_id = %s"
        ' GROUP BY table_name ORDER BY table_name COLLATE "C"'
    )
    return {table: int(count) for table, count in connection.execute(query, [run_id])}


def _ensure(connection: psycopg.Connection) -> None:
    """Create the table where it is missing; several processes may do so at once."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('cutover ledger', 0))")
    columns = {
        name
        for (name,) in connection.execute(
            "SELECT attname FROM pg_attribute"
            " WHERE attrelid = to_regclass('cutover.quarantine') AND attnum > 0 AND NOT attisdropped"
        )
    }
    if columns == set(_COLUMNS):
        return
    if columns:
        raise Refused(
            "a table of that name exists and is not the quarantine",
            where=f"{ledger.SCHEMA}.{TABLE}",
            expected=f"the columns {', '.join(_COLUMNS)}",
            found=", ".join(sorted(columns)),
            do="Rename it, then run the step again.",
        )
    if connection.execute("SELECT to_regnamespace('cutover')").fetchone() == (None,):
        connection.execute("CREATE SCHEMA cutover")
    body = ", ".join(f'"{name}" {definition}' for name, definition in _COLUMNS.items())
    connection.execute(f"CREATE TABLE cutover.quarantine ({body})".encode())
    connection.execute("CREATE INDEX quarantine_of_run ON cutover.quarantine (run_id, table_name)")
