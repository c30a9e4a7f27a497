"""The plan's part about people: who leads, who is informed, by which channels and with which texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from include.cutover.plan.types import Model, PlainTemplate, Template


class Person(Model):
    """A person with a part in the cutover.

    Attributes:
        user: Log-in name in Airflow.
        name: Name, as notices and reports show it.
        email: Address for notices.
        contact: Further contact, such as a telephone number.
    """

    user: str = Field(min_length=1)
    name: str = Field(min_length=1)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    contact: str = ""


class People(Model):
    """The roles of the runbook.

    Attributes:
        lead: Starts, approves and rolls back.
        observer: Watches the run.
        communicator: Releases notices, where ``channels.release`` says so.
        deputies: May do what the lead may.
    """

    lead: Person
    observer: Person
    communicator: Person
    deputies: tuple[Person, ...] = ()

    @property
    def deciders(self) -> tuple[Person, ...]:
        """The people who may start, approve and roll back."""
        return (self.lead, *self.deputies)


class Channels(Model):
    """Channels of the notices; their connections are named under ``connections``.

    Attributes:
        slack_channel: Channel in Slack.
        mail_from: Sender of the mails.
        mail_to: Receivers of the mails.
        release: ``automatic``: sent immediately. ``communicator``: each is held until the communicator releases it
            or ``release_minutes`` are over.
        release_minutes: Longest time that a notice is held, in minutes.
    """

    slack_channel: str = "#ops"
    mail_from: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    mail_to: tuple[str, ...] = Field(min_length=1)
    release: Literal["automatic", "communicator"] = "automatic"
    release_minutes: float = Field(default=5, gt=0, le=60)


class Notices(Model):
    """Texts sent to people; each ``<…>`` of ``types.PLACEHOLDERS`` is filled in.

    Attributes:
        start: The run opened, or is scheduled.
        completion: The application is live on PostgreSQL.
        rollback: The run was rolled back.
        cancelled: The migration did not take place.
        freeze: The change freeze begins.
        delay: Half and three quarters of the window are over and the run is not complete.
        deadline: The last moment to go live is reached.
        aftercare: A check after go-live is red.
        closing: The aftercare is over.
    """

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
