# ruff: noqa: S608  every identifier is quoted, every value is bound
"""Carries out the plan's decisions about orphans, in the clone."""

from __future__ import annotations

from collections.abc import Mapping, Set

from include.cutover.decisions import foreign_keys
from include.cutover.decisions.decided_snapshot import beside, place
from include.cutover.decisions.workspace import Workspace, rows_of
from include.cutover.errors import Refused
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import quote
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.orphans import SourceReference


class OrphanSettler:
    """Takes orphans out or sets their references to NULL, and records it."""

    def __init__(self, workspace: Workspace, changed: Mapping[str, Set[str]]) -> None:
        """Prepare for the foreign keys between tables that are copied.

        Args:
            workspace: The clone, after its values were changed.
            changed: Table → columns with a changed value.
        """
        self._work = workspace
        self._changed = changed
        # A table that the plan does not name is not copied: its rows cannot be orphans.
        copied = workspace.plan.tables.keys()
        self._keys = [key for key in workspace.planned.foreign_keys if {key.table, key.referenced_table} <= copied]
        self._round = 0

    def settle(self, orphans: Mapping[ForeignKey, int] | None) -> None:
        """Process foreign keys until none has an orphan.

        Rows are taken out before references are set to NULL, so that no row loses a reference and is then taken out all the
        same. Blocking comes last, when the remaining rows are known. Each round takes out a row or sets a reference to NULL,
        so it ends.

        Args:
            orphans: How many each decided foreign key has, where that is known and no value changes.

        Raises:
            Refused: When more rows than allowed would be touched, or a row would become an orphan of a blocking key.
        """
        decided = foreign_keys.decided_keys(self._work.plan, self._work.planned)
        pending = {key for key in decided if orphans is None or orphans[key]}
        pending |= {key for key in self._keys if self._moved(key)}
        rank = {"quarantine": 0, "set_null": 1, "block": 2}
        counts: dict[ForeignKey, int] = {}
        while pending:
            key = min(pending, key=lambda item: (rank[foreign_keys.choice(self._work.plan, item)], item.table, item.name))
            pending.discard(key)
            choice = foreign_keys.choice(self._work.plan, key)
            rows = self._find_orphans(key)
            if not rows:
                continue
            if choice == "block":
                raise self._blocked(key, rows)
            counts[key] = counts.get(key, 0) + rows
            foreign_keys.refuse_more_than_allowed(self._work.plan, key, counts[key])
            if choice == "quarantine":
                self._take_out(key)
                lost = None
            else:
                self._set_null(key)
                lost = set(key.columns)
            pending |= {
                other
                for other in self._keys
                if other.referenced_table == key.table and (lost is None or lost & set(other.referenced_columns))
            }

    def _moved(self, key: ForeignKey) -> bool:
        """Check whether values of either end changed, so that rows may have lost the row they point to."""
        own, referenced = self._changed.get(key.table, set()), self._changed.get(key.referenced_table, set())
        return bool(own & set(key.columns) or referenced & set(key.referenced_columns))

    def _find_orphans(self, key: ForeignKey) -> int:
        """Write the places of the orphans into ``work.hit``, as ``count_in_source`` counts them."""
        shape = self._work.shape(key.table)
        self._work.run("DELETE FROM work.hit")
        self._work.run(
            f"INSERT INTO work.hit SELECT {place(shape, 'r')} FROM {rows_of(shape)} WHERE {self._reference(key).is_orphan()}"
        )
        return self._work.connection.changes()

    def _reference(self, key: ForeignKey) -> SourceReference:
        return SourceReference.of(key, self._work.types)

    def _take_out(self, key: ForeignKey) -> None:
        shape, t = self._work.shape(key.table), self._work.numbers[key.table]
        self._round += 1
        removed = "SELECT EXISTS (SELECT 1 FROM record.removed WHERE t = ?)"
        parents_gone = self._work.value(removed, (self._work.numbers.get(key.referenced_table),))
        follows = self._reference(key).refers_into("original") if parents_gone else "0"
        self._work.run(
            f"INSERT INTO record.removed SELECT ?, x.place, ?, {follows}, ? FROM {beside(shape, 'work.hit', 'main r')}",
            (t, key.name, self._round),
        )
        self._work.run(
            f"DELETE FROM main.{quote(key.table)} AS r WHERE {place(shape, 'r')} IN (SELECT x.place FROM work.hit AS x)"
        )

    def _set_null(self, key: ForeignKey) -> None:
        shape, t = self._work.shape(key.table), self._work.numbers[key.table]
        columns = {column.name: column for column in source_schema.columns(self._work.connection, key.table)}
        fixed = {item.name for item in shape.order} | {name for name, column in columns.items() if column.not_null}
        if unfit := sorted(fixed & set(key.columns)):
            raise Refused(
                "a reference cannot be set to NULL in a column that is NOT NULL in the source",
                where=f"{key.table}.{key.name}",
                found=", ".join(unfit),
                do="Decide for quarantine, or correct the rows in the source. Nothing was changed.",
            )
        for column in key.columns:
            self._work.run(
                "INSERT INTO record.touched SELECT :t, :c, x.place, 'set_null', :key FROM work.hit AS x WHERE true"
                " ON CONFLICT DO UPDATE SET decision = decision || ', set_null', foreign_key = :key",
                {"t": t, "c": column, "key": key.name},
            )
        assigned = ", ".join(f"{quote(column)} = NULL" for column in key.columns)
        self._work.run(
            f"UPDATE OR ABORT main.{quote(key.table)} AS r SET {assigned}"
            f" WHERE {place(shape, 'r')} IN (SELECT x.place FROM work.hit AS x)"
        )

    def _blocked(self, key: ForeignKey, rows: int) -> Refused:
        return Refused(
            "rows would become orphans, and the plan has no decision for their foreign key",
            where=f"{key.table}.{key.name}",
            expected="no orphans",
            found=f"{rows:,} rows, e.g. {self._work.examples(self._work.shape(key.table), 'work.hit')}",
            do=(
                f"They point to rows of {key.referenced_table} that are missing, or that other decisions remove or "
                "change. Decide for them too, or correct the rows in the source. Nothing was changed."
            ),
        )
