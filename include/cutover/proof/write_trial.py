"""The write proof of one table: a row inserted, updated and deleted, and read back after each.

It works inside a transaction that its caller rolls back. A statement that PostgreSQL accepts and that does not do what it
says is found: a rule or a trigger that drops, redirects or changes the row, a policy that hides it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

import psycopg
from psycopg import errors, sql

from include.cutover.checks import Outcome
from include.cutover.proof import write_rows
from include.cutover.proof.reading import query_problem
from include.cutover.proof.write_rows import MadeUp, Row, Shape, WriteColumn, typed

Operation = Literal["insert", "update", "delete"]
OPERATIONS: tuple[Operation, ...] = ("insert", "update", "delete")

_Done = tuple[Row | None, str]
"""The row that an operation ended with, and a note."""

_RESTRICTING = ("a", "r")  # NO ACTION, RESTRICT: to delete a referenced row is refused, and changes no other row


@dataclass(frozen=True)
class Result:
    """The result of one operation on one table.

    Attributes:
        note: The fault, or how far the operation could be carried out; empty where all was as it should be.
    """

    outcome: Outcome
    note: str = ""


class _Wrong(Exception):
    """PostgreSQL accepted a statement and did something else."""


class _Unclear(Exception):
    """The operation could not be tried."""


class _Arrived(Exception):
    """A constraint of the table itself refused the row: no rule or trigger had taken it away before."""


@dataclass
class Trial:
    """The write proof of one table.

    Attributes:
        connection: A session of the pipeline's role, in a transaction that will be rolled back.
        table: Its shape.
        role: The role that writes; None for the session's own.
        planned: Per operation the plan's own triggers, rules and policies, which may change what it does.
    """

    connection: psycopg.Connection
    table: Shape
    role: str | None
    planned: Mapping[Operation, Collection[str]]
    results: dict[Operation, Result] = field(default_factory=dict)

    def run(self) -> dict[Operation, Result]:
        """Carry out the three operations and return their results. The caller rolls back.

        Raises:
            psycopg.Error: When a lock is not granted, or the session breaks.
        """
        free = write_rows.free_row(self.connection, self.table)
        like = free or write_rows.any_row(self.connection, self.table)
        made_up = write_rows.made_up(self.connection, self.table, like)
        changed = self._other_value(like)
        # A deferred constraint or trigger acts at the commit, and this transaction has none.
        self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        if self.role is not None:
            self.connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(self.role)))
        if free is not None:
            self._with_free_row(free, made_up, changed)
        else:
            self._without_free_row(like, made_up)
        return self.results

    def _with_free_row(self, row: Row, made_up: MadeUp, changed: tuple[WriteColumn, str] | None) -> None:
        """Update the row, delete it, and insert it again with the same values."""
        row = self._record("update", lambda: self._update(row, changed)) or row
        if self._record("delete", lambda: self._delete(row)) is not None:
            again = {column.name: value for column, value in self._pairs(row) if not column.generated}
            self._record("insert", lambda: self._insert(MadeUp(again), row.values))
            if self.results["insert"] == Result("passed") and self._leaves_to_default(made_up):
                self._with_defaults(made_up)
        else:
            self._record("insert", lambda: self._insert_made_up(made_up))

    def _leaves_to_default(self, made_up: MadeUp) -> bool:
        return any(column.name not in made_up.values and not column.generated for column in self.table.columns)

    def _with_defaults(self, made_up: MadeUp) -> None:
        """Insert a row as applications do, without its key: default and sequence must be open to the role, the key free."""
        self._record("insert", lambda: self._insert_made_up(made_up))
        if self.results["insert"].outcome == "passed":
            self.results["insert"] = Result("passed")

    def _without_free_row(self, like: Row | None, made_up: MadeUp) -> None:
        """Insert a row that is made up, update and delete it; where it is refused, go as far as an existing row allows."""
        inserted = self._record("insert", lambda: self._insert_made_up(made_up))
        if inserted is not None:
            last = self._record("update", lambda: self._update(inserted, self._other_value(inserted))) or inserted
            self._record("delete", lambda: self._delete_made_up(last))
        elif like is not None:
            last = self._record("update", lambda: self._update(like, None)) or like
            self._record("delete", lambda: self._delete_referenced(last))
        else:
            self._record("update", lambda: self._no_row("update"))
            self._record("delete", lambda: self._no_row("delete"))

    def _record(self, operation: Operation, act: Callable[[], _Done]) -> Row | None:
        """Carry out one operation in a savepoint, record its result, and return the row it ended with."""
        try:
            with self.connection.transaction():
                row, note = act()
            self.results[operation] = Result("passed", note)
            return row
        except _Arrived as refused:
            self.results[operation] = Result("passed", str(refused))
        except _Wrong as wrong:
            self.results[operation] = self._by_plan(operation, str(wrong))
        except _Unclear as unclear:
            self.results[operation] = Result("unknown", str(unclear))
        except errors.LockNotAvailable:
            raise
        except errors.QueryCanceled as error:
            self.results[operation] = Result("unknown", query_problem(error))
        except psycopg.Error as error:
            if error.sqlstate is None or self.connection.broken:
                raise
            problem = query_problem(error)
            # No trigger or policy of the plan takes a right away.
            missing_right = (error.diag.source_function or "").startswith("aclcheck_error")
            self.results[operation] = Result("failed", problem) if missing_right else self._by_plan(operation, problem)
        return None

    def _by_plan(self, operation: Operation, problem: str) -> Result:
        own = sorted(self.planned.get(operation, ()))
        return Result("passed", f"{problem}, by the plan's own {', '.join(own)}") if own else Result("failed", problem)

    # --- the operations ---------------------------------------------------------------------------------------------------

    def _insert(self, row: MadeUp, expected: tuple[str | None, ...] | None) -> _Done:
        """Insert a row and read it back.

        Args:
            row: The values.
            expected: Those of all columns, where these are known.
        """
        columns = [column for column in self.table.columns if column.name in row.values]
        statement = sql.SQL("INSERT INTO {} DEFAULT VALUES").format(self.table.identifier)
        if columns:
            statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
                self.table.identifier,
                sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
                sql.SQL(", ").join(typed(column, row.values[column.name]) for column in columns),
            )
        member, place = self._one_place(statement, "no row arrived")
        found = self._read(member, place)
        if found is None:
            raise _Wrong("the row cannot be read back")
        wanted = dict(zip((column.name for column in self.table.columns), expected, strict=True)) if expected else row.values
        self._require_equal(wanted, found)
        return Row(member, place, found), ""

    def _insert_made_up(self, row: MadeUp) -> _Done:
        try:
            return self._insert(row, None)
        except psycopg.IntegrityError as error:
            own = error.diag.schema_name == self.table.schema and error.diag.table_name in self.table.names
            if own and error.diag.constraint_name not in self.table.drawn_keys:
                rule = error.diag.constraint_name or error.diag.column_name or "its partitions"
                raise _Arrived(f"a row that was made up arrived, and {rule} refused it") from None
            if row.unfilled:
                raise _Unclear(f"no row could be made up: no valid value is known for {', '.join(row.unfilled)}") from None
            raise

    def _update(self, row: Row, changed: tuple[WriteColumn, str] | None) -> _Done:
        """Give one column another value where that is possible, then all columns the values that they had."""
        original = {column.name: value for column, value in self._pairs(row) if column.writable and not column.identity}
        if not original:
            return self._no_row("update")[0], "no column that an update may change"
        if changed is not None:
            # The plan may forbid the other value: then the values that the row has must do.
            with suppress(psycopg.DataError, psycopg.IntegrityError), self.connection.transaction():
                row = self._set(row, {changed[0].name: changed[1]})
        return self._set(row, original), ""

    def _set(self, row: Row, values: Mapping[str, str | None]) -> Row:
        columns = [column for column in self.table.columns if column.name in values]
        statement = sql.SQL("UPDATE {} AS child SET {} WHERE {}").format(
            self.table.identifier,
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(column.name), typed(column, values[column.name]))
                for column in columns
            ),
            _at(row.member, row.place),
        )
        member, place = self._one_place(statement, "no row was changed")
        found = self._read(member, place)
        if found is None:
            raise _Wrong("the changed row cannot be read back")
        kept = {column.name: value for column, value in self._pairs(row) if not column.generated}
        self._require_equal({**kept, **values}, found)
        return replace(row, member=member, place=place, values=found)

    def _delete(self, row: Row) -> _Done:
        statement = sql.SQL("DELETE FROM {} AS child WHERE {}").format(self.table.identifier, _at(row.member, row.place))
        self._one_place(statement, "no row was deleted")
        if self._read(row.member, row.place) is not None:
            raise _Wrong("the deleted row is still there")
        return row, ""

    def _delete_made_up(self, row: Row) -> _Done:
        """Delete a row that was made up; the search for rows that refer to it may read large tables as a whole."""
        try:
            with self.connection.transaction():
                return self._delete(row)
        except errors.QueryCanceled:
            return self._no_row("delete")[0], "accepted; to delete a row takes longer than the time limit"

    def _delete_referenced(self, row: Row) -> _Done:
        """Delete a row that others refer to, only where that is refused: the refusal shows that the statement arrived."""
        if any(child.on_delete not in _RESTRICTING for child in self.table.children):
            return self._no_row("delete")[0], "accepted; no row that can be deleted alone"
        try:
            return self._delete(row)
        except (errors.ForeignKeyViolation, errors.RestrictViolation) as error:
            if error.diag.constraint_name in {child.name for child in self.table.children}:
                raise _Arrived(f"it arrived, and {error.diag.constraint_name} refused it") from None
            raise

    def _no_row(self, operation: Operation) -> _Done:
        """Carry out a statement that concerns no row: PostgreSQL checks rights, rules and publications anyway."""
        column = next((column for column in self.table.columns if column.writable), None)
        if operation == "update" and column is None:
            return None, "no column that an update may change"
        statement = sql.SQL("DELETE FROM {} WHERE false RETURNING 1").format(self.table.identifier)
        if operation == "update" and column is not None:
            statement = sql.SQL("UPDATE {} SET {} = NULL WHERE false RETURNING 1").format(
                self.table.identifier, sql.Identifier(column.name)
            )
        self.connection.execute(statement)
        return None, f"accepted; no row to {operation}"

    # --- their parts ------------------------------------------------------------------------------------------------------

    def _one_place(self, statement: sql.Composed, otherwise: str) -> tuple[int, str]:
        """Carry out a statement and return the place of its one row."""
        rows = self.connection.execute(statement + sql.SQL(" RETURNING tableoid::bigint, ctid::text")).fetchall()
        if len(rows) != 1:
            raise _Wrong(otherwise if not rows else f"{len(rows)} rows instead of one")
        member, place = int(rows[0][0]), str(rows[0][1])
        if member not in self.table.members:
            raise _Wrong("the row went to another table")
        return member, place

    def _read(self, member: int, place: str) -> tuple[str | None, ...] | None:
        found = self.connection.execute(
            sql.SQL("SELECT {} FROM {} AS child WHERE {}").format(
                self.table.as_text, self.table.identifier, _at(member, place)
            )
        ).fetchone()
        return None if found is None else tuple(found[0])

    def _require_equal(self, wanted: Mapping[str, str | None], found: tuple[str | None, ...]) -> None:
        other = [
            column.name
            for column, value in zip(self.table.columns, found, strict=True)
            if column.name in wanted and wanted[column.name] != value
        ]
        if other:
            raise _Wrong(f"another value than was written in {', '.join(other)}")

    def _pairs(self, row: Row) -> list[tuple[WriteColumn, str | None]]:
        return list(zip(self.table.columns, row.values, strict=True))

    def _other_value(self, row: Row | None) -> tuple[WriteColumn, str] | None:
        """Return a column that no key and no constraint needs, and another value for it."""
        if row is None:
            return None
        for column, value in self._pairs(row):
            if column.writable and not column.identity and not column.bound:
                new = write_rows.first_valid(self.connection, column, [one for one in column.samples if one != value])
                if new is not None and new != value:
                    return column, new
        return None


def _at(member: int, place: str) -> sql.Composed:
    return sql.SQL("child.tableoid = {} AND child.ctid = {}").format(sql.Literal(member), sql.Literal(place))
