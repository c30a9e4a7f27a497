"""The runbook, the examples in the documents, and CI: everything that they name exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from include.cutover.cli.main import app
from include.cutover.places import ROOT
from include.cutover.plan.file import parse_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
WARD_OPS = yaml.safe_load((ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8"))


def rows() -> list[list[str]]:
    """The table's rows: line, what does it, proof."""
    lines = [line for line in RUNBOOK.splitlines() if line.startswith("| ") and not line.startswith("| line ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named(kind: str) -> set[str]:
    return set(re.findall(rf"\b{kind} `([^`]+)`", RUNBOOK))


@cache
def source(*folders: str) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for folder in folders for file in sorted((ROOT / folder).glob("*.py")))


def test_every_line_of_the_runbook_has_what_does_it_and_a_proof() -> None:
    assert len(rows()) > 45
    for row in rows():
        assert len(row) == 3 and all(row), row
        assert re.search(r"`tests/[\w/]+\.py", row[2]), f"no proof: {row[0]}"
        assert "`" in row[1], f"nothing does it: {row[0]}"


def missing() -> set[str]:
    """Return the names in the runbook that do not exist."""
    found = set()
    dags = source("dags", "include/cutover/tasks")
    steps = {name for row in runbook.ROWS for name in (row.name, row.name.rpartition(".")[2])}
    tasks = (named("task") | named("gate") | named("task group")) - steps
    found |= {name for name in tasks if f'"{name}"' not in dags}
    found |= {name for name in named("DAG") if not (ROOT / "dags" / f"{name.removesuffix('_<plan>')}.py").is_file()}
    commands = getattr(typer.main.get_command(app), "commands", {})
    found |= named("command") - set(commands)
    found |= {name for name in named("page") if not (ROOT / name).is_file()}
    found |= {name for name in named("plan") if not in_plan(name.split("."))}
    for name in re.findall(r"`(tests/[^`]+)`", RUNBOOK):
        file, _, test = name.partition("::")
        if not (ROOT / file).is_file():
            found.add(file)
        elif test and test not in functions(ROOT / file):
            found.add(name)
    return found


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def in_plan(path: list[str], model: Any = Plan) -> bool:
    """Return True when a key is one of the plan's; ``<…>`` stands for any name."""
    if not path:
        return True
    models = [item for item in _models(model) if path[0] in item.model_fields]
    rest = path[2:] if path[1:] and path[1].startswith("<") else path[1:]
    return any(in_plan(rest, item.model_fields[path[0]].annotation) for item in models)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]


def test_everything_that_the_runbook_names_is_there() -> None:
    assert missing() == set(), f"not there: {sorted(missing())}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("task", "check_the_moon"),
        ("DAG", "moon_<plan>"),
        ("command", "moon"),
        ("plan", "window.moon"),
        ("page", "docs/moon.md"),
    ],
)
def test_a_name_that_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    monkeypatch.setattr(f"{__name__}.RUNBOOK", f"{kind} `{name}`; `tests/unit/project/test_documents.py::test_moon`")
    assert missing() == {name, "tests/unit/project/test_documents.py::test_moon"}


def test_ci_runs_what_the_script_runs() -> None:
    script = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    workflow = yaml.safe_load(WORKFLOW)
    checks, rehearsal = workflow["jobs"]["checks"], workflow["jobs"]["rehearsal"]
    run = [step["run"] for step in checks["steps"] if "run" in step]
    assert run == ["make setup", *script]
    # A demo with THEN=rollback or FAIL= does not end live, so its status is not 0.
    assert [step["run"] for step in rehearsal["steps"] if "run" in step] == ["make setup", "make demo"]
    targets = (ROOT / "Makefile").read_text().partition(".PHONY: ")[2].split("\n", 1)[0].split()
    for job in (checks, rehearsal):
        assert job["timeout-minutes"] <= 60
        steps = job["steps"]
        assert all(step["run"].split()[1] in targets for step in steps if "run" in step)
        (python,) = [step for step in steps if step.get("uses", "").startswith("actions/setup-python@")]
        assert python["with"]["python-version"] == "3.11"
        assert any(step.get("uses", "").startswith("actions/cache@") for step in steps)
    assert workflow["permissions"] == {"contents": "read"}


def test_the_hooks_and_the_makefile_run_the_same() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"], "versions are those of the lock"
    entries = [hook["entry"] for hook in hooks[0]["hooks"]]
    makefile = (ROOT / "Makefile").read_text().replace("$(PY)", ".venv/bin/python")
    for wanted in (".venv/bin/python -m ruff check", ".venv/bin/python -m ruff format", ".venv/bin/python -m mypy",
                   ".venv/bin/lint-imports"):  # fmt: skip
        assert wanted in makefile and any(entry.startswith(wanted) for entry in entries), wanted


def test_dependabot_looks_after_the_locks() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "github-actions"}


def test_the_licence_is_what_the_project_says() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()


def with_tables(block: dict[str, Any]) -> dict[str, Any]:
    """The plan of Ward OPS with the keys of an example in it."""
    tables = {name: {**(WARD_OPS["tables"][name] or {}), **settings} for name, settings in block.get("tables", {}).items()}
    return {**WARD_OPS, **block, "tables": {**WARD_OPS["tables"], **tables}}


@pytest.mark.parametrize("page", ["access.md", "doctor.md", "new-application.md", "operating.md", "services.md"])
def test_every_example_of_a_page_is_a_plan_s(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        parse_plan(yaml.safe_dump(with_tables(yaml.safe_load(block)), allow_unicode=True), page, {})
