"""The plan's SQL, tried in a scratch schema of the target that is rolled back.

It shows the catalog as the plan's SQL makes it, and faults in files that would run only after the services have stopped.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import errors, sql

from include.cutover.errors import CannotCheck, Refused
from include.cutover.target import session as target_session
from include.cutover.target.sql_files import KINDS, discover
from include.cutover.target.sql_runner import execute


@contextmanager
def build(
    conninfo: str,
    plan_sql_folder: Path,
    kinds: Sequence[str] = KINDS,
    *,
    application_name: str | None = None,
) -> Iterator[tuple[psycopg.Connection, str]]:
    """Run all files in a scratch schema, yield connection and schema to read the catalog, then roll back.

    Everything happens in one transaction: it leaves nothing behind, however this process ends. The tables are empty, so it
    takes well under a second.

    Args:
        conninfo: The target.
        plan_sql_folder: The plan's SQL folder.
        kinds: Some of ``KINDS``, in order.
        application_name: Shown in pg_stat_activity; default is the one in ``conninfo``.

    Raises:
        Refused: When the server is a standby, the role may not make a schema, or a partition is a foreign table or lies in
            another schema.
        CannotCheck: When the database does not store UTF-8.
        The other errors of ``sql_runner.apply``.
    """
    files = discover(plan_sql_folder, kinds)
    schema = f"cutover_rehearsal_{secrets.token_hex(6)}"
    with target_session.session(conninfo, schema, application_name=application_name) as connection:
        info, where = connection.info, f"database {connection.info.dbname}"
        if info.parameter_status("in_hot_standby") == "on":
            raise Refused("the target accepts no writes", where=where, found="a standby", do="Name the primary server.")
        if (encoding := info.parameter_status("server_encoding")) != "UTF8":
            raise CannotCheck(
                "the target does not store text as UTF-8",
                where=where,
                expected="server_encoding UTF8",
                found=str(encoding),
                do="Create the database with ENCODING 'UTF8' TEMPLATE template0.",
            )
        with connection.transaction(force_rollback=True):
            try:
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            except errors.InsufficientPrivilege as error:
                raise Refused(
                    "the pipeline's role may not create a scratch schema, in which the plan's SQL is tried",
                    where=where,
                    found=target_session.primary_message(error),
                    do=f'GRANT CREATE ON DATABASE "{info.dbname}" TO "{info.user}";',
                ) from None
            for file in files:
                target_session.use_schema(connection, schema)
                execute(connection, file)
            target_session.use_schema(connection, schema)
            _require_plain_partitions(connection, schema)
            yield connection, schema


def _require_plain_partitions(connection: psycopg.Connection, schema: str) -> None:
    """Refuse partitions whose rows the pipeline can neither guard nor compare."""
    rows = connection.execute(
        """
        SELECT child.oid::regclass::text, child.relkind = 'f'
        FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid JOIN pg_class AS parent ON parent.oid = inhparent
        WHERE parent.relnamespace = to_regnamespace(quote_ident(%s)) AND parent.relkind IN ('r', 'p')
          AND (child.relkind = 'f' OR child.relnamespace <> parent.relnamespace)
        ORDER BY 1
        """,
        [schema],
    ).fetchall()
    if rows:
        raise Refused(
            "the plan's SQL makes a partition that cannot be guarded and compared",
            where=", ".join(name for name, _ in rows),
            expected="partitions that are tables of the plan's schema",
            found=", ".join("a foreign table" if foreign else "a table of another schema" for _, foreign in rows),
            do="Make it a table of the plan's schema; attach foreign tables after the aftercare.",
        )
