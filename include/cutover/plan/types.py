"""Types of the plan's fields: names, texts, paths and commands, each checked when the plan is read."""

from __future__ import annotations

import codecs
import re
import string
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from include.cutover.places import ROOT

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,40}$"

RESERVED_NAMES = frozenset({"aftercare", "retention", "rehearsals", "schedules"})
"""Folders of the evidence root that do not belong to a plan; a plan must not have such a name."""

PLACEHOLDERS = frozenset({"time", "end", "freeze", "deadline", "lead", "application", "minutes", "reason", "run"})
"""Names that a notice may hold as ``<name>``."""

_PLACEHOLDER = re.compile(r"<([^<>\n]+)>")


class Model(BaseModel):
    """Base of the plan's models: frozen; an unknown key, and a number that is none, are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _known_placeholders(text: str, known: frozenset[str] = PLACEHOLDERS) -> str:
    unknown = sorted(set(_PLACEHOLDER.findall(text)) - known)
    if unknown:
        allowed = ", ".join(f"<{name}>" for name in sorted(known))
        raise ValueError(f"unknown placeholder {', '.join(f'<{name}>' for name in unknown)}; allowed are {allowed}")
    return text


def _without_reason(text: str) -> str:
    return _known_placeholders(text, PLACEHOLDERS - {"reason"})


def _absolute(path: Path) -> Path:
    return path if path.is_absolute() else ROOT / path


def _path_template(text: str) -> str:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"not a valid path: {error}") from None
    if fields - {"key"}:
        raise ValueError(f"unknown field {sorted(fields - {'key'})}; allowed is {{key}}")
    if not text.startswith("/"):
        raise ValueError("a path of the application starts with /")
    return text


def _one_argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("an argument of a command must not hold a NUL character")
    return text


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError("not an encoding that Python knows, such as latin-1 or cp1251") from None
    return name


def _known_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):  # a path, a folder, an unknown name
        raise ValueError("not a time zone of the IANA database, such as Asia/Tbilisi or UTC") from None
    return name


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


Identifier = Annotated[str, Field(pattern=NAME_PATTERN)]

Template = Annotated[str, Field(min_length=1), AfterValidator(_known_placeholders)]

PlainTemplate = Annotated[str, Field(min_length=1), AfterValidator(_without_reason)]  # a notice that gives no reason

AbsolutePath = Annotated[Path, AfterValidator(_absolute)]  # a relative path starts at the project's folder

Reason = Annotated[str, Field(min_length=3)]

UrlPath = Annotated[str, AfterValidator(_path_template)]

Command = Annotated[tuple[Annotated[str, AfterValidator(_one_argument)], ...], Field(min_length=1)]

TimeZone = Annotated[str, AfterValidator(_known_time_zone)]

Encoding = Annotated[str, AfterValidator(_known_encoding)]

RegularExpression = Annotated[str, Field(min_length=1), AfterValidator(_regular_expression)]

Steady: Any = Field(default=1.0, ge=0, le=60, description="Seconds that it must stay running to count as started.")
