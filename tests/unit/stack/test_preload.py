"""What the scheduler loads beforehand."""

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


def test_every_library_is_there() -> None:
    assert [name for name in preload.LIBRARIES if importlib.util.find_spec(name) is None] == []


def test_the_project_comes_without_the_heavy_libraries_and_the_pages() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"include.cutover.steps.step", "include.cutover.steps.quiesce", "include.cutover.copying.tables"} <= loaded
    assert not loaded & {"great_expectations", "fastapi", "include.cutover.ui.web", "include.cutover.__main__"}


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no such set: everything"):
        preload.load(["everything"])
