"""Databases that several test files start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.backups import make_live
from tests.support.sqlite_clients import make_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "ward ops.db")


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return make_live(tmp_path / "app" / "ward_ops.db")


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "backups" / "ward_ops", tmp_path / "second" / "ward_ops"
