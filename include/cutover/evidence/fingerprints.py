"""Fingerprints of the plan, its SQL files and the code that a run belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from include.cutover.errors import PlanInvalid
from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan


def of_files(files: Iterable[Path], base: Path) -> str:
    """Return the SHA-256 over the names below ``base`` and the contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(base).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def of_plan(plan: Plan) -> str:
    """Return the SHA-256 of a plan, with the environment's values filled in."""
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def of_run(plan: Plan) -> dict[str, str]:
    """Return the fingerprints of the plan, of its SQL folder and of the pipeline's code."""
    code = [
        path
        for folder in (ROOT / "include" / "cutover", ROOT / "dags")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return {
        "plan": of_plan(plan),
        "sql": of_files(plan.sql_folder.rglob("*.sql"), plan.sql_folder),
        "code": of_files(code, ROOT),
    }


def changed(plan_name: str, recorded: Mapping[str, str]) -> list[str]:
    """List which of plan, SQL and code differ from the record; a plan that can no longer be read has changed."""
    try:
        found = of_run(load_plan(plan_name))
    except PlanInvalid:
        found = {}
    return [name for name, fingerprint in recorded.items() if found.get(name) != fingerprint] if found else ["plan"]
