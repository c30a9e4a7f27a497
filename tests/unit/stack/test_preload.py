"""The modules that the scheduler preloads."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from include.cutover.places import ROOT
from include.cutover.stack import preload

LOAD = """
import json, sys
from include.cutover.stack import preload
preload.load(["project"])
print(json.dumps([name for name in sys.modules if name.partition(".")[0] in ("include", "great_expectations", "fastapi")]))
"""


def modules_on_disk() -> set[str]:
    """Every module and package under include/cutover, from the files alone; a folder without __init__.py counts too."""
    found = set()
    for file in (ROOT / "include" / "cutover").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found |= {".".join(parts[:length]) for length in range(2, len(parts) + 1)}
    return {name.removesuffix(".__init__") for name in found}


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that are imported after the set ``project`` is loaded in a process of its own."""
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_library_is_installed() -> None:
    assert [name for name in preload.LIBRARIES if importlib.util.find_spec(name) is None] == []


def test_the_set_project_loads_every_package_and_module_but_the_named_exceptions(loaded: set[str]) -> None:
    itself = {preload.__name__}  # loaded here because it loads the others
    assert modules_on_disk() - loaded | itself == preload.ELSEWHERE.keys() | preload.NEEDS.keys()


def test_every_exception_exists_and_has_a_reason() -> None:
    assert preload.ELSEWHERE.keys() | preload.NEEDS.keys() <= modules_on_disk()
    assert all(preload.ELSEWHERE.values())
    assert {importlib.util.find_spec(name) is not None for name in preload.NEEDS.values()} == {True}


def test_the_set_project_loads_neither_the_heavy_libraries_nor_the_pages(loaded: set[str]) -> None:
    assert {"include.cutover.steps.step", "include.cutover.steps.quiesce", "include.cutover.copying.tables"} <= loaded
    assert not loaded & {"great_expectations", "fastapi", "include.cutover.ui.web", "include.cutover.__main__"}


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no such set: everything"):
        preload.load(["everything"])
