"""The wall clock of Airflow's processes, set while they run; elapsed time goes on evenly, as on a real host.

A small library stands between the processes and the system's clock (``hooks/wall_clock.c``, built where it is needed). It
reads the offset from a file at every look at the clock, so a cell sets the clock of all processes at once, in the middle of
a step. libfaketime can do that too, but Airflow does not come up under it: with only the wall clock faked, it refuses the
absolute times of CLOCK_MONOTONIC with which Python sleeps.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.faults.site import FaultSite
from tests.faults.trial import NotTried

_SOURCE = Path(__file__).parent / "hooks" / "wall_clock.c"
_COMPONENTS = ("scheduler", "api-server", "dag-processor")


class WallClock:
    """The clock of Airflow's processes.

    Args:
        folder: Of the library and the file with the offset.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._file = folder / "offset"
        self._library = library(folder)
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the clock that far ahead of the system's; negative sets it back."""
        temporary = self._file.with_suffix(".new")
        temporary.write_text(str(seconds))
        temporary.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that put a process under this clock."""
        return {"LD_PRELOAD": str(self._library), "WALL_CLOCK": str(self._file)}


def library(folder: Path) -> Path:
    """Return the library, built in that folder.

    Raises:
        NotTried: When there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NotTried("the clock cannot be set: there is no C compiler; apt-get install gcc libc6-dev")
    built = folder / "wall_clock.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", str(built), str(_SOURCE)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotTried(f"the clock cannot be set, the library cannot be built: {done.stderr.strip()[:200]}")
    return built


@contextlib.contextmanager
def wall_clock(site: FaultSite) -> Iterator[WallClock]:
    """Start Airflow again under a clock that can be set; after the block it runs under the system's again.

    Raises:
        NotTried: When there is no C compiler.
    """
    clock = WallClock(site.folder / "wall_clock")
    site.stack._environment.update(clock.environment)
    try:
        _start_again(site)
        yield clock
    finally:
        clock.set(0)
        for name in clock.environment:
            site.stack._environment.pop(name, None)
        _start_again(site)


def _start_again(site: FaultSite) -> None:
    for leader in [leader for leader in site.stack.roster.running if leader.name in _COMPONENTS]:
        site.kill(leader)
    site.ensure_airflow()
