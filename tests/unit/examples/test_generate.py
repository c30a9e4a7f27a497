"""The generated Ward OPS database: the inventory's rows, the application's spelling, and nothing the target refuses."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from examples.ward_ops.generate import AWKWARD_TEXTS, DEVICES, NOW, generate, main
from include.cutover.errors import Refused, StepFailed
from include.cutover.plan.file import load_plan

INVENTORY = {
    "standalone_devices": 875,
    "branches": 128,
    "ping_results": 13_179,
    "georgian_cities": 82,
    "georgian_regions": 11,
    "monitored_hostgroups": 6,
    "monitoring_templates": 6,
    "alert_rules": 4,
    "users": 3,
    "monitoring_profiles": 2,
    "snmp_credentials": 1,
}
HEX = re.compile(r"[0-9a-f]{32}")
HYPHENS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("generated") / "ward_ops.db"
    generate(file)
    return file


@pytest.fixture
def database(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        yield connection


def all_values(database: sqlite3.Connection) -> Iterator[tuple[str, str, str, Any, str]]:
    """Table, column, declared type, value, storage class of every distinct value."""
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        for _, column, declared, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
            query = f'SELECT DISTINCT "{column}", typeof("{column}") FROM "{table}"'
            for value, storage in database.execute(query):
                yield table, column, declared, value, storage


def rows(database: sqlite3.Connection, table: str) -> int:
    return int(database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0])


def test_rows_are_those_of_the_inventory(database: sqlite3.Connection) -> None:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}

    assert tables == {*load_plan("ward_ops").tables, "sqlite_sequence"}
    assert {table: count for table in tables - {"sqlite_sequence"} if (count := rows(database, table))} == INVENTORY


def test_same_arguments_same_bytes(file: Path, tmp_path: Path) -> None:
    again = generate(tmp_path / "again.db")
    other = generate(tmp_path / "other.db", seed=2)

    assert again.file.read_bytes() == file.read_bytes()
    assert other.file.read_bytes() != file.read_bytes()
    assert other.rows == again.rows


def test_values_look_as_the_application_writes_them(database: sqlite3.Connection) -> None:
    for table, column, declared, value, storage in all_values(database):
        where = f"{table}.{column}: {value!r} is {storage}"
        if storage == "null" or table == "sqlite_sequence":
            continue
        if declared == "UUID":
            assert storage == "text" and HEX.fullmatch(value), where
        elif declared == "VARCHAR(36)":
            assert storage == "text" and HYPHENS.fullmatch(value), where
        elif declared in ("DATETIME", "TIMESTAMP"):
            assert storage == "text" and MOMENT.fullmatch(value), where
            assert datetime.fromisoformat(value).replace(tzinfo=UTC) <= NOW, where
        elif declared == "BOOLEAN":
            assert storage == "integer" and value in (0, 1), where
        elif declared == "INTEGER":
            assert storage == "integer" and -(2**31) <= value < 2**31, where
        elif declared == "REAL":
            assert storage == "real" and float(f"{value:.6f}") == value, where
        elif declared == "JSON":
            assert storage == "text" and json.dumps(json.loads(value)), where
        else:
            assert storage == "text" and "\0" not in value, where
            if limit := re.fullmatch(r"VARCHAR\((\d+)\)", declared):
                assert len(value) <= int(limit[1]), where


def test_awkward_values_are_there(database: sqlite3.Connection) -> None:
    described = {value for (value,) in database.execute("SELECT description FROM standalone_devices")}
    assert described == set(AWKWARD_TEXTS)
    assert {None, "", "\\N"} <= described
    assert any("\t" in value for value in described if value)
    assert any("\n" in value for value in described if value)

    tags = {value for (value,) in database.execute("SELECT tags FROM standalone_devices")}
    assert {None, "null", "[]"} <= tags
    assert any("ქსელი" in value for value in tags if value)
    assert any("\\u10e5" in value for value in tags if value)

    moments = {len(value) for (value,) in database.execute("SELECT timestamp FROM ping_results")}
    assert moments == {19, 26}  # with and without a fraction
    shared = database.execute("SELECT count(*) FROM (SELECT ip FROM standalone_devices GROUP BY ip HAVING count(*) > 1)")
    assert shared.fetchone()[0] == 10
    names = {value for (value,) in database.execute("SELECT device_name FROM ping_results")}
    assert {None, ""} <= names


def test_sequence_is_ahead_of_the_largest_key(database: sqlite3.Connection) -> None:
    sequences = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))

    assert sequences == {"georgian_cities": 82, "georgian_regions": 11, "monitored_hostgroups": 11}
    assert database.execute("SELECT max(id) FROM monitored_hostgroups").fetchone()[0] == 8


def test_encrypted_columns_look_like_fernet_tokens(tmp_path: Path) -> None:
    done = generate(tmp_path / "ward_ops.db", pings=0, credentials=30)
    with closing(sqlite3.connect(done.file)) as database:
        tokens = [
            token
            for row in database.execute("SELECT community_encrypted, auth_key_encrypted FROM snmp_credentials")
            for token in row
            if token is not None
        ]

    assert len(set(tokens)) == 30
    assert all(token.startswith("gAAAAA") and len(token) % 4 == 0 for token in tokens)


def test_generated_data_has_no_orphans_and_is_sound(database: sqlite3.Connection) -> None:
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_orphans_are_generated_on_request(tmp_path: Path) -> None:
    done = generate(tmp_path / "ward_ops.db", pings=0, credentials=20, orphans=3)

    assert done.rows["snmp_credentials"] == 23
    with closing(sqlite3.connect(done.file)) as database:
        found = database.execute("PRAGMA foreign_key_check").fetchall()
        devices = database.execute("SELECT count(DISTINCT device_id) FROM snmp_credentials").fetchone()[0]
    assert [(table, parent) for table, _, parent, _ in found] == [("snmp_credentials", "standalone_devices")] * 3
    assert devices == 23


@pytest.mark.parametrize("pings", [0, 1, DEVICES, 200_000])
def test_the_number_of_pings_is_an_argument(tmp_path: Path, pings: int) -> None:
    done = generate(tmp_path / "ward_ops.db", pings=pings)

    assert done.rows["ping_results"] == pings
    with closing(sqlite3.connect(done.file)) as database:
        query = "SELECT count(DISTINCT id), min(timestamp), max(timestamp) FROM ping_results"
        keys, first, last = database.execute(query).fetchone()
        unknown = "SELECT count(*) FROM ping_results WHERE device_ip NOT IN (SELECT ip FROM standalone_devices)"
        assert database.execute(unknown).fetchone()[0] == 0
    assert keys == pings
    if pings:
        sweeps = -(-pings // DEVICES)
        assert datetime.fromisoformat(last).replace(tzinfo=UTC) <= NOW
        assert datetime.fromisoformat(first).replace(tzinfo=UTC) >= NOW - timedelta(seconds=30 * sweeps)


def test_the_newest_instant_is_an_argument(tmp_path: Path) -> None:
    file = tmp_path / "ward_ops.db"

    assert main(["--to", str(file), "--now", "2026-01-02T03:04:00+04:00", "--pings", "5000"]) == 0

    with closing(sqlite3.connect(file)) as database:
        last = database.execute("SELECT max(timestamp) FROM ping_results").fetchone()[0]
    assert last.startswith("2026-01-01 23:03:")


def test_an_existing_file_is_kept_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ward_ops.db"
    file.write_text("precious")

    assert main(["--to", str(file)]) == 1

    assert file.read_text() == "precious"
    assert capsys.readouterr().err == f"generate: {file}: the file exists. Use --force to replace it.\n"
    assert [item.name for item in tmp_path.iterdir()] == ["ward_ops.db"]


def test_force_replaces_the_file_and_its_side_files(tmp_path: Path) -> None:
    file = tmp_path / "ward_ops.db"
    for name in ("ward_ops.db", "ward_ops.db-wal", "ward_ops.db-shm", "ward_ops.db-journal"):
        (tmp_path / name).write_text("old")

    generate(file, pings=10, force=True)

    assert [item.name for item in tmp_path.iterdir()] == ["ward_ops.db"]
    with closing(sqlite3.connect(file)) as database:
        assert rows(database, "ping_results") == 10


def test_a_stray_wal_is_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "ward_ops.db-wal").write_text("of another database")

    with pytest.raises(Refused, match=r"ward_ops\.db-wal: the file exists"):
        generate(tmp_path / "ward_ops.db", pings=0)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")

    with pytest.raises(StepFailed, match="could not be written"):
        generate(tmp_path / "file" / "ward_ops.db", pings=0)

    assert (tmp_path / "file").read_text() == "in the way of a folder"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--credentials", "876"], "every credential belongs to a device of its own; expected --credentials up to 875"),
        (["--pings", "-1"], "--pings must not be negative; found -1"),
        (["--orphans", "-2"], "--orphans must not be negative; found -2"),
        (["--pings", "3000000000"], "--pings is too large; expected at most 2,000,000,000"),
    ],
)
def test_arguments_out_of_range_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["--to", str(tmp_path / "ward_ops.db"), *arguments]) == 1

    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="this is a folder; expected the name of a file"):
        generate(tmp_path, force=True)
