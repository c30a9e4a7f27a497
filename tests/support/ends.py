"""The two ends of a cutover and the ways to people, without Airflow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from include.cutover.connections.commands import Runner
from include.cutover.people.identities import Identities
from include.cutover.people.notices import Channel
from include.cutover.plan.model import Plan

UNREACHABLE = "host=127.0.0.1 port=1 user=nobody dbname=x connect_timeout=1"
"""A connection string behind which there is no server."""

APPLICATION_URL = "postgresql+psycopg://app@127.0.0.1/x"


@dataclass
class Mailbox:
    """A channel that keeps the notices it gets as pairs of subject and text.

    Attributes:
        error: Raised by every delivery, where it is set.
        wait_for: Every delivery waits for it first, for 30 s at most.
    """

    name: str
    error: Exception | None = None
    wait_for: threading.Event | None = None
    got: list[tuple[str, str]] = field(default_factory=list)

    def send(self, subject: str, text: str, *, reached: frozenset[str] = frozenset()) -> None:
        if self.wait_for is not None:
            self.wait_for.wait(30)
        if self.error is not None:
            raise self.error
        self.got.append((subject, text))

    @property
    def subjects(self) -> list[str]:
        """The subjects without the application's name."""
        return [subject.partition(": ")[2] for subject, _ in self.got]


class FakeEnds:
    """Ends of which a test names those that its steps need; a step that needs any other fails the test.

    Args:
        source: The SQLite file.
        target: libpq connection string of the target.
        role: Role of the application in the target.
        url: URL that goes into the application's configuration.
        channels: Names of the channels; each is a mailbox in ``boxes``.
        remote: Connects to a host of the plan, by the id of its connection.
    """

    def __init__(
        self,
        source: Path,
        target: str | None = None,
        *,
        role: str | None = None,
        url: str | None = None,
        channels: Sequence[str] = (),
        remote: Callable[[str], Runner] | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.role = role
        self.url = url
        self.boxes = {name: Mailbox(name) for name in channels}
        self._remote = remote

    def source_path(self, plan: Plan) -> Path:
        return self.source

    def target_conninfo(self, plan: Plan, application_name: str) -> str:
        assert self.target is not None, "this test gives its steps no target"
        return self.target

    def application_role(self, plan: Plan) -> str | None:
        return self.role

    def application_url(self, plan: Plan) -> str:
        assert self.url is not None, "this test gives its steps no URL of the application"
        return self.url

    def channels(self, plan: Plan) -> Sequence[Channel]:
        return list(self.boxes.values())

    def remote(self, plan: Plan, connection: str) -> Runner:
        assert self._remote is not None, "everything is on this host"
        return self._remote(connection)

    def identities(self) -> Identities:
        return Identities({"lead": "1", "observer": "2", "communicator": "3"}, "", "")
