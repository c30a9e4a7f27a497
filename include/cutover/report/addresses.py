"""Names of runs in the addresses of the pages, and the evidence that they stand for."""

from __future__ import annotations

from include.cutover.evidence.record import REHEARSALS, Evidence
from include.cutover.files import slug

_REHEARSAL = "rehearsal~"  # no folder of a run has such a name, see evidence.slug


def key_of(evidence: Evidence) -> str:
    """Name of a run in addresses: its folder's; a rehearsal's with a word before it."""
    return f"{_REHEARSAL if evidence.folder.parent.parent.name == REHEARSALS else ''}{evidence.folder.name}"


def evidence_of(plan: str, key: str) -> Evidence:
    """The evidence that a name in an address stands for, whether there is such or not."""
    if key.startswith(_REHEARSAL):
        return Evidence.of(f"{REHEARSALS}/{plan}", key.removeprefix(_REHEARSAL))
    return Evidence.of(plan, key)


def key_of_dag_run(dag_id: str, plan: str, run_id: str) -> str:
    """The name in addresses of what a DAG's run left."""
    return f"{_REHEARSAL if dag_id == f'rehearsal_{plan}' else ''}{slug(run_id)}"
