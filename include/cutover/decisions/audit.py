"""The proof that a decided snapshot is the backup with the plan's decisions carried out, and nothing else.

It shares one expression with the making of it, the SQL that finds orphans; PostgreSQL checks those again when it validates
the foreign keys. Both files are read side by side: tables that no decision touched must have the same bytes, or be equal
row by row; in the others, the rows that differ must be the ones on record. Every touched value is computed again, in
Python, from the original one, and every row that was taken out must have had to go.
"""

from __future__ import annotations

from include.cutover.checks import Check
from include.cutover.decisions import audit_file, audit_rows, decided_snapshot
from include.cutover.decisions.audit_references import references
from include.cutover.decisions.audited import Audited, verdict
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.plan.model import Plan
from include.cutover.target.schema import PlannedSchema


def audit(decided: Decided, plan: Plan, planned: PlannedSchema) -> list[Check]:
    """Prove a decided snapshot against the backup it was made from. Changes nothing; safe to run again.

    Returns:
        Checks of the whole file, of each touched table and of each decided foreign key; a single one when no decision
        touched a row and the backup itself is read.

    Raises:
        CannotCheck: When a file cannot be read.
    """
    if not decided.made:
        found = "the backup itself is read"
        return [Check("decided_untouched", "No decision of the plan changes a row", "passed", "", found)]
    with decided_snapshot.opened(decided) as connection:
        return _checks(Audited(connection, decided, plan, planned))


def _checks(audited: Audited) -> list[Check]:
    wrong = [] if decided_snapshot.same_snapshot(audited.decided) else ["another file, or a changed one"]
    title = "The decided snapshot was made from this backup"
    found = [verdict("decided_backup", title, wrong, "the same file")]
    found += [audit_file.same_hash(audited), audit_file.same_schema(audited)]
    if found[-1].outcome != "passed":
        return found  # the other checks would read missing tables and columns
    found.append(audit_file.other_tables(audited))
    for table in audited.recorded:
        found += [
            audit_rows.counts(audited, table),
            audit_rows.differences(audited, table),
            audit_rows.values(audited, table),
        ]
    found += references(audited)
    found.append(audit_file.figures(audited))
    if audited.decided.listing is not None:
        found.append(audit_file.listing(audited))
    return found
