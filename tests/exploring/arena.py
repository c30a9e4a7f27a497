"""Shared by all schedules: PostgreSQL, the DAGs, and everything imported, so that a fork finds it there."""

from __future__ import annotations

import gc
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import structlog

from include.cutover.stack.postgres import Cluster, free_port
from tests.exploring.schedules import Result, Schedule
from tests.exploring.site import POSTGRESQL, Site, load_dags, plain_stages


class Arena:
    """A context manager; ``play`` plays schedules one after the other.

    Everything is made in memory where there is such a place, and is gone afterwards.

    Args:
        cluster: A running PostgreSQL; one of its own when left out. Schedules restart it now and then.
    """

    def __init__(self, cluster: Cluster | None = None) -> None:
        self._stack = ExitStack()
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="exploring-", dir=place)))
        self.folder.chmod(0o755)  # other users than the one who runs this own databases here
        self.cluster = cluster or Cluster(self.folder / "postgres", free_port())
        self._own = cluster is None

    def __enter__(self) -> Arena:
        if self._own:
            self.cluster.start(POSTGRESQL)
            self._stack.callback(self.cluster.stop)
        self.dags = load_dags(self.folder / "dags")
        import airflow.providers.postgres.hooks.postgres
        import airflow.providers.sqlite.hooks.sqlite  # noqa: F401

        self._stack.enter_context(plain_stages())
        # Thousands of cutovers have much to tell; what matters stands in their evidence.
        logging.disable(logging.CRITICAL)
        self._stack.callback(logging.disable, logging.NOTSET)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self._stack.callback(structlog.reset_defaults)
        gc.collect()
        gc.freeze()
        self._stack.callback(gc.unfreeze)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def site(self, name: str, *, wal: bool = False) -> Iterator[Site]:
        """A site of its own whose application runs on SQLite; gone after the block."""
        site = Site(self.folder / name, self.cluster, self.dags, wal=wal)
        site.open()
        try:
            yield site
        finally:
            site.close()

    def play(self, seed: int) -> Result:
        """Play the schedule of a seed."""
        folder = self.folder / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        return Schedule(seed, folder, self.cluster, self.dags).play()
