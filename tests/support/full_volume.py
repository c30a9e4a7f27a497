"""A PostgreSQL whose whole data directory lies on a small disk: it fills, and the write-ahead log cannot grow."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from include.cutover.stack.postgres import Cluster, free_port
from tests.support.full_disk import fill, small_disk

SEGMENT = 16 << 20
"""Bytes of a file of the write-ahead log, as initdb makes it."""

LITTLE_LOG = {"max_wal_size": "48MB", "min_wal_size": "32MB", "checkpoint_timeout": "1h"}
"""Settings: what earlier tests wrote does not stay on the disk."""


class FullVolume:
    """A running server on a disk of its own.

    Args:
        place: Where the disk is mounted; the server's data, its output and its password lie below.
        cluster: The server.
        start: Starts it.
    """

    def __init__(self, place: Path, cluster: Cluster, start: Callable[[], object]) -> None:
        self.place = place
        self.cluster = cluster
        self._start = start
        self._filler: Path | None = None

    def start(self) -> None:
        """Start the server, unless it runs."""
        if self.cluster.postmaster() is None:
            self._start()

    def fill(self, wal: int | None = None) -> None:
        """Leave no byte free; or ``wal`` bytes to write in the log until it needs a new file, for which there is no room.

        A standby that never came keeps every file of the log, as it does on many a full volume: no checkpoint frees one.
        Tables can still grow a little then.
        """
        if wal is None:
            self._filler = fill(self.place)
            return
        # Others who write meanwhile may end the server before this is through.
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(self.cluster.conninfo(), autocommit=True) as connection,
        ):
            connection.execute("SELECT pg_create_physical_replication_slot('never_came', true)")
            self._filler = fill(self.place)
            os.truncate(self._filler, self._filler.stat().st_size - SEGMENT // 2)
            for _ in range(self._files_ahead(connection)):
                connection.execute("SELECT pg_logical_emit_message(false, 'test', 'x', true)")
                connection.execute("SELECT pg_switch_wal()")
            connection.execute("SELECT pg_logical_emit_message(false, 'test', 'x', true)")
            row = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
            assert row is not None
            left = SEGMENT - row[0] % SEGMENT
            # Each page of the log has a header of 24 bytes.
            size = int((left - wal) * (8192 - 24) / 8192) - 100
            if size > 0:
                connection.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', %s), true)", [size])

    def _files_ahead(self, connection: psycopg.Connection) -> int:
        row = connection.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
        assert row is not None
        names = [path.name for path in (self.cluster.folder / "data" / "pg_wal").iterdir() if len(path.name) == 24]
        return sum(name > row[0] for name in names)

    @property
    def is_down(self) -> bool:
        """Return True when no server runs."""
        return self.cluster.postmaster() is None

    def free(self) -> None:
        """Make room; the server is left as it is."""
        if self._filler is not None:
            self._filler.unlink(missing_ok=True)
            self._filler = None

    def mend(self) -> None:
        """Make room, and let the server run with no standby that keeps its log."""
        self.free()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            self.start()
            with contextlib.suppress(psycopg.OperationalError):
                with psycopg.connect(self.cluster.conninfo(), autocommit=True) as connection:
                    connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
                    connection.execute("CHECKPOINT")
                return
            time.sleep(0.1)
        raise AssertionError("the server did not come back")


@contextlib.contextmanager
def full_volume(place: Path, megabytes: int, settings: dict[str, str]) -> Iterator[FullVolume]:
    """A server on a disk of that size, both gone after the block. Skips where nothing may be mounted."""
    with small_disk(place, megabytes):
        cluster = Cluster(place / "server", free_port())
        volume = FullVolume(place, cluster, lambda: cluster.start({**settings, **LITTLE_LOG}))
        volume.start()
        try:
            yield volume
        finally:
            volume.free()
            cluster.stop()
