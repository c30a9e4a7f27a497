"""Commands take their options as one value, and the help of each says its exit statuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from include.cutover.cli.main import app
from include.cutover.cli.options import from_options


@dataclass(frozen=True)
class Order:
    """Options of a command."""

    dish: Annotated[str, typer.Option(help="Name of the dish.")]
    plates: Annotated[int, typer.Option(help="Number of plates.")] = 1
    hot: Annotated[bool, typer.Option("--hot", help="Serve it hot.")] = False


def test_the_fields_become_options_with_their_defaults() -> None:
    taken: list[Order] = []
    command = typer.Typer()

    @command.command()
    @from_options(Order)
    def serve(order: Order) -> None:
        """Serve a dish."""
        taken.append(order)

    for words in (["--dish", "khinkali"], ["--dish", "lobio", "--plates", "3", "--hot"]):
        assert CliRunner().invoke(command, words).exit_code == 0
    assert taken == [Order("khinkali"), Order("lobio", 3, True)]
    assert CliRunner().invoke(command, []).exit_code == 2
    told = CliRunner().invoke(command, ["--help"]).output
    assert "Serve a dish." in told and "Name of the dish." in told


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name.strip(), command
        return
    for child, found in children.items():
        yield from commands(found, f"{name} {child}")


@pytest.mark.parametrize(("name", "command"), list(commands(typer.main.get_command(app))))
def test_the_help_of_every_command_says_its_exit_statuses(name: str, command: Any) -> None:
    assert "Exit status: 0 " in command.help, name
    assert all(option.help for option in command.params), name
