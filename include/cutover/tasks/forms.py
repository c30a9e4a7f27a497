"""Fields of the trigger forms that several DAGs share, and the two kinds of field that most of the others are."""

from __future__ import annotations

from airflow.sdk import Param


def text(title: str, description: str, *, default: str | None = None, longest: int = 500) -> Param:
    """Return a required text of at least three characters.

    Args:
        title: Shown above the field.
        description: Shown below the field.
        default: Filled in at first; the field is empty when left out.
        longest: Characters at most.
    """
    given = () if default is None else (default,)
    return Param(*given, type="string", minLength=3, maxLength=longest, title=title, description=description)


def optional(title: str, description: str, *, longest: int = 250, **schema: str) -> Param:
    """Return a text that may be left empty."""
    return Param(None, type=["null", "string"], maxLength=longest, title=title, description=description, **schema)


def number(title: str, description: str) -> Param:
    """Return a whole number, 0 or more, that may be left empty."""
    return Param(None, type=["null", "integer"], minimum=0, title=title, description=description)


def choice(title: str, description: str, *options: str) -> Param:
    """Return a choice; the first option is the default."""
    return Param(options[0], type="string", enum=list(options), title=title, description=description)


def tick(title: str, description: str, *, default: bool) -> Param:
    """Return a box to tick."""
    return Param(default, type="boolean", title=title, description=description)


def window_start(description: str) -> Param:
    """Return the start of the window, which may be left empty."""
    return Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Start of the window",
        description=description,
    )


def approve(description: str) -> Param:
    """Return the choice between asking people and automatic approval."""
    return choice("Approval", description, "ask", "auto")


def notify() -> Param:
    """Return the box that sends the notices."""
    return tick("Send notices", "Off: notices are written into the evidence only.", default=True)
