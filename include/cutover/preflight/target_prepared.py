"""Check that nobody left a prepared transaction in the target's database."""

from __future__ import annotations

from include.cutover.preflight.answers import Answer, ExaminedTarget
from include.cutover.target import lock_holders

OLD_SECONDS = 3_600.0
"""A prepared transaction of this age was forgotten: transaction managers end theirs within seconds."""


def none_prepared(target: ExaminedTarget) -> Answer:
    """Check that no prepared transaction concerns the schema, and that none was forgotten.

    A forgotten one keeps VACUUM from removing rows. Since all rows of the cutover are younger than it, the look at go-live
    would take all of them for written, and compare every table again in the downtime.
    """
    found = lock_holders.prepared(target.connection, target.schema)
    bad = [one for one in found if one.concerns or one.seconds >= OLD_SECONDS]
    return Answer.when(
        not bad,
        f"none that concerns the schema {target.schema}, and none older than {OLD_SECONDS / 3600:g} h",
        "; ".join(one.text for one in bad or found) or "none",
        f"As its owner or a superuser: {' '.join(one.do for one in bad)}",
    )
