"""The judge sees what must not be: each wrong state is planted, and has to be found. And the page of the matrix."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from examples.ward_ops.generate import generate
from include.cutover.evidence.record import Evidence
from include.cutover.runs.runbook import phase_of
from include.cutover.source import fence
from include.cutover.stack.postgres import Cluster
from tests.faults import cells as _  # noqa: F401
from tests.faults import record
from tests.faults.judge import chained, differences_in_target, different, rows_of, sqlite_refuses
from tests.faults.matrix import CELLS, FAULTS
from tests.faults.trial import Result
from tests.support.loaded import ward_ops


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("source") / "ward_ops.db"
    generate(file, pings=300)
    return file


def changed(pristine: Path, folder: Path, statement: str) -> Path:
    copy = folder / "changed.db"
    shutil.copy2(pristine, copy)
    with closing(sqlite3.connect(copy)) as connection, connection:
        assert connection.execute(statement).rowcount == 1
    return copy


@pytest.mark.parametrize(
    ("statement", "seen"),
    [
        ("UPDATE users SET email = email || ' ' WHERE id = 1", "users"),
        ("DELETE FROM ping_results WHERE id = 150", "ping_results"),
        ("UPDATE ping_results SET min_rtt_ms = -1 WHERE id = 150", "ping_results"),
        ("INSERT INTO georgian_regions (name_en, latitude, longitude) VALUES ('X', 1, 1)", "georgian_regions"),
        ("UPDATE standalone_devices SET name = 'x' WHERE rowid = 5", "standalone_devices"),
    ],
)
def test_a_difference_between_two_files_is_found(pristine: Path, tmp_path: Path, statement: str, seen: str) -> None:
    problems = different(rows_of(pristine), rows_of(changed(pristine, tmp_path, statement)), "it")
    assert len(problems) == 1 and seen in problems[0]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO ping_results (device_ip) VALUES ('10.0.0.1')",
        "UPDATE standalone_devices SET last_seen = '2026-01-01 00:00:00' WHERE rowid = 5",
    ],
)
def test_what_the_application_writes_by_itself_is_allowed_but_for_a_fenced_file(
    pristine: Path, tmp_path: Path, statement: str
) -> None:
    now = rows_of(changed(pristine, tmp_path, statement))
    assert different(rows_of(pristine), now, "it") == []
    assert different(rows_of(pristine), now, "it", exact=True) != []


def test_a_difference_in_the_target_is_found(cluster: Cluster, tmp_path: Path) -> None:
    with ward_ops(cluster, tmp_path, pings=500) as loaded, psycopg.connect(loaded.conninfo) as connection:
        saved = rows_of(loaded.manifest.file)
        assert differences_in_target(connection, saved) == []
        for statement, seen in (
            ("UPDATE users SET email = email || ' ' WHERE id = 1", "users"),
            ('UPDATE ping_results SET "timestamp" = "timestamp" + interval \'1 microsecond\' WHERE id = 7', "ping_results"),
            ("UPDATE georgian_cities SET latitude = latitude + 0.000001 WHERE id = 7", "georgian_cities"),
            ("DELETE FROM branches WHERE id = (SELECT min(id::text)::uuid FROM branches)", "branches"),
            (
                "UPDATE standalone_devices SET tags = '[]' WHERE id = (SELECT min(id::text)::uuid FROM standalone_devices)",
                "tags",
            ),
        ):
            with connection.transaction(force_rollback=True):
                connection.execute("SET session_replication_role = replica")
                assert connection.execute(statement.encode()).rowcount == 1
                problems = differences_in_target(connection, saved)
                assert len(problems) == 1 and seen in problems[0], (statement, problems)


def test_whether_sqlite_takes_writes_is_tried(pristine: Path, tmp_path: Path) -> None:
    file = tmp_path / "ward_ops.db"
    shutil.copy2(pristine, file)
    assert not sqlite_refuses(file)
    fence.raise_fence(file, run_id="run")
    assert sqlite_refuses(file)


def test_a_chain_that_was_touched_is_found(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "run")
    for number in range(5):
        evidence.append("thing", number=number)
    content = (evidence.folder / "events.jsonl").read_bytes()
    assert len(chained(content)[0]) == 5 and chained(content)[1] == ""
    assert len(chained(content + b'{"torn')[0]) == 5 and chained(content + b'{"torn')[1] == ""
    lines = content.splitlines(keepends=True)
    assert "breaks" in chained(b"".join(lines[:2] + lines[3:]))[1]
    assert "breaks" in chained(content.replace(b'"number":2', b'"number":7'))[1]


def test_every_row_has_cells_and_every_cell_a_name_of_its_own() -> None:
    names = [cell.name for cell in CELLS]
    assert len(names) == len(set(names))
    assert {cell.row for cell in CELLS} == set(FAULTS) == {*range(1, 29)}


def test_the_page_tells_what_was_not_tried_and_what_failed(tmp_path: Path) -> None:
    file, (first, second, third) = tmp_path / "faults.json", CELLS[:3]
    record.note(first, [Result(True, "live on PostgreSQL", 3.25), Result(True, "gone", 1.0, task="copy.users")], file)
    record.note(first, [Result(True, "live on PostgreSQL", 2.5)], file)
    record.note(second, [Result(False, "broken", None, ["both | writable"])], file)
    page = record.render([first, second, third], record.load(file))
    assert "1 survived, 1 failed, 1 not tried" in page
    assert (
        "**failed**: both \\| writable" in page
        and f"| `{third.name}` | {third.fault} | {third.task} | not tried | |" in page
    )
    assert f"`{first.name}`" not in page, "only failed and untried cells are listed singly"
    assert set(json.loads(file.read_text())) == {first.name, second.name}


def test_the_matrix_counts_results_by_fault_and_phase(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    kills = next(cell for cell in CELLS if cell.name == "kill-cutover-begin")
    results = [Result(True, "live on PostgreSQL", 1.0, task=task) for task in ("open_run", "copy.users", "copy.branches")]
    record.note(kills, [*results, Result(False, "broken", None, ["gone"], task="copy.alert_rules")], file)
    table = [line for line in record.render([kills], record.load(file)).splitlines() if line.startswith("|")]
    header, row, others = table[0], table[2], table[3:]
    found = dict(zip(header.strip("| ").split(" | ")[1:], row.strip("| ").split(" | ")[1:], strict=True))
    tried = {phase_of("open_run"): "1 of 1 survived", phase_of("copy.users"): "2 of 3 survived"}
    assert found == dict.fromkeys(record.PHASES, "–") | tried
    assert sum(line.startswith(f"| {number}. ") for number in FAULTS for line in others) == len(FAULTS) - 1


def test_every_result_has_a_phase() -> None:
    lost = [cell.name for cell in CELLS if record.phase(cell) not in record.PHASES]
    by_name = {cell.name: cell for cell in CELLS}
    for key in record.load():
        name, task = key.partition("/")[::2]
        if task and name in by_name and record.phase(by_name[name], task) not in record.PHASES:
            lost.append(key)
    assert lost == [], f"name its moment in record.MOMENTS: {lost}"


def test_the_page_in_the_documents_is_that_of_the_stored_results() -> None:
    assert record.PAGE.read_text(encoding="utf-8") == record.render(CELLS, record.load())
