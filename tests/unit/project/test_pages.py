"""The documents as a whole: length, links, paths, and lists that must equal the project's."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from include.cutover.places import ROOT
from tests.support.documents import PAGES, anchors, prose

CUTOVER = ROOT / "include" / "cutover"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
GLOSSARY = {
    "aftercare", "backup", "chunk", "claim", "clone", "deadline", "decision", "digest", "evidence", "fence", "freeze",
    "gate", "guard", "incident", "lease", "rehearsal", "release", "snapshot", "window",
}  # fmt: skip


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent == ROOT / "docs" and f"(docs/{page.name}" not in text] == []


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (
            anchor and (file.suffix != ".md" or anchor not in anchors(file.read_text(encoding="utf-8")))
        ):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_link_to_a_missing_file_or_heading_is_found() -> None:
    text = "[a](moon.md) [b](#moon) [c](docs/rollback.md#moon) [d](docs/rollback.md#by-hand) [e](https://example.org/x)"
    assert broken_links(ROOT / "README.md", text) == ["moon.md", "#moon", "docs/rollback.md#moon"]


def test_headings_of_a_page_have_the_anchors_of_github() -> None:
    assert anchors("# At 3 a.m.\n## `a`, b & c\n```\n# no heading\n```\n## 1. The plan\n## The plan\n## The plan\n") == {
        "at-3-am", "a-b--c", "1-the-plan", "the-plan", "the-plan-1"
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:include|tests|docs|dags|plugins|bench|examples|scripts)/[\w./-]+)`", page.read_text(encoding="utf-8")
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_documents_that_code_and_settings_name_exist() -> None:
    files = [ROOT / name for name in ("Makefile", "Dockerfile", "docker-compose.yaml", ".env.example", ".env.tasks.example")]
    for folder in ("include", "dags", "plugins", "scripts", "examples", "bench"):
        files += [file for suffix in ("py", "yaml", "j2", "env") for file in (ROOT / folder).rglob(f"*.{suffix}")]
    lost = []
    for file in files:
        named = re.findall(r"\bdocs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
        lost += [f"{file.relative_to(ROOT)}: {name}" for name in named if not (ROOT / name).is_file()]
    assert lost == []


def files_of(module: str) -> list[Path]:
    path = ROOT / module.replace(".", "/")
    return [path.with_suffix(".py"), path / "__main__.py"]


def test_paths_and_modules_that_the_containers_use_exist() -> None:
    text = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    paths = re.findall(r"/opt/project/([\w./-]+\.\w+)", text) + re.findall(r"(include/cutover/[\w./-]+)", text)
    modules = re.findall(r"include(?:\.\w+)+", text)
    assert any(path.endswith("log_in.py") for path in paths) and modules
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [name for name in modules if not any(file.is_file() for file in files_of(name))] == []


def test_every_package_has_its_line_in_the_architecture() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section(ARCHITECTURE, "Packages"), re.MULTILINE)
    packages = {folder.parent.name for folder in CUTOVER.glob("*/__init__.py")}
    assert Counter(listed) == Counter(packages)


def test_the_picture_shows_the_layers_of_the_contract() -> None:
    picture = section(ARCHITECTURE, "Packages").partition("```mermaid")[2].partition("```")[0]
    drawn = [set(layer.split(" ~~~ ")) for layer in re.findall(r"subgraph .*\n +(.*)\n", picture)]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    assert contract["layers"][0] == "__main__" and drawn[0] == {"dags", "plugins"}, "neither has a layer in the other"
    assert drawn[1:] == [set(re.split(r" [|:] ", layer)) for layer in contract["layers"][1:]]


def test_the_glossary_defines_every_word_once_and_in_order() -> None:
    words = re.findall(r"^\| (\w+) \|", section(ARCHITECTURE, "Glossary"), re.MULTILINE)[1:]
    assert words == sorted(GLOSSARY)


def test_decisions_have_consecutive_numbers() -> None:
    assert [file.name[:5] for file in DECISIONS] == [f"{number:04}-" for number in range(1, len(DECISIONS) + 1)]
