"""Set-up before Airflow starts: its tables, the plans' roles and accounts, its slots, and the plans' connections.

    python -m include.cutover.accounts.first_start

The init job of docker-compose.yaml. It runs again at each start and changes only what differs; a changed password stays. It
reads CUTOVER_PASSWORDS, a JSON object of user name to the password of a new account. With a log-in elsewhere (see
``log_in``), accounts get none. Exit status 0 when everything is complete; else it lists every fault at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import psycopg

from include.cutover.accounts import roles
from include.cutover.errors import CannotCheck, CutoverError, PlanInvalid, StepFailed, Unreachable
from include.cutover.people.roles import Accounts
from include.cutover.places import plans_folder
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan

WAIT_SECONDS = 120.0


def main() -> int:
    """Run all parts; return the exit status."""
    try:
        plans = _plans()
        passwords = _passwords()
        migrate()
        faults = [*make_accounts(Accounts.of(plans), passwords), *missing_connections(plans)]
        set_slots(int(os.environ.get("AIRFLOW__CORE__PARALLELISM") or 8))
    except CutoverError as error:
        faults = [str(error)]
    for fault in faults:
        _tell(fault)
    if not faults:
        _tell("accounts, roles and slots are complete")
    return 1 if faults else 0


def _tell(text: str) -> None:
    """Write to standard error, without a logger: Airflow takes over the loggers when it is imported."""
    sys.stderr.write(f"init: {text}\n")
    sys.stderr.flush()


def _plans() -> list[Plan]:
    """Load all valid plans. An invalid one is shown by its DAG, and gives no rights.

    Raises:
        CannotCheck: When there is no valid plan.
    """
    found = []
    for file in sorted(plans_folder().glob("*.yaml")):
        try:
            found.append(load_plan(file.stem))
        except PlanInvalid as error:
            _tell(f"no user gets rights on this plan's DAGs: {error}")
    if not found:
        raise CannotCheck("there is no valid plan", where=str(plans_folder()), do="Correct the plans named above.")
    return found


def _passwords() -> dict[str, str]:
    text = os.environ.get("CUTOVER_PASSWORDS") or "{}"
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) and value for value in found.values()):
        raise CannotCheck(
            "CUTOVER_PASSWORDS cannot be read",
            expected='a JSON object, {"user name": "password", …}',
            do="Correct it in .env.",
        )
    return found


def migrate() -> None:
    """Migrate Airflow's tables, FAB's among them, to this version.

    Raises:
        Unreachable: When the database does not answer in time.
        StepFailed: When the migration failed.
    """
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            break
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                found = str(error).strip().splitlines()[0]
                raise Unreachable(
                    "Airflow's database does not answer", found=found, do="Check that its PostgreSQL runs."
                ) from None
            time.sleep(1)
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, text=True, check=False, timeout=900
    )
    if done.returncode != 0:
        raise StepFailed(
            "'airflow db migrate' failed",
            found=(done.stderr or done.stdout).strip()[-1500:],
            do="Correct the cause, then start again.",
        )
    _tell("Airflow's tables are migrated to this version")


def make_accounts(wanted: Accounts, passwords: Mapping[str, str]) -> list[str]:
    """Create the roles with exactly their rights, and the accounts of the plans' people; return what is missing."""
    there = set(roles.look(wanted).ids)
    elsewhere = os.environ.get("CUTOVER_LOG_IN", "password") != "password"
    without = [user for user in wanted.users if user not in there and user not in passwords]
    if without and not elsewhere:
        return [f"CUTOVER_PASSWORDS has no password for {user}, who is in a plan and has no account" for user in without]
    found = roles.apply(wanted, make_users=True)
    new = [user for user in wanted.users if user not in there and user in passwords]
    if new and not elsewhere:
        _set_passwords({user: passwords[user] for user in new})
    _tell(f"roles: {', '.join(sorted(wanted.roles))}")
    _tell(f"accounts: {', '.join(sorted(found.ids))}" + (f"; new: {', '.join(new)}" if new else ""))
    return found.differs(wanted)


def _set_passwords(passwords: Mapping[str, str]) -> None:
    from airflow.utils.session import create_session
    from sqlalchemy import text
    from werkzeug.security import generate_password_hash

    with create_session() as session:
        for user, password in passwords.items():
            values = {"hash": generate_password_hash(password), "user": user}
            session.execute(text("UPDATE ab_user SET password = :hash WHERE username = :user"), values)


def set_slots(slots: int) -> None:
    """Allow as many tasks at once as the executor runs: more would only wait in its queue, unseen."""
    from airflow.models.pool import Pool

    Pool.create_or_update_pool("default_pool", slots, "As many as the executor runs in parallel", include_deferred=False)
    _tell(f"slots: {slots}")


def missing_connections(plans: Sequence[Plan]) -> list[str]:
    """List the connections of the plans that no secrets backend, environment or table has."""
    from airflow.exceptions import AirflowNotFoundException
    from airflow.models import Connection

    faults = []
    for plan in plans:
        for part, name in plan.connections:
            if not isinstance(name, str):
                continue
            try:
                Connection.get_connection_from_secrets(name)
            except AirflowNotFoundException:
                variable = f"AIRFLOW_CONN_{name.upper()}"
                faults.append(f"plan {plan.name}: no connection {name} ({part}) is defined; set {variable} in .env.tasks")
    return faults


if __name__ == "__main__":
    sys.exit(main())
