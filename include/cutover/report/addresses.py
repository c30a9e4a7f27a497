"""Names of runs in the addresses of the pages, and the evidence behind them."""

from __future__ import annotations

from include.cutover.evidence.record import REHEARSALS, Evidence
from include.cutover.files import slug

_REHEARSAL = "rehearsal~"  # no folder of a run has such a name, see files.slug


def key_of(evidence: Evidence) -> str:
    """Return the name of a run in addresses: that of its folder, for a rehearsal with a prefix."""
    return f"{_REHEARSAL if evidence.folder.parent.parent.name == REHEARSALS else ''}{evidence.folder.name}"


def evidence_of(plan: str, key: str) -> Evidence:
    """Return the evidence that a name in an address stands for; it need not exist."""
    if key.startswith(_REHEARSAL):
        return Evidence.of(f"{REHEARSALS}/{plan}", key.removeprefix(_REHEARSAL))
    return Evidence.of(plan, key)


def key_of_dag_run(dag_id: str, plan: str, run_id: str) -> str:
    """Return the name in addresses of the evidence that a run of a DAG leaves."""
    return f"{_REHEARSAL if dag_id == f'rehearsal_{plan}' else ''}{slug(run_id)}"
