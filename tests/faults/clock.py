"""The wall clock of Airflow's processes, set by libfaketime while they run; elapsed time goes on evenly, as on a real host.

libfaketime stands between a process and the system's clock (Debian's package ``faketime``). It reads the offset from a file
at every look at the clock, so a test can set the clock of all processes at once, in the middle of a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.faults.site import FaultSite
from tests.faults.trial import NotTried

LIBRARIES = tuple(f"/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1" for machine in ("x86_64", "aarch64"))
_COMPONENTS = ("scheduler", "api-server", "dag-processor")


class WallClock:
    """The clock of Airflow's processes.

    Args:
        file: The offset, in libfaketime's words.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: float) -> None:
        """Set the clock that far ahead of the system's; negative sets it back."""
        temporary = self._file.with_suffix(".new")
        temporary.write_text(f"{seconds:+.0f}")
        temporary.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that put a process under this clock."""
        return {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }


def library() -> str:
    """Return the path of libfaketime.

    Raises:
        NotTried: When it is not installed.
    """
    found = next((path for path in LIBRARIES if Path(path).exists()), None)
    if found is None:
        raise NotTried("libfaketime is not installed: apt-get install faketime")
    return found


@contextlib.contextmanager
def wall_clock(site: FaultSite) -> Iterator[WallClock]:
    """Start Airflow again under a clock that can be set; after the block it runs under the system's again.

    Raises:
        NotTried: When libfaketime is not installed.
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
    for name in _COMPONENTS:
        site.kill(site.leader(name))
    site.ensure_airflow()
