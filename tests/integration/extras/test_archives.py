"""Archives of files and folders: whole and verified, or with every missing file named."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from include.cutover import files
from include.cutover.errors import Refused, StepFailed
from include.cutover.extras import archives
from include.cutover.places import ROOT
from tests.support.full_disk import small_disk


def described(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a folder: type, mode, owner, time, and content or where a link leads."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""  # noqa: PTH115
        owner = (status.st_uid, status.st_gid)
        found[str(path.relative_to(folder))] = (status.st_mode, *owner, int(status.st_mtime), content)
    return found


def test_an_archive_brings_back_what_was_there(tree: Path, tmp_path: Path) -> None:
    to = tmp_path / "configuration.tar.gz"
    to.write_bytes(b"left by a killed attempt")
    found = archives.write([tree], to)
    assert (found.problems, found.entries) == ((), 11)
    assert (found.bytes, found.sha256) == (to.stat().st_size, files.digest(to))
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    with tarfile.open(to) as tar:
        # Early releases of Python 3.11 have no filters, and extract everything.
        tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        tar.extractall(tmp_path / "back")
        assert not any("of others" in name for name in tar.getnames()), "a link that leads out was followed"
    assert described(tmp_path / "back" / str(tree).lstrip("/")) == described(tree)


def test_files_that_cannot_be_archived_are_named_and_the_rest_is_kept(tree: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
    os.mkfifo(tree / "pipe")
    growing = Path("/proc/self/stat")  # has no size before it is read
    found = archives.write([tree, tmp_path / "absent", growing], tmp_path / "a.tar.gz")
    assert found.problems == (
        f"{tree}/pipe: not a file, folder or link",
        f"{tree}/socket: not a file, folder or link",
        f"{tmp_path}/absent: No such file or directory",
        f"{growing}: it changed while it was read",
    )
    assert found.entries == 12


def test_files_without_read_permission_are_named(tree: Path, tmp_path: Path) -> None:
    (tree / "repository").chmod(0)
    script = "import json, sys; from pathlib import Path; from include.cutover.extras import archives\n"
    script += (
        "found = archives.write([Path(sys.argv[1])], Path(sys.argv[2])); print(json.dumps([found.problems, found.entries]))"
    )
    rights = "-dac_override,-dac_read_search"  # with them root reads everything
    as_anybody = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*as_anybody, sys.executable, "-c", script, str(tree), str(tmp_path / "a.tar.gz")],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    problems, entries = json.loads(done.stdout)
    named = [f"{tree}/repository: Permission denied"]
    if os.geteuid() == 0:  # then it belongs to somebody else
        named.append(f"{tree}/.env: Permission denied")
    assert sorted(problems) == sorted(named)
    assert entries == 9 - len(named)


def test_backups_and_the_database_do_not_get_into_an_archive(tree: Path, tmp_path: Path) -> None:
    backups = tree / "data" / "backups"
    backups.mkdir(parents=True)
    (tree / "data" / "app.db").write_text("the backup has it")
    (tree / "link to the database").symlink_to("data/app.db")
    found = archives.write([tree], backups / "a.tar.gz", but=[backups, tree / "data" / "app.db"])
    with tarfile.open(backups / "a.tar.gz") as tar:
        names = [name.removeprefix(str(tree).lstrip("/")) for name in tar.getnames()]
    assert found.problems == () and "/data" in names and "/link to the database" in names
    assert not [name for name in names if name.startswith(("/data/app.db", "/data/backups"))]


def test_archive_that_does_not_read_back_is_removed(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = tmp_path / "a.tar.gz"
    archives.write([tree], to)
    whole, fsync = to.read_bytes(), os.fsync
    for damage in (whole[:-20], whole[: len(whole) // 2], whole[:200] + b"\xff" + whole[201:]):

        def on_a_broken_disk(descriptor: int, damage: bytes = damage) -> None:
            fsync(descriptor)
            to.write_bytes(damage)

        monkeypatch.setattr(os, "fsync", on_a_broken_disk)
        with pytest.raises(StepFailed, match="does not read back"):
            archives.write([tree], to)
        assert not to.exists()


def test_too_little_room_for_an_archive_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "large").write_bytes(os.urandom(6 << 20))
    with small_disk(tmp_path / "small", 8) as place, pytest.raises(Refused, match="not enough free disk"):
        archives.write([tree], place / "a.tar.gz")
