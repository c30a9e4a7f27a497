"""Other users than the one who runs the tests: the application's, the pipeline's, a stranger. Only root can become them."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.exploring.arena import Arena
from tests.exploring.site import Site
from tests.exploring.walking import Attempt

_PR_SET_DUMPABLE = 4


@dataclass(frozen=True)
class User:
    """A user of this host, who need not have an account.

    Attributes:
        groups: Further groups of the user.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def become(self) -> None:
        """Turn this process into one of the user. There is no way back."""
        os.setgroups([self.gid, *self.groups])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        # Without it, the files of this process in /proc would stay root's.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        os.umask(0o022)

    def own(self, *paths: Path, group: int | None = None) -> None:
        """Give each path, and everything below it, to the user."""
        for path in paths:
            for item in (path, *path.rglob("*")):
                os.chown(item, self.uid, self.gid if group is None else group, follow_symlinks=False)


SHARED = 62_009
PIPELINE = User(62_001, 62_001, (SHARED,))
"""The user of Airflow's workers: owns the database, the configuration, the evidence and the backups."""

APPLICATION = User(62_002, 62_002, (SHARED,))
"""The user of the application: writes into the database by the group that both are in."""

STRANGER = User(62_003, 62_003)


def warm_up(arena: Arena) -> None:
    """Play a cutover and its rollback here: other users may not read this Python, so it imports everything before."""
    with arena.site("warm-up") as site:
        site.trigger("one")
        site.world.walk()
        site.trigger_rollback("back", "one")
        site.world.walk()


@contextmanager
def site_of_users(arena: Arena, name: str, *, wal: bool = False) -> Iterator[Site]:
    """A site whose application runs as one user and whose steps run as another; PostgreSQL runs as a third.

    Database and configuration belong to the pipeline's user and to the group that both share.
    """
    site = Site(arena.folder / name, arena.cluster, arena.dags, wal=wal)
    for folder in ("etc", "logs", "evidence", "backups", "second", "second_evidence"):
        (site.folder / folder).mkdir()
    for path in (site.shop.journal.file, site.world.log):
        path.touch()
        path.chmod(0o666)
    site.shop.write_configuration()
    PIPELINE.own(*(site.folder / folder for folder in ("evidence", "backups", "second", "second_evidence")))
    PIPELINE.own(site.shop.database.parent, site.shop.configuration.parent, group=SHARED)
    site.shop.database.parent.chmod(0o2775)
    site.shop.database.chmod(0o660)
    APPLICATION.own(site.folder / "logs")
    site.shop.become = APPLICATION.become
    site.world.prepare = PIPELINE.become
    site.open()
    os.environ["CUTOVER_EVIDENCE_SECOND"] = str(site.folder / "second_evidence")
    try:
        yield site
    finally:
        site.close()


def command_as(site: Site, user: User | None, action: Callable[[], object], **more: object) -> Attempt:
    """Carry out a command as another user, as root where there is none, and wait for its end."""
    before, site.world.prepare = site.world.prepare, None if user is None else user.become
    try:
        attempt = site.world.command("a command", action, **more)  # type: ignore[arg-type]
        site.world.walk()
    finally:
        site.world.prepare = before
    return attempt


def take(path: Path, mode: int) -> None:
    """Give a path to root, as somebody does who works as root."""
    os.chown(path, 0, 0)
    path.chmod(mode)


def rights(path: Path) -> tuple[int, int, int]:
    """Return owner, group and mode of a file."""
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
