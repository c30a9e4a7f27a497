"""Source, target, hosts and channels from Airflow's connections, through the providers' hooks. Nothing here is logged."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from psycopg.conninfo import make_conninfo

from include.cutover.accounts.identity_map import identities
from include.cutover.connections import credentials, ssh, tls
from include.cutover.connections.ssh import Ssh
from include.cutover.errors import CannotCheck
from include.cutover.people.identities import Identities
from include.cutover.people.notices import Channel
from include.cutover.plan.model import Plan
from include.cutover.tasks import channels


def source_path(plan: Plan) -> Path:
    """Return the SQLite file of the connection ``connections.source``. Only the path is taken from the hook.

    The provider opens the system's SQLite, which is older and prints floats differently from the one that copies.
    """
    from airflow.providers.sqlite.hooks.sqlite import SqliteHook

    uri = SqliteHook(sqlite_conn_id=plan.connections.source).get_uri()
    path = unquote(uri.removeprefix("sqlite:///").split("?", 1)[0])
    if not path.strip("/"):
        raise CannotCheck(
            "the connection names no file",
            where=f"connection {plan.connections.source}",
            expected="the absolute path of the SQLite file as the connection's host",
            do="Correct the connection in Airflow (Admin, Connections).",
        )
    return Path("/" + path.strip("/"))


def target_conninfo(plan: Plan, application_name: str) -> str:
    """Return the libpq connection string of ``connections.target``, with the password, and TLS where the plan demands it."""
    conninfo = _conninfo(plan.connections.target, application_name)
    return tls.demanded(conninfo, plan.tls, f"connection {plan.connections.target}")


def application_role(plan: Plan) -> str | None:
    """Return the role that the application logs in with; None where the plan moves no application."""
    if plan.configuration is None:
        return None
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    login = PostgresHook(postgres_conn_id=plan.connections.application).connection.login
    return None if login is None else str(login)


def application_url(plan: Plan) -> str:
    """Return the URL for the application's configuration, with the password.

    The password is that of the plan's ``secrets.application``; without it, the connection's. The URL has the TLS options of
    the connection and those that the plan demands.
    """
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    hook = PostgresHook(postgres_conn_id=plan.connections.application)
    url = hook.sqlalchemy_url.set(drivername="postgresql+psycopg")
    extra = hook.connection.extra_dejson
    options = {name: str(extra[name]) for name in tls.OPTIONS if name in extra} | dict(url.query)
    if plan.tls is not None:
        where = f"connection {plan.connections.application}"
        tls.require({**options, "host": str(options.get("host") or url.host or "")}, plan.tls, where)
        options.setdefault("sslmode", plan.tls)
    if plan.secrets.application is not None:
        url = url.set(password=credentials.read(plan.secrets.application, password, "secrets.application"))
    return str(url.set(query=options).render_as_string(hide_password=False))


def password(connection_id: str) -> str | None:
    """Return the password of a connection, from any of Airflow's secrets backends; None where it is not defined."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        found = BaseHook.get_connection(connection_id).password
    except AirflowNotFoundException:
        return None
    return None if found is None else str(found)


def remote(plan: Plan, connection_id: str) -> Ssh:
    """Return the host of an SSH connection.

    Its fields are read as the SSH provider reads them. The provider's own client is not used: it would wait and retry by
    itself, and prefer a key in known_hosts to the one in the connection.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        found = BaseHook.get_connection(connection_id)
    except AirflowNotFoundException:
        raise CannotCheck(
            "the SSH connection is not defined",
            where=f"connection {connection_id}",
            do="Define it in Airflow (Admin, Connections) with the type ssh, or correct the plan.",
        ) from None
    return Ssh(
        ssh.login(
            connection_id,
            host=found.host,
            port=found.port,
            user=found.login,
            password=found.password,
            extra=found.extra_dejson,
            may_be_unverified=connection_id in plan.connections.ssh_unverified,
        )
    )


def _conninfo(connection_id: str, application_name: str) -> str:
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    hook = PostgresHook(postgres_conn_id=connection_id)
    connection = hook.connection
    extra = {
        name: value
        for name, value in connection.extra_dejson.items()
        if name not in PostgresHook.ignored_extra_options and name != "application_name"
    }
    return make_conninfo(
        "",
        host=connection.host,
        port=connection.port,
        user=connection.login,
        password=connection.password,
        dbname=connection.schema,
        application_name=application_name[:63],
        **extra,
    )


class AirflowEnds:
    """The ends of a plan from Airflow's connections; see ``steps.step.Ends``."""

    def source_path(self, plan: Plan) -> Path:
        """Return the application's SQLite file."""
        return source_path(plan)

    def target_conninfo(self, plan: Plan, application_name: str) -> str:
        """Return the libpq connection string of the target."""
        return target_conninfo(plan, application_name)

    def application_role(self, plan: Plan) -> str | None:
        """Return the role that the application logs in with."""
        return application_role(plan)

    def application_url(self, plan: Plan) -> str:
        """Return the URL for the application's configuration."""
        return application_url(plan)

    def channels(self, plan: Plan) -> list[Channel]:
        """Return the channels of the plan."""
        return channels.channels(plan)

    def remote(self, plan: Plan, connection: str) -> Ssh:
        """Return the host of an SSH connection."""
        return remote(plan, connection)

    def identities(self) -> Identities:
        """Return the auth manager's ids of people."""
        return identities()
