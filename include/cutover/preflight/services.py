"""Checks of the services before anything stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from include.cutover.application import requests, services
from include.cutover.checks import Check
from include.cutover.connections.commands import Remote, no_remote
from include.cutover.errors import CannotCheck
from include.cutover.masking import mask
from include.cutover.plan.application import Service, SmokeTests


def check_services(plan_services: Sequence[Service], smoke: SmokeTests, remote: Remote = no_remote) -> list[Check]:
    """Check that each service can be reached and is not failing, and that the application is healthy on the source."""
    checks = [_service(service, remote) for service in plan_services]
    health = requests.health(smoke, "source")
    title = "The application is healthy now, before anything is stopped"
    return [*checks, replace(health, name="application_health_before", title=title)]


def _service(service: Service, remote: Remote) -> Check:
    name, title = f"service_{service.name}", f"The service {service.name} can be stopped and started"
    expected = "a service that answers and does not fail"
    try:
        state = services.states([service], remote)[service.name]
        refused = services.may_control(service, remote)
    except CannotCheck as error:
        found = error.message + (f": {error.found}" if error.found else "")
        return Check(name, title, "failed", expected, mask(found), error.do, error.where)
    if refused:
        do = "Let the user of the tasks run these commands without a password."
        return Check(name, title, "failed", expected, refused, do, service.name)
    do = "Check its log and repair it before the cutover." if state.failing else ""
    return Check(name, title, "failed" if state.failing else "passed", expected, str(state), do, service.name)
