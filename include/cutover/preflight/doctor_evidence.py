"""Check of the evidence's folder by ``doctor``: this user can begin and continue runs there."""

from __future__ import annotations

import os

from include.cutover import rights
from include.cutover.checks import Check
from include.cutover.evidence import second_place
from include.cutover.evidence.record import first_root
from include.cutover.preflight.doctor_site import Site, result
from include.cutover.preflight.writing import write_problem


def evidence_check(site: Site) -> Check:
    """Check that this user can write the plan's evidence, and is the one who owns it: root may do what that user may not.

    A missing folder is not made here: it would belong to the user of this command.
    """
    name, title, root = "evidence_directory", "The evidence can be written", first_root()
    expected = "folders, events, locks and leases that the tasks' user can write"
    if not root.exists():
        above = next(item for item in root.parents if item.exists())
        problem = write_problem(above)
        do = "Let the tasks' user write there, or set CUTOVER_EVIDENCE."
        return result(name, title, not problem, expected, problem or f"it can be made below {above}", do, str(root))
    owner, me = root.stat().st_uid, os.geteuid()
    if me == 0 != owner:
        do = "Run doctor as that user, whose rights decide; or accept it: evidence_directory under accept_unknown."
        found = f"this is {rights.user(me)}, and the evidence belongs to {rights.user(owner)}"
        return result(name, title, None, expected, found, do, str(root))
    problem = second_place.problem(root, root / site.plan.name / "doctor")
    do = "Give these files to the tasks' user (chown): somebody else, often root, ran a command there."
    return result(name, title, not problem, expected, problem or "a file was written", do, str(root))
