"""Check that a commit on the target ends: with a synchronous standby that is missing, each one waits for ever."""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg

from include.cutover.preflight.answers import Answer, ExaminedTarget
from include.cutover.target import waits
from include.cutover.target.session import Connection, connect

COMMIT_SECONDS = 5.0
_END_SECONDS = 5.0

# Writes to the write-ahead log and to no table: its commit waits as every other does, and leaves nothing.
_WRITE = "SELECT pg_logical_emit_message(true, 'cutover', '')"


def commits(target: ExaminedTarget) -> Answer:
    """Commit a tiny transaction over a second session, and measure the time until the server confirms it.

    One that waits is cancelled: it has taken place on the server then, which does no harm, and leaves no session behind.
    """
    names, standbys = target.row(
        "SELECT current_setting('synchronous_standby_names'),"
        " (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))"
    )
    expected = f"a commit in {COMMIT_SECONDS:.0f} s"
    with connect(target.conninfo, seconds=5) as trial:
        trial.patience = COMMIT_SECONDS
        pid = waits.backend(trial)
        trial.patience = COMMIT_SECONDS + 3 * _END_SECONDS  # the wait for the commit is ours
        ended = _Commit(trial)
        begun = time.monotonic()
        ended.start()
        ended.join(COMMIT_SECONDS)
        if not ended.is_alive():
            if ended.error is not None:
                raise ended.error
            seconds = time.monotonic() - begun
            behind = f"; {standbys} synchronous standbys" if names and standbys else ""
            return Answer("passed", expected, f"confirmed in {seconds:.1f} s{behind}")
        waits_for = waits.unconfirmed(target.connection, pid)
        doing = target.row(
            "SELECT coalesce(wait_event_type || ' ' || wait_event, state) FROM pg_stat_activity WHERE pid = %s", pid
        )
        _end(target, trial, ended, pid)
    if not waits_for:
        found = f"none in {COMMIT_SECONDS:.0f} s; its session: {doing[0] if doing else 'gone'}"
        do = "Find out in pg_stat_activity and in the server's log why a commit takes so long."
        return Answer("failed", expected, found, do)
    connected = f", {standbys} of them connected" if _sees_standbys(target) else ""
    return Answer("failed", expected, f"a commit waits for a standby: {waits_for}{connected}", waits.REMEDY)


class _Commit(threading.Thread):
    """Commits in a thread of its own.

    Attributes:
        error: Raised by the statement, where it was refused.
    """

    def __init__(self, trial: Connection) -> None:
        super().__init__(name="trial of a commit", daemon=True)
        self._trial = trial
        self.error: psycopg.Error | None = None

    def run(self) -> None:
        """Commit; psycopg is in autocommit mode."""
        try:
            self._trial.execute(_WRITE)
        except psycopg.Error as error:
            self.error = error


def _end(target: ExaminedTarget, trial: Connection, commit: _Commit, pid: int) -> None:
    """End a commit that waits. statement_timeout does not: it is off while a transaction commits."""
    with contextlib.suppress(psycopg.Error):
        target.row("SELECT pg_cancel_backend(%s)", pid)
    commit.join(_END_SECONDS)
    if commit.is_alive():
        with contextlib.suppress(psycopg.Error):
            target.row("SELECT pg_terminate_backend(%s)", pid)
        trial.cut()
        commit.join(_END_SECONDS)


def _sees_standbys(target: ExaminedTarget) -> bool:
    """Return True when the role sees the state of all standbys; to others they seem to have none."""
    (sees,) = target.row(
        "SELECT rolsuper OR pg_has_role('pg_read_all_stats', 'USAGE') FROM pg_roles WHERE rolname = current_user"
    )
    return bool(sees)
