"""The lease of a plan: only its holder may act. It is a file beside the evidence, so it works with PostgreSQL down.

The ledger in the target holds the same lease for everything that changes the target (see ``target.ledger``). The file is
written under a kernel lock and replaced atomically.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from include.cutover.errors import LeaseLost, Refused
from include.cutover.evidence.record import Evidence, evidence_root, unreadable
from include.cutover.files import disk_errors, now, write_atomically
from include.cutover.locks import locked


@dataclass(frozen=True)
class Lease:
    """A lease of a plan.

    Attributes:
        subject: Run id of the cutover that the holder works on.
        holder: ``<dag id>/<run id>`` of the run that may act.
        epoch: Grows with every change of holder.
        since: When the holder got it, UTC.
    """

    subject: str
    holder: str
    epoch: int
    since: str


def _path(plan: str) -> Path:
    return evidence_root() / plan / "lease.json"


def read(plan: str) -> Lease | None:
    """Return the lease of a plan, None if it was never held.

    Raises:
        CannotCheck: When this user may not read it.
    """
    try:
        return Lease(**json.loads(_path(plan).read_text()))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise unreadable(_path(plan), error) from None


def _write(plan: str, lease: Lease) -> Lease:
    with disk_errors(_path(plan)):
        write_atomically(_path(plan), json.dumps(asdict(lease)).encode())
    return lease


def acquire(plan: str, subject: str, holder: str) -> Lease:
    """Acquire the lease for a new cutover; a second call by the same holder gives the same lease.

    Raises:
        Refused: While another run of the plan is open.
    """
    with locked(_path(plan).with_name(".lease.lock"), brief=True):
        current = read(plan)
        if current is not None and current.holder == holder:
            return current
        if current is not None and Evidence.of(plan, current.subject).exists:
            other = Evidence.of(plan, current.subject)
            if other.sealed is None:
                raise Refused(
                    "another run of this plan is open",
                    where=f"plan {plan}",
                    expected="no other run",
                    found=f"{current.holder}, since {current.since}",
                    do="Wait for its end, or roll it back with the rollback DAG.",
                )
        return _write(plan, Lease(subject, holder, (current.epoch if current else 0) + 1, now()))


def take_over(plan: str, subject: str, holder: str) -> Lease:
    """Acquire the lease, whichever run holds it now; the previous holder can do nothing more. Safe to call again."""
    with locked(_path(plan).with_name(".lease.lock"), brief=True):
        current = read(plan)
        if current is not None and current.holder == holder and current.subject == subject:
            return current
        return _write(plan, Lease(subject, holder, (current.epoch if current else 0) + 1, now()))


@contextmanager
def unchanged(plan: str) -> Iterator[Lease | None]:
    """Yield the lease, which no other run can take while the block runs. It must be brief: all steps wait for it."""
    with locked(_path(plan).with_name(".lease.lock"), brief=True):
        yield read(plan)


def holds(plan: str, subject: str, holder: str) -> bool:
    """Report whether ``holder`` has the lease for ``subject`` now."""
    current = read(plan)
    return current is not None and (current.subject, current.holder) == (subject, holder)


def check(plan: str, subject: str, holder: str) -> Lease:
    """Return the lease if ``holder`` still has it for ``subject``.

    Raises:
        LeaseLost: When it does not.
    """
    current = read(plan)
    if current is None or (current.subject, current.holder) != (subject, holder):
        raise LeaseLost(
            "this run no longer holds the lease",
            where=f"plan {plan}",
            expected=f"{holder} to hold the lease",
            found=f"{current.holder} holds it since {current.since}" if current else "a free lease",
            do="This step changed nothing. Follow the run that holds the lease.",
        )
    return current
