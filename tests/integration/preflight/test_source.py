"""Checks of the source: real files, whole, damaged and fenced."""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from include.cutover.checks import Check
from include.cutover.places import ROOT
from include.cutover.plan.model import Plan
from include.cutover.preflight import source as preflight_source
from include.cutover.source import cloning, fence
from include.cutover.target.catalog import Column, ForeignKey
from include.cutover.target.schema import PlannedSchema
from tests.support.preflight import bad, by_name

TEXT = "text"


def column(name: str, kind: str = TEXT, *, generated: bool = False) -> Column:
    return Column(name, kind, False, None, generated, False)


KEY = ForeignKey("pings_device_fkey", "pings", ("device",), "devices", ("id",), "CASCADE", False)
PLANNED = PlannedSchema(
    columns={
        "devices": [column("id", "uuid"), column("name")],
        "pings": [column("id", "bigint"), column("device", "uuid"), column("day", "date", generated=True)],
    },
    primary_keys={"devices": ["id"], "pings": ["id"]},
    foreign_keys=[KEY],
)


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def check_source(live: Path, plan: Plan, planned: PlannedSchema = PLANNED) -> list[Check]:
    clone = live.parent / "clone.db"
    cloning.clone(live, clone)
    return preflight_source.check_source(live, clone, plan=plan, planned=planned)


def test_a_good_source_passes_every_check(live: Path, plan: Plan) -> None:
    before = live.read_bytes()
    checks = check_source(live, plan)
    assert bad(checks) == {}
    assert list(by_name(checks)) == [
        "source_file",
        "source_replaceable",
        "source_writable",
        "source_other_names",
        "source_integrity",
        "source_tables_unknown",
        "source_tables_missing",
        "target_tables_missing",
        "target_tables_unknown",
        "source_columns_unknown",
        "source_columns_missing",
        "source_orphans_pings_device_fkey",
    ]
    assert by_name(checks)["source_file"].found == "20 kB, rollback journal"
    assert live.read_bytes() == before
    assert sorted(item.name for item in live.parent.iterdir()) == ["clone.db", "shop.db"]


def test_side_files_of_a_live_database_are_reported(live: Path, plan: Plan) -> None:
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("INSERT INTO pings (device) VALUES (NULL)")
        connection.commit()
        found = by_name(preflight_source.check_source_file(live))["source_file"].found
    assert found.startswith("20 kB, write-ahead log, beside it shop.db-wal of ")


def test_unknown_and_missing_tables_and_columns_are_named(live: Path, plan: Plan) -> None:
    edit(live, "CREATE TABLE forgotten (id)", "DROP TABLE pings", "ALTER TABLE devices ADD COLUMN colour TEXT")
    columns = {"devices": [*PLANNED.columns["devices"], column("size")], "extra": [column("id")]}
    planned = replace(PLANNED, columns=columns)
    assert bad(check_source(live, plan, planned)) == {
        "source_tables_unknown": "forgotten",
        "source_tables_missing": "pings",
        "target_tables_missing": "pings",
        "target_tables_unknown": "extra",
        "source_columns_unknown": "devices.colour",
        "source_columns_missing": "devices.size",
    }


def test_orphans_are_counted_with_their_first_keys(live: Path, plan: Plan) -> None:
    with closing(sqlite3.connect(live)) as connection:
        connection.executemany("INSERT INTO pings (device) VALUES (?)", [(f"{number:032x}",) for number in range(30)])
        connection.commit()
    checks = check_source(live, plan)
    assert bad(checks) == {"source_orphans_pings_device_fkey": "30 orphans; keys id=5, id=6, id=7, id=8, id=9, …"}
    orphans = by_name(checks)["source_orphans_pings_device_fkey"]
    assert orphans.title == "Every pings.device exists in devices" and orphans.where == "pings.device"


def test_damaged_source_gets_no_further_checks(live: Path, plan: Plan) -> None:
    edit(live, "CREATE INDEX pings_device ON pings (device)")
    clone = live.parent / "clone.db"
    cloning.clone(live, clone)
    content = bytearray(clone.read_bytes())
    content[4096 * 3 + 200 : 4096 * 4] = secrets.token_bytes(4096 - 200)
    clone.write_bytes(content)
    checks = preflight_source.check_clone(clone, plan=plan, planned=PLANNED)
    assert [(check.name, check.outcome) for check in checks] == [("source_integrity", "failed")]
    assert "fault" in checks[0].found

    clone.write_bytes(content[:5000])
    (check,) = preflight_source.check_clone(clone, plan=plan, planned=PLANNED)
    assert check.outcome == "failed" and "truncated" in check.found


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "an empty file"), (b"\x8f" * 4096, "the file is not an SQLite database: no known kind")],
)
def test_file_that_is_not_a_database_fails(live: Path, content: bytes, found: str) -> None:
    live.write_bytes(content)
    assert bad(preflight_source.check_source_file(live)) == {"source_file": found}


def test_missing_source_fails(tmp_path: Path) -> None:
    found = bad(preflight_source.check_source_file(tmp_path / "absent.db"))
    assert found == {"source_file": "there is no such file", "source_replaceable": "No such file or directory"}


def test_a_fenced_source_fails_and_names_the_run(live: Path) -> None:
    fence.raise_fence(live, run_id="manual__2025-10-11")
    found = bad(preflight_source.check_source_file(live))
    assert "manual__2025-10-11" in found["source_file"]
    fence.lift(live)
    assert bad(preflight_source.check_source_file(live)) == {}


def test_a_link_to_the_source_is_followed(live: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(live)
    assert bad(preflight_source.check_source_file(link)) == {}


def test_a_mount_of_a_single_file_cannot_be_replaced(live: Path) -> None:
    """As in a container that was given the file itself; mounted in a namespace that ends with the command."""
    code = (
        "import sys; from pathlib import Path; from include.cutover.preflight import source as preflight;"
        "print(*[check.found for check in preflight.check_source_file(Path(sys.argv[1])) if check.outcome == 'failed'])"
    )
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    script = f'mount --bind "$1" "$1" && exec {sys.executable} -c "$2" "$1"'
    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", live, code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == "it is a mount of a single file", done.stderr
