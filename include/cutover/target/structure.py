"""Compares the target's schema with the plan's SQL: all objects that decide what a table holds and what a write does.

The SQL runs in a scratch schema that is rolled back, and both schemas are read from the catalog in PostgreSQL's own words.
So an index or a constraint that was dropped, weakened or left half-built is found, and a rule, a trigger or a policy that
the plan does not have, independent of the rows. ``write_conditions`` checks what acts on a write from outside the schema.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.target import catalog, scratch_schema, structure_sql
from include.cutover.target.session import session, use_schema
from include.cutover.target.wording import quoted

Kind = Literal[
    "table", "column", "type", "constraint", "index", "sequence",
    "trigger", "rule", "policy", "inheritance", "function", "view",
]  # fmt: skip

_SHOWN = 10
_SHOWN_CHARACTERS = 400
_NOT_A_TABLE = "not a table"
_TITLES: dict[Kind, str] = {
    "table": "every table is as the plan's SQL makes it",
    "column": "every column has its type, default and NOT NULL",
    "type": "every domain, enum and other type of a column is as the plan's SQL makes it",
    "constraint": "every primary key, unique, check and foreign key constraint is there",
    "index": "every index is there",
    "sequence": "every sequence is there",
    "trigger": "every trigger is there, and no other",
    "rule": "every rule is there, and no other",
    "policy": "every policy of row security is there, and no other",
    "inheritance": "every table has its partitions, parents and children, and no others",
    "function": "every function of the plan's SQL is as it makes it",
    "view": "every view of the plan's SQL is as it makes it",
}
_DO = "Do not go live. Find out who changed the schema; create the object again with the plan's SQL, or start a new run."


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

    @property
    def harmless(self) -> bool:
        """True for an additional index that is not unique, and for an additional partition that only holds rows."""
        index = self.kind == "index" and not self.found.startswith("unique")
        # After the bounds stands only what sets a partition apart from a plain one.
        partition = self.kind == "inheritance" and self.found.startswith("partition FOR VALUES") and self.found.endswith(")")
        return not self.planned and (index or partition)

    def __str__(self) -> str:
        name = ".".join(part for part in (self.table, self.name) if part)
        planned, found = _shortened(self.planned), _shortened(self.found)
        if self.planned and not self.found:
            return f"{name} is missing ({planned})"
        if self.found and not self.planned:
            return f"{name} is not in the plan ({found})"
        if planned == found:
            return f"{name}: not as planned after {planned}"
        return f"{name}: planned {planned}, found {found}"


def _shortened(definition: str) -> str:
    """Return the definition in one line; a function's is long."""
    text = " ".join(definition.split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


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
    wanted, planned, found = _read(conninfo, schema, sql_folder, tables)
    # Of a missing table, or of a view in its place, the parts are not named one by one.
    there = {table for (kind, table, _), text in found.items() if kind == "table" and not text.startswith(_NOT_A_TABLE)}
    names = {_bare(kind, name) for kind, table, name in planned if not table}
    return wanted, [
        Difference(kind, table, name, planned.get((kind, table, name), ""), found.get((kind, table, name), ""))
        for kind, table, name in sorted(planned.keys() | found.keys())
        if planned.get((kind, table, name)) != found.get((kind, table, name))
        and (table in there or kind == "table" if table else _bare(kind, name) in names)
    ]


def as_planned(conninfo: str, schema: str, sql_folder: Path, tables: Collection[str]) -> set[tuple[Kind, str, str]]:
    """Return kind, table and name of all objects of the tables that are as the plan's SQL makes them.

    Args:
        conninfo: The target.
        schema: The plan's target schema.
        sql_folder: The plan's SQL folder.
        tables: Only these, with their partitions.

    Raises:
        The errors of ``differences``.
    """
    _, planned, found = _read(conninfo, schema, sql_folder, tables)
    return {key for key, definition in planned.items() if found.get(key) == definition}


def _read(
    conninfo: str, schema: str, sql_folder: Path, tables: Collection[str] | None
) -> tuple[list[str], dict[tuple[Kind, str, str], str], dict[tuple[Kind, str, str], str]]:
    """Return the tables to compare, and the definitions of their objects by the plan and in the target."""
    with scratch_schema.build(conninfo, sql_folder) as (connection, scratch):
        made = catalog.tables(connection, scratch)
        wanted = sorted(set(made) & set(tables)) if tables is not None else made
        compared = _with_descendants(connection, scratch, wanted)
        planned = definitions(connection, scratch, schema, compared)
        use_schema(connection, schema)
        found = definitions(connection, schema, schema, compared)
    if not wanted:
        raise CannotCheck(
            "the plan's SQL creates none of the tables",
            where=str(sql_folder),
            do="Check the plan's SQL folder and its tables.",
        )
    return wanted, planned, found


def _bare(kind: Kind, name: str) -> tuple[Kind, str]:
    """Return a function's name without its arguments: an overload of the plan's function could be called in its place.

    Other functions and views may lie in the schema, as other tables may.
    """
    return kind, name.partition("(")[0]


def _with_descendants(connection: psycopg.Connection, schema: str, tables: Collection[str]) -> list[str]:
    rows = connection.execute(structure_sql.DESCENDANTS.encode(), {"schema": schema, "tables": list(tables)})
    return sorted({name for (name,) in rows})


def definitions(
    connection: psycopg.Connection, schema: str, target_schema: str, tables: Collection[str]
) -> dict[tuple[Kind, str, str], str]:
    """Return every object of the tables, in PostgreSQL's own words; two schemas with equal results have equal objects.

    Args:
        connection: A session whose search path begins with ``schema``.
        schema: The schema to read: the target's, or a scratch schema.
        target_schema: The plan's target schema; its name is left out of the definitions.
        tables: Only these.

    Returns:
        Kind, table and name of an object to its definition. The name is empty for a table itself, the table for functions
        and views of the schema; a definition never is empty.
    """
    rows = connection.execute(structure_sql.OBJECTS.encode(), {"schema": schema, "tables": list(tables)})
    # Seen from the scratch schema, an extension's object in the target's schema has that schema in its name; some of
    # PostgreSQL's functions write the schema's name always, and a function's setting may hold it.
    prefixes = [f"{text}." for text in (quoted(target_schema), target_schema)]
    found = {}
    for kind, table, name, definition in rows:
        name, text = (_without(prefixes, given.replace(schema, target_schema)) for given in (name, definition))
        # An empty definition, as that of a plain table, must not look like a missing object.
        found[kind, table, name] = text or kind
    return found


def _without(prefixes: Iterable[str], text: str) -> str:
    for prefix in prefixes:
        text = text.replace(prefix, "")
    return text


def checks(conninfo: str, schema: str, sql_folder: Path, tables: Collection[str] | None = None) -> list[Check]:
    """Return ``differences`` as checks; check too that every constraint is validated and every index is valid.

    An additional index that is not unique, or an additional plain partition, is reported and is not a fault. Safe to run
    again, at any time.

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
        harmless = [one for one in wrong if one.harmless]
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
