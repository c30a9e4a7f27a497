# ruff: noqa: S608  every identifier is quoted, every value is bound
"""Audits the decided snapshot as a whole: its hash and schema, tables without a touched row, figures, listing."""

from __future__ import annotations

import json
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.decisions.audit_rows import unexplained
from include.cutover.decisions.audited import Audited, verdict
from include.cutover.source import schema as source_schema

_BLOCK = 1 << 20


def same_hash(audited: Audited) -> Check:
    """Check that the decided snapshot is the file that was made."""
    digest = files.digest(audited.decided.file)
    wrong = [] if digest == audited.decided.sha256 else [digest]
    return verdict("decided_hash", "The decided snapshot is the recorded file", wrong, audited.decided.sha256)


def same_schema(audited: Audited) -> Check:
    """Check for the same objects with the same columns; a touched column may have lost its type.

    A row that was touched and then taken out is on record only as taken out.
    """
    objects, columns = [], []
    for schema in ("original", "main"):
        rows = audited.connection.execute(f"SELECT type, name, tbl_name FROM {schema}.sqlite_schema ORDER BY 1, 2")
        objects.append(rows.fetchall())
        columns.append(
            {
                (table, name): (kind, rest)
                for table, name, kind, *rest in audited.connection.execute(
                    'SELECT t.name, c.name, c.type, c.cid, c."notnull", c.dflt_value, c.pk, c.hidden'
                    " FROM pragma_table_list AS t JOIN pragma_table_xinfo(t.name, t.schema) AS c"
                    " WHERE t.schema = ? AND t.type = 'table'",
                    (schema,),
                )
            }
        )
    touched = set(audited.connection.execute("SELECT DISTINCT name, c FROM record.touched JOIN record.tables USING (t)"))
    emptied = audited.connection.execute("SELECT DISTINCT name FROM record.removed JOIN record.tables USING (t)")
    touched |= {(table, name) for (table,) in emptied for name in audited.plan.tables[table].columns}
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
    return verdict("decided_schema", "The decided snapshot has the backup's tables and columns", wrong, "the same")


def other_tables(audited: Audited) -> Check:
    """Check that tables that are not on record have the same bytes as in the backup, or are equal row by row."""
    changed = _changed_pages(audited.decided.snapshot, audited.decided.file)
    others = sorted(set(source_schema.tables(audited.connection)) & audited.plan.tables.keys() - set(audited.recorded))
    wrong = [
        table
        for table in others
        if not _same_bytes(audited, table, changed) and [*unexplained(audited, table, compared_all=True)]
    ]
    expected = f"{len(others)} tables equal"
    return verdict("decided_others", "Tables without a changed row equal those of the backup", wrong, expected)


def _same_bytes(audited: Audited, table: str, changed: bytearray) -> bool:
    """Check whether all pages of the table are the same in both files, from the same root."""
    roots = audited.connection.execute(
        "SELECT was.rootpage = now.rootpage FROM original.sqlite_schema AS was JOIN main.sqlite_schema AS now"
        " USING (type, name) WHERE type = 'table' AND name = ?",
        (table,),
    ).get
    if not roots:
        return False
    pages = 0
    for (page,) in audited.connection.execute("SELECT pageno FROM dbstat WHERE schema = 'original' AND name = ?", (table,)):
        pages += 1
        if page > len(changed) or changed[page - 1]:
            return False
    return pages > 0


def figures(audited: Audited) -> Check:
    """Check that the step reports the figures of the record."""
    touched = audited.connection.execute(
        "SELECT name, decision, count(*) FROM record.touched JOIN record.tables USING (t) GROUP BY t, decision"
    )
    on_record = {(name, decision): count for name, decision, count in touched}
    removed = audited.connection.execute("SELECT name, count(*) FROM record.removed JOIN record.tables USING (t) GROUP BY t")
    reported = {(table, name): count for table, counts in audited.decided.touched.items() for name, count in counts.items()}
    wrong = {f"{table}: {decision}" for (table, decision), _ in on_record.items() ^ reported.items()}
    wrong |= {f"{table}: quarantine" for table, _ in set(removed) ^ set(audited.decided.quarantined.items())}
    return verdict("decided_figures", "The figures equal the record", sorted(wrong), "the same")


def listing(audited: Audited) -> Check:
    """Check that the listing names as many values and rows as are on record, decision by decision."""
    listed_in = audited.decided.listing
    assert listed_in is not None
    wrong = [] if files.digest(listed_in.file) == listed_in.sha256 else ["its hash differs"]
    listed: dict[tuple[str, str], int] = {}
    with listed_in.file.open(encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            listed[item["table"], item["decision"]] = listed.get((item["table"], item["decision"]), 0) + 1
    reported = {(table, name): count for table, counts in audited.decided.touched.items() for name, count in counts.items()}
    reported |= {(table, "quarantine"): count for table, count in audited.decided.quarantined.items()}
    wrong += sorted({f"{table}: {decision}" for (table, decision), _ in listed.items() ^ reported.items()})
    title = "Every changed value and every row in quarantine is listed"
    return verdict("decided_listing", title, wrong, f"{sum(reported.values()):,} lines", where=str(listed_in.file))


def _changed_pages(one: Path, other: Path) -> bytearray:
    """Return a flag for each page that both files have: 1 where its bytes differ. Both have the page size of ``one``."""
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
