"""Fingerprints of the plan, its SQL files and the code that a run belongs to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from include.cutover.errors import PlanInvalid
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan


def of_files(files: Iterable[str | os.PathLike[str]], base: Path) -> str:
    """Return the SHA-256 over the names below ``base`` and the contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(os.fspath(file) for file in files):
        digest.update(path.removeprefix(f"{base}/").encode() + b"\0")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # hundreds of files in each step
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()


def of_plan(plan: Plan) -> str:
    """Return the SHA-256 of a plan, with the environment's values filled in."""
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def of_run(plan: Plan) -> dict[str, str]:
    """Return the fingerprints of the plan, of its SQL folder and of the pipeline's code.

    Every step asks for them before it begins, so they are part of the downtime of each step.
    """
    return {
        "plan": of_plan(plan),
        "sql": of_files(plan.sql_folder.rglob("*.sql"), plan.sql_folder),
        "code": of_files([*_files_below(ROOT / "include" / "cutover"), *_files_below(ROOT / "dags")], ROOT),
    }


def _files_below(folder: str | Path) -> Iterator[str]:
    """Yield the paths of all files below a folder but the interpreter's own; four times as quick as ``Path.rglob``."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _files_below(entry.path)
            elif entry.is_file():
                yield entry.path


def changed(plan_name: str, recorded: Mapping[str, str]) -> list[str]:
    """List which of plan, SQL and code differ from the record; a plan that can no longer be read has changed."""
    try:
        found = of_run(load_plan(plan_name))
    except PlanInvalid:
        found = {}
    return [name for name, fingerprint in recorded.items() if found.get(name) != fingerprint] if found else ["plan"]
