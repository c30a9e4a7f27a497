"""Nothing that looks like a secret gets through to a person's screen."""

from __future__ import annotations

import pytest

from include.cutover.masking import mask


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
