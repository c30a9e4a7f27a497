"""The plan's part about people: who leads, who is informed, by which channels and with which words."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from include.cutover.plan.types import Model, PlainTemplate, Template


class Person(Model):
    """Somebody with a part in the cutover. ``user`` is the log-in name in Airflow."""

    user: str = Field(min_length=1)
    name: str = Field(min_length=1)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    contact: str = ""


class People(Model):
    """The roles of the runbook. Deputies may do what the lead may."""

    lead: Person
    observer: Person
    communicator: Person
    deputies: tuple[Person, ...] = ()

    @property
    def deciders(self) -> tuple[Person, ...]:
        """Those who may start, approve and roll back."""
        return (self.lead, *self.deputies)


class Channels(Model):
    """Where notices go; the connections are named under ``connections``.

    Attributes:
        release: ``communicator``: a notice is held until the communicator has released it, or ``release_minutes`` are over.
    """

    slack_channel: str = "#ops"
    mail_from: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    mail_to: tuple[str, ...] = Field(min_length=1)
    release: Literal["automatic", "communicator"] = "automatic"
    release_minutes: float = Field(default=5, gt=0, le=60)


class Notices(Model):
    """Texts sent to people; what stands in ``<…>`` is filled in (see ``Placeholders``)."""

    start: PlainTemplate
    completion: PlainTemplate
    rollback: Template
    cancelled: Template = (
        "The migration of <application> to PostgreSQL did not take place: <reason> <application> runs on SQLite as before."
    )
    freeze: PlainTemplate = (
        "Change freeze for <application> from <freeze> until the migration to PostgreSQL is complete. Its window is <time> "
        "to <end>. Please make no other changes until then. Contact <lead>."
    )
    delay: Template = (
        "The migration of <application> to PostgreSQL is not complete yet: <reason> The window ends at <end>. "
        "Contact <lead>."
    )
    deadline: Template = (
        "The migration of <application> to PostgreSQL is late: <reason> The window ends at <end>; a run that is not live "
        "before <deadline> goes back to SQLite by itself. Contact <lead>."
    )
    aftercare: Template = (
        "<application> on PostgreSQL needs attention: <reason> To go back to SQLite, answer the question in Airflow or roll "
        "back <run>. Contact <lead>."
    )
    closing: Template = "The aftercare of <application> on PostgreSQL has ended. <reason>"
