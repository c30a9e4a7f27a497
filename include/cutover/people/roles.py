"""The roles of a plan in Airflow, in the terms of its FAB auth manager. Nothing here imports Airflow.

A role of a plan sees everything of that plan's DAGs and nothing of another's. FAB asks for the right to a part of a DAG,
such as its task instances, and for the right to the DAG itself; the second is given by DAG id here, so the first may be
general. That the lead alone starts, approves and rolls back is also checked by the steps and the gates themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from include.cutover.plan.model import Plan
from include.cutover.plan.people import People, Person

Permission = tuple[str, str]
"""Action and resource, e.g. ``("can_read", "DAG:cutover_ward_ops")``."""

LEAD, OBSERVER, COMMUNICATOR = "lead", "observer", "communicator"
ROLES = (LEAD, OBSERVER, COMMUNICATOR)

DAGS: Mapping[str, tuple[str, ...]] = {
    "cutover": (LEAD,),
    "rollback": (LEAD,),
    "rehearsal": (LEAD,),
    "schedule": (LEAD,),
    "incident": (LEAD,),
    "aftercare": (LEAD,),
    "retention": (LEAD,),
    "outbox": (LEAD,),
    "notices": (LEAD, COMMUNICATOR),
}
"""The verb of a DAG's id, before ``_<plan>``, and the roles that may start that DAG. No role sees any other DAG."""

# Exactly what Airflow's pages ask for to show a DAG, its runs, tasks, logs and questions.
_LOOKING = frozenset({
    *(("can_read", resource) for resource in (
        "Website", "DAG Runs", "Task Instances", "Task Logs", "HITL Detail", "XComs", "DAG Code", "DAG Versions",
        "DAG Warnings", "DAG Dependencies", "ImportError", "Audit Logs",
        "Plugins",  # the tabs and the entry of the navigation that lead to our own pages
    )),
    *(("menu_access", resource) for resource in ("DAGs", "DAG Runs", "HITL Detail")),
})  # fmt: skip
# Clearing and marking tasks and runs, and answering. No role may delete: Airflow's records of a run are kept.
_DRIVING = frozenset({("can_edit", "DAG Runs"), ("can_edit", "Task Instances"), ("can_edit", "HITL Detail")})


def role_name(plan: str, role: str) -> str:
    """Return FAB's name of a role of a plan."""
    return f"cutover_{plan}_{role}"


def permissions(plan: str, role: str) -> frozenset[Permission]:
    """Return exactly what a role of a plan may do."""
    found = {*_LOOKING, *(("can_read", f"DAG:{verb}_{plan}") for verb in DAGS)}
    for verb, starters in DAGS.items():
        if role in starters:
            found |= {("can_edit", f"DAG:{verb}_{plan}"), ("can_create", f"DAG Run:{verb}_{plan}")}
    return frozenset(found | _DRIVING if role == LEAD else found)


def persons(people: People) -> dict[str, list[Person]]:
    """Return, by role, the people who have it; deputies have the lead's."""
    return {LEAD: [*people.deciders], OBSERVER: [people.observer], COMMUNICATOR: [people.communicator]}


@dataclass(frozen=True)
class Accounts:
    """Roles and their members.

    Attributes:
        roles: Name of a role to exactly what it may do.
        users: User name to the names of the roles, of these or of FAB's own.
    """

    roles: Mapping[str, frozenset[Permission]] = field(default_factory=dict)
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, plans: Iterable[Plan]) -> Accounts:
        """Return the accounts of these plans together; a person may have a part in several."""
        roles: dict[str, frozenset[Permission]] = {}
        users: dict[str, tuple[str, ...]] = {}
        for plan in plans:
            for role, members in persons(plan.people).items():
                name = role_name(plan.name, role)
                roles[name] = permissions(plan.name, role)
                for person in members:
                    users[person.user] = tuple(dict.fromkeys((*users.get(person.user, ()), name)))
        return cls(roles, users)

    def to_json(self) -> str:
        """Return the accounts as JSON; the same text for the same content."""
        roles = {name: sorted(found) for name, found in sorted(self.roles.items())}
        return json.dumps({"roles": roles, "users": {user: list(names) for user, names in self.users.items()}})

    @classmethod
    def from_json(cls, text: str) -> Accounts:
        """Return the accounts that ``to_json`` wrote."""
        data = json.loads(text)
        roles = {name: frozenset((action, resource) for action, resource in found) for name, found in data["roles"].items()}
        return cls(roles, {user: tuple(names) for user, names in data["users"].items()})
