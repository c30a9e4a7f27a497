"""Reads one table: SQLite checks every row, and Python only the values that SQLite does not accept.

One query per block of rows counts the rows in which the conditions of all columns are true, and returns the texts and the
JSON of the block in one piece. One pass over that piece shows whether all text is valid and free of NUL, and whether the
JSON is the same after Python has read and written it, so that no key is repeated. Only a block in doubt is read row by row,
and only the cells in doubt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import apsw

from include.cutover.assessment.columns import AssessedColumn, all_of, any_of
from include.cutover.assessment.findings import KEYS_SHOWN, Finding, Severity, column_lines
from include.cutover.assessment.row_names import RowNames
from include.cutover.assessment.values import Text, ValueJudge, Verdict
from include.cutover.decisions.decided_snapshot import text_encoding
from include.cutover.plan.tables import ColumnDecision
from include.cutover.source.schema import TableShape, quote

FIRST_BLOCK, LARGEST_BLOCK = 1_000, 20_000  # rows
BLOCK_BYTES = 1024 * 1024  # of text handed to Python at once
_LONGEST_BLOCK = 32 * 1024 * 1024
_LONGEST_VALUE = 1_000_000_000  # SQLite's own limit
_REMEMBERED = 50_000
_VALUES_KEPT = 12
_LONGEST_KEPT = 10_000
_DECIDABLE = frozenset(
    {"empty_text", "nul_in_text", "nul_in_json", "not_utf8", "blob_in_text", "number_in_datetime", "not_boolean"}
)
_UNUSUAL_NUMBER = re.compile(r"[0-9]{300}|[0-9][eE][+-]?[0-9]{3}")  # it may be outside the range of numeric
_ASCII_ONLY = "'*[^' || char(1) || '-' || char(127) || ']*'"


@dataclass(frozen=True)
class RowCheck:
    """A condition on several columns.

    Attributes:
        name: Name of the CHECK.
        columns: Columns that it reads.
        holds: SQL condition, never NULL: true for rows that satisfy the CHECK.
        becomes: The result for a row that does not.
    """

    name: str
    columns: tuple[str, ...]
    holds: str
    becomes: str


@dataclass
class _Group:
    """The values of one column with the same verdict."""

    first: Verdict
    rows: int = 0
    keys: list[str] = field(default_factory=list)
    longest: int = 0
    cells: list[Any] = field(default_factory=list)  # the first ones, as ``ValueJudge`` takes them
    words: dict[str, None] = field(default_factory=dict)
    all_words: bool = True
    meanings: frozenset[str] | None = None

    def add(self, verdict: Verdict, cell: Any) -> None:
        """Add a value with this verdict."""
        self.rows += 1
        self.longest = max(self.longest, verdict.length)
        short = not isinstance(cell, bytes) or len(cell) < _LONGEST_KEPT
        if not self.cells or (short and len(self.cells) < _VALUES_KEPT):
            self.cells.append(cell)
        if verdict.word and (verdict.word in self.words or len(self.words) < _VALUES_KEPT):
            self.words[verdict.word] = None
        else:
            self.all_words = False
        self.meanings = verdict.meanings if self.meanings is None else self.meanings & verdict.meanings


class TableScan:
    """One pass over a table of a snapshot.

    Args:
        conn: The snapshot.
        shape: Name and keys of the table.
        columns: The columns that the copy can carry over.
        checks: Conditions on whole rows.
        secret: Columns whose content is never shown.
        on_rows: Called with the number of rows read after every block.

    Attributes:
        rows: Rows read so far.
    """

    def __init__(
        self,
        conn: apsw.Connection,
        shape: TableShape,
        columns: Sequence[AssessedColumn],
        checks: Sequence[RowCheck] = (),
        *,
        secret: Sequence[str] = (),
        on_rows: Callable[[int], None] | None = None,
    ) -> None:
        self._conn, self._shape, self._columns, self._checks = conn, shape, columns, checks
        self._encoding = text_encoding(conn)
        self._names = RowNames(shape, secret, self._encoding)
        self._on_rows = on_rows
        self._table = f"main.{quote(shape.table)}{' NOT INDEXED' if shape.rowid else ''}"
        self._groups: dict[tuple[str, str, Severity, str], _Group] = {}
        self._judges: dict[int, ValueJudge] = {}
        self._remembered: list[dict[tuple[str, Any], tuple[Verdict, ...]]] = [{} for _ in columns]
        self.rows = 0
        certain = all_of([*(column.accepted for column in columns), *(check.holds for check in checks)])
        texts = [quote(column.name) for column in columns if column.is_text]
        documents = [
            f"CASE WHEN json_valid({x}) AND typeof({x}) = 'text' AND instr({x}, char(0)) = 0 THEN json({x}) END"
            for x in (quote(column.name) for column in columns if column.is_json)
        ]
        text, document = _together(texts, "char(30)"), _together(documents, "','")
        sure = "count(*)" if certain == "true" else f"count(CASE WHEN {certain} THEN 1 END)"
        self._measured = f"count(*), {sure}, {text}, {document}"

    def run(self) -> list[Finding]:
        """Check all rows and return the findings by column.

        Raises:
            apsw.Error: When the snapshot cannot be read.
        """
        for where, bindings, blocks in self._blocks():
            bad_text = bad_json = False
            rows = sure = 0
            for there, fine, text, documents in blocks:
                rows += there
                sure += fine
                bad_text = bad_text or not self._is_text(text)
                bad_json = bad_json or not self._is_plain_json(documents)
            if sure < rows or bad_text or bad_json:
                self._examine(where, bindings, bad_text, bad_json)
            self.rows += rows
            if self._on_rows is not None:
                self._on_rows(self.rows)
        return self._findings()

    # --- blocks

    def _blocks(self) -> Iterator[tuple[str, tuple[int, ...], list[tuple[int, int, bytes | None, bytes | None]]]]:
        rowid = self._shape.rowid
        if rowid is None:
            yield "true", (), self._by_position()
            return
        lower = self._one(f"SELECT min({rowid}) FROM {self._table}", ())[0]  # noqa: S608
        if lower is None:
            return
        size = FIRST_BLOCK
        query = f"SELECT {self._measured} FROM {self._table} WHERE {rowid} >= ? AND {rowid} < ?"  # noqa: S608
        rest = f"SELECT {self._measured} FROM {self._table} WHERE {rowid} >= ?"  # noqa: S608
        bound = f"SELECT {rowid} FROM {self._table} WHERE {rowid} >= ? ORDER BY {rowid} LIMIT 1 OFFSET ?"  # noqa: S608
        while lower is not None:
            self._conn.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_BLOCK if size > 1 else _LONGEST_VALUE)
            found = self._conn.execute(bound, (lower, size)).fetchone()
            upper = found[0] if found else None
            bindings = (lower,) if upper is None else (lower, upper)
            try:
                block = self._one(rest if upper is None else query, bindings)
            except apsw.TooBigError:
                if size == 1:
                    raise
                size = max(1, size // 16)
                continue
            yield (f"{rowid} >= ?" if upper is None else f"{rowid} >= ? AND {rowid} < ?"), bindings, [block]
            weight = max(1, len(block[2] or b"") + len(block[3] or b""))
            size = max(1, min(size * 4, LARGEST_BLOCK, BLOCK_BYTES * block[0] // weight))
            lower = upper

    def _by_position(self) -> list[tuple[int, int, bytes | None, bytes | None]]:
        """Read all blocks of a table without a rowid in one query; SQLite numbers the rows."""
        size = FIRST_BLOCK
        while True:
            self._conn.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_BLOCK if size > 1 else _LONGEST_VALUE)
            query = (
                f"SELECT {self._measured} FROM "  # noqa: S608
                f'(SELECT *, (row_number() OVER () - 1) / {size} AS "cutover block" FROM {self._table}) '
                'GROUP BY "cutover block"'
            )
            try:
                return list(self._conn.execute(query))
            except apsw.TooBigError:
                if size == 1:
                    raise
                size = 1 if size < 64 else size // 64

    def _one(self, query: str, bindings: tuple[int, ...]) -> Any:
        return self._conn.execute(query, bindings).fetchone()

    def _is_text(self, data: bytes | None) -> bool:
        if data is None:
            return True
        try:
            return "\0" not in data.decode(self._encoding)
        except UnicodeDecodeError:
            return False

    def _is_plain_json(self, data: bytes | None) -> bool:
        """Return True when all documents are valid jsonb and no object repeats a key."""
        if data is None:
            return True
        try:
            text = f"[{data.decode(self._encoding)}]"
            if "\\u0000" in text or _UNUSUAL_NUMBER.search(text):
                return False
            content = json.loads(text)
            written = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
            written.encode()  # half a surrogate pair has no encoding
            if text not in (written, json.dumps(content, separators=(",", ":"))):
                # Written differently, or a repeated key was lost: Python checks every object.
                json.loads(text, object_pairs_hook=_with_keys_once)
        except (ValueError, RecursionError):
            return False
        return True

    # --- rows

    def _examine(self, where: str, bindings: tuple[int, ...], bad_text: bool, bad_json: bool) -> None:
        """Read the cells in doubt of a block and judge each."""
        self._conn.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        doubts = [self._doubt(column, bad_text, bad_json) for column in self._columns]
        broken = [f"NOT ({check.holds})" for check in self._checks]
        cells = [
            f"CASE WHEN {doubt} THEN typeof({x}) END, "
            f"CASE WHEN {doubt} THEN CASE typeof({x}) WHEN 'text' THEN CAST({x} AS BLOB) ELSE {x} END END"
            for doubt, x in zip(doubts, (quote(column.name) for column in self._columns), strict=True)
        ]
        results = ", ".join([*self._names.results, *cells, *broken])
        query = f"SELECT {results} FROM {self._table} WHERE {where} AND {any_of([*doubts, *broken])}"  # noqa: S608
        first = len(self._names.results)
        last = first + 2 * len(self._columns)
        for row in self._conn.execute(query, bindings):
            key = row[:first]
            for index, kind in enumerate(row[first:last:2]):
                if kind is not None:
                    cell = row[first + 2 * index + 1]
                    for verdict in self._judged(index, kind, cell):
                        self._add(self._columns[index].name, verdict, key, Text(cell) if kind == "text" else cell)
            for index, is_broken in enumerate(row[last:]):
                if is_broken:
                    check = self._checks[index]
                    self._add(
                        ", ".join(check.columns), Verdict("check_violated", "blocks", check.name, "", check.becomes), key
                    )

    def _doubt(self, column: AssessedColumn, bad_text: bool, bad_json: bool) -> str:
        x = quote(column.name)
        if bad_json and column.is_json:
            return f"({x} IS NOT NULL)"
        doubt = f"NOT ({column.accepted})"
        if bad_text and column.is_text:
            # Text that is not plain ASCII is in doubt. length() ends at the first NUL.
            unit = 1 if self._encoding == "utf-8" else 2
            plain = f"{x} NOT GLOB {_ASCII_ONLY} AND octet_length({x}) = {unit} * length({x})"
            doubt = f"({doubt} OR ({x} IS NOT NULL AND NOT ({plain})))"
        return doubt

    def _judged(self, index: int, kind: str, cell: Any) -> tuple[Verdict, ...]:
        remembered = self._remembered[index]
        name = (kind, repr(cell) if cell == 0 else cell)  # 0.0 equals -0.0, but their verdicts may differ
        known = remembered.get(name)
        if known is None:
            if index not in self._judges:
                self._judges[index] = ValueJudge(self._columns[index], self._encoding)
            known = self._judges[index](Text(cell) if kind == "text" else cell)
            if len(remembered) < _REMEMBERED and (not isinstance(cell, bytes) or len(cell) < 200):
                remembered[name] = known
        return known

    def _add(self, column: str, verdict: Verdict, key: Sequence[Any], cell: Any = None) -> None:
        group = self._groups.setdefault((column, verdict.code, verdict.severity, verdict.value), _Group(verdict))
        group.add(verdict, cell)
        if len(group.keys) < KEYS_SHOWN:
            group.keys.append(self._names(key))

    def _findings(self) -> list[Finding]:
        columns = {column.name: column for column in self._columns}
        found = []
        for (name, code, severity, value), group in self._groups.items():
            column = columns.get(name)  # none for a check on several
            unit = "bytes" if value == "blob" else "characters"
            found.append(
                Finding(
                    code,
                    severity,
                    self._shape.table,
                    name,
                    group.rows,
                    tuple(group.keys),
                    f"{value} of up to {group.longest:,} {unit}" if group.longest else value,
                    group.first.example,
                    group.first.becomes,
                    self._decision(column, group) if column is not None and severity == "blocks" else "",
                )
            )
        return found

    def _decision(self, column: AssessedColumn, group: _Group) -> str:
        """Return the lines of a decision; empty where none is allowed or none would help."""
        decision, why = _suggested(column, group)
        if not decision or not self._helps(column, group, decision):
            return ""
        if "boolean" in decision and column.secret:
            decision, why = {"boolean": {"the value": True}}, "each value of this secret column, as the application uses it"
        return column_lines(self._shape.table, column.name, decision, why)

    def _helps(self, column: AssessedColumn, group: _Group, decision: Mapping[str, Any]) -> bool:
        """Return True when some of the values would pass with the decision, or with one more."""
        made = column.decision or ColumnDecision()
        words = {**(made.boolean or {}), **decision.get("boolean", {})}
        tried = replace(column, decision=made.model_copy(update={**decision, "boolean": words or None}))
        judge = ValueJudge(tried, self._encoding)
        left = [{item.code for item in judge(cell) if item.severity == "blocks"} for cell in group.cells]
        return any(group.first.code not in codes and codes <= _DECIDABLE for codes in left)


def _suggested(column: AssessedColumn, group: _Group) -> tuple[dict[str, Any], str]:
    """Return a decision for the values of a group and a comment on it; both empty where there is none."""
    code = group.first.code
    if code == "empty_text":
        return {"empty_as_null": True}, ""
    if code in ("nul_in_text", "nul_in_json"):
        return {"strip_nul": True}, ""
    if code == "blob_in_text" and group.meanings:
        return {"encoding": "utf-8"}, ""
    if code == "not_utf8" and group.first.value == "text that is not UTF-8":
        return {"encoding": "latin-1"}, "or another that the application used, such as cp1251"
    if code == "number_in_datetime" and group.meanings:
        meant = next(name for name in ("unix", "unix_ms", "julian") if name in group.meanings)
        return {"datetime": meant}, "if that is what the application wrote"
    if code == "not_boolean" and group.first.value != "blob":
        more = "" if group.all_words else "; there are more values, or some that cannot be shown"
        return {"boolean": {word: _usual_truth(word) for word in group.words}}, f"as the application uses them{more}"
    return {}, ""


def _with_keys_once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise ValueError


def _usual_truth(text: str) -> bool:
    return text.strip().lower() not in ("f", "false", "n", "no", "off", "", "0", "0.0")


def _together(expressions: Sequence[str], separator: str) -> str:
    """Return SQL for the values of a block in one piece, as bytes; NULL where there are none."""
    if not expressions:
        return "NULL"
    groups = [f"concat_ws({separator}, {', '.join(expressions[at : at + 100])})" for at in range(0, len(expressions), 100)]
    row = groups[0] if len(groups) == 1 else f"concat_ws({separator}, {', '.join(groups)})"
    return f"CAST(group_concat(nullif({row}, ''), {separator}) AS BLOB)"
