"""The house: sizes of modules and functions, packages that say what lives in them, and names that hide nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from include.cutover.places import ROOT

MODULE_LINES, FUNCTION_LINES, PARAMETERS = 500, 60, 8
DOCUMENTED = 4
"""A public function with so many parameters documents them."""

DOCUMENTED_BY_RUNNER = {"connections/commands.py": "run", "connections/ssh.py": "run"}
"""Methods that implement ``Runner.run``, whose docstring they refer to."""
PRODUCT = ("include", "dags", "plugins")
PACKAGE = ROOT / "include" / "cutover"
AT_THE_TOP = {"__init__", "__main__", "checks", "errors", "files", "locks", "masking", "places", "rights"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[Path, ast.Module]:
    files = [file for folder in PRODUCT for file in sorted((ROOT / folder).rglob("*.py"))]
    return {file.relative_to(ROOT): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def functions() -> Iterator[tuple[str, Function]]:
    for file, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{file}:{node.lineno} {node.name}", node


def parameters(function: Function) -> int:
    """Number of parameters of a function; ``self`` and ``cls`` do not count."""
    names = [item.arg for item in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]]
    return len(names) - (bool(names) and names[0] in ("self", "cls"))


def packages() -> list[Path]:
    return sorted(file.parent for file in PACKAGE.rglob("__init__.py"))


def test_no_module_is_longer_than_a_reader_keeps_in_mind() -> None:
    lengths = {str(file): len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in modules()}
    assert {file: lines for file, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_no_function_is_longer_than_a_page() -> None:
    lengths = {name: (node.end_lineno or node.lineno) - node.lineno + 1 for name, node in functions()}
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES} == {}


def test_no_function_has_too_many_parameters() -> None:
    counts = {name: parameters(node) for name, node in functions()}
    assert {name: count for name, count in counts.items() if count > PARAMETERS} == {}


def test_public_functions_document_their_parameters() -> None:
    found = []
    for file, tree in modules().items():
        owners: list[ast.Module | ast.ClassDef] = [tree]
        owners += [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        for owner in owners:
            for node in owner.body:
                if not isinstance(node, Function) or node.name.startswith("_") or parameters(node) < DOCUMENTED:
                    continue
                if DOCUMENTED_BY_RUNNER.get("/".join(file.parts[-2:])) == node.name:
                    continue
                if "Args:" not in (ast.get_docstring(node) or ""):
                    found.append(f"{file}:{node.lineno} {node.name}")
    assert found == []


def test_only_what_belongs_to_everything_lies_at_the_top() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} <= AT_THE_TOP


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.relative_to(PACKAGE.parent).as_posix())
def test_package_says_what_lives_in_it_and_exports_nothing(package: Path) -> None:
    tree = modules()[(package / "__init__.py").relative_to(ROOT)]
    assert ast.get_docstring(tree), "the package has no docstring"
    if package.name == "validation_site":  # expectations that Great Expectations loads by this name
        return
    assert [node for node in tree.body if not isinstance(node, ast.Expr | ast.ImportFrom)] == []
    assert [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != "__future__"] == []


def test_no_private_name_is_imported() -> None:
    found = [
        f"{file}:{node.lineno} {alias.name}"
        for file, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("include.")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert found == []
