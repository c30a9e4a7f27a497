"""The tests of the assessment use the server's own database: an assessment leaves nothing behind."""

from __future__ import annotations

import pytest

from include.cutover.stack.postgres import Cluster


@pytest.fixture
def conninfo(cluster: Cluster) -> str:
    return cluster.conninfo()
