"""Names, numbers and contents of the SQL files are checked before anything reaches a database."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from include.cutover.errors import PlanInvalid
from include.cutover.plan.file import load_plan
from include.cutover.target import sql_files


def write(folder: Path, **files: str | bytes) -> Path:
    """``pre_data__001_tables=…`` becomes ``pre_data/001_tables.sql``."""
    for key, content in files.items():
        kind, _, name = key.partition("__")
        path = folder / kind / f"{name}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def faults(folder: Path) -> str:
    with pytest.raises(PlanInvalid) as caught:
        sql_files.discover(folder, sql_files.KINDS)
    return str(caught.value)


def test_files_come_in_the_order_of_applying_with_their_hash(tmp_path: Path) -> None:
    write(tmp_path, migrations__001_b="-- b", pre_data__002_b="-- 2", pre_data__001_z="-- 1", foreign_keys__001_f="-- f")
    found = sql_files.discover(tmp_path, sql_files.KINDS)
    assert [item.name for item in found] == [
        "pre_data/001_z.sql", "pre_data/002_b.sql", "migrations/001_b.sql", "foreign_keys/001_f.sql",
    ]  # fmt: skip
    assert [item.number for item in found] == [1, 2, 1, 1]
    assert found[0].sha256 == hashlib.sha256(b"-- 1").hexdigest()
    assert found[0].path.read_text() == "-- 1"


def test_default_kinds_are_those_before_the_load(tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a="-- a", migrations__001_b="-- b", post_data__001_c="-- c")
    assert [item.folder for item in sql_files.discover(tmp_path)] == ["pre_data", "migrations"]


def test_the_files_of_every_plan_are_in_order() -> None:
    found = sql_files.discover(load_plan("ward_ops").sql_folder, sql_files.KINDS)
    assert {item.folder for item in found} == set(sql_files.KINDS)


def test_missing_folder_means_no_files_and_empty_folder_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a="-- a")
    assert len(sql_files.discover(tmp_path, sql_files.KINDS)) == 1
    (tmp_path / "post_data").mkdir()
    (tmp_path / "post_data" / ".gitkeep").touch()
    assert "post_data/: holds no SQL file" in faults(tmp_path)


def test_smoke_tests_and_hidden_files_may_lie_beside(tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a="-- a", smoke__anything="SELECT 1")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").touch()
    (tmp_path / "pre_data" / ".001_a.sql.swp").touch()
    assert len(sql_files.discover(tmp_path, sql_files.KINDS)) == 1


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"migrations__001_a": "-- a"}, "pre_data/: missing"),
        ({"pre_data__001_a": "-- a", "pre_data__003_c": "-- c"}, "pre_data/003_c.sql: the number 002 before it is missing"),
        ({"pre_data__002_b": "-- b"}, "pre_data/002_b.sql: the number 001 before it is missing"),
        ({"pre_data__001_a": "-- a", "pre_data__001_b": "-- b"}, "pre_data/001_b.sql: the number 001 stands twice"),
        ({"pre_data__000_a": "-- a"}, "pre_data/000_a.sql: the number 000"),
        ({"pre_data__001_a": "-- a", "pre_data__2_b": "-- b"}, "pre_data/2_b.sql: not a file named NNN_name.sql"),
        ({"pre_data__001-a": "-- a"}, "pre_data/001-a.sql: not a file named NNN_name.sql"),
        ({"pre_data__001_A": "-- a"}, "pre_data/001_A.sql: not a file named NNN_name.sql"),
        ({"pre_data__٠٠١_a": "-- a"}, "not a file named NNN_name.sql"),
        ({"pre_data__001_a": " \n"}, "pre_data/001_a.sql: empty"),
        ({"pre_data__001_a": b"-- a\n\0"}, "pre_data/001_a.sql: holds a NUL character"),
        ({"pre_data__001_a": b"-- a\n-- \xe9\n"}, "pre_data/001_a.sql: not UTF-8 in line 2"),
        ({"pre_data__001_a": "-- a", "post-data__001_b": "-- b"}, "post-data/: unknown folder"),
        ({"pre_data__001_a": "-- a", ".__001_b": "-- b"}, "001_b.sql: lies beside the folders"),
    ],
)
def test_a_fault_names_the_file(tmp_path: Path, files: dict[str, str | bytes], fault: str) -> None:
    assert fault in faults(write(tmp_path, **files))


def test_folder_and_file_in_place_of_each_other_are_faults(tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a="-- a")
    (tmp_path / "pre_data" / "002_b.sql").mkdir()
    (tmp_path / "post_data").touch()
    told = faults(tmp_path)
    assert "pre_data/002_b.sql: not a file" in told
    assert "post_data: is a file; expected a folder" in told


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a="", pre_data__003_c="-- c", post_data__x="-- x")
    with pytest.raises(PlanInvalid) as caught:
        sql_files.discover(tmp_path, sql_files.KINDS)
    assert len(caught.value.faults) == 3


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in faults(tmp_path / "nowhere")


def test_unknown_kind_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="post-data"):
        sql_files.discover(tmp_path, ["post-data"])
