"""Nothing that looks like a secret gets through to a person's screen."""

from __future__ import annotations

import pytest

from include.cutover.masking import mask, one_line, visible


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("connect to postgresql://ward:hunter2@db:5432/ward_flux failed", "hunter2"),
        ("host=db password=hunter2 user=ward", "hunter2"),
        ("PASSWORD: 'hunter2'", "hunter2"),
        ("community gAAAAABnQ3Zk1234567890abcdefghijklmnop in row", "gAAAAABnQ3Zk"),
        ("POST https://hooks.slack.com/services/T000/B000/XXXX failed", "XXXX"),
        ("POST http://127.0.0.1:8080/services/T0/B0/XXXX failed", "XXXX"),
        ("POST https://hooks.slack.com/triggers/T000/1234/XXXX failed", "XXXX"),
        ("Authorization: Basic aHVudGVyMg==", "aHVudGVyMg"),
    ],
)
def test_secrets_are_masked(text: str, secret: str) -> None:
    masked = mask(text)
    assert secret not in masked and "***" in masked


def test_other_text_is_not_changed() -> None:
    text = "snmp_credentials.device_id: 3 rows point nowhere, keys 1f, 2e at http://127.0.0.1:5001/api, /srv/services/app"
    assert mask(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\u202eeslaf\u202c \u2066x\u2069", "\\u202eeslaf\\u202c \\u2066x\\u2069"),
        ("\x9b2J\x07\x00\u2028", "\\x9b2J\\x07\\x00\\u2028"),
        ("a\tb\nc\r\nd", "a\tb\nc\nd"),
        ("თბილისი, Tübingen, שלום, 😀", "თბილისი, Tübingen, שלום, 😀"),
    ],
)
def test_characters_that_are_no_text_are_shown(text: str, shown: str) -> None:
    assert visible(text) == mask(text) == shown


def test_text_from_outside_becomes_one_line() -> None:
    assert one_line("asked for\n# sealed: live\r\n\x1b[2J") == "asked for # sealed: live \\x1b[2J"
