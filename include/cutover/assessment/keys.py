"""Rows among each other: those that are one under a unique key of the target, and those whose reference leads nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import apsw

from include.cutover.assessment.columns import INTEGERS, AssessedColumn, rowid_alias, type_name
from include.cutover.assessment.expressions import Translated, Untranslatable, translated
from include.cutover.assessment.findings import KEYS_SHOWN, Finding, Severity, lines
from include.cutover.assessment.scan import RowNames
from include.cutover.decisions.snapshot import place, text_encoding
from include.cutover.plan.model import Plan
from include.cutover.plan.tables import ForeignKeyDecision
from include.cutover.proof import canonical
from include.cutover.source.schema import Shape, quote
from include.cutover.target.catalog import ForeignKey, Index

# Different values of these stay different values in the target.
_DISTINCT = frozenset({*INTEGERS, "text", "varchar", "bool", "float8", "numeric", "bytea"})

Columns = Mapping[str, AssessedColumn]


# --- unique keys --------------------------------------------------------------------------------------------------------


def duplicates(
    conn: apsw.Connection, shape: Shape, columns: Columns, indexes: Iterable[Index], secret: Sequence[str]
) -> list[Finding]:
    """Rows that are the same under a unique key of the target, each with the key of another.

    Uuids are compared as uuids, instants as instants, and text byte by byte, whatever collation the source declares. Keys
    that the source holds as well, in the same meaning, are not looked at again.

    Args:
        columns: The table's columns that have a way into the target.
    """
    found = []
    for index in indexes:
        if not index.unique or _held_by_source(conn, shape, columns, index):
            continue
        try:
            parts, condition = _parts(index, columns, text_encoding(conn))
        except Untranslatable as why:
            value = f"{index.name}: {why} has no equal in SQLite"
            found.append(Finding("key_not_assessed", "note", shape.table, _named(index), value=value))
            continue
        if finding := _duplicates(conn, shape, index, parts, condition, secret):
            found.append(finding)
    return found


def _named(index: Index) -> str:
    return ", ".join(part.column or part.definition for part in index.parts)


def _held_by_source(conn: apsw.Connection, shape: Shape, columns: Columns, index: Index) -> bool:
    """Whether the source itself keeps these columns unique, and nothing makes different values equal on the way."""
    names = {part.column for part in index.parts}
    if None in names or index.nulls_equal or not all(part.deterministic for part in index.parts):
        return False
    used = [columns[str(name)] for name in names if name in columns]
    if len(used) < len(names) or any(column.decision is not None or column.target.base not in _DISTINCT for column in used):
        return False
    if names == {rowid_alias(conn, shape)}:
        return True
    for name, partial in conn.execute(
        "SELECT name, partial FROM pragma_index_list(?, 'main') WHERE \"unique\"", (shape.table,)
    ):
        keys = list(conn.execute("SELECT name, coll FROM pragma_index_xinfo(?, 'main') WHERE key", (name,)))
        if not partial and {key for key, _ in keys} <= names and all(collation == "BINARY" for _, collation in keys):
            return True
    return False


def _parts(index: Index, columns: Columns, encoding: str) -> tuple[list[str], str]:
    """SQL for each part of a key, and for the rows that the index has."""
    targets = {name: column.target for name, column in columns.items() if column.decision is None}
    parts = []
    for part in index.parts:
        if not part.deterministic:
            raise Untranslatable(f"the collation of {part.definition}")
        if part.column is None:
            parts.append(_always(translated(part.definition, targets)))
        elif part.column in columns:
            parts.append(comparable(columns[part.column], encoding))
        else:
            raise Untranslatable(f"the column {part.column}")
    condition = "true"
    if index.predicate is not None:
        condition = f"({_always(translated(index.predicate, targets))}) IS TRUE"
    return parts, condition


def _always(expression: Translated) -> str:
    if expression.defined:
        raise Untranslatable("arithmetic that may fail")
    return expression.sql


def comparable(column: AssessedColumn, encoding: str = "utf-8") -> str:
    """SQL for a value such that two are equal where the target's are."""
    x, base = quote(column.name), column.target.base
    if column.decision is not None and column.decision.empty_as_null:
        x = f"nullif({x}, '')"
    if base in _DISTINCT or column.target.is_enum:
        return f"+{x} COLLATE BINARY"
    if base == "bpchar":
        return f"rtrim({x}, ' ') COLLATE BINARY"
    if column.is_json:
        raise Untranslatable(f"equality of {base}")
    text = canonical.of_column(column.name, type_name(column.target), encoding).in_source
    # '!' is for what has a finding of its own, '~' for NULL.
    return f"CASE WHEN substr({text}, 1, 1) NOT IN ('!', '~') THEN {text} END"


def _duplicates(
    conn: apsw.Connection, shape: Shape, index: Index, parts: list[str], condition: str, secret: Sequence[str]
) -> Finding | None:
    names = RowNames(shape, secret)
    numbered = ", ".join(f"{part} AS k{number}" for number, part in enumerate(parts))
    keys = ", ".join(f"k{number}" for number in range(len(parts)))
    shown = ", ".join(f"{cell} AS n{number}" for number, cell in enumerate(names.results)) or "NULL AS n0"
    cells = ", ".join(f"n{number}" for number in range(max(1, len(names.results))))
    present = "true" if index.nulls_equal else " AND ".join(f"k{number} IS NOT NULL" for number in range(len(parts)))
    rows = f"SELECT {numbered} FROM main.{quote(shape.table)} WHERE {condition}"  # noqa: S608
    twice = f"SELECT {keys}, count(*) AS copies FROM ({rows}) WHERE {present} GROUP BY {keys} HAVING count(*) > 1"  # noqa: S608
    values, count = conn.execute(f"SELECT count(*), ifnull(sum(copies), 0) FROM ({twice})").get  # noqa: S608
    if not values:
        return None
    same = " AND ".join(f"there.k{number} IS one.k{number}" for number in range(len(parts)))
    query = (
        f"WITH one AS (SELECT row_number() OVER () AS number, * FROM ({twice}) LIMIT {KEYS_SHOWN})"  # noqa: S608
        f" SELECT number, {cells} FROM one JOIN"
        f" (SELECT {numbered}, {shown} FROM main.{quote(shape.table)} WHERE {condition}) AS there ON {same} ORDER BY number"
    )
    pairs: dict[int, list[str]] = {}
    for number, *row in conn.execute(query):
        pair = pairs.setdefault(number, [])
        if len(pair) < 3:
            pair.append(names(row))
    return Finding(
        "duplicate_key",
        "blocks",
        shape.table,
        _named(index),
        count,
        tuple(" and ".join(pair[:2]) + (" and others" if len(pair) > 2 else "") for pair in pairs.values()),
        f"{values:,} value{'s' if values != 1 else ''} of {index.name} more than once",
        becomes="nothing: the target's key refuses the second row",
    )


# --- foreign keys -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Orphans:
    """Rows of one foreign key: those that point nowhere as the source stands, and those that follow."""

    direct: int
    keys: tuple[str, ...]
    following: int
    following_keys: tuple[str, ...]


class References:
    """Follows the foreign keys of the target through the source, as the plan's decisions would leave it.

    Rows in quarantine are gone for those that point to them, so taking out goes on until nothing more follows. What would
    follow if a foreign key that now blocks were decided for quarantine is said as well.
    """

    def __init__(
        self,
        conn: apsw.Connection,
        plan: Plan,
        keys: Sequence[ForeignKey],
        shapes: Mapping[str, Shape],
        columns: Mapping[str, Columns],
    ) -> None:
        self._conn, self._plan, self._shapes, self._columns = conn, plan, shapes, columns
        self._followed = [key for key in keys if self._can_follow(key)]
        self._left_out = [key for key in keys if key not in self._followed and key.table in shapes]
        self._gone: dict[str, str] = {}

    def findings(self) -> list[Finding]:
        """All orphans, by foreign key."""
        found = [
            Finding(
                "orphans_not_assessed",
                "note",
                key.table,
                ", ".join(key.columns),
                value=f"{key.name}: a column of either end is not in the source, or a decision rewrites its values",
            )
            for key in self._left_out
        ]
        counts = {key: self._count(key) for key in self._followed}
        if not any(counts.values()):
            return found
        decided = [key for key in self._followed if self._decision(key).orphans == "quarantine" and self._has_places(key)]
        undecided = [key for key in self._followed if self._decision(key).orphans == "block"]
        self._take_out(decided)
        now = {key: self._state(key, decided) for key in self._followed}
        later: dict[ForeignKey, _Orphans] = {}
        if any(now[key].direct or now[key].following for key in undecided):
            all_of_them = [*decided, *(key for key in undecided if self._has_places(key))]
            self._take_out(all_of_them)
            later = {key: self._state(key, all_of_them) for key in self._followed}
        for key in self._followed:
            found += self._told(key, counts[key], now[key], later.get(key))
        return found

    def _told(self, key: ForeignKey, count: int, now: _Orphans, later: _Orphans | None) -> list[Finding]:
        choice = self._decision(key)
        # Rows that another foreign key takes out count for at_most as well: it is looked at before anything is done.
        total = max(now.direct + now.following, count)
        found = []
        # If others are decided for quarantine as well, theirs that follow count too.
        most = max(total, later.direct + later.following) if later else total
        if now.direct:
            found.append(self._finding("orphans", key, choice, now.direct, now.keys, total, most))
        if now.following:
            found.append(self._finding("orphans_that_follow", key, choice, now.following, now.following_keys, total, most))
        if later and later.following > now.following:
            found.append(self._warning(key, choice, now, later, most))
        return found

    def _warning(self, key: ForeignKey, choice: ForeignKeyDecision, now: _Orphans, later: _Orphans, most: int) -> Finding:
        """Who would follow if somebody decided for quarantine where nothing is decided now."""
        undecided = choice.orphans == "block"
        return Finding(
            "orphans_that_follow",
            "note",
            key.table,
            ", ".join(key.columns),
            later.following - now.following,
            later.following_keys,
            f"{key.name} → {key.referenced_table}",
            becomes="orphans too, if the rows that they refer to go into quarantine",
            decide=self._lines(key, "quarantine", most) if undecided else "",
        )

    def _finding(
        self,
        code: str,
        key: ForeignKey,
        choice: ForeignKeyDecision,
        rows: int,
        keys: tuple[str, ...],
        total: int,
        most: int,
    ) -> Finding:
        severity: Severity = "blocks"
        decide = ""
        if choice.orphans == "block":
            nullable = all(self._may_be_null(key.table, column) for column in key.columns)
            becomes = "nothing: the target's foreign key refuses them"
            decide = self._lines(key, "quarantine", most, "quarantine, or set_null" if nullable else "")
        elif total > choice.at_most:
            becomes = f"nothing: the plan allows {choice.at_most:,} of this foreign key, and there are {total:,}"
            decide = self._lines(key, choice.orphans, most)
        elif choice.orphans == "set_null" and not all(self._may_be_null(key.table, column) for column in key.columns):
            becomes = "nothing: the reference is NOT NULL, in the source or in the target"
            decide = self._lines(key, "quarantine", most)
        else:
            severity = "decision applied"
            becomes = "NULL in the reference" if choice.orphans == "set_null" else "rows in quarantine, whole"
        value = f"{key.name} → {key.referenced_table}"
        return Finding(code, severity, key.table, ", ".join(key.columns), rows, keys, value, "", becomes, decide)

    def _lines(self, key: ForeignKey, orphans: str, rows: int, comment: str = "") -> str:
        decision = {"orphans": orphans, "at_most": rows}
        return lines({"tables": {key.table: {"foreign_keys": {key.name: decision}}}}, comment)

    def _may_be_null(self, table: str, column: str) -> bool:
        found = self._columns[table][column]
        return not (found.source.not_null or found.target.not_null or found.is_fixed)

    def _decision(self, key: ForeignKey) -> ForeignKeyDecision:
        table = self._plan.tables.get(key.table)
        return (table.foreign_keys.get(key.name) if table else None) or ForeignKeyDecision()

    def _has_places(self, key: ForeignKey) -> bool:
        """Whether the rows of its table can be told apart, and so be taken out."""
        shape = self._shapes[key.table]
        return shape.rowid is not None or bool(shape.order)

    def _can_follow(self, key: ForeignKey) -> bool:
        """Whether both ends are in the source, and hold now what they will hold when the decisions were carried out."""
        for table, names in ((key.table, key.columns), (key.referenced_table, key.referenced_columns)):
            if table not in self._shapes:
                return False
            for name in names:
                column = self._columns[table].get(name)
                decision = column.decision if column else None
                rewrites = decision and (decision.encoding or decision.strip_nul or decision.datetime or decision.boolean)
                if column is None or rewrites:
                    return False
        return True

    # --- counting

    def _count(self, key: ForeignKey) -> int:
        return int(self._conn.execute(f"SELECT count(*) {self._nowhere(key)}").get)

    def _state(self, key: ForeignKey, taken_out: Sequence[ForeignKey]) -> _Orphans:
        """The orphans of a foreign key once the rows of those that take rows out are gone. Each row counts once."""
        gone = self._gone.get(key.table)
        if key in taken_out:
            if gone is None:
                return _Orphans(0, (), 0, ())
            at = place(self._shapes[key.table], "r")
            by = f"SELECT at FROM {gone} WHERE taken_by = ? AND follows"  # noqa: S608
            direct, following = (f"{self._rows(key.table)} WHERE {at} IN ({by} = {it})" for it in ("false", "true"))
            bindings: tuple[str, ...] = (key.name,)
        else:
            direct = self._nowhere(key) + self._left(key.table)
            following = f"{self._nowhere(key, gone=True)} AND NOT ({self._points_nowhere(key)})"
            bindings = ()
        counts = [int(self._conn.execute(f"SELECT count(*) {rows}", bindings).get) for rows in (direct, following)]
        keys = [
            self._keys(key, rows, bindings) if count else () for rows, count in zip((direct, following), counts, strict=True)
        ]
        return _Orphans(counts[0], keys[0], counts[1], keys[1])

    def _keys(self, key: ForeignKey, rows: str, bindings: tuple[str, ...]) -> tuple[str, ...]:
        table = self._plan.tables.get(key.table)
        names = RowNames(self._shapes[key.table], table.secret if table else ())
        query = f"SELECT {', '.join(names.results)} {rows} LIMIT {KEYS_SHOWN}"
        return tuple(names(row) for row in self._conn.execute(query, bindings))

    def _rows(self, table: str) -> str:
        return f"FROM main.{quote(table)} AS r"

    def _nowhere(self, key: ForeignKey, *, gone: bool = False) -> str:
        """FROM and WHERE of the rows that point nowhere."""
        there = f"{self._rows(key.table)} WHERE {self._points_nowhere(key, gone=gone)}"
        return there + self._left(key.table) if gone else there

    def _left(self, table: str, alias: str = "r") -> str:
        """The condition that a row is not taken out."""
        if table not in self._gone:
            return ""
        return f" AND {place(self._shapes[table], alias)} NOT IN (SELECT at FROM {self._gone[table]})"  # noqa: S608

    def _points_nowhere(self, key: ForeignKey, *, gone: bool = False) -> str:
        own, referenced = [], []
        for name, other in zip(key.columns, key.referenced_columns, strict=True):
            one, two = self._columns[key.table][name], self._columns[key.referenced_table][other]
            as_uuid = "uuid" in (one.target.base, two.target.base)
            own.append(_end(one, "r", as_uuid))
            referenced.append(_end(two, "p", as_uuid))
        present = " AND ".join(f"{end} IS NOT NULL" for end in own)
        there = " AND ".join(f"{end} IS NOT NULL" for end in referenced)
        there += self._left(key.referenced_table, "p") if gone else ""
        # The set on the right is built once, as an index in a temporary file where it is large.
        parents = f"SELECT {', '.join(referenced)} FROM main.{quote(key.referenced_table)} AS p WHERE {there}"  # noqa: S608
        return f"{present} AND ({', '.join(own)}) NOT IN ({parents})"

    # --- taking out

    def _take_out(self, keys: Sequence[ForeignKey]) -> None:
        """Note every row that quarantine by these foreign keys takes out, until nothing more follows. Forgets the last."""
        for name in self._gone.values():
            self._conn.execute(f"DROP TABLE {name}")
        self._gone = {}
        pending = set(keys)
        while pending:
            key = min(pending, key=lambda item: (item.table, item.name))  # the order in which decisions are carried out
            pending.discard(key)
            at = place(self._shapes[key.table], "r")
            if key.table not in self._gone:
                name = self._gone[key.table] = f'temp."cutover gone {len(self._gone)}"'
                self._conn.execute(f"CREATE TABLE {name} (at PRIMARY KEY, taken_by TEXT, follows INTEGER) WITHOUT ROWID")
            follows = f"NOT ({self._points_nowhere(key)})"
            rows = f"SELECT {at}, ?, {follows} {self._nowhere(key, gone=True)}"
            self._conn.execute(f"INSERT INTO {self._gone[key.table]} {rows}", (key.name,))
            if self._conn.changes():
                pending |= {other for other in keys if other.referenced_table == key.table}


def _end(column: AssessedColumn, alias: str, as_uuid: bool) -> str:
    """One end of a reference: a uuid where either end becomes one, however it is spelled; text byte by byte."""
    x = f"{alias}.{quote(column.name)}"
    if column.decision is not None and column.decision.empty_as_null:
        x = f"nullif({x}, '')"
    if as_uuid:
        return f"lower(replace(replace(replace({x}, '-', ''), '{{', ''), '}}', ''))"
    return f"{x} COLLATE BINARY"
