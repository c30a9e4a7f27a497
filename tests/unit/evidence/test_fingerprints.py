"""Fingerprints: every change of the plan, the SQL and the code gives another one, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from include.cutover.evidence import fingerprints
from include.cutover.plan.file import load_plan


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small project in the place of this one."""
    for name, text in {"include/cutover/a.py": "1", "include/cutover/deep/b.sql": "2", "dags/c.py": "3"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fingerprints, "ROOT", tmp_path)
    return tmp_path


def of_code() -> str:
    return fingerprints.of_run(load_plan("ward_ops"))["code"]


def test_a_changed_new_removed_or_renamed_file_changes_it_and_the_old_state_gives_the_old_one(code: Path) -> None:
    before, file = of_code(), code / "include/cutover/deep/b.sql"
    seen = {before}
    file.write_text("2 ")
    seen.add(of_code())
    file.rename(file.with_name("d.sql"))
    seen.add(of_code())
    file.with_name("d.sql").unlink()
    seen.add(of_code())
    (code / "dags/e.py").touch()
    seen.add(of_code())
    assert len(seen) == 5
    (code / "dags/e.py").unlink()
    file.write_text("2")
    assert of_code() == before


def test_contents_that_change_places_change_it(code: Path) -> None:
    before, one, other = of_code(), code / "include/cutover/a.py", code / "dags/c.py"
    one.write_text("3")
    other.write_text("1")
    assert of_code() != before


def test_byte_code_pipes_and_links_to_nothing_are_no_code(code: Path) -> None:
    before = of_code()
    (code / "include/cutover/deep/__pycache__").mkdir()
    (code / "include/cutover/deep/__pycache__/b.pyc").write_text("compiled")
    (code / "dags/.#c.py").symlink_to("an-editor@its-host")
    os.mkfifo(code / "dags/pipe")
    assert of_code() == before


def test_the_project_moved_elsewhere_is_the_same_code(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of_code()
    moved = code.with_name("moved")
    code.rename(moved)
    monkeypatch.setattr(fingerprints, "ROOT", moved)
    assert of_code() == before
