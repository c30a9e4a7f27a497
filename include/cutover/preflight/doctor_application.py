"""Checks of the application by ``doctor``: places, configuration, services and channels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from include.cutover.application import configuration, services
from include.cutover.checks import Check
from include.cutover.connections import environment
from include.cutover.errors import CutoverError
from include.cutover.extras.take import KeptExtra, preview_extras
from include.cutover.masking import mask
from include.cutover.people.notices import Channel
from include.cutover.preflight.doctor_evidence import evidence_check
from include.cutover.preflight.doctor_site import Site, result
from include.cutover.preflight.places import check_places
from include.cutover.preflight.services import check_services

_FALLBACK = re.compile(r"(?i)fallback")
_OFF = ("0", "false", "no", "off", "")


def place_checks(site: Site) -> list[Check]:
    """Check the places for evidence, backups and extras."""
    checks = [evidence_check(site)]
    checks += [item.preview if item.required else _optional(item) for item in preview_extras(site.plan)]
    if site.live is None:
        do = "Set --source."
        return [*checks, result("backup_directory", "Backups can be written", None, "", "the source is not named", do)]
    return [*check_places(site.live, plan=site.plan), *checks]


def _optional(extra: KeptExtra) -> Check:
    """Return the check of an extra that the plan does not require: never failed."""
    preview = extra.preview
    return preview if preview.outcome == "passed" else replace(preview, outcome="unknown")


def configuration_checks(site: Site) -> list[Check]:
    """Check that the configuration has the keys, is read by the application, and leads to PostgreSQL alone."""
    settings = site.plan.configuration
    if settings is None:
        return []
    where = configuration.name(settings)
    held = configuration.read(settings, remote=site.remote)
    missing = sorted(set(settings.live) - set(held))
    title = f"{where} holds every key that is switched"
    do = "Let the application read these keys from there, and start it with them once; or correct the plan."
    found = f"without {', '.join(missing)}" if missing else ", ".join(sorted(settings.live))
    return [
        result("configuration_keys", title, not missing, ", ".join(sorted(settings.live)), found, do, where),
        _fallback(site, held),
        *_running(site, held),
    ]


def _fallback(site: Site, held: Mapping[str, str]) -> Check:
    """Check that nothing leads back to SQLite after the switch: rows would be written there unnoticed."""
    settings = site.plan.configuration
    assert settings is not None
    named = {key for key in {*settings.live, *settings.rolled_back, *held} if _FALLBACK.search(key)}
    after = {**held, **settings.live}
    on = sorted(key for key in named if after.get(key, "").strip().lower() not in _OFF)
    sqlite = sorted(key for key, value in settings.live.items() if value.lower().startswith("sqlite"))
    wrong = [f"{key} stays on" for key in on] + [f"{key} names SQLite" for key in sqlite]
    found = "; ".join(wrong) or (f"{', '.join(sorted(named))} is off" if named else "no key in it names a fallback")
    do = 'Set it to "false" under configuration.live in the plan.'
    return result(
        "sqlite_fallback", "On PostgreSQL the application does not fall back to SQLite", not wrong, "off", found, do
    )


def _running(site: Site, held: Mapping[str, str]) -> list[Check]:
    """Check that the running processes read the switched keys: a variable of a process overrides the file."""
    settings = site.plan.configuration
    assert settings is not None
    checks = []
    for service in site.plan.services:
        name, title = f"reads_configuration_{service.name}", f"{service.name} reads the switched values"
        expected = f"{', '.join(sorted(settings.live))} as {configuration.name(settings)} has it"
        try:
            seen = services.environment(service, site.remote)
        except CutoverError as error:
            checks.append(result(name, title, None, expected, mask(error.message), error.do, service.name))
            continue
        if seen is None:
            do = f"Check it there; then accept it: {name} under preflight.accept_unknown."
            checks.append(result(name, title, None, expected, "its environment cannot be seen from here", do, service.name))
            continue
        other = sorted(key for key in settings.live if key in seen and seen[key] != held.get(key))
        own = sorted(key for key in settings.live if key in seen and key not in other)
        found = f"its environment has another value of {', '.join(other)}" if other else (
            f"its environment has {', '.join(own)}" if own else "nothing in its environment overrides it"
        )  # fmt: skip
        do = "Remove the value where the service is started: it would override the one that the cutover sets."
        checks.append(result(name, title, not other, expected, found, do, service.name))
    return checks


def service_checks(site: Site) -> list[Check]:
    """Run the checks of preflight: each service answers and obeys, and the application is healthy."""
    if not site.plan.services or site.plan.smoke_tests is None:
        return []
    return check_services(site.plan.services, site.plan.smoke_tests, site.remote)


def channel_checks(site: Site, *, send: bool) -> list[Check]:
    """Check that people can be reached.

    Args:
        site: Its plan names the connections.
        send: Send a test message to every channel.
    """
    plan = site.plan
    named = {"slack": plan.connections.slack, "mail": plan.connections.mail}
    checks = []
    for name, connection in named.items():
        if connection is None:
            continue
        title, where = f"The channel {name} can be used", f"connection {connection}"
        there = environment.fields(connection) is not None
        do = f"Define it; {environment.variable(connection)} is not set here. --send tries it."
        found = "defined; --send sends a message" if there else "not defined here"
        checks.append(result(f"channel_{name}", title, True if there else None, "a connection", found, do, where))
    if not checks:
        do = "Name connections.slack or connections.mail in the plan."
        return [result("channels", "There is a channel to people", False, "slack or mail", "none", do)]
    if not send:
        return checks
    text = (
        f"Test of the notices for the migration of {plan.application} to PostgreSQL. Nothing happens now; you need"
        f" not act. ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"
    )
    return [_sent(channel, f"{plan.application}: test of the notices", text) for channel in site.channels()]


def _sent(channel: Channel, subject: str, text: str) -> Check:
    title = f"The channel {channel.name} accepts a message"
    do = "Correct its connection, then send again."
    try:
        channel.send(subject, text)
    except Exception as error:  # noqa: BLE001  # whatever a channel does
        found = error.found or error.message if isinstance(error, CutoverError) else type(error).__name__
        return result(f"channel_{channel.name}", title, False, "delivered", mask(found), do)
    return result(f"channel_{channel.name}", title, True, "delivered", "delivered; check that it arrived", do)
