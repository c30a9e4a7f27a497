"""Masking of secrets in text that people read: log lines, error messages, command output."""

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


def mask(text: str) -> str:
    """Replace everything in a text that looks like a secret by ``***``."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
