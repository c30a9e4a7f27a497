"""The judge's view of a live target: its structure, its sequences and the rights of the application's role.

Measure is the plan's SQL, carried out anew in a schema that is rolled back and read by the judge's own queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from tests.exploring.site import PLAN, SCHEMA, SECOND_PLAN, Site

SCRATCH = "as_planned"
LAST_AUTHOR = 20  # assigned by SQLite, and deleted since: its key is never given again
DAILY_WORK = {"index books CREATE INDEX by_title ON books USING btree (title) t t"}  # see ``others.HARMLESS``
SHAPE = """
    WITH tables AS (
        SELECT oid, relname, relpersistence, relrowsecurity, relforcerowsecurity FROM pg_class
        WHERE relnamespace = %(schema)s::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
            AND relname <> 'schema_migrations'
    )
    SELECT concat_ws(' ', 'table', relname, relpersistence, relrowsecurity, relforcerowsecurity) FROM tables
    UNION ALL SELECT concat_ws(' ', 'column', relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
        attgenerated, pg_get_expr(adbin, adrelid))
        FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    UNION ALL SELECT concat_ws(' ', 'constraint', relname, conname, pg_get_constraintdef(con.oid), convalidated)
        FROM tables JOIN pg_constraint AS con ON conrelid = tables.oid WHERE contype <> 'n'
    UNION ALL SELECT concat_ws(' ', 'index', relname, pg_get_indexdef(indexrelid), indisvalid, indisready)
        FROM tables JOIN pg_index ON indrelid = tables.oid
    UNION ALL SELECT concat_ws(' ', 'rule', relname, rulename, ev_type, ev_enabled, is_instead)
        FROM tables JOIN pg_rewrite ON ev_class = tables.oid
    UNION ALL SELECT concat_ws(' ', 'policy', relname, polname) FROM tables JOIN pg_policy ON polrelid = tables.oid
    UNION ALL SELECT concat_ws(' ', 'trigger', relname, tgfoid::regproc, tgtype, tgenabled,
        CASE WHEN NOT tgisinternal THEN tgname END)
        FROM tables JOIN pg_trigger ON tgrelid = tables.oid
    UNION ALL SELECT concat_ws(' ', 'sequence', class.relname, class.relpersistence, format_type(seqtypid, NULL),
        seqincrement, seqmin, seqmax, seqcycle)
        FROM pg_sequence JOIN pg_class AS class ON class.oid = seqrelid WHERE class.relnamespace = %(schema)s::regnamespace
"""


def faults(site: Site) -> Iterator[str]:
    """Return what is not as the plan's SQL makes it, or keeps the application from its work."""
    with psycopg.connect(site.conninfo) as connection:
        planned, found = _planned(connection), _shape(connection, SCHEMA)
        if missing := planned - found:
            yield f"the target lacks {sorted(missing)[:5]}"
        if more := found - planned - DAILY_WORK:
            yield f"the target has, and the plan's SQL does not make, {sorted(more)[:5]}"
        yield from _sequences(connection)
        prepared = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
        if prepared:
            yield f"prepared transactions may still change the target: {prepared}"
    yield from _application(site)


def _shape(connection: psycopg.Connection, schema: str) -> set[str]:
    connection.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(schema)))
    rows = connection.execute(SHAPE, {"schema": schema}).fetchall()
    return {text.replace(f"{schema}.", "") for (text,) in rows}


def _planned(connection: psycopg.Connection) -> set[str]:
    with connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("CREATE SCHEMA {}; SET LOCAL search_path = {}").format(*[sql.Identifier(SCRATCH)] * 2))
        for kind in ("pre_data", "post_data", "foreign_keys"):
            for file in sorted((SECOND_PLAN / "sql" / PLAN / kind).glob("*.sql")):
                connection.execute(file.read_bytes())
        connection.execute("ALTER TABLE books VALIDATE CONSTRAINT books_author_id_fkey")
        return _shape(connection, SCRATCH)


def _sequences(connection: psycopg.Connection) -> Iterator[str]:
    """Try each sequence; what it gives is used up afterwards, as by an application that gave up a row."""
    connection.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(SCHEMA)))
    for table, given in (("authors", LAST_AUTHOR), ("books", 0)):
        row = connection.execute(
            f"SELECT nextval(pg_get_serial_sequence('{table}', 'id')) > greatest(max(id), {given}) FROM {table}".encode()
        ).fetchone()
        if row != (True,):
            yield f"the sequence of {table} is behind"


def _application(site: Site) -> Iterator[str]:
    """As the application's role: insert, read, update and delete a row of each table; nothing stays."""
    try:
        with _as_application(site) as connection:
            for table, insert, change in (
                ("authors", "INSERT INTO authors (name) VALUES ('by the judge') RETURNING id", "name = 'again'"),
                ("books", "INSERT INTO books (author_id, title) VALUES (1, 'by the judge') RETURNING id", "title = 'again'"),
                ("Odd Table", """INSERT INTO "Odd Table" VALUES ('judge', true) RETURNING "select" """, '"ქართული" = false'),
            ):
                key = connection.execute(insert.encode()).fetchone()
                column, name = ('"select"', '"Odd Table"') if table == "Odd Table" else ("id", table)
                for what, statement in (
                    ("is not read", f"SELECT {column} FROM {name} WHERE {column} = %s"),
                    ("is not updated", f"UPDATE {name} SET {change} WHERE {column} = %s RETURNING {column}"),
                    ("is not deleted", f"DELETE FROM {name} WHERE {column} = %s RETURNING {column}"),
                ):
                    if key is None or connection.execute(statement.encode(), key).fetchone() != key:
                        yield f"a row that the application inserted into {table} {what}"
                row = connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
                if not row or not row[0]:
                    yield f"the application sees no rows in {table}"
    except psycopg.Error as error:
        yield f"the application cannot work on the target: {str(error).splitlines()[0]}"


@contextmanager
def _as_application(site: Site) -> Iterator[psycopg.Connection]:
    conninfo = psycopg.conninfo.make_conninfo(site.conninfo, user=site.role, password="of-the-shop")
    with psycopg.connect(conninfo) as connection:
        connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(SCHEMA)))
        yield connection
        connection.rollback()
