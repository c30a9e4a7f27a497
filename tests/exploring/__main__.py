"""``python -m tests.exploring SCHEDULES [--seed N]``: explore the state machine, and print each seed that fails."""

from __future__ import annotations

import argparse
import collections
import resource
import secrets
import signal
import sys
import time

from include.cutover.stack.processes import exit_on
from tests.exploring.arena import Arena


def main() -> int:
    """Play schedules; the exit status says whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.exploring", description=__doc__)
    parser.add_argument("schedules", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, help="of the first schedule; the others follow. A random one when left out.")
    parser.add_argument("--verbose", action="store_true", help="tell what happens in each schedule")
    given = parser.parse_args()
    exit_on(signal.SIGTERM, signal.SIGINT)
    first = given.seed if given.seed is not None else secrets.randbelow(10**9)
    sys.stdout.write(f"{given.schedules} schedules from seed {first}\n")
    ended: collections.Counter[str] = collections.Counter()
    failed, begun = [], time.monotonic()
    with Arena() as arena:
        for seed in range(first, first + given.schedules):
            result = arena.play(seed)
            ended[result.ended] += 1
            if result.faults:
                failed.append(seed)
            if result.faults or given.verbose:
                sys.stdout.write(f"{result}\n")
                sys.stdout.flush()
    seconds = time.monotonic() - begun
    use = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(item.ru_utime + item.ru_stime for item in use)
    many = max(given.schedules, 1)
    sys.stdout.write(
        f"{seconds / many:.2f} s a schedule, {cpu / many:.2f} s of a processor; ended {dict(ended.most_common())}\n"
    )
    sys.stdout.write(f"failed seeds: {failed or 'none'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
