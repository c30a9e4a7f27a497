"""HTML pages around a title and a body: short messages, and documents written in Markdown.

Titles, sentences and Markdown are escaped here; a body is HTML already.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

STYLE = (Path(__file__).parent / "pages.css").read_text(encoding="utf-8")


def page(title: str, body: str) -> str:
    """Return a whole HTML page; ``body`` is HTML already, ``title`` is text."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )


def message(title: str, *sentences: str) -> str:
    """Return a page with a title and some sentences."""
    return page(title, f"<h1>{escape(title)}</h1>" + "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences))


def document(title: str, markdown: str) -> str:
    """Return a page made from Markdown; HTML in it is shown as text, and unsafe addresses are not linked."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return page(title, f'<article class="document">{body}</article>')
