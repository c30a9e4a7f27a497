# ruff: noqa: S608  every identifier is quoted, every value is bound
"""Audits the decided foreign keys: every row that was taken out, or lost a reference, must have pointed nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from include.cutover.checks import Check
from include.cutover.decisions import decided_snapshot
from include.cutover.decisions.audit_rules import comparable
from include.cutover.decisions.audited import NAMED, Audited, Row, verdict
from include.cutover.decisions.decided_snapshot import beside, place
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import quote
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.orphans import count_in_source

_KeyValues = tuple[Any, ...]


def references(audited: Audited) -> list[Check]:
    """Check the rows on record by their foreign keys, and that no orphans remain."""
    recorded = {
        (audited.names[t], name): (rows, nulled)
        for t, name, rows, nulled in audited.connection.execute(
            "SELECT t, foreign_key, sum(gone), sum(NOT gone) FROM (SELECT t, foreign_key, place, 1 AS gone"
            " FROM record.removed UNION SELECT t, foreign_key, place, 0 FROM record.touched"
            " WHERE foreign_key IS NOT NULL) GROUP BY 1, 2"
        )
    }
    checks = []
    orphaned: dict[Row, list[Row]] = {}  # row taken out → rows taken out that it pointed to
    for (table, name), (rows, nulled) in sorted(recorded.items()):
        key = audited.keys.get((table, name))
        if key is None:
            checks.append(verdict("decided_references", "", ["an unknown foreign key"], "", where=f"{table}.{name}"))
            continue
        decision = audited.plan.tables[table].foreign_keys.get(name)
        wrong = []
        if (rows and audited.choice(key) != "quarantine") or (nulled and audited.choice(key) != "set_null"):
            wrong.append(f"the plan says {audited.choice(key)}")
        if decision is None or rows + nulled > decision.at_most:
            wrong.append(f"{rows + nulled:,} rows, more than the plan allows")
        wrong += _with_a_parent(audited, key, orphaned)
        title = "Every row in quarantine and every reference set to NULL was an orphan"
        checks.append(verdict("decided_references", title, wrong, f"{rows + nulled:,} orphans", where=f"{table}.{name}"))
    unfounded = [audited.recorded_row_name(row) for row in _without_ground(orphaned)]
    title = "No rows are in quarantine only because of each other"
    checks.append(verdict("decided_ground", title, unfounded, "the cause of each is a row that is missing in the backup"))
    for key in audited.planned.foreign_keys:
        copied = {key.table, key.referenced_table} <= audited.plan.tables.keys()
        if audited.choice(key) != "block" or (copied and _concerned(audited, key)):
            count = count_in_source(audited.connection, key, audited.types)
            wrong = [f"{count:,} orphans"] if count else []
            title = "The decided snapshot has no orphans of this foreign key"
            checks.append(verdict("decided_orphans", title, wrong, "none", where=f"{key.table}.{key.name}"))
    return checks


def _concerned(audited: Audited, key: ForeignKey) -> bool:
    """Check whether decisions changed an end of it or took out rows that it may point to."""
    return any(
        audited.connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM record.{kind} JOIN record.tables USING (t) WHERE name = ? AND {condition})",
            bindings,
        ).get
        for kind, condition, bindings in (
            ("removed", "true", (key.referenced_table,)),
            ("touched", "c IN (SELECT value FROM json_each(?))", (key.table, json.dumps(key.columns))),
            (
                "touched",
                "c IN (SELECT value FROM json_each(?))",
                (key.referenced_table, json.dumps(key.referenced_columns)),
            ),
        )
    )


def _with_a_parent(audited: Audited, key: ForeignKey, orphaned: dict[Row, list[Row]]) -> list[str]:
    """Return the rows on record for this foreign key that point to an existing row; note those that follow others."""
    shape, t = source_schema.shape(audited.connection, key.table), audited.tables[key.table]
    wanted: dict[_KeyValues, list[Row]] = {}
    wrong = []
    for kind in ("removed", "touched"):
        places = f"(SELECT DISTINCT place FROM record.{kind} WHERE t = {t} AND foreign_key = ?)"
        for at, found in _ends(
            audited, key, key.table, key.columns, f"{beside(shape, places, 'original')}", "original", key.name
        ):
            if None in found:
                wrong.append(f"{audited.recorded_row_name((t, at))} refers to no row")
            wanted.setdefault(found, []).append((t, at))
            if kind == "removed":
                orphaned[t, at] = []
    parents = key.referenced_table
    clause = f"main.{quote(parents)} AS main"
    for _, found in _ends(audited, key, parents, key.referenced_columns, clause, "main", decided=False):
        wrong += [f"{audited.recorded_row_name(row)} refers to an existing row" for row in wanted.get(found, ())][:NAMED]
    if parents in audited.tables:
        gone = f"(SELECT place FROM record.removed WHERE t = {audited.tables[parents]})"
        clause = beside(source_schema.shape(audited.connection, parents), gone, "original")
        for at, found in _ends(audited, key, parents, key.referenced_columns, clause, "original"):
            for row in wanted.get(found, ()):
                if row in orphaned:
                    orphaned[row].append((audited.tables[parents], at))
    return wrong


def _ends(
    audited: Audited,
    key: ForeignKey,
    table: str,
    columns: Sequence[str],
    clause: str,
    alias: str,
    *bindings: str,
    decided: bool = True,
) -> Iterator[tuple[Any, _KeyValues]]:
    """Read places, and the values of one end of a foreign key as they compare.

    Args:
        audited: The subject.
        key: The foreign key.
        table: The table of this end.
        columns: The columns of this end.
        clause: FROM clause with its rows.
        alias: Name of the table in it.
        *bindings: Values of the clause's parameters.
        decided: Compare the values as the decisions make them.
    """
    rules = audited.rules(table) if decided and table in audited.plan.tables else {}
    cells = ", ".join(decided_snapshot.cell(f"{alias}.{quote(name)}") for name in columns)
    at = place(source_schema.shape(audited.connection, table), alias)
    pairs = list(zip(key.columns, key.referenced_columns, strict=True))
    types = [{audited.column_type(key.table, own), audited.column_type(key.referenced_table, other)} for own, other in pairs]
    for where, *found in audited.connection.execute(f"SELECT {at}, {cells} FROM {clause}", bindings):
        values = [(found[2 * number], found[2 * number + 1]) for number in range(len(columns))]
        values = [rules[name](value) if name in rules else value for name, value in zip(columns, values, strict=True)]
        yield where, tuple(comparable(*value, kinds) for value, kinds in zip(values, types, strict=True))


def _without_ground(orphaned: Mapping[Row, Sequence[Row]]) -> list[Row]:
    """Return the rows that do not go back, step by step, to one that pointed to a row missing in the backup."""
    followers: dict[Row, list[Row]] = {}
    waiting = {row: len(set(parents)) for row, parents in orphaned.items()}
    for row, parents in orphaned.items():
        for parent in set(parents):
            followers.setdefault(parent, []).append(row)
    ready = [row for row, count in waiting.items() if not count]
    while ready:
        for row in followers.get(ready.pop(), ()):
            waiting[row] -= 1
            if not waiting[row]:
                ready.append(row)
    return [row for row, count in waiting.items() if count]
