"""Masking of secrets in text that people read: log lines, error messages, command output.

Characters that are no text are made visible there, too: those that a terminal carries out, and those that let text run in
another direction than it is written in, as in Unicode's "Trojan Source".
"""

from __future__ import annotations

import re

_PATTERNS = (
    # user:password@ in a URL, up to the last @: an unencoded password may hold one, and a slash.
    (re.compile(r"(://[^/\s:@'\"]*:)[^\s'\"<>]*(@)"), r"\1***\2"),
    (  # also as DB_PASSWORD=, hashed_password: and "password": in JSON, and when the value is cut off
        re.compile(
            r"(?i)((?:password|passwd|pwd|secret|token|api[_-]?key)[\w-]{0,30}['\"]?\s*[=:]\s*)"
            r"('[^'\n]*(?:'|$)|\"(?:[^\"\\\n]|\\.)*(?:\"|$)|[^\s,;&]+)",
            re.MULTILINE,
        ),
        r"\1***",
    ),
    (re.compile(r"\bgAAAA[A-Za-z0-9_\-=]{20,}"), "***"),  # Fernet tokens
    # Slack webhooks, also behind another host; a folder named "services" is not one.
    (re.compile(r"(hooks\.slack(?:-gov)?\.com/\w+/)[^\s'\"<>]+"), r"\1***"),
    (re.compile(r"(/services/)T\w*/B\w*(?:/\w*)?"), r"\1***"),
    (re.compile(r"(?i)\b(authorization:?\s+(?:basic|bearer)\s+)\S+"), r"\1***"),
)


_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def mask(text: str) -> str:
    """Replace everything in a text that looks like a secret by ``***``, and make it ``visible``."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return visible(text)


def visible(text: str) -> str:
    """Write control characters and overrides of direction as a backslash and their number; tabs and new lines stay."""
    return _NO_TEXT.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def visible_json(text: str) -> str:
    """Write the same characters in a document of JSON as its escapes, so that it is equal and harmless where it is shown."""
    return _NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """Return a text from outside as one line, so that it cannot pass for a line of ours, and make it ``visible``."""
    return visible(" ".join(text.split()))
