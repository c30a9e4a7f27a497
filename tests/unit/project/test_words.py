"""Documents, docstrings, messages, templates and plans use none of the phrases that readers stumble over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.words import Text, faults, of_module, of_page, shown, texts


def test_no_text_uses_a_banned_phrase() -> None:
    found = [fault for text in texts() for fault in faults(text)]
    listed = "\n".join(found)
    assert not found, f"{len(found)} places; write the field's standard words in short active sentences:\n{listed}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The lead is told.", "1: is told"),
        ("It\nis\ntold.", "2: is told"),
        ("Everything was Looked at.", "1: Looked at"),
        ("A schema put aside.", "1: put aside"),
        ("One line.\n\nWhoever comes.", "3: Whoever"),
        ("Good.\nWhat it does is good.", "2: What … at the beginning of a sentence"),
        ("- **What it does** is good.", "1: What … at the beginning of a sentence"),
        ("Return a number.\n\n    Args:\n        name: Whether it is.", "4: Whether … at the beginning of a sentence"),
        ("Returns:\n    Whether it is.", "2: Whether … at the beginning of a sentence"),
        ("One. Nobody knows.", "1: Nobody … at the beginning of a sentence"),
        ("## Who may do it", "1: Who … at the beginning of a sentence"),
    ],
)
def test_a_banned_phrase_is_found_with_its_line(text: str, found: str) -> None:
    assert faults(Text(Path("a.md"), 1, text, sentences=True)) == [f"a.md:{found}"]


@pytest.mark.parametrize(
    "text",
    [
        "What is it?",
        "One. Who may\nanswer the gate? The lead.",
        "**What now?** Go on.",
        "| What it does | Who |\n|---|---|",
        "It reports what it found. Whole files. Whatever.",
        "`test_goes_with_whoever_uses_it`",
    ],
)
def test_questions_headings_of_tables_and_names_are_allowed(text: str) -> None:
    assert faults(Text(Path("a.md"), 1, text, sentences=True)) == []


def test_literals_and_docstrings_of_a_module_are_searched(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    place = shown(file)
    file.write_text('"""Good.\n\nWhat is bad.\n"""\n\nERROR = f"{1} as good as {2}"\nQUESTION = "What follows"\n')
    assert [fault for text in of_module(file) for fault in faults(text)] == [
        f"{place}:3: What … at the beginning of a sentence",
        f"{place}:6: as good as",
    ]


def test_code_blocks_hold_no_sentences_and_lines_are_counted_across_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    place = shown(page)
    page.write_text("# A\n\n```\nWhat comes\n```\n\nThe lead is told.\n")
    assert [fault for text in of_page(page) for fault in faults(text)] == [f"{place}:7: is told"]
