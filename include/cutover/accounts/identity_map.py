"""The auth manager's ids as a running task reads them: from Airflow's settings and variables, never from its database."""

from __future__ import annotations

from include.cutover.people.identities import VARIABLE, Identities

SIMPLE = "SimpleAuthManager"


def identities() -> Identities:
    """Return the map as it is now; accounts made since the run began are in it."""
    from airflow.configuration import conf
    from airflow.sdk import Variable

    manager = conf.get("core", "auth_manager").rsplit(".", 1)[-1]
    if manager == SIMPLE:
        return Identities.of_simple(conf.get("core", "simple_auth_manager_users"))
    return Identities.of_variable(Variable.get(VARIABLE, default=None), manager)
