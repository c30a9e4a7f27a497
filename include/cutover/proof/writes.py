"""The write proof: every table takes an insert, an update and a delete of the application's role before go-live.

All of it happens in one transaction that is always rolled back: the rights that go-live will give are granted once, and each
table has a savepoint. The target is as before, the sequences included.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors, sql

from include.cutover.checks import Check, Outcome
from include.cutover.errors import Unreachable
from include.cutover.proof import write_rows
from include.cutover.proof.write_trial import OPERATIONS, Operation, Result, Trial
from include.cutover.target import catalog, fence, lock_holders, sequences, structure
from include.cutover.target.ledger import Guard
from include.cutover.target.session import session
from include.cutover.target.write_guard import OF_GUARD

_STATEMENT_TIMEOUT = "60s"
_SHOWN = 10
_TITLES: Mapping[Operation, str] = {
    "insert": "Every table takes an insert of the application, and gives the row back",
    "update": "Every table takes an update of the application, and gives the changed row back",
    "delete": "Every table takes a delete of the application, and the row is gone",
}
_DO = (
    "Do not go live. Find the rule, trigger, policy or missing right with \\d+ in psql and compare it with the plan's SQL;"
    " then run the step again."
)


@dataclass(frozen=True)
class WriteTarget:
    """The target of a write proof.

    Attributes:
        conninfo: With the pipeline's role.
        schema: The plan's target schema.
        sql_folder: The plan's SQL: its own rules, triggers and policies may change what a write does.
        role: The application's role; None where the plan moves no application.
    """

    conninfo: str
    schema: str
    sql_folder: Path
    role: str | None


def write_checks(target: WriteTarget, tables: Sequence[str], guard: Guard | None = None) -> list[Check]:
    """Write to every table as the application's role, read back, and roll back. Safe to run again.

    An existing row that no other refers to is updated, deleted and inserted again with the same values. Where there is none,
    a row is made up; where a constraint of the table refuses that row, its refusal shows that the insert arrived. A row
    whose deletion would change other rows is never deleted. Where the pipeline's role may not act as the application's
    (``target_fence: privileges``), the pipeline's role writes, and the rights of the other are read from the catalog.

    Args:
        target: The target and its roles.
        tables: Those of the plan.
        guard: Called first in the transaction.

    Returns:
        One check for each operation; a table that could not be tried makes it unknown.

    Raises:
        Unreachable: When a lock is not granted; names the sessions that hold one. Or when the server does not answer.
        Refused: When the pipeline's role may not grant the rights of go-live.
        LeaseLost: From ``guard``.
    """
    settings = {"statement_timeout": _STATEMENT_TIMEOUT}
    with session(target.conninfo, target.schema, settings=settings) as connection:
        own = _planned(connection, target, tables)
        with _blockers_named(connection, target.schema), connection.transaction(force_rollback=True):
            if guard is not None:
                guard(connection)
            if target.role is not None:
                fence.grant(connection, target.schema, target.role)
            for name in sorted({use.name for use in catalog.sequences(connection, target.schema) if use.table in tables}):
                # One of another owner goes forward by the draws of this proof; a cutover refuses to set such a sequence.
                with suppress(errors.InsufficientPrivilege), connection.transaction():
                    sequences.keep(connection, target.schema, name)
            acts = target.role is not None and _may_act_as(connection, target.role)
            results = {table: _of_table(connection, target, table, own, acts=acts) for table in tables}
    row = f"as {_writer(target.role, acts)}"
    return [_check(operation, results, row, target.schema) for operation in OPERATIONS]


def _of_table(
    connection: psycopg.Connection,
    target: WriteTarget,
    table: str,
    own: Mapping[tuple[str, Operation], Collection[str]],
    *,
    acts: bool,
) -> dict[Operation, Result]:
    found = write_rows.shape(connection, target.schema, table)
    if found is None:
        return dict.fromkeys(OPERATIONS, Result("failed", "there is no such table"))
    planned = {operation: own.get((table, operation), ()) for operation in OPERATIONS}
    try:
        with connection.transaction(force_rollback=True):
            results = Trial(connection, found, target.role if acts else None, planned).run()
    except errors.QueryCanceled:
        return dict.fromkeys(OPERATIONS, Result("unknown", "a row to write was not found within the time limit"))
    if target.role is not None and not acts:
        results |= _without_right(connection, target, table)
    return results


def _without_right(connection: psycopg.Connection, target: WriteTarget, table: str) -> dict[Operation, Result]:
    """Return the operations that the application's role has no right to, by the catalog."""
    name = sql.Identifier(target.schema, table).as_string(connection)
    missing = {}
    for operation in OPERATIONS:
        row = connection.execute(
            "SELECT has_table_privilege(%(role)s, %(name)s::regclass, %(right)s)"
            " AND has_table_privilege(%(role)s, %(name)s::regclass, 'SELECT')",
            {"role": target.role, "name": name, "right": operation},
        ).fetchone()
        if row is None or not row[0]:
            missing[operation] = Result("failed", f"{target.role} has no right to {operation} or to read")
    return missing


def _may_act_as(connection: psycopg.Connection, role: str) -> bool:
    """Report whether the pipeline's role may take the role: it is tried."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
    except errors.InsufficientPrivilege:
        return False
    return True


def _writer(role: str | None, acts: bool) -> str:
    if role is None:
        return "the pipeline's role; the plan moves no application here"
    return role if acts else f"the pipeline's role, which may not act as {role}; its rights by the catalog"


def _planned(
    connection: psycopg.Connection, target: WriteTarget, tables: Sequence[str]
) -> dict[tuple[str, Operation], list[str]]:
    """Return per table and operation the plan's own triggers, rules and policies, as long as they are as it makes them."""
    rows = connection.execute(_CHANGING, {"schema": target.schema, "tables": list(tables)}).fetchall()
    if not rows:
        return {}
    as_planned = structure.as_planned(target.conninfo, target.schema, target.sql_folder, tables)
    found: dict[tuple[str, Operation], list[str]] = {}
    for table, kind, owner, name, operations in rows:
        for operation in operations if (kind, owner, name) in as_planned else ():
            found.setdefault((table, operation), []).append(f"{kind} {name}")
    return found


@contextmanager
def _blockers_named(connection: psycopg.Connection, schema: str) -> Iterator[None]:
    """Report a lock that was not granted with the sessions that hold one on the tables."""
    try:
        yield
    except errors.LockNotAvailable:
        raise Unreachable(
            "another session holds a lock on the target's tables, and the write proof waited in vain",
            where=f"schema {schema}",
            expected="no other session at work on these tables",
            found="; ".join(lock_holders.holders(connection, schema)) or "no such session now",
            do=lock_holders.END_IT,
        ) from None


def _check(operation: Operation, results: Mapping[str, Mapping[Operation, Result]], writer: str, schema: str) -> Check:
    by_outcome: dict[Outcome, list[str]] = {"failed": [], "unknown": [], "passed": []}
    for table, result in results.items():
        if result[operation].note:
            by_outcome[result[operation].outcome].append(f"{table}: {result[operation].note}")
    outcomes = {result[operation].outcome for result in results.values()}
    outcome: Outcome = "failed" if "failed" in outcomes else "unknown" if "unknown" in outcomes or not outcomes else "passed"
    wrong = by_outcome["failed"] + by_outcome["unknown"]
    shown = wrong or by_outcome["passed"]
    notes = shown[:_SHOWN] + [f"and {len(shown) - _SHOWN} more"] * (len(shown) > _SHOWN)
    return Check(
        f"writes_{operation}",
        _TITLES[operation],
        outcome,
        f"one row in each of {len(results)} tables, {writer}; rolled back",
        "; ".join(notes) or f"{len(results)} tables",
        "" if outcome == "passed" else _DO,
        f"schema {schema}",
    )


_CHANGING: Any = f"""
    WITH named AS (
        SELECT class.relname AS root, below.relid AS oid
        FROM pg_class AS class
        CROSS JOIN LATERAL (SELECT class.oid UNION SELECT relid FROM pg_partition_tree(class.oid)) AS below (relid)
        WHERE class.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND class.relname = ANY (%(tables)s)
          AND class.relkind IN ('r', 'p')
    )
    SELECT named.root, 'trigger', class.relname, trigger.tgname,
           array_remove(ARRAY[CASE WHEN tgtype & 4 > 0 THEN 'insert' END, CASE WHEN tgtype & 16 > 0 THEN 'update' END,
                              CASE WHEN tgtype & 8 > 0 THEN 'delete' END], NULL)
    FROM named JOIN pg_class AS class ON class.oid = named.oid JOIN pg_trigger AS trigger ON trigger.tgrelid = named.oid
    WHERE NOT trigger.tgisinternal AND trigger.tgfoid NOT IN {OF_GUARD}
    UNION ALL
    SELECT named.root, 'rule', class.relname, rewrite.rulename,
           ARRAY[CASE rewrite.ev_type WHEN '3' THEN 'insert' WHEN '2' THEN 'update' ELSE 'delete' END]
    FROM named JOIN pg_class AS class ON class.oid = named.oid JOIN pg_rewrite AS rewrite ON rewrite.ev_class = named.oid
    WHERE rewrite.ev_type <> '1'
    UNION ALL
    SELECT named.root, 'policy', class.relname, policy.polname,
           CASE policy.polcmd WHEN 'a' THEN ARRAY['insert'] WHEN 'w' THEN ARRAY['update'] WHEN 'd' THEN ARRAY['delete']
                              ELSE ARRAY['insert', 'update', 'delete'] END
    FROM named JOIN pg_class AS class ON class.oid = named.oid JOIN pg_policy AS policy ON policy.polrelid = named.oid
    WHERE class.relrowsecurity
"""  # noqa: S608  # a constant
