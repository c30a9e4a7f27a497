"""Finds passwords in a plan. A plan must not hold one: it is kept with the evidence of every run."""

from __future__ import annotations

import re
from typing import Any

_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s:@'\"]*:([^\s@'\"]+)@")
_IN_TEXT = re.compile(r"(?i)(?:^|[^A-Za-z_])(?:PG)?pass(?:word|wd)\s*=\s*('[^']+'|[^\s'\"{}]+)")
_KEY = re.compile(r"(?i)(?:^|[_.-])(?:password|passwd|passphrase|pwd|api_?key|secret_?key|access_?key|token)$")
_PLACEHOLDER = re.compile(r"\{\w+\}")
_NAMES_ONLY = ("tables", "ignored_tables", "source_objects")  # whose keys are names of the application's own


def passwords(data: Any) -> tuple[list[str], set[str]]:
    """Find the passwords in a plan.

    Returns:
        A fault for each, which does not repeat the password, and the values that hold them.
    """
    faults: list[str] = []
    values: set[str] = set()

    def look(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                look(item, (*path, str(key)))
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                look(item, (*path, str(number)))
        elif isinstance(value, str | int) and not isinstance(value, bool) and (found := _holds(str(value), path)):
            values.add(str(value))
            faults.append(
                f"{'.'.join(path)}: {found}; a plan is kept with the evidence of every run. Name the place of the secret:"
                " a connection, an environment variable or a file"
            )

    look(data, ())
    return faults, values


def _holds(text: str, path: tuple[str, ...]) -> str:
    url = _IN_URL.search(text)
    if url is not None and not _PLACEHOLDER.fullmatch(url[1]):
        return "a URL with a password"
    if _IN_TEXT.search(text):
        return "a text with a password"
    if path[0] not in _NAMES_ONLY and _KEY.search(path[-1]) and text and not _PLACEHOLDER.fullmatch(text):
        return "a password"
    return ""
