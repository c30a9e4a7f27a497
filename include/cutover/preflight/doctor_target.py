"""Checks of the target by ``doctor``: those of preflight, the application's log-in, roles, time zone, TLS and SQL files."""

from __future__ import annotations

from datetime import datetime

from psycopg.conninfo import conninfo_to_dict

from include.cutover.checks import Check
from include.cutover.connections import credentials, environment
from include.cutover.preflight.doctor_site import CONNECT_FIRST, NOT_REACHED, Site, result, session
from include.cutover.preflight.target import check_target
from include.cutover.target import access_checks, sql_files, sql_runner

_HOUR = 3600


def target_checks(site: Site) -> list[Check]:
    """Run the checks of preflight, and check the log-in of the application."""
    plan = site.plan
    if site.target is None:
        do = f"Set --target, or {environment.variable(plan.connections.target)} in the environment."
        return [result("target_connection", "The target's connection is defined", None, "", "it is not defined", do)]
    size = site.live.stat().st_size if site.live is not None and site.live.exists() else 0
    checks = check_target(site.target, plan=plan, source_bytes=size, application_role=site.role)
    return [*checks, *_application_login(site)] if plan.configuration is not None else checks


def _application_login(site: Site) -> list[Check]:
    plan, given = site.plan, site.application
    where = f"connection {plan.connections.application}"
    title = "The application's log-in is defined"
    if given is None:
        do = f"Check where Airflow keeps it: {environment.variable(plan.connections.application)} is not set here."
        return [result("application_login", title, None, "a connection", "it is not defined", do, where)]
    secret, password = plan.secrets.application, given.get("password")
    if secret is not None:
        password = credentials.read(
            secret, lambda name: (environment.fields(name) or {}).get("password"), "secrets.application"
        )
    own = f"role {given.get('user')}, " + ("with a password" if password else "without a password")
    role = site.role
    good = bool(password) and given.get("user") == role
    do = f"Let it log in as {role}, with the password in the connection or behind secrets.application."
    return [result("application_login", title, good, f"role {role}, with a password", own, do, where)]


def role_checks(site: Site) -> list[Check]:
    """Check roles and rights, and that the pipeline's role is not a superuser."""
    connection = session(site)
    if connection is None:
        return []
    plan = site.plan
    with connection:
        me, superuser = connection.execute(
            "SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone() or ("", True)
        if plan.access is None:
            do = "Name the roles in the plan (access), and create them: python -m include.cutover access apply."
            title = "The pipeline's role is not a superuser"
            found = f"{me} is a superuser" if superuser else f"{me} is not a superuser"
            return [result("access_pipeline", title, not superuser, "an ordinary role", found, do)]
        own = access_checks.pipeline_check(connection, plan)
        return [own, *access_checks.role_checks(connection, plan), *access_checks.object_checks(connection, plan)]


def time_zone_check(site: Site) -> Check:
    """Compare the time zones of target and host: where they differ, a time without a zone means another moment."""
    name, title = "time_zone", "The target's sessions have this host's time zone"
    connection = session(site)
    if connection is None:
        return result(name, title, None, "", NOT_REACHED, CONNECT_FIRST)
    with connection:
        zone, seconds = connection.execute(
            "SELECT current_setting('TimeZone'), extract(timezone FROM now())::int"
        ).fetchone() or ("", 0)
    here = datetime.now().astimezone()
    ours = int((here.utcoffset() or here - here).total_seconds())
    do = (
        "Where the application means local time by a time without a zone, ALTER DATABASE … SET timezone to its own; where it"
        " means UTC, accept it: time_zone under preflight.accept_unknown."
    )
    found = f"{zone} there ({seconds / _HOUR:+g} h), {here.tzname()} here ({ours / _HOUR:+g} h)"
    return result(name, title, True if seconds == ours else None, "the same", found, do)


def tls_check(site: Site) -> Check:
    """Check that rows and passwords do not cross a network in plain text."""
    name, title, wanted = "target_tls", "The way to the target is encrypted", site.plan.tls
    connection = session(site)
    if connection is None or site.target is None:
        return result(name, title, None, "", NOT_REACHED, CONNECT_FIRST)
    with connection:
        used = connection.pgconn.ssl_in_use
        host = str(conninfo_to_dict(site.target).get("host") or "")
    near = host.startswith("/") or host in ("", "localhost", "127.0.0.1", "::1")
    found = ("encrypted" if used else "in plain text") + (f"; the plan demands {wanted}" if wanted else "")
    if near and not used:
        found += ", on this host"
    do = "Set tls: verify-full in the plan; or accept it, where the network is trusted: target_tls under accept_unknown."
    return result(name, title, True if used or near else None, wanted or "encrypted", found, do, host)


def sql_check(site: Site) -> Check:
    """Check that the numbered files are sound, and that all of them are applied where some are."""
    name, title = "sql_files", "The plan's SQL files are sound, and none is pending where others are applied"
    files = sql_files.discover(site.plan.sql_folder, sql_files.KINDS)
    connection = session(site)
    applied = []
    if connection is not None:
        with connection:
            applied = sql_runner.applied(connection, site.plan.target_schema)
    done = {record.name: record.sha256 for record in applied}
    pending = [item.name for item in files if item.name not in done] if done else []
    changed = [item.name for item in files if item.name in done and item.sha256 != done[item.name]]
    wrong = [f"pending: {', '.join(pending)}"] * bool(pending) + [f"changed since: {', '.join(changed)}"] * bool(changed)
    found = "; ".join(wrong) or (f"{len(done)} applied" if done else f"{len(files)} files, which the cutover applies")
    do = "Roll back or finish the run that applied the others; do not change an applied file, add a new number."
    return result(name, title, not wrong, "sound files", found, do, str(site.plan.sql_folder))
