"""The fault matrix shortens the patience of the copy from outside; it must notice when it no longer can."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from include.cutover.copying import tables
from include.cutover.places import ROOT


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The hooks, loaded beside the product and not installed."""
    monkeypatch.delenv("CUTOVER_FAULT_POINTS", raising=False)
    spec = importlib.util.spec_from_file_location("fault_hooks", ROOT / "tests" / "faults" / "hooks" / "sitecustomize.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_patience_of_the_copy_is_shortened(hooks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = dict(tables.copy_table.__kwdefaults__ or {})
    monkeypatch.setattr(tables.copy_table, "__kwdefaults__", defaults)
    hooks._limit_patience(3.0)
    assert defaults["stall_seconds"] == 3.0


def test_a_limit_that_was_renamed_is_an_error(hooks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables.copy_table, "__kwdefaults__", {"patience": 120.0})
    with pytest.raises(AttributeError, match="copy_table has no default for stall_seconds; it has patience"):
        hooks._limit_patience(3.0)
    monkeypatch.delattr(tables, "copy_table")
    with pytest.raises(AttributeError, match="copy_table"):
        hooks._limit_patience(3.0)
