"""Roles and their members in Airflow's FAB auth manager: checked, and changed to match the plans.

It works where Airflow's metadata database can be reached, through FAB's own security manager. The local stack runs this
module as a program, with the accounts as JSON on its standard input; it then makes the users too.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from include.cutover.errors import Refused, StepFailed, Unreachable
from include.cutover.people.identities import VARIABLE
from include.cutover.people.roles import Accounts, Permission

FAB = "FabAuthManager"


@dataclass(frozen=True)
class Found:
    """The state in FAB of the wanted accounts.

    Attributes:
        permissions: Role to its permissions; a role that does not exist is missing.
        members: Role to the names of its users.
        ids: User name to id, for the users that exist and may log in.
        others: User name to its other roles, of the site or of FAB.
        known: The identity map that the gates read.
    """

    permissions: Mapping[str, frozenset[Permission]]
    members: Mapping[str, frozenset[str]]
    ids: Mapping[str, str]
    others: Mapping[str, tuple[str, ...]]
    known: Mapping[str, str]

    def differs(self, wanted: Accounts) -> list[str]:
        """List all differences from the wanted accounts, each as a sentence without a full stop."""
        differences = [f"the user {user} does not exist or is not active" for user in wanted.users if user not in self.ids]
        for role, allowed in wanted.roles.items():
            if role not in self.permissions:
                differences.append(f"the role {role} does not exist")
                continue
            if self.permissions[role] != allowed:
                missing, extra = allowed - self.permissions[role], self.permissions[role] - allowed
                differences.append(f"the role {role} lacks {_listed(missing)} and should not have {_listed(extra)}")
            expected = {user for user, roles in wanted.users.items() if role in roles and user in self.ids}
            differences += [f"{user} does not have the role {role}" for user in sorted(expected - self.members[role])]
            differences += [f"{user} has the role {role} against the plan" for user in sorted(self.members[role] - expected)]
        differences += [
            f"the id of {user} is {self.known.get(user, 'missing')} at the gates and {self.ids[user]} in FAB"
            for user in wanted.users
            if user in self.ids and self.known.get(user) != self.ids[user]
        ]
        return differences


def _listed(permissions: frozenset[Permission]) -> str:
    return ", ".join(sorted(f"{action} on {resource}" for action, resource in permissions)) or "nothing"


def look(wanted: Accounts) -> Found:
    """Read the present state. Changes nothing.

    Raises:
        Refused: When Airflow uses another auth manager.
        Unreachable: When Airflow's metadata database does not answer.
    """
    with _security_manager() as security:
        return _look(security, wanted)


def apply(wanted: Accounts, *, make_users: bool = False) -> Found:
    """Set exactly the permissions and members of the roles, and write the identity map. Safe to run again.

    Other roles and their members are not changed.

    Args:
        wanted: The accounts.
        make_users: Make the missing users, each with a random password.

    Raises:
        Refused, Unreachable: As for ``look``.
        StepFailed: When FAB did not accept a change.
    """
    with _security_manager() as security:
        users = {user: _user(security, user) for user in wanted.users}
        for name in [name for name, user in users.items() if user is None and make_users]:
            users[name] = security.add_user(
                name, name.capitalize(), "", f"{name}@localhost", role=[], password=secrets.token_urlsafe(32)
            )
        roles = {name: _role(security, name, allowed) for name, allowed in wanted.roles.items()}
        for own in {name for names in wanted.users.values() for name in names} - set(roles):
            roles[own] = security.find_role(own)
            if roles[own] is None:
                raise StepFailed(
                    "there is no such role in Airflow", where=own, do="Run 'airflow sync-perm', then 'roles apply' again."
                )
        everybody = {user.username: user for user in security.get_all_users()}
        for name, user in everybody.items():
            had = {role.name for role in user.roles}
            has = (had - set(wanted.roles)) | set(wanted.users.get(name, ()))
            if had != has:
                user.roles = [role for role in user.roles if role.name in has] + [roles[new] for new in sorted(has - had)]
        security.session.commit()
        found = _look(security, wanted)
        kept = {name: str(everybody[name].id) for name in found.known if name in everybody}
        identities = {**kept, **found.ids}
        if identities != found.known:
            from airflow.models import Variable

            Variable.set(VARIABLE, json.dumps(identities, sort_keys=True), "User name to FAB's id; see 'roles apply'.")
        return _look(security, wanted)


@contextmanager
def _security_manager() -> Iterator[Any]:
    """Yield FAB's security manager. It logs each permission; only its errors are let through."""
    for logger in ("LOGGING_LEVEL", "FAB_LOGGING_LEVEL"):
        os.environ.setdefault(f"AIRFLOW__LOGGING__{logger}", "ERROR")
    from airflow.configuration import conf
    from sqlalchemy.exc import OperationalError, ProgrammingError

    manager = conf.get("core", "auth_manager").rsplit(".", 1)[-1]
    if manager != FAB:
        raise Refused(
            "Airflow does not use the FAB auth manager, so its roles cannot be created here",
            where="[core] auth_manager", expected=FAB, found=manager,
            do="Create the roles and accounts there; see docs/decisions/0012-roles-by-dag.md.",
        )  # fmt: skip
    from airflow.providers_manager import ProvidersManager

    ProvidersManager().initialize_providers_configuration()
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    try:
        with get_application_builder() as builder:
            yield builder.sm
    except (OperationalError, ProgrammingError) as error:
        found = str(error.orig).strip().splitlines()[0] if error.orig else ""
        raise Unreachable(
            "Airflow's metadata database does not answer as expected", where="[database] sql_alchemy_conn", found=found,
            do="Run this where Airflow's API server runs, with its settings, and after 'airflow db migrate'.",
        ) from None  # fmt: skip


def _user(security: Any, name: str) -> Any:
    """Return the user of exactly this name; FAB also finds one whose name differs in case."""
    user = security.find_user(username=name)
    return user if user is not None and user.username == name else None


def _role(security: Any, name: str, allowed: frozenset[Permission]) -> Any:
    """Return the role with exactly these permissions; make it if it is missing."""
    wanted = [security.create_permission(action, resource) for action, resource in sorted(allowed)]
    role = security.find_role(name) or security.add_role(name)
    if role is None or None in wanted:
        raise StepFailed("Airflow's FAB did not create the role", where=name, do="Read the log of Airflow's API server.")
    if {permission.id for permission in role.permissions} != {permission.id for permission in wanted}:
        role.permissions = wanted
        security.session.commit()
    return role


def _look(security: Any, wanted: Accounts) -> Found:
    from airflow.models import Variable

    found = {name: security.find_role(name) for name in wanted.roles}
    permissions = {
        name: frozenset((permission.action.name, permission.resource.name) for permission in role.permissions)
        for name, role in found.items()
        if role is not None
    }
    users = {user.username: user for user in security.get_all_users()}
    roles = {name: {role.name for role in user.roles} for name, user in users.items()}
    try:
        known = json.loads(Variable.get(VARIABLE, default_var="{}"))
    except ValueError:
        known = {}
    return Found(
        permissions,
        {name: frozenset(user for user, has in roles.items() if name in has) for name in permissions},
        {name: str(users[name].id) for name in wanted.users if name in users and users[name].active},
        {name: tuple(sorted(roles[name] - set(wanted.roles))) for name in wanted.users if name in users},
        known if isinstance(known, dict) else {},
    )


if __name__ == "__main__":
    accounts = Accounts.from_json(sys.stdin.read())
    left = apply(accounts, make_users=True).differs(accounts)
    sys.exit("; ".join(left) or 0)
