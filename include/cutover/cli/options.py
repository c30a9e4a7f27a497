"""Options that several commands share, and how a command takes its options as one value."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from include.cutover.errors import Refused

URL_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"

PlanName = Annotated[str, typer.Option("--plan", help="Name of the plan: a file in include/plans, without .yaml.")]
# readable=False: the commands themselves say why a file cannot be read, and whose it is.
SourceFile = Annotated[Path, typer.Option(readable=False, help="SQLite file of the application.")]
ReadOnlySource = Annotated[Path, typer.Option(readable=False, help="SQLite file of the application; it is not changed.")]
TargetUrl = Annotated[str, typer.Option(help=URL_FORM)]
TargetOrEnvironment = Annotated[
    str | None, typer.Option(help=f"{URL_FORM}; from AIRFLOW_CONN_… in the environment when left out.")
]
MovedSource = Annotated[
    Path | None, typer.Option(readable=False, help="SQLite file of the application; its path in the evidence when left out.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
By = Annotated[str, typer.Option(help="Your name, for the evidence; your log-in when left out.")]

Options = TypeVar("Options")


def from_options(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Build a command that takes its options as one frozen value.

    Args:
        options: A dataclass; its fields become the options of the command.
    """
    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(options)  # type: ignore[arg-type]
    ]

    def decorate(body: Callable[[Options], None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            body(options(**given))

        command.__name__, command.__doc__, command.__annotations__ = body.__name__, body.__doc__, hints
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def sentence(reason: str) -> str:
    """Return a reason without surrounding blanks.

    Raises:
        Refused: When it is too short to be one.
    """
    if len(reason.strip()) < 3:
        raise Refused("the reason is too short", where="--reason", expected="a ticket or a sentence")
    return reason.strip()
