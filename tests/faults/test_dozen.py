"""A dozen cells of the fault matrix, the most telling ones; ``make faults`` runs all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.faults import cells as _  # noqa: F401
from tests.faults.__main__ import main as command
from tests.faults.matrix import CELLS, Cell
from tests.faults.run import try_cell
from tests.faults.site import FaultSite

DOZEN = (
    "health-lie-preflight",
    "gate-marked-success-go_no_go",
    "kill-telling-steps",
    "kill-scheduler-copy",
    "target-kill-copy",
    "connection-cut-copy",
    "zombie-copy",
    "broken-fence",
    "backup-disk-full",
    "corruption-last-digit",
    "rollback-during-cutover",
    "clock-wrong-before",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSite]:
    with FaultSite(tmp_path_factory.mktemp("faults")).running() as site:
        yield site


@pytest.fixture(autouse=True)
def _evidence_of_the_site(site: FaultSite, monkeypatch: pytest.MonkeyPatch, _own_evidence: None) -> None:
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(site.evidence))


@pytest.mark.parametrize("cell", [cell for name in DOZEN for cell in CELLS if cell.name == name], ids=lambda cell: cell.name)
def test_a_fault_is_survived(site: FaultSite, cell: Cell) -> None:
    if "disk" in cell.name and os.geteuid() != 0:
        pytest.skip("NOT TRIED: a small disk can only be mounted by root")
    results = try_cell(site, cell)
    assert [(result.task, result.problems) for result in results if not result.survived] == []


def test_the_dozen_is_twelve_cells_of_many_rows() -> None:
    chosen = [cell for cell in CELLS if cell.name in DOZEN]
    assert len(chosen) == len(DOZEN) == 12
    assert len({cell.row for cell in chosen}) >= 10


def test_every_cell_can_be_selected_and_a_pattern_without_a_cell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    names = [cell.name for cell in CELLS]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[\w-]+", name)] == [], "ONLY is split at blanks"
    with pytest.raises(SystemExit) as ended:
        command(["kill-nothing-*"])
    assert ended.value.code == 2
    assert "no cell's name matches 'kill-nothing-*'" in capsys.readouterr().err
