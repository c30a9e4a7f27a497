"""The init job before it touches a database: what it refuses, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.cutover.accounts import first_start


@pytest.mark.parametrize("text", ["{", "[]", '{"lead": ""}', '{"lead": 7}', '"secret-text"'])
def test_invalid_passwords_are_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("CUTOVER_PASSWORDS", text)
    assert first_start.main() == 1
    said = capsys.readouterr().err
    assert "CUTOVER_PASSWORDS cannot be read" in said
    assert "secret-text" not in said


def test_without_a_valid_plan_no_account_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.yaml").write_text("name: [")
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path))
    assert first_start.main() == 1
    said = capsys.readouterr().err
    assert "no user gets rights on this plan's DAGs" in said
    assert "there is no valid plan" in said
