"""A folder of configuration to archive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A configuration as they are: a secret, links in and out, a repository, odd names and modes."""
    tree, outside = tmp_path / "etc", tmp_path / "outside"
    for folder in (tree / "repository" / ".git", outside):
        folder.mkdir(parents=True)
    (outside / "of others").write_text("not ours")
    for name, content, mode in (
        (".env", "SECRET_KEY=hunter2\n", 0o600),
        ("repository/.git/HEAD", "ref: refs/heads/main\n", 0o644),
        ("repository/run.sh", "#!/bin/sh\n", 0o755),
        ("empty", "", 0o640),
        ("name with blanks and ქართული", "x" * 100_000, 0o444),
    ):
        path = tree / name
        path.write_text(content)
        path.chmod(mode)
    (tree / "to a file").symlink_to(".env")
    (tree / "to others").symlink_to(outside)
    (tree / "to nowhere").symlink_to("/nowhere")
    (tree / "repository").chmod(0o750)
    if os.geteuid() == 0:
        os.chown(tree / ".env", 12_345, 23_456)
    return tree
