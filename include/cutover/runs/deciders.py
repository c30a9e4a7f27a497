"""Checks the right to start, decide and edit, and to approve automatically: one check and one text for each."""

from __future__ import annotations

from collections.abc import Sequence

from include.cutover.errors import Refused
from include.cutover.plan.model import Plan
from include.cutover.plan.people import Person


def entitled(plan: Plan) -> set[str]:
    """Return the user names of the lead and the deputies."""
    return {person.user for person in plan.people.deciders}


def require_decider(plan: Plan, actor: str | None, action: str) -> str:
    """Refuse an action of anyone but the lead and the deputies. Return the user name.

    Raises:
        Refused: Names who may.
    """
    return _require(plan, actor, plan.people.deciders, f"only the lead or a deputy may {action}")


def require_editor(plan: Plan, actor: str | None, action: str) -> str:
    """Refuse an action of anyone but the communicator, the lead and the deputies. Return the user name.

    Raises:
        Refused: Names who may.
    """
    people = (plan.people.communicator, *plan.people.deciders)
    return _require(plan, actor, people, f"only the communicator, the lead or a deputy may {action}")


def require_auto_approval(plan: Plan) -> None:
    """Refuse automatic approval unless the plan allows it.

    Raises:
        Refused: Names the key of the plan.
    """
    if not plan.gates.allow_auto_approval:
        raise Refused(
            "the plan does not allow automatic approval",
            where=f"plan {plan.name}: gates.allow_auto_approval",
            expected="true, for a demo or a test",
            found="false",
            do="Use approve: ask; or allow it in the plan, for a demo or a test.",
        )


def _require(plan: Plan, actor: str | None, people: Sequence[Person], message: str) -> str:
    users = [person.user for person in people]
    if actor is None or actor not in users:
        raise Refused(
            message,
            where=f"plan {plan.name}",
            expected=", ".join(users),
            found=actor or "an unknown user",
            do="One of them must do it: log in as that person and trigger the DAG again, or give that name to the command.",
        )
    return actor
