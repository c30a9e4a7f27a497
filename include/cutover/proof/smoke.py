"""The plan's own smoke tests of the target's database."""

from __future__ import annotations

from pathlib import Path

import psycopg

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.proof.reading import query_problem, reading
from include.cutover.proof.words import UNCOUNTED, identifier

SMOKE_COLUMNS = ("name", "passed", "found")


_BOOLEAN = 16  # type oid of PostgreSQL's boolean


def smoke_test_database(conninfo: str, schema: str, sql_folder: Path, *, seconds: float = 60) -> list[Check]:
    """Run the plan's own smoke tests: every ``smoke/*.sql`` below ``sql_folder``, in the order of their names.

    Each file is one query that returns rows ``(name text, passed boolean, found text)``; each row becomes a check. The
    query runs with ``schema`` as search path, in a read-only transaction of its own that is rolled back. A file that cannot
    be run, returns other columns or no rows is ``unknown``: nothing was checked.

    Args:
        conninfo: libpq connection string of the target.
        schema: The application's schema.
        sql_folder: The plan's SQL.
        seconds: How long one query may take.

    Raises:
        CannotCheck: When there is no such file.
        Unreachable: When the server does not answer.
    """
    folder = sql_folder / "smoke"
    files = sorted(folder.glob("*.sql"))
    if not files:
        raise CannotCheck(
            "there are no smoke tests of the database",
            where=str(folder),
            expected="at least one file *.sql",
            found="none" if folder.is_dir() else "no such folder",
            do="Write queries that return name, passed and found.",
        )
    checks = []
    for file in files:
        with reading(conninfo, schema, seconds=seconds) as connection:
            try:
                checks += _smoke_checks(connection, file)
            except UnicodeDecodeError:
                checks.append(_unasked(file, "the file is not UTF-8"))
            except psycopg.Error as error:
                if connection.broken or connection.closed:
                    raise
                checks.append(_unasked(file, query_problem(error)))
    return checks


def _smoke_checks(connection: psycopg.Connection, file: Path) -> list[Check]:
    cursor = connection.execute(file.read_text(encoding="utf-8").encode())
    if cursor.nextset():
        return [_unasked(file, "more than one statement")]
    columns = tuple(column.name for column in cursor.description or ())
    if columns != SMOKE_COLUMNS or (cursor.description or [])[1].type_code != _BOOLEAN:
        return [_unasked(file, f"columns {', '.join(columns) or 'none'}")]
    rows = cursor.fetchall()
    if not rows:
        return [_unasked(file, "no rows")]
    where = f"smoke/{file.name}"
    checks = []
    for name, passed, found in rows:
        title = str(name or "").strip() or file.stem
        text = "" if found is None else str(found)
        checks.append(
            Check(
                name=f"smoke_{identifier(f'{file.stem}_{title}')}",
                title=title,
                outcome="unknown" if passed is None else "passed" if passed else "failed",
                expected="true",
                found=text if passed is not None else f"the query gave NULL instead of an answer; {text}".rstrip("; "),
                do=""
                if passed
                else UNCOUNTED
                if passed is None
                else "Do not go live. Run the file in psql and find the cause.",
                where=where,
            )
        )
    return checks


def _unasked(file: Path, problem: str) -> Check:
    return Check(
        name=f"smoke_{identifier(file.stem)}",
        title=f"the smoke test {file.name} can be run",
        outcome="unknown",
        expected=f"one query with the columns {', '.join(SMOKE_COLUMNS)} (text, boolean, text) and at least one row",
        found=problem,
        do="Correct the file; it must run as it is in psql.",
        where=f"smoke/{file.name}",
    )
