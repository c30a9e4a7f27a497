"""Shared by the tests of the assessment: plans, sources with awkward values, targets made by SQL files."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from include.cutover.assessment.findings import Assessment, Finding
from include.cutover.assessment.target import Target, read_target
from include.cutover.plan.model import Plan
from include.cutover.source.schema import quote

NOBODY = 65534
PERSON = {"user": "lead", "name": "Nino", "email": "nino@example.org"}


def plan_of(tables: Mapping[str, Any], **more: Any) -> Plan:
    return Plan.model_validate({
        "name": "shop",
        "application": "Shop",
        "connections": {"source": "s", "target": "t", "application": "a"},
        "tables": dict(tables),
        "backup": {"directory": "/nowhere"},
        "people": {"lead": PERSON, "observer": PERSON, "communicator": PERSON},
        "channels": {"mail_from": "a@example.org", "mail_to": ["b@example.org"]},
        "notices": {"start": "s", "completion": "c", "rollback": "r"},
        **more,
    })  # fmt: skip


@contextlib.contextmanager
def as_somebody_else() -> Iterator[Path]:
    """A scratch folder, and rights that reach no further: root gives up being root for a moment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, scratch = os.geteuid(), tempfile.tempdir
        if before == 0:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        tempfile.tempdir = name
        try:
            yield folder
        finally:
            tempfile.tempdir = scratch
            os.seteuid(before)


@dataclass(frozen=True)
class Raw:
    """Bytes that are stored in SQLite as text."""

    data: bytes


def source_of(path: Path, *statements: str, encoding: str = "UTF-8") -> Path:
    path.unlink(missing_ok=True)
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'; PRAGMA synchronous = OFF").fetchall()
        for statement in statements:
            connection.execute(statement)
    return path


def insert(path: Path, table: str, rows: Sequence[Sequence[Any]]) -> None:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute("PRAGMA synchronous = OFF").fetchall()
        with connection:
            for row in rows:
                marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, Raw) else "?" for value in row)
                plain = [value.data if isinstance(value, Raw) else value for value in row]
                connection.execute(f"INSERT INTO {quote(table)} VALUES ({marks})", plain)


def sql_folder(path: Path, *statements: str, kind: str = "pre_data") -> Path:
    (path / kind).mkdir(parents=True)
    (path / kind / "001_all.sql").write_text(";\n".join(statements), encoding="utf-8")
    return path


def target_of(conninfo: str, path: Path, *statements: str) -> Target:
    return read_target(conninfo, sql_folder(path / f"sql_{uuid.uuid4().hex[:6]}", *statements))


def telling(found: Assessment, *, but: Sequence[str] = ("table_stays_empty",)) -> list[Finding]:
    return [finding for finding in found.findings if finding.code not in but]


def only(found: Assessment) -> Finding:
    (finding,) = telling(found)
    return finding
