"""Compares the target's schema with the plan's SQL: tables, columns, constraints, indexes, sequences and triggers.

The SQL runs in a scratch schema that is rolled back, and both schemas are read from the catalog in PostgreSQL's own words.
So an index or a constraint that was dropped, weakened or left half-built is found, independent of the rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.target import catalog, scratch_schema
from include.cutover.target.session import session, use_schema

Kind = Literal["table", "column", "constraint", "index", "sequence", "trigger"]

_SHOWN = 10
_TITLES: dict[Kind, str] = {
    "table": "every table is as the plan's SQL makes it",
    "column": "every column has its type, default and NOT NULL",
    "constraint": "every primary key, unique, check and foreign key constraint is there",
    "index": "every index is there",
    "sequence": "every sequence is there",
    "trigger": "every trigger is there, and no other",
}
_DO = "Do not go live. Find out who changed the schema; create the object again with the plan's SQL, or start a new run."

# Definitions come from functions that leave out the schema's name where the search path begins with it.
_OBJECTS = """
    WITH place AS (SELECT to_regnamespace(quote_ident(%(schema)s)) AS oid),
    tables AS (
        SELECT class.oid, class.relname, class.relkind, class.relpersistence, class.relrowsecurity
        FROM pg_class AS class, place
        WHERE class.relnamespace = place.oid AND class.relkind IN ('r', 'p') AND class.relname = ANY (%(tables)s)
    )
    SELECT 'table', relname, '',
           CASE relkind WHEN 'p' THEN 'partitioned ' ELSE '' END || CASE relpersistence WHEN 'u' THEN 'unlogged ' ELSE '' END
           || CASE WHEN relrowsecurity THEN 'with row security' ELSE '' END
    FROM tables
    UNION ALL
    SELECT 'column', tables.relname, attribute.attname,
           format_type(attribute.atttypid, attribute.atttypmod)
           || CASE WHEN attribute.attnotnull THEN ' NOT NULL' ELSE '' END
           || CASE attribute.attgenerated WHEN '' THEN '' ELSE ' generated' END
           || CASE attribute.attidentity WHEN 'a' THEN ' identity always' WHEN 'd' THEN ' identity' ELSE '' END
           || coalesce(' default ' || pg_get_expr(attrdef.adbin, attrdef.adrelid), '')
           || CASE WHEN attribute.attcollation = type.typcollation THEN ''
              ELSE ' COLLATE ' || attribute.attcollation::regcollation::text END
    FROM tables
    JOIN pg_attribute AS attribute ON attribute.attrelid = tables.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
    JOIN pg_type AS type ON type.oid = attribute.atttypid
    LEFT JOIN pg_attrdef AS attrdef ON (attrdef.adrelid, attrdef.adnum) = (attribute.attrelid, attribute.attnum)
    UNION ALL
    SELECT 'constraint', tables.relname, con.conname, replace(pg_get_constraintdef(con.oid), ' NOT VALID', '')
    FROM tables JOIN pg_constraint AS con ON con.conrelid = tables.oid
    WHERE con.contype IN ('p', 'u', 'f', 'c', 'x') AND con.conparentid = 0
    UNION ALL
    SELECT 'index', tables.relname, class.relname,
           CASE WHEN index.indisunique THEN 'unique ' ELSE '' END
           || substring(pg_get_indexdef(index.indexrelid) FROM length(pg_catalog.format(
               'CREATE %%sINDEX %%I ON %%s%%I.%%I ', CASE WHEN index.indisunique THEN 'UNIQUE ' ELSE '' END,
               class.relname, CASE tables.relkind WHEN 'p' THEN 'ONLY ' ELSE '' END, %(schema)s::text, tables.relname
           )) + 1)
    FROM tables
    JOIN pg_index AS index ON index.indrelid = tables.oid
    JOIN pg_class AS class ON class.oid = index.indexrelid
    WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = index.indexrelid AND conrelid = index.indrelid)
    UNION ALL
    SELECT 'sequence', tables.relname, attribute.attname,
           format_type(sequence.seqtypid, NULL) || ' increment ' || sequence.seqincrement
           || CASE WHEN sequence.seqcycle THEN ' cycle' ELSE '' END
    FROM tables
    JOIN pg_depend AS depend ON depend.refobjid = tables.oid AND depend.refclassid = 'pg_class'::regclass
         AND depend.classid = 'pg_class'::regclass AND depend.deptype IN ('a', 'i')
    JOIN pg_sequence AS sequence ON sequence.seqrelid = depend.objid
    JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (tables.oid, depend.refobjsubid)
    UNION ALL
    SELECT 'trigger', tables.relname, trigger.tgname,
           pg_get_triggerdef(trigger.oid, true) || CASE trigger.tgenabled WHEN 'O' THEN '' ELSE ' not enabled as made' END
    FROM tables JOIN pg_trigger AS trigger ON trigger.tgrelid = tables.oid
    WHERE NOT trigger.tgisinternal AND trigger.tgfoid NOT IN (  -- but the guard, see write_guard
        SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace('cutover') AND proname = 'refuse_other_writers')
    ORDER BY 1, 2, 3
"""


@dataclass(frozen=True)
class Difference:
    """An object that is not as the plan's SQL makes it.

    Attributes:
        planned: Its definition by the plan; empty where the plan makes no such object.
        found: Its definition in the target; empty where it is missing.
    """

    kind: Kind
    table: str
    name: str
    planned: str
    found: str

    def __str__(self) -> str:
        name = f"{self.table}.{self.name}" if self.name else self.table
        if self.planned and not self.found:
            return f"{name} is missing ({self.planned})"
        if self.found and not self.planned:
            return f"{name} is not in the plan ({self.found})"
        return f"{name}: planned {self.planned}, found {self.found}"


def differences(
    conninfo: str, schema: str, sql_folder: Path, tables: Collection[str] | None = None
) -> tuple[list[str], list[Difference]]:
    """Compare the schema with what the plan's SQL makes. It leaves nothing behind, however this process ends.

    Args:
        conninfo: The target.
        schema: The plan's target schema.
        sql_folder: The plan's SQL folder.
        tables: Only these; all that the plan's SQL makes when left out.

    Returns:
        The tables that were compared, and the differences.

    Raises:
        CannotCheck: When there is no table to compare.
        Unreachable: When the target does not answer.
        The errors of ``scratch_schema.build``: when the SQL cannot be run.
    """
    with scratch_schema.build(conninfo, sql_folder) as (connection, scratch):
        made = catalog.tables(connection, scratch)
        wanted = sorted(set(made) & set(tables)) if tables is not None else made
        planned = definitions(connection, scratch, schema, wanted)
        use_schema(connection, schema)
        found = definitions(connection, schema, schema, wanted)
    if not wanted:
        raise CannotCheck(
            "the plan's SQL creates none of the tables",
            where=str(sql_folder),
            do="Check the plan's SQL folder and its tables.",
        )
    there = {table for kind, table, _ in found if kind == "table"}
    return wanted, [
        Difference(kind, table, name, planned.get((kind, table, name), ""), found.get((kind, table, name), ""))
        for kind, table, name in sorted(planned.keys() | found.keys())
        if planned.get((kind, table, name)) != found.get((kind, table, name)) and (kind == "table" or table in there)
    ]


def definitions(
    connection: psycopg.Connection, schema: str, target_schema: str, tables: Collection[str]
) -> dict[tuple[Kind, str, str], str]:
    """Return the definitions of these tables and their objects by kind, table and name; without the guard.

    Args:
        connection: A session in which unqualified names mean ``schema``.
        schema: The schema to read.
        target_schema: The plan's; its name is left out of definitions.
        tables: The tables.
    """
    rows = connection.execute(_OBJECTS, {"schema": schema, "tables": list(tables)})
    # Seen from the scratch schema, an extension's object in the target's schema has that schema in its name.
    prefix = f"{sql.Identifier(target_schema).as_string(connection)}.", f"{target_schema}."
    # An empty definition, as that of a plain table, must not look like a missing object.
    return {
        (kind, table, name): definition.replace(prefix[0], "").replace(prefix[1], "") or kind
        for kind, table, name, definition in rows
    }


def checks(conninfo: str, schema: str, sql_folder: Path, tables: Collection[str] | None = None) -> list[Check]:
    """Return ``differences`` as checks; check too that every constraint is validated and every index is valid.

    An additional index that is not unique is reported and is not a fault. Safe to run again, at any time.

    Args:
        conninfo: The target.
        schema: The plan's target schema.
        sql_folder: The plan's SQL folder.
        tables: Only these; all that the plan's SQL makes when left out.

    Raises:
        The errors of ``differences``.
    """
    wanted, found = differences(conninfo, schema, sql_folder, tables)
    results = []
    for kind, title in _TITLES.items():
        wrong = [one for one in found if one.kind == kind]
        harmless = [one for one in wrong if kind == "index" and not one.planned and not one.found.startswith("unique")]
        shown = [str(one) for one in wrong[:_SHOWN]] + [f"and {len(wrong) - _SHOWN} more"] * (len(wrong) > _SHOWN)
        results.append(
            _check(f"structure_{kind}", title, len(wrong) > len(harmless), "as the plan's SQL makes it", shown, schema)
        )
    with session(conninfo, schema) as connection:
        not_valid = [f"{table}.{name}" for table, name in catalog.not_valid(connection, schema) if table in wanted]
        invalid = _invalid_indexes(connection, schema, wanted)
    title = "every constraint is validated against the existing rows"
    results.append(_check("constraints_validated", title, bool(not_valid), "none left NOT VALID", not_valid, schema))
    title = "every index is valid and ready"
    results.append(_check("indexes_valid", title, bool(invalid), "none left by a build that failed", invalid, schema))
    return results


def _invalid_indexes(connection: psycopg.Connection, schema: str, tables: Collection[str]) -> list[str]:
    invalid = set(catalog.invalid_indexes(connection, schema))
    query = """
        SELECT owner.relname, class.relname
        FROM pg_index AS index
        JOIN pg_class AS class ON class.oid = index.indexrelid
        JOIN pg_class AS owner ON owner.oid = index.indrelid
        WHERE class.relnamespace = to_regnamespace(quote_ident(%s))
    """
    return [f"{table}.{name}" for table, name in connection.execute(query, [schema]) if name in invalid and table in tables]


def _check(name: str, title: str, failed: bool, expected: str, wrong: list[str], schema: str) -> Check:
    found = "; ".join(wrong)
    return Check(name, title, "failed" if failed else "passed", expected, found, _DO if failed else "", f"schema {schema}")
