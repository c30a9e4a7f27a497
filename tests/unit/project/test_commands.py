"""docs/commands.md lists every command, option, target and variable, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from include.cutover.cli.main import app
from include.cutover.places import ROOT

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ABOUT_COMMANDS, ABOUT_TARGETS = PAGE.partition("\n## make\n")[::2]


def rows(text: str) -> dict[str, list[str]]:
    """First cell to the others, of every row whose first cell is code."""
    lines = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, re.MULTILINE)
    found = {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in lines}
    assert len(found) == len(lines), "a row stands twice"
    return found


def code(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its path; groups only lead to them."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield " ".join(path), command
    for name, each in inner.items():
        yield from commands(each, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def targets() -> dict[str, str]:
    """Every target of the Makefile, with its recipe."""
    blocks = re.split(r"^(?=[a-z-]+:)", MAKEFILE, flags=re.MULTILINE)[1:]
    return {block.partition(":")[0]: block for block in blocks}


def test_every_command_is_on_the_page_and_no_other() -> None:
    assert set(rows(ABOUT_COMMANDS)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_on_the_page_and_no_other(name: str) -> None:
    options, needed = set(), set()
    for parameter in COMMANDS[name].params:
        if parameter.name == "help":
            continue
        flag = parameter.param_type_name == "argument" and parameter.name.upper()
        shown = flag or (parameter.secondary_opts or parameter.opts)[0]
        options.add(shown)
        if parameter.required:
            needed.add(shown)
    cell = rows(ABOUT_COMMANDS)[name][0]
    assert code(cell) == options
    assert code(cell.partition("[")[0]) | code(cell.partition("]")[2]) == needed, "options in brackets may be left out"


def test_every_target_of_the_makefile_is_on_the_page_and_no_other() -> None:
    phony = MAKEFILE.partition(".PHONY: ")[2].split("\n", 1)[0].split()
    assert set(rows(ABOUT_TARGETS)) == set(targets()) == set(phony)


@pytest.mark.parametrize("name", targets())
def test_every_variable_of_a_target_is_on_the_page_and_no_other(name: str) -> None:
    own = {"PYTHON", "PY", "CURDIR", "MAKEFILE_LIST"}
    used = set(re.findall(r"\$\((?:if \$\()?([A-Z_]+)\b", targets()[name])) - own
    assert code(rows(ABOUT_TARGETS)[name][0]) == used
