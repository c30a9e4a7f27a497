"""Folders beside the backup for copies that a step needs while it runs; they hold the application's rows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from include.cutover.steps.step import Step

_NAMES = "restore-test|clone-[a-z_]+"
"""The restore test's, and those of the steps that read a clone of the live file."""


def of(step: Step, name: str) -> Path:
    """Return a new, empty folder of the step's run; what a killed attempt left there is removed."""
    folder = step.plan.backup.directory / f".{name}-{step.evidence.folder.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    return folder


def remove(step: Step) -> None:
    """Remove every such folder of the run: the last attempt of a step may have been killed."""
    own = re.compile(rf"\.({_NAMES})-{re.escape(step.evidence.folder.name)}")
    for folder in step.plan.backup.directory.glob(".*"):
        if own.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
