"""Every check of a cutover that is possible a week before the window. It stops nothing and changes no data.

It makes the checks of preflight, by the same functions, so that a check that passes here can pass then. It adds the
questions of a week before: which rights the roles have, whether the application will read the switched configuration, how
PostgreSQL is backed up, whether a release changed the schema, whether people can be reached.

A check that cannot be made from here is ``unknown`` and says who can make it; it never passes. The plan may accept one by
name in ``preflight.accept_unknown``.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from include.cutover.checks import Check
from include.cutover.errors import CutoverError
from include.cutover.masking import mask
from include.cutover.preflight.doctor_application import channel_checks, configuration_checks, place_checks, service_checks
from include.cutover.preflight.doctor_backups import backup_checks
from include.cutover.preflight.doctor_site import Site
from include.cutover.preflight.doctor_source import source_checks
from include.cutover.preflight.doctor_target import role_checks, sql_check, target_checks, time_zone_check, tls_check
from include.cutover.target.session import primary_message


def examine(site: Site, *, send: bool = False) -> list[Check]:
    """Run every check. An error of one is its result: this raises nothing.

    Args:
        site: The site to examine.
        send: Send a test message to every channel.
    """
    groups: list[tuple[str, str, Callable[[], list[Check]]]] = [
        ("target", "The target", lambda: target_checks(site)),
        ("access", "Roles and rights", lambda: role_checks(site)),
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
    for name, title, examine_group in groups:
        try:
            checks += examine_group()
        except CutoverError as error:
            found = f"{error.message}: {error.found}" if error.found else error.message
            checks.append(Check(name, title, "unknown", error.expected, mask(found), error.do, error.where))
        except psycopg.Error as error:
            found = mask(primary_message(error))
            checks.append(Check(name, title, "unknown", "", found, "Check the target's log, then run doctor again."))
    return checks
