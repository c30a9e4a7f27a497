"""Types of the plan's fields: names, templates, paths and commands that are checked when the plan is read."""

from __future__ import annotations

import codecs
import re
import string
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
)

from include.cutover.places import ROOT

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,40}$"


Identifier = Annotated[str, Field(pattern=NAME_PATTERN)]


Placeholders = frozenset({"time", "end", "freeze", "deadline", "lead", "application", "minutes", "reason", "run"})


_PLACEHOLDER = re.compile(r"<([^<>\n]+)>")


def _known_placeholders(text: str, known: frozenset[str] = Placeholders) -> str:
    unknown = sorted(set(_PLACEHOLDER.findall(text)) - known)
    if unknown:
        allowed = ", ".join(f"<{name}>" for name in sorted(known))
        raise ValueError(f"unknown placeholder {', '.join(f'<{name}>' for name in unknown)}; allowed are {allowed}")
    return text


def _without_reason(text: str) -> str:
    return _known_placeholders(text, Placeholders - {"reason"})


def _absolute(path: Path) -> Path:
    return path if path.is_absolute() else ROOT / path


def _path_template(text: str) -> str:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"not a usable path: {error}") from None
    if fields - {"key"}:
        raise ValueError(f"unknown field {sorted(fields - {'key'})}; allowed is {{key}}")
    if not text.startswith("/"):
        raise ValueError("a path of the application starts with /")
    return text


def _one_argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("an argument of a command holds no NUL")
    return text


def known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError("not an encoding that Python knows, such as latin-1 or cp1251") from None
    return name


Template = Annotated[str, Field(min_length=1), AfterValidator(_known_placeholders)]


PlainTemplate = Annotated[str, Field(min_length=1), AfterValidator(_without_reason)]  # for what has no reason to tell


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


Reason = Annotated[str, Field(min_length=3)]


UrlPath = Annotated[str, AfterValidator(_path_template)]


Command = Annotated[tuple[Annotated[str, AfterValidator(_one_argument)], ...], Field(min_length=1)]


Steady: Any = Field(default=1.0, ge=0, le=60, description="How long it must be seen running before it counts as started.")


class Model(BaseModel):
    """Frozen, and an unknown key is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")
