"""Everything about a cutover that can be looked at a week ahead. Nothing is stopped and nothing of the application changes.

The checks of preflight are made here too, by the same functions, so that what is good here is good then. What it adds are
the questions of a week before: who may what, whether the application will read what is switched, how PostgreSQL is backed
up, whether a release changed the schema, whether people can be reached.

A question that cannot be answered from here is told as such, with who can; it is never good. The plan may accept one by name
in ``preflight.accept_unknown``.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from include.cutover import files
from include.cutover.application import configuration, services
from include.cutover.checks import Check, Outcome
from include.cutover.connections import credentials, environment
from include.cutover.connections.commands import Remote, no_remote
from include.cutover.errors import CutoverError
from include.cutover.evidence.record import Evidence
from include.cutover.extras.take import KeptExtra, preview_extras
from include.cutover.masking import mask
from include.cutover.people.notices import Channel
from include.cutover.plan.model import Plan
from include.cutover.preflight import places as preflight_places
from include.cutover.preflight import services as preflight_services
from include.cutover.preflight import source as preflight_source
from include.cutover.preflight import target as preflight_target
from include.cutover.runs import schema_drift
from include.cutover.source import cloning, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.target import access, sql_files
from include.cutover.target import schema as target_schema
from include.cutover.target import session as target_session

ALEMBIC = "alembic_version"

_FALLBACK = re.compile(r"(?i)fallback")
_OFF = ("0", "false", "no", "off", "")
_SECONDS = 15.0
_HOUR = 3600


@dataclass(frozen=True)
class Site:
    """What is looked at, and how one gets there.

    Attributes:
        target: libpq connection string with the pipeline's role; None where nothing says it.
        live: The application's SQLite file; None where nothing says it.
        channels: The ways to people; made only when a message is to be sent.
    """

    plan: Plan
    target: str | None
    live: Path | None
    remote: Remote = no_remote
    channels: Callable[[], Sequence[Channel]] = tuple

    @property
    def application(self) -> dict[str, Any] | None:
        """How the application logs in; None where nothing says it."""
        return environment.fields(self.plan.connections.application)

    @property
    def role(self) -> str | None:
        """The application's role; None where the plan moves none, or nothing says it."""
        if self.plan.configuration is None:
            return None
        if self.plan.access is not None:
            return self.plan.access.application
        return (self.application or {}).get("user")


def examine(site: Site, *, send: bool = False) -> list[Check]:
    """Make every check. Raises nothing: what goes wrong with one is its answer.

    Args:
        send: Send a test message to every channel.
    """
    groups: list[tuple[str, str, Callable[[], list[Check]]]] = [
        ("target", "The target", lambda: target_checks(site)),
        ("access", "Roles and rights", lambda: access_checks(site)),
        ("time_zone", "Time zones", lambda: [time_zone_check(site)]),
        ("tls", "Encryption", lambda: [tls_check(site)]),
        ("database_backups", "PostgreSQL's own backups", lambda: backup_checks(site)),
        ("sql_files", "The plan's SQL", lambda: [sql_check(site)]),
        ("source", "The source", lambda: source_checks(site)),
        ("places", "Places for backups", lambda: place_checks(site)),
        ("configuration", "The configuration", lambda: configuration_checks(site)),
        ("services", "The services", lambda: service_checks(site)),
        ("channels", "Channels", lambda: channel_checks(site, send=send)),
    ]
    checks: list[Check] = []
    for name, title, look in groups:
        try:
            checks += look()
        except CutoverError as error:
            found = f"{error.message}: {error.found}" if error.found else error.message
            checks.append(Check(name, title, "unknown", error.expected, mask(found), error.do, error.where))
        except psycopg.Error as error:
            found = mask(target_session.primary_message(error))
            checks.append(Check(name, title, "unknown", "", found, "Look at the target's log, then ask again."))
    return checks


def _check(name: str, title: str, good: bool | None, expected: str, found: str, do: str, where: str = "") -> Check:
    """``good`` is None where it could not be told."""
    outcome: Outcome = "unknown" if good is None else "passed" if good else "failed"
    return Check(name, title, outcome, expected, found, "" if good else do, where)


# --- the target ---------------------------------------------------------------------------------------------------------


def target_checks(site: Site) -> list[Check]:
    """Those of preflight, and how the application will log in."""
    plan = site.plan
    if site.target is None:
        do = f"Give --target, or {environment.variable(plan.connections.target)} in the environment."
        return [_check("target_connection", "The target's connection is defined", None, "", "nothing says it", do)]
    size = site.live.stat().st_size if site.live is not None and site.live.exists() else 0
    checks = preflight_target.check_target(site.target, plan=plan, source_bytes=size, application_role=site.role)
    return [*checks, *_application_login(site)] if plan.configuration is not None else checks


def _application_login(site: Site) -> list[Check]:
    plan, given = site.plan, site.application
    where = f"connection {plan.connections.application}"
    title = "The application's log-in is defined"
    if given is None:
        do = f"Look where Airflow keeps it: {environment.variable(plan.connections.application)} is not set here."
        return [_check("application_login", title, None, "a connection", "nothing says it", do, where)]
    secret, password = plan.secrets.application, given.get("password")
    if secret is not None:
        password = credentials.read(
            secret, lambda name: (environment.fields(name) or {}).get("password"), "secrets.application"
        )
    own = f"role {given.get('user')}, " + ("with a password" if password else "without a password")
    role = site.role
    good = bool(password) and given.get("user") == role
    do = f"Let it log in as {role}, with the password in the connection or behind secrets.application."
    return [_check("application_login", title, good, f"role {role}, with a password", own, do, where)]


def _session(site: Site) -> target_session.Connection | None:
    """None where the target cannot be reached: the check of that says why."""
    if site.target is None:
        return None
    try:
        connection = target_session.connect(site.target, seconds=5)
    except psycopg.Error:
        return None
    connection.execute("SET statement_timeout = '15s'")
    return connection


def access_checks(site: Site) -> list[Check]:
    """Roles and rights; that the pipeline is no superuser."""
    connection = _session(site)
    if connection is None:
        return []
    plan = site.plan
    with connection:
        me, superuser = connection.execute(
            "SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone() or ("", True)
        if plan.access is None:
            do = "Name the roles in the plan (access), and make them: python -m include.cutover access apply."
            found = f"{me} is a superuser" if superuser else f"{me} is none"
            return [_check("access_pipeline", "The pipeline's role is no superuser", not superuser, "none", found, do)]
        own = access.pipeline_check(connection, plan)
        return [own, *access.role_checks(connection, plan), *access.object_checks(connection, plan)]


def time_zone_check(site: Site) -> Check:
    """Times without a zone mean another moment where the two differ; whether there are any is not seen here."""
    name, title = "time_zone", "The target's sessions have this host's time zone"
    connection = _session(site)
    if connection is None:
        return _check(name, title, None, "", "the target was not reached", "Mend its connection first.")
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
    return _check(name, title, True if seconds == ours else None, "the same", found, do)


def tls_check(site: Site) -> Check:
    """Whether rows and passwords cross a network in plain text."""
    name, title, wanted = "target_tls", "The way to the target is encrypted", site.plan.tls
    connection = _session(site)
    if connection is None or site.target is None:
        return _check(name, title, None, "", "the target was not reached", "Mend its connection first.")
    with connection:
        used = connection.pgconn.ssl_in_use
        host = str(conninfo_to_dict(site.target).get("host") or "")
    near = host.startswith("/") or host in ("", "localhost", "127.0.0.1", "::1")
    found = ("encrypted" if used else "in plain text") + (f"; the plan demands {wanted}" if wanted else "")
    if near and not used:
        found += ", on this host"
    do = "Set tls: verify-full in the plan; or accept it, where the network is trusted: target_tls under accept_unknown."
    return _check(name, title, True if used or near else None, wanted or "encrypted", found, do, host)


def backup_checks(site: Site) -> list[Check]:
    """What will protect the rows once the application lives there."""
    wanted = site.plan.database_backups
    title = "PostgreSQL's write-ahead log is archived"
    if wanted is None:
        do = "Say it in the plan: database_backups, with archiving and where its base backups or dumps lie (files)."
        found = "the plan says nothing of them"
        return [_check("database_backups", "PostgreSQL has backups of its own", None, "backups", found, do)]
    checks = []
    connection = _session(site)
    if connection is None:
        return [_check("wal_archiving", title, None, "", "the target was not reached", "Mend its connection first.")]
    with connection:
        if wanted.archiving:
            checks.append(_archiving(connection, title))
        running = connection.execute("SELECT count(*) FROM pg_stat_progress_basebackup").fetchone() or (0,)
    checks.append(_newest_backup(wanted.files, wanted.at_most_hours, running=bool(running[0])))
    return checks


def _archiving(connection: psycopg.Connection, title: str) -> Check:
    name, expected = "wal_archiving", "archive_mode = on, and the last segment was archived"
    mode, archived, last, failed, failed_at, may = connection.execute(
        "SELECT current_setting('archive_mode'), archived_count, last_archived_time, failed_count, last_failed_time,"
        " pg_has_role('pg_read_all_settings', 'USAGE') FROM pg_stat_archiver"
    ).fetchone() or ("off", 0, None, 0, None, False)
    if mode == "off":
        do = "Set archive_mode = on with an archive_command, and restart the server; or archiving: false in the plan."
        return _check(name, title, False, expected, "archive_mode is off", do)
    if may:
        (how,) = connection.execute(
            "SELECT coalesce(nullif(current_setting('archive_command'), '(disabled)'), '')"
            " || coalesce(current_setting('archive_library', true), '')"
        ).fetchone() or ("",)
        if not how:
            do = "Set archive_command or archive_library, and reload the server."
            return _check(name, title, False, expected, "nothing says how", do)
    if failed_at is not None and (last is None or failed_at > last):
        do = "See in the server's log why; until it works, the log fills its disk."
        return _check(name, title, False, expected, f"{failed} failures, the last at {failed_at:%Y-%m-%d %H:%M %Z}", do)
    if not archived:
        do = "Archive one as a superuser: SELECT pg_switch_wal(); then ask again."
        return _check(name, title, None, expected, "nothing was archived yet", do)
    return _check(name, title, True, expected, f"{archived} segments, the last at {last:%Y-%m-%d %H:%M %Z}", "")


def _newest_backup(pattern: str | None, at_most_hours: float, *, running: bool) -> Check:
    name, title = "base_backup", "PostgreSQL has a recent base backup or dump"
    expected = f"one of the last {at_most_hours:g} hours"
    if running:
        return _check(name, title, True, expected, "one is being taken now", "")
    if pattern is None:
        do = "PostgreSQL keeps no record of them: name them in the plan, database_backups.files, or look yourself."
        return _check(name, title, None, expected, "nothing says where they are", do)
    ages = []
    for found in glob.glob(pattern):  # noqa: PTH207  # an absolute pattern
        try:
            status = Path(found).stat()
        except OSError:
            continue
        if status.st_size:
            ages.append((time.time() - status.st_mtime, found))
    if not ages:
        return _check(name, title, False, expected, f"nothing matches {pattern}", "Take one, and see why there is none.")
    age, newest = min(ages)
    told = f"{newest}, {age / _HOUR:.1f} hours old"
    return _check(name, title, age <= at_most_hours * _HOUR, expected, told, "Take one, and see why the last did not run.")


def sql_check(site: Site) -> Check:
    """The numbered files: sound, and where some are applied, all of them."""
    name, title = "sql_files", "The plan's SQL files are sound, and none is pending where others are applied"
    found = sql_files.discover(site.plan.sql_folder, sql_files.KINDS)
    connection = _session(site)
    applied = []
    if connection is not None:
        with connection:
            applied = sql_files.applied(connection, site.plan.target_schema)
    done = {record.name: record.sha256 for record in applied}
    pending = [item.name for item in found if item.name not in done] if done else []
    changed = [item.name for item in found if item.name in done and item.sha256 != done[item.name]]
    wrong = [f"pending: {', '.join(pending)}"] * bool(pending) + [f"changed since: {', '.join(changed)}"] * bool(changed)
    told = "; ".join(wrong) or (f"{len(done)} applied" if done else f"{len(found)} files, which the cutover applies")
    do = "Roll back or finish the run that applied the others; an applied file is not changed, a new number is added."
    return _check(name, title, not wrong, "sound files", told, do, str(site.plan.sql_folder))


# --- the source ---------------------------------------------------------------------------------------------------------


def source_checks(site: Site) -> list[Check]:
    """The file, and on a clone of it what is inside: those of preflight, and which schema it has."""
    plan = site.plan
    if site.live is None:
        do = f"Give --source, or {environment.variable(plan.connections.source)} in the environment."
        return [_check("source_connection", "The source's file is named", None, "", "nothing says it", do)]
    checks = preflight_source.check_source_file(site.live)
    if checks[0].outcome != "passed":
        return checks
    with files.scratch("doctor") as scratch:
        clone = scratch / "clone.db"
        cloning.sound_clone(site.live, clone)
        with snapshots.snapshot(clone) as reading:
            checks.append(_alembic(reading, plan))
            objects = source_schema.schema_objects(reading)
        checks.append(_drift(plan, objects))
        if site.target is not None:
            planned = target_schema.planned_schema(site.target, plan.sql_folder)
            checks += [replace(item, where=item.where or str(site.live)) for item in
                       preflight_source.check_clone(clone, plan=plan, planned=planned)]  # fmt: skip
    return checks


def _alembic(reading: Any, plan: Plan) -> Check:
    name, title, wanted = (
        "schema_version",
        "The source has the schema that the plan's SQL was written for",
        plan.schema_version,
    )
    found = []
    if ALEMBIC in {str(table) for (table,) in reading.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}:
        found = sorted(str(revision) for (revision,) in reading.execute(f"SELECT version_num FROM {ALEMBIC}"))  # noqa: S608
    told = f"revision {', '.join(found)}" if found else f"no revision in {ALEMBIC}"
    if wanted is None and found:
        do = f"Compare the plan's SQL with that revision, then write schema_version: {found[0]} into the plan."
        return _check(name, title, None, "a revision in the plan", f"{told}; the plan names none", do)
    do = "Bring the plan's SQL and schema_version up to the application's release, or freeze its releases."
    return _check(
        name, title, wanted is None or found == [wanted], f"revision {wanted}" if wanted else "no revision", told, do
    )


def _drift(plan: Plan, objects: Mapping[str, str]) -> Check:
    name, title = "schema_freeze", "The source's schema is the one that was proven last"
    before = schema_drift.baseline(plan.name, but=Evidence.of(plan.name, "doctor"))
    if before is None:
        return _check(name, title, True, "no change", "no run has proven one yet", "")
    run, recorded = before
    drift = schema_drift.between(recorded["objects"], objects)
    do = "Rehearse again with this schema, and freeze it until the migration is over."
    return _check(name, title, not drift, "no change", f"since {run}: {drift}", do)


# --- the application ----------------------------------------------------------------------------------------------------


def place_checks(site: Site) -> list[Check]:
    """Where backups and extras go."""
    checks = [item.preview if item.required else _optional(item) for item in preview_extras(site.plan)]
    if site.live is None:
        do = "Give --source."
        return [*checks, _check("backup_directory", "Backups can be written", None, "", "the source is not named", do)]
    return [*preflight_places.check_places(site.live, plan=site.plan), *checks]


def _optional(extra: KeptExtra) -> Check:
    """What the plan does not require: good where it can be kept, and told where not."""
    preview = extra.preview
    return preview if preview.outcome == "passed" else replace(preview, outcome="unknown")


def configuration_checks(site: Site) -> list[Check]:
    """Whether what is switched is there, is read, and leads to PostgreSQL alone."""
    settings = site.plan.configuration
    if settings is None:
        return []
    where = configuration.name(settings)
    held = configuration.read(settings, remote=site.remote)
    missing = sorted(set(settings.live) - set(held))
    title = f"{where} holds every key that is switched"
    do = "Let the application read these keys from there, and start it with them once; or correct the plan."
    told = f"without {', '.join(missing)}" if missing else ", ".join(sorted(settings.live))
    return [
        _check("configuration_keys", title, not missing, ", ".join(sorted(settings.live)), told, do, where),
        _fallback(site, held),
        *_running(site, held),
    ]


def _fallback(site: Site, held: Mapping[str, str]) -> Check:
    """After the switch nothing may lead back to SQLite in silence: rows would go where nobody looks for them."""
    settings = site.plan.configuration
    assert settings is not None
    named = {key for key in {*settings.live, *settings.rolled_back, *held} if _FALLBACK.search(key)}
    after = {**held, **settings.live}
    on = sorted(key for key in named if after.get(key, "").strip().lower() not in _OFF)
    sqlite = sorted(key for key, value in settings.live.items() if value.lower().startswith("sqlite"))
    wrong = [f"{key} stays on" for key in on] + [f"{key} names SQLite" for key in sqlite]
    told = "; ".join(wrong) or (f"{', '.join(sorted(named))} is off" if named else "nothing in it is called a fallback")
    do = 'Set it to "false" under configuration.live in the plan.'
    return _check(
        "sqlite_fallback", "On PostgreSQL the application does not fall back to SQLite", not wrong, "off", told, do
    )


def _running(site: Site, held: Mapping[str, str]) -> list[Check]:
    """Whether the running processes read what is switched. A variable of a process goes over a file that it reads."""
    settings = site.plan.configuration
    assert settings is not None
    checks = []
    for service in site.plan.services:
        name, title = f"reads_configuration_{service.name}", f"{service.name} reads what is switched"
        expected = f"{', '.join(sorted(settings.live))} as {configuration.name(settings)} has it"
        try:
            seen = services.environment(service, site.remote)
        except CutoverError as error:
            checks.append(_check(name, title, None, expected, mask(error.message), error.do, service.name))
            continue
        if seen is None:
            do = f"Look there yourself; then accept it: {name} under preflight.accept_unknown."
            checks.append(_check(name, title, None, expected, "its environment cannot be seen from here", do, service.name))
            continue
        other = sorted(key for key in settings.live if key in seen and seen[key] != held.get(key))
        own = sorted(key for key in settings.live if key in seen and key not in other)
        told = f"its environment has another value of {', '.join(other)}" if other else (
            f"its environment has {', '.join(own)}" if own else "nothing in its environment goes over it"
        )  # fmt: skip
        do = "Take the value out of what starts it: it would go over the one that the cutover sets."
        checks.append(_check(name, title, not other, expected, told, do, service.name))
    return checks


def service_checks(site: Site) -> list[Check]:
    """Those of preflight: each answers and obeys, and the application is well."""
    if not site.plan.services or site.plan.smoke_tests is None:
        return []
    return preflight_services.check_services(site.plan.services, site.plan.smoke_tests, site.remote)


def channel_checks(site: Site, *, send: bool) -> list[Check]:
    """Whether people can be reached."""
    plan = site.plan
    named = {"slack": plan.connections.slack, "mail": plan.connections.mail}
    checks = []
    for name, connection in named.items():
        if connection is None:
            continue
        title, where = f"The channel {name} can be used", f"connection {connection}"
        there = environment.fields(connection) is not None
        do = f"Define it; {environment.variable(connection)} is not set here. --send tries it."
        told = "defined; --send sends a message" if there else "not defined here"
        checks.append(_check(f"channel_{name}", title, True if there else None, "a connection", told, do, where))
    if not checks:
        do = "Name connections.slack or connections.mail in the plan."
        return [_check("channels", "There is a way to people", False, "slack or mail", "none", do)]
    if not send:
        return checks
    text = (
        f"Test of the notices for the migration of {plan.application} to PostgreSQL. Nothing happens now, and nothing is to"
        f" be done. ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"
    )
    return [_sent(channel, f"{plan.application}: test of the notices", text) for channel in site.channels()]


def _sent(channel: Channel, subject: str, text: str) -> Check:
    title = f"The channel {channel.name} takes a message"
    do = "Correct its connection, then send again."
    try:
        channel.send(subject, text)
    except Exception as error:  # noqa: BLE001  # whatever a channel does
        told = error.found or error.message if isinstance(error, CutoverError) else type(error).__name__
        return _check(f"channel_{channel.name}", title, False, "delivered", mask(told), do)
    return _check(f"channel_{channel.name}", title, True, "delivered", "delivered; look whether it arrived", do)
