"""Reads the text of a CREATE TABLE statement of SQLite."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""(?P<blank>--[^\n]*|/\*.*?(?:\*/|\Z)|\s+)|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*')"""
    r"|(?P<word>[^\W\d][\w$]*)|(?P<other>.)",
    re.DOTALL,
)


def checks(create: str) -> list[tuple[str, str]]:
    """Return name (empty where it has none) and condition of every CHECK in a CREATE TABLE statement."""
    found: list[tuple[str, str]] = []
    tokens = [token for token in _TOKEN.finditer(create) if token.lastgroup != "blank"]
    words = [token.group().upper() if token.lastgroup == "word" else token.group() for token in tokens]
    at = 0
    while at < len(tokens):
        if words[at] == "CHECK" and tokens[at].lastgroup == "word" and words[at + 1 : at + 2] == ["("]:
            depth, end = 1, at + 2
            while depth and end < len(tokens):
                depth += {"(": 1, ")": -1}.get(words[end], 0)
                end += 1
            name = tokens[at - 1].group().strip('"`[]') if at > 1 and words[at - 2] == "CONSTRAINT" else ""
            inside = create[tokens[at + 1].end() : tokens[end - 1].start()]
            found.append((name, " ".join(inside.split())))
            at = end
        else:
            at += 1
    return found


def has_autoincrement(create: str) -> bool:
    """Return True for a table declared AUTOINCREMENT."""
    words = (token.group() for token in _TOKEN.finditer(create) if token.lastgroup == "word")
    return any(word.upper() == "AUTOINCREMENT" for word in words)
