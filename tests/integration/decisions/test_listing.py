"""The listing of touched rows for people."""

from __future__ import annotations

from pathlib import Path

from tests.support.deciding import SECRET, carry_out, database, lines, plan_of, schema_of


def test_the_listing_shows_no_secret_and_little_of_anything_else(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE t (name TEXT PRIMARY KEY, token TEXT, note TEXT)",
        {"t": [(f"key {SECRET}", f"{SECRET}\0", "n" * 200 + "\0"), ("b", "c", "https://user:hunter2@host/\0")]},
    )
    strip = {"strip_nul": True}
    plan = plan_of({"t": {"secret": ["token", "name"], "columns": {"token": strip, "note": strip}}})
    decided = carry_out(place, snapshot, plan, schema_of({"t": {"name": "text!", "token": "text", "note": "text"}}))
    assert decided.listing is not None
    text = decided.listing.file.read_text()
    assert SECRET not in text and "hunter2" not in text and "***" in text
    long, _, token = lines(decided)
    assert long["was"] == "n" * 79 + "…" and long["before"] == "text of 201 characters"
    assert token["key"] == "name=***" and "was" not in token and "became" not in token
    assert token["after"] == f"text of {len(SECRET)} characters"
