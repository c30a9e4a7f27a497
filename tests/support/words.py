"""Phrases that the project's texts do not use, and the search for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from include.cutover.places import ROOT
from tests.support.documents import PAGES

PHRASES = ("is told", "are told", "looked at", "put aside", "needs a look", "is not through", "as good as", "whoever")
OPENINGS = ("What", "Whether", "Who", "Nobody")
"""A sentence of a docstring or document begins with none of these, unless it is a question."""

_PHRASE = re.compile("|".join(rf"\b{phrase.replace(' ', chr(92) + 's+')}\b" for phrase in PHRASES), re.IGNORECASE)
_OPENING = re.compile(rf"(?:{'|'.join(OPENINGS)})\b")
_MARKER = re.compile(r"\s*(?:[-*>]|\d+\.|#+)\s+")  # of a list item, a quotation or a heading
_ENTRY = re.compile(r"\s+\*{0,2}\w+(?: \([^)]*\))?: ")  # of Args, Attributes, Raises


@dataclass(frozen=True)
class Text:
    """A piece of a file.

    Attributes:
        line: Number of its first line in the file, from 1.
        sentences: True where it consists of sentences, so that their openings are checked too.
        last: Number of its last line, where a line break may be written as an escape.
    """

    file: Path
    line: int
    text: str
    sentences: bool
    last: int | None = None

    def line_at(self, offset: int) -> int:
        """Return the number of the line in the file."""
        line = self.line + self.text.count("\n", 0, offset)
        return line if self.last is None else min(line, self.last)


def of_page(file: Path) -> Iterator[Text]:
    """Yield the parts of a Markdown page; code blocks hold no sentences."""
    line = 1
    parts = re.split(r"(^```.*?^```)", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for number, part in enumerate(parts):
        yield Text(file, line, part, sentences=number % 2 == 0)
        line += part.count("\n")


def of_module(file: Path) -> Iterator[Text]:
    """Yield the docstrings and the other string literals of a Python file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = set()
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                docstrings.add(statement.value)  # of a module, class or function, or of the value above it
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Text(file, node.lineno, node.value, sentences=node in docstrings, last=node.end_lineno)


def texts() -> Iterator[Text]:
    """Yield every text that people read: documents, docstrings, literals, templates, plans."""
    for page in PAGES:
        yield from of_page(page)
    for folder in ("include", "dags", "plugins"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield from of_module(file)
    for folder in ("bench", "examples", "scripts", "tests"):  # literals are data there
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield from (text for text in of_module(file) if text.sentences)
    for file in [*sorted((ROOT / "include").rglob("*.j2")), *sorted((ROOT / "include" / "plans").rglob("*.yaml"))]:
        yield Text(file, 1, file.read_text(encoding="utf-8"), sentences=False)


def shown(file: Path) -> Path:
    """Return a path as messages show it: below the project's root where it lies there."""
    return file.relative_to(ROOT) if file.is_relative_to(ROOT) else file


def faults(text: Text) -> list[str]:
    """Return what the text says against the list: file, line and phrase of each."""
    place = shown(text.file)
    found = [(hit.start(), " ".join(hit[0].split())) for hit in _PHRASE.finditer(text.text)]
    if text.sentences:
        found += [(at, f"{sentence.split()[0]} … at the beginning of a sentence") for at, sentence in _sentences(text.text)
                  if _OPENING.match(sentence) and not sentence.rstrip("*_)\"'”").endswith("?")]  # fmt: skip
    return [f"{place}:{text.line_at(at)}: {phrase}" for at, phrase in sorted(found)]


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield each sentence with its offset, without list markers and emphasis; rows of tables hold none."""
    for begin, paragraph in _paragraphs(text):
        at = 0
        for sentence in re.split(r"(?<=[.!?])[*_)\"']*\s+", paragraph):
            at = paragraph.index(sentence, at)
            yield begin + at, sentence.lstrip("*_(\"'“")
            at += len(sentence)


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    at, begin, lines = 0, 0, list[str]()
    for line in [*text.splitlines(keepends=True), "\n"]:
        marker = _MARKER.match(line) or _ENTRY.match(line)
        row, blank = line.lstrip().startswith("|"), not line.strip()
        if (marker or row or blank) and lines:
            yield begin, "".join(lines)
            lines = []
        if not row and not blank:
            skipped = marker.end() if marker else len(line) - len(line.lstrip()) if not lines else 0
            begin = begin if lines else at + skipped
            lines.append(line[skipped:])
            if line.rstrip().endswith(":") or line.lstrip().startswith("#"):
                yield begin, "".join(lines)
                lines = []
        at += len(line)
