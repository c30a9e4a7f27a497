"""Who may decide about a cutover: one check and one text."""

from __future__ import annotations

from include.cutover.errors import Refused
from include.cutover.plan.model import Plan


def require_decider(plan: Plan, actor: str | None, what: str) -> None:
    """Refuse everybody but the lead and the deputies.

    Raises:
        Refused: Names who may.
    """
    if actor not in {person.user for person in plan.people.deciders}:
        raise Refused(
            f"only the lead or a deputy may {what}",
            where=f"plan {plan.name}",
            expected=", ".join(person.user for person in plan.people.deciders),
            found=actor or "nobody known",
            do="Log in as one of them and trigger the DAG again.",
        )
