"""The static site of Data Docs that a stage leaves in its folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.cutover.errors import CannotCheck
from include.cutover.proof.evaluation import Package


@dataclass(frozen=True)
class DocsSite:
    """Where the Data Docs of a stage go, and the facts on top of every page.

    Attributes:
        folder: Of this stage's site alone.
        task_log_url: Link to the task's log.
        about: Application and run.
    """

    folder: Path
    task_log_url: str | None = None
    about: str = ""


def link(url: str | None) -> str:
    """Return the address when a page may link to it, else nothing."""
    return url if url and re.match(r"(?:https?://|/(?!/))[^\s<>\"]+$", url) else ""


def clear(docs: Path) -> None:
    """Remove the site that an earlier attempt left, and only that."""
    for name in ("validations", "expectations", "static"):
        shutil.rmtree(docs / name, ignore_errors=True)
    (docs / "index.html").unlink(missing_ok=True)
    docs.mkdir(parents=True, exist_ok=True)


def build(gx: Package, context: Any, docs: Path, stage: Mapping[str, Any]) -> None:
    """Write the site with Great Expectations and the renderers of this project.

    Args:
        gx: Great Expectations.
        context: The context with the results.
        docs: Folder of the site.
        stage: The content of the pages; see ``validation_site.StartPage``.
    """
    place = {"module_name": "include.cutover.proof.validation_site"}
    look = {"view": {**place, "class_name": "Page"}}
    try:
        gx.SiteBuilder(
            data_context=context,
            site_name=stage["heading"],
            show_how_to_buttons=False,
            store_backend={
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(docs),
                "suppress_store_backend_id": True,
            },
            site_index_builder={
                "class_name": "DefaultSiteIndexBuilder",
                "renderer": {**place, "class_name": "StartPage", "stage": stage},
                **look,
            },
            site_section_builders={
                "expectations": "none",  # each result contains its expectation
                "profiling": "none",
                "validations": {"renderer": {**place, "class_name": "ResultPage", "stage": stage}, **look},
            },
        ).build()
    except OSError as error:
        raise _incomplete(docs, str(error)) from None


def finish(docs: Path, validations: int) -> None:
    """Remove the fonts and pictures that no page uses, and verify that every page is there.

    Great Expectations only logs what it could not write.
    """
    shutil.rmtree(docs / "static", ignore_errors=True)
    written = sum(1 for _ in (docs / "validations").rglob("*.html"))
    index = docs / "index.html"
    if written != validations or not index.is_file() or not index.stat().st_size:
        raise _incomplete(docs, f"{written} of {validations} results")


def _incomplete(docs: Path, found: str) -> CannotCheck:
    return CannotCheck(
        "the Data Docs are not complete",
        where=str(docs),
        expected="a page for every result, and their index",
        found=found,
        do="Check the log for files that could not be written, and the disk's free space; then run the step again.",
    )
