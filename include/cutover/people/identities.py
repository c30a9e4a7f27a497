"""The auth manager's id of each user name of a plan.

Airflow compares ids when a person answers a question. Under its simple auth manager the id is the user name; under FAB it is
a number, and other auth managers have ids of their own. ``roles apply`` writes the map of FAB's ids into an Airflow
variable; for another auth manager the site writes it: a JSON object of user name to id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from include.cutover.checks import Check
from include.cutover.people.roles import persons
from include.cutover.plan.model import Plan

VARIABLE = "cutover_identities"


@dataclass(frozen=True)
class Identities:
    """The map of one Airflow.

    Attributes:
        ids: User name to id.
        where: Its source, in words.
        do: The remedy for a missing name.
    """

    ids: Mapping[str, str]
    where: str
    do: str

    @classmethod
    def of_simple(cls, users: str) -> Identities:
        """Return the map of the simple auth manager, from its setting ``name:role,…``."""
        names = [entry.partition(":")[0].strip() for entry in users.split(",")]
        return cls(
            {name: name for name in names if name},
            "Airflow's simple auth manager",
            "Add it to the setting [core] simple_auth_manager_users, or correct the plan's people.",
        )

    @classmethod
    def of_variable(cls, text: str | None, auth_manager: str) -> Identities:
        """Return the map of any other auth manager, from the variable; empty for a text that is not such a map."""
        try:
            found = json.loads(text or "{}")
        except ValueError:
            found = None
        whole = isinstance(found, dict) and all(isinstance(value, str | int) for value in found.values())
        do = (
            "Create the account, then run 'python -m include.cutover roles apply --plan <plan>' where Airflow's database is."
        )
        if not auth_manager.endswith("FabAuthManager"):
            do = f"Add its id to the variable {VARIABLE}, a JSON object of user name to the id that {auth_manager} gives."
        ids = {str(name): str(value) for name, value in found.items()} if whole else {}
        state = "" if text and whole else ", which is missing" if not text else ", which is not a JSON object of name to id"
        return cls(ids, f"the Airflow variable {VARIABLE}{state}", do)


def check(plan: Plan, known: Identities) -> Check:
    """Check that every person of the plan has an account. Without one, a person cannot answer a gate."""
    wanted = {person.user: role for role, members in persons(plan.people).items() for person in members}
    missing = [f"{user} ({role})" for user, role in wanted.items() if user not in known.ids]
    return Check(
        "people_accounts",
        "Accounts of the plan's people",
        "failed" if missing else "passed",
        "an account in Airflow for each of the plan's people",
        f"no known account for {', '.join(missing)}" if missing else f"{len(wanted)} accounts",
        known.do.replace("<plan>", plan.name) if missing else "",
        known.where,
    )
