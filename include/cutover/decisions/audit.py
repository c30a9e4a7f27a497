# ruff: noqa: S608  every identifier is quoted, every value is bound
"""The proof that a decided snapshot is the backup with the plan's decisions carried out, and nothing else.

It has nothing in common with the code that made it. Both files are read side by side: tables that no decision touched must
lie on the same bytes, or be equal row by row; in the others, the rows that differ must be the ones on record. Every touched
value is computed anew, in Python, from the original one, and every row that was taken out must have had to go.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path
from typing import Any

import apsw

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.decisions import snapshot as decided_snapshot
from include.cutover.decisions.snapshot import Decided, beside, place
from include.cutover.plan.model import Plan
from include.cutover.plan.tables import ColumnDecision
from include.cutover.proof.canonical import INTEGERS, base_type
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import Shape, quote
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.schema import PlannedSchema

_NAMED = 3
_BLOCK = 1 << 20

Cell = tuple[str, Any]  # storage class, and the value: text as its bytes
Key = tuple[Any, ...]
Row = tuple[int, Any]  # number of the table, and the row's place


def audit(decided: Decided, plan: Plan, planned: PlannedSchema) -> list[Check]:
    """Prove a decided snapshot against the backup it was made from. Changes nothing; safe to run again.

    Returns:
        Checks about the whole file, about each table that was touched and about each foreign key that was decided. When no
        decision touched a row there is one: the backup itself is read.

    Raises:
        CannotCheck: When a file cannot be read.
    """
    if not decided.made:
        found = "the backup itself is read"
        return [Check("decided_untouched", "No decision of the plan touches a row", "passed", "", found)]
    with decided_snapshot.opened(decided) as connection:
        return _Audit(connection, decided, plan, planned).checks()


def _check(
    name: str, title: str, wrong: Collection[str], expected: str, found: str = "as expected", where: str = ""
) -> Check:
    """Passed when nothing is wrong."""
    if not wrong:
        return Check(name, title, "passed", expected, found, where=where)
    shown = [*wrong][: _NAMED + 1]
    told = "; ".join(shown[:_NAMED]) + ("; and more" if len(shown) > _NAMED else "")
    do = "Do not copy from the decided snapshot: delete it and run the step again; keep it if that does not help."
    return Check(name, title, "failed", expected, told, do, where)


class _Audit:
    def __init__(self, connection: apsw.Connection, decided: Decided, plan: Plan, planned: PlannedSchema) -> None:
        self._connection = connection
        self._decided = decided
        self._plan = plan
        self._planned = planned
        self._types = {table: {item.name: item.stored_type for item in items} for table, items in planned.columns.items()}
        self._encoding = decided_snapshot.text_encoding(connection)
        self._tables = {name: t for t, name in connection.execute("SELECT t, name FROM record.tables")}
        self._names = {t: name for name, t in self._tables.items()}
        touched = connection.execute("SELECT DISTINCT t FROM record.touched UNION SELECT t FROM record.removed")
        self._recorded = sorted(self._names.get(t, f"table {t}") for (t,) in touched)
        self._keys = {(key.table, key.name): key for key in planned.foreign_keys}

    def checks(self) -> list[Check]:
        wrong = [] if decided_snapshot.same_snapshot(self._decided) else ["another file, or a changed one"]
        title = "The backup is the one that the decided snapshot was made from"
        found = [_check("decided_backup", title, wrong, "the same file"), self._same_hash(), self._schema()]
        if found[-1].outcome != "passed":
            return found  # what the next questions are about is not there
        found.append(self._others())
        for table in self._recorded:
            found += [self._counts(table), self._differences(table), self._values(table)]
        found += self._references()
        found.append(self._figures())
        if self._decided.listing is not None:
            found.append(self._listing())
        return found

    # --- the whole file

    def _same_hash(self) -> Check:
        digest = files.digest(self._decided.file)
        wrong = [] if digest == self._decided.sha256 else [digest]
        return _check("decided_hash", "The decided snapshot is the file that was made", wrong, self._decided.sha256)

    def _schema(self) -> Check:
        """The same objects with the same columns; a type may have been taken out of a column that was touched.

        Of a row that was touched and then taken out, only that is on record.
        """
        objects, columns = [], []
        for schema in ("original", "main"):
            rows = self._connection.execute(f"SELECT type, name, tbl_name FROM {schema}.sqlite_schema ORDER BY 1, 2")
            objects.append(rows.fetchall())
            columns.append(
                {
                    (table, name): (kind, rest)
                    for table, name, kind, *rest in self._connection.execute(
                        'SELECT t.name, c.name, c.type, c.cid, c."notnull", c.dflt_value, c.pk, c.hidden'
                        " FROM pragma_table_list AS t JOIN pragma_table_xinfo(t.name, t.schema) AS c"
                        " WHERE t.schema = ? AND t.type = 'table'",
                        (schema,),
                    )
                }
            )
        touched = set(self._connection.execute("SELECT DISTINCT name, c FROM record.touched JOIN record.tables USING (t)"))
        emptied = self._connection.execute("SELECT DISTINCT name FROM record.removed JOIN record.tables USING (t)")
        touched |= {(table, name) for (table,) in emptied for name in self._plan.tables[table].columns}
        before, after = columns
        wrong = sorted(
            f"{table}.{name}"
            for table, name in before.keys() | after.keys()
            if before.get((table, name)) != after.get((table, name))
            and not (
                (table, name) in touched
                and before.keys() == after.keys()
                and before[table, name][1] == after[table, name][1]
                and after[table, name][0] in ("", "ANY")
            )
        )
        wrong += [f"{kind} {name}" for kind, name, _ in set(objects[0]) ^ set(objects[1])]
        return _check("decided_schema", "The decided snapshot has the backup's tables and columns", wrong, "the same")

    def _others(self) -> Check:
        """Tables that are not on record lie on the same bytes as in the backup, or are equal row by row."""
        changed = _changed_pages(self._decided.snapshot, self._decided.file)
        others = sorted(set(source_schema.tables(self._connection)) & self._plan.tables.keys() - set(self._recorded))
        wrong = [
            table
            for table in others
            if not self._same_bytes(table, changed) and [*self._unexplained(table, compared_all=True)]
        ]
        expected = f"{len(others)} tables equal"
        return _check("decided_others", "Tables without a touched row are those of the backup", wrong, expected)

    def _same_bytes(self, table: str, changed: bytearray) -> bool:
        """Whether all pages of the table are the same in both files, from the same root."""
        roots = self._connection.execute(
            "SELECT was.rootpage = now.rootpage FROM original.sqlite_schema AS was JOIN main.sqlite_schema AS now"
            " USING (type, name) WHERE type = 'table' AND name = ?",
            (table,),
        ).get
        if not roots:
            return False
        pages = 0
        for (page,) in self._connection.execute(
            "SELECT pageno FROM dbstat WHERE schema = 'original' AND name = ?", (table,)
        ):
            pages += 1
            if page > len(changed) or changed[page - 1]:
                return False
        return pages > 0

    def _figures(self) -> Check:
        """What the step reports is what is on record."""
        touched = self._connection.execute(
            "SELECT name, decision, count(*) FROM record.touched JOIN record.tables USING (t) GROUP BY t, decision"
        )
        on_record = {(name, decision): count for name, decision, count in touched}
        removed = self._connection.execute(
            "SELECT name, count(*) FROM record.removed JOIN record.tables USING (t) GROUP BY t"
        )
        reported = {
            (table, name): count for table, counts in self._decided.touched.items() for name, count in counts.items()
        }
        wrong = {f"{table}: {decision}" for (table, decision), _ in on_record.items() ^ reported.items()}
        wrong |= {f"{table}: quarantine" for table, _ in set(removed) ^ set(self._decided.quarantined.items())}
        return _check("decided_figures", "The figures are those of the record", sorted(wrong), "the same")

    def _listing(self) -> Check:
        """The listing names as many values and rows as are on record, decision by decision."""
        listing = self._decided.listing
        assert listing is not None
        wrong = [] if files.digest(listing.file) == listing.sha256 else ["its hash is another one"]
        listed: dict[tuple[str, str], int] = {}
        with listing.file.open(encoding="utf-8") as lines:
            for line in lines:
                item = json.loads(line)
                listed[item["table"], item["decision"]] = listed.get((item["table"], item["decision"]), 0) + 1
        reported = {
            (table, name): count for table, counts in self._decided.touched.items() for name, count in counts.items()
        }
        reported |= {(table, "quarantine"): count for table, count in self._decided.quarantined.items()}
        wrong += sorted({f"{table}: {decision}" for (table, decision), _ in listed.items() ^ reported.items()})
        title = "Every touched value and every row taken out is listed"
        return _check("decided_listing", title, wrong, f"{sum(reported.values()):,} lines", where=str(listing.file))

    # --- one table

    def _counts(self, table: str) -> Check:
        """Rows of the backup are the rows that are left and those on record as taken out."""
        rows = {
            schema: self._connection.execute(f"SELECT count(*) FROM {schema}.{quote(table)}").get
            for schema in ("original", "main")
        }
        removed = self._connection.execute("SELECT count(*) FROM record.removed WHERE t = ?", (self._tables[table],)).get
        told = f"{rows['main']:,} rows left and {removed:,} in quarantine"
        wrong = [] if rows["original"] == rows["main"] + removed else [told]
        title = "No row is missing and none too many"
        return _check("decided_counts", title, wrong, f"{rows['original']:,} rows", told, table)

    def _differences(self, table: str) -> Check:
        wrong = [*self._unexplained(table, compared_all=False)]
        title = "The rows that differ from the backup are the ones on record"
        return _check("decided_differences", title, wrong, "no other row differs", where=table)

    def _unexplained(self, table: str, *, compared_all: bool) -> Iterator[str]:
        """What differs between the two files and is not on record, row by row; stops after a few."""
        shape = source_schema.shape(self._connection, table)
        t = -1 if compared_all else self._tables[table]
        was, now = f"original.{quote(table)} AS was", f"main.{quote(table)} AS now"
        if shape.rowid is not None:
            same = f"{place(shape, 'was')} = {place(shape, 'now')}"
        else:
            same = " AND ".join(f"was.{quote(key.name)} = now.{quote(key.name)}" for key in shape.order)
        here, there = place(shape, "was"), place(shape, "now")
        removed = f"(SELECT place FROM record.removed WHERE t = {t})"
        touched = f"(SELECT place FROM record.touched WHERE t = {t})"
        differ = f"NOT {_equal(self._comparable_columns(table), 'was', 'now')}"
        queries = {
            "changed": f"FROM {was} CROSS JOIN {now} ON {same} WHERE {differ} AND {here} NOT IN {touched}",
            "missing": f"FROM {was} WHERE {here} NOT IN {removed} AND NOT EXISTS (SELECT 1 FROM {now} WHERE {same})",
            "new": f"FROM {now} WHERE NOT EXISTS (SELECT 1 FROM {was} WHERE {same})",
            "still there": f"FROM {now} WHERE {there} IN {removed}",
        }
        for what, clause in queries.items():
            side = "now" if what in ("new", "still there") else "was"
            keys = ", ".join(decided_snapshot.key_columns(shape, side))
            for key in self._connection.execute(f"SELECT {keys} {clause} LIMIT {_NAMED + 1}"):
                yield f"{self._named(shape, key)} {what}"

    def _values(self, table: str) -> Check:
        """Every value on record is what its decision makes of the original, and the row's other values are untouched."""
        shape, t = source_schema.shape(self._connection, table), self._tables[table]
        rules = self._rules(table)
        recorded_columns = self._connection.execute("SELECT DISTINCT c FROM record.touched WHERE t = ?", (t,))
        looked_at = {name for (name,) in recorded_columns} | rules.keys()
        stored = [column.name for column in source_schema.columns(self._connection, table) if not column.generated]
        names = [name for name in stored if name in looked_at]
        places = (
            f"(SELECT place, json_group_array(json_array(c, foreign_key)) AS cells FROM record.touched WHERE t = {t}"
            " GROUP BY place)"
        )
        keys = decided_snapshot.key_columns(shape, "original")
        selected = [decided_snapshot.cell(f"{schema}.{quote(name)}") for name in names for schema in ("original", "main")]
        others_equal = _equal([name for name in stored if name not in looked_at], "original", "main")
        query = (
            f"SELECT x.cells, {others_equal}, {', '.join([*keys, *selected])}"
            f" FROM {beside(shape, places, 'original', 'main')}"
        )
        wrong: list[str] = []
        rows = values = 0
        for cells, equal, *row in self._connection.execute(query):
            rows += 1
            recorded = dict(json.loads(cells))
            values += len(recorded)
            found = row[len(keys) :]
            different = [] if equal else ["another column"]
            for number, name in enumerate(names):
                was, before, became, after = found[4 * number : 4 * number + 4]
                expected = rules[name]((was, before)) if name in rules else (was, before)
                if (key := recorded.get(name)) is not None and self._may_be_null(table, key, name):
                    expected = ("null", None)
                if (became, after) != expected or (name in recorded) != ((was, before) != expected):
                    different.append(f"column {name}")
            if different and len(wrong) <= _NAMED:
                wrong.append(f"{self._named(shape, row[: len(keys)])}, {', '.join(different)}")
        on_record = self._connection.execute("SELECT count(DISTINCT place), count(*) FROM record.touched WHERE t = ?", (t,))
        recorded_rows, recorded_values = on_record.fetchall()[0]
        if (rows, values) != (recorded_rows, recorded_values):
            wrong.append(f"{recorded_values:,} values in {recorded_rows:,} rows on record, {values:,} in {rows:,} found")
        title = "Every touched value is what its decision makes of the original"
        return _check("decided_values", title, wrong, f"{values:,} values", where=table)

    def _comparable_columns(self, table: str) -> list[str]:
        """All columns; of a virtual table those that hold something of their own."""
        is_virtual = self._connection.execute(
            "SELECT type = 'virtual' FROM pragma_table_list WHERE schema = 'main' AND name = ?", (table,)
        ).get
        columns = source_schema.columns(self._connection, table)
        return [column.name for column in columns if not (column.generated and is_virtual)]

    def _may_be_null(self, table: str, key: str, column: str) -> bool:
        reference = self._keys.get((table, key))
        return reference is not None and column in reference.columns and self._choice(reference) == "set_null"

    def _rules(self, table: str) -> dict[str, _Rule]:
        decisions = self._plan.tables[table].columns
        return {
            name: _Rule(decision, base_type(self._types[table][name]), self._encoding)
            for name, decision in decisions.items()
        }

    def _named(self, shape: Shape, key: Sequence[Any]) -> str:
        table = self._plan.tables.get(shape.table)
        return decided_snapshot.key_text(shape, key, table.secret if table else (), self._encoding)

    # --- references

    def _choice(self, key: ForeignKey) -> str:
        table = self._plan.tables.get(key.table)
        decision = table.foreign_keys.get(key.name) if table else None
        return decision.orphans if decision else "block"

    def _references(self) -> list[Check]:
        recorded = {
            (self._names[t], name): (rows, nulled)
            for t, name, rows, nulled in self._connection.execute(
                "SELECT t, foreign_key, sum(gone), sum(NOT gone) FROM (SELECT t, foreign_key, place, 1 AS gone"
                " FROM record.removed UNION SELECT t, foreign_key, place, 0 FROM record.touched"
                " WHERE foreign_key IS NOT NULL) GROUP BY 1, 2"
            )
        }
        checks = []
        orphaned: dict[Row, list[Row]] = {}  # row taken out → rows taken out that it pointed to
        for (table, name), (rows, nulled) in sorted(recorded.items()):
            key = self._keys.get((table, name))
            if key is None:
                checks.append(_check("decided_references", "", ["an unknown foreign key"], "", where=f"{table}.{name}"))
                continue
            decision = self._plan.tables[table].foreign_keys.get(name)
            wrong = []
            if (rows and self._choice(key) != "quarantine") or (nulled and self._choice(key) != "set_null"):
                wrong.append(f"the plan says {self._choice(key)}")
            if decision is None or rows + nulled > decision.at_most:
                wrong.append(f"{rows + nulled:,} rows, more than the plan allows")
            wrong += self._with_a_parent(key, orphaned)
            title = "Every row that lost its place or its reference pointed nowhere"
            checks.append(_check("decided_references", title, wrong, f"{rows + nulled:,} orphans", where=f"{table}.{name}"))
        unfounded = [self._row_name(row) for row in _without_ground(orphaned)]
        title = "No row was taken out for the sake of rows that only it kept out"
        checks.append(_check("decided_ground", title, unfounded, "each goes back to a row that is missing in the backup"))
        for key in self._planned.foreign_keys:
            copied = {key.table, key.referenced_table} <= self._plan.tables.keys()
            if self._choice(key) != "block" or (copied and self._concerned(key)):
                count = source_schema.orphans(self._connection, key, self._types, limit=1)[0]
                wrong = [f"{count:,} orphans"] if count else []
                title = "The decided snapshot has no orphans of this foreign key"
                checks.append(_check("decided_orphans", title, wrong, "none", where=f"{key.table}.{key.name}"))
        return checks

    def _concerned(self, key: ForeignKey) -> bool:
        """Whether decisions changed an end of it or took out rows that it may point to."""
        return any(
            self._connection.execute(
                f"SELECT EXISTS (SELECT 1 FROM record.{what} JOIN record.tables USING (t) WHERE name = ? AND {condition})",
                bindings,
            ).get
            for what, condition, bindings in (
                ("removed", "true", (key.referenced_table,)),
                ("touched", "c IN (SELECT value FROM json_each(?))", (key.table, json.dumps(key.columns))),
                (
                    "touched",
                    "c IN (SELECT value FROM json_each(?))",
                    (key.referenced_table, json.dumps(key.referenced_columns)),
                ),
            )
        )

    def _with_a_parent(self, key: ForeignKey, orphaned: dict[Row, list[Row]]) -> list[str]:
        """Rows on record for this foreign key that point to a row that is there; notes those that follow others."""
        shape, t = source_schema.shape(self._connection, key.table), self._tables[key.table]
        wanted: dict[Key, list[Row]] = {}
        wrong = []
        for what in ("removed", "touched"):
            places = f"(SELECT DISTINCT place FROM record.{what} WHERE t = {t} AND foreign_key = ?)"
            for at, found in self._ends(
                key, key.table, key.columns, f"{beside(shape, places, 'original')}", "original", key.name
            ):
                if None in found:
                    wrong.append(f"{self._row_name((t, at))} points to nothing")
                wanted.setdefault(found, []).append((t, at))
                if what == "removed":
                    orphaned[t, at] = []
        parents = key.referenced_table
        clause = f"main.{quote(parents)} AS main"
        for _, found in self._ends(key, parents, key.referenced_columns, clause, "main", decided=False):
            wrong += [f"{self._row_name(row)} points to a row that is there" for row in wanted.get(found, ())][:_NAMED]
        if parents in self._tables:
            gone = f"(SELECT place FROM record.removed WHERE t = {self._tables[parents]})"
            clause = beside(source_schema.shape(self._connection, parents), gone, "original")
            for at, found in self._ends(key, parents, key.referenced_columns, clause, "original"):
                for row in wanted.get(found, ()):
                    if row in orphaned:
                        orphaned[row].append((self._tables[parents], at))
        return wrong

    def _ends(
        self,
        key: ForeignKey,
        table: str,
        columns: Sequence[str],
        clause: str,
        alias: str,
        *bindings: str,
        decided: bool = True,
    ) -> Iterator[tuple[Any, Key]]:
        """Places, and the values of one end of a foreign key as they compare; ``decided``: as the decisions make them."""
        rules = self._rules(table) if decided and table in self._plan.tables else {}
        cells = ", ".join(decided_snapshot.cell(f"{alias}.{quote(name)}") for name in columns)
        at = place(source_schema.shape(self._connection, table), alias)
        pairs = list(zip(key.columns, key.referenced_columns, strict=True))
        types = [{self._type(key.table, own), self._type(key.referenced_table, other)} for own, other in pairs]
        for where, *found in self._connection.execute(f"SELECT {at}, {cells} FROM {clause}", bindings):
            values = [(found[2 * number], found[2 * number + 1]) for number in range(len(columns))]
            values = [rules[name](value) if name in rules else value for name, value in zip(columns, values, strict=True)]
            yield where, tuple(_comparable(*value, kinds) for value, kinds in zip(values, types, strict=True))

    def _type(self, table: str, column: str) -> str:
        return base_type(self._types.get(table, {}).get(column, ""))

    def _row_name(self, row: Row) -> str:
        t, at = row
        shape = source_schema.shape(self._connection, self._names[t])
        names = ", ".join(decided_snapshot.key_columns(shape, "original"))
        query = f"SELECT {names} FROM original.{quote(shape.table)} AS original WHERE {place(shape, 'original')} = ?"
        key = self._connection.execute(query, (at,)).fetchone()
        return f"{shape.table} {self._named(shape, key) if key else 'a row that is not in the backup'}"


def _equal(columns: Sequence[str], one: str, other: str) -> str:
    """SQL that is true where two rows have the same values of the same classes, and never NULL.

    No affinity and no collation of the columns' own may have a say, or '1' would equal 1 and 'a' would equal 'A'.
    """
    if not columns:
        return "true"
    values = [", ".join(f"+{side}.{quote(name)} COLLATE BINARY" for name in columns) for side in (one, other)]
    classes = [", ".join(f"typeof({side}.{quote(name)})" for name in columns) for side in (one, other)]
    return f"(({values[0]}) IS ({values[1]}) AND ({classes[0]}) IS ({classes[1]}))"


def _without_ground(orphaned: Mapping[Row, Sequence[Row]]) -> list[Row]:
    """Rows that do not go back, step by step, to one that pointed to a row missing from the beginning."""
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


def _changed_pages(one: Path, other: Path) -> bytearray:
    """For each page that both files have, whether its bytes differ. Both have the page size of ``one``."""
    with one.open("rb") as left, other.open("rb") as right:
        header = left.read(18)
        left.seek(0)
        size = {1: 65_536}.get(stored := int.from_bytes(header[16:18], "big"), stored)
        changed = bytearray()
        while (a := left.read(_BLOCK)) and (b := right.read(_BLOCK)):
            pages = min(len(a), len(b)) // size
            if a == b:
                changed += bytes(pages)
                continue
            changed += bytes(a[n * size : n * size + size] != b[n * size : n * size + size] for n in range(pages))
        return changed


# --- what a decision makes of a value -----------------------------------------------------------------------------------

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  the text that is made has no offset
_JULIAN_EPOCH = Decimal("2440587.5")


@dataclass(frozen=True)
class _Rule:
    """The decisions about one column, as a function from the original cell to the decided one."""

    decision: ColumnDecision
    type: str
    encoding: str

    def __call__(self, cell: Cell) -> Cell:
        kind, value = cell
        decision = self.decision
        if decision.encoding is not None and (kind == "blob" or (kind == "text" and not self._valid(value))):
            kind, value = "text", self._bytes(_in_either(value, decision.encoding))
        if decision.strip_nul and kind == "text":
            value = self._bytes(_without_nul(self._text(value), json_escapes=self.type in ("json", "jsonb")))
        if decision.empty_as_null and (kind, value) == ("text", b""):
            return "null", None
        if decision.datetime in ("unix", "unix_ms", "julian"):
            number = self._number(kind, value)
            if number is not None:
                return "text", self._bytes(_moment(number, decision.datetime, self.type))
        if decision.boolean is not None and not (kind == "integer" and value in (0, 1)):
            for word, means in decision.boolean.items():
                if self._spells(kind, value, word):
                    return "integer", int(means)
        return kind, value

    def _text(self, value: bytes) -> str:
        return decided_snapshot.decoded(value, self.encoding)

    def _bytes(self, text: str) -> bytes:
        return decided_snapshot.encoded(text, self.encoding)

    def _valid(self, value: bytes) -> bool:
        return self.encoding != "utf-8" or value.decode("utf-8", "ignore").encode() == value

    def _number(self, kind: str, value: Any) -> Decimal | None:
        if kind in ("integer", "real"):
            return Decimal(value)
        text = self._text(value) if kind == "text" else ""
        return Decimal(text) if _NUMBER.fullmatch(text) else None

    def _spells(self, kind: str, value: Any, word: str) -> bool:
        if kind == "text":
            return self._text(value) == word
        if kind == "integer":
            return str(value) == word
        try:
            # Which digits SQLite prints is its own affair; that it prints a point or an exponent tells reals from integers.
            return kind == "real" and float(word) == value and not word.lstrip("-").isdigit()
        except ValueError:
            return False


def _in_either(value: bytes, encoding: str) -> str:
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(value, True)
    except UnicodeDecodeError:
        return codecs.lookup(encoding).decode(value, "replace")[0]


def _without_nul(text: str, *, json_escapes: bool) -> str:
    text = "".join(text.split("\0"))
    if not json_escapes:
        return text
    kept, position = [], 0
    while (found := text.find("\\", position)) >= 0:
        kept.append(text[position:found])
        if text[found + 1 : found + 6] == "u0000":
            position = found + 6
        else:
            kept.append(text[found : found + 2])
            position = found + 2
    return "".join([*kept, text[position:]])


def _moment(number: Decimal, unit: str, target: str) -> str:
    with localcontext() as context:
        context.prec = 500
        if unit == "julian":
            step, size = (number - _JULIAN_EPOCH) * 86_400_000, 1_000
        else:
            step, size = number * (1_000_000 if unit == "unix" else 1_000), 1
        try:
            moment = _EPOCH + timedelta(microseconds=int(step.to_integral_value(ROUND_HALF_EVEN)) * size)
        except (OverflowError, ArithmeticError, ValueError):
            return ""
    if target == "date":
        return moment.strftime("%Y-%m-%d").rjust(10, "0") if moment.time().isoformat() == "00:00:00" else ""
    return moment.isoformat(" ", "microseconds")


def _comparable(kind: str, value: Any, types: Iterable[str]) -> Any:
    """A value as it compares with the other end of a foreign key: uuids however spelled, numbers however stored."""
    if kind == "null":
        return None
    if "uuid" in types:
        text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        return "uuid", re.sub(r"[-{}]", "", text).lower()
    if kind == "text" and set(types) & INTEGERS and _NUMBER.fullmatch(value.decode("utf-8", "replace")):
        return "number", Decimal(value.decode())
    return ("number", Decimal(value)) if kind in ("integer", "real") else (kind, value)
