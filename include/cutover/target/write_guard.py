"""The guard on the tables of a migration: while a run holds the lease, nobody but the run can write to them.

A statement trigger on each table and partition refuses every INSERT, UPDATE, DELETE, TRUNCATE and COPY of a transaction
that did not call ``ledger.guard`` of the run that holds the lease. It stands from the creation of the tables until the
application is let in. While the lease is free, or another run holds it, it refuses nothing: a run that was called off blocks
nobody, and a trigger that was left behind and enabled again stops no application.

It is made ENABLE ALWAYS, so ``session_replication_role = replica`` does not pass it. A superuser can still disable or drop
it, or forge the setting that it reads; ``proof.unchanged`` finds what they changed. A statement trigger does not slow a COPY
down: only row triggers end PostgreSQL's inserts of many rows at once.

The guard is recognised by its function in the ledger's schema, never by a trigger's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString

import psycopg
from psycopg import errors, sql

from include.cutover.target import catalog, ledger
from include.cutover.target.ledger import Guard
from include.cutover.target.session import one_row, session

NAME = "cutover_guard"
FUNCTION = "refuse_other_writers"

OF_GUARD: LiteralString = (
    "(SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace('cutover') AND proname = 'refuse_other_writers')"
)
"""SQL for the oids of the guard's function, to compare with ``tgfoid``; empty where there is none."""

_DROP_WAIT, _DROP_NO_WAIT = "2s", "1ms"

# Schema and run are the trigger's arguments: tables that were set aside under another schema are not guarded any more, nor
# are those of a run that has ended while another run holds the lease.
_BODY: LiteralString = """
DECLARE
    held record;
BEGIN
    IF TG_TABLE_SCHEMA <> TG_ARGV[0] THEN
        RETURN NULL;
    END IF;
    SELECT lease.run_id, lease.epoch, lease.acquired_at, run.plan INTO held
    FROM cutover.lease LEFT JOIN cutover.run USING (run_id);
    IF held.run_id IS DISTINCT FROM TG_ARGV[1] OR held.run_id IS NULL
        OR current_setting('cutover.run', true) = held.run_id || ':' || held.epoch THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'object_in_use',
        MESSAGE = format('the table %s is being migrated by the run %s: only that run may write to it',
                         TG_TABLE_NAME, held.run_id),
        DETAIL = format('The run holds the target (cutover.lease) since %s. Nothing was changed.', held.acquired_at),
        HINT = format('Wait for its end. To call it off, trigger the DAG rollback_%s.', coalesce(held.plan, '<plan>'));
END
"""
_SETTINGS = ["search_path=pg_catalog, pg_temp"]


def raise_guard(conninfo: str, schema: str, guard: Guard) -> list[str]:
    """Raise the guard on every table of the schema that lacks it, and return their names. Atomic; safe to run again.

    Tables of other owners are left out: the pipeline cannot guard them.

    Args:
        conninfo: The target, with the pipeline's role.
        schema: The plan's target schema.
        guard: Called first in the transaction.

    Raises:
        Unreachable: When another session holds one of the tables.
        LeaseLost: From ``guard``.
    """
    with session(conninfo, schema) as connection, connection.transaction():
        guard(connection)
        _make_function(connection)
        (run_id,) = one_row(connection.execute("SELECT run_id FROM cutover.lease"))
        raised = []
        for table, (name, state) in _standing(connection, schema).items():
            if name is not None and state == "A":
                continue
            names = {"table": sql.Identifier(schema, table), "trigger": sql.Identifier(name or NAME)}
            if name is None:
                _drop_of_others(connection, schema, table)
                connection.execute(
                    sql.SQL(
                        "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
                        " FOR EACH STATEMENT EXECUTE FUNCTION {function}({schema}, {run})"
                    ).format(
                        function=sql.Identifier(ledger.SCHEMA, FUNCTION),
                        schema=sql.Literal(schema),
                        run=sql.Literal(run_id),
                        **names,
                    )
                )
            connection.execute(sql.SQL("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}").format(**names))
            raised.append(table)
        return raised


def state(connection: psycopg.Connection, schema: str) -> dict[str, str]:
    """Return table → ``stands``, ``disabled`` or ``missing``, for every table and partition that the pipeline owns.

    Only the guard of the run that holds the lease counts.
    """
    return {
        table: "missing" if name is None else "stands" if enabled == "A" else "disabled"
        for table, (name, enabled) in _standing(connection, schema).items()
    }


def function_is_ours(connection: psycopg.Connection) -> bool:
    """Report whether the guard's function is the one that this module makes."""
    query = f"SELECT prosrc, prosecdef, proconfig FROM pg_proc WHERE oid = {OF_GUARD}"  # noqa: S608  # constants
    row = connection.execute(query).fetchone()
    return row is not None and tuple(row) == (_BODY, True, _SETTINGS)


def disable(connection: psycopg.Connection, schema: str) -> None:
    """Disable the guard within the transaction that lets the application in. It waits for no reader, as a DROP would."""
    _on_each(connection, schema, "ALTER TABLE {table} DISABLE TRIGGER {trigger}")


def drop(conninfo: str, schema: str, guard: Guard) -> list[str]:
    """Drop the disabled triggers, and return the tables on which a reader held one up. Safe to run again.

    One reader is waited for, no second one: the downtime lasts while this does.

    A trigger that is left is disabled. Enabled again, it refuses nothing, because the run holds the lease no more.

    Raises:
        LeaseLost: From ``guard``.
    """
    left: list[str] = []
    with session(conninfo, schema) as connection:

        def one(table: str, statement: sql.Composed) -> None:
            try:
                with connection.transaction():
                    guard(connection)
                    wait = _DROP_NO_WAIT if left else _DROP_WAIT
                    connection.execute("SELECT set_config('lock_timeout', %s, true)", [wait])
                    connection.execute(statement)
            except errors.LockNotAvailable:
                left.append(table)

        _each(connection, schema, "DROP TRIGGER {trigger} ON {table}", one)
    return left


def _on_each(connection: psycopg.Connection, schema: str, statement: LiteralString) -> None:
    _each(connection, schema, statement, lambda _, text: connection.execute(text))


def _each(
    connection: psycopg.Connection, schema: str, statement: LiteralString, do: Callable[[str, sql.Composed], object]
) -> None:
    for table, (name, _) in _standing(connection, schema).items():
        if name is not None:
            names = {"table": sql.Identifier(schema, table), "trigger": sql.Identifier(name)}
            do(table, sql.SQL(statement).format(**names))


def _drop_of_others(connection: psycopg.Connection, schema: str, table: str) -> None:
    """Drop guards of earlier runs, which refuse nothing any more."""
    relation = sql.Identifier(schema, table)
    query = f"SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND tgfoid IN {OF_GUARD}"  # noqa: S608  # constants
    for (name,) in connection.execute(query, [relation.as_string(connection)]).fetchall():
        connection.execute(sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(name), relation))


def _make_function(connection: psycopg.Connection) -> None:
    """Create the guard's function where it is missing or another; several processes may do so at once."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('cutover ledger', 0))")
    if function_is_ours(connection):
        return
    names = {"function": sql.Identifier(ledger.SCHEMA, FUNCTION)}
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = pg_catalog, pg_temp AS {body}"
        ).format(body=sql.Literal(_BODY), **names)
    )
    connection.execute(sql.SQL("REVOKE ALL ON FUNCTION {function}() FROM PUBLIC").format(**names))


def _standing(connection: psycopg.Connection, schema: str) -> dict[str, tuple[str | None, str | None]]:
    """Return table → name and state of its guard; both None where it has none."""
    own, _ = catalog.own_relations(connection, schema)
    query = f"""
        SELECT class.relname, min(trigger.tgname), min(trigger.tgenabled::text)
        FROM pg_class AS class
        LEFT JOIN pg_trigger AS trigger ON trigger.tgrelid = class.oid AND NOT trigger.tgisinternal
             AND trigger.tgfoid IN {OF_GUARD} AND trigger.tgtype = {_TYPE} AND trigger.tgqual IS NULL
             AND trigger.tgnargs = 2 AND trigger.tgargs = convert_to(%s, 'UTF8') || '\\x00'::bytea
                 || convert_to((SELECT run_id FROM cutover.lease), 'UTF8') || '\\x00'::bytea
        WHERE class.relnamespace = to_regnamespace(quote_ident(%s)) AND class.relkind IN ('r', 'p')
          AND class.relname = ANY(%s) AND class.relname <> %s
        GROUP BY class.relname ORDER BY class.relname COLLATE "C"
    """  # noqa: S608  # constants
    rows = connection.execute(query.encode(), [schema, schema, own, catalog.RECORD_TABLE])
    return {table: (name, enabled) for table, name, enabled in rows}


_TYPE = 2 | 4 | 8 | 16 | 32  # BEFORE, INSERT, DELETE, UPDATE, TRUNCATE; 1, for each row, is not set
