"""Data Docs as a test reads them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """Tags, addresses and text of one page of a site."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.tags, self.links, self.words = path, set[str](), list[str](), list[str]()
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        if self.lasttag != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """Return the readable text, with single blanks."""
        return " ".join(" ".join(self.words).split())


def pages(docs: Path) -> list[Page]:
    """All pages of a site."""
    return [Page(path) for path in sorted(docs.rglob("*.html"))]


def result_page(docs: Path, name: str) -> Page:
    """The page of one table, by its headline."""
    (found,) = (page for page in pages(docs / "validations") if page.text.partition(" · ")[0].strip() == name)
    return found
