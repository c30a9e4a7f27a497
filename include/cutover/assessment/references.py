"""Finds orphans: rows whose foreign key in the target refers to a missing row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import apsw

from include.cutover.assessment.columns import AssessedColumn
from include.cutover.assessment.findings import KEYS_SHOWN, Finding, Severity, lines
from include.cutover.assessment.row_names import RowNames
from include.cutover.decisions.decided_snapshot import place
from include.cutover.plan.model import Plan
from include.cutover.plan.tables import ForeignKeyDecision
from include.cutover.source.schema import TableShape, quote
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.orphans import SourceReference, plain_value

Columns = Mapping[str, AssessedColumn]


@dataclass(frozen=True)
class _Orphans:
    """Orphans of one foreign key: those in the source as it is, and those that follow from quarantine."""

    direct: int
    keys: tuple[str, ...]
    following: int
    following_keys: tuple[str, ...]


class References:
    """The foreign keys of the target, followed through the source as the plan's decisions would leave it.

    Rows in quarantine are missing for the rows that refer to them, so quarantine continues until no more rows follow. The
    findings also show the rows that would follow if the plan decided for quarantine where a foreign key blocks now.
    """

    def __init__(
        self,
        conn: apsw.Connection,
        plan: Plan,
        keys: Sequence[ForeignKey],
        shapes: Mapping[str, TableShape],
        columns: Mapping[str, Columns],
    ) -> None:
        self._conn, self._plan, self._shapes, self._columns = conn, plan, shapes, columns
        self._followed = [key for key in keys if self._can_follow(key)]
        self._left_out = [key for key in keys if key not in self._followed and key.table in shapes]
        self._gone: dict[str, str] = {}
        self._types = {
            table: {name: column.target.base for name, column in known.items()} for table, known in columns.items()
        }

    def findings(self) -> list[Finding]:
        """Return the findings about orphans, by foreign key."""
        found = [
            Finding(
                "orphans_not_assessed",
                "note",
                key.table,
                ", ".join(key.columns),
                value=f"{key.name}: the source lacks one of its columns, or a decision rewrites the values",
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
            found += self._found(key, counts[key], now[key], later.get(key))
        return found

    def _found(self, key: ForeignKey, count: int, now: _Orphans, later: _Orphans | None) -> list[Finding]:
        choice = self._decision(key)
        # Rows that another foreign key moves to quarantine also count for at_most, which is checked first.
        total = max(now.direct + now.following, count)
        found = []
        # If the plan decides for quarantine of others too, their rows that follow count as well.
        most = max(total, later.direct + later.following) if later else total
        if now.direct:
            found.append(self._finding("orphans", key, choice, now.direct, now.keys, total, most))
        if now.following:
            found.append(self._finding("orphans_that_follow", key, choice, now.following, now.following_keys, total, most))
        if later and later.following > now.following:
            found.append(self._warning(key, choice, now, later, most))
        return found

    def _warning(self, key: ForeignKey, choice: ForeignKeyDecision, now: _Orphans, later: _Orphans, most: int) -> Finding:
        """Return a note about the rows that would follow if the plan decided for quarantine of blocking foreign keys."""
        undecided = choice.orphans == "block"
        return Finding(
            "orphans_that_follow",
            "note",
            key.table,
            ", ".join(key.columns),
            later.following - now.following,
            later.following_keys,
            f"{key.name} → {key.referenced_table}",
            becomes="orphans too, if the rows that they refer to move to quarantine",
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
        """Return True when the rows of its table can be identified, and so moved to quarantine."""
        shape = self._shapes[key.table]
        return shape.rowid is not None or bool(shape.order)

    def _can_follow(self, key: ForeignKey) -> bool:
        """Return True when both ends are in the source and no decision rewrites their values."""
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
        """Count the orphans of a foreign key after the rows in quarantine are gone; each row counts once."""
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
        """Return FROM and WHERE of the orphans."""
        there = f"{self._rows(key.table)} WHERE {self._points_nowhere(key, gone=gone)}"
        return there + self._left(key.table) if gone else there

    def _left(self, table: str, alias: str = "r") -> str:
        """Return the condition that a row is not in quarantine."""
        if table not in self._gone:
            return ""
        return f" AND {place(self._shapes[table], alias)} NOT IN (SELECT at FROM {self._gone[table]})"  # noqa: S608

    def _points_nowhere(self, key: ForeignKey, *, gone: bool = False) -> str:
        left = self._left(key.referenced_table, "p") if gone else ""
        return SourceReference.of(key, self._types, self._value).is_orphan(left)

    def _value(self, alias: str, table: str, name: str) -> str:
        """Return SQL for a value as the plan's decision leaves it."""
        value, decision = plain_value(alias, table, name), self._columns[table][name].decision
        return f"nullif({value}, '')" if decision is not None and decision.empty_as_null else value

    # --- taking out

    def _take_out(self, keys: Sequence[ForeignKey]) -> None:
        """Record every row that these foreign keys move to quarantine, until no more follow. Forgets earlier records."""
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
